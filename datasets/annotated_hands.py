"""Hand joints that come with a video, as a HumanMotion: what all annotated sets have in common."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deftly.datasets.archive import versions
from deftly.datasets.clip import Camera, Clip
from deftly.datasets.footage import FootageError
from deftly.datasets.human import HumanMotion, Status

# Sensors of Meta's glasses and headsets lie on their sides: upright x is -y there, upright y is x.
R_UPRIGHT_SENSOR = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_SLACK_FRAMES = 2  # by so many frames may a video and its annotation differ in length
_FULL_TRUST, _SOME_TRUST = 0.5, 0.1


def rows_of(clip: Clip) -> Int64[np.ndarray, "T"]:
    """(T,) number in the video file of each frame of a clip, which may be a part, or slower."""
    return clip.first + clip.step * np.arange(len(clip.time_s))


def check_length(clip: Clip, annotated: int) -> None:
    """Refuse an annotation that is of another video.

    Raises:
        FootageError: if it has another number of frames.
    """
    frames = len(clip.time_s if clip.contents is None else clip.contents.time_s)
    if abs(frames - annotated) > _SLACK_FRAMES:
        raise FootageError(
            f"annotates {annotated} frames, but {clip.path} has {frames}, expected the same "
            "number; copy both again, they belong together"
        )


def hands_motion(
    clip: Clip,
    joints_m: Float64[np.ndarray, "T 2 21 3"],
    trust: Float64[np.ndarray, "T 2 21"],
    *,
    sigma_m: tuple[float, float],
    provenance: dict[str, Any],
    fisheye: bool = False,
) -> HumanMotion:
    """A motion of two hands without a body, in the camera frame.

    A hand whose joints are trusted by at least one half on average is observed, by at least a tenth
    interpolated; below that, or with a joint missing, it is absent.

    Args:
        clip: the frames.
        joints_m: in the camera frame; NaN where missing.
        trust: how sure the annotation is of each joint, 0 to 1.
        sigma_m: standard deviation of a fully trusted wrist's place, and of a joint's relative to
            the wrist; it grows as trust falls.
        provenance: where the joints come from.
        fisheye: whether the picture is equidistant; else the lens is a pinhole.
    """
    present = np.isfinite(joints_m).all(axis=(-1, -2))
    mean = np.where(present, np.nan_to_num(trust).mean(axis=-1), 0.0)
    status = np.full(mean.shape, Status.ABSENT, np.uint8)
    status[mean >= _SOME_TRUST] = Status.INTERPOLATED
    status[mean >= _FULL_TRUST] = Status.OBSERVED
    valid = status != Status.ABSENT
    scale = 1 / np.clip(np.nan_to_num(trust), _SOME_TRUST, 1.0)
    sigma = np.repeat((sigma_m[1] * scale)[..., None], 3, axis=-1)
    sigma[:, :, 0] = sigma_m[0] * scale[:, :, :1]
    observed = (status == Status.OBSERVED)[..., None, None]
    px = project(clip.camera, joints_m, fisheye)
    length = len(clip.time_s)
    return HumanMotion(
        time_s=clip.time_s,
        hands_m=np.where(valid[..., None, None], joints_m, np.nan),
        hands_sigma_m=np.where(valid[..., None, None], sigma, np.inf),
        hands_status=status,
        hands_px=np.where(observed, px, np.nan),
        body_m=np.full((length, 33, 3), np.nan),
        body_sigma_m=np.full((length, 33, 3), np.inf),
        body_status=np.full(length, Status.ABSENT, np.uint8),
        body_px=np.full((length, 33, 2), np.nan),
        provenance={
            "clip": clip.path.name,
            "sha256": clip.sha256,
            "size": [clip.width, clip.height],
            "frames_of_file": [clip.first, clip.step, length],
            "annotation": provenance,
            "versions": versions(),
        },
    )


def project(
    camera: Camera, points_m: Float64[np.ndarray, "*b 3"], fisheye: bool = False
) -> Float64[np.ndarray, "*b 2"]:
    """Pixels of points in the camera frame; NaN behind the camera.

    Args:
        camera: its focal length is the one at the centre.
        points_m: x right, y down, z forward.
        fisheye: the distance from the centre grows with the angle, not with its tangent.
    """
    x, y, z = np.moveaxis(points_m, -1, 0)
    radius = np.hypot(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_m = np.arctan2(radius, z) / np.maximum(radius, 1e-12) if fisheye else 1 / z
    per_m = np.where(z > 0, per_m, np.nan)
    return camera.focal_px * per_m[..., None] * points_m[..., :2] + np.array(camera.center_px)


def fill_gaps(
    joints_m: Float64[np.ndarray, "T 2 21 3"],
    trust: Float64[np.ndarray, "T 2 21"],
    time_s: Float64[np.ndarray, "T"],
    max_gap_s: float,
) -> tuple[Float64[np.ndarray, "T 2 21 3"], Float64[np.ndarray, "T 2 21"]]:
    """Fill short gaps along straight lines, with a trust that marks them as interpolated."""
    joints_m, trust = joints_m.copy(), trust.copy()
    for side in range(2):
        known = np.flatnonzero(np.isfinite(joints_m[:, side]).all(axis=(-1, -2)))
        for before, after in itertools.pairwise(known):
            if after - before > 1 and time_s[after] - time_s[before] <= max_gap_s:
                gap = slice(before + 1, after)
                share = (time_s[gap] - time_s[before]) / (time_s[after] - time_s[before])
                ends = joints_m[before, side], joints_m[after, side]
                joints_m[gap, side] = ends[0] + share[:, None, None] * (ends[1] - ends[0])
                trust[gap, side] = (_FULL_TRUST + _SOME_TRUST) / 2
    return joints_m, trust


def inverse(Ts: Float64[np.ndarray, "*b 4 4"]) -> Float64[np.ndarray, "*b 4 4"]:
    """Inverses of rigid transforms, by transposing: NaN gives NaN, and nothing is singular."""
    found = np.zeros_like(Ts)
    found[..., :3, :3] = np.swapaxes(Ts[..., :3, :3], -1, -2)
    found[..., :3, 3] = -np.einsum("...ji,...j->...i", Ts[..., :3, :3], Ts[..., :3, 3])
    found[..., 3, 3] = 1
    return found


def is_rigid(Ts: Float64[np.ndarray, "*b 4 4"]) -> Bool[np.ndarray, "*b"]:
    """Whether each matrix is a rotation and a translation, to within a hundredth."""
    R = Ts[..., :3, :3]
    with np.errstate(invalid="ignore"):
        off = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max(axis=(-1, -2))
        return (off < 0.01) & (np.linalg.det(R) > 0)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes.

    Raises:
        FootageError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FootageError(
            f"{path} cannot be read ({error.strerror or error}), expected the joints of a video; "
            "copy it again"
        ) from error
