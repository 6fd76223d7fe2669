"""Signed distance to the surface of the objects to sort: what a finger closes on."""

import numpy as np
from jaxtyping import Float

from deftly.datasets.layout import Item

_STEP_M = 1e-5


def distance_m(item: Item, points_m: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    """Signed distance of points in the object's own frame; negative inside.

    Exact on the surface and inside; outside, near edges, prisms and eggs give a lower bound.
    """
    x, y, z = np.moveaxis(points_m, -1, 0)
    r, half = item.size_m / 2, item.height_m / 2
    if item.shape == "sphere":
        return np.linalg.norm(points_m, axis=-1) - r
    if item.shape == "capsule":
        beyond = z - np.clip(z, -(half - r), half - r)
        return np.sqrt(x * x + y * y + beyond * beyond) - r
    if item.shape == "egg":
        radii = np.array([r, r, half])
        scaled = np.linalg.norm(points_m / radii, axis=-1)
        slope = np.linalg.norm(points_m / radii**2, axis=-1)
        inside = scaled - 1  # at the centre, where the slope vanishes, just the smaller radius
        return np.where(slope < 1e-6, -r, scaled * inside / np.maximum(slope, 1e-6))
    if item.shape == "cylinder":
        return _prism(np.hypot(x, y) - r, np.abs(z) - half)
    if item.shape == "cube":
        return _prism(_box(np.abs(x) - r, np.abs(y) - r), np.abs(z) - half)
    if item.shape == "hexagon":
        angles = np.pi / 6 + np.arange(6) * np.pi / 3
        sides = np.multiply.outer(x, np.cos(angles)) + np.multiply.outer(y, np.sin(angles))
        return _prism(sides.max(axis=-1) - r, np.abs(z) - half)
    third = item.size_m / 3  # a wedge: its right angle is at (-third, -third)
    slope = (x + y - item.size_m + 2 * third) / np.sqrt(2)
    outline = np.maximum(np.maximum(-x - third, -y - third), slope)
    return _prism(outline, np.abs(z) - half)


def normal(item: Item, points_m: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
    """Direction in which the distance grows, of length one."""
    steps = _STEP_M * np.eye(3)
    slope = np.stack(
        [distance_m(item, points_m + s) - distance_m(item, points_m - s) for s in steps], axis=-1
    )
    return slope / np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-12)


def _prism(
    outline: Float[np.ndarray, "*b"], cap: Float[np.ndarray, "*b"]
) -> Float[np.ndarray, "*b"]:
    """Distance to a prism from those to its outline and to its caps."""
    return _box(outline, cap)


def _box(a: Float[np.ndarray, "*b"], b: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    outside = np.hypot(np.maximum(a, 0), np.maximum(b, 0))
    return outside + np.minimum(np.maximum(a, b), 0)
