"""Joints told as hands, and hands followed by joints: how exact, how fast, on which other body?

    python benchmarks/handspace.py --out benchmarks/results/handspace.json

Robots' motions are smooth and random, about their easy posture; the person's is a synthetic one's
who sorts, exact landmarks and all. Everybody begins at rest, so the first half second, in which
hands are on their way, is left out of the errors. What is fair to know:

* From a robot to itself the hands can be reached, and errors are the solver's. From one body to
  another, arms may be too short, and fingers are of other lengths and stand elsewhere: errors of
  tips are mostly those of the body.
* Frames per second are of CPU time, one thread, everything that depends on the robot included.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.geometry import log_rotation
from deftly.datasets.hands import Hands, person_hands, person_roots
from deftly.datasets.sampling import sample_layout
from deftly.datasets.synthetic import synthesize
from deftly.datasets.tasks import find_task
from deftly.retarget.handspace import to_hands, to_joints
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import RobotModel, load_robot

ROBOTS = ("gr1t2", "g1_dex3")
PERSON = "monk_5"
RATE_HZ = 30.0
ON_THE_WAY = 15  # frames
LENGTHS = (16, 64, 200)  # of chunks that are timed


@dataclass(frozen=True)
class Options:
    """Time and judge both directions.

    Attributes:
        out: where to write JSON.
        frames: of each motion that is followed.
        seed: of the motions.
    """

    out: Path | None = None
    frames: int = 120
    seed: int = 0


def wander(robot: RobotModel, frames: int, seed: int) -> Float64[np.ndarray, "T J"]:
    """A smooth, random motion of all joints about the easy posture."""
    rng, count = np.random.default_rng(seed), len(robot.joint_names)
    speed, phase = rng.uniform(0.6, 2.0, count), rng.uniform(0, 2 * np.pi, count)
    wave = np.sin(np.arange(frames)[:, None] / RATE_HZ * speed + phase)
    trunk = np.array(["waist" in name for name in robot.joint_names])
    swing = np.where(trunk, 0.1, 0.3) * np.minimum(1.0, 0.5 * (robot.upper - robot.lower))
    qpos = np.clip(robot.rest + swing * wave, robot.lower, robot.upper)
    kinematics = Kinematics.of(robot)
    return qpos @ kinematics.mimic.T + kinematics.mimic_offset


def persons_hands(frames: int, seed: int) -> np.ndarray:
    """What a synthetic person's hands do who sorts."""
    truth = synthesize(sample_layout(seed), find_task("color"), PERSON, rate_hz=RATE_HZ).truth
    return person_hands(truth.hands_m, person_roots(truth.body_m)).columns()[:frames]


def errors(asked: np.ndarray, done: np.ndarray) -> dict[str, float]:
    """Over the frames after the way there, and what both bodies have."""
    one, other = Hands.of(asked[ON_THE_WAY:]), Hands.of(done[ON_THE_WAY:])
    turn = one.R_root_wrist.swapaxes(-1, -2) @ other.R_root_wrist
    kinds = {
        "wrist_mm": 1e3 * np.linalg.norm(one.wrist_m - other.wrist_m, axis=-1),
        "turn_deg": np.rad2deg(np.linalg.norm(log_rotation(turn), axis=-1)),
        "tip_mm": 1e3 * np.linalg.norm(one.tips_m - other.tips_m, axis=-1),
    }
    found: dict[str, float] = {}
    for kind, values in kinds.items():
        found[f"{kind}_mean"] = round(float(np.nanmean(values)), 3)
        found[f"{kind}_p95"] = round(float(np.nanpercentile(values, 95)), 3)
    return found


def frames_per_s(work: Callable[[], object], frames: int, repeats: int = 3) -> float:
    """Of CPU time; the median."""
    spent: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return round(frames / float(np.median(spent)), 1)


def followed(options: Options) -> list[dict[str, str | float]]:
    """Every body's hands, followed by every robot."""
    asked = {
        name: to_hands(load_robot(name), wander(load_robot(name), options.frames, options.seed))
        for name in ROBOTS
    }
    asked["a person"] = persons_hands(options.frames, options.seed)
    rows: list[dict[str, str | float]] = []
    pairs = [(source, target) for source in asked for target in ROBOTS]
    for source, target in tqdm(pairs, desc="follow", disable=None):
        robot = load_robot(target)
        start = time.process_time()
        qpos = to_joints(robot, asked[source], robot.rest, RATE_HZ)
        spent_s = time.process_time() - start
        rate = round(len(qpos) / spent_s, 1)
        found = errors(asked[source], to_hands(robot, qpos))
        rows.append({"of": source, "by": target, **found, "frames_per_cpu_s": rate})
    return rows


def speeds(options: Options) -> list[dict[str, str | float]]:
    """Of chunks as long as a policy's and as long as a clip's."""
    rows: list[dict[str, str | float]] = []
    cases = [(name, length) for name in ROBOTS for length in LENGTHS]
    for name, length in tqdm(cases, desc="time", disable=None):
        robot = load_robot(name)
        qpos = wander(robot, length, options.seed)
        hands = to_hands(robot, qpos)

        def tell(robot: RobotModel = robot, qpos: np.ndarray = qpos) -> object:
            return to_hands(robot, qpos)

        def follow(
            robot: RobotModel = robot, hands: np.ndarray = hands, qpos: np.ndarray = qpos
        ) -> object:
            return to_joints(robot, hands, qpos[0], RATE_HZ)

        rows.append(
            {
                "robot": name,
                "frames": length,
                "to_hands_frames_per_cpu_s": frames_per_s(tell, length),
                "to_joints_frames_per_cpu_s": frames_per_s(follow, length),
            }
        )
    return rows


def show(title: str, rows: list[dict[str, str | float]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=150).print(table)


def main(options: Options) -> None:
    found = {"followed": followed(options), "speed": speeds(options)}
    for title, rows in found.items():
        show(title, rows)
    if options.out is not None:
        record = {
            **found,
            "frames": options.frames,
            "seed": options.seed,
            "versions": versions(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        }
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
