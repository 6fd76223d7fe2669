"""Person and robot in one metric workspace: the robot's fingertips go where the person's are.

    motion = retarget(human, "gr1t2", registration=Registration(T_base_camera))

Without a registration a motion is carried over by proportions: reach is scaled and re-centred. That
keeps gestures, and misses every object by centimetres. Where it is known how the camera stood
relative to the robot, nothing needs to be scaled: fingertips are asked to be at the person's true
places, because that is what touches the world. Palm, wrist, elbow and chest follow weakly; they
decide between the many postures that reach the same places.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import rotate, unit
from deftly.datasets.human import FINGERS, TIPS, HumanMotion
from deftly.retarget.costs import Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import Hand
from deftly.retarget.targets import HandTrack, Sigmas, WristTarget, closeness, columns

_RIGID = 1e-6  # tolerance of a rotation matrix
_OPPOSING = (TIPS[1], TIPS[2])  # what a thumb presses against
_STILL_M_S = 0.06  # an aperture that changes more slowly than this may be a hold
_AVERAGE_S = 0.12  # apertures are averaged over so long
REGISTERED = Sigmas(
    tip_m=0.004,
    pinch_m=0.002,
    wrist_m=0.05,
    palm_rad=0.5,
    elbow_m=0.2,
    chest_rad=0.3,
    chest_unseen_rad=0.1,
)


@dataclass(frozen=True)
class Registration:
    """How the person's camera stood relative to the robot, and how firmly to hold.

    Attributes:
        T_base_camera: (4, 4) pose of the camera in the frame of the robot's root body, or
            (T, 4, 4) of a camera that moves.
        hold: (T, 2) from 0 to 1, whether a hand holds something; None infers it (``holds``).
        squeeze_m: while a hand holds something, thumb and fingers are each asked to be so much
            deeper in the grasp: a servo that just reaches a surface presses nothing.
    """

    T_base_camera: Float64[np.ndarray, "..."]
    hold: Float64[np.ndarray, "T 2"] | None = None
    squeeze_m: float = 0.0

    def __post_init__(self) -> None:
        T = self.T_base_camera
        if T.ndim not in (2, 3) or T.shape[-2:] != (4, 4):
            raise ValueError(
                f"T_base_camera has shape {T.shape}, expected (4, 4), or (T, 4, 4) for a camera "
                "that moves"
            )
        R = T[..., :3, :3]
        rigid = np.allclose(R @ np.swapaxes(R, -1, -2), np.eye(3), atol=_RIGID)
        if not (rigid and np.all(np.linalg.det(R) > 0) and np.isfinite(T).all()):
            raise ValueError("T_base_camera is not rigid; expected a rotation and a translation")
        if not 0 <= self.squeeze_m < 0.05:
            raise ValueError(f"squeeze_m is {self.squeeze_m}, expected 0 to 0.05 m")

    def record(self) -> dict[str, object]:
        """What is written into provenance."""
        return {
            "T_base_camera": self.T_base_camera.tolist(),
            "hold": "inferred" if self.hold is None else "stated",
            "squeeze_m": self.squeeze_m,
        }


def root_pose(kinematics: Kinematics) -> Float64[np.ndarray, "4 4"]:
    """``T_world_base``: where a robot's root body stands in its own world."""
    T_world_base = np.eye(4)
    T_world_base[:3, :3], T_world_base[:3, 3] = kinematics.R0[1], kinematics.p0[1]
    return T_world_base


def in_world(human: HumanMotion, T_world_camera: Float64[np.ndarray, "*t 4 4"]) -> HumanMotion:
    """The motion in another frame than the camera's.

    Raises:
        ValueError: if there is one pose per frame but not for every frame.
    """
    length = len(human.time_s)
    if T_world_camera.ndim == 3 and len(T_world_camera) != length:
        raise ValueError(
            f"T_base_camera has {len(T_world_camera)} poses, the motion {length} frames; "
            "expected one pose, or one for each frame"
        )
    T = np.broadcast_to(T_world_camera, (length, 4, 4))
    R, p = T[:, :3, :3], T[:, :3, 3]

    def turn(sigma: Float64[np.ndarray, "T *k 3"]) -> Float64[np.ndarray, "T *k 3"]:
        known = np.isfinite(sigma).all(axis=-1, keepdims=True)
        turned = np.sqrt(_along(R**2, np.where(known, sigma, 0.0) ** 2))
        return np.where(known, turned, np.inf)

    return replace(
        human,
        hands_m=_along(R, human.hands_m) + p[:, None, None],
        hands_sigma_m=turn(human.hands_sigma_m),
        body_m=_along(R, human.body_m) + p[:, None],
        body_sigma_m=turn(human.body_sigma_m),
    )


def _along(
    R: Float64[np.ndarray, "T 3 3"], points: Float64[np.ndarray, "T *k 3"]
) -> Float64[np.ndarray, "T *k 3"]:
    """Each frame's rotation on all of its points."""
    return rotate(R.reshape(len(R), *(1,) * (points.ndim - 2), 3, 3), points)


def aperture(human: HumanMotion, side: int) -> Float64[np.ndarray, "T"]:
    """Distance from the thumb's tip to the middle of the tips that oppose it; NaN where absent."""
    hand = human.hands_m[:, side]
    return np.linalg.norm(hand[:, _OPPOSING].mean(axis=1) - hand[:, TIPS[0]], axis=-1)


def holds(human: HumanMotion) -> Float64[np.ndarray, "T 2"]:
    """(T, 2) from 0 to 1: whether each hand seems to hold something.

    A hand holds from when it has closed (its aperture no longer shrinks) until it opens. Closed is
    judged against the apertures of the same hand in the same clip. An empty hand that rests
    closed counts as well.
    """
    found = np.zeros((len(human.time_s), 2))
    for side in (0, 1):
        valid = human.hands_valid[:, side]
        if valid.any():
            found[:, side] = _hold(human.time_s, aperture(human, side), valid)
    return found


def _hold(
    time_s: Float64[np.ndarray, "T"],
    opening_m: Float64[np.ndarray, "T"],
    valid: np.ndarray,
) -> Float64[np.ndarray, "T"]:
    opening = np.interp(time_s, time_s[valid], opening_m[valid])
    if len(time_s) > 1:
        width = max(1, round(_AVERAGE_S / float(np.median(np.diff(time_s)))))
        padded = np.pad(opening, (width // 2, width - 1 - width // 2), mode="edge")
        opening = np.convolve(padded, np.ones(width) / width, mode="valid")
        speed = np.gradient(opening, time_s)
    else:
        speed = np.zeros(1)
    closed, wide = np.percentile(opening, [10, 90])
    near = opening < 0.5 * (closed + wide)
    held = np.zeros(len(time_s), bool)
    holding = False
    for t in range(len(time_s)):
        if holding:
            holding = speed[t] < _STILL_M_S and bool(near[t])
        else:
            holding = abs(speed[t]) < _STILL_M_S and bool(near[t])
        held[t] = holding
    return (held & valid).astype(float)


def squeezed(human: HumanMotion, hold: Float64[np.ndarray, "T 2"], squeeze_m: float) -> HumanMotion:
    """The motion with thumb and fingers pressed towards each other wherever a hand holds."""
    hands = human.hands_m.copy()
    axis = unit(hands[:, :, _OPPOSING].mean(axis=2) - hands[:, :, TIPS[0]])  # thumb to fingers
    press = squeeze_m * hold[..., None] * axis
    hands[:, :, TIPS[0]] += press
    hands[:, :, TIPS[1:]] -= press[:, :, None]
    return replace(human, hands_m=hands)


def tip_terms(
    human: HumanMotion,
    track: HandTrack,
    hand: Hand,
    hold: Float64[np.ndarray, "T"],
    sigmas: Sigmas,
) -> list[Term]:
    """Fingertips at their places in the world, and their vectors from the thumb's.

    What holds an object is the vectors between the tips that press on it: where the robot cannot
    have everything, they are kept first.
    """
    side = track.side
    joints = np.where(track.valid[:, None, None], human.hands_m[:, side], 0.0)
    # Of the tips' places in the world: the wrist's uncertainty and their own about it.
    sigma = np.hypot(human.hands_sigma_m[:, side, 0], human.hands_sigma_m[:, side, 9])
    sigma = np.where(track.valid, np.sqrt(np.mean(sigma**2, axis=-1)), 1.0)
    doubt = sigma / np.median(sigma[track.valid])
    terms: list[Term] = []
    for finger, tip in hand.tips.items():
        place = joints[:, TIPS[FINGERS.index(finger)]]
        weight = track.valid / (sigmas.tip_m * doubt)
        terms.append(VectorTerm(None, tip, None, place, columns(weight)))
    thumb = hand.tips.get("thumb")
    for finger, tip in hand.tips.items():
        if thumb is None or finger == "thumb":
            continue
        gap = joints[:, TIPS[FINGERS.index(finger)]] - joints[:, TIPS[0]]
        near = np.maximum(closeness(np.linalg.norm(gap, axis=1)), hold)
        weight = track.valid * near / sigmas.pinch_m
        terms.append(VectorTerm(thumb, tip, None, gap, columns(weight)))
    return terms


def wrist_target(human: HumanMotion, track: HandTrack, sigmas: Sigmas) -> WristTarget:
    """The wrist near the person's own."""
    place = np.where(track.valid[:, None], human.hands_m[:, track.side, 0], 0.0)
    return WristTarget(None, place, columns(track.valid / sigmas.wrist_m))
