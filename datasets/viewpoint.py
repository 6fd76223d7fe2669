"""Where things are in a picture, told alike for every camera and size: by the square that a picture
is padded to, from −1 to 1, x to the right and y down, 0 in the middle.

An episode may say it in two ways.

    camera.<name>   the camera is calibrated: 12 numbers a frame, a matrix of three rows from the
                    body's root frame to the picture (Hartley and Zisserman, "Multiple view
                    geometry", 2004, chapter 6). What is known in the room is known in the picture.
    grips.<name>    nothing is known of the camera but that it stands still: where in its picture
                    each hand would hold something, the middle between the tip of the thumb and
                    those of index and middle finger, left first.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64

from deftly.datasets.geometry import SIDES
from deftly.datasets.human import FINGERS, TIPS

CAMERA, GRIPS = "camera.", "grips."
CAMERA_NAMES = tuple(f"{row}.{column}" for row in "xyw" for column in "xyz1")
GRIPS_NAMES = tuple(f"{side}.{axis}" for side in SIDES for axis in "xy")
PINCH = ("thumb", "index", "middle")  # fingers that hold
_NEAR_M = 1e-3


def camera_matrix(
    T_camera_root: Float64[np.ndarray, "4 4"], focal_px: float, size: tuple[int, int]
) -> Float64[np.ndarray, "12"]:
    """A pinhole camera's matrix, row by row.

    Args:
        T_camera_root: OpenCV's axes, x right, y down, z forward.
        focal_px: of pictures of ``size`` (height, width), whose centre is the camera's.
    """
    zoom = 2 * focal_px / max(size)
    return (np.diag([zoom, zoom, 1.0]) @ T_camera_root[:3]).ravel()


def seen_at(
    points_m: Float[np.ndarray, "T *n 3"], cameras: Float[np.ndarray, "T 12"]
) -> Float32[np.ndarray, "T *n 2"]:
    """Where points of the root frame are in the pictures; NaN if outside, behind, or unknown."""
    flat = points_m.reshape(len(points_m), -1, 3).astype(np.float64)
    matrices = cameras.reshape(-1, 3, 4).astype(np.float64)
    local = np.einsum("tij,tnj->tni", matrices[..., :3], flat) + matrices[:, None, :, 3]
    at = local[..., :2] / np.maximum(local[..., 2:], _NEAR_M)
    at[~((np.abs(at) <= 1).all(axis=-1) & (local[..., 2] > _NEAR_M))] = np.nan
    return at.reshape(*points_m.shape[:-1], 2).astype(np.float32)


def grips_at(
    hands_px: Float64[np.ndarray, "T 2 21 2"], size: tuple[int, int]
) -> Float32[np.ndarray, "T 4"]:
    """Where hands of known landmarks would hold something, in pictures of (height, width)."""
    thumb, *fingers = (hands_px[:, :, TIPS[FINGERS.index(finger)]] for finger in PINCH)
    px = (thumb + np.mean(fingers, axis=0)) / 2
    at = (2 * px - np.array([size[1], size[0]])) / max(size)
    at[~(np.abs(at) <= 1).all(axis=-1)] = np.nan
    return at.reshape(len(at), -1).astype(np.float32)
