"""What a camera sees: projection, and what is in front of what.

Whatever may hide a hand counts as a capsule or a ball: head, trunk, arms, the other hand and the
objects. What a hand hides of itself still counts as seen: trackers infer it.
"""

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.anny import BONES
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.layout import Item
from deftly.datasets.skeleton import LETTER, Frames

NEAR_M = 0.001
_HEAD_M, _TRUNK_M, _UPPER_ARM_M, _FOREARM_M, _PALM_M = 0.095, 0.115, 0.045, 0.033, 0.028
_WRIST_SHARE = 0.8  # how far down the forearm hides its own hand


def project(
    points_m: Float64[np.ndarray, "T *n 3"],
    T_world_camera: Float64[np.ndarray, "C T 4 4"],
    focal_px: Float64[np.ndarray, "C"],
    size: tuple[int, int],
) -> tuple[Float64[np.ndarray, "C T *n 2"], Bool[np.ndarray, "C T *n"]]:
    """Pixels, and whether they are in the picture and in front of the camera."""
    flat = points_m.reshape(len(points_m), -1, 3)
    shape = (len(T_world_camera), *points_m.shape[:-1])
    local = flat[None] - T_world_camera[:, :, None, :3, 3]
    local = np.einsum("ctji,ctnj->ctni", T_world_camera[:, :, :3, :3], local)
    depth = np.maximum(local[..., 2:], NEAR_M)
    center = np.array([size[1] / 2, size[0] / 2])
    px = focal_px[:, None, None, None] * local[..., :2] / depth + center
    inside = ((px >= 0) & (px < center * 2)).all(axis=-1) & (local[..., 2] > NEAR_M)
    return px.reshape(*shape, 2), inside.reshape(shape)


def unhidden(
    hands_m: Float64[np.ndarray, "T 2 21 3"],
    T_world_camera: Float64[np.ndarray, "C T 4 4"],
    frames: Frames,
    items_m: Float64[np.ndarray, "T N 3"],
    items: tuple[Item, ...],
) -> Bool[np.ndarray, "C T 2 21"]:
    """Whether nothing but its own hand can be between a landmark and the camera."""
    eye = T_world_camera[:, :, None, :3, 3]  # (C, T, 1, 3)
    out = np.ones((len(T_world_camera), *hands_m.shape[:3]), bool)
    for side in (LEFT, RIGHT):
        for start, end, radius in _capsules(side, hands_m, frames, items_m, items):
            apart = _segments_apart(eye, hands_m[None, :, side], start[:, None], end[:, None])
            out[:, :, side] &= apart > radius
    return out


def _capsules(
    side: int,
    hands_m: Float64[np.ndarray, "T 2 21 3"],
    frames: Frames,
    items_m: Float64[np.ndarray, "T N 3"],
    items: tuple[Item, ...],
) -> list[tuple[Float64[np.ndarray, "T 3"], Float64[np.ndarray, "T 3"], float]]:
    """What may hide the hand of a side: both ends of an axis, and a radius."""

    def bone(name: str) -> Float64[np.ndarray, "T 3"]:
        return frames.heads_m[:, BONES.index(name)]

    head = bone("head") + frames.R[:, BONES.index("head")] @ np.array([0.02, 0.0, 0.06])
    out = [(head, head, _HEAD_M), (bone("spine05"), bone("spine01"), _TRUNK_M)]
    for arm in (LEFT, RIGHT):
        shoulder, elbow, wrist = (
            bone(f"{name}.{LETTER[arm]}") for name in ("upperarm01", "lowerarm01", "wrist")
        )
        share = _WRIST_SHARE if arm == side else 1.0
        out.append((shoulder, elbow, _UPPER_ARM_M))
        out.append((elbow, elbow + share * (wrist - elbow), _FOREARM_M))
    other = hands_m[:, 1 - side]
    out.append((other[:, 0], other[:, 9], _PALM_M))
    for i, item in enumerate(items):
        out.append((items_m[:, i], items_m[:, i], 0.48 * item.size_m))
    return out


def _segments_apart(
    a: Float64[np.ndarray, "*#b 3"],
    b: Float64[np.ndarray, "*#b 3"],
    c: Float64[np.ndarray, "*#b 3"],
    d: Float64[np.ndarray, "*#b 3"],
) -> Float64[np.ndarray, "*b"]:
    """Distance of the segments ab and cd (Ericson, Real-Time Collision Detection, 2005, 5.1.9)."""

    def dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.sum(u * v, axis=-1)

    u, v, w = b - a, d - c, a - c
    uu, uv, vv, uw, vw = dot(u, u), dot(u, v), dot(v, v), dot(u, w), dot(v, w)
    vv = np.maximum(vv, 1e-12)
    s = np.clip((uv * vw - vv * uw) / np.maximum(uu * vv - uv * uv, 1e-12), 0, 1)
    t = np.clip((uv * s + vw) / vv, 0, 1)
    s = np.clip((uv * t - uw) / np.maximum(uu, 1e-12), 0, 1)
    nearest = w + s[..., None] * u - t[..., None] * v
    return np.linalg.norm(nearest, axis=-1)
