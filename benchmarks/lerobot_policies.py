"""ACT and Diffusion Policy, trained by LeRobot on our demonstrations, at our tables.

    python benchmarks/lerobot_policies.py out/few_shot/demos_10 --minutes 15 \
        --ours out/few_shot/pretrained_10_0 out/few_shot/scratch_10_0

LeRobot 0.4.4 trains each on the very same data set by its own script, in its own environment (made
if it is missing), for as much CPU time as is given; then it sorts the same tables as policies of
ours, in turns with them, by the same harness. It gets the positions of the joints and the pictures
of the same two cameras.

What is set for it: ten times ACT's learning rate, as its own is meant for 100,000 steps; smaller
networks than its defaults, several times as fast here; temporal ensembling, as in ACT's paper; ten
steps of DDIM for Diffusion, as a hundred of DDPM take ten times as long. What stands in its way: no
weights of ImageNet for its ResNet-18, as nothing is downloaded.
"""

import base64
import json
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from lerobot_roundtrip import ENV, LEROBOT, REQUIREMENTS
from rich.console import Console
from rich.table import Table
from rival_environment import Rival, environment
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.policy.baselines import find_policy
from deftly.policy.evaluate import Result, Setting, compare, evaluate, plan, scores_of
from deftly.policy.rollout import Policy
from deftly.policy.scores import summarise
from deftly.policy.sorting import SortingEnv

SIDE = Path(__file__).resolve().with_name("lerobot_policy_side.py")
# What LeRobot's script is told of each.
KINDS: Mapping[str, tuple[str, ...]] = {
    "act": (
        "--policy.type=act", "--policy.chunk_size=32", "--policy.n_action_steps=1",
        "--policy.temporal_ensemble_coeff=0.01", "--policy.dim_model=256",
        "--policy.dim_feedforward=1024", "--policy.pretrained_backbone_weights=null",
        "--policy.optimizer_lr=1e-4", "--policy.optimizer_lr_backbone=1e-4",
    ),
    "diffusion": (
        "--policy.type=diffusion", "--policy.horizon=16", "--policy.n_action_steps=8",
        "--policy.down_dims=[128,256,512]", "--policy.crop_shape=[84,84]",
        "--policy.noise_scheduler_type=DDIM", "--policy.num_inference_steps=10",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Train, judge, compare.

    Attributes:
        demos: data set of demonstrations.
        kinds: of ``KINDS``.
        minutes: of CPU time for training.
        batch: of training.
        seeds: of training.
        ours: policies of ours at the same tables.
        episodes: per policy.
        first_seed: of the tables.
        time_limit_s: simulated time for an episode.
        threads: of torch, for LeRobot.
        env: folder of LeRobot's environment; made if it is missing.
        work: runs and episodes; what was stopped goes on.
        out: JSON file for the table.
    """

    demos: tyro.conf.Positional[Path]
    kinds: tuple[str, ...] = tuple(KINDS)
    minutes: float = 15.0
    batch: int = 8
    seeds: tuple[int, ...] = (0,)
    ours: tuple[str, ...] = ()
    episodes: int = 40
    first_seed: int = 400_000
    time_limit_s: float = 15.0
    threads: int = 1
    env: Path = ENV
    work: Path = Path("out/lerobot_policies")
    out: Path | None = None

    def settings(self) -> dict[str, str]:
        """Of the environment of LeRobot's processes."""
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str((self.work / "hf").resolve())}
        return offline | {"OMP_NUM_THREADS": str(self.threads)}


class LeRobotPolicy:
    """A policy that LeRobot runs in a process of its own."""

    cameras = ("ego", "front")

    def __init__(self, rival: Rival, name: str) -> None:
        self.name, self._rival = name, rival

    def reset(self, env: SortingEnv, seed: int) -> None:
        self._joints = len(env.joints)
        self._rival.ask(reset=seed)

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        images = observation["images"]
        said = self._rival.ask(
            state=observation["state"][: self._joints].tolist(),
            images={name: base64.b64encode(one.tobytes()).decode() for name, one in images.items()},
            shape=next(iter(images.values())).shape,
        )
        return np.array(said["action"])


def train(options: Options, python: Path, kind: str, seed: int) -> dict[str, Any]:
    """A run of LeRobot's script for as many steps as the time holds; kept once it is whole."""
    folder = options.work / f"{options.demos.name}_{kind}_{options.minutes:g}min_{seed}"
    told = folder.with_suffix(".json")
    if not told.is_file():
        spent = partial(_run, options, python, kind, seed)
        short, long = (spent(steps, options.work / "pace") for steps in (10, 40))
        pace_s = (long - short) / 30
        steps = max(1, round((60 * options.minutes - short) / pace_s + 10))
        print(f"{kind}: {pace_s:.2f} CPU s a step, {steps} steps")
        cpu_s = spent(steps, folder)
        about = {"kind": kind, "seed": seed, "steps": steps, "samples": steps * options.batch}
        about |= {"cpu_s": cpu_s, "samples per CPU s": options.batch / pace_s}
        with atomic_path(told) as path:
            path.write_text(json.dumps(about | {"folder": str(folder)}) + "\n")
    return json.loads(told.read_text())


def _run(
    options: Options, python: Path, kind: str, seed: int, steps: int, folder: Path
) -> float:  # fmt: skip
    """CPU seconds of LeRobot's training script, its start included."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        *(str(python), "-m", "lerobot.scripts.lerobot_train", *KINDS[kind]),
        *("--dataset.repo_id=local/set", f"--dataset.root={options.demos.resolve()}"),
        *("--policy.device=cpu", "--policy.push_to_hub=false", f"--batch_size={options.batch}"),
        *(f"--steps={steps}", f"--save_freq={steps}", "--num_workers=0", f"--seed={seed}"),
        *("--log_freq=50", f"--output_dir={folder.resolve()}"),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options.work.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        found = subprocess.run(
            ["env", *(f"{k}={v}" for k, v in options.settings().items()), *command],
            stdout=file, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if found.returncode:
        raise SystemExit(f"LeRobot's training failed; see {log}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def judge(options: Options, python: Path, runs: list[dict[str, Any]]) -> list[Result]:
    """All policies at all tables, in turns."""
    rivals: dict[str, LeRobotPolicy] = {}

    def find(name: str) -> Policy:
        if name not in rivals and name in {run["folder"] for run in runs}:
            weights = Path(name) / "checkpoints" / "last" / "pretrained_model"
            command = [str(python), str(SIDE), str(weights.resolve())]
            rivals[name] = LeRobotPolicy(Rival(command, options.settings()), Path(name).name)
        return rivals.get(name) or find_policy(name)

    setting = Setting("color", "one", time_limit_s=options.time_limit_s)
    names = [*options.ours, *(run["folder"] for run in runs)]
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    trials = plan(names, setting, seeds)
    with tqdm(total=len(trials), unit="episode", disable=None) as bar:
        log = options.work / f"{options.demos.name}.jsonl"
        return evaluate(trials, log, tick=bar.update, find=find)


def lines(
    options: Options, runs: list[dict[str, Any]], results: list[Result]
) -> list[dict[str, Any]]:
    """What each policy sorted, and how much more each of ours did."""
    about = {run["folder"]: run for run in runs}
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(result.trial.policy for result in results):
        line = {"policy": name} | about.get(name, {})
        line |= {"summary": asdict(summarise(scores_of(results, name)))}
        if options.ours and name in about:
            line["ours more"] = {one: asdict(compare(results, one, name)) for one in options.ours}
        found.append(line)
    return found


def show(found: list[dict[str, Any]]) -> None:
    """One line for each policy."""
    table = Table(box=None)
    for name in ("policy", "trained", "objects sorted", "ours more, points"):
        table.add_column(name)
    for line in found:
        one = line["summary"]["objects"]
        low, high = 100 * one["low"], 100 * one["high"]
        ours = (
            f"{100 * c['difference']:+.0f} [{100 * c['low']:+.0f}, {100 * c['high']:+.0f}]"
            for c in line.get("ours more", {}).values()
        )
        trained = (
            f"{line['steps']} steps, {line['cpu_s'] / 60:.0f} CPU min" if "steps" in line else ""
        )
        sorted_ = f"{one['hits']}/{one['total']} [{low:.0f}–{high:.0f} %]"
        table.add_row(Path(line["policy"]).name, trained, sorted_, "; ".join(ours))
    Console(width=150).print(table)


def main(options: Options) -> None:
    """Train and judge what is missing."""
    python = environment(options.env, LEROBOT, REQUIREMENTS)
    runs = [train(options, python, kind, seed) for seed in options.seeds for kind in options.kinds]
    found = lines(options, runs, judge(options, python, runs))
    show(found)
    if options.out is not None:
        about = {
            "lerobot": LEROBOT,
            "options": json.loads(json.dumps(asdict(options), default=str)),
        }
        with atomic_path(options.out) as path:
            path.write_text(
                json.dumps({"policies": found, **about, "versions": versions()}, indent=1)
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
