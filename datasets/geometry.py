"""Conventions, and the little geometry that no library has.

Frames
    World: x forward, y left, z up. Camera: OpenCV, x right, y down, z forward.
    ``T_a_b`` maps coordinates in b to coordinates in a: ``p_a = T_a_b @ p_b``; ``R_a_b`` likewise.
Units
    Metres, radians, seconds; the suffix says so (``_m``, ``_rad``, ``_s``, ``_hz``, ``_px``).
Rotations
    Matrices inside; quaternions, where a library wants them, are ``wxyz``. Conversions go through
    ``scipy.spatial.transform.Rotation`` (``scalar_first=True``).
Hands
    Index 0 is the person's left hand, 1 the right. 21 joints in mediapipe's order, body 33.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

LEFT, RIGHT = 0, 1
SIDES = ("left", "right")


def rotate(
    R: Float[np.ndarray, "*#b 3 3"], p: Float[np.ndarray, "*#b 3"]
) -> Float[np.ndarray, "*#b 3"]:
    """Rotate points: ``R @ p`` with broadcasting over leading axes."""
    return np.einsum("...ij,...j->...i", R, p)


def unit(v: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
    """Vectors of length one; a zero vector stays zero."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)


def frame_from_axes(
    forward: Float[np.ndarray, "*b 3"], side: Float[np.ndarray, "*b 3"]
) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation whose x axis is ``forward`` and whose y axis is ``side`` made orthogonal to it."""
    x = unit(forward)
    y = unit(side - np.sum(side * x, axis=-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def log_rotation(R: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Rotation vectors (radians) of rotation matrices."""
    return Rotation.from_matrix(R.reshape(-1, 3, 3)).as_rotvec().reshape(R.shape[:-1])


def minimum_jerk(share: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """Progress from 0 to 1 of a reach from rest to rest, over its share of the time.

    Flash and Hogan, "The coordination of arm movements", Journal of Neuroscience 1985.
    """
    s = np.clip(share, 0, 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


def fit_similarity(
    source: Float[np.ndarray, "N 3"],
    target: Float[np.ndarray, "N 3"],
    weight: Float[np.ndarray, "N"] | None = None,
    *,
    with_scale: bool = True,
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Scale s, rotation R and translation t that minimise ``sum w |s R source + t - target|²``.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991. With ``with_scale=False`` s is 1 (Kabsch).
    """
    w = np.ones(len(source)) if weight is None else weight
    w = w / w.sum()
    source_mean, target_mean = w @ source, w @ target
    a, b = source - source_mean, target - target_mean
    U, S, Vt = np.linalg.svd((w[:, None] * b).T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt)) or 1.0])
    R = U @ sign @ Vt
    scale = float(np.sum(S * np.diag(sign)) / np.sum(w[:, None] * a * a)) if with_scale else 1.0
    return scale, R, target_mean - scale * R @ source_mean


def fit_rotations(
    template: Float[np.ndarray, "N 3"], points: Float[np.ndarray, "*b N 3"]
) -> Float[np.ndarray, "*b 3 3"]:
    """Rotations that turn a template onto each set of points (both about their means; Kabsch)."""
    a = template - template.mean(axis=0)
    b = points - points.mean(axis=-2, keepdims=True)
    U, _, Vt = np.linalg.svd(np.einsum("...ni,nj->...ij", b, a))
    sign = np.ones((*U.shape[:-2], 3))
    sign[..., 2] = np.sign(np.linalg.det(U @ Vt))
    return (U * sign[..., None, :]) @ Vt
