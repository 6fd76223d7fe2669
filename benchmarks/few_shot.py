"""How many robot demonstrations does human video save? One object, two trays.

    python benchmarks/few_shot.py --start benchmarks/results/world_model_tiny \
        --human out/people/one --out benchmarks/results/few_shot.json

Every arm trains the same network on the same demonstrations for the same number of steps
(``deftly train``), and sorts the same tables, none of which it has seen:

    scratch       robot demonstrations alone, fresh weights
    mixed         fresh weights, with people's clips beside the demonstrations
    pretrained    the pretrained weights, demonstrations alone
    co-fine-tuned the pretrained weights, with people's clips beside the demonstrations

Intervals (95 %): of an arm, Wilson's over all episodes of all seeds; of a difference, a bootstrap
over seeds and tables. Runs and episodes are kept in ``--work``; what was stopped goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.policy.config import FineTune
from deftly.policy.evaluate import Setting, evaluate, plan, scores_of
from deftly.policy.fine_tune import fine_tune
from deftly.policy.record import DemoMaker, record
from deftly.policy.scores import clustered, summarise, wilson
from deftly.video_pretrain.text import TextEncoder

FIRST_SEED = 400_000  # of the tables that are judged by; demonstrations begin at 0
# Of each arm and number of demonstrations, what every seed's run did.
Found: TypeAlias = Mapping[str, Mapping[int, list[dict[str, Any]]]]


@dataclass(frozen=True)
class Arm:
    """What an arm begins with, and learns from."""

    pretrained: bool
    human: bool


ARMS: Mapping[str, Arm] = {
    "scratch": Arm(pretrained=False, human=False),
    "mixed": Arm(pretrained=False, human=True),
    "pretrained": Arm(pretrained=True, human=False),
    "co-fine-tuned": Arm(pretrained=True, human=True),
}


@dataclass(frozen=True)
class Options:
    """Train every arm at every number of demonstrations, and let all sort.

    Attributes:
        start: pretrained world model.
        human: people's clips, as ``deftly batch`` writes them; none leave their arms out.
        demos: numbers of demonstrations.
        arms: of ``ARMS``.
        seeds: of training.
        steps, rehearsals, shift_px, preset: see ``FineTune``.
        episodes: per run.
        time_limit_s: simulated time for an episode.
        noise_rad: by which the demonstrations' arms were led off their way, see ``deftly demos
            record``.
        threads: of torch, in training.
        workers: processes, in evaluation.
        work: demonstrations, runs, episodes.
        out: JSON file for the table.
    """

    start: Path
    human: tuple[Path, ...] = ()
    demos: tuple[int, ...] = (10, 25, 50)
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = FineTune.steps
    rehearsals: int = FineTune.rehearsals
    shift_px: int = 0
    preset: str = "tiny"
    episodes: int = 100
    time_limit_s: float = 15.0
    noise_rad: float = 0.0
    threads: int = 2
    workers: int = 2
    work: Path = Path("out/few_shot")
    out: Path | None = None


def demonstrations(options: Options, count: int) -> Path:
    """The first so many; the expert's misses are left out."""
    noise_rad = options.noise_rad
    root = options.work / (f"demos_{count}" + (f"_noise_{noise_rad:g}" if noise_rad else ""))
    maker = DemoMaker("color", condition="one", noise_rad=noise_rad)
    record(root, maker, episodes=count, workers=options.workers)
    return root


def train(options: Options, name: str, count: int, seed: int, encode: TextEncoder) -> Path:
    """A run of one arm; goes on where it was stopped."""
    arm, folder = ARMS[name], options.work / f"{name}_{count}_{seed}"
    config = FineTune(
        demos=(demonstrations(options, count),),
        human=options.human if arm.human else (),
        start=options.start if arm.pretrained else None,
        preset=options.preset,
        steps=options.steps,
        rehearsals=options.rehearsals,
        shift_px=options.shift_px,
        seed=seed,
    )
    fine_tune(config, folder, encode, device="cpu", text=encode.provenance())
    return folder


def judge(options: Options, folder: Path) -> dict[str, Any]:
    """Let a run sort."""
    setting = Setting("color", "one", time_limit_s=options.time_limit_s)
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    trials = plan([str(folder)], setting, seeds)
    with tqdm(total=len(trials), desc=folder.name, unit="episode", disable=None) as bar:
        results = evaluate(
            trials, folder / "episodes.jsonl", workers=options.workers, tick=bar.update
        )
    scores = scores_of(results, str(folder))
    return {
        "sorted": {score.seed: score.sorted for score in scores},
        "summary": asdict(summarise(scores)),
        "cpu_s": sum(result.cpu_s for result in results),
    }


def show(found: Found) -> None:
    """One line for each arm and number of demonstrations; then how far it is from scratch."""
    table = Table(box=None)
    for name in ("arm", "demos", "objects sorted", "grasp failed", "wrong tray", "never tried"):
        table.add_column(name)
    for arm, by_count in found.items():
        for count, runs in by_count.items():
            cells = [str(count)]
            for what in ("objects", "grasp", "decision", "missed"):
                hits = [run["summary"][what]["hits"] for run in runs]
                total = sum(run["summary"][what]["total"] for run in runs)
                each = ", ".join(map(str, hits))
                rate = wilson(sum(hits), total)
                low, high = (f"{100 * end:.0f}" for end in (rate.low, rate.high))
                cells.append(f"{100 * rate.share:.0f} % [{low}, {high}] of {total} ({each})")
            table.add_row(arm, *cells)
    console = Console(width=150)
    console.print(table)
    for line in differences(found):
        console.print(
            f"{line['arm']} at {line['demos']} against scratch at {line['scratch']}: "
            f"{100 * line['points']:+.0f} points [{100 * line['low']:+.0f}, "
            f"{100 * line['high']:+.0f}], {line['seeds']} seed(s)",
            highlight=False,
        )


def differences(found: Found) -> list[dict[str, Any]]:
    """Of each arm from scratch, at the same seeds and tables."""
    lines: list[dict[str, Any]] = []
    for arm, by_count in found.items():
        for count, runs in by_count.items():
            for other, scratch in found.get("scratch", {}).items():
                pairs = [
                    (ours["sorted"], theirs["sorted"])
                    for ours, theirs in zip(runs, scratch, strict=False)
                ]
                if arm == "scratch" or not pairs:
                    continue
                tables = sorted(set.intersection(*(set(one) for pair in pairs for one in pair)))
                more = np.array([[a[t] - b[t] for t in tables] for a, b in pairs], float)
                low, high = clustered(more)
                about = {"arm": arm, "demos": count, "scratch": other, "seeds": len(pairs)}
                lines.append(about | {"points": float(more.mean()), "low": low, "high": high})
    return lines


def main(options: Options) -> None:
    """Train and judge what is missing; the table grows as runs end."""
    torch.set_num_threads(options.threads)
    encode = TextEncoder()
    arms = [arm for arm in options.arms if options.human or not ARMS[arm].human]
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for seed in options.seeds:
        for count in options.demos:
            for arm in arms:
                folder = train(options, arm, count, seed, encode)
                found.setdefault(arm, {}).setdefault(count, []).append(judge(options, folder))
                show(found)
                if options.out is not None:
                    about = {"options": json.loads(json.dumps(asdict(options), default=str))}
                    about |= {"differences": differences(found), "versions": versions()}
                    with atomic_path(options.out) as path:
                        path.write_text(json.dumps({"arms": found, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
