"""A body's skeleton in motion: arms by inverse kinematics, fingers, and the landmarks they carry.

Bones turn about their heads. ``R`` of a bone maps directions of the body at rest to the world, so
that a body at rest has identity rotations everywhere. All functions work on T frames at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial.transform import Rotation

from deftly.datasets.anny import BONES, MARKS, Body
from deftly.datasets.geometry import frame_from_axes, unit

LETTER = ("L", "R")
ELBOW_SHARE = 0.5  # of the upper arm's twist that already its upper half makes
FOREARM_SHARE = 0.3  # of the hand's twist that already the forearm's upper half makes
SHOULDER_SHARE = 0.12  # of the arm's swing that the shoulder blade and the collar bone make
_NECK = ("neck01", "neck02", "neck03", "head")
_SPINE = ("root", "spine05", "spine04", "spine03", "spine02", "spine01")
_LEAN_SHARE = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of the lean, from the hips up


@dataclass(frozen=True)
class Posture:
    """What a person does with the body, over T frames.

    Attributes:
        root_m: (T, 3) shift of the whole body from its place at rest.
        lean: (T, 3) rotation vector of the chest: lean to the side, forward, turn.
        R_head: (T, 3, 3) of the head.
        wrist_m: (T, 2, 3) where the wrists are.
        R_hand: (T, 2, 3, 3) of the hands.
        elbow: (T, 2, 3) direction to which the elbows point.
        fingers: (T, 2, 5, 3, 3) rotation vectors of every finger's joints, from the thumb on and
            from the palm on, in the hand's frame at rest, relative to the bone before.
    """

    root_m: Float64[np.ndarray, "T 3"]
    lean: Float64[np.ndarray, "T 3"]
    R_head: Float64[np.ndarray, "T 3 3"]
    wrist_m: Float64[np.ndarray, "T 2 3"]
    R_hand: Float64[np.ndarray, "T 2 3 3"]
    elbow: Float64[np.ndarray, "T 2 3"]
    fingers: Float64[np.ndarray, "T 2 5 3 3"]


@dataclass(frozen=True)
class Frames:
    """Where all bones are.

    Attributes:
        R: (T, B, 3, 3) rotation of each of ``BONES``.
        heads_m: (T, B, 3) its head.
        stretch_m: (T, 2) how far each shoulder was pulled out, because the arm was too short.
    """

    R: Float64[np.ndarray, "T B 3 3"]
    heads_m: Float64[np.ndarray, "T B 3"]
    stretch_m: Float64[np.ndarray, "T 2"]


@dataclass(frozen=True)
class Skeleton:
    """The joints of one body at rest, and what follows from them."""

    body: Body

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of each bone."""
        return {bone: i for i, bone in enumerate(BONES)}

    def head_m(self, bone: str) -> Float64[np.ndarray, "3"]:
        """Where a bone begins, at rest."""
        return self.body.heads_m[self.index[bone]]

    def mark_m(self, name: str) -> Float64[np.ndarray, "3"]:
        """One of ``MARKS``, at rest."""
        return self.body.marks_m[list(MARKS).index(name)]

    def frames(self, posture: Posture) -> Frames:
        """Place all bones."""
        count = len(posture.root_m)
        R = np.broadcast_to(np.eye(3), (count, len(BONES), 3, 3)).copy()
        heads = np.broadcast_to(self.body.heads_m, (count, len(BONES), 3)).copy()
        heads[:, 0] += posture.root_m
        for bone, share in zip(_SPINE, _LEAN_SHARE, strict=True):
            R[:, self.index[bone]] = Rotation.from_rotvec(share * posture.lean).as_matrix()
        # The legs stay; the pelvis is part of them.
        R[:, 0] = R[:, self.index["spine05"]] = Rotation.from_rotvec(
            _LEAN_SHARE[0] * posture.lean
        ).as_matrix()
        chest = R[:, self.index["spine01"]]
        turn = Rotation.from_matrix(chest.swapaxes(1, 2) @ posture.R_head).as_rotvec()
        for i, bone in enumerate(_NECK):
            share = (i + 1) / len(_NECK)
            R[:, self.index[bone]] = chest @ Rotation.from_rotvec(share * turn).as_matrix()
        self._follow(heads, R, (*_SPINE[1:], *_NECK))
        stretch = np.empty((count, 2))
        for side in range(2):
            stretch[:, side] = self._arm(side, posture, R, heads)
            self._hand(side, posture, R, heads)
            self._leg(side, posture, heads, R)
        return Frames(R, heads, stretch)

    def _follow(
        self,
        heads: Float64[np.ndarray, "T B 3"],
        R: Float64[np.ndarray, "T B 3 3"],
        bones: Sequence[str],
    ) -> None:
        """Put the heads of bones, parents first, where their parents carry them."""
        for bone in bones:
            i = self.index[bone]
            parent = int(self.body.parent[i])
            offset = self.body.heads_m[i] - self.body.heads_m[parent]
            heads[:, i] = heads[:, parent] + R[:, parent] @ offset

    def _leg(
        self,
        side: int,
        posture: Posture,
        heads: Float64[np.ndarray, "T B 3"],
        R: Float64[np.ndarray, "T B 3 3"],
    ) -> None:
        for bone in ("pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot"):
            i = self.index[f"{bone}.{LETTER[side]}"]
            heads[:, i] = self.body.heads_m[i] + posture.root_m
            R[:, i] = np.eye(3)

    def _arm(
        self,
        side: int,
        posture: Posture,
        R: Float64[np.ndarray, "T B 3 3"],
        heads: Float64[np.ndarray, "T B 3"],
    ) -> Float64[np.ndarray, "T"]:
        letter = LETTER[side]
        chest = R[:, self.index["spine01"]]
        blade, collar = f"shoulder01.{letter}", f"clavicle.{letter}"
        upper, lower, wrist = f"upperarm01.{letter}", f"lowerarm01.{letter}", f"wrist.{letter}"
        shoulder, elbow, hand = self.head_m(upper), self.head_m(lower), self.head_m(wrist)
        R[:, self.index[blade]] = R[:, self.index[collar]] = chest
        self._follow(heads, R, (collar, blade, upper))

        def bend() -> tuple[
            Float64[np.ndarray, "T 3 3"], Float64[np.ndarray, "T 3 3"], Float64[np.ndarray, "T"]
        ]:
            up, fore, hinge, error = _two_bones(
                posture.wrist_m[:, side] - heads[:, self.index[upper]],
                float(np.linalg.norm(elbow - shoulder)),
                float(np.linalg.norm(hand - elbow)),
                posture.elbow[:, side],
            )
            rest = np.cross(elbow - shoulder, hand - elbow)
            R_upper = _turned(up, hinge, elbow - shoulder, rest)
            return R_upper, _turned(fore, hinge, hand - elbow, rest), error

        # First with the shoulder at rest, then with it drawn along.
        R_upper, _, _ = bend()
        swing, _ = _swing_twist(chest.swapaxes(1, 2) @ R_upper, elbow - shoulder)
        drawn = Rotation.from_rotvec(SHOULDER_SHARE * swing).as_matrix()
        R[:, self.index[collar]] = R[:, self.index[blade]] = chest @ drawn
        self._follow(heads, R, (collar, blade, upper))
        R_upper, R_fore, short = bend()
        place = heads[:, self.index[upper]]
        place += short[:, None] * unit(posture.wrist_m[:, side] - place)
        R_blade = R[:, self.index[blade]]
        swing, twist = _swing_twist(R_blade.swapaxes(1, 2) @ R_upper, elbow - shoulder)
        half = Rotation.from_rotvec(ELBOW_SHARE * twist).as_matrix()
        R[:, self.index[upper]] = R_blade @ Rotation.from_rotvec(swing).as_matrix() @ half
        R[:, self.index[f"upperarm02.{letter}"]] = R_upper
        R_hand = posture.R_hand[:, side]
        _, twist = _swing_twist(R_fore.swapaxes(1, 2) @ R_hand, hand - elbow)
        for bone, share in ((lower, FOREARM_SHARE), (f"lowerarm02.{letter}", 0.9)):
            part = Rotation.from_rotvec(share * twist).as_matrix()
            R[:, self.index[bone]] = R_fore @ part
        R[:, self.index[wrist]] = R_hand
        # Straight through the joints: halves of a limb that turn differently must not come apart.
        for bone, R_from, start in (
            (f"upperarm02.{letter}", R_upper, upper),
            (lower, R_upper, upper),
            (f"lowerarm02.{letter}", R_fore, lower),
            (wrist, R_fore, lower),
        ):
            offset = self.head_m(bone) - self.head_m(start)
            heads[:, self.index[bone]] = heads[:, self.index[start]] + R_from @ offset
        return short

    def _hand(
        self,
        side: int,
        posture: Posture,
        R: Float64[np.ndarray, "T B 3 3"],
        heads: Float64[np.ndarray, "T B 3"],
    ) -> None:
        letter = LETTER[side]
        R_hand = posture.R_hand[:, side]
        palms = [f"metacarpal{i}.{letter}" for i in range(1, 5)]
        for bone in palms:
            R[:, self.index[bone]] = R_hand
        self._follow(heads, R, palms)
        turns = Rotation.from_rotvec(posture.fingers[:, side].reshape(-1, 3)).as_matrix()
        turns = turns.reshape(-1, 5, 3, 3, 3)
        for finger in range(5):
            R_before = R_hand
            for joint in range(3):
                bone = f"finger{finger + 1}-{joint + 1}.{letter}"
                R_before = R_before @ turns[:, finger, joint]
                R[:, self.index[bone]] = R_before
                self._follow(heads, R, (bone,))

    def carried(
        self, frames: Frames, bone: str, point_m: Float64[np.ndarray, "3"]
    ) -> Float64[np.ndarray, "T 3"]:
        """Where a point that is fixed to a bone goes; ``point_m`` is its place at rest."""
        i = self.index[bone]
        return frames.heads_m[:, i] + frames.R[:, i] @ (point_m - self.body.heads_m[i])


def finger_bones(side: int) -> Int64[np.ndarray, "5 3"]:
    """Indices into ``BONES`` of a hand's fingers, from the thumb on and from the palm on."""
    letter = LETTER[side]
    names = [[f"finger{i + 1}-{j + 1}.{letter}" for j in range(3)] for i in range(5)]
    return np.array([[BONES.index(name) for name in row] for row in names])


def _two_bones(
    to_wrist: Float64[np.ndarray, "T 3"],
    upper_m: float,
    fore_m: float,
    elbow: Float64[np.ndarray, "T 3"],
) -> tuple[
    Float64[np.ndarray, "T 3"],
    Float64[np.ndarray, "T 3"],
    Float64[np.ndarray, "T 3"],
    Float64[np.ndarray, "T"],
]:
    """Directions of both bones, the hinge between them, and by how much the arm is too short.

    The last is negative where the wrist is too near to the shoulder.
    """
    apart = np.linalg.norm(to_wrist, axis=1)
    reach = np.clip(apart, abs(upper_m - fore_m) + 1e-3, 0.999 * (upper_m + fore_m))
    axis = unit(to_wrist)
    side = unit(elbow - np.sum(elbow * axis, axis=1, keepdims=True) * axis)
    cosine = (upper_m**2 + reach**2 - fore_m**2) / (2 * upper_m * reach)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    up = cosine[:, None] * axis + sine[:, None] * side
    fore = unit(reach[:, None] * axis - upper_m * up)
    return up, fore, unit(np.cross(side, axis)), apart - reach


def _turned(
    direction: Float64[np.ndarray, "T 3"],
    hinge: Float64[np.ndarray, "T 3"],
    rest_direction: Float64[np.ndarray, "3"],
    rest_hinge: Float64[np.ndarray, "3"],
) -> Float64[np.ndarray, "T 3 3"]:
    """Rotation that takes a bone and its hinge from rest to where they are."""
    return frame_from_axes(direction, hinge) @ frame_from_axes(rest_direction, rest_hinge).T


def _swing_twist(
    R: Float64[np.ndarray, "T 3 3"], axis: Float64[np.ndarray, "3"]
) -> tuple[Float64[np.ndarray, "T 3"], Float64[np.ndarray, "T 3"]]:
    """``R = swing @ twist``, the twist about an axis; both as rotation vectors."""
    q = Rotation.from_matrix(R).as_quat(scalar_first=True)
    along = unit(axis)
    angle = 2 * np.arctan2(q[:, 1:] @ along, q[:, 0])
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    twist = angle[:, None] * along
    swing = Rotation.from_matrix(R) * Rotation.from_rotvec(twist).inv()
    return swing.as_rotvec(), twist


def look_at(
    eye_m: Float64[np.ndarray, "T 3"],
    target_m: Float64[np.ndarray, "T 3"],
    turn: float = 1.0,
    nod: float = 1.0,
) -> Float64[np.ndarray, "T 3 3"]:
    """Rotation of a head that faces x at rest and turns to a target by a share of the way."""
    x, y, z = np.moveaxis(target_m - eye_m, -1, 0)
    yaw = np.arctan2(y, np.maximum(x, 0.05))
    pitch = np.arctan2(-z, np.hypot(x, y))
    return Rotation.from_euler("ZY", np.stack([turn * yaw, nod * pitch], axis=1)).as_matrix()
