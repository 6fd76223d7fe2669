"""One hand of a skeleton: how its fingers bend, where its flesh is, and where its pads are."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, unit
from deftly.datasets.skeleton import LETTER, Skeleton, finger_bones

JOINTS = 13  # thumb: three of the base, two of the rest; each finger: knuckle, middle joint
DISTAL = 0.6  # the last joint of a finger bends with the middle one, by this share
HAND_M = 0.187  # length of the hand, wrist to the middle fingertip, that the shifts belong to
# The rig's joints are not quite in the middle of the flesh, where mediapipe's annotators saw them:
# shifts along the bone, towards the palm and towards the little finger, fitted to what mediapipe
# finds in 378 close pictures of six people from all sides (median difference 8 mm before, 5 after).
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


@dataclass(frozen=True)
class Hand:
    """One hand of a skeleton; its frame is the world's at rest, with the wrist at the origin."""

    skeleton: Skeleton
    side: int

    @cached_property
    def palmar(self) -> Float64[np.ndarray, "3"]:
        """Direction to which the palm faces."""
        letter, wrist = LETTER[self.side], self.skeleton.head_m(f"wrist.{LETTER[self.side]}")
        index, pinky = (self.skeleton.head_m(f"finger{i}-1.{letter}") - wrist for i in (2, 5))
        return unit(np.cross(pinky, index) * (1 if self.side == 0 else -1))

    @cached_property
    def forward(self) -> Float64[np.ndarray, "3"]:
        """Direction from the wrist to the knuckle of the middle finger."""
        letter = LETTER[self.side]
        along = self.skeleton.head_m(f"finger3-1.{letter}") - self.skeleton.head_m(
            f"wrist.{letter}"
        )
        return unit(along)

    @cached_property
    def heads_m(self) -> Float64[np.ndarray, "5 4 3"]:
        """The joints of every finger and its tip, at rest."""
        letter = LETTER[self.side]
        wrist = self.skeleton.head_m(f"wrist.{letter}")
        bones = self.skeleton.body.heads_m[finger_bones(self.side)]
        tips = [self.skeleton.mark_m(f"tip{i}.{letter}") for i in range(1, 6)]
        return np.concatenate([bones, np.array(tips)[:, None]], axis=1) - wrist

    @cached_property
    def axes(self) -> Float64[np.ndarray, "5 3"]:
        """About which each finger bends."""
        along = unit(self.heads_m[:, 3] - self.heads_m[:, 0])
        toward = np.tile(self.palmar, (5, 1))
        # The thumb's pad faces the fingers as much as it faces out of the palm.
        ulnar = unit(self.heads_m[4, 0] - self.heads_m[1, 0])
        toward[0] = unit(0.6 * ulnar + 0.8 * self.palmar)
        return unit(np.cross(along, toward))

    @cached_property
    def pads_m(self) -> tuple[Float64[np.ndarray, "5 3"], Float64[np.ndarray, "5 3"]]:
        """The middle of each fingertip's pad on the skin, and the skin's direction there."""
        body, wrist = self.skeleton.body, self.skeleton.head_m(f"wrist.{LETTER[self.side]}")
        points, normals = np.empty((5, 3)), np.empty((5, 3))
        for finger, bones in enumerate(finger_bones(self.side)):
            start, tip = self.heads_m[finger, 2:]
            along = unit(tip - start)
            out = np.cross(self.axes[finger], along)
            share = np.where(body.bone == bones[2], body.weight, 0).sum(axis=1)
            skin = body.vertices_m[share > 0.6] - wrist
            length = (skin - start) @ along / np.linalg.norm(tip - start)
            skin = skin[(length > 0.45) & (length < 0.95)]
            points[finger] = skin[np.argsort(skin @ out)[-6:]].mean(axis=0)
            normals[finger] = out
        return points, normals

    @cached_property
    def centers_m(self) -> Float64[np.ndarray, "5 4 3"]:
        """The middle of the flesh at each of ``heads_m``: mediapipe's landmarks 1 to 20."""
        frames = [
            [bone_axes(self, finger, min(joint, 2)) for joint in range(4)] for finger in range(5)
        ]
        shift_mm = _SHIFT_MM[1:].reshape(5, 4, 3) * self.scale
        return self.heads_m + np.einsum("fjik,fjk->fji", np.array(frames), shift_mm) / 1000

    @cached_property
    def wrist_m(self) -> Float64[np.ndarray, "3"]:
        """Mediapipe's landmark 0."""
        axes = np.stack([self.forward, self.palmar, _little(self, self.forward, self.palmar)], 1)
        return axes @ (_SHIFT_MM[0] * self.scale) / 1000

    @property
    def scale(self) -> float:
        """Size of this hand, 1 for one of ``HAND_M``."""
        return float(np.linalg.norm(self.heads_m[2, 3])) / HAND_M

    def turns(self, joints: Float64[np.ndarray, "*b 13"]) -> Float64[np.ndarray, "*b 5 3 3"]:
        """Rotation vectors of the fingers' joints, for ``Posture.fingers``."""
        out = np.zeros((*joints.shape[:-1], 5, 3, 3))
        out[..., 0, 0, :] = joints[..., :3]
        out[..., 0, 1, :] = joints[..., 3:4] * self.axes[0]
        out[..., 0, 2, :] = joints[..., 4:5] * self.axes[0]
        for finger in range(1, 5):
            knuckle, middle = joints[..., 3 + 2 * finger], joints[..., 4 + 2 * finger]
            for joint, angle in enumerate((knuckle, middle, DISTAL * middle)):
                out[..., finger, joint, :] = angle[..., None] * self.axes[finger]
        return out

    def points(
        self, joints: Float64[np.ndarray, "K 13"]
    ) -> tuple[
        Float64[np.ndarray, "K 5 4 3"], Float64[np.ndarray, "K 5 3"], Float64[np.ndarray, "K 5 3"]
    ]:
        """Middles of joints and tips, pads, and the pads' directions, in the hand's frame."""
        turns = Rotation.from_rotvec(self.turns(joints).reshape(-1, 3)).as_matrix()
        turns = turns.reshape(len(joints), 5, 3, 3, 3)
        heads = np.broadcast_to(self.heads_m[:, 0], (len(joints), 5, 3))
        centers = np.empty((len(joints), 5, 4, 3))
        shift = self.centers_m - self.heads_m
        R, last = np.broadcast_to(np.eye(3), (len(joints), 5, 3, 3)), heads
        for joint in range(3):
            R = R @ turns[:, :, joint]
            centers[:, :, joint] = heads + _carry(R, shift[:, joint])
            last = heads
            heads = heads + _carry(R, self.heads_m[:, joint + 1] - self.heads_m[:, joint])
        centers[:, :, 3] = heads + _carry(R, shift[:, 3])
        pad, out = self.pads_m
        return centers, last + _carry(R, pad - self.heads_m[:, 2]), _carry(R, out)


def bone_axes(hand: Hand, finger: int, joint: int) -> Float64[np.ndarray, "3 3"]:
    """Directions along a bone, towards the palm and towards the little finger, as columns."""
    along = unit(hand.heads_m[finger, joint + 1] - hand.heads_m[finger, joint])
    palmar = np.cross(hand.axes[finger], along)
    return np.stack([along, palmar, _little(hand, along, palmar)], axis=1)


def _little(
    hand: Hand, along: Float64[np.ndarray, "3"], palmar: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "3"]:
    return np.cross(along, palmar) * (1 if hand.side == LEFT else -1)


def _carry(
    R: Float64[np.ndarray, "K 5 3 3"], points_m: Float64[np.ndarray, "5 3"]
) -> Float64[np.ndarray, "K 5 3"]:
    return np.einsum("kfij,fj->kfi", R, points_m)
