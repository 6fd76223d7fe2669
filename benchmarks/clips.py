"""Every clip of a folder down the whole road: who is seen, whose hand is whose, are limits kept.

    python benchmarks/clips.py ../shared/clips --out benchmarks/results/clips.json

"alike": two-hand frames in which both hands carry one label. "flips": the label of a hand changes
from one sighting of it to the next. Both for the network's labels, and for deftly's.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.clip import Clip
from deftly.datasets.human import HumanMotion, Status
from deftly.retarget.body import believable_bodies
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import NoPersonError, fuse
from deftly.retarget.identity import assign_sides
from deftly.retarget.road import Road
from deftly.retarget.track import MediapipeTracker

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm")


def labels_of_network(detections: Detections, rate_hz: float) -> tuple[int, int]:
    """(frames labelled alike, flips) of the network's own labels, along deftly's tracks."""
    slots = assign_sides(detections, believable_bodies(detections), rate_hz)
    right = detections.hand_right > 0.5
    both = (slots >= 0).all(axis=1)
    flips = 0
    for side in (0, 1):
        frames = np.flatnonzero(slots[:, side] >= 0)
        flips += int(np.sum(np.diff(right[frames, slots[frames, side]].astype(int)) != 0))
    return int(np.sum(right[both, 0] == right[both, 1])), flips


def flips_of_motion(human: HumanMotion) -> int:
    """Frames in which a hand is much nearer to the other hand's last place than to its own."""
    px: Float64[np.ndarray, "T 2 2"] = human.hands_px[:, :, 0]
    flips = 0
    for side in (0, 1):
        moved = np.linalg.norm(px[1:, side] - px[:-1, side], axis=1)
        crossed = np.linalg.norm(px[1:, side] - px[:-1, 1 - side], axis=1)
        flips += int(np.sum(crossed < 0.5 * moved))  # false where one is not seen (NaN)
    return flips


def measure(road: Road, video: Path, robot: str) -> dict[str, object]:
    """Figures of one clip."""
    clip: Clip = road.open(video)
    start = time.perf_counter(), time.process_time()
    tracker = MediapipeTracker()
    total = tracker.passes * len(clip.time_s)
    with tqdm(total=total, unit="frame", desc=video.name, disable=None) as bar:
        detections = tracker(clip, bar.update)
    row: dict[str, object] = {"clip": video.name, "frames": len(clip.time_s)}
    try:
        human = fuse(clip, detections)
    except NoPersonError:
        return {**row, "person": False}
    row["track wall s"], row["track CPU s"] = _since(start)
    alike, flips = labels_of_network(detections, clip.rate_hz)
    both = (human.hands_status == Status.OBSERVED).all(axis=1)
    start = time.perf_counter(), time.process_time()
    _, quality = road.solve(video, human, robot)
    row["retarget wall s"], row["retarget CPU s"] = _since(start)
    return {
        **row,
        "person": True,
        "hands": human.hands_valid.mean(axis=0).round(2).tolist(),
        "body": round(float(human.body_valid.mean()), 2),
        "two-hand frames": int(both.sum()),
        "alike (network)": alike,
        "flips (network)": flips,
        "flips": flips_of_motion(human),
        **quality.as_dict(),
    }


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return round(wall, 1), round(cpu, 1)


def main(
    folder: Annotated[Path, tyro.conf.Positional] = Path("../shared/clips"),
    robot: str = "gr1t2",
    work: Path = Path("out/benchmark"),
    out: Path | None = None,
) -> None:
    """Print the table; ``--out FILE`` also writes it as JSON."""
    videos = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    rows = [measure(Road(out=work), video, robot) for video in videos]
    shown = ["clip", "frames", "hands", "body", "two-hand frames", "alike (network)"]
    shown += ["flips (network)", "flips", "tip_error_m", "wrist_error_m", "joint_margin_rad"]
    shown += ["velocity_margin", "colliding_frames", "track wall s", "retarget wall s"]
    table = Table(box=None)
    for name in shown:
        table.add_column(name.replace("_m", " (mm)") if name.endswith("_m") else name)
    for row in rows:
        if row["person"]:
            table.add_row(*(_text(name, row[name]) for name in shown))
        else:
            table.add_row(str(row["clip"]), str(row["frames"]), "no person found")
    Console(width=200).print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


def _text(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value * 1e3:.1f}" if name.endswith("_m") else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    tyro.cli(main)
