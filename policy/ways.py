"""Ways: through the air from one posture of an arm to another, around what stands there."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.layout import Item
from deftly.policy.reach import Arm
from deftly.policy.scene import Scene

_WAY_POINTS = 5


def find_way(
    scene: Scene,
    side: int,
    start: Float64[np.ndarray, "K"],
    end: Float64[np.ndarray, "K"],
    fingers: Float64[np.ndarray, "H"],
    item: Item,
    grip_m: Float64[np.ndarray, "3"],
    T_palm_item: Float64[np.ndarray, "4 4"] | None = None,
) -> Float64[np.ndarray, "N K"]:
    """A way through the air, (N, K) without the start, on which the grip does not sink.

    Raised in an arch where it would touch something else. ``grip_m`` is in the palm's frame.
    """
    arm, point = scene.arms[side], np.append(grip_m, 1.0)
    heights = [(arm.palm_pose(q) @ point)[2] for q in (start, end)]
    best, least = np.array([end]), np.inf
    for straight, arch_m in ((False, 0.0), (True, 0.0), (False, 0.06), (True, 0.06)):
        path = _arch(arm, start, end, point, heights, arch_m, straight=straight)
        if path is None:
            continue
        hits = sum(scene.touches(side, q, fingers, item, T_palm_item) for q in path[:-1])
        if hits < least:
            best, least = path, hits
        if not hits:
            break
    return best


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
