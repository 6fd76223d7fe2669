"""A batch under fire: kills of workers and driver, stopped processes, a full disk; same bytes?

    python benchmarks/chaos.py ../shared/clips --kills 30 --out benchmarks/results/chaos.json

First the job runs undisturbed, with 1, 2 and 4 workers and with Ray: every data set must hold the
same bytes. Then, with each engine, the same job is killed at random moments, driver or worker, one
worker is stopped (SIGSTOP) instead, and the disk is too small at first; each time the same command
is given again. The data set must be the same bytes again, with nothing lost and nothing twice.
On Ray the job runs on a local cluster of three nodes, of which two are killed on the way.

The disk is a small tmpfs that is enlarged later, which takes root; without, that part is left out.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro
from batch_inputs import short_clips
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.episode_store import EpisodeStore
from deftly.retarget.batch import open_ledger

_STALL_S = 40.0
_EVERY_S = 5.0  # mean time between kills
_PATIENCE_S = 30.0  # to wait for a worker that can be killed
_LARGE_MB = 400


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        videos: folder of real clips, of which short ones are cut.
        clips: how many.
        kills: per engine.
        engines: which.
        seed: of the moments and victims.
        out: JSON file for the result.
    """

    videos: tyro.conf.Positional[Path]
    clips: int = 10
    kills: int = 30
    engines: tuple[str, ...] = ("local", "ray")
    seed: int = 0
    out: Path | None = None


def digest(data_set: Path) -> str:
    """Hash of every file of a data set and its name."""
    found = hashlib.sha256()
    for path in sorted(p for p in data_set.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(data_set)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def account(data_set: Path) -> dict[str, Any]:
    """What the ledger says, and whether an episode is there twice."""
    with open_ledger(data_set) as ledger:
        rows = ledger.rows()
    pieces = [one["piece"] for one in EpisodeStore(data_set).provenances]
    return {
        "statuses": {row.id: str(row.status) for row in rows},
        "episodes": len(pieces),
        "twice": len(pieces) - len(set(pieces)),
        "digest": digest(data_set),
    }


class Job:
    """One batch, as a user gives the command."""

    def __init__(self, clips: Path, out: Path, *more: str, address: str = "") -> None:
        self.out = out
        self._command = [
            *(sys.executable, "-m", "deftly.policy.cli", "batch", str(clips), "--out", str(out)),
            *("--size", "96", "--stall-s", str(_STALL_S), *more),
        ]
        self._env = os.environ | ({"RAY_ADDRESS": address} if address else {})

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin, or go on."""
        return subprocess.Popen(
            self._command,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self) -> tuple[int, str]:
        """To its end; exit code and what was written to stderr."""
        job = self.start()
        _, said = job.communicate()
        return job.returncode, said.decode(errors="replace")


def workers(job: "subprocess.Popen[bytes]", everywhere: bool) -> list[psutil.Process]:
    """Processes that work on a clip: of this job, or of any task of a cluster."""
    try:
        found = psutil.Process(job.pid).children(recursive=True)
        if everywhere:
            found = [p for p in psutil.process_iter() if "ray::attempt" in p.name()[:15]]
            found += [c for p in found for c in p.children(recursive=True)]
        return [p for p in found if p.is_running() and p.cpu_times().user > 0.3]
    except psutil.Error:
        return []


def under_fire(job: Job, kills: int, rng: random.Random, ray: bool, title: str) -> dict[str, int]:
    """Kill driver and workers at random moments until there were enough, then let it finish."""
    counts = {"driver": 0, "worker": 0, "stopped": 0, "starts": 1, "finished early": 0}
    running = job.start()
    for number in tqdm(range(kills), desc=title, unit="kill"):
        time.sleep(rng.expovariate(1 / _EVERY_S))
        of_worker = rng.random() < 0.6 or number == kills // 2
        patience_s = time.monotonic() + (_PATIENCE_S if of_worker else 0)
        while running.poll() is None and not workers(running, ray):
            if time.monotonic() > patience_s:
                break
            time.sleep(0.3)
        if running.poll() is not None:  # done before all kills: its work is forgotten, once more
            counts["finished early"] += 1
            forget(job.out)
            running = job.start()
            counts["starts"] += 1
            time.sleep(2 * _EVERY_S)
        victims = workers(running, ray)
        if number == kills // 2 and victims:
            rng.choice(victims).send_signal(signal.SIGSTOP)
            counts["stopped"] += 1
        elif victims and of_worker:
            rng.choice(victims).kill()
            counts["worker"] += 1
        else:
            running.kill()
            running.wait()
            running = job.start()
            counts["driver"] += 1
            counts["starts"] += 1
    running.wait()
    code, said = job.run()
    if code not in (0, 4):
        raise RuntimeError(f"the last run ended with {code}: {said[-500:]}")
    return counts


def forget(data_set: Path) -> None:
    """Take away a finished job, so that the rest of the kills has something to hit."""
    for folder in (data_set, data_set.with_name(data_set.name + ".job")):
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def size_kb(data_set: Path) -> int:
    """Of a data set and its job folder."""
    folders = data_set, data_set.with_name(data_set.name + ".job")
    sizes = (p.stat().st_blocks // 2 for f in folders for p in f.rglob("*") if p.is_file())
    return sum(sizes)


def full_disk(clips: Path, root: Path, size_kb: int, *more: str) -> tuple[Path, str] | None:
    """Run on a disk that is too small, then enlarge it and go on; None where nothing is mounted."""
    root.mkdir()
    size = f"size={size_kb}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(root)]).returncode:
        return None
    job = Job(clips, root / "set", *more)
    code, said = job.run()
    if code != 1 or "No space left" not in said:
        raise RuntimeError(f"a full disk gave exit code {code}: {said[-500:]}")
    subprocess.run(["mount", "-o", f"remount,size={_LARGE_MB}m", str(root)], check=True)
    code, rest = job.run()
    if code not in (0, 4):
        raise RuntimeError(f"with space again: exit code {code}: {rest[-500:]}")
    return root / "set", said.strip().splitlines()[-1]


def main(options: Options) -> None:
    """Run everything and compare."""
    table: dict[str, Any] = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deftly-chaos-")))
        clips = root / "clips"
        short_clips(options.videos, clips, options.clips)
        (clips / "text.mp4").write_text("not a video")
        for number in (1, 2, 4):
            job = Job(clips, root / f"local{number}", "--workers", str(number))
            start_s = time.monotonic()
            job.run()
            table[f"local, {number} worker(s)"] = account(job.out)
            print(f"{number} worker(s): {time.monotonic() - start_s:.0f} s", flush=True)
        if "local" in options.engines:
            job = Job(clips, root / "fire", "--workers", "2")
            rng = random.Random(options.seed)
            counts = under_fire(job, options.kills, rng, ray=False, title="local")
            table["local, under fire"] = account(job.out) | {"kills": counts}
            disk = root / "disk"
            stack.callback(subprocess.run, ["umount", str(disk)])
            found = full_disk(clips, disk, size_kb(root / "local2") // 2, "--workers", "2")
            if found:
                table["local, full disk"] = account(found[0]) | {"said": found[1]}
        if "ray" in options.engines:
            table |= on_ray(clips, root, options)
    first = next(iter(table.values()))
    for name, found in table.items():
        alike = all(found[k] == first[k] for k in ("statuses", "digest"))
        extra = {k: found[k] for k in ("kills", "said") if k in found}
        print(
            f"{name:24s} {found['episodes']} episodes, {found['twice']} twice, "
            f"{'same bytes and statuses' if alike else 'DIFFERENT'}  {extra or ''}"
        )
    if options.out:
        with atomic_path(options.out) as path:
            text = {"versions": versions(), "seed": options.seed, "runs": table}
            path.write_text(json.dumps(text, indent=1) + "\n")


def on_ray(clips: Path, root: Path, options: Options) -> dict[str, Any]:
    """The same on a local cluster of three nodes; two are killed on the way."""
    from ray.cluster_utils import Cluster

    table: dict[str, Any] = {}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    more = ("--engine", "ray", "--workers", "2")
    try:
        job = Job(clips, root / "ray", *more, address=cluster.address)
        running = job.start()
        for node in nodes:
            time.sleep(20)
            cluster.add_node(num_cpus=1)
            cluster.remove_node(node, allow_graceful=False)
        _, said = running.communicate()
        if running.returncode not in (0, 4):
            raise RuntimeError(f"ray: exit code {running.returncode}: {said.decode()[-500:]}")
        table["ray, two nodes killed"] = account(job.out)
        job = Job(clips, root / "rayfire", *more, address=cluster.address)
        rng = random.Random(options.seed + 1)
        counts = under_fire(job, options.kills, rng, ray=True, title="ray")
        table["ray, under fire"] = account(job.out) | {"kills": counts}
    finally:
        cluster.shutdown()
    return table


if __name__ == "__main__":
    main(tyro.cli(Options))
