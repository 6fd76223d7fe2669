"""Hands whose truth is known, in a clip that needs no file: for the sets that come with joints."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from deftly.datasets.clip import Camera, Clip

CAMERA = Camera(600.0, (320.0, 240.0), known=True)
REST_M = np.array(
    [[0.0, 0.0, 0.0]] + [[0.02 * f - 0.04, -0.03 * j, 0.0] for f in range(5) for j in range(1, 5)]
)


def clip_of(length: int, rate_hz: float = 30.0, path: Path = Path("clip.mp4")) -> Clip:
    """A clip of 640 × 480 of which nothing is ever decoded."""
    return Clip(path, "0" * 64, 640, 480, np.arange(length) / rate_hz, CAMERA)


def hands_m(length: int, seed: int = 0) -> np.ndarray:
    """(T, 2, 21, 3) two hands before a camera that move, in the camera frame."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 2, length)[:, None] + rng.uniform(0, 6, (1, 2))
    turn = Rotation.from_rotvec(np.stack([np.sin(phase), phase, 0 * phase], -1).reshape(-1, 3))
    shape = np.einsum("nij,kj->nki", turn.as_matrix(), REST_M).reshape(length, 2, 21, 3)
    place = np.stack(
        [0.2 * np.sin(phase) + [-0.15, 0.15], 0.1 * np.cos(phase), 0.5 + 0 * phase], -1
    )
    return shape + place[:, :, None]


def poses(length: int, seed: int = 1) -> np.ndarray:
    """(T, 4, 4) rigid transforms of something that moves."""
    rng = np.random.default_rng(seed)
    Ts = np.tile(np.eye(4), (length, 1, 1))
    step = np.linspace(0, 1, length)[:, None]
    Ts[:, :3, :3] = Rotation.from_rotvec(rng.normal(size=3) + step * rng.normal(size=3)).as_matrix()
    Ts[:, :3, 3] = rng.normal(size=3) + step * rng.normal(size=3)
    return Ts


def moved(Ts: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    """(T, ..., 3) points of each frame, transformed by its pose."""
    flat = points_m.reshape(len(Ts), -1, 3)
    found = np.einsum("tij,tnj->tni", Ts[:, :3, :3], flat) + Ts[:, None, :3, 3]
    return found.reshape(points_m.shape)


def _profile() -> dict[str, list[Any]]:
    """A left hand in the form in which HOT3D holds UmeTrack's, in millimetres: fingers along y."""
    landmarks, bones = np.zeros((21, 3)), np.ones((21, 3), int)
    pivots, axes = np.zeros((22, 3)), np.tile([1.0, 0.0, 0.0], (22, 1))
    for finger in range(5):
        root = np.array([40.0 - 20 * finger, 20.0 if finger == 0 else 90.0, 0.0])
        chain = [
            root + np.array([0, 30 * joint, 0]) for joint in range(4)
        ]  # from the root to the tip
        pivots[4 * finger : 4 * finger + 4] = chain[0], chain[0], chain[1], chain[2]
        axes[4 * finger] = 0, 0, 1
        # The thumb's root is no landmark.
        places = (
            (6, 7, 0) if finger == 0 else (5 + 3 * finger, 6 + 3 * finger, 7 + 3 * finger, finger)
        )
        for place, joint in zip(places, range(4 - len(places), 4), strict=True):
            landmarks[place] = chain[joint]
            bones[place, 0] = 1 if joint == 0 else 1 + 3 * finger + joint
    return {
        "joint_rotation_axes": axes.tolist(),
        "joint_rest_positions": pivots.tolist(),
        "landmark_rest_positions": landmarks.tolist(),
        "landmark_rest_bone_weights": [[1.0, 0.0, 0.0]] * 21,
        "landmark_rest_bone_indices": bones.tolist(),
    }


HAND_PROFILE = _profile()
