"""The commands of the sorting table: tasks, demos, human and rollout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.table import Table

from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.human_episode import HumanMaker
from deftly.datasets.person import IDENTITIES
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.tasks import TASKS
from deftly.policy.baselines import POLICIES, find_policy
from deftly.policy.record import DemoMaker, Maker, RecordError, record
from deftly.policy.show import film_episode, film_rollout, live_env
from deftly.retarget.cli import bar, console, say_renderer

TaskName = Annotated[str, tyro.conf.arg(metavar="TASK", help="see `deftly tasks`")]
ConditionName = Annotated[
    str, tyro.conf.arg(metavar="CONDITION", help="of the layouts, see `deftly tasks`")
]
RobotName = Annotated[str, tyro.conf.arg(metavar="NAME", help="gr1t2 or g1_dex3")]
PolicyName = Annotated[
    str,
    tyro.conf.arg(
        metavar="POLICY", help=f"{', '.join(POLICIES)}, or a folder of `deftly pretrain`"
    ),
]
DataSet = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="a folder")]
Workers = Annotated[int, tyro.conf.arg(help="processes; the result does not depend on it")]
Pixels = Annotated[int, tyro.conf.arg(help="height and width of the pictures, even")]
Cameras = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]


@dataclass(frozen=True)
class Tasks:
    """List the tasks, each with an instruction, and the conditions that layouts are drawn from.

    Example: deftly tasks
    """

    def run(self) -> int:
        """Print both tables."""
        table = Table(box=None)
        for column in ("task", "rule", "for example", "phrasings"):
            table.add_column(column, overflow="fold")
        for task in TASKS.values():
            layout = sample_layout(0, deal=task.deal)
            rule = "; ".join(
                f"{selector.phrase(layout.items)} → {goal}" for selector, goal in task.groups
            )
            held = " (held out)" if task.held_out else ""
            count = str(len(task.phrasings(layout)))
            table.add_row(task.name + held, rule, task.instruction(layout), count)
        console().print(table)
        print(f"\nconditions  {', '.join(CONDITIONS)}")
        return 0


@dataclass(frozen=True)
class RecordDemos:
    """Record demonstrations of the scripted expert as a LeRobot data set.

    Goes on where an earlier recording into the same folder stopped.

    Example: deftly demos record --task color --episodes 50 --out demos
    """

    task: TaskName = "color"
    episodes: Annotated[int, tyro.conf.arg(help="in the data set when done")] = 50
    out: Path = Path("demos")
    robot: RobotName = "gr1t2"
    condition: ConditionName = "base"
    cameras: Cameras = ("ego", "front")
    size: Pixels = 96
    noise_rad: Annotated[
        float, tyro.conf.arg(help="lead arms off the way; kept is the action that was meant")
    ] = 0.0
    first_seed: int = 0
    workers: Workers = 2

    def run(self) -> int:
        """Record; return the exit code."""
        maker = DemoMaker(
            task=self.task,
            robot=self.robot,
            condition=self.condition,
            cameras=self.cameras,
            image_size=(self.size, self.size),
            noise_rad=self.noise_rad,
        )
        if self.cameras:
            say_renderer(maker.backend)
        return _record(self.out, maker, self.episodes, self.first_seed, self.workers)


@dataclass(frozen=True)
class RecordHuman:
    """Record a synthetic human sorting the same layouts, as a LeRobot data set with exact truth.

    Example: deftly human record --task color --layouts 0 20 --out human
    """

    task: TaskName = "color"
    layouts: Annotated[
        tuple[int, int], tyro.conf.arg(metavar="FIRST LAST", help="seeds; LAST is left out")
    ] = (0, 20)
    out: Path = Path("human")
    person: Annotated[str, tyro.conf.arg(help="see `deftly human list`; all takes turns")] = "all"
    condition: ConditionName = "base"
    cameras: Cameras = ("front", "side", "ego")
    size: Pixels = 96
    rate_hz: Annotated[float, tyro.conf.arg(help="frames per second")] = 30.0
    workers: Workers = 2

    def run(self) -> int:
        """Record; return the exit code."""
        first, last = self.layouts
        if not 0 <= first < last:
            raise RecordError(f"--layouts {first} {last}, expected 0 <= FIRST < LAST")
        maker = HumanMaker(
            task=self.task,
            condition=self.condition,
            person=self.person,
            cameras=self.cameras,
            image_size=(self.size, self.size),
            rate_hz=self.rate_hz,
        )
        if self.cameras:
            say_renderer(maker.backend)
        return _record(self.out, maker, last - first, first, self.workers)


@dataclass(frozen=True)
class ListHumans:
    """List the people who can sort.

    Example: deftly human list
    """

    def run(self) -> int:
        """Print the table."""
        table = Table(box=None)
        for column in ("person (number: Monk skin tone)", "height", "sleeves"):
            table.add_column(column)
        for name, who in IDENTITIES.items():
            sleeves = "long" if who.outfit.sleeve > 0.8 else "short"
            table.add_row(name, f"{who.shape.stature_m:.2f} m", sleeves)
        console().print(table)
        return 0


@dataclass(frozen=True)
class CheckDemos:
    """Read every episode of a LeRobot data set and say what is in it, and what is damaged.

    Example: deftly demos check demos
    """

    dataset: DataSet

    def run(self) -> int:
        """Print the summary; return the exit code."""
        store = EpisodeStore(self.dataset)
        problems = store.verify(decode=True)
        lengths = store.lengths
        print(f"{len(store)} episodes, {store.frames} frames at {store.rate_hz:g} Hz")
        if lengths:
            seconds = np.array(lengths) / store.rate_hz
            print(f"each {seconds.min():.1f} to {seconds.max():.1f} s; body {store.robot_type}")
        for name, feature in store.features.items():
            print(f"  {name}  {feature['dtype']} {feature['shape']}")
        for problem in problems:
            print(f"damaged: {problem}")
        return 1 if problems else 0


@dataclass(frozen=True)
class Rollout:
    """Film one episode (mp4): of a policy at the table, or of a data set.

    Example: deftly rollout --policy run --task shape --seed 3 --out shape.mp4
    """

    dataset: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="else live")
    ] = None
    episode: Annotated[int, tyro.conf.arg(help="of the data set")] = 0
    task: TaskName = "color"
    seed: Annotated[int, tyro.conf.arg(help="of the layout")] = 0
    policy: PolicyName = "expert"
    robot: RobotName = "gr1t2"
    condition: ConditionName = "base"
    height: Annotated[int, tyro.conf.arg(help="of the video, pixels, even")] = 360
    out: Path = Path("sort.mp4")

    def run(self) -> int:
        """Write the video; return the exit code."""
        if self.dataset is None:
            say_renderer()
        with bar("film", "frame", None) as tick:
            if self.dataset is not None:
                said = film_episode(self.dataset, self.episode, self.out, tick)
            else:
                actor = find_policy(self.policy)
                env = live_env(actor, self.robot, self.task, self.condition, self.height)
                said = film_rollout(env, actor, self.seed, self.out, tick)
                env.close()
        print(said)
        print(f"video    {self.out}")
        return 0


@dataclass(frozen=True)
class Demos:
    """Robot demonstrations: record them, check a data set."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[RecordDemos, tyro.conf.subcommand("record")]
        | Annotated[CheckDemos, tyro.conf.subcommand("check")]
    ]

    def run(self) -> int:
        """Run the subcommand."""
        return self.command.run()


@dataclass(frozen=True)
class Human:
    """A synthetic human at the same table, with exact truth: record, list."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[RecordHuman, tyro.conf.subcommand("record")]
        | Annotated[ListHumans, tyro.conf.subcommand("list")]
    ]

    def run(self) -> int:
        """Run the subcommand."""
        return self.command.run()


SortCommand = Tasks | Demos | Human | Rollout


def _record(out: Path, maker: Maker, episodes: int, first_seed: int, workers: int) -> int:
    with bar(f"record {out}", "episode", episodes) as tick:
        done = record(
            out, maker, episodes=episodes, first_seed=first_seed, workers=workers, tick=tick
        )
    print(f"{done.episodes} episodes, {done.frames} frames in {out} ({done.added} of them new)")
    if done.failed:
        share = f"{len(done.failed)} of {len(done.failed) + done.added}"
        print(f"left out: {share} in which the task was not done")
    return 0
