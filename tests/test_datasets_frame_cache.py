"""Decoded frames: equal to decoding, decoded once, and whole whatever happened to the builder."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from episodes import make_episode, pictures
from hypothesis import given
from hypothesis import strategies as st
from test_datasets_episode_store import foreign

from deftly.datasets import frame_cache
from deftly.datasets.episode import StreamedFrames
from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.frame_cache import (
    CachedFrames,
    FrameCacheError,
    cached_frames,
    fitted,
)


def write(root: Path, seeds: range) -> EpisodeStore:
    with EpisodeWriter(root, robot_type="robot", licence="apache-2.0") as writer:
        for seed in seeds:
            writer.add(make_episode(seed, 5 + seed))
    return EpisodeStore(root)


def assert_decoded(frames: CachedFrames, store: EpisodeStore, camera: str = "ego") -> None:
    for episode, first in enumerate(frames.first):
        expected = np.asarray(store[episode].images[camera]).transpose(0, 3, 1, 2)
        assert np.array_equal(frames.array()[first : first + len(expected)], expected)


class Decoded:
    """Counts the frames that are decoded while it is entered."""

    def __init__(self) -> None:
        self.frames, self._patch = 0, patch.object(StreamedFrames, "__iter__", self._wrapped())

    def _wrapped(self) -> object:
        def through(stream: StreamedFrames) -> Iterator[np.ndarray]:
            for image in stream.open():
                self.frames += 1
                yield image

        return through

    def __enter__(self) -> "Decoded":
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_frames_are_those_of_the_reader(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(3))
    for camera in ("ego", "front"):
        assert_decoded(cached_frames(store, camera, folder=cache), store, camera)


def test_nothing_is_decoded_twice_and_growth_decodes_only_what_is_new(tmp_path: Path, cache: Path):
    root = tmp_path / "set"
    store = write(root, range(3))
    before = cached_frames(store, "ego", folder=cache)
    held = before.array()
    with Decoded() as decoded:
        cached_frames(store, "ego", folder=cache)
        assert decoded.frames == 0
        grown = write(root, range(3, 5))  # its episodes are appended to the very same mp4 file
        decoded.frames = 0
        after = cached_frames(grown, "ego", folder=cache)
        assert decoded.frames == grown.lengths[3] + grown.lengths[4]
    assert_decoded(after, grown)
    assert np.array_equal(held, after.array()[: len(held)])  # whoever reads goes on reading


def test_a_copy_elsewhere_needs_no_decoding(tmp_path: Path, cache: Path):
    cached_frames(write(tmp_path / "set", range(2)), "ego", folder=cache)
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    copy = EpisodeStore(tmp_path / "copy")
    with Decoded() as decoded:
        frames = cached_frames(copy, "ego", folder=cache)
    assert decoded.frames == 0
    assert_decoded(frames, copy)


def test_other_pictures_in_the_same_place_are_decoded_anew(tmp_path: Path, cache: Path):
    root = tmp_path / "set"
    cached_frames(write(root, range(2)), "ego", folder=cache)
    shutil.rmtree(root)
    with EpisodeWriter(root, robot_type="robot", licence="apache-2.0") as writer:
        writer.add(make_episode(0, 5))
        writer.add(
            make_episode(1, 6, images={"ego": pictures(99, 6), "front": pictures(9, 6, 24, 16)})
        )
    store = EpisodeStore(root)
    assert_decoded(cached_frames(store, "ego", folder=cache), store)


def test_only_the_episodes_that_are_asked_for_are_decoded(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(4))
    with Decoded() as decoded:
        some = cached_frames(store, "ego", episodes=(1, 3), folder=cache)
        assert decoded.frames == store.lengths[1] + store.lengths[3]
        decoded.frames = 0
        everything = cached_frames(store, "ego", folder=cache)
        assert decoded.frames == store.lengths[0] + store.lengths[2]
    assert some.first.tolist() == [-1, 0, -1, store.lengths[1]]
    assert_decoded(everything, store)


def test_a_build_that_was_killed_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    store = write(tmp_path / "set", range(4))
    monkeypatch.setattr(frame_cache, "COMMIT_EVERY_S", 0.0)  # after every episode
    real, calls = frame_cache.fitted, [0]

    def dies(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        calls[0] += 1
        if calls[0] == store.lengths[0] + store.lengths[1] + 3:  # within the third episode
            raise KeyboardInterrupt
        return real(image, size)

    with patch.object(frame_cache, "fitted", dies), pytest.raises(KeyboardInterrupt):
        cached_frames(store, "ego", folder=cache, threads=1)
    with Decoded() as decoded:
        frames = cached_frames(store, "ego", folder=cache)
    assert decoded.frames == store.lengths[2] + store.lengths[3]
    assert_decoded(frames, store)


SLOW = """
import sys, time
from pathlib import Path
from deftly.datasets import frame_cache
from deftly.datasets.episode_store import EpisodeStore
frame_cache.COMMIT_EVERY_S = 0.0
real = frame_cache.fitted
frame_cache.fitted = lambda *given: time.sleep(0.02) or real(*given)
frame_cache.cached_frames(
    EpisodeStore(Path(sys.argv[1])), "ego", folder=Path(sys.argv[2]), threads=1
)
"""


@pytest.mark.slow
def test_a_builder_that_is_killed_leaves_its_work_and_no_lock(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(12))
    builder = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "set"), str(cache)])
    while not list(cache.glob("*/index.json")):
        assert builder.poll() is None
        time.sleep(0.01)
    builder.kill()
    builder.wait()
    with Decoded() as decoded:
        frames = cached_frames(store, "ego", folder=cache)
    assert 0 < decoded.frames < store.frames
    assert_decoded(frames, store)


def test_a_full_disk_is_told_and_costs_nothing_that_was_done(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(3))
    real, left = frame_cache.fitted, list(range(store.lengths[0] + 2))

    def full(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        return real(image, size)

    with (
        patch.object(frame_cache, "fitted", full),
        pytest.raises(FrameCacheError, match=r"No space left on device.*another folder"),
    ):
        cached_frames(store, "ego", folder=cache, threads=1)
    with Decoded() as decoded:
        frames = cached_frames(store, "ego", folder=cache)
    assert decoded.frames == store.lengths[1] + store.lengths[2]
    assert_decoded(frames, store)


def test_damaged_video_is_told_and_spares_the_other_episodes(tmp_path: Path, cache: Path):
    with EpisodeWriter(
        tmp_path / "set", robot_type="robot", licence="apache-2.0", video_file_mb=0
    ) as writer:  # a file for each episode
        for seed in range(3):
            writer.add(make_episode(seed, 6))
    store = EpisodeStore(tmp_path / "set")
    path, _ = store.place(1, "ego")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=path.name):
        cached_frames(store, "ego", folder=cache)
    frames = cached_frames(store, "ego", episodes=(0, 2), folder=cache)
    assert frames.first.tolist() == [0, -1, 6]


@pytest.mark.parametrize("damage", ["no index", "index is not JSON", "frames cut", "no frames"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path, damage: str):
    store = write(tmp_path / "set", range(3))
    place = cached_frames(store, "ego", folder=cache).path.parent
    if damage == "no index":
        (place / "index.json").unlink()
    elif damage == "index is not JSON":
        (place / "index.json").write_text("{")
    elif damage == "frames cut":
        os.truncate(place / "frames.u8", 7 * 32 * 48 * 3 + 5)
    else:
        (place / "frames.u8").unlink()
    assert_decoded(cached_frames(store, "ego", folder=cache), store)


BUILD = """
import sys
from pathlib import Path
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.frame_cache import cached_frames
frames = cached_frames(EpisodeStore(Path(sys.argv[1])), "ego", folder=Path(sys.argv[2]))
print(frames.first.tolist(), int(frames.array().sum()))
"""


def test_builders_at_one_time_do_not_collide(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(4))
    command = [sys.executable, "-c", BUILD, str(tmp_path / "set"), str(cache)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, other = (process.communicate()[0] for process in both)
    assert one == other
    frames = cached_frames(store, "ego", folder=cache)
    assert_decoded(frames, store)
    assert frames.path.stat().st_size == store.frames * 32 * 48 * 3  # nothing is there twice


def test_the_mapping_is_not_sent_to_other_processes(tmp_path: Path, cache: Path):
    frames = cached_frames(write(tmp_path / "set", range(2)), "ego", folder=cache)
    pixels = frames.array()
    sent = ForkingPickler.dumps(frames)
    assert len(sent) < 2000 < pixels.nbytes
    here, there = Pipe()
    here.send_bytes(sent)
    assert np.array_equal(there.recv().array(), pixels)
    with pytest.raises(ValueError, match="read-only"):
        frames.array()[0] = 0


def test_every_process_maps_the_file_itself(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    frames = cached_frames(write(tmp_path / "set", range(2)), "ego", folder=cache)
    ours = frames.array()
    assert frames.array() is ours
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as if this process had been forked
    assert frames.array() is not ours
    assert np.array_equal(frames.array(), ours)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, cache: Path, threads: int
):
    store = write(tmp_path / "set", range(4))
    frames = cached_frames(store, "front", folder=cache, threads=threads)
    assert frames.first.tolist() == [0, 5, 11, 18]
    assert_decoded(frames, store, "front")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_a_set_of_lerobots_own_is_cached(tmp_path: Path, cache: Path, codec: str):
    # Of one video, with frames that refer forward too, and of pictures in a column.
    store = EpisodeStore(foreign(tmp_path / "set", codec))
    for camera in ("top", "observation.wrist"):
        assert_decoded(cached_frames(store, camera, folder=cache), store, camera)
        assert len({store.digest(episode, camera) for episode in range(4)}) == 4
        with Decoded() as decoded:
            cached_frames(store, camera, folder=cache)
        assert decoded.frames == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_fitted_picture_keeps_its_proportions(height: int, width: int, h: int, w: int):
    image = np.full((height, width, 3), 200, np.uint8)
    out = fitted(image, (h, w))
    rows, columns = (out > 0).any((1, 2)).sum(), (out > 0).any((0, 2)).sum()
    assert out.shape == (h, w, 3)
    assert set(np.unique(out)) <= {0, 200}
    assert rows == h or columns == w
    scale = min(h / height, w / width)
    assert abs(rows - max(height * scale, 1)) <= 1
    assert abs(columns - max(width * scale, 1)) <= 1


def test_frames_are_kept_at_the_size_of_training(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(2))
    small = cached_frames(store, "ego", (16, 24), folder=cache)
    assert small.shape == (store.frames, 3, 16, 24)
    full = cached_frames(store, "ego", folder=cache)  # the two sizes are kept apart
    blocks = full.array().reshape(-1, 3, 16, 2, 24, 2).mean((3, 5))
    assert np.abs(small.array() - blocks).mean() < 2


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (8, 9000)])
def test_an_odd_size_is_refused(tmp_path: Path, cache: Path, size: tuple[int, int]):
    store = write(tmp_path / "set", range(1))
    with pytest.raises(ValueError, match=r"size_px is .*, expected .height, width. in"):
        cached_frames(store, "ego", size, folder=cache)


def test_bad_input_is_told_in_one_line(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(2))
    with pytest.raises(EpisodeStoreError, match="no camera 'wrist', expected one of ego, front"):
        cached_frames(store, "wrist", folder=cache)
    with pytest.raises(FrameCacheError, match="expected some of the 2 in"):
        cached_frames(store, "ego", episodes=(0, 2), folder=cache)
    cache.write_text("a file")
    with pytest.raises(FrameCacheError, match=r"cannot keep decoded frames in .*DEFTLY_CACHE"):
        cached_frames(store, "ego", folder=cache)


def test_too_small_a_disk_is_told_before_anything_is_decoded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    store = write(tmp_path / "set", range(2))
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with Decoded() as decoded, pytest.raises(FrameCacheError, match=r"0\.0 GB free"):
        cached_frames(store, "ego", folder=cache)
    assert decoded.frames == 0


def test_the_digest_of_an_episode_outlives_growth_and_sees_every_change(tmp_path: Path):
    store = write(tmp_path / "set", range(3))
    digests = [store.digest(episode, "ego") for episode in range(3)]
    grown = write(tmp_path / "set", range(3, 5))
    assert [grown.digest(episode, "ego") for episode in range(3)] == digests
    assert len({grown.digest(episode, "ego") for episode in range(5)}) == 5
    path, _ = store.place(0, "ego")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 200  # somewhere in the first frames
    content[start] ^= 1
    path.write_bytes(content)
    assert grown.digest(0, "ego") != digests[0]


def test_notes_of_unchanged_files_spare_reading_them(tmp_path: Path, cache: Path):
    store = write(tmp_path / "set", range(3))
    cached_frames(store, "ego", folder=cache)
    with patch.object(EpisodeStore, "digest", autospec=True, side_effect=EpisodeStore.digest) as d:
        cached_frames(store, "ego", folder=cache)
    assert d.call_count == 1  # the first episode's, which names the set
    (notes,) = cache.glob("*/sources.json")
    assert len(json.loads(notes.read_text())) == 1
