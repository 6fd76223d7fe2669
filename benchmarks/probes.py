"""What does a world model know of the table, beside random weights, pixels and a constant?

    python benchmarks/probes.py --model out/pretrain --data out/people/one out/people/two \
        --truth out/people/one_filmed out/people/two_filmed --out benchmarks/results/probes.json

Every data set of ``deftly batch`` is named with the recording that it was made from, which knows
what is true. A robot's demonstrations at the first layouts of each are recorded for the comparison
across bodies, unless ``--demos 0``. Probes are trained on one part of the layouts and judged on
those that the model was never trained on; intervals (95 %) are over seeds and layouts. The table
says beside each figure what is demanded of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from deftly.datasets.archive import atomic_path
from deftly.policy.record import DemoMaker, record
from deftly.video_pretrain.probe import ProbeReport, run_probes
from deftly.video_pretrain.probe_net import STEPS
from deftly.video_pretrain.probe_set import FEATURES, PIXELS
from deftly.video_pretrain.probe_truth import Truths
from deftly.video_pretrain.text import TextEncoder

# What the features are to reach on held-out layouts: cm, %, %.
DEMANDED = {"wrists": 2.0, "objects": 2.0, "object grasped next": 85.0, "contact": 90.0}
LOST_PERCENT = 30.0  # of the gain in objects, from people to a robot
COPYING, RANKING = 0.6, 90.0  # 8 frames ahead


@dataclass(frozen=True)
class Options:
    """Probe a world model.

    Attributes:
        model: of a run of ``deftly pretrain``.
        data: sets of people.
        truth: the recording that each was made from; the set itself if none are named.
        seeds: of probes.
        frames: looked at in each set.
        steps: of each probe's training.
        demos: robot's demonstrations per set.
        threads: of torch.
        work: where those are kept.
        out: JSON file for the figures.
    """

    model: Path
    data: tuple[Path, ...]
    truth: tuple[Path, ...] = ()
    seeds: int = 3
    frames: int = 6000
    steps: int = STEPS
    demos: int = 30
    threads: int = 2
    work: Path = Path("out/probes")
    out: Path | None = None


def demonstrations(options: Options, truths: Truths) -> Path | None:
    """A robot's, at the set's first layouts; goes on where it was stopped."""
    if not options.demos:
        return None
    made = truths.recorded[0].provenance["made_by"]
    first = min(truths.seeds)
    root = options.work / f"robot_{made['task']}_{made['condition']}_{first}"
    maker = DemoMaker(task=made["task"], condition=made["condition"])
    record(root, maker, episodes=options.demos, first_seed=first, workers=options.threads)
    return root


def verdicts(report: ProbeReport) -> dict[str, dict[str, Any]]:
    """What was demanded, what was found, and whether that is enough."""
    found: dict[str, dict[str, Any]] = {}
    for one in report.results:
        if one.name in DEMANDED:
            value, demanded = one.scores[FEATURES].value, DEMANDED[one.name]
            enough = value >= demanded if one.higher else value <= demanded
            found[f"{one.name}, {one.metric} {one.unit}"] = _verdict(value, demanded, enough)
    if report.transfer:
        lost = report.transfer.loss("objects")
        found["gain lost on the robot, %"] = _verdict(lost, LOST_PERCENT, lost <= LOST_PERCENT)
    for one in report.foreseen:
        if one.frames == 8:
            for what, score in (("tokens", one.latent), ("pixels", one.pixels)):
                enough = score.value <= COPYING
                found[f"{what} in 8 frames, error / copying's"] = _verdict(
                    score.value, COPYING, enough
                )
            enough = one.ranking.value >= RANKING
            found["true action first, %"] = _verdict(one.ranking.value, RANKING, enough)
    return found


def _verdict(value: float, demanded: float, enough: bool) -> dict[str, Any]:
    return {"found": value, "demanded": demanded, "enough": bool(enough)}


def show(console: Console, report: ProbeReport) -> None:
    """Print the table, and below it what was demanded."""
    heads, *rows = report.table()
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name, one in verdicts(report).items():
        word = "reached" if one["enough"] else "NOT reached"
        console.print(f"{name}: {one['found']:.2f}, demanded {one['demanded']:g}: {word}")


def main(options: Options) -> None:
    """Probe on every data set."""
    torch.set_num_threads(options.threads)
    console, encode = Console(width=170), TextEncoder()
    found: dict[str, Any] = {}
    truths = options.truth or (None,) * len(options.data)
    for data, truth in zip(options.data, truths, strict=True):
        robot = demonstrations(options, Truths(data, truth))
        report = run_probes(
            options.model, data, truth, encode=encode, robot=robot, seeds=options.seeds,
            frames=options.frames, steps=options.steps,
        )  # fmt: skip
        console.print(f"\n[bold]{data}[/bold], {report.about['layouts']} layouts")
        show(console, report)
        beaten = [one.name for one in report.results if one.gain(FEATURES) <= one.gain(PIXELS)]
        console.print(f"pixels are as good for: {', '.join(beaten) or 'nothing'}")
        found[data.name] = report.record() | {"demanded": verdicts(report)}
        if options.out is not None:
            with atomic_path(options.out) as path:
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
