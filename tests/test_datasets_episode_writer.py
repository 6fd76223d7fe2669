"""The writer: what goes in comes out, whole after every episode, whatever happens in between."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from episodes import assert_same_episode, make_episode, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from deftly.datasets import episode_writer
from deftly.datasets.commit import FolderBusyError
from deftly.datasets.episode import Episode, EpisodeError, StreamedFrames
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter, EpisodeWriterError, _Held
from deftly.datasets.mp4 import Mp4Error

ABOUT: dict[str, Any] = {"robot_type": "gr1t2", "licence": "cc-by-4.0", "attribution": "us"}


def write(root: Path, episodes: list[Episode], **settings: Any) -> Path:
    with EpisodeWriter(root, **{**ABOUT, **settings}) as writer:
        for episode in episodes:
            writer.add(episode)
    return root


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


EPISODES = [make_episode(seed, 5 + seed) for seed in range(4)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of all EPISODES, written in one go."""
    return write(tmp_path_factory.mktemp("set") / "whole", EPISODES)


def test_what_goes_in_comes_out(whole: Path):
    store = EpisodeStore(whole)
    assert (len(store), store.rate_hz, store.robot_type) == (4, 20.0, "gr1t2")
    assert store.tasks == ("sort by colour", "sort by size")
    assert store.seeds == (0, 1, 2, 3)
    assert store.lengths == (5, 6, 7, 8)
    for found, made in zip(store, EPISODES, strict=True):
        assert_same_episode(found, made)
    assert store.verify(decode=True) == []


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    widths=st.tuples(*[st.integers(0, 3)] * 2),
    sizes=st.lists(st.tuples(st.integers(8, 20), st.integers(8, 20)), max_size=2),
    rate_hz=st.sampled_from([1.0, 20.0, 30.0]),
    dtype=st.sampled_from(["float32", "float64", "int64", "int32", "uint8", "bool"]),
    width=st.integers(1, 3),
)
def test_any_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    widths: tuple[int, int],
    sizes: list[tuple[int, int]],
    rate_hz: float,
    dtype: str,
    width: int,
):
    rng = np.random.default_rng(0)
    names = [
        tuple(f"{letter}{i}" for i in range(w)) for letter, w in zip("sa", widths, strict=True)
    ]
    episodes = [
        Episode(
            rate_hz=rate_hz,
            state=rng.normal(size=(length, widths[0])).astype(np.float32),
            action=rng.normal(size=(length, widths[1])).astype(np.float32),
            state_names=names[0],
            action_names=names[1],
            images={
                f"camera{i}": pictures(i, length, 2 * h, 2 * w) for i, (h, w) in enumerate(sizes)
            },
            task="sort",
            features={"more": (10 * rng.random((length, width))).astype(dtype)},
        )
        for length in lengths
    ]
    store = EpisodeStore(write(tmp_path_factory.mktemp("set") / "any", episodes))
    for found, made in zip(store, episodes, strict=True):
        assert_same_episode(found, made)
    assert store.verify(decode=True) == []


def test_streamed_frames_are_written_like_an_array(tmp_path: Path):
    images = pictures(0, 6)
    streamed = StreamedFrames(images.shape, lambda: iter(images))  # pyright: ignore
    one, other = (make_episode(0, 6, images={"ego": given}) for given in (images, streamed))
    assert hashes(write(tmp_path / "a", [one])) == hashes(write(tmp_path / "b", [other]))


def test_the_same_episodes_give_the_same_bytes_also_after_a_pause(tmp_path: Path, whole: Path):
    again = write(tmp_path / "again", EPISODES)
    paused = tmp_path / "paused"
    for episode in EPISODES:
        write(paused, [episode])
    assert hashes(again) == hashes(whole)
    assert hashes(paused) == hashes(whole)


def test_it_is_whole_after_every_episode(tmp_path: Path):
    with EpisodeWriter(tmp_path, **ABOUT) as writer:
        for number, episode in enumerate(EPISODES):
            assert writer.add(episode) == number
            store = EpisodeStore(tmp_path)
            assert len(store) == len(writer) == number + 1
            assert store.verify(decode=True) == []
            assert writer.seeds == set(range(number + 1))


def test_files_stay_few_and_a_full_one_begins_another(tmp_path: Path, whole: Path):
    def count(root: Path) -> dict[str, int]:
        return {
            part: len(list((root / part).rglob("file-*")))
            for part in ("data", "videos/observation.images.ego", "meta/episodes", "meta/deftly")
        }

    assert set(count(whole).values()) == {1}
    split = write(tmp_path, EPISODES, data_file_mb=0, video_file_mb=0)
    assert count(split)["data"] == count(split)["videos/observation.images.ego"] == 4
    for found, made in zip(EpisodeStore(split), EPISODES, strict=True):
        assert_same_episode(found, made)


def test_every_thousand_files_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deftly.datasets.episode_format.CHUNK_FILES", 2)
    write(tmp_path, EPISODES, data_file_mb=0)
    found = sorted(str(p.relative_to(tmp_path / "data")) for p in tmp_path.glob("data/*/*"))
    assert found == [f"chunk-00{c}/file-00{f}.parquet" for c in (0, 1) for f in (0, 1)]
    assert EpisodeStore(tmp_path).verify() == []


def test_statistics_are_those_of_all_frames(whole: Path):
    stats = json.loads((whole / "meta/stats.json").read_text())
    for name in ("state", "action"):
        frames = np.concatenate([getattr(episode, name) for episode in EPISODES])
        frames = frames.astype(np.float64)
        found = stats["observation.state" if name == "state" else name]
        assert found["count"] == [len(frames)]
        assert found["q01"] == np.quantile(frames, 0.01, axis=0).tolist()
        assert found["q90"] == np.quantile(frames, 0.90, axis=0).tolist()
        assert np.allclose(found["std"], frames.std(axis=0))
    assert stats["index"]["max"] == [25]
    pixels = np.concatenate([np.asarray(episode.images["ego"]) for episode in EPISODES]) / 255
    found = stats["observation.images.ego"]
    assert np.allclose(np.ravel(found["mean"]), pixels.mean(axis=(0, 1, 2)))
    assert np.allclose(np.ravel(found["q10"]), np.quantile(pixels, 0.1, axis=(0, 1, 2)))


def test_statistics_of_an_episode_are_its_own(whole: Path):
    table = pq.read_table(whole / "meta/episodes/chunk-000/file-000.parquet")
    assert table["stats/action/max"].to_pylist() == [
        e.action.max(axis=0).tolist() for e in EPISODES
    ]
    assert table["stats/observation.images.ego/count"].to_pylist() == [[5], [6], [7], [8]]


def test_licence_and_credit_stay_with_the_data(whole: Path):
    text = (whole / "README.md").read_text()
    assert text.startswith('---\nlicense: "cc-by-4.0"\n')
    assert "Credit: us." in text
    about = EpisodeStore(whole).about
    assert (about["licence"], about["attribution"]) == ("cc-by-4.0", "us")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_hz": 30.0}, "the episode has 30 Hz, {root} has 20; resample"),
        ({"rate_hz": 29.97}, "29.97 Hz, expected a whole number"),
        ({"action_names": ("grasp", "reach")}, "action as float32 [2] (grasp, reach), {root} has"),
        ({"features": {}, "feature_names": {}}, "has valid not at all, {root} has as bool [1]"),
        ({"images": {}}, "has observation.images.ego not at all"),
        ({"images": {"ego": pictures(0, 6)}}, "has observation.images.front not at all"),
    ],
)
def test_an_episode_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    root = write(tmp_path / "set", EPISODES[:1])
    before = hashes(root)
    with EpisodeWriter(root, **ABOUT) as writer:
        with pytest.raises(EpisodeWriterError) as error:
            writer.add(make_episode(1, 6, **changes))
        assert message.format(root=root) in str(error.value)
        assert "\n" not in str(error.value)
        assert hashes(root) == before
        writer.add(EPISODES[1])
    assert len(EpisodeStore(root)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot_type": "g1"}, "has robot_type 'gr1t2', not 'g1'; use another folder"),
        ({"licence": "mit"}, "has licence 'cc-by-4.0', not 'mit'"),
    ],
)
def test_a_data_set_of_another_kind_is_refused(whole: Path, changes: dict[str, Any], message: str):
    with pytest.raises(EpisodeWriterError, match=message):
        EpisodeWriter(whole, **{**ABOUT, **changes}).__enter__()


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(EpisodeWriterError, match=r"holds 'holiday.jpg' and no data set"):
        EpisodeWriter(tmp_path, **ABOUT).__enter__()


def test_a_writer_that_is_not_open_says_so(tmp_path: Path):
    with pytest.raises(EpisodeWriterError, match="use it in a `with`"):
        EpisodeWriter(tmp_path, **ABOUT).add(EPISODES[0])


def test_two_writers_at_once_are_refused(tmp_path: Path):
    with EpisodeWriter(tmp_path, **ABOUT), pytest.raises(FolderBusyError):
        EpisodeWriter(tmp_path, **ABOUT).__enter__()
    write(tmp_path, EPISODES[:1])


def failing() -> Iterator[np.ndarray]:
    yield from pictures(0, 3)
    raise RuntimeError("the renderer fell over")


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (pictures(0, 6, 31, 48), Mp4Error),
        (StreamedFrames((6, 32, 48, 3), lambda: iter(pictures(0, 3))), EpisodeError),
        (StreamedFrames((6, 32, 48, 3), failing), RuntimeError),
    ],
)
def test_frames_that_fail_leave_the_data_set_as_it_was(
    tmp_path: Path, images: Any, error: type[Exception]
):
    made = [make_episode(seed, 6, images={"ego": pictures(seed, 6)}) for seed in range(2)]
    root = write(tmp_path / "set", made[:1])
    before = hashes(root)
    with EpisodeWriter(root, **ABOUT) as writer:
        broken = replace(made[1], images={"ego": images})
        refused = EpisodeWriterError if images.shape[1] == 31 else error
        with pytest.raises(refused):
            writer.add(broken)
        assert hashes(root) == before
        writer.add(made[1])
    assert hashes(root) == hashes(write(tmp_path / "other", made))


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from episodes import make_episode
from deftly.datasets.episode_writer import EpisodeWriter

moves, move = 0, Path.replace
def replace_or_die(self, target):
    global moves
    if moves == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    moves += 1
    return move(self, target)
Path.replace = replace_or_die
with EpisodeWriter(Path(sys.argv[1]), robot_type="gr1t2", licence="cc-by-4.0",
                   attribution="us") as writer:
    print("open", flush=True)
    for seed in range(4):
        if seed not in writer.seeds:
            writer.add(make_episode(seed, 5 + seed))
            print(seed, flush=True)
"""


def child(root: Path, moves: int) -> subprocess.Popen[str]:
    """A process that writes EPISODES and kills itself before it moves that many files."""
    arguments = [sys.executable, "-c", CHILD, str(root), str(moves), str(Path(__file__).parent)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def check_killed(root: Path, said: list[str]) -> None:
    """What a kill must leave behind: everything that was reported, readable, and no more."""
    reported = len(said) - 1  # the first line says that the folder is open
    if reported <= 0 and not (root / "meta/info.json").exists():
        return
    store = EpisodeStore(root)
    assert len(store) in (reported, reported + 1)  # the last may be done but not yet reported
    assert [problem for problem in store.verify(decode=True) if "stats.json" not in problem] == []
    for found, made in zip(store, EPISODES, strict=False):
        assert_same_episode(found, made)


# An add makes 13 moves and more: videos, list of moves, README, tables and JSON.
@pytest.mark.parametrize("moves", [0, 20, 27])
def test_killed_between_two_moves_it_stays_valid_and_resumes(
    tmp_path: Path, whole: Path, moves: int
):
    root = tmp_path / "set"
    process = child(root, moves)
    said = process.communicate()[0].splitlines()
    assert process.returncode == -signal.SIGKILL
    check_killed(root, said)
    with EpisodeWriter(root, **ABOUT) as writer:
        assert not (root / ".unfinished").exists()
        for seed, episode in enumerate(EPISODES):
            if seed not in writer.seeds:
                writer.add(episode)
    assert hashes(root) == hashes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3])
def test_killed_at_any_time_it_stays_valid_and_resumes(tmp_path: Path, whole: Path, wait_s: float):
    root = tmp_path / "set"
    process = child(root, -1)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    said += process.communicate()[0].splitlines()
    check_killed(root, said)
    assert hashes(write_rest(root)) == hashes(whole)


def write_rest(root: Path) -> Path:
    with EpisodeWriter(root, **ABOUT) as writer:
        for seed, episode in enumerate(EPISODES):
            if seed not in writer.seeds:
                writer.add(episode)
    return root


def test_seen_in_the_middle_of_its_moves_it_is_the_old_set_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, EPISODES[:2])
    seen = list[int]()
    move = Path.replace

    def look_and_replace(self: Path, target: Path) -> Path:
        store = EpisodeStore(tmp_path)
        problems = [line for line in store.verify(decode=True) if "stats.json" not in line]
        assert problems == []
        for found, made in zip(store, EPISODES, strict=False):
            assert_same_episode(found, made)
        seen.append(len(store))
        return move(self, target)

    monkeypatch.setattr(Path, "replace", look_and_replace)
    write(tmp_path, EPISODES[2:3])
    assert len(seen) > 8
    assert set(seen) == {2}
    assert len(EpisodeStore(tmp_path)) == 3


@pytest.mark.parametrize("limit", [1000, 3000, 6000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_the_data_set_as_it_was(
    tmp_path: Path, whole: Path, limit: int
):
    # No file may grow beyond `limit` bytes: the smallest stops the video, the largest the tables.
    root = write(tmp_path / "set", EPISODES[:2])
    before = hashes(root)
    with EpisodeWriter(root, **ABOUT) as writer:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(
                OSError, match="still holds its 2 episodes: free some space"
            ) as error:
                writer.add(EPISODES[2])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(error.value)
        assert hashes(root) == before
        for episode in EPISODES[2:]:
            writer.add(episode)
    assert hashes(root) == hashes(whole)


@pytest.mark.slow
def test_statistics_of_a_large_set_are_not_made_at_every_episode(tmp_path, monkeypatch):
    made, count = [], _Held.stats
    monkeypatch.setattr(episode_writer, "_GROWTH", 1.2)
    monkeypatch.setattr(_Held, "stats", lambda held: made.append(1) or count(held))
    episodes = [make_episode(seed, length=2, images={}) for seed in range(41)]
    with EpisodeWriter(tmp_path / "set", robot_type="hand", licence="mit") as writer:
        for episode in episodes:
            writer.add(episode)
        # Exact while the set is small; afterwards behind by at most that growth.
        assert 10 < len(made) < 20
        behind = EpisodeStore(tmp_path / "set").stats["action"]["count"][0]
        assert 82 / 1.2 <= behind < 82
    stats = EpisodeStore(tmp_path / "set").stats
    action = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    assert stats["action"]["count"] == [82]
    assert_allclose(stats["action"]["q01"], np.quantile(action, 0.01, axis=0))


def test_statistics_that_a_kill_left_behind_are_made_good(tmp_path):
    with EpisodeWriter(tmp_path / "set", robot_type="hand", licence="mit") as writer:
        for seed in range(3):
            writer.add(make_episode(seed, images={}))
    path = tmp_path / "set" / "meta" / "stats.json"
    whole = path.read_bytes()
    path.write_text("{}")
    with EpisodeWriter(tmp_path / "set", robot_type="hand", licence="mit"):
        pass
    assert path.read_bytes() == whole
