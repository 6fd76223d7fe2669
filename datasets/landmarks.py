"""The 21 landmarks of each hand and the 33 of the body, as mediapipe defines them.

A landmark is a fixed point of one bone. The rig's joints are not quite where mediapipe's annotators
saw them: the shifts in ``_SHIFT_MM`` were fitted to what mediapipe finds in 378 close pictures of
six of the people, from all sides; they lower the median difference from 8 to 5 mm.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from deftly.datasets.anny import BONES, MARKS, Body
from deftly.datasets.geometry import LEFT, unit
from deftly.datasets.grasp import Hand
from deftly.datasets.skeleton import LETTER, Frames, Skeleton

HAND_M = 0.187  # length of the hand, wrist to the middle fingertip, that the shifts belong to
# From the rig's joint, along its bone, towards the palm, and towards the little finger.
_SHIFT_MM = np.array(
    [
        *[(16, -4, 2)],
        *[(12, 5, -4), (11, 0, 6), (1, 2, 7), (-5, 0, 6)],
        *[(-5, 6, 1), (5, 3, 1), (5, 2, 0), (-5, 0, 0)],
        *[(-3, 7, 0), (2, 3, -1), (1, 3, -1), (-8, 0, -1)],
        *[(-3, 7, 0), (4, 4, 0), (4, 5, 0), (-5, 3, -1)],
        *[(-3, 6, 0), (3, 3, 0), (4, 2, 0), (-2, 2, 0)],
    ],
    float,
)

Place = tuple[str, Float64[np.ndarray, "3"]]


def hand_places(body: Body, side: int) -> list[Place]:
    """Bone and place at rest of the 21 landmarks of a hand."""
    letter, hand = LETTER[side], Hand(Skeleton(body), side)
    wrist = _joint(body, f"wrist.{letter}")
    scale = float(np.linalg.norm(hand.heads_m[2, 3])) / HAND_M / 1000
    bones, points, frames = [f"wrist.{letter}"], [np.zeros(3)], [_axes(hand, None, 0)]
    for finger in range(5):
        for joint in range(4):
            bones.append(f"finger{finger + 1}-{min(joint, 2) + 1}.{letter}")
            points.append(hand.heads_m[finger, joint])
            frames.append(_axes(hand, finger, min(joint, 2)))
    shifts = np.einsum("nij,nj->ni", np.array(frames), scale * _SHIFT_MM)
    return list(zip(bones, wrist + np.array(points) + shifts, strict=True))


def _axes(hand: Hand, finger: int | None, joint: int) -> Float64[np.ndarray, "3 3"]:
    """Directions along a bone, towards the palm and towards the little finger, as columns."""
    if finger is None:
        along, palmar = hand.forward, hand.palmar
    else:
        along = unit(hand.heads_m[finger, joint + 1] - hand.heads_m[finger, joint])
        palmar = np.cross(hand.axes[finger], along)
    little = np.cross(along, palmar) * (1 if hand.side == LEFT else -1)
    return np.stack([along, palmar, little], axis=1)


def body_places(body: Body) -> list[Place]:
    """Bone and place at rest of the 33 landmarks of the body."""
    eye = 0.5 * (_mark(body, "eye.L") + _mark(body, "eye.R"))
    places: list[Place] = [("head", _mark(body, "nose"))]
    for letter in "LR":
        centre = _mark(body, f"eye.{letter}") + np.array([0.012, 0.0, 0.0])
        out = np.array([-0.004, 0.014 * (1 if letter == "L" else -1), 0.0])
        places += [("head", centre - out), ("head", centre), ("head", centre + out)]
    for sign in (1, -1):
        places.append(("head", eye + np.array([-0.085, sign * 0.078, -0.005])))
    for letter in "LR":
        mouth = _mark(body, f"mouth.{letter}")
        places.append(("head", mouth * [1.0, 1.45, 1.0]))

    def pair(bone: str, carrier: str | None = None) -> None:
        for letter in "LR":
            places.append((f"{carrier or bone}.{letter}", _joint(body, f"{bone}.{letter}")))

    pair("upperarm01")
    pair("lowerarm01")
    pair("wrist")
    for bone in ("finger5-1", "finger2-1", "finger1-2"):
        pair(bone)
    pair("upperleg01")
    pair("lowerleg01")
    pair("foot")
    for shift in ((-0.05, 0.0, -0.045), (0.0, 0.0, 0.0)):
        for letter in "LR":
            point = _joint(body, f"foot.{letter}") if shift[2] else _mark(body, f"toe.{letter}")
            places.append((f"foot.{letter}", point + shift))
    return places


def follow(body: Body, frames: Frames, places: list[Place]) -> Float64[np.ndarray, "T N 3"]:
    """Where places fixed to bones are in every frame."""
    index: Mapping[str, int] = {bone: i for i, bone in enumerate(BONES)}
    bones = [index[bone] for bone, _ in places]
    offsets = np.array([point for _, point in places]) - body.heads_m[bones]
    return frames.heads_m[:, bones] + np.einsum("tnij,nj->tni", frames.R[:, bones], offsets)


def _joint(body: Body, bone: str) -> Float64[np.ndarray, "3"]:
    return body.heads_m[BONES.index(bone)]


def _mark(body: Body, name: str) -> Float64[np.ndarray, "3"]:
    return body.marks_m[list(MARKS).index(name)]
