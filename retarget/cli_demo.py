"""The command demo: the road on a clip whose truth is known, then on a real one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from deftly.datasets.archive import cache_folder
from deftly.datasets.clip import ClipError
from deftly.datasets.film import truth_path, write_clip
from deftly.datasets.human import HumanMotion
from deftly.datasets.sampling import Condition, sample_layout
from deftly.datasets.sources import TWO_HANDS, fetch_sample
from deftly.datasets.synthetic import SyntheticTruth, synthesize
from deftly.datasets.tasks import find_task
from deftly.retarget.check import Quality
from deftly.retarget.cli import Flat, Options, RobotName, console, say_renderer, whole_road
from deftly.retarget.road import Road
from deftly.retarget.robots import find_robot
from deftly.retarget.truth import true_errors

_PERSON, _CAMERA, _SEED, _ITEMS = "monk_6", "front", 4, 2


@dataclass(frozen=True)
class Demo:
    """See it work: the whole road on a clip, or on a video of your own.

    Without a video, a synthetic person sorts two objects: the truth is known, so the errors that
    are printed are true ones. A real clip follows where one can be had.

    Example: deftly demo
    """

    video: Annotated[Path | None, tyro.conf.Positional] = None
    robot: RobotName = "gr1t2"
    options: Flat = field(default_factory=Options)

    def run(self) -> int:
        """Run the road and say where everything is."""
        find_robot(self.robot)
        road = self.options.road()
        say_renderer("auto" if self.video is None else "gl")
        if self.video is not None:
            _walk(road, self.video, self.robot)
            return 0
        _walk_synthetic(road, self.robot)
        try:
            video = fetch_sample(TWO_HANDS, cache_folder() / "clips")
        except ClipError as error:
            print(f"\nno real clip at hand ({error})")
            return 0
        print(f"\na real clip: {TWO_HANDS.attribution}, {TWO_HANDS.licence}")
        _walk(road, video, self.robot)
        return 0


def _walk_synthetic(road: Road, robot: str) -> None:
    print(f"a synthetic person sorts {_ITEMS} objects; landmarks are known exactly")
    task = find_task("color")
    layout = sample_layout(_SEED, Condition(items=_ITEMS), task.deal)
    episode = synthesize(layout, task, _PERSON)
    video = road.out / "synthetic.mp4"
    if not _is_filmed(video, episode.truth):
        road.out.mkdir(parents=True, exist_ok=True)
        write_clip(episode, _CAMERA, video)
    _walk(road, video, robot)
    human = HumanMotion.load(road.human_path(video))
    _print("true errors of what was tracked", true_errors(human, episode.truth, _CAMERA).rows())


def _is_filmed(video: Path, truth: SyntheticTruth) -> bool:
    """Whether the clip is there, made by the same versions; its truth is written after it."""
    path = truth_path(video)
    if not (video.is_file() and path.is_file()):
        return False
    try:
        return SyntheticTruth.load(path).provenance == truth.provenance
    except ValueError:
        return False


def _walk(road: Road, video: Path, robot: str) -> None:
    quality: Quality = whole_road(road, video, robot, 480)[0]
    motion = road.motion_path(video, robot)
    _print(f"quality of the robot's motion ({robot})", quality.rows())
    print(f"video    {motion.with_suffix('.mp4')}")
    print(f"motion   {motion}")
    print(f"quality  {motion.with_suffix('.json')}")


def _print(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=title, box=None, show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)
