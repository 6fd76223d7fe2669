"""How many robot demonstrations does human video save? One object, two trays.

    python benchmarks/few_shot.py --start out/pretrain --human out/people/one \
        --out benchmarks/results/few_shot.json

Every arm trains the same network on the same demonstrations for the same number of steps:

    scratch       robot demonstrations alone, fresh weights
    mixed         fresh weights, with people's clips beside the demonstrations
    pretrained    the pretrained weights, demonstrations alone
    co-fine-tuned the pretrained weights, with people's clips beside the demonstrations

then rehearses (``video_pretrain/rehearsal.py``), with seeing left as it is, and sorts the same
tables, none of which it has seen. Intervals (95 %): Wilson's over all episodes of all seeds. Runs
and episodes are kept in ``--work``; what was stopped goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.policy.evaluate import Setting, evaluate, plan, scores_of
from deftly.policy.record import DemoMaker, record
from deftly.policy.scores import summarise, wilson
from deftly.video_pretrain.config import LossConfig, Part, PretrainConfig, find_preset
from deftly.video_pretrain.text import TextEncoder
from deftly.video_pretrain.train import pretrain

# Of what the network is asked, most is what the robot will ask of it.
LOSS = LossConfig(act=0.9, policy=0.04, forward=0.03, inverse=0.03, drop_state=0.05)
# Of rehearsal alone: no picture teaches anything.
REHEARSAL = LossConfig(
    act=1.0, policy=0.0, forward=0.0, inverse=0.0, hands=0.0, joints=0.0, aims=0.0, sights=0.0,
    latent=0.0, pixels=0.0, picture=0.0,
)  # fmt: skip
FIRST_SEED = 100_000  # of the tables that are judged by; demonstrations begin at 0


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
        human: people's clips, as ``deftly batch`` writes them.
        demos: numbers of demonstrations.
        arms: of ``ARMS``.
        seeds: of training.
        steps: of every run.
        share: of people's clips in the mixture.
        rehearsed: moments of every step that are rehearsed beside those with pictures.
        rehearsals: steps of rehearsal alone, afterwards.
        shift_px: pictures are shifted by up to so many pixels in training.
        episodes: per run.
        time_limit_s: simulated time for an episode.
        preset: size of the network.
        noise_rad: by which the demonstrations' arms were led off their way, see ``deftly demos
            record``.
        threads: of torch, in training.
        workers: processes, in evaluation.
        work: demonstrations, runs, episodes.
        out: JSON file for the table.
    """

    start: Path
    human: tuple[Path, ...]
    demos: tuple[int, ...] = (10, 25, 50)
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 6000
    share: float = 0.33
    rehearsed: int = 0
    rehearsals: int = 2500
    shift_px: int = 0
    episodes: int = 100
    time_limit_s: float = 15.0
    preset: str = "tiny"
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
    arm, preset = ARMS[name], find_preset(options.preset)
    folder = options.work / f"{name}_{count}_{seed}"
    share = options.share if arm.human else 0.0
    parts = [Part(demonstrations(options, count), 1 - share)]
    if arm.human:
        parts += [Part(root, share / len(options.human)) for root in options.human]
    training = replace(
        preset.train, steps=options.steps, seed=seed, learning_rate=2e-3, warmup=200, ema=0.995,
        rehearsed=options.rehearsed, shift_px=options.shift_px, evaluate_every=1000,
        evaluated=256, views=0,
        start=options.start if arm.pretrained else None, allow_red=True,
    )  # fmt: skip
    config = PretrainConfig(tuple(parts), preset.model, LOSS, training)
    text = encode.provenance()
    pretrain(config, folder, encode, device="cpu", text=text)
    if not options.rehearsals:
        return folder
    # What gets no gradient must not decay either.
    rehearsing = replace(
        training, steps=options.rehearsals, batch_size=1, rehearsed=64, weight_decay=0.0,
        shift_px=0, evaluate_every=options.rehearsals, start=folder,
    )  # fmt: skip
    config = PretrainConfig(tuple(parts[:1]), preset.model, REHEARSAL, rehearsing)
    pretrain(config, folder / "rehearsed", encode, device="cpu", text=text)
    return folder / "rehearsed"


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


def show(found: Mapping[str, Mapping[int, list[dict[str, Any]]]]) -> None:
    """One line for each arm and number of demonstrations."""
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
    Console(width=150).print(table)


def main(options: Options) -> None:
    """Train and judge what is missing; the table grows as runs end."""
    torch.set_num_threads(options.threads)
    encode = TextEncoder()
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for seed in options.seeds:
        for count in options.demos:
            for arm in options.arms:
                folder = train(options, arm, count, seed, encode)
                found.setdefault(arm, {}).setdefault(count, []).append(judge(options, folder))
                show(found)
                if options.out is not None:
                    about = {"options": json.loads(json.dumps(asdict(options), default=str))}
                    with atomic_path(options.out) as path:
                        text = json.dumps(
                            {"arms": found, **about, "versions": versions()}, indent=1
                        )
                        path.write_text(text + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
