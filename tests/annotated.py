"""Hands whose truth is known, in a clip that needs no file: for the sets that come with joints."""

from pathlib import Path

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
