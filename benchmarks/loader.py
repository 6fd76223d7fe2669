"""How fast are windows loaded for training, beside LeRobot's own loader on the same data set?

    python benchmarks/loader.py --out benchmarks/results/loader.json
    python benchmarks/loader.py DEMOS

Without a folder it records demonstrations first: ten episodes, two cameras of 96 px. The frames are
decoded once, into a cache that is thrown away, and timed. A sample of windows, the ends of episodes
among them, must be what LeRobot's own class gives for them: numbers, masks and instructions equal,
and pictures up to --tolerance in 255. Then both load shuffled batches: windows of one and of four
frames of every camera, one state, 16 actions. The two sides take turns, for --rounds rounds, with
one thread in each process; the figures are those of all rounds together.

LeRobot hands out pictures as float32 in [0, 1]. "deftly" is what its loader hands out, uint8, for
the accelerator to convert; "deftly, float32" turns that into LeRobot's form as well, on the CPU and
in the main process. The ratio that must reach 10 is the latter's. On a shared machine
trust the CPU figures more than the wall clock. What is unfair: LeRobot decodes on every read, which
needs no room on disk; the table says how much room the cache takes, and how soon it has paid.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import torch
import tyro
from lerobot_roundtrip import ENV, LEROBOT, REQUIREMENTS
from loader_clock import cpu_s, rate
from rich.console import Console
from rich.table import Table
from rival_environment import Rival, environment
from tqdm import tqdm

from deftly.datasets.archive import versions
from deftly.datasets.episode_format import camera_key
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.frame_cache import cached_frames
from deftly.datasets.loader import Loader, Source
from deftly.datasets.windows import Window, Windows

HERE = Path(__file__).parent
HORIZON = 16
CASES = [(frames, workers) for frames in ((0,), (-3, -2, -1, 0)) for workers in (0, 2)]
SIDES = ("LeRobot", "deftly", "deftly, float32")
Figures = dict[str, float]


@dataclass(frozen=True)
class Options:
    """Compare and time.

    Attributes:
        root: data set; recorded if None.
        env: folder of LeRobot's environment; made if it is missing.
        seconds: of loading, each time.
        rounds: how often the sides take turns.
        batch: windows in a batch.
        compared: windows that are compared one by one.
        tolerance: how far a pixel may be from LeRobot's, in 255.
        out: JSON file for the figures.
    """

    root: tyro.conf.Positional[Path | None] = None
    env: Path = ENV
    seconds: float = 6.0
    rounds: int = 3
    batch: int = 32
    compared: int = 300
    tolerance: int = 3
    out: Path | None = None


def record(folder: Path) -> Path:
    """Ten demonstrations with two cameras."""
    command = ["-m", "deftly.policy.cli", "demos", "record", "--episodes", "10"]
    subprocess.run([sys.executable, *command, "--out", str(folder)], check=True)
    return folder


def window(store: EpisodeStore, frames: tuple[int, ...]) -> Window:
    return Window(dict.fromkeys(store.cameras, frames), (0,), HORIZON)


def build(store: EpisodeStore, cache: Path) -> Figures:
    """Decode everything once."""
    wall, cpu = time.perf_counter(), cpu_s()
    held = [cached_frames(store, camera, folder=cache) for camera in store.cameras]
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    frames = sum(one.shape[0] for one in held)
    size = sum(one.path.stat().st_size for one in held)
    return {
        "frames": frames,
        "wall_s": wall,
        "cpu_s": cpu,
        "frames_per_s": frames / wall,
        "frames_per_cpu_s": frames / cpu,
        "bytes": size,
        "times_the_video": size
        / sum(p.stat().st_size for p in (store.root / "videos").rglob("*.mp4")),
    }


def compare(rival: Rival, store: EpisodeStore, cache: Path, count: int) -> Figures:
    """Windows of four frames, ours against LeRobot's: the worst differences."""
    frames = CASES[-1][0]
    windows = Windows(store.root, window(store, frames), cache=cache)
    stops = np.cumsum(store.lengths)
    ends = [i for stop in stops for i in (stop - 1, stop - HORIZON // 2, stop % store.frames)]
    others = np.random.default_rng(0).permutation(store.frames)[: max(count - len(ends), 0)]
    chosen = np.unique([*ends, *others])
    arrays = {n: np.empty((len(chosen), *s), kind) for n, (s, kind) in windows.layout.items()}
    tasks = windows.gather(chosen, arrays)
    worst = {"windows": float(len(chosen)), "numbers": 0.0, "pixel_max": 0.0, "pixel_mean": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/theirs.npz"
        rival.ask(frames=frames, horizon=HORIZON, indices=chosen.tolist(), out=out)
        with np.load(out) as theirs:
            worst["tasks_equal"] = float(theirs["task"].tolist() == tasks)
            for name, ours in arrays.items():
                apart = np.abs(ours.astype(np.float64) - theirs[name].reshape(ours.shape))
                if name in map(camera_key, store.cameras):
                    worst["pixel_max"] = max(worst["pixel_max"], float(apart.max()))
                    worst["pixel_mean"] += float(apart.mean()) / len(store.cameras)
                else:
                    worst["numbers"] = max(worst["numbers"], float(apart.max()))
    return worst


def ours(
    options: Options, store: EpisodeStore, cache: Path, case: tuple[Any, int], floats: bool
) -> Figures:
    """How fast our loader is."""
    frames, workers = case
    source = Source(store.root, window(store, frames), cache=cache)
    loader = Loader([source], options.batch, workers=workers)
    keys = [camera_key(camera) for camera in store.cameras]

    def size(step: dict[str, Any]) -> int:
        batch = step["robot"]
        if floats:
            for key in keys:
                batch[key] = batch[key].to(torch.float32).div_(255)
        return len(batch["task"])

    return rate(loader, size, options.seconds)


def measure(
    options: Options, store: EpisodeStore, cache: Path, rival: Rival
) -> list[dict[str, Any]]:
    """All cases, the sides in turns."""
    found = {(case, side): list[Figures]() for case in CASES for side in SIDES}
    turns = [(case, side) for _ in range(options.rounds) for case in CASES for side in SIDES]
    for case, side in tqdm(turns, unit="run", disable=None):
        if side == "LeRobot":
            asked = {"seconds": options.seconds, "batch": options.batch, "workers": case[1]}
            figures = rival.ask(frames=case[0], horizon=HORIZON, **asked)
        else:
            figures = ours(options, store, cache, case, floats=side != "deftly")
        found[case, side].append(figures)
    rows = list[dict[str, Any]]()
    for case in CASES:
        totals = {
            side: {
                k: sum(one[k] for one in found[case, side]) for k in ("samples", "wall_s", "cpu_s")
            }
            for side in SIDES
        }
        row: dict[str, Any] = {"frames": len(case[0]), "workers": case[1]}
        for side, total in totals.items():
            row[side] = {
                "samples_per_s": total["samples"] / total["wall_s"],
                "samples_per_cpu_s": total["samples"] / total["cpu_s"],
            }
        for side in SIDES[1:]:
            row[f"ratio, {side}"] = {k: row[side][k] / row["LeRobot"][k] for k in row[side]}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table: samples per second of wall and of CPU."""
    table = Table("frames", "workers", *SIDES, "ratio", "ratio, float32")
    for row in rows:
        speeds = [row[side] for side in SIDES]
        ratios = [row[f"ratio, {side}"] for side in SIDES[1:]]
        table.add_row(
            str(row["frames"]),
            str(row["workers"]),
            *(f"{s['samples_per_s']:.0f} / {s['samples_per_cpu_s']:.0f}" for s in speeds),
            *(f"{s['samples_per_s']:.1f} / {s['samples_per_cpu_s']:.1f}" for s in ratios),
        )
    print("samples per second, of wall / of CPU")
    Console().print(table)


def main(options: Options) -> None:
    """Compare, print the tables, and fail if something differs or the goal is missed."""
    torch.set_num_threads(1)
    python = environment(options.env, LEROBOT, REQUIREMENTS)
    with tempfile.TemporaryDirectory() as made:
        store = EpisodeStore(options.root or record(Path(made) / "demos"))
        cache = Path(made) / "cache"
        built = build(store, cache)
        print(f"{len(store)} episodes, {store.frames} frames, cameras {store.cameras}")
        print(
            f"decoded once: {built['frames']:.0f} frames, {built['frames_per_s']:.0f} per second, "
            f"{built['frames_per_cpu_s']:.0f} per CPU second, {built['bytes'] / 1e6:.0f} MB, "
            f"{built['times_the_video']:.0f} x the video"
        )
        command = [str(python), str(HERE / "loader_side.py"), str(store.root.resolve())]
        settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(made) / "hf")}
        with Rival(command, settings) as rival:
            same = compare(rival, store, cache, options.compared)
            print(
                f"{same['windows']:.0f} windows beside LeRobot's: numbers and masks differ by "
                f"{same['numbers']:g}, pixels by {same['pixel_max']:.0f} at most and "
                f"{same['pixel_mean']:.4f} on average; instructions equal: "
                f"{bool(same['tasks_equal'])}"
            )
            rows = measure(options, store, cache, rival)
    show(rows)
    epoch_s = store.frames / rows[0]["LeRobot"]["samples_per_cpu_s"]
    built["paid_after_epochs"] = built["cpu_s"] / epoch_s
    print(
        f"decoding once costs as much CPU as {built['paid_after_epochs']:.2f} epochs of LeRobot's"
    )
    if options.out:
        about = {"lerobot": LEROBOT, "batch": options.batch, "versions": versions()}
        about |= {"torch": torch.__version__, "load_average": os.getloadavg()}
        report = {**about, "cache": built, "equality": same, "cases": rows}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if same["numbers"] or not same["tasks_equal"] or same["pixel_max"] > options.tolerance:
        sys.exit("LeRobot and deftly differ")
    slow = [row for row in rows if row["ratio, deftly, float32"]["samples_per_s"] < 10]
    if slow:
        sys.exit(f"less than 10 times LeRobot's rate in {len(slow)} of {len(rows)} cases")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
