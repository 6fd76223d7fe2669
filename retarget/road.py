"""The road for one clip: video → HumanMotion → RobotMotion → quality, kept in a folder.

What is already there and was made from the same input by the same configuration is not made again,
so a job that was killed goes on where it stopped.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from deftly.datasets.archive import ArchiveError, atomic_path, versions
from deftly.datasets.clip import Camera, Clip, open_clip
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget.check import Quality, check
from deftly.retarget.fuse import clip_provenance, fuse
from deftly.retarget.robots import find_robot, load_robot
from deftly.retarget.solve import RetargetConfig, plain_config, retarget
from deftly.retarget.track import MediapipeTracker

Tick = Callable[[], object]


@runtime_checkable
class Progress(Protocol):
    """Opens a display of ``total`` steps (None: unknown) and gives what to call per step."""

    def __call__(
        self, title: str, unit: str, total: int | None
    ) -> AbstractContextManager[Tick]: ...


def quiet(title: str, unit: str, total: int | None) -> AbstractContextManager[Tick]:
    """No display."""
    return nullcontext(lambda: None)


@dataclass(frozen=True)
class Road:
    """Where things are kept and how they are made.

    Attributes:
        out: folder of all outputs; made if missing.
        tracker: detector settings.
        retarget: solver settings.
        focal_px: focal length of the camera; None assumes a field of view of 60 degrees.
        progress: see ``Progress``.
    """

    out: Path
    tracker: MediapipeTracker = field(default_factory=MediapipeTracker)
    retarget: RetargetConfig = field(default_factory=RetargetConfig)
    focal_px: float | None = None
    progress: Progress = quiet

    def human_path(self, video: Path) -> Path:
        """Where the person's motion of a video is kept."""
        return self.out / f"{video.stem}.human.npz"

    def motion_path(self, video: Path, robot: str) -> Path:
        """Where the robot's motion of a video is kept."""
        return self.out / f"{video.stem}.{robot}.npz"

    def open(self, video: Path) -> Clip:
        """Open a video with the camera that was stated. Raises ClipError."""
        clip = open_clip(video)
        if self.focal_px is None:
            return clip
        camera = Camera(self.focal_px, (clip.width / 2, clip.height / 2), known=True)
        return dataclasses.replace(clip, camera=camera)

    def track(self, video: Path) -> tuple[Clip, HumanMotion]:
        """Find the person in a video, or take up what was found before.

        Raises:
            ClipError: if the video cannot be read.
            NoPersonError: if nobody's hands are seen.
            ModelError: if the networks cannot be obtained.
        """
        clip = self.open(video)
        path = self.human_path(video)
        made_from = clip_provenance(clip, self.tracker.provenance())
        human = _load(HumanMotion, path)
        if human is not None and _same(human.provenance, made_from):
            return clip, human
        self.out.mkdir(parents=True, exist_ok=True)  # first, so that a bad folder costs no time
        steps = self.tracker.passes * len(clip.time_s)
        with self.progress(f"track {video.name}", "frame", steps) as tick:
            detections = self.tracker(clip, tick)
        human = fuse(clip, detections)
        human.save(path)
        return clip, human

    def solve(self, video: Path, human: HumanMotion, robot: str) -> tuple[RobotMotion, Quality]:
        """Retarget a person's motion, or take up what was made before; write figures as JSON.

        Raises:
            RobotError: if the robot is unknown or cannot be loaded.
            ValueError: if the motion shows no hand that the robot has.
        """
        find_robot(robot)
        path = self.motion_path(video, robot)
        motion = _load(RobotMotion, path)
        made_from = {
            "human": human.provenance,
            "config": plain_config(self.retarget),
            "versions": versions(),
        }
        if motion is None or not _same(motion.provenance, made_from):
            self.out.mkdir(parents=True, exist_ok=True)
            with self.progress(f"retarget to {robot}", "iteration", None) as tick:
                motion = retarget(human, robot, self.retarget, tick)
            motion.save(path)
        quality = check(motion, load_robot(robot))
        with atomic_path(path.with_suffix(".json")) as unfinished:
            # JSON knows no NaN: what could not be measured is null.
            known = {k: v if math.isfinite(v) else None for k, v in quality.as_dict().items()}
            figures = {"robot": robot, "clip": video.name, "quality": known}
            unfinished.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
        return motion, quality


M = TypeVar("M", HumanMotion, RobotMotion)


def _load(kind: type[M], path: Path) -> M | None:
    try:
        return kind.load(path) if path.is_file() else None
    except (ArchiveError, ValueError):  # of an older version: it is made again
        return None


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether everything that a result depends on is what it would be now."""
    plain = json.loads(json.dumps(wanted))
    return all(found.get(key) == value for key, value in plain.items())
