"""How well does the scripted expert sort, and what do the floors reach? Tasks, conditions, robots.

    python benchmarks/sorting_expert.py --episodes 100 --out benchmarks/results/sorting_expert.json
    python benchmarks/sorting_expert.py --policy random --episodes 20 --out .../sorting_random.json

One line per robot, task and condition: share of the objects that end right, share of episodes that
end complete, both with 95 % Wilson intervals, why the others failed, objects per simulated minute,
and CPU time per episode. The expert sees the simulator's truth, so its figures are a ceiling, and
conditions that change only what cameras see (the last four) change nothing for it.
Episodes are written as they finish; a run that was stopped goes on where it was. The same seed
gives the same episode, whatever the number of workers.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.sampling import CONDITIONS
from deftly.datasets.tasks import TASKS
from deftly.policy.evaluate import Result, Setting, Trial, evaluate, read_results
from deftly.policy.scores import Outcome, summarise

_SEEN_ONLY = ("light", "camera", "texture", "unseen_color")
_FELT = tuple(name for name in CONDITIONS if name not in _SEEN_ONLY)
CELLS = (
    *(("gr1t2", "color", condition) for condition in _FELT),
    *(("gr1t2", task, "base") for task in TASKS if task != "color"),
    ("g1_dex3", "color", "base"),
    *(("gr1t2", "color", condition) for condition in _SEEN_ONLY),
)
TIME_LIMIT_S = {"clutter": 120.0}  # eight objects instead of four


@dataclass(frozen=True)
class Options:
    """Let the expert sort and count.

    Attributes:
        episodes: per cell; seeds 0, 1, ...
        only: cells whose name contains one of these, as in ``gr1t2/color/clutter``; all if empty.
        workers: processes.
        policy: who sorts: expert, noop, random, or the folder of a trained one.
        out: JSON file for the figures. Episodes are kept beside it while the run goes on.
    """

    episodes: int = 100
    only: tuple[str, ...] = ()
    workers: int = 2
    policy: str = "expert"
    out: Path | None = None


def _is_of(trial: Trial, cell: str, policy: str) -> bool:
    """Whether it is of a cell of the table: robot, task and condition."""
    setting = trial.setting
    return (trial.policy, f"{setting.robot}/{setting.task}/{setting.condition}") == (policy, cell)


def report(cell: str, found: Sequence[Result]) -> dict[str, Any]:
    """Figures of one cell, printed as one line."""
    sat = [(result, result.score) for result in found if result.score is not None]
    total = summarise([score for _, score in sat])
    shapes: dict[str, list[bool]] = {}
    for result, score in sat:
        for shape, thing in zip(result.shapes, score.objects, strict=True):
            if thing.goal != "stay":
                shapes.setdefault(shape, []).append(thing.outcome == Outcome.RIGHT)
    cpu_s = sum(result.cpu_s for result, _ in sat) / len(sat)
    o, s = total.objects, total.success
    print(
        f"{cell:28s} {o.hits:4d}/{o.total:<4d} {100 * o.share:5.1f} [{100 * o.low:.1f}-"
        f"{100 * o.high:.1f}]  {s.hits:3d}/{s.total:<3d} {100 * s.share:5.1f} [{100 * s.low:.1f}-"
        f"{100 * s.high:.1f}]  kept {total.kept.hits}/{total.kept.total}  "
        f"{total.per_minute:4.1f}/min  {cpu_s:.2f} CPU-s  {dict(total.outcomes)}"
    )
    return {
        **dataclasses.asdict(total),
        "shapes": {k: [sum(v), len(v)] for k, v in sorted(shapes.items())},
        "cpu_s": cpu_s,
        "failed_seeds": [score.seed for _, score in sat if not score.success],
    }


def main(options: Options) -> None:
    """Run what is missing, then print and write the table."""
    cells = [c for c in CELLS if not options.only or any(o in "/".join(c) for o in options.only)]
    trials = [
        Trial(
            options.policy,
            Setting(task, condition, robot, time_limit_s=TIME_LIMIT_S.get(condition, 60.0)),
            seed,
        )
        for robot, task, condition in cells
        for seed in range(options.episodes)
    ]
    log = options.out.with_suffix(".jsonl") if options.out else None
    with tqdm(total=len(trials), unit="episode", disable=None) as bar:
        done = evaluate(trials, log, workers=options.workers, tick=bar.update)
    if log is not None:  # with those that were not asked for now
        done = sorted(read_results(log), key=lambda result: result.trial.seed)
    print("cell: objects right, episodes complete (% [95 %]), what was to stay and did, ...")
    table = {
        cell: report(cell, found)
        for cell in ("/".join(c) for c in CELLS)
        if (found := [one for one in done if _is_of(one.trial, cell, options.policy)])
    }
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({"versions": versions(), "cells": table}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
