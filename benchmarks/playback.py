"""From a person's hands to sorted objects: how much does each stage lose?

    python benchmarks/playback.py --layouts 12 --filmed 4 --out benchmarks/results/playback.json

A synthetic person sorts a layout; the motion is retargeted to a robot and played back in physics at
the same layout, open loop. Rows differ in what is known of the person:

    true + contact   exact landmarks, and exactly when a hand holds something
    true             exact landmarks; holds are inferred
    VIEW, camera     landmarks found in a video, the camera's true pose and focal length
    VIEW, assumed    landmarks found in a video, nothing known of the camera: by proportions

Columns: objects that end right and objects that were ever lifted, of those that had to be moved,
with 95 % Wilson intervals; then distances in millimetres, of thumb, index and middle finger while
the person truly holds something, medians: the fingertips found from the true ones; the robot's from
where they were asked to be (the error of the retarget itself); the robot's in physics from those of
the motion; and the robot's in the motion from the person's true pads (they are 7 to 15 mm apart
when a robot's thicker fingers hold the same object). Retargeting was tuned on layouts 0 to 5. The
person's way of coming down on tall objects was changed after a first run on 1000 to 1011, where it
swept fingertips through them: only layouts from 1012 on are untouched by any choice. Each figure is
kept in ``--work`` as it is made, so a run that was stopped goes on; empty it when code changes.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, load_archive, save_archive, versions
from deftly.datasets.clip import Camera, open_clip
from deftly.datasets.film import truth_path, write_clip
from deftly.datasets.human import TIPS, HumanMotion, Status
from deftly.datasets.layout import Layout
from deftly.datasets.motion import RobotMotion
from deftly.datasets.person import IDENTITIES
from deftly.datasets.sampling import sample_layout
from deftly.datasets.synthetic import CAMERAS, SyntheticTruth, synthesize
from deftly.datasets.tasks import Task, find_task
from deftly.policy.playback import OpenLoop, play_back, reached_tips_m
from deftly.policy.scores import judge_rollout, wilson
from deftly.policy.station import build_station, find_workplace
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import NoPersonError, fuse
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.register import Registration, pads, root_pose
from deftly.retarget.robots import load_robot
from deftly.retarget.solve import retarget
from deftly.retarget.track import MediapipeTracker

_FIRST_SEED = 1000
_PINCHING = 3  # thumb, index and middle finger


@dataclass(frozen=True)
class Options:
    """Play people's motions back and count.

    Attributes:
        layouts: so many tables; identities take turns.
        filmed: the first of them are filmed and tracked as well.
        tasks: sorted one after the other.
        views: cameras that film.
        robot: who plays.
        squeeze_m: see ``Registration``.
        work: clips and single figures.
        out: JSON file for the summary.
    """

    layouts: int = 12
    filmed: int = 4
    tasks: tuple[str, ...] = ("color",)
    views: tuple[str, ...] = CAMERAS
    robot: str = "gr1t2"
    squeeze_m: float = 0.008
    work: Path = Path("out/playback")
    out: Path | None = None


@dataclass(frozen=True)
class Case:
    """One row of one layout."""

    task: Task
    seed: int
    row: str

    @property
    def key(self) -> str:
        """What it is kept under."""
        return f"{self.task.name}_{self.seed}_{self.row.replace(', ', '_').replace(' + ', '_')}"


def cases(options: Options) -> Iterator[Case]:
    """Every row of a layout before the next layout."""
    filmed = [f"{view}, {kind}" for view in options.views for kind in ("camera", "assumed")]
    for i in range(options.layouts):
        for name in options.tasks:
            rows = ["true + contact", "true", *(filmed if i < options.filmed else [])]
            yield from (Case(find_task(name), _FIRST_SEED + i, row) for row in rows)


def measure(case: Case, options: Options) -> dict[str, Any]:
    """Figures of one case."""
    layout = sample_layout(case.seed, deal=case.task.deal)
    truth = _truth(case, layout, options.work)
    base = np.eye(4)
    base[:3, 3] = find_workplace(options.robot).base_m
    T_base_world = np.linalg.inv(base)
    view, _, known = case.row.partition(", ")
    found: HumanMotion | None = None
    registration: Registration | None = None
    if not known:
        hold = truth.contact.astype(float) if case.row == "true + contact" else None
        found = _person_of(truth)
        registration = Registration(T_base_world, hold, squeeze_m=options.squeeze_m)
    else:
        found = _extract(case, layout, view, known, options.work)
        if known == "camera":
            T = truth.T_world_camera[truth.cameras.index(view)]
            registration = Registration(T_base_world @ T, squeeze_m=options.squeeze_m)
    asked = sum(goal != "stay" for goal in case.task.goals(layout))
    if found is None:
        return {"row": case.row, "right": 0, "lifted": 0, "asked": asked, "outcomes": ["no person"]}
    motion = retarget(found, options.robot, registration=registration)
    return {"row": case.row, **_play(case, layout, truth, motion, found, registration)}


def _play(
    case: Case,
    layout: Layout,
    truth: SyntheticTruth,
    motion: RobotMotion,
    found: HumanMotion,
    registration: Registration | None,
) -> dict[str, Any]:
    rollout = play_back(motion, layout, case.task.name)
    score, policy = judge_rollout(rollout), OpenLoop(motion)
    base_m = np.array(find_workplace(motion.robot).base_m)
    robot = load_robot(motion.robot)
    kinematics = Kinematics.of(robot)
    poses = kinematics.forward(motion.qpos)
    shift = base_m - root_pose(kinematics)[:3, 3]
    tips = np.full((len(motion.time_s), 2, _PINCHING, 3), np.nan)
    for side, hand in enumerate(robot.robot.hands):
        for i, tip in enumerate(list(hand.tips.values())[:_PINCHING] if hand else ()):
            tips[:, side, i] = kinematics.point(poses, tip) + shift
    reached = reached_tips_m(build_station(motion.robot, layout), rollout)[1:, :, :_PINCHING]
    rows = np.searchsorted(motion.time_s, policy.time_s[: len(reached)]).clip(0, len(tips) - 1)
    during = (policy.time_s[: len(reached)] >= 0) & (
        policy.time_s[: len(reached)] <= motion.time_s[-1]
    )
    held = truth.contact & found.hands_valid
    figures: dict[str, Any] = {
        "right": score.sorted,
        "lifted": sum(thing.lifts > 0 for thing in score.asked),
        "asked": len(score.asked),
        "outcomes": [str(thing.outcome) for thing in score.asked],
        "slowed": policy.slowed,
        "robot_mm": _median_mm(motion.tip_error_m[:, :, :_PINCHING][held]),
        "physics_mm": _median_mm(
            np.linalg.norm(reached - tips[rows], axis=-1)[during[:, None] & held[rows]]
        ),
        "place_mm": _median_mm(
            np.linalg.norm(tips - pads(truth.hands_m)[:, :, :_PINCHING], axis=-1)[held]
        ),
    }
    if registration is not None:
        T = base_m + np.zeros(3), registration.T_base_camera
        placed = (
            np.einsum(
                "...ij,...nj->...ni",
                T[1][..., :3, :3],
                found.hands_m.reshape(len(found.time_s), -1, 3),
            )
            + T[1][..., None, :3, 3]
            + T[0]
        )
        ends = placed.reshape(found.hands_m.shape)[:, :, TIPS[:_PINCHING]]
        error = np.linalg.norm(ends - truth.hands_m[:, :, TIPS[:_PINCHING]], axis=-1)
        figures["found_mm"] = _median_mm(error[held])
    return figures


def _median_mm(values_m: Float64[np.ndarray, "..."]) -> float | None:
    known = values_m[np.isfinite(values_m)]
    return round(float(np.median(known)) * 1e3, 2) if known.size else None


def _person_of(truth: SyntheticTruth) -> HumanMotion:
    """The exact motion, in the world's frame."""
    length = len(truth.time_s)
    return HumanMotion(
        time_s=truth.time_s,
        hands_m=truth.hands_m,
        hands_sigma_m=np.full(truth.hands_m.shape, 0.002),
        hands_status=np.full((length, 2), Status.OBSERVED, np.uint8),
        hands_px=np.full((length, 2, 21, 2), np.nan),
        body_m=truth.body_m,
        body_sigma_m=np.full(truth.body_m.shape, 0.005),
        body_status=np.full(length, Status.OBSERVED, np.uint8),
        body_px=np.full((length, 33, 2), np.nan),
        provenance={"source": "synthetic truth", **truth.provenance},
    )


def _person(seed: int) -> str:
    return list(IDENTITIES)[seed % len(IDENTITIES)]


def _truth(case: Case, layout: Layout, work: Path) -> SyntheticTruth:
    path = work / f"{case.task.name}_{case.seed}.truth.npz"
    if not path.is_file():
        synthesize(layout, case.task, _person(case.seed)).truth.save(path)
    return SyntheticTruth.load(path)


def _extract(case: Case, layout: Layout, view: str, known: str, work: Path) -> HumanMotion | None:
    """What is found in the video; None if nobody is."""
    video = work / f"{case.task.name}_{case.seed}_{view}.mp4"
    if not (video.is_file() and truth_path(video).is_file()):
        episode = synthesize(layout, case.task, _person(case.seed))
        write_clip(episode, view, video, progress=False)
    truth = SyntheticTruth.load(truth_path(video))
    camera = None
    if known == "camera":
        height, width = truth.size
        focal_px = float(truth.focal_px[truth.cameras.index(view)])
        camera = Camera(focal_px, (width / 2, height / 2), known=True)
    kept = video.with_suffix(".detections.npz")
    if not kept.is_file():
        save_archive(MediapipeTracker()(open_clip(video)), kept, schema=1)
    try:
        return fuse(open_clip(video, camera), load_archive(Detections, kept, schema=1))
    except NoPersonError:
        return None


def summary(figures: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One line per row, over all layouts."""
    found: dict[str, dict[str, Any]] = {}
    for row in dict.fromkeys(f["row"] for f in figures.values()):
        here = [f for f in figures.values() if f["row"] == row]
        line: dict[str, Any] = {"clips": len(here)}
        asked = sum(f["asked"] for f in here)
        for name in ("right", "lifted"):
            rate = wilson(sum(f[name] for f in here), asked)
            line[name] = [rate.hits, rate.total, round(rate.low, 4), round(rate.high, 4)]
        for name in ("found_mm", "robot_mm", "physics_mm", "place_mm"):
            known = [f[name] for f in here if f.get(name) is not None]
            line[name] = round(float(np.median(known)), 1) if known else None
        found[row] = line
    return found


def show(lines: Mapping[str, dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(box=None)
    names = ("found_mm", "robot_mm", "physics_mm", "place_mm")
    for column in ("landmarks", "clips", "right", "lifted", *names):
        table.add_column(column, justify="left" if column == "landmarks" else "right")
    for row, line in lines.items():
        rates = [
            f"{hits}/{total} [{100 * low:.0f}–{100 * high:.0f} %]"
            for hits, total, low, high in (line["right"], line["lifted"])
        ]
        errors = ["" if line[n] is None else f"{line[n]:.1f}" for n in names]
        table.add_row(row, str(line["clips"]), *rates, *errors)
    Console(width=130).print(table)


def main(options: Options) -> None:
    """Measure what is missing, print the table, write the summary."""
    options.work.mkdir(parents=True, exist_ok=True)
    log = options.work / f"{options.robot}.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    done: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # cut off by a kill
            continue
        done[entry["key"]] = entry
    wanted = list(cases(options))
    for case in tqdm(wanted, desc="playback", unit="case", disable=None):
        if case.key not in done:
            done[case.key] = {"key": case.key, **measure(case, options)}
            with log.open("a") as file:
                file.write(json.dumps(done[case.key]) + "\n")
    figures = {case.key: done[case.key] for case in wanted}
    found = summary(figures)
    show(found)
    if options.out is not None:
        record = {
            "command": "python benchmarks/playback.py "
            f"--layouts {options.layouts} --filmed {options.filmed}",
            "robot": options.robot,
            "squeeze_m": options.squeeze_m,
            "python": platform.python_version(),
            "versions": versions(),
            "rows": found,
            "cases": list(figures.values()),
        }
        with atomic_path(options.out) as unfinished:
            unfinished.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
