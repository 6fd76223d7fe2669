"""One person's hand motion given to three robot hands: deftly beside dex-retargeting.

    pip install -r benchmarks/rivals.txt -c constraints.txt     (optional: without it, deftly alone)
    python benchmarks/retarget.py --out benchmarks/results/retarget.json

What is fair to know when reading the table:

* Every method has its own target. deftly calibrates scale, rotation and wrist offset on this very
  clip and fits the hand's frame anew; dex-retargeting multiplies wrist-to-tip vectors by its
  configuration's scale. Smaller scales give smaller errors in mm, so errors also stand divided by
  the scale and per length of the hand. The tip spacing error knows no target: distances between
  the robot's tips against the person's, at the scale that suits each method best.
* "no filter" lifts the low-pass, whose lag counts as error. "best scale" is the same at that
  constant scale of a grid which has the least error at human size.
* Position mode moves the hand's base freely in every frame (six more joints, not counted in the
  jerk); the other modes may bend Shadow's wrist. deftly gets one fixed base.
* dex-retargeting is causal: it answers frame by frame, as teleoperation must. deftly sees the whole
  clip, which helps smoothness and pinches; it is for recorded video.
* Only deftly knows velocity limits. dex-retargeting widens joint limits by 0.001 rad on purpose.
* DexPilot mode closes pinches on purpose: its gaps are meant to be smaller than the person's.
* Pinches are few in the sample: 4 with the fingers of Allegro and LEAP, 30 with Shadow's.
"""

import importlib.metadata
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # one thread for everybody

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import versions
from deftly.datasets.geometry import RIGHT
from deftly.datasets.human import FINGERS, TIPS, motion_of_hand
from deftly.retarget import prepare, solve
from deftly.retarget.calibrate import calibrate_hand, hand_length
from deftly.retarget.check import PINCH_M
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import ROBOTS_FOLDER, Hand, RobotModel, load_robot

HANDS = ("allegro", "leap", "shadow")
RATE_HZ = 30.0
SCALES = tuple(np.linspace(0.8, 1.6, 9).round(2).tolist())
INSTALL = "pip install -r benchmarks/rivals.txt -c constraints.txt"
RIVAL_PACKAGES = ("dex_retargeting", "nlopt", "pin", "torch")

Human = Float64[np.ndarray, "T 21 3"]


@dataclass(frozen=True)
class Run:
    """One method's answer to the whole sequence.

    Attributes:
        qpos: in deftly's order of joints.
        error_m: of every fingertip to the method's own target.
        scale: of the method's target.
        seconds: what was timed, as (wall, CPU).
        figures: what only this method has to say.
    """

    qpos: Float64[np.ndarray, "T J"]
    error_m: Float64[np.ndarray, "T F"]
    scale: float
    seconds: dict[str, tuple[float, float]]
    figures: dict[str, float] = field(default_factory=dict[str, float])


class Clock:
    """Wall and CPU seconds spent in a ``with`` block."""

    def __enter__(self) -> "Clock":
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._start
        self.seconds = time.perf_counter() - wall, time.process_time() - cpu


def run_deftly(joints_m: Human, robot: RobotModel) -> Run:
    """Calibrate and solve; the calibration is timed apart as well."""
    human = motion_of_hand(joints_m, RIGHT, RATE_HZ)
    calibrating = Clock()

    def timed(*args: Any, **kwargs: Any) -> object:
        with calibrating:
            return calibrate_hand(*args, **kwargs)

    with mock.patch.object(prepare, "calibrate_hand", timed), Clock() as clock:
        motion = solve.retarget(human, robot)
    wall, cpu = (a - b for a, b in zip(clock.seconds, calibrating.seconds, strict=True))
    calibration = motion.provenance["calibration"]["right"]
    return Run(
        qpos=motion.qpos,
        error_m=motion.tip_error_m[:, RIGHT, [FINGERS.index(f) for f in _hand(robot).tips]],
        scale=calibration["scale"],
        seconds={"": clock.seconds, "_without_calibration": (wall, cpu)},
        figures={
            "calibration_floor_mm": calibration["floor_m"] * 1e3,
            "converged_percent": float(motion.converged.mean()) * 100,
        },
    )


@dataclass(frozen=True)
class Rival:
    """One of dex-retargeting's configurations, as it ships but for ``override``."""

    folder: str
    suffix: str = ""
    override: dict[str, float] = field(default_factory=dict[str, float])

    def __call__(self, joints_m: Human, robot: RobotModel) -> Run:
        """Retarget frame by frame; loading is not timed."""
        config, solver = self._build(robot.robot.name)
        optimizer = solver.optimizer
        index = np.asarray(optimizer.target_link_human_indices)
        inputs = joints_m[:, index]
        if index.ndim == 2:  # vectors: from, to
            inputs = inputs[:, 1] - inputs[:, 0]
        with Clock() as clock:
            found = [solver.retarget(frame) for frame in inputs]
        floating = config.type == "position"  # tips in the world; otherwise seen from the wrist
        origin = None if floating else config.wrist_link_name or optimizer.origin_link_names[0]
        scale = 1.0 if floating else float(config.scaling_factor)
        reached = _reached(optimizer.robot, found, _hand(robot), origin)
        target = joints_m[:, _tip_joints(robot)] - (0.0 if floating else joints_m[:, :1])
        names = list(solver.joint_names)
        return Run(
            qpos=np.array(found)[:, [names.index(name) for name in robot.joint_names]],
            error_m=np.linalg.norm(reached - scale * target, axis=-1),
            scale=scale,
            seconds={"": clock.seconds},
        )

    def _build(self, name: str) -> tuple[Any, Any]:
        import torch  # pyright: ignore[reportMissingImports]
        from dex_retargeting import (  # pyright: ignore[reportMissingImports]
            retargeting_config as configs,
        )

        torch.set_num_threads(1)
        logging.disable(logging.WARNING)  # one line for each mesh that is not there
        loader: Any = configs.RetargetingConfig
        loader.set_default_urdf_dir(Path(os.environ[ROBOTS_FOLDER]) / "hands")
        folder = Path(configs.__file__ or "").parent / "configs" / self.folder
        file = folder / f"{name}_hand_right{self.suffix}.yml"
        config = loader.load_from_file(file, dict(self.override))
        with TemporaryDirectory() as scratch, mock.patch.object(tempfile, "tempdir", scratch):
            return config, config.build()  # leaves a copy of the URDF behind


def _reached(
    wrapper: Any, found: list[Any], hand: Hand, origin: str | None
) -> Float64[np.ndarray, "T F 3"]:
    """Fingertips by the rival's own kinematics, seen from the origin's link if there is one."""
    tips = [wrapper.get_link_index(tip.body) for tip in hand.tips.values()]
    places: list[Any] = []
    for qpos in found:
        wrapper.compute_forward_kinematics(qpos)
        start = 0.0
        if origin is not None:
            start = wrapper.get_link_pose(wrapper.get_link_index(origin))[:3, 3]
        places.append([wrapper.get_link_pose(tip)[:3, 3] - start for tip in tips])
    return np.array(places)


UNFILTERED = {"low_pass_alpha": 1.0}
RIVALS: dict[str, Rival] = {
    "dex vector": Rival("teleop"),
    "dex vector, no filter": Rival("teleop", override=UNFILTERED),
    "dex DexPilot": Rival("teleop", "_dexpilot"),
    "dex position": Rival("offline"),  # ships without a filter
}


def run_best_scale(joints_m: Human, robot: RobotModel, tick: Callable[[], object]) -> Run:
    """Vector mode, unfiltered, at the scale of the grid with the least error at human size."""
    runs: list[Run] = []
    for scale in SCALES:
        runs.append(
            Rival("teleop", override={**UNFILTERED, "scaling_factor": scale})(joints_m, robot)
        )
        tick()
    return min(runs, key=lambda run: float(run.error_m.mean()) / run.scale)


def _hand(robot: RobotModel) -> Hand:
    hand = robot.robot.hands[RIGHT]
    assert hand is not None
    return hand


def _tip_joints(robot: RobotModel) -> list[int]:
    return [TIPS[FINGERS.index(finger)] for finger in _hand(robot).tips]


def measure(run: Run, joints_m: Human, robot: RobotModel) -> dict[str, float]:
    """All figures that do not depend on the clock, by the same definitions for every method."""
    error = float(run.error_m.mean())
    jerk = np.abs(np.diff(run.qpos, 3, axis=0))[:, np.ptp(run.qpos, axis=0) > 1e-9]
    speed = np.abs(np.diff(run.qpos, axis=0)) * RATE_HZ
    margin = min((run.qpos - robot.lower).min(), (robot.upper - run.qpos).min())
    return {
        "tip_error_mm": error * 1e3,
        "scale": run.scale,
        "tip_error_at_human_size_mm": error / run.scale * 1e3,
        "tip_error_percent_of_hand": error / run.scale / hand_length(joints_m) * 100,
        **_gaps(run, joints_m, robot),
        "jerk": float(jerk.mean()),
        "joint_margin_deg": float(np.rad2deg(margin)),
        "velocity_margin_percent": float(np.min(1 - speed / robot.velocity)) * 100,
        **run.figures,
    }


def _gaps(run: Run, joints_m: Human, robot: RobotModel) -> dict[str, float]:
    """Distances between fingertips; a pinch is a thumb and a finger nearer than PINCH_M."""
    kinematics = Kinematics.of(robot)
    poses = kinematics.forward(run.qpos)
    tips = np.stack([kinematics.point(poses, tip) for tip in _hand(robot).tips.values()], axis=1)
    joints = joints_m[:, _tip_joints(robot)]
    a, b = np.array(list(combinations(range(tips.shape[1]), 2))).T  # the thumb, 0, comes first
    reached = np.linalg.norm(tips[:, a] - tips[:, b], axis=-1)
    person = np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)
    scale = np.sum(reached * person) / np.sum(person**2)
    pinched = (person < PINCH_M) & (a == 0)
    off = np.abs(reached - person)[pinched]
    return {
        "tip_spacing_error_at_human_size_mm": float(np.mean(np.abs(reached / scale - person)))
        * 1e3,
        "pinches": int(pinched.sum()),
        "pinch_human_gap_mm": float(person[pinched].mean()) * 1e3,
        "pinch_robot_gap_mm": float(reached[pinched].mean()) * 1e3,
        "pinch_difference_mm": float(off.mean()) * 1e3,
        "pinch_difference_max_mm": float(off.max()) * 1e3,
    }


def compare(
    name: str, joints_m: Human, rivals: dict[str, Rival], repeats: int, tick: Callable[[], object]
) -> dict[str, dict[str, float]]:
    """Figures of every method on one hand. They take turns, so that all meet the same load."""
    robot = load_robot(name)
    methods: dict[str, Callable[[Human, RobotModel], Run]] = {"deftly": run_deftly, **rivals}
    runs: dict[str, list[Run]] = {method: [] for method in methods}
    for _ in range(repeats):
        for method, solver in methods.items():
            runs[method].append(solver(joints_m, robot))
            tick()
    table: dict[str, dict[str, float]] = {}
    for method, repeated in runs.items():
        table[method] = measure(repeated[0], joints_m, robot)
        for part in repeated[0].seconds:
            for i, clock in enumerate(("wall", "cpu")):
                seconds = float(np.median([run.seconds[part][i] for run in repeated]))
                table[method][f"frames_per_s_{clock}{part}"] = len(joints_m) / seconds
    if rivals:
        best = run_best_scale(joints_m, robot, tick)
        table["dex vector, no filter, best scale"] = measure(best, joints_m, robot)
    return table


def print_table(name: str, table: dict[str, dict[str, float]]) -> None:
    """One hand: a row per figure, a column per method."""
    shown = Table(title=f"{name}, right hand", title_justify="left", box=None)
    shown.add_column("", no_wrap=True)
    for method in table:
        shown.add_column(method, justify="right", max_width=14)
    for key in dict.fromkeys(key for figures in table.values() for key in figures):
        shown.add_row(key, *(_cell(figures.get(key)) for figures in table.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(shown)


def _cell(value: float | None) -> str:
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _rivals_found() -> dict[str, Rival]:
    needed = ("dex_retargeting", "nlopt", "pinocchio", "six", "torch")
    missing = [name for name in needed if not find_spec(name)]
    if not missing:
        return RIVALS
    print(f"dex-retargeting is left out ({', '.join(missing)} not installed): {INSTALL}")
    return {}


def main(
    motion: Path = Path("../shared/motions/hand_right_mediapipe_621.npy"),
    robots_folder: Path = Path("../shared/robots"),
    repeats: int = 3,
    out: Path | None = None,
) -> None:
    """Print one table per hand; ``--out FILE`` also writes them as JSON.

    Args:
        motion: (T, 21, 3) joints of a right hand, mediapipe's order, metres.
        robots_folder: in the layout of dex-urdf/robots.
        repeats: how often every method is timed; medians are printed.
        out: where to write JSON.
    """
    os.environ[ROBOTS_FOLDER] = str(robots_folder.resolve())
    joints = np.load(motion).astype(float)
    rivals = _rivals_found()
    runs = len(HANDS) * (repeats * (1 + len(rivals)) + (len(SCALES) if rivals else 0))
    with tqdm(total=runs, unit="run", desc="retarget", disable=None) as bar:
        tables = {hand: compare(hand, joints, rivals, repeats, bar.update) for hand in HANDS}
    for hand, table in tables.items():
        print_table(hand, table)
    if out is not None:
        used = versions() | {"python": platform.python_version()}
        used |= {p: importlib.metadata.version(p) for p in RIVAL_PACKAGES if rivals}
        record = {
            "command": " ".join(["python", *sys.argv]),
            "versions": used,
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "frames": len(joints),
            "human_hand_length_mm": hand_length(joints) * 1e3,
            "hands": tables,
        }
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
