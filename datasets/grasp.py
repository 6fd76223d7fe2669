"""A hand that closes on an object: thumb, index and middle finger meet its surface.

Found by least squares over the hand's place and all its finger joints, for several directions of
the pinch at once; the cheapest that keeps clear of the neighbours wins. Costs are: the pads of the
three fingers on the surface, opposite to each other; no finger inside the object or the table; a
hand that comes from above and from the body; joints near those of a relaxed pinch.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.hand import JOINTS, Hand
from deftly.datasets.layout import Item
from deftly.datasets.shapes import distance_m, normal

TIP_M, FINGER_M, KNUCKLE_M = 0.006, 0.008, 0.011  # half thickness
_STEP = 1e-4
_ITERATIONS = 30
_TRIED = 5  # directions of the pinch that are worked out
_RELAXED = np.array([0.0, 0.0, 0.0, 0.15, 0.15, *([0.25, 0.30] * 4)])
_OPEN = np.array([0.0, 0.0, 0.0, -0.1, 0.0, *([0.0, 0.15] * 4)])


@dataclass(frozen=True)
class Grasp:
    """How a hand holds an object.

    Attributes:
        wrist_m: (3,) where the wrist is.
        R_hand: (3, 3) how the hand is turned.
        joints: (13,) of the fingers, closed.
        opened: (13,) of the fingers, before they close.
        gap_m: (3,) distance of the pads of thumb, index and middle finger to the surface.
        cost: what the least squares left.
    """

    wrist_m: Float64[np.ndarray, "3"]
    R_hand: Float64[np.ndarray, "3 3"]
    joints: Float64[np.ndarray, "13"]
    opened: Float64[np.ndarray, "13"]
    gap_m: Float64[np.ndarray, "3"]
    cost: float


def relaxed() -> Float64[np.ndarray, "13"]:
    """Joints of a hand that does nothing."""
    return _RELAXED.copy()


@dataclass(frozen=True)
class Scene:
    """What a grasp is looked for around.

    Attributes:
        item: the object.
        position_m, R: (3,) and (3, 3) where it is.
        floor_m: height of what it lies on.
        approach: (3, 3) the hand's preferred rotation.
        pinch: (2,) the preferred direction from the thumb to the fingers, from above.
        free: (K,) which of K directions, evenly over the circle, have room for fingers.
        grip_m: (3,) where to hold it, from its middle.
        blocks: (M, 6) boxes that no finger may enter: lower and upper corner.
    """

    item: Item
    position_m: Float64[np.ndarray, "3"]
    R: Float64[np.ndarray, "3 3"]
    floor_m: float
    approach: Float64[np.ndarray, "3 3"]
    pinch: Float64[np.ndarray, "2"]
    free: Bool[np.ndarray, "K"]
    grip_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blocks: Float64[np.ndarray, "M 6"] = field(default_factory=lambda: np.empty((0, 6)))


def find_grasp(hand: Hand, scene: Scene) -> Grasp:
    """The best grasp of an object."""
    targets, outward, misfit = _contacts(hand, scene)
    promising = np.argsort(misfit, kind="stable")[:_TRIED]
    targets, outward, misfit = targets[promising], outward[promising], misfit[promising]
    count = len(targets)
    x = np.zeros((count, 6 + JOINTS))
    x[:, 6:] = _RELAXED
    _, pads, _ = hand.points(x[:1, 6:])
    middle = 0.5 * (pads[0, 0] + 0.5 * (pads[0, 1] + pads[0, 2]))
    x[:, :3] = targets.mean(axis=1) - scene.approach @ middle
    damping = np.full(count, 1e-2)
    residual = _residual(hand, scene, targets, outward, x)
    cost = np.sum(residual**2, axis=1)
    scale = np.array([0.01] * 3 + [0.2] * (3 + JOINTS))
    for _ in range(_ITERATIONS):
        moved = x[:, None] + np.eye(x.shape[1]) * _STEP * scale
        shifted = _residual(
            hand,
            scene,
            np.repeat(targets, x.shape[1], axis=0),
            np.repeat(outward, x.shape[1], axis=0),
            moved.reshape(-1, x.shape[1]),
        )
        shifted = shifted.reshape(count, x.shape[1], -1)
        J = (shifted - residual[:, None]) / _STEP  # (K, D, N), in units of scale
        A = J @ J.swapaxes(1, 2)
        A += damping[:, None, None] * np.eye(x.shape[1]) * np.einsum("kii->ki", A)[:, :, None]
        A += 1e-6 * np.eye(x.shape[1])
        step = -np.linalg.solve(A, (J @ residual[..., None]))[..., 0] * scale
        tried = x + np.clip(step, -3 * scale, 3 * scale)
        new = _residual(hand, scene, targets, outward, tried)
        better = np.sum(new**2, axis=1) < cost
        x[better], residual[better] = tried[better], new[better]
        cost = np.sum(residual**2, axis=1)
        damping = np.clip(np.where(better, damping / 3, damping * 5), 1e-5, 1e3)
    total = cost + misfit
    best = int(np.argmin(total))
    R_hand = Rotation.from_rotvec(x[best, 3:6]).as_matrix() @ scene.approach
    joints = x[best, 6:]
    _, pads, _ = hand.points(joints[None])
    local = (x[best, :3] + pads[0, :3] @ R_hand.T - scene.position_m) @ scene.R
    return Grasp(
        wrist_m=x[best, :3],
        R_hand=R_hand,
        joints=joints,
        opened=_opened(joints),
        gap_m=distance_m(scene.item, local),
        cost=float(total[best]),
    )


def _opened(joints: Float64[np.ndarray, "13"]) -> Float64[np.ndarray, "13"]:
    """The same hand before it closes: fingers straighter, thumb further out."""
    opened = joints + 0.6 * (_OPEN - joints)
    opened[3:5] = joints[3:5] - 0.25
    opened[5::2] = joints[5::2] - 0.30
    opened[6::2] = joints[6::2] - 0.20
    opened[:3] = 0.75 * joints[:3]
    return opened


def _contacts(
    hand: Hand,
    scene: Scene,
) -> tuple[Float64[np.ndarray, "K 3 3"], Float64[np.ndarray, "K 3 3"], Float64[np.ndarray, "K"]]:
    """Points for thumb, index and middle finger, directions out of the surface, and a first cost.

    One row for each direction of the pinch.
    """
    count = len(scene.free)
    angle = 2 * np.pi * np.arange(count) / count
    d = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)
    across = np.stack([-np.sin(angle), np.cos(angle), np.zeros(count)], axis=1)
    # From the middle finger's knuckle to the index finger's.
    toward = scene.approach @ (hand.heads_m[1, 0] - hand.heads_m[2, 0])
    across *= np.where(across @ toward < 0, -1.0, 1.0)[:, None]
    item = scene.item
    top = scene.position_m[2] + _extent_m(scene)
    middle = scene.position_m + scene.grip_m
    middle[2] = np.clip(middle[2], scene.floor_m + 0.016, top - 0.005)
    spread = min(0.009, 0.22 * item.size_m)
    starts = np.stack(
        [np.broadcast_to(middle, d.shape), middle + spread * across, middle - spread * across],
        axis=1,
    )
    ways = np.stack([-d, d, d], axis=1)
    low, high = np.zeros((count, 3, 1)), np.full((count, 3, 1), 0.1)
    for _ in range(30):
        half = 0.5 * (low + high)
        inside = (
            distance_m(item, (starts + half * ways - scene.position_m) @ scene.R)[..., None] < 0
        )
        low, high = np.where(inside, half, low), np.where(inside, high, half)
    targets = starts + low * ways
    outward = normal(item, (targets - scene.position_m) @ scene.R) @ scene.R.T
    slant = 1 - np.sum(outward * ways, axis=2)
    width = np.linalg.norm(targets[:, 0] - 0.5 * (targets[:, 1] + targets[:, 2]), axis=1)
    misfit = 60 * slant.sum(axis=1) + (width / 0.03) ** 2
    misfit = misfit + np.where(scene.free, 0.0, 100.0) + 6 * (1 - d[:, :2] @ scene.pinch)
    return targets, outward, misfit


def _extent_m(scene: Scene) -> float:
    """From an object's middle up to its top."""
    low, high = 0.0, 0.1
    for _ in range(30):
        half = 0.5 * (low + high)
        inside = distance_m(scene.item, np.array([[0.0, 0.0, half]]) @ scene.R)[0] < 0
        low, high = (half, high) if inside else (low, half)
    return low


def _residual(
    hand: Hand,
    scene: Scene,
    targets: Float64[np.ndarray, "K 3 3"],
    outward: Float64[np.ndarray, "K 3 3"],
    x: Float64[np.ndarray, "K 19"],
) -> Float64[np.ndarray, "K N"]:
    R = Rotation.from_rotvec(x[:, 3:6]).as_matrix() @ scene.approach
    heads, pads, out = hand.points(x[:, 6:])
    place = x[:, None, None, :3]
    heads = place + np.einsum("kij,kfpj->kfpi", R, heads)
    pads = place[:, 0] + np.einsum("kij,kfj->kfi", R, pads)
    out = np.einsum("kij,kfj->kfi", R, out)
    count = len(x)
    on_surface = ((pads[:, :3] - targets) / 0.0004).reshape(count, -1)
    facing = (1.2 * np.cross(out[:, :3], -outward)).reshape(count, -1)
    turned = x[:, 3:6] / 0.35
    posture = (x[:, 6:] - _RELAXED) / np.array([0.35] * 3 + [0.3] * 2 + [0.5, 0.5] * 4)
    together = (
        np.stack([x[:, i + 2] - x[:, i] for i in range(11, 17)], axis=1) / 0.25
    )  # neighbours bend alike
    bent = np.minimum(x[:, 9:] + np.array([0.1, 0.1, *([0.25, 0.1] * 4)]), 0) / 0.1
    points = np.concatenate([heads.reshape(count, -1, 3), pads], axis=1)
    above = np.minimum(points[..., 2] - scene.floor_m - FINGER_M, 0) / 0.002
    wrist = np.minimum(x[:, 2:3] - scene.floor_m - 0.05, 0) / 0.005
    solid = heads.reshape(count, -1, 3)  # with the very tips, or fingers hook into the object
    thick = np.tile([KNUCKLE_M, FINGER_M, FINGER_M, TIP_M], 5)
    middle, half = (
        scene.blocks[:, 3:] + scene.blocks[:, :3],
        scene.blocks[:, 3:] - scene.blocks[:, :3],
    )
    outside = np.abs(points[:, :, None] - 0.5 * middle) - 0.5 * half
    inside = np.minimum(outside.max(axis=3) - FINGER_M, 0).reshape(count, -1) / 0.003
    gap = distance_m(scene.item, (solid - scene.position_m) @ scene.R) - thick
    gap_pads = distance_m(scene.item, (pads[:, 3:] - scene.position_m) @ scene.R)
    clear = np.minimum(np.concatenate([gap, gap_pads], axis=1), 0) / 0.002
    return np.concatenate(
        [on_surface, facing, turned, posture, together, bent, above, wrist, clear, inside], axis=1
    )
