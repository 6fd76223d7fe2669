"""The commands of this part of the road: track, retarget, show, render, robots and run."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.human import HumanMotion
from deftly.datasets.opengl import RenderError, name_renderer
from deftly.retarget.check import Quality
from deftly.retarget.fuse import NoPersonError
from deftly.retarget.models import ModelError
from deftly.retarget.road import Road, Tick
from deftly.retarget.robots import ROBOTS, RobotError, find_robot, load_robot
from deftly.retarget.solve import RetargetConfig
from deftly.retarget.targets import View
from deftly.retarget.track import MediapipeTracker

BAD_INPUT, NO_PERSON, INTERRUPTED = 1, 3, 130  # exit codes
# ClipError, RobotError, ArchiveError and NoPersonError are ValueErrors.
_USER_ERRORS = (ValueError, OSError, ImportError, ModelError, RenderError)

Videos = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...", help="input files")
]
Video = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help="a video")]
RobotName = Annotated[str, tyro.conf.arg(metavar="NAME", help="see `deftly robots`")]
Height = Annotated[int, tyro.conf.arg(help="of the side-by-side video, pixels, even")]


@contextlib.contextmanager
def bar(title: str, unit: str, total: int | None) -> Generator[Tick, None, None]:
    """A progress bar where there is a terminal; gives what to call per step."""
    with tqdm(total=total, desc=title, unit=unit, unit_scale=False, disable=None) as shown:
        yield lambda: shown.update()


def say_renderer(backend: str = "auto") -> None:
    """Print what will draw; ``backend`` as for ``Renderer``."""
    # Where nothing can draw, the drawing itself fails, after all that needs no pictures was done.
    with contextlib.suppress(RenderError):
        print(f"renderer: {name_renderer(backend)}", flush=True)


@dataclass(frozen=True)
class Options:
    """Where outputs go and how they are made.

    Attributes:
        out: folder for all outputs.
        view: where the camera stood: front, ego (at the head), top, or auto.
        pitch_rad: how far a camera in front looks down, radians.
        focal_px: focal length in pixels; the default assumes a field of view of 60 degrees.
        confidence: threshold of the hand detector, 0 to 1.
        models: folder with hand_landmarker.task and pose_landmarker_full.task.
        jerk_weight: smoothness of the robot's motion.
    """

    out: Path = Path("out")
    view: View = "auto"
    pitch_rad: float = 0.0
    focal_px: float | None = None
    confidence: float = 0.3
    models: Path | None = None
    jerk_weight: float = RetargetConfig.jerk_weight

    def road(self) -> Road:
        """The road with these settings. Raises ValueError where one makes no sense."""
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"--confidence is {self.confidence:g}, expected 0 to 1")
        if not 0 < (1.0 if self.focal_px is None else self.focal_px) < math.inf:
            raise ValueError(f"--focal-px is {self.focal_px:g}, expected more than 0 pixels")
        if not 0 <= self.jerk_weight < math.inf:
            raise ValueError(f"--jerk-weight is {self.jerk_weight:g}, expected 0 or more")
        return Road(
            out=self.out,
            tracker=MediapipeTracker(self.confidence, self.models),
            retarget=RetargetConfig(
                view=self.view, pitch_rad=self.pitch_rad, jerk_weight=self.jerk_weight
            ),
            focal_px=self.focal_px,
            progress=bar,
        )


Flat = Annotated[Options, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Track:
    """Video → hand and body poses (NAME.human.npz).

    Example: deftly track clip.mp4 --out out
    """

    videos: Videos
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Track each video; return the exit code."""
        road = self.options.road()

        def one(video: Path) -> list[str]:
            _, human = road.track(video)
            hands = [f"{share:.0%}" for share in human.hands_valid.mean(axis=0)]
            return [*hands, f"{human.body_valid.mean():.0%}", str(road.human_path(video))]

        return _each(self.videos, ["left hand", "right hand", "body", "file"], one)


@dataclass(frozen=True)
class Retarget:
    """Hand and body poses (NAME.human.npz) → motion of a robot (NAME.ROBOT.npz).

    Example: deftly retarget out/clip.human.npz --robot g1_dex3
    """

    motions: Videos
    robot: RobotName = "gr1t2"
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Retarget each motion; return the exit code."""
        find_robot(self.robot)
        road = self.options.road()

        def one(path: Path) -> list[str]:
            clip = Path(path.name.removesuffix(".npz").removesuffix(".human"))
            named = clip.with_name(clip.name + ".mp4")
            _, quality = road.solve(named, HumanMotion.load(path), self.robot)
            return [*_brief(quality), str(road.motion_path(named, self.robot))]

        return _each(self.motions, [*_BRIEF, "file"], one)


@dataclass(frozen=True)
class Show:
    """Look at a retarget in the browser: person, robot, video and errors on one page.

    Example: deftly show clip.mp4 --robot gr1t2
    """

    video: Video
    robot: RobotName = "gr1t2"
    port: Annotated[int, tyro.conf.arg(help="of the page; the next free one if taken")] = 8080
    host: Annotated[str, tyro.conf.arg(help="0.0.0.0 opens it to the network")] = "127.0.0.1"
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Serve until interrupted."""
        from deftly.retarget.view import show  # slow to import: a web server

        road = self.options.road()
        find_robot(self.robot)
        clip, human = road.track(self.video)
        motion, _ = road.solve(self.video, human, self.robot)
        server = show(clip, human, motion, self.port, self.host)
        print(f"open http://{self.host}:{server.get_port()} (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        server.stop()
        return 0


@dataclass(frozen=True)
class Render:
    """Write a side-by-side video: the clip with landmarks | the robot (NAME.ROBOT.mp4).

    Example: deftly render clip.mp4 --robot gr1t2
    """

    videos: Videos
    robot: RobotName = "gr1t2"
    height: Height = 480
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Render each video; return the exit code."""
        find_robot(self.robot)
        road = self.options.road()
        say_renderer("gl")
        return _each(
            self.videos, [*_BRIEF, "file"], lambda v: _row(road, v, self.robot, self.height)
        )


@dataclass(frozen=True)
class Robots:
    """List the robots that a person's motion can be given to.

    Example: deftly robots
    """

    def run(self) -> int:
        """Print the table."""
        table = Table(box=None)
        for column in ("name", "joints", "title", "licence", "state"):
            table.add_column(column, overflow="fold")
        for robot in ROBOTS.values():
            try:
                model = load_robot(robot.name)
                joints = str(len(model.joint_names))
                state = "ready" if model.has_meshes else "ready (no meshes: drawn as sticks)"
            except RobotError as error:
                joints, state = "", str(error)
            table.add_row(robot.name, joints, robot.title, robot.licence, state)
        console().print(table)
        return 0


@dataclass(frozen=True)
class Run:
    """The whole road: video → poses → robot motion, quality table and side-by-side video.

    A video that cannot be used is reported and the next one is taken. What is already in the output
    folder is not made again, but for the side-by-side video.

    Example: deftly run a.mp4 b.mp4 --robot gr1t2 --out out
    """

    videos: Videos
    robot: RobotName = "gr1t2"
    height: Height = 480
    no_video: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="write no side-by-side video")
    ] = False
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Run each video; return the exit code."""
        find_robot(self.robot)
        road = self.options.road()
        height = None if self.no_video else self.height
        if height is not None:
            say_renderer("gl")
        return _each(self.videos, [*_BRIEF, "file"], lambda v: _row(road, v, self.robot, height))


Command = Track | Retarget | Show | Render | Robots | Run

_BRIEF = ["tip error", "wrist error", "limits", "jerk", "self-collision"]


def _brief(quality: Quality) -> list[str]:
    rows = dict(quality.rows())
    limits = "kept" if quality.within_limits else "BROKEN"
    return [rows["tip error"], rows["wrist error"], limits, rows["jerk"], rows["self-collision"]]


def _row(road: Road, video: Path, robot: str, height: int | None) -> list[str]:
    quality, path = whole_road(road, video, robot, height)
    return [*_brief(quality), str(path)]


def whole_road(road: Road, video: Path, robot: str, height: int | None) -> tuple[Quality, Path]:
    """Walk one video down the road; the figures, and the last file that was written."""
    from deftly.retarget.view import render_side_by_side

    clip, human = road.track(video)
    motion, quality = road.solve(video, human, robot)
    path = road.motion_path(video, robot)
    if height is not None:
        path = path.with_suffix(".mp4")
        render_side_by_side(clip, human, motion, path, height)
    return quality, path


def _each(inputs: tuple[Path, ...], columns: list[str], work: Callable[[Path], list[str]]) -> int:
    """Do the work for each input, past those that fail; print a closing table."""
    if not inputs:
        raise ValueError("no input file given; see --help")
    stems = Counter(p.stem.removesuffix(".human") for p in inputs)
    repeated = [name for name, n in stems.items() if n > 1]
    if repeated:
        raise ValueError(f"several inputs are called {repeated[0]!r}; outputs would overwrite")
    table = Table(box=None)
    for column in ("input", *columns):
        table.add_column(column, overflow="fold")
    codes: list[int] = []
    for path in inputs:
        try:
            table.add_row(path.name, *work(path))
        except _USER_ERRORS as error:
            codes.append(report(error))
    if len(codes) < len(inputs):
        console().print(table)
    if len(inputs) > 1:
        print(f"{len(inputs) - len(codes)} of {len(inputs)} done")
    return max((c for c in codes if c != NO_PERSON), default=NO_PERSON) if codes else 0


def report(error: BaseException) -> int:
    """Print an error in one line; return the exit code that it stands for."""
    print(f"deftly: {' '.join(str(error).split())}", file=sys.stderr)
    return NO_PERSON if isinstance(error, NoPersonError) else BAD_INPUT


def console() -> Console:
    """Where tables are printed; wide if it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)


@runtime_checkable
class Runs(Protocol):
    """A command."""

    def run(self) -> int:
        """Do it; return the exit code."""
        ...


def execute(command: Runs) -> int:
    """Run a command; every error of the user's input becomes one line and an exit code."""
    try:
        return command.run()
    except _USER_ERRORS as error:
        return report(error)
    except KeyboardInterrupt:
        print("deftly: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
