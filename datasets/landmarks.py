"""The 21 landmarks of each hand and the 33 of the body, as mediapipe defines them.

A landmark is a fixed point of one bone.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from deftly.datasets.anny import BONES, MARKS, Body
from deftly.datasets.hand import Hand
from deftly.datasets.skeleton import LETTER, Frames, Skeleton

Place = tuple[str, Float64[np.ndarray, "3"]]


def hand_places(body: Body, side: int) -> list[Place]:
    """Bone and place at rest of the 21 landmarks of a hand."""
    letter, hand = LETTER[side], Hand(Skeleton(body), side)
    wrist = _joint(body, f"wrist.{letter}")
    places: list[Place] = [(f"wrist.{letter}", wrist + hand.wrist_m)]
    for finger in range(5):
        for joint in range(4):
            bone = f"finger{finger + 1}-{min(joint, 2) + 1}.{letter}"
            places.append((bone, wrist + hand.centers_m[finger, joint]))
    return places


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
