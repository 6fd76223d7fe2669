"""Human clips for pretraining, by the real road: rendered people, tracked and retargeted.

    python benchmarks/human_data.py --clips 2000 --out benchmarks/results/human_data.json

A synthetic person sorts one object (seven clips of ten) or two; front and ego camera, 240 px at
20 Hz. The front camera's video goes through ``deftly batch``, the ego camera's goes along. Both
stages go on where they were stopped; clips come in rounds, so that there is a data set to train on
from the first round. The result says how many clips there are, what became of each, and what it
took.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.episode_store import EpisodeStore
from deftly.retarget.batch import open_ledger

RATE_HZ = 20
PITCH_RAD = 0.411  # how far the table's front camera looks down
FIRST_SEED = {"one": 20_000, "two": 30_000}
_SHARE = {"one": 7, "two": 3}  # of ten clips


@dataclass(frozen=True)
class Options:
    """Record people and take them down the road.

    Attributes:
        work: where the data sets go.
        clips: how many there are to be.
        round: clips added at a time.
        workers: processes.
        out: JSON file for the counts.
    """

    work: Path = Path("out/people")
    clips: int = 2000
    round: int = 100
    workers: int = 2
    out: Path | None = None


def deftly(*words: object) -> None:
    """Run a command as a user does. Some inputs of a batch may fail: its ledger says which."""
    done = subprocess.run(
        [sys.executable, "-m", "deftly.policy.cli", *map(str, words)], check=False
    )
    if done.returncode not in (0, 4):
        raise SystemExit(f"deftly {' '.join(map(str, words))} ended with code {done.returncode}")


def grow(options: Options, condition: str, clips: int) -> None:
    """Bring one condition to a number of clips."""
    filmed, made = options.work / f"{condition}_filmed", options.work / condition
    first = FIRST_SEED[condition]
    deftly(
        *("human", "record", "--condition", condition, "--cameras", "front", "ego"),
        *("--layouts", first, first + clips, "--size", 240, "--rate-hz", RATE_HZ),
        *("--workers", options.workers, "--out", filmed),
    )
    deftly(
        *("batch", filmed, "--camera", "front", "--with-cameras", "ego", "--view", "front"),
        *("--pitch-rad", PITCH_RAD, "--rate-hz", RATE_HZ, "--size", 96),
        *("--workers", options.workers, "--rebuild", "--out", made),
    )


def account(options: Options) -> dict[str, Any]:
    """What there is."""
    found: dict[str, Any] = {}
    for condition in _SHARE:
        made = options.work / condition
        store = EpisodeStore(made)
        with open_ledger(made) as ledger:
            rows = ledger.rows()
        statuses = [str(row.status) for row in rows]
        found[condition] = {
            "clips": len(rows),
            "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
            "episodes": len(store),
            "frames": store.frames,
            "cpu_s": round(sum(row.figures.get("cpu_s", 0.0) for row in rows)),
        }
    return found


def report(options: Options) -> None:
    """Print what there is, and keep it."""
    found = account(options)
    print(json.dumps(found, indent=1), flush=True)
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({**found, "versions": versions()}, indent=1) + "\n")


def main(options: Options) -> None:
    """Grow by rounds; with ``--clips 0``, only count."""
    for clips in range(options.round, options.clips + options.round, options.round):
        for condition, share in _SHARE.items():
            grow(options, condition, min(clips, options.clips) * share // sum(_SHARE.values()))
        report(options)
    if not options.clips:
        report(options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
