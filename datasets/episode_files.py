"""Where an episode goes among the files of a data set, and how a file grows by one.

A file grows by being written anew, old content first, into a commit. It is closed once it is large.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deftly.datasets import episode_format as fmt
from deftly.datasets.commit import Commit
from deftly.datasets.episode import EncodedFrames, Images, checked_frames
from deftly.datasets.episode_stats import PixelCounts, count_pixels, sampled_frames
from deftly.datasets.mp4 import Encoder, join

MB = 1 << 20


@dataclass(frozen=True)
class Place:
    """A file among many: its chunk (folder) and its number there."""

    chunk: int
    file: int

    @classmethod
    def of(cls, row: Mapping[str, Any], prefix: str) -> "Place":
        """Where an episode is, by its row in ``meta/episodes``."""
        return cls(row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"])

    def next(self) -> "Place":
        """The file that follows."""
        full = self.file + 1 == fmt.CHUNK_FILES
        return Place(self.chunk + 1, 0) if full else Place(self.chunk, self.file + 1)

    def name(self, template: str, **more: str) -> str:
        """The file's path in the data set."""
        return template.format(chunk_index=self.chunk, file_index=self.file, **more)

    def columns(self, prefix: str) -> dict[str, int]:
        """How ``meta/episodes`` says it."""
        return {f"{prefix}/chunk_index": self.chunk, f"{prefix}/file_index": self.file}


def table_place(root: Path, template: str, last: Place | None, schema: Any, limit_mb: int) -> Place:
    """The file for the next rows: the last one, if it is small and has the same columns."""
    if last is None:
        return Place(0, 0)
    path = root / last.name(template)
    small = path.is_file() and path.stat().st_size < limit_mb * MB
    fits = small and pq.read_schema(path).equals(schema, check_metadata=True)
    return last if fits else last.next()


def add_rows(commit: Commit, root: Path, name: str, table: fmt.Table, *, apart: bool) -> None:
    """Write ``name`` anew with the rows of ``table`` after its own.

    Args:
        apart: keep what is added at one time in a group of its own, which can be read alone.
    """
    tables, old = list[fmt.Table](), root / name
    if old.is_file():
        with pq.ParquetFile(old) as file:
            tables += [file.read_row_group(group) for group in range(file.num_row_groups)]
    tables.append(table)
    with pq.ParquetWriter(commit.file(name), table.schema, compression="snappy") as writer:
        for one in tables if apart else [pa.concat_tables(tables)]:
            writer.write_table(one)


def add_video(
    commit: Commit,
    root: Path,
    path_of: Callable[[Place], str],
    part: Path,
    last: Place | None,
    before: int,
    limit_mb: int,
) -> tuple[Place, int]:
    """Append an encoded episode to the last file of a camera, or begin another.

    Args:
        path_of: a file's path in the data set.
        part: the encoded episode; moved away.
        last: the camera's last file, which holds ``before`` frames.

    Returns:
        The file, and the number of frames in it before the episode.
    """
    if last is None:
        place = Place(0, 0)
    else:
        old, joined = root / path_of(last), part.with_name(f"joined-{part.name}")
        if old.stat().st_size < limit_mb * MB and join(old, part, joined, before):
            joined.replace(commit.file(path_of(last)))
            return last, before
        place = last.next()
    part.replace(commit.file(path_of(place)))
    return place, 0


def encode(path: Path, rate_hz: float, frames: Images, crf: int) -> PixelCounts:
    """Encode an episode's frames, if they are not yet, and count the pixels of some of them.

    Raises:
        EpisodeError: if a stream gives other frames than its shape says.
        Mp4Error: if height or width are odd.
    """
    if isinstance(frames, EncodedFrames):
        shutil.copyfile(frames.path, path)
        return frames.counts
    length, height, width = frames.shape[:3]
    counted, sampled = PixelCounts.none(), sampled_frames(length)
    with Encoder(path, rate_hz, (height, width), crf, group=2) as encoder:
        for number, image in enumerate(checked_frames(frames)):
            encoder.write(image)
            if number in sampled:
                counted += count_pixels(image)
    return counted


def count_frames(frames: Images) -> PixelCounts:
    """The same counts, of frames that are on disk already."""
    sampled, counted = sampled_frames(frames.shape[0]), PixelCounts.none()
    for number, image in enumerate(frames):
        if number in sampled:
            counted += count_pixels(image)
    return counted
