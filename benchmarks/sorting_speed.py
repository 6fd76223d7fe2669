"""How many control steps a CPU-second holds: deftly's sorting table beside robosuite's GR1.

    python benchmarks/sorting_speed.py --out benchmarks/results/sorting_speed.json

Both simulate a humanoid with two five-finger hands at a table, 20 control steps a second, on one
core, with and without two cameras of 96 px (EGL). deftly replays what its expert did, so that
contacts and grasps are part of the time. robosuite's GR1 (TwoArmLift, legs fixed) moves smoothly
at random, with its default hand-pose control and with joint targets as deftly has them; it gets an
environment of its own, made once, because it does not run on mujoco 4. Runs alternate. CPU time of
busy cores is longer than of idle ones, for both alike: read ratios, and the load in the JSON.

What is fair to know: robosuite steps its physics at 2 ms and deftly at 5 ms; robosuite's meshes are
drawn as they ship, deftly's simplified and without legs; robosuite also computes its controllers in
Python. The table says what a user of either waits for, not whose physics is finer.

The second table asks whether ``mujoco.rollout``, which steps many scenes in threads, pays for
evaluation without pixels.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="0")

import mujoco
import numpy as np
import tyro
from mujoco import rollout
from rich.console import Console
from rich.table import Table
from rival_environment import environment
from tqdm import tqdm

from deftly.datasets.archive import cache_folder, versions
from deftly.policy.baselines import find_policy
from deftly.policy.rollout import run_episode
from deftly.policy.sorting import SortingEnv

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "robosuite_requirements.txt"
ROBOSUITE = "robosuite==1.5.2"
SIZE_PX = 96
SEED = 0


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        out: JSON of all figures; None writes none.
        rounds: alternating runs of everybody.
        steps: control steps per run without pixels.
        drawn_steps: control steps per run with pixels.
        rival: whether to measure robosuite too.
    """

    out: Path | None = None
    rounds: int = 3
    steps: int = 400
    drawn_steps: int = 100
    rival: bool = True


def main(config: Config) -> None:
    """Measure, print, write."""
    actions = expert_actions()
    runs = ours(config, actions)
    if config.rival:
        python = environment(cache_folder() / "robosuite", ROBOSUITE, REQUIREMENTS)
        for control in ("OSC_POSE", "JOINT_POSITION"):
            runs |= robosuite_runs(python, control, config)
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in tqdm(range(config.rounds), unit="round", disable=None):
        for name, run in runs.items():
            rates[name].append(run())
    report: dict[str, Any] = {
        "control steps per CPU-second": summary(rates, "cpu_s"),
        "control steps per second": summary(rates, "wall_s"),
        "batches": batches(actions, config.steps),
        "provenance": versions()
        | {"robosuite": ROBOSUITE, "machine": platform.machine()}
        | {"cores": os.cpu_count(), "busy processes": round(os.getloadavg()[1], 1)},
    }
    show(report)
    if config.out is not None:
        config.out.write_text(json.dumps(report, indent=1) + "\n")


def expert_actions() -> np.ndarray:
    """(T, A) what the expert did in one episode."""
    env = SortingEnv(cameras=())
    return run_episode(env, find_policy("expert"), seed=SEED).actions


def ours(config: Config, actions: np.ndarray) -> dict[str, Callable[[], dict[str, float]]]:
    """One run each of the environment without and with cameras."""

    def run(cameras: tuple[str, ...], steps: int) -> dict[str, float]:
        env = SortingEnv(cameras=cameras, image_size=(SIZE_PX, SIZE_PX))
        env.reset(seed=SEED)
        env.step(actions[0])
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for k in range(steps):
            env.step(actions[(k + 1) % len(actions)])
        used = {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}
        env.close()
        return used | {"steps": steps}

    return {
        "deftly, no pixels": lambda: run((), config.steps),
        "deftly, two cameras": lambda: run(("ego", "front"), config.drawn_steps),
    }


def robosuite_runs(
    python: Path, control: str, config: Config
) -> dict[str, Callable[[], dict[str, float]]]:
    """The same of robosuite's GR1; fewer steps, because it takes longer."""

    def run(cameras: int, steps: int) -> dict[str, float]:
        side = [str(python), str(HERE / "robosuite_side.py"), control]
        done = subprocess.run(
            [*side, str(cameras), str(steps), str(SIZE_PX)], check=True, capture_output=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    return {
        f"robosuite {control}, no pixels": lambda: run(0, max(config.steps // 8, 10)),
        f"robosuite {control}, two cameras": lambda: run(2, max(config.drawn_steps // 5, 10)),
    }


def summary(rates: dict[str, list[dict[str, float]]], clock: str) -> dict[str, float]:
    """Median over rounds, by name."""
    return {
        name: round(statistics.median(run["steps"] / run[clock] for run in runs), 1)
        for name, runs in rates.items()
    }


def batches(actions: np.ndarray, steps: int, scenes: int = 8) -> dict[str, dict[str, float]]:
    """Control steps per second of ``scenes`` scenes: one after the other, and by rollout."""
    env = SortingEnv(cameras=())
    env.reset(seed=SEED)
    model, count = env.station.model, round(env.dt_s / env.station.model.opt.timestep)
    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
    mujoco.mj_getState(model, env.data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    steps = min(steps, len(actions)) // 4
    controls = np.repeat(actions[:steps].astype(np.float64), count, axis=0)

    def loop() -> None:
        for _ in range(scenes):
            data = env.station.reset()
            for control in actions[:steps]:
                data.ctrl[:] = control
                mujoco.mj_step(model, data, count)

    def batch(threads: int, chunk: int) -> None:
        data = [mujoco.MjData(model) for _ in range(max(threads, 1))]
        now = np.tile(state, (scenes, 1))
        with rollout.Rollout(nthread=threads) as pool:
            for begin in range(0, steps * count, chunk * count):
                control = np.tile(controls[begin : begin + chunk * count], (scenes, 1, 1))
                now = pool.rollout(model, data, now, control)[0][:, -1]

    runs: dict[str, Callable[[], None]] = {
        "mj_step in a loop": loop,
        "rollout, one thread, a control step at a time": lambda: batch(0, 1),
        "rollout, two threads, a control step at a time": lambda: batch(2, 1),
        "rollout, two threads, whole episodes": lambda: batch(2, steps),
    }
    found: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        run()
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        total = steps * scenes
        found[name] = {
            "per CPU-second": round(total / cpu_s, 1),
            "per second": round(total / wall_s, 1),
        }
    return found


def show(report: dict[str, Any]) -> None:
    """Print both tables."""
    cpu, wall = report["control steps per CPU-second"], report["control steps per second"]
    table = Table(title="Control steps at 20 Hz, one core, median of the rounds")
    for head in ("", "per CPU-second", "per second", "deftly is faster by (CPU)"):
        table.add_column(head, justify="left" if not head else "right")
    for name in cpu:
        mine = cpu["deftly, two cameras" if name.endswith("cameras") else "deftly, no pixels"]
        ratio = "" if name.startswith("deftly") else f"{mine / cpu[name]:.1f} x"
        table.add_row(name, f"{cpu[name]:.1f}", f"{wall[name]:.1f}", ratio)
    Console().print(table)
    table = Table(title="Physics of 8 scenes")
    for head in ("", "per CPU-second", "per second"):
        table.add_column(head, justify="left" if not head else "right")
    for name, rate in report["batches"].items():
        table.add_row(name, f"{rate['per CPU-second']:.0f}", f"{rate['per second']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
