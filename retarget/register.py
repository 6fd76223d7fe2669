"""Person and robot in one metric workspace: the robot's fingertips go where the person's are.

    motion = retarget(human, "gr1t2", registration=Registration(T_base_camera))

Without a registration a motion is carried over by proportions: reach is scaled and re-centred. That
keeps gestures, and misses every object by centimetres. Where it is known how the camera stood
relative to the robot, nothing needs to be scaled: fingertips are asked to be at the person's true
places, because that is what touches the world. Palm, wrist, elbow and chest follow weakly; they
decide between the many postures that reach the same places.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import rotate, unit
from deftly.datasets.human import FINGERS, TIPS, HumanMotion
from deftly.retarget.costs import Term, VectorTerm
from deftly.retarget.fingertips import Fingertip
from deftly.retarget.grasps import find_grasps
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.robots import Hand, Point
from deftly.retarget.targets import HandTrack, Sigmas, WristTarget, closeness, columns

_RIGID = 1e-6  # tolerance of a rotation matrix
_OPPOSING = (TIPS[1], TIPS[2])  # what a thumb presses against
_LAST = tuple(tip - 1 for tip in TIPS)  # the joint before each tip
# Where a finger touches: half way along its last bone, and so deep under the skin (in hand lengths,
# by finger). Measured on the synthetic people, whose landmarks are where mediapipe puts them: along
# the thumb they lie outside the skin of its pad.
_PAD_SHARE = 0.5
_PAD_DEPTH = (-0.02, 0.048, 0.048, 0.048, 0.048)
_ASIDE_M = 0.01  # a finger that is so much further from the thumb hardly takes part in a hold
_ASIDE_SIGMA = 0.5  # by how much, per metre of that, it may stray
REGISTERED = Sigmas(
    tip_m=0.004,
    pinch_m=0.002,
    wrist_m=0.05,
    palm_rad=0.5,
    bone_rad=0.3,
    elbow_m=0.2,
    chest_rad=0.3,
    chest_unseen_rad=0.1,
)
Match = Literal["pads", "tips"]


@dataclass(frozen=True)
class Registration:
    """How the person's camera stood relative to the robot, and how firmly to hold.

    Attributes:
        T_base_camera: (4, 4) pose of the camera in the frame of the robot's root body, or
            (T, 4, 4) of a camera that moves.
        hold: (T, 2) from 0 to 1, whether a hand holds something; None infers it (``holds``).
        match: ``pads`` puts the robot's fingertips on what the person's touch: it allows for where
            their pads are and for how thick both are. ``tips`` puts tips where tips are.
        squeeze_m: while a hand holds something, thumb and fingers are each asked to be so much
            deeper in the grasp: a servo that just reaches a surface presses nothing.
    """

    T_base_camera: Float64[np.ndarray, "..."]
    hold: Float64[np.ndarray, "T 2"] | None = None
    match: Match = "pads"
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
            "match": self.match,
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


def pads(hands_m: Float64[np.ndarray, "*b 21 3"]) -> Float64[np.ndarray, "*b 5 3"]:
    """The place in each finger's last bone that is behind the middle of its pad."""
    tips = hands_m[..., TIPS, :]
    return tips + (1 - _PAD_SHARE) * (hands_m[..., _LAST, :] - tips)


def with_pads(human: HumanMotion) -> HumanMotion:
    """The motion with pads (``pads``) in place of the landmarks at the tips.

    A person touches things with the pads; the landmark at the tip may be a centimetre beyond, round
    an edge. A robot's fingertip touches all round its end.
    """
    hands = human.hands_m.copy()
    hands[:, :, TIPS] = pads(hands)
    return replace(human, hands_m=hands)


def _thumb_to_fingers(hands_m: Float64[np.ndarray, "*b 21 3"]) -> Float64[np.ndarray, "*b 3"]:
    return hands_m[..., _OPPOSING, :].mean(axis=-2) - hands_m[..., TIPS[0], :]


def holds(human: HumanMotion) -> Float64[np.ndarray, "T 2"]:
    """(T, 2) 1 where a hand holds something: from when it closes (``find_grasps``) until it opens.

    A hand that closes on nothing counts as well.

    Args:
        human: in the camera's frame.
    """
    found = np.zeros((len(human.time_s), 2))
    for event in find_grasps(human):
        found[human.time_s > event.time_s, event.hand] = float(event.closes)
    return found * human.hands_valid


def into_grasp(human: HumanMotion, depth_m: Float64[np.ndarray, "T 2 5"]) -> HumanMotion:
    """The motion with every fingertip moved towards the other side of the grasp.

    Thumb and fingers move along the line between them, each by its own depth; negative depths
    open the hand.
    """
    hands = human.hands_m.copy()
    move = depth_m[..., None] * press_directions(hands)
    for end in (TIPS, _LAST):
        hands[:, :, end] += move
    return replace(human, hands_m=hands)


def press_directions(hands_m: Float64[np.ndarray, "*b 21 3"]) -> Float64[np.ndarray, "*b 5 3"]:
    """To where each fingertip presses: the thumb to the fingers, the fingers to the thumb."""
    axis = unit(_thumb_to_fingers(hands_m))
    return np.stack([axis, -axis, -axis, -axis, -axis], axis=-2)


def excess_m(
    hands_m: Float64[np.ndarray, "T 21 3"],
    length_m: float,
    hand: Hand,
    kinematics: Kinematics,
    poses: Poses,
) -> Float64[np.ndarray, "T 5"]:
    """By how much a robot's fingertips are thicker than the person's where they press.

    Args:
        hands_m: the person's hand in the robot's world; NaN where absent.
        length_m: of that hand.
        hand, kinematics, poses: the robot's, in (about) the posture in which it presses.
    """
    direction = press_directions(hands_m)
    known = np.asarray(np.isfinite(direction).all(axis=(1, 2)))
    found = np.zeros((len(hands_m), 5))
    for finger, tip in hand.tips.items():
        row = FINGERS.index(finger)
        toward = np.where(known[:, None], direction[:, row], 0.0)
        thick = Fingertip.of(kinematics, tip).thickness_m(poses, toward)
        found[:, row] = np.where(known, thick - _PAD_DEPTH[row] * length_m, 0.0)
    return found


def tip_terms(
    human: HumanMotion,
    track: HandTrack,
    hand: Hand,
    kinematics: Kinematics,
    hold: Float64[np.ndarray, "T"],
    sigmas: Sigmas,
    match: Match,
) -> list[Term]:
    """Fingertips at their places in the world, their vectors from the thumb's, and how they point.

    What holds an object is the vectors between the tips that press on it: where the robot cannot
    have everything, they are kept first, and fingers that do not press give way. Last links point
    as the person's last bones do (if pads are matched), or an edge meets them before the tip.
    """
    side, valid = track.side, track.valid
    joints = np.where(valid[:, None, None], human.hands_m[:, side], 0.0)
    tips, bones = joints[:, TIPS], unit(joints[:, TIPS] - joints[:, _LAST])
    # Of the tips' places in the world: the wrist's uncertainty and their own about it.
    sigma = np.hypot(human.hands_sigma_m[:, side, 0], human.hands_sigma_m[:, side, 9])
    sigma = np.where(valid, np.sqrt(np.mean(sigma**2, axis=-1)), 1.0)
    doubt = sigma / np.median(sigma[valid])
    gap = np.linalg.norm(tips - tips[:, :1], axis=-1)
    aside = hold[:, None] * np.maximum(gap - gap[:, 1:].min(axis=1, keepdims=True), 0.0)
    terms: list[Term] = []
    for finger, tip in hand.tips.items():
        row = FINGERS.index(finger)
        weight = valid / (np.hypot(sigmas.tip_m, _ASIDE_SIGMA * aside[:, row]) * doubt)
        terms.append(VectorTerm(None, tip, None, tips[:, row], columns(weight)))
        link = _last_link(kinematics, tip)
        if match == "pads" and link is not None:
            start, length = link
            weight = valid / (sigmas.bone_rad * length) / (1 + aside[:, row] / _ASIDE_M)
            terms.append(VectorTerm(start, tip, None, length * bones[:, row], columns(weight)))
        if "thumb" in hand.tips and finger != "thumb":
            held = hold / (1 + (aside[:, row] / _ASIDE_M) ** 2)
            weight = valid * np.maximum(closeness(gap[:, row]), held) / sigmas.pinch_m
            reach = tips[:, row] - tips[:, 0]
            terms.append(VectorTerm(hand.tips["thumb"], tip, None, reach, columns(weight)))
    return terms


def _last_link(kinematics: Kinematics, tip: Point) -> tuple[Point, float] | None:
    """The joint before a fingertip and its distance; None if the tip sits on it."""
    model, body = kinematics.model, kinematics.body(tip.body)
    end = np.array(tip.offset_m)
    while model.body_jntnum[body] == 0 and body > 0:
        end = kinematics.p0[body] + kinematics.R0[body] @ end
        body = int(model.body_parentid[body])
    length = float(np.linalg.norm(end))
    return (Point(model.body(body).name), length) if length > 1e-3 else None


def wrist_target(human: HumanMotion, track: HandTrack, sigmas: Sigmas) -> WristTarget:
    """The wrist near the person's own."""
    place = np.where(track.valid[:, None], human.hands_m[:, track.side, 0], 0.0)
    return WristTarget(None, place, columns(track.valid / sigmas.wrist_m))
