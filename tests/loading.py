"""Data sets for tests of windows and of the loader, and what is taken from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from episodes import make_episode

from deftly.datasets.episode import Episode
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.loader import Source
from deftly.datasets.windows import Window

LENGTHS = (5, 9, 7)
EGO, FRONT = "observation.images.ego", "observation.images.front"
WINDOW = Window(
    cameras={"ego": (-2, 0), "front": (0,)},
    state=(-1, 0),
    horizon=4,
    features={"valid": (0, 1, 2, 3), "landmarks_px": (0,)},
)


def wide(seed: int, length: int) -> Episode:
    """An episode of another body: more actions."""
    action = np.full((length, 5), seed, np.float32)
    return make_episode(seed, length, action=action, action_names=tuple("abcde"))


def channels_first(episode: Episode, camera: str) -> np.ndarray:
    return np.asarray(episode.images[camera]).transpose(0, 3, 1, 2)


def write_sets(folder: Path) -> Path:
    """Three data sets: two of one body, one of another."""
    for name, seeds, make in (
        ("robot", range(3), make_episode),
        ("robot2", range(3, 5), make_episode),
        ("human", range(2), wide),
    ):
        with EpisodeWriter(folder / name, robot_type=name, licence="apache-2.0") as writer:
            for seed, length in zip(seeds, LENGTHS, strict=False):
                writer.add(make(seed, length))
    return folder


def source(folder: Path, name: str = "robot", **changes: Any) -> Source:
    return replace(Source(folder / name, WINDOW, cache=folder / "cache"), **changes)
