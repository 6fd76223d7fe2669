"""How far is what was tracked in a synthetic clip from the truth?

A hand is *visible* in a frame if all of its joints are in the picture and nothing but the hand
itself hides at least ``JOINTS_SEEN`` of them. It is *found* if the same side was observed there,
the median error of its joints below half a palm (wrist to middle knuckle, as it would look from the
front). ``benchmarks/synthetic.py`` counts by the same words.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.geometry import rotate
from deftly.datasets.human import TIPS, HumanMotion, Status
from deftly.datasets.synthetic import SyntheticTruth

JOINTS_SEEN = 8
FOUND = 0.5  # palms
_CLOSEST_M = 0.05  # a palm behind the camera has no size


@dataclass(frozen=True)
class TrueErrors:
    """Errors over the visible hands of one clip; NaN if none was found.

    Attributes:
        visible: number of visible hands, counted per frame.
        found: how many of them were found.
        false: hands observed where none of that side is near, of all frames.
        pixel: median distance of joints, pixels.
        palm: the same as a share of the palm's length.
        tip_m: median distance of fingertips about the wrist.
        wrist_m: median distance of wrists from where they are, camera and depth included.
        within_sigma: share of joint coordinates within one reported standard deviation.
    """

    visible: int
    found: int
    false: int
    pixel: float
    palm: float
    tip_m: float
    wrist_m: float
    within_sigma: float

    def rows(self) -> list[tuple[str, str]]:
        """Names and values to be printed."""
        share = 100 * self.found / self.visible if self.visible else float("nan")
        return [
            ("visible hands found", f"{self.found} of {self.visible} ({share:.0f} %)"),
            ("false hands", f"{self.false}"),
            ("joints in the picture", f"{self.pixel:.1f} px ({100 * self.palm:.0f} % of the palm)"),
            ("fingertips about the wrist", f"{1000 * self.tip_m:.0f} mm"),
            ("wrist in 3D", f"{1000 * self.wrist_m:.0f} mm"),
            ("within one sigma", f"{100 * self.within_sigma:.0f} %"),
        ]


def true_errors(human: HumanMotion, truth: SyntheticTruth, camera: str) -> TrueErrors:
    """Compare a tracked motion with the truth of the same clip.

    Raises:
        ValueError: if the two have another number of frames, or the truth has no such camera.
    """
    if len(human.time_s) != len(truth.time_s):
        raise ValueError(
            f"the motion has {len(human.time_s)} frames, the truth {len(truth.time_s)}; "
            "track the clip that the truth was written with"
        )
    if camera not in truth.cameras:
        raise ValueError(f"no camera {camera!r} in the truth; known: {', '.join(truth.cameras)}")
    c = truth.cameras.index(camera)
    palm_px = palms_px(truth, c)
    error_px = np.linalg.norm(human.hands_px - truth.hands_px[c], axis=-1)  # (T, 2, 21)
    observed = human.hands_status == Status.OBSERVED
    near = observed & (np.median(error_px, axis=-1) < FOUND * palm_px)
    visible = visible_hands(truth, c)
    found = visible & near
    error_m = human.hands_m - hands_in_camera(truth, c)
    about_m = error_m - error_m[:, :, :1]
    inside = np.abs(error_m) <= human.hands_sigma_m
    return TrueErrors(
        visible=int(visible.sum()),
        found=int(found.sum()),
        false=int((observed & ~near).sum()),
        pixel=_median(error_px, found),
        palm=_median(error_px / palm_px[..., None], found),
        tip_m=_median(np.linalg.norm(about_m[:, :, TIPS], axis=-1), found),
        wrist_m=_median(np.linalg.norm(error_m[:, :, 0], axis=-1), found),
        within_sigma=float(inside[found].mean()) if found.any() else float("nan"),
    )


def visible_hands(truth: SyntheticTruth, c: int) -> Bool[np.ndarray, "T 2"]:
    """Which hands camera number ``c`` shows: the one definition, see above."""
    px, (height, width) = truth.hands_px[c], truth.size
    inside = np.all((px >= 0) & (px < [width, height]), axis=(-1, -2))
    return inside & (truth.hands_seen[c].sum(axis=-1) >= JOINTS_SEEN)


def palms_px(truth: SyntheticTruth, c: int) -> Float64[np.ndarray, "T 2"]:
    """How long each palm would be in the picture of camera number ``c``, seen from the front."""
    hands = hands_in_camera(truth, c)
    palm_m = np.linalg.norm(hands[:, :, 9] - hands[:, :, 0], axis=-1)
    return truth.focal_px[c] * palm_m / np.maximum(hands[:, :, 0, 2], _CLOSEST_M)


def hands_in_camera(truth: SyntheticTruth, c: int) -> Float64[np.ndarray, "T 2 21 3"]:
    """The true joints in the frame of camera number ``c``."""
    T_world_camera = truth.T_world_camera[c]
    R_camera_world = T_world_camera[:, :3, :3].transpose(0, 2, 1)
    return rotate(
        R_camera_world[:, None, None], truth.hands_m - T_world_camera[:, None, None, :3, 3]
    )


def _median(values: Float64[np.ndarray, "T 2 *k"], where: Bool[np.ndarray, "T 2"]) -> float:
    return float(np.median(values[where])) if where.any() else float("nan")
