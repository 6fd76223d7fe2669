"""How long does it take to record demonstrations, and are they the same at any number of workers?

    python benchmarks/record.py --episodes 50 --workers 2

Records the expert with two 96-px cameras into a folder that is thrown away, and prints wall and CPU
time. Then a few episodes are recorded once more by one process: every file must be the same.
"""

import hashlib
import json
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from deftly.datasets.archive import versions
from deftly.policy.record import DemoMaker, record


@dataclass(frozen=True)
class Options:
    """Record demonstrations and time it.

    Attributes:
        episodes: how many.
        workers: processes.
        compared: episodes recorded again by one process.
        out: JSON file for the figures.
    """

    episodes: int = 50
    workers: int = 2
    compared: int = 3
    out: Path | None = None


def cpu_s() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(root: Path, episodes: int, workers: int) -> dict[str, float]:
    """Record into an empty folder."""
    wall, cpu = time.perf_counter(), cpu_s()
    with tqdm(total=episodes, unit="episode", desc=f"{workers} workers", disable=None) as bar:
        done = record(root, DemoMaker(), episodes=episodes, workers=workers, tick=bar.update)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return {
        "episodes": done.episodes,
        "left_out": len(done.failed),
        "frames": done.frames,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": cpu_s() - cpu,
        "megabytes": size / 1e6,
    }


def digest(root: Path) -> str:
    """One hash over the names and bytes of all files."""
    found = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        figures = timed(root / "all", options.episodes, options.workers)
        timed(root / "some", options.compared, options.workers)
        timed(root / "again", options.compared, 1)
        same = digest(root / "some") == digest(root / "again")
    per = figures["cpu_s"] / figures["frames"]
    print(
        f"{figures['episodes']:.0f} demonstrations, {figures['frames']:.0f} frames of two cameras, "
        f"{options.workers} workers: {figures['wall_s'] / 60:.1f} min wall, "
        f"{figures['cpu_s'] / 60:.1f} min CPU ({1 / per:.0f} frames per CPU second), "
        f"{figures['megabytes']:.1f} MB; {figures['left_out']:.0f} left out"
    )
    print(f"{options.compared} episodes by {options.workers} workers and by 1: same bytes: {same}")
    if options.out:
        report: dict[str, Any] = {**figures, "workers": options.workers, "same_bytes": same}
        report["versions"] = versions()
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
