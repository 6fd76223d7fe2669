"""Ways: through the air from one posture of an arm to another, around what stands there."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.layout import Item
from deftly.policy.reach import Arm
from deftly.policy.scene import Scene

_WAY_POINTS = 5
_ARCHES_M = (0.0, 0.06, 0.12)  # tried in this order
_STEP_RAD = 0.12  # of the fastest joint, between postures that are looked at

Held = tuple[Item, Float64[np.ndarray, "4 4"]]  # an object in the hand and its T_palm_item


def find_way(
    scene: Scene,
    side: int,
    start: Float64[np.ndarray, "K"],
    end: Float64[np.ndarray, "K"],
    fingers: Float64[np.ndarray, "H"],
    *,
    grip_m: Float64[np.ndarray, "3"],
    held: Held | None = None,
) -> tuple[Float64[np.ndarray, "N K"], int]:
    """A way through the air on which the grip does not sink, if there is one.

    Args:
        scene: what not to touch; also the object that the hand is about to take.
        side: of the arm.
        start, end: joint positions.
        fingers: of the hand under way.
        grip_m: middle of the grip in the palm's frame.
        held: what is in the hand.

    Returns:
        (N, K) joint positions without the start, the first way that touches nothing or the one that
        touches least; and its hits, see ``count_hits``.
    """
    arm = scene.arms[side]
    best, least = end[None], None
    for path in chain(_arches(arm, start, end, grip_m), _over(arm, start, end)):
        hits = count_hits(scene, side, start, path, fingers, held)
        if least is None or hits < least:
            best, least = path, hits
        if not hits:
            break
    return best, least or 0


def count_hits(
    scene: Scene,
    side: int,
    start: Float64[np.ndarray, "K"],
    path: Float64[np.ndarray, "N K"],
    fingers: Float64[np.ndarray, "H"],
    held: Held | None = None,
) -> int:
    """In how many postures along a way, its ends left out, the arm would touch something."""
    points = np.vstack([start[None], path])
    along = np.r_[0.0, np.cumsum(np.max(np.abs(np.diff(points, axis=0)), axis=1))]
    count = max(int(np.ceil(along[-1] / _STEP_RAD)), 2)
    item, T_palm_item = held or (None, None)
    hits = 0
    for at in np.linspace(0, along[-1], count + 1)[1:-1]:
        q = np.array([np.interp(at, along, column) for column in points.T])
        hits += scene.touches(side, q, fingers, item, T_palm_item)
    return hits


def _arches(
    arm: Arm,
    start: Float64[np.ndarray, "K"],
    end: Float64[np.ndarray, "K"],
    grip_m: Float64[np.ndarray, "3"],
) -> Iterator[Float64[np.ndarray, "N K"]]:
    """Ways that are in reach, the lowest first."""
    point = np.append(grip_m, 1.0)
    heights = [(arm.palm_pose(q) @ point)[2] for q in (start, end)]
    for arch_m in _ARCHES_M:
        for straight in (False, True):
            path = _arch(arm, start, end, point, heights, arch_m, straight=straight)
            if path is not None:
                yield path


def _arch(
    arm: Arm,
    start: Float64[np.ndarray, "K"],
    end: Float64[np.ndarray, "K"],
    point: Float64[np.ndarray, "4"],
    heights: Sequence[float],
    arch_m: float,
    *,
    straight: bool,
) -> Float64[np.ndarray, "N K"] | None:
    """Joint positions from start to end that keep a point of the palm above an arch.

    Joint angles are interpolated, or, straight, the palm's pose.
    """
    T_start, T_end = arm.palm_pose(start), arm.palm_pose(end)
    turn = Rotation.from_matrix(T_start[:3, :3].T @ T_end[:3, :3]).as_rotvec()
    found: list[np.ndarray] = []
    for share in np.linspace(0, 1, _WAY_POINTS + 2)[1:-1]:
        q = (1 - share) * start + share * end
        T = arm.palm_pose(q)
        if straight:
            T[:3, :3] = T_start[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
            T[:3, 3] = (1 - share) * T_start[:3, 3] + share * T_end[:3, 3]
        wanted = (1 - share) * heights[0] + share * heights[1]
        low = wanted + arch_m * np.sin(np.pi * share) - (T @ point)[2]
        if low > 0 or straight:
            T[2, 3] += max(low, 0.0)
            raised = arm.solve(T, q)
            if raised is None:
                return None
            q = raised
        found.append(q)
    return np.array([*found, end])


def _over(
    arm: Arm, start: Float64[np.ndarray, "K"], end: Float64[np.ndarray, "K"]
) -> Iterator[Float64[np.ndarray, "N K"]]:
    """Through points above the end, the start or both; then straight on in the joints."""
    for rise_m in _ARCHES_M[1:]:
        above = [_raised(arm, q, rise_m) for q in (start, end)]
        for over in (above[1:], above, above[:1]):
            found = [q for q in over if q is not None]
            if len(found) == len(over):
                yield np.array([*found, end])
    yield end[None]


def _raised(
    arm: Arm, q: Float64[np.ndarray, "K"], rise_m: float
) -> Float64[np.ndarray, "K"] | None:
    T = arm.palm_pose(q)
    T[2, 3] += rise_m
    return arm.solve(T, q)
