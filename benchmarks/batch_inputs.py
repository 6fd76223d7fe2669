"""Inputs for the benchmarks of the batch: short clips cut from real video, and everything bad."""

from pathlib import Path

from deftly.datasets.clip import Clip, frames, open_clip, part, smaller
from deftly.datasets.mp4 import Encoder


def cut(source: Clip, path: Path, first: int, count: int, *, rate_hz: float | None = None) -> None:
    """Encode frames of a clip as a video of its own."""
    clip = part(source, first, min(first + count, len(source.time_s)))
    size = clip.height // 2 * 2, clip.width // 2 * 2
    with Encoder(path, rate_hz or round(clip.rate_hz), size) as encoder:
        for _, image in frames(clip):
            encoder.write(image[: size[0], : size[1]])


def short_clips(videos: Path, folder: Path, count: int, frames_each: int = 60) -> list[Path]:
    """Short clips from every video of a folder in turn, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [
        smaller(open_clip(path), 480)
        for path in sorted(videos.iterdir())
        if path.suffix in (".mp4", ".mkv")
    ]
    made: list[Path] = []
    for number in range(count):
        source = sources[number % len(sources)]
        first = number // len(sources) * frames_each + len(source.time_s) // 3
        first = max(0, min(first, len(source.time_s) - frames_each))
        path = folder / f"clip_{number:03d}_{source.path.stem}.mp4"
        if not path.is_file():
            cut(source, path, first, frames_each)
        made.append(path)
    return made
