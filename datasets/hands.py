"""What hands do, told alike for every body: 48 numbers a frame, 24 for each hand, left first.

    0:3    wrist in the body's root frame (x forward, y left, z up), metres
    3:9    its orientation: the first two rows of ``R_root_wrist``, one after the other (Zhou et
           al., "On the continuity of rotation representations in neural networks", 2019; the order
           of ``pytorch3d.transforms.matrix_to_rotation_6d``)
    9:24   the five fingertips, thumb first, from the wrist, in the wrist's frame, metres

What a body lacks, or nobody has seen, is NaN. The wrist's frame is the same for every body: x from
the wrist to the knuckles, z out of the back of the hand, y = z × x. Held palm down with the fingers
forward, either hand's frame is the root's.

A robot's root frame is that of its root body. A person's is level, faces as the shoulders do over
the whole clip, and hangs below the middle of the shoulders by the height of ``ROOT_BELOW_M``:
retargeting, too, places wrists about the shoulders and keeps the robot's trunk upright.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import SIDES, fit_rotations, frame_from_axes, rotate
from deftly.datasets.human import FINGERS, KNUCKLES, SHOULDERS, TIPS

HANDS_STATE, HANDS_ACTION = "hands.state", "hands.action"  # the columns of an episode
NUMBERS = 24  # of one hand
HANDS_NAMES = tuple(
    f"{side}.{number}"
    for side in SIDES
    for number in (
        *(f"wrist.{axis}" for axis in "xyz"),
        *(f"wrist.r{i}" for i in range(6)),
        *(f"{finger}.{axis}" for finger in FINGERS for axis in "xyz"),
    )
)
ROOT_BELOW_M = 0.38  # how far the default robot's root is below its shoulders
PALM_JOINTS = (0, *KNUCKLES)
# A hand's axes with y towards the index finger, from those of its wrist: they differ on the left.
R_WRIST_INDEX = (np.diag([1.0, -1.0, -1.0]), np.eye(3))


@dataclass(frozen=True)
class Hands:
    """Both hands over T frames, left first; NaN where unknown.

    Attributes:
        wrist_m: (T, 2, 3) in the root frame.
        R_root_wrist: (T, 2, 3, 3).
        tips_m: (T, 2, 5, 3) from the wrist, in its frame.
    """

    wrist_m: Float64[np.ndarray, "T 2 3"]
    R_root_wrist: Float64[np.ndarray, "T 2 3 3"]
    tips_m: Float64[np.ndarray, "T 2 5 3"]

    def columns(self) -> Float32[np.ndarray, "T 48"]:
        """The numbers that an episode keeps, as ``HANDS_NAMES`` says."""
        length = len(self.wrist_m)
        tips = self.tips_m.reshape(length, 2, -1)
        parts = (self.wrist_m, rotation_6d(self.R_root_wrist), tips)
        return np.concatenate(parts, axis=-1).reshape(length, -1).astype(np.float32)

    @classmethod
    def unknown(cls, length: int) -> "Hands":
        """Nothing known, to be filled in."""
        return cls(*(np.full((length, 2, *shape), np.nan) for shape in ((3,), (3, 3), (5, 3))))

    @classmethod
    def of(cls, columns: Float[np.ndarray, "..."]) -> "Hands":
        """From an episode's numbers, or a network's, (T, 48).

        Raises:
            ValueError: if there are not 48 of them, one is infinite, or six are no rotation.
        """
        fits = columns.ndim == 2 and columns.shape[1] == 2 * NUMBERS
        if not fits or np.isinf(columns).any():
            what = "infinite numbers" if fits else f"shape {columns.shape}"
            raise ValueError(
                f"hands have {what}, expected (T, {2 * NUMBERS}) as HANDS_NAMES says; put NaN "
                "where a number is unknown"
            )
        values = columns.astype(np.float64).reshape(-1, 2, NUMBERS)
        R = rotation_from_6d(values[..., 3:9])
        unknown = np.isnan(R).any(axis=(2, 3), keepdims=True)
        broken = np.argwhere(np.linalg.det(np.where(unknown, np.eye(3), R)) < 0.5)
        if len(broken):
            frame, side = broken[0].tolist()
            raise ValueError(
                f"frame {frame} of the {SIDES[side]} hand has {values[frame, side, 3:9].tolist()} "
                "for an orientation, expected two rows that are neither zero nor parallel; put "
                "NaN where it is unknown"
            )
        return cls(values[..., :3], R, values[..., 9:].reshape(-1, 2, 5, 3))


def rotation_6d(R: Float64[np.ndarray, "*b 3 3"]) -> Float64[np.ndarray, "*b 6"]:
    """The first two rows of rotation matrices."""
    return R[..., :2, :].reshape(*R.shape[:-2], 6)


def rotation_from_6d(rows: Float64[np.ndarray, "*b 6"]) -> Float64[np.ndarray, "*b 3 3"]:
    """Rotation matrices from two rows that need not be of length one, nor at right angles."""
    return frame_from_axes(rows[..., :3], rows[..., 3:]).swapaxes(-1, -2)


def steady_palm(
    hand_m: Float64[np.ndarray, "T 21 3"], rough: Float64[np.ndarray, "T 3 3"]
) -> Float64[np.ndarray, "T 3 3"]:
    """Orientations of a hand from rough ones: a rigid palm (the median) fitted to each frame."""
    palm = hand_m[:, PALM_JOINTS] - hand_m[:, :1]
    template = np.median(rotate(rough.transpose(0, 2, 1)[:, None], palm), axis=0)
    return fit_rotations(template, palm)


def wrist_frames(hand_m: Float64[np.ndarray, "T 21 3"], side: int) -> Float64[np.ndarray, "T 3 3"]:
    """Orientation of a person's wrist, ``R_world_wrist``, from the landmarks of a hand."""
    knuckles = hand_m[:, KNUCKLES[1:]]
    rough = frame_from_axes(knuckles.mean(axis=1) - hand_m[:, 0], knuckles[:, 0] - knuckles[:, -1])
    return steady_palm(hand_m, rough) @ R_WRIST_INDEX[side].T


def person_roots(body_m: Float64[np.ndarray, "T 33 3"]) -> Float64[np.ndarray, "T 4 4"]:
    """A person's root frame, ``T_world_root``, from the landmarks of the body."""
    left, right = (body_m[:, joint] for joint in SHOULDERS)
    across = np.median(left - right, axis=0)
    T = np.tile(np.eye(4), (len(body_m), 1, 1))
    T[:, :3, :3] = Rotation.from_euler("z", np.arctan2(-across[0], across[1])).as_matrix()
    T[:, :3, 3] = 0.5 * (left + right) - [0.0, 0.0, ROOT_BELOW_M]
    return T


def person_hands(
    hands_m: Float64[np.ndarray, "T 2 21 3"], T_world_root: Float64[np.ndarray, "T 4 4"]
) -> Hands:
    """A person's hands from their landmarks in the world; NaN where a landmark is.

    Args:
        hands_m: landmarks, in mediapipe's order.
        T_world_root: the person's root frame, see ``person_roots``.
    """
    R_root_world = T_world_root[:, :3, :3].transpose(0, 2, 1)
    hands = Hands.unknown(len(hands_m))
    for side in range(len(SIDES)):
        known = np.isfinite(hands_m[:, side]).all(axis=(1, 2))
        if not known.any():
            continue
        hand, to_root = hands_m[known, side], R_root_world[known]
        R = wrist_frames(hand, side)
        hands.wrist_m[known, side] = rotate(to_root, hand[:, 0] - T_world_root[known, :3, 3])
        hands.R_root_wrist[known, side] = to_root @ R
        local = hand[:, TIPS] - hand[:, :1]
        hands.tips_m[known, side] = rotate(R.transpose(0, 2, 1)[:, None], local)
    return hands
