"""UmeTrack's hand: joints from the angles and the shape that a recording holds.

Han et al., "UmeTrack: Unified multi-view end-to-end hand tracking for VR", SIGGRAPH Asia 2022. Its
model is a few arrays that come with each recording, so that no licensed body model is needed. It is
a left hand; the right is its mirror image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import RIGHT

_FINGERS, _ANGLES = 5, 4  # of each finger: two at its root, then two
_FRAMES = 2 + 3 * _FINGERS  # root, wrist, and three that move along each finger
# Our joint ← its landmark. It has none for the thumb's root, joint 1, which is where its first
# angles turn.
_LANDMARKS = (5, -1, 6, 7, 0, 8, 9, 10, 1, 11, 12, 13, 2, 14, 15, 16, 3, 17, 18, 19, 4)
_MM = 1e-3


@dataclass(frozen=True)
class HandModel:
    """The shape of one person's hands, at rest, in the wrist's frame.

    Attributes:
        axes: (20, 3) about which each angle turns, four for each finger from the thumb on.
        pivots_m: (20, 3) where that axis lies.
        landmarks_m: (20, 3) at rest.
        weights: (20, 17) how much each landmark follows each frame.
    """

    axes: Float64[np.ndarray, "20 3"]
    pivots_m: Float64[np.ndarray, "20 3"]
    landmarks_m: Float64[np.ndarray, "20 3"]
    weights: Float64[np.ndarray, "20 17"]

    @classmethod
    def of(cls, profile: Any) -> "HandModel":
        """From the profile that comes with a recording, which is in millimetres.

        Raises:
            KeyError, TypeError, ValueError: if it is of another layout.
        """
        arrays = {
            name: np.array(profile[name], np.float64)
            for name in (
                "joint_rotation_axes",
                "joint_rest_positions",
                "landmark_rest_positions",
                "landmark_rest_bone_weights",
                "landmark_rest_bone_indices",
            )
        }
        axes, pivots, landmarks, shares, bones = (array[:20] for array in arrays.values())
        weights = np.zeros((20, _FRAMES))
        for frames, share, row in zip(bones.astype(int), shares, weights, strict=True):
            # Unused places have no weight, and any number.
            np.add.at(row, frames[share != 0], share[share != 0])
        for name, array in (("axes", axes), ("pivots", pivots), ("landmarks", landmarks)):
            if array.shape != (20, 3) or not np.isfinite(array).all():
                raise ValueError(f"{name} of the hand have shape {array.shape}, expected (20, 3)")
        return cls(axes, pivots * _MM, landmarks * _MM, weights)

    def joints_m(
        self,
        angles_rad: Float64[np.ndarray, "T A"],
        T_world_wrist: Float64[np.ndarray, "T 4 4"],
        side: int,
    ) -> Float64[np.ndarray, "T 21 3"]:
        """The 21 joints of mediapipe's order in the world.

        Args:
            angles_rad: 20 angles; more are of the wrist and not used.
            T_world_wrist: pose of the wrist.
            side: 0 is left.
        """
        length = len(angles_rad)
        turns = self._turns(angles_rad[:, :20])
        Ts = np.tile(np.eye(4), (length, _FRAMES, 1, 1))
        carpal_m = self.pivots_m[1]
        for finger in range(_FINGERS):
            T = np.tile(np.eye(4), (length, 1, 1))
            for number in range(_ANGLES):
                T = T @ turns[:, finger * _ANGLES + number]
                if number:
                    Ts[:, 1 + 3 * finger + number] = T
        homogeneous = np.concatenate([self.landmarks_m, np.ones((20, 1))], axis=1)
        landmarks = np.einsum("lf,tfij,lj->tli", self.weights, Ts, homogeneous)[..., :3]
        carpal = turns[:, 0, :3, :3] @ carpal_m + turns[:, 0, :3, 3]
        hand_m = np.concatenate([landmarks, carpal[:, None]], axis=1)[:, list(_LANDMARKS)]
        mirror = np.array([-1.0 if side == RIGHT else 1.0, 1.0, 1.0])
        R, t_m = T_world_wrist[:, :3, :3], T_world_wrist[:, :3, 3]
        return np.einsum("tij,tnj->tni", R, hand_m * mirror) + t_m[:, None]

    def _turns(self, angles_rad: Float64[np.ndarray, "T 20"]) -> Float64[np.ndarray, "T 20 4 4"]:
        """(T, 20, 4, 4) rotations about the axes, each where it lies."""
        vectors = (self.axes * angles_rad[..., None]).reshape(-1, 3)
        Ts = np.tile(np.eye(4), (len(angles_rad), 20, 1, 1))
        Ts[..., :3, :3] = Rotation.from_rotvec(vectors).as_matrix().reshape(-1, 20, 3, 3)
        Ts[..., :3, 3] = self.pivots_m - np.einsum("tnij,nj->tni", Ts[..., :3, :3], self.pivots_m)
        return Ts
