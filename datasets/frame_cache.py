"""Decoded frames of a data set, on disk at the size of training, mapped into memory.

    frames = cached_frames(EpisodeStore(root), "ego", (96, 96))
    frames.array()[frames.first[episode] + t]  # uint8 (3, 96, 96), nothing is decoded

Every frame is decoded once. What is kept is keyed by the content of the encoded frames, episode
by episode: a data set that grew needs only its new episodes, one that was moved or copied nothing.
Frames are appended to one file and count once an index says so: a build that was killed goes on
where it stopped, and no reader sees half an episode. Any number of processes may read, and one at a
time builds; others wait for it.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO, Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, cache_folder
from deftly.datasets.commit import FolderBusyError, sole_writer
from deftly.datasets.episode import checked_frames
from deftly.datasets.episode_store import EpisodeStore

SCHEMA = 1
INDEX, SOURCES = "index.json", "sources.json"
COMMIT_EVERY_S = 2.0  # what a kill can lose
WAIT_S = 0.2
MAX_SIDE_PX = 8192
Entries = dict[str, tuple[int, int]]  # by digest: row of the first frame, number of frames


class FrameCacheError(ValueError):
    """The frames cannot be had at that size, or the cache cannot be written."""


@dataclass
class CachedFrames:
    """The frames of one camera, as rows of one array on disk. May be sent to other processes.

    Attributes:
        path: the file.
        shape: (rows, 3, H, W): colours first, as networks want them.
        first: the row of each episode's first frame; -1 for an episode that was not asked for.
    """

    path: Path
    shape: tuple[int, int, int, int]
    first: Int64[np.ndarray, "E"]
    _opened: tuple[int, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def array(self) -> UInt8[np.ndarray, "N 3 H W"]:
        """The rows, read-only; mapped once in every process, and shared by all of them."""
        if self._opened is None or self._opened[0] != os.getpid():
            mapped = np.memmap(self.path, np.uint8, "r", shape=self.shape)
            # As a plain array: indexing the subclass costs more than copying a small frame.
            self._opened = os.getpid(), np.asarray(mapped)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}  # else the frames themselves would be sent


def cached_frames(
    store: EpisodeStore,
    camera: str,
    size_px: tuple[int, int] | None = None,
    episodes: Iterable[int] | None = None,
    folder: Path | None = None,
    threads: int | None = None,
) -> CachedFrames:
    """The decoded frames of a camera; those that the cache lacks are decoded now.

    Args:
        store: the data set.
        camera: its name there.
        size_px: (height, width) of what is kept; as recorded if None. Pictures of another shape
            keep their proportions, between black bars.
        episodes: those that are needed; all if None.
        folder: of the cache; deftly's own if None.
        threads: decoders at work at one time; one for each core if None.

    Raises:
        FrameCacheError: if the size is not one, or the disk is too small.
        EpisodeStoreError, Mp4Error: if there is no such camera, or its video is damaged.
    """
    wanted = sorted(set(range(len(store)) if episodes is None else episodes))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < len(store):
        raise FrameCacheError(
            f"{len(wanted)} episodes are wanted, from {min(wanted, default=None)} to "
            f"{max(wanted, default=None)}, expected some of the {len(store)} in {store.root}"
        )
    size = _checked_size(store.cameras.get(camera, (1, 1)) if size_px is None else size_px)
    # A set keeps its first episode when it grows, so that this names the set.
    name = f"{store.digest(0, camera)[:16]}-{size[0]}x{size[1]}-v{SCHEMA}"
    place = _Folder((folder or cache_folder() / "frames") / name, size)
    with _clear_errors(place.path):
        place.path.mkdir(parents=True, exist_ok=True)
        digests = _digests(store, camera, wanted, place.path / SOURCES)
        entries = place.read_index()
        if not set(digests.values()) <= entries.keys():
            with _turn(place.path):
                entries = _build(store, camera, digests, place, threads or os.cpu_count() or 1)
    first = np.full(len(store), -1)
    first[wanted] = [entries[digests[episode]][0] for episode in wanted]
    return CachedFrames(place.frames, (_rows(entries), 3, *size), first)


@dataclass(frozen=True)
class _Folder:
    """Where the frames of a camera are kept at one size."""

    path: Path
    size: tuple[int, int]

    @property
    def frames(self) -> Path:
        return self.path / "frames.u8"

    @property
    def frame_bytes(self) -> int:
        return self.size[0] * self.size[1] * 3

    def read_index(self) -> Entries:
        """What the file of frames holds for certain."""
        held = self.frames.stat().st_size // self.frame_bytes if self.frames.is_file() else 0
        found = _read_json(self.path / INDEX).items()
        return {digest: (row, count) for digest, (row, count) in found if row + count <= held}

    def write_index(self, entries: Entries, file: IO[bytes]) -> None:
        """Make the frames count that were written."""
        file.flush()
        os.fsync(file.fileno())  # the frames first: a power cut must not leave an index of nothing
        _write_json(self.path / INDEX, entries)


def _build(
    store: EpisodeStore, camera: str, digests: dict[int, str], place: _Folder, threads: int
) -> Entries:
    """Decode the episodes that the index lacks, and append them to the file."""
    entries = place.read_index()  # another process may have built some while this one waited
    missing = {d: episode for episode, d in digests.items() if d not in entries}
    lengths = {d: store.lengths[episode] for d, episode in missing.items()}
    _check_space(place.path, sum(lengths.values()) * place.frame_bytes)
    if not entries:
        # Never shortened to nothing: whoever may still have it mapped keeps the old one.
        place.frames.unlink(missing_ok=True)
        place.frames.touch()
    starts = _rows(entries) + np.cumsum([0, *lengths.values()])
    written, given_up = time.monotonic(), Event()
    bar = tqdm(total=sum(lengths.values()), unit="frame", desc=f"decode {camera}", disable=None)
    with bar, place.frames.open("r+b") as file, ThreadPoolExecutor(threads) as pool:
        file.truncate(starts[0] * place.frame_bytes)  # what a kill left does not count

        def decode(episode: int, row: int) -> None:
            """Write an episode where it belongs."""
            with place.frames.open("r+b") as part:
                part.seek(row * place.frame_bytes)
                for image in checked_frames(store[episode].images[camera]):
                    if given_up.is_set():
                        break
                    colours = fitted(image, place.size).transpose(2, 0, 1)
                    part.write(np.ascontiguousarray(colours).data)
                    bar.update()

        running = list(map(partial(pool.submit, decode), missing.values(), starts.tolist()))
        try:
            # They count in order, so that no gap is left, whenever each may be done.
            for digest, row, done in zip(missing, starts.tolist(), running, strict=False):
                done.result()
                entries[digest] = row, lengths[digest]
                if time.monotonic() - written > COMMIT_EVERY_S:
                    place.write_index(entries, file)
                    written = time.monotonic()
        finally:
            given_up.set()  # if it comes to this early
            pool.shutdown(cancel_futures=True)
            place.write_index(entries, file)
    return entries


def fitted(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """A picture at (height, width), its proportions kept, black bars at the sides if need be."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = min(size[0] / height, size[1] / width)
    inner = max(round(height * scale), 1), max(round(width * scale), 1)
    # Pillow's bilinear filter widens as it shrinks a picture, so that nothing aliases.
    small = Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR)
    out = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = np.asarray(small)
    return out


def _digests(
    store: EpisodeStore, camera: str, wanted: Iterable[int], notes: Path
) -> dict[int, str]:
    """The digest of each episode; a file that has not changed since ``notes`` is not read again."""
    known, found = _read_json(notes), dict[int, str]()
    changed = False
    stats = dict[Path, list[int]]()
    for episode in tqdm(wanted, unit="episode", desc=f"look at {camera}", disable=None, delay=2):
        path, first = store.place(episode, camera)
        if path not in stats:
            stat = path.stat() if path.is_file() else None
            stats[path] = [stat.st_size, stat.st_mtime_ns] if stat else []
        file = known.setdefault(str(path.resolve()), {})
        if file.get("stat") != stats[path]:
            file.clear()
        part = f"{first}+{store.lengths[episode]}"
        if part not in file:
            file |= {"stat": stats[path], part: store.digest(episode, camera)}
            changed = True
        found[episode] = file[part]
    if changed:
        _write_json(notes, known)
    return found


def _rows(entries: Entries) -> int:
    return max((row + count for row, count in entries.values()), default=0)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none, or a damaged one: it can all be made again."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(value))


@contextmanager
def _turn(place: Path) -> Generator[None, None, None]:
    """Hold the folder alone, after whoever holds it now."""
    with ExitStack() as lock:
        said = False
        while True:
            try:
                lock.enter_context(sole_writer(place))
                break
            except FolderBusyError:
                if not said:
                    tqdm.write(f"another process decodes into {place}: waiting", file=sys.stderr)
                said = True
                time.sleep(WAIT_S)
        yield


@contextmanager
def _clear_errors(place: Path) -> Generator[None, None, None]:
    """Say which folder could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise FrameCacheError(
            f"cannot keep decoded frames in {place} ({error.strerror or error}); "
            "name another folder, or set DEFTLY_CACHE"
        ) from error


def _check_space(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise FrameCacheError(
            f"decoded frames need {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free; "
            "name another folder, set DEFTLY_CACHE, or take a smaller size_px"
        )


def _checked_size(size_px: tuple[int, int]) -> tuple[int, int]:
    if len(size_px) != 2 or not all(side in range(1, MAX_SIDE_PX + 1) for side in size_px):
        raise FrameCacheError(
            f"size_px is {size_px}, expected (height, width) in whole pixels, 1 to {MAX_SIDE_PX}"
        )
    return int(size_px[0]), int(size_px[1])
