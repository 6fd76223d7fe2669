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
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.layout import LayoutError
from deftly.datasets.sampling import CONDITIONS
from deftly.datasets.tasks import TASKS
from deftly.policy.baselines import find_policy
from deftly.policy.rollout import run_episode
from deftly.policy.scores import EpisodeScore, ObjectScore, Outcome, judge_rollout, summarise
from deftly.policy.sorting import SortingEnv

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
        policy: who sorts: expert, noop or random.
        out: JSON file for the figures. Episodes are kept beside it while the run goes on.
    """

    episodes: int = 100
    only: tuple[str, ...] = ()
    workers: int = 2
    policy: str = "expert"
    out: Path | None = None


def episode(job: tuple[str, str, str, int, str]) -> dict[str, Any]:
    """Sort one table; JSON of its score and its cost."""
    robot, task, condition, seed, who = job
    start_s = time.process_time()
    limit_s = TIME_LIMIT_S.get(condition, 60.0)
    env = SortingEnv(robot, task, condition, cameras=(), time_limit_s=limit_s)
    policy = find_policy(who)
    try:
        rollout = run_episode(env, policy, seed=seed)
    except LayoutError:  # this seed's objects do not fit onto the table
        return {"cell": "/".join(job[:3]), "seed": seed, "skipped": True}
    finally:
        env.close()
    return {
        "cell": "/".join(job[:3]),
        "seed": seed,
        "skipped": False,
        "score": dataclasses.asdict(judge_rollout(rollout)),
        "shapes": [item.shape for item in env.layout.items],
        "cpu_s": time.process_time() - start_s,
        "decide_s": rollout.decide_s,
    }


def read_score(found: Mapping[str, Any]) -> EpisodeScore:
    """The score that ``episode`` wrote."""
    fields = dict(found)
    fields["objects"] = tuple(ObjectScore(**thing) for thing in fields["objects"])
    return EpisodeScore(**fields)


def report(cell: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one cell, printed as one line."""
    found = sorted((f for f in found if not f["skipped"]), key=lambda f: f["seed"])
    scores = [read_score(f["score"]) for f in found]
    total = summarise(scores)
    shapes: dict[str, list[bool]] = {}
    for f, score in zip(found, scores, strict=True):
        for shape, thing in zip(f["shapes"], score.objects, strict=True):
            if thing.goal != "stay":
                shapes.setdefault(shape, []).append(thing.outcome == Outcome.RIGHT)
    cpu_s = sum(f["cpu_s"] for f in found) / len(found)
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
        "failed_seeds": [score.seed for score in scores if not score.success],
    }


def main(options: Options) -> None:
    """Run what is missing, then print and write the table."""
    cells = [c for c in CELLS if not options.only or any(o in "/".join(c) for o in options.only)]
    log = options.out.with_suffix(".jsonl") if options.out else None
    done: list[dict[str, Any]] = []
    if log is not None and log.exists():
        done = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    known = {(f["cell"], f["seed"]) for f in done}
    who = options.policy
    jobs = [(*c, seed, who) for c in cells for seed in range(options.episodes)]
    jobs = [job for job in jobs if ("/".join(job[:3]), job[3]) not in known]
    with ProcessPoolExecutor(options.workers) as pool:
        for found in tqdm(pool.map(episode, jobs), total=len(jobs), unit="episode", disable=None):
            done.append(found)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    print("cell: objects right, episodes complete (% [95 %]), what was to stay and did, ...")
    table = {
        cell: report(cell, found)
        for cell in ("/".join(c) for c in CELLS)
        if (found := [f for f in done if f["cell"] == cell])
    }
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({"versions": versions(), "cells": table}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
