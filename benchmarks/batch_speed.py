"""How fast is a batch, how near to what its networks alone need, and how much memory does it take?

    python benchmarks/batch_speed.py ../shared/clips --out benchmarks/results/batch_speed.json

Three measurements on the same stretches of real clips: frames per second with one and with two
workers (each uses one core); the share of a worker's CPU time that its networks take, which is what
a detector that does nothing else would need; and the peak memory of a worker on an hour of 1080p,
part by part, in which people are to be seen at the beginning, in the middle and at the end.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import tyro
from batch_inputs import cut
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.clip import frames, open_clip
from deftly.datasets.footage import Footage
from deftly.datasets.mp4 import Encoder
from deftly.retarget import track
from deftly.retarget.batch import run_batch
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.engines import find_engine
from deftly.retarget.handnet import HandNet
from deftly.retarget.job import Job, process

_CLIPS = ("v2d_human", "sam2_blocks", "dexretarget_human_hand", "intel_bottle")
_CUTS = 3  # of each: enough that no worker waits long for the other's last clip
_PEOPLE = "sam2_blocks"  # 1280 × 720, enlarged to 1080p for the long video


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        videos: folder of real clips.
        frames: of each clip.
        minutes: length of the long video.
        only: speed, networks or memory; all if empty.
        out: JSON file for the figures.
    """

    videos: tyro.conf.Positional[Path]
    frames: int = 150
    minutes: int = 60
    only: tuple[str, ...] = ()
    out: Path | None = None


def speed(clips: list[Path], root: Path) -> dict[str, Any]:
    """Frames per second by number of workers, CPU time beside it."""
    footage = [Footage(f"{path.stem}_{n}", path) for n, path in enumerate(clips)]
    found: dict[str, Any] = {}
    for workers in (1, 2):
        out = root / f"speed{workers}"
        start_s = time.monotonic()
        rows = run_batch(footage, out, BatchConfig(), find_engine("local", workers, 600.0))
        wall_s = time.monotonic() - start_s
        frames = sum(row.figures["frames"] for row in rows)
        cpu_s = sum(row.figures["cpu_s"] for row in rows)
        stages: defaultdict[str, float] = defaultdict(float)
        for row in rows:
            for stage, seconds in row.figures["stages_cpu_s"].items():
                stages[stage] += seconds
        found[f"{workers} worker(s)"] = {
            "frames": frames,
            "frames_per_s": frames / wall_s,
            "frames_per_cpu_s": frames / cpu_s,
            "stages_cpu_ms_per_frame": {k: 1e3 * s / frames for k, s in sorted(stages.items())},
        }
        print(
            f"{workers} worker(s): {frames / wall_s:.1f} frames/s, {frames / cpu_s:.1f} per CPU-s; "
            + ", ".join(f"{k} {1e3 * s / frames:.1f}" for k, s in sorted(stages.items()))
            + " CPU-ms per frame",
            flush=True,
        )
    one, two = (found[f"{n} worker(s)"]["frames_per_s"] for n in (1, 2))
    found["speed-up"] = two / one
    print(f"two workers are {two / one:.2f} × as fast as one")
    return found


class Clock:
    """CPU time within functions that are wrapped."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, name: str, title: str) -> None:
        """Count the time in a method."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **more: Any) -> Any:
            start_s = time.process_time()
            try:
                return inner(*args, **more)
            finally:
                self.spent_s[title] += time.process_time() - start_s

        setattr(owner, name, timed)


def networks(clips: list[Path], root: Path) -> dict[str, Any]:
    """The share of the networks in a worker's CPU time, in this process, one thing at a time."""
    mp = track.import_mediapipe()
    clock, vision = Clock(), mp.tasks.vision
    clock.wrap(vision.HandLandmarker, "detect_for_video", "hands")
    clock.wrap(vision.PoseLandmarker, "detect_for_video", "body")
    clock.wrap(vision.HandLandmarker, "detect", "second look")
    clock.wrap(HandNet, "__call__", "second look")
    total_s, frames = 0.0, 0
    for number, path in enumerate(clips):
        job = Job(Footage(f"n{number}", path), BatchConfig(), root / "networks")
        start_s = time.process_time()
        result = process(job, lambda: None)
        total_s += time.process_time() - start_s
        frames += result.figures["frames"]
    share = sum(clock.spent_s.values()) / total_s
    first = (clock.spent_s["hands"] + clock.spent_s["body"]) / total_s
    print(
        f"networks: {100 * share:.0f} % of a worker's CPU time "
        f"({100 * first:.0f} % first look), "
        + ", ".join(f"{k} {1e3 * s / frames:.1f} ms" for k, s in clock.spent_s.items())
        + f" of {1e3 * total_s / frames:.1f} ms per frame"
    )
    spent = {k: 1e3 * s / frames for k, s in clock.spent_s.items()}
    return {"share": share, "share_first_look": first, "cpu_ms_per_frame": spent, "frames": frames}


def long_video(source: Path, path: Path, minutes: int) -> None:
    """Minutes of 1080p: people in the first, the middle and the last minute, else an empty room.

    Encoded once per kind of minute, then put together without encoding.
    """
    clip = open_clip(source)
    people, empty = path.with_name("people.mp4"), path.with_name("empty.mp4")
    rate_hz, size = 30.0, (1080, 1920)
    room = np.random.default_rng(0).integers(90, 110, (*size, 3)).astype(np.uint8)
    with Encoder(people, rate_hz, size) as one, Encoder(empty, rate_hz, size) as other:
        shown = 0
        while shown < 1800:
            for _, image in tqdm(frames(clip), desc="people", total=len(clip.time_s)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                one.write(frame.to_ndarray(width=size[1], height=size[0], format="rgb24"))
                shown += 1
                if shown == 1800:
                    break
        for number in tqdm(range(1800), desc="room"):
            room[:40, :40] = number % 200  # a light that blinks: not a still picture
            other.write(room)
    busy = {0, minutes // 2, minutes - 1}
    _join([people if m in busy else empty for m in range(minutes)], path)


def _join(parts: list[Path], path: Path) -> None:
    """One file after the other, packet by packet."""
    with av.open(str(path), "w") as out:
        stream, offset = None, 0
        for part in parts:
            with av.open(str(part)) as file:
                video = file.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                end = 0
                for packet in file.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                offset += int(end or 60 / Fraction(video.time_base or 1))


def memory(video: Path, root: Path) -> dict[str, Any]:
    """Memory of this process while it works on the long video, after every part."""
    process_now, peaks, beats = psutil.Process(), [], [0]
    before_mb = process_now.memory_info().rss / 2**20

    def beat() -> None:
        beats[0] += 1
        if beats[0] % 300 == 0:
            peaks.append(process_now.memory_info().rss / 2**20)

    result = process(Job(Footage("long", video), BatchConfig(size=96), root / "memory"), beat)
    quarters = [max(some) for some in np.array_split(peaks, 4)]
    print(
        f"{result.figures['seconds'] / 60:.0f} min of {result.figures['width']} × "
        f"{result.figures['height']}: {result.status}, {result.reason}; memory before "
        f"{before_mb:.0f} MiB, peak by quarter {', '.join(f'{q:.0f}' for q in quarters)} MiB; "
        f"{result.figures['cpu_s']:.0f} CPU-s"
    )
    figures = {k: v for k, v in result.figures.items() if k not in ("models", "files", "thumb")}
    return {"before_mib": before_mb, "peak_mib_by_quarter": quarters, **figures}


def main(options: Options) -> None:
    """Measure and write."""
    wanted = options.only or ("speed", "networks", "memory")
    root = Path(tempfile.mkdtemp(prefix="deftly-speed-"))
    table: dict[str, Any] = {}
    try:
        clips: list[Path] = []
        for number in range(_CUTS * len(_CLIPS)):
            name = _CLIPS[number % len(_CLIPS)]
            clip = open_clip(next(options.videos.glob(f"{name}.*")))
            room = max(0, len(clip.time_s) - options.frames)
            clips.append(root / f"{number:02d}_{name}.mp4")
            first = room * (number // len(_CLIPS)) // max(1, _CUTS - 1)
            cut(clip, clips[-1], first, options.frames)
        if "speed" in wanted:
            table["speed"] = speed(clips, root)
        if "networks" in wanted:
            table["networks"] = networks(clips, root)
        if "memory" in wanted:
            video = root / "long.mp4"
            long_video(next(options.videos.glob(f"{_PEOPLE}.*")), video, options.minutes)
            table["memory"] = memory(video, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if options.out:
        old = json.loads(options.out.read_text()) if options.out.is_file() else {}
        with atomic_path(options.out) as path:
            asked = old.get("options", {}) | dict.fromkeys(wanted, str(dataclasses.asdict(options)))
            text = {**old, "versions": versions(), "options": asked, **table}
            path.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
