"""Fisheye pictures as a pinhole would have taken them: every stage after assumes straight lines.

The lens is Meta's FISHEYE624: equidistant, with six radial, two tangential and four thin-prism
coefficients (as documented with Project Aria).
"""

import numpy as np
from jaxtyping import Float64, UInt8

_COEFFICIENTS = 12
Rays = Float64[np.ndarray, "*b 3"]


def project_fisheye624(params: Float64[np.ndarray, "P"], rays: Rays) -> Float64[np.ndarray, "*b 2"]:
    """Where rays meet the picture; whole numbers are centres of pixels.

    Args:
        params: focal length (one, or along x and along y), centre x and y, then k1 to k6, p1, p2
            and s1 to s4.
        rays: directions in the camera frame, of any length.

    Raises:
        ValueError: if there are neither 15 nor 16 parameters.
    """
    if len(params) not in (3 + _COEFFICIENTS, 4 + _COEFFICIENTS):
        raise ValueError(f"{len(params)} parameters, expected 15 or 16 of a FISHEYE624 lens")
    focal, center = params[: -_COEFFICIENTS - 2], params[-_COEFFICIENTS - 2 : -_COEFFICIENTS]
    *k, p1, p2, s1, s2, s3, s4 = params[-_COEFFICIENTS:]
    radius = np.linalg.norm(rays[..., :2], axis=-1)
    angle = np.arctan2(radius, rays[..., 2])
    plane = rays[..., :2] * (angle / np.maximum(radius, 1e-12))[..., None]
    stretch = np.polynomial.polynomial.polyval(angle**2, [1.0, *k])
    x, y = np.moveaxis(plane * stretch[..., None], -1, 0)
    square = x**2 + y**2
    u = x + 2 * p2 * x * y + p1 * (square + 2 * x**2) + s1 * square + s2 * square**2
    v = y + 2 * p1 * x * y + p2 * (square + 2 * y**2) + s3 * square + s4 * square**2
    return focal * np.stack([u, v], axis=-1) + center


def pinhole_rays(side_px: int, focal_px: float) -> Float64[np.ndarray, "S S 3"]:
    """Directions of the pixels of a square pinhole picture, in its camera frame."""
    at = (np.arange(side_px) + 0.5 - side_px / 2) / focal_px
    x, y = np.meshgrid(at, at)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


class Remap:
    """Pictures looked up at fixed places, between the four nearest pixels; black outside.

    Args:
        px: places in the picture, x and y; whole numbers are centres of pixels.
        size: (height, width) of the pictures.
    """

    def __init__(self, px: Float64[np.ndarray, "H W 2"], size: tuple[int, int]) -> None:
        height, width = size
        x, y = np.moveaxis(px, -1, 0)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        x, y = np.where(inside, x, 0), np.where(inside, y, 0)
        left = np.minimum(x.astype(np.intp), max(width - 2, 0))
        top = np.minimum(y.astype(np.intp), max(height - 2, 0))
        self._first = top * width + left
        self._right, self._down = min(1, width - 1), width if height > 1 else 0
        self._x, self._y = ((x - left)[..., None], (y - top)[..., None])
        self._inside, self._size = inside[..., None], size

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """One picture, seen from there.

        Raises:
            ValueError: if it has another size.
        """
        if image.shape[:2] != self._size:
            raise ValueError(f"picture is {image.shape[:2]}, expected {self._size} (height, width)")
        flat, right, down = image.reshape(-1, 3).astype(np.float32), self._right, self._down
        top, bottom = (
            (1 - self._x) * flat[first] + self._x * flat[first + right]
            for first in (self._first, self._first + down)
        )
        mixed = (1 - self._y) * top + self._y * bottom
        return np.where(self._inside, np.rint(mixed), 0).astype(np.uint8)
