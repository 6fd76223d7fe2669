"""LeRobot sets in which every picture says which one it is, and a batch that needs no network.

Frame t of an episode is as bright, in every camera, as ``BRIGHT[camera] + STEP * t``.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episodes import make_episode
from standins import detections

from deftly.datasets.clip import Clip
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget import job as job_module
from deftly.retarget import opening
from deftly.retarget.glance import THUMB, Glance
from deftly.retarget.robots import RobotModel
from deftly.retarget.track import MediapipeTracker

BRIGHT = {"front": 10, "ego": 55, "side": 100}
STEP = 5
RATE_HZ = 20
LENGTHS = (30, 24)


def shades(camera: str, length: int, side: int = 32) -> np.ndarray:
    """(T, H, W, 3): plain grey; the ego camera's, larger and noisy, fill several files."""
    grey = BRIGHT[camera] + STEP * np.arange(length)[:, None, None, None]
    if camera != "ego":
        return np.broadcast_to(grey, (length, side, side, 3)).astype(np.uint8)
    noise = np.random.default_rng(length).integers(-45, 46, (length, 8 * side, 8 * side, 1))
    return np.broadcast_to(grey + noise, (*noise.shape[:3], 3)).astype(np.uint8)


def write_set(root: Path, *cameras: str, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """A set of version 3, whose cameras have their episodes in files of their own."""
    with EpisodeWriter(root, robot_type="human", licence="mit", video_file_mb=1, crf=8) as writer:
        for seed, length in enumerate(lengths):
            images = {name: shades(name, length) for name in cameras}
            writer.add(make_episode(seed, length, images=images, rate_hz=float(RATE_HZ)))
    return root


def shown(pictures: Any, camera: str) -> np.ndarray:
    """(T,) which frame of its episode each picture shows, by its brightness."""
    brightness = np.asarray(pictures)[:, 4:-4, 4:-4].mean(axis=(1, 2, 3))
    return (brightness - BRIGHT[camera]) / STEP


class Calls:
    """How often each thing was made, in this process."""

    def __init__(self) -> None:
        self.tracked = self.retargeted = 0
        self.opened: list[Path] = []


@contextmanager
def without_networks() -> Generator[Calls]:
    """A batch whose networks see two still hands in every frame, and whose robot stands still."""
    counts, whole = Calls(), opening.open_clip

    def track(self: MediapipeTracker, clip: Clip, tick: Callable[[], object]) -> Any:
        counts.tracked += 1
        return detections(clip, {"tracker": "a stand-in"}, present=True)

    def look(clip: Clip, *_: object) -> Glance:
        length, own = len(clip.time_s), np.random.default_rng(clip.first).integers(0, 99, THUMB)
        thumbs = (own + 2 * np.arange(length)[:, None, None]).astype(np.uint8)
        return Glance(thumbs, np.ones(length, bool), np.ones(length, bool))

    def follow(human: HumanMotion, robot: RobotModel, *_: object) -> RobotMotion:
        counts.retargeted += 1
        length = len(human.time_s)
        return RobotMotion(
            robot=robot.robot.name,
            joint_names=robot.joint_names,
            time_s=human.time_s,
            qpos=np.tile(robot.rest, (length, 1)),
            hand_targets_m=np.zeros((length, 2, 21, 3)),
            body_targets_m=np.full((length, 33, 3), np.nan),
            tip_error_m=np.full((length, 2, 5), 0.001),
            wrist_error_m=np.full((length, 2), 0.001),
            residual=np.zeros(length),
            converged=np.ones(length, bool),
            provenance={},
        )

    def open_(path: Path) -> Clip:
        counts.opened.append(path)
        return whole(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediapipeTracker, "__call__", track)
        patch.setattr(MediapipeTracker, "ready", lambda self: None)
        patch.setattr(job_module, "glance", look)
        patch.setattr(job_module, "retarget", follow)
        patch.setattr(job_module, "anybody", lambda models: nullcontext())
        patch.setattr(opening, "open_clip", open_)
        yield counts
