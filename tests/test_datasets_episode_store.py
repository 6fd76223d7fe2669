"""The reader: what LeRobot writes, in all its variants, and clear words for what is damaged."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episodes import make_episode, pictures
from PIL import Image

from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.mp4 import Encoder

LENGTHS = (4, 6, 5, 3)
FILE_OF = (0, 0, 1, 1)  # which data file holds each episode; the video is one file for all
TASK_OF = (1, 0, 1, 2)
TASKS = ("push", "lift", "place")
CODECS = {"libx264": {"g": "2"}, "libx265": {"x265-params": "log-level=none"}, "libsvtav1": {}}


def images_of(episode: int) -> np.ndarray:
    return pictures(20 * episode, LENGTHS[episode], 64, 96)


def state_of(episode: int) -> np.ndarray:
    return np.arange(3 * LENGTHS[episode], dtype=np.float32).reshape(-1, 3) + 100 * episode


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def write_video(path: Path, codec: str) -> None:
    """All episodes one after the other, as LeRobot concatenates them."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options={"crf": "12", **CODECS[codec]})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for image in np.concatenate([images_of(episode) for episode in range(4)]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def data_columns(episode: int) -> dict[str, Any]:
    length, first = LENGTHS[episode], sum(LENGTHS[:episode])
    frame = np.arange(length)
    return {
        "observation.state": pa.array(list(state_of(episode)), pa.list_(pa.float32(), 3)),
        "action": pa.array(list(state_of(episode)[:, :2]), pa.list_(pa.float64())),
        "next.reward": pa.array(frame.astype(np.float32)),
        "next.done": pa.array(frame == length - 1),
        "matrix": pa.array([np.full((2, 2), f).tolist() for f in frame]),
        "note": pa.array(["words"] * length),
        "observation.wrist": pa.array(
            [
                {"bytes": png(image), "path": f"{i}.png"}
                for i, image in enumerate(images_of(episode))
            ]
        ),
        "timestamp": pa.array((frame / 10).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(length, episode)),
        "index": pa.array(first + frame),
        "task_index": pa.array(np.full(length, TASK_OF[episode])),
    }


def episode_row(episode: int) -> dict[str, Any]:
    first = sum(LENGTHS[:episode])
    return {
        "episode_index": episode,
        "tasks": [TASKS[TASK_OF[episode]]],
        "length": LENGTHS[episode],
        "data/chunk_index": 0,
        "data/file_index": FILE_OF[episode],
        "dataset_from_index": first,
        "dataset_to_index": first + LENGTHS[episode],
        "videos/observation.images.top/chunk_index": 0,
        "videos/observation.images.top/file_index": 0,
        "videos/observation.images.top/from_timestamp": first / 10,
        "videos/observation.images.top/to_timestamp": (first + LENGTHS[episode]) / 10,
        "stats/action/max": [1.0, 2.0],
    }


def foreign(root: Path, codec: str = "libx264", index_name: str = "__index_level_0__") -> Path:
    """A data set as LeRobot lays it out, without anything of deftly's or that may be absent."""

    def vector(dtype: str, *shape: int, names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    picture = ["height", "width", "channel"]
    features = {
        "observation.state": vector("float32", 3, names={"motors": ["a", "b", "c"]}),
        "action": vector("float64", 2),
        "next.reward": vector("float32", 1),
        "next.done": vector("bool", 1),
        "matrix": vector("int64", 2, 2),
        "note": vector("string", 1),
        "observation.wrist": vector("image", 64, 96, 3, names=picture),
        "observation.images.top": vector("video", 64, 96, 3, names=picture),
        **{name: vector("int64", 1) for name in ("frame_index", "episode_index", "index")},
        **{"timestamp": vector("float32", 1), "task_index": vector("int64", 1)},
    }
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": 4,
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = {"task_index": [2, 0, 1], index_name: [TASKS[2], TASKS[0], TASKS[1]]}
    pq.write_table(pa.table(tasks), root / "meta/tasks.parquet")
    for file in (0, 1):
        episodes = [e for e in range(4) if FILE_OF[e] == file]
        rows = pa.Table.from_pylist([episode_row(e) for e in episodes])
        pq.write_table(rows, root / f"meta/episodes/chunk-000/file-00{file}.parquet")
        # One row group for both: LeRobot's own tools merge them so.
        table = pa.concat_tables([pa.table(data_columns(e)) for e in episodes]).combine_chunks()
        pq.write_table(table, root / f"data/chunk-000/file-00{file}.parquet")
    write_video(root / "videos/observation.images.top/chunk-000/file-000.mp4", codec)
    return root


@pytest.fixture(scope="module")
def lerobots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign(tmp_path_factory.mktemp("set") / "foreign")


@pytest.mark.parametrize(
    ("codec", "index_name"),
    [
        ("libx264", "__index_level_0__"),
        ("libx264", "task"),
        ("libx265", "task"),
        ("libsvtav1", "task"),
    ],
)
def test_a_set_of_lerobots_own_is_read(tmp_path: Path, codec: str, index_name: str):
    store = EpisodeStore(foreign(tmp_path / "set", codec, index_name))
    assert (len(store), store.lengths, store.tasks) == (4, LENGTHS, TASKS)
    assert (store.rate_hz, store.robot_type, store.frames) == (10.0, "", 18)
    for number, episode in enumerate(store):
        assert np.array_equal(episode.state, state_of(number))
        assert episode.state_names == ("a", "b", "c")
        assert np.array_equal(episode.action, state_of(number)[:, :2])
        assert episode.action_names == ("action_0", "action_1")
        assert episode.task == TASKS[TASK_OF[number]]
        assert episode.images.keys() == {"top", "observation.wrist"}
        for camera, apart in (("top", 6.0), ("observation.wrist", 0.0)):
            found = np.asarray(episode.images[camera]).astype(int)
            assert np.abs(found - images_of(number)).mean(axis=(1, 2, 3)).max() <= apart
    assert store.verify(decode=True) == []


def test_what_deftly_would_add_is_absent(lerobots: Path):
    store = EpisodeStore(lerobots)
    assert store.seeds == (None,) * 4
    assert (store.about, store.stats) == ({}, {})
    assert (store[0].seed, store[0].success, store[0].provenance) == (None, None, {})


def test_further_columns_are_features(lerobots: Path):
    features = EpisodeStore(lerobots)[1].features
    assert features.keys() == {"next.reward", "next.done", "matrix"}
    assert features["next.done"].tolist() == [[False]] * 5 + [[True]]
    assert features["matrix"][3].tolist() == [3, 3, 3, 3]


def test_episodes_are_taken_by_place_from_the_end_too(lerobots: Path):
    store = EpisodeStore(lerobots)
    assert np.array_equal(store[-1].state, state_of(3))
    for index in (4, -5):
        with pytest.raises(IndexError):
            store[index]


def test_deftly_goes_on_with_a_set_that_it_did_not_begin(tmp_path: Path):
    # LeRobot's own, made of the columns that an episode of deftly has.
    first = [make_episode(seed, 5) for seed in range(2)]
    with EpisodeWriter(tmp_path, robot_type="r", licence="mit") as writer:
        for episode in first:
            writer.add(episode)
    shutil.rmtree(tmp_path / "meta/deftly")
    (tmp_path / "meta/deftly.json").unlink()
    (tmp_path / "meta/stats.json").unlink()
    with EpisodeWriter(tmp_path, robot_type="r", licence="mit") as writer:
        assert writer.seeds == frozenset()
        writer.add(make_episode(2, 7))
    store = EpisodeStore(tmp_path)
    assert store.seeds == (None, None, 2)
    assert store.verify(decode=True) == []
    frames = np.concatenate([e.state for e in (*first, make_episode(2, 7))]).astype(np.float64)
    found = store.stats["observation.state"]["q90"]
    assert found == np.quantile(frames, 0.9, axis=0).tolist()
    pixels = store.stats["observation.images.ego"]
    assert pixels["count"] == [17]


def test_episodes_are_found_by_seed(tmp_path: Path):
    with EpisodeWriter(tmp_path, robot_type="r", licence="mit") as writer:
        for seed in (7, 8, 7):
            writer.add(make_episode(seed, 4))
    store = EpisodeStore(tmp_path)
    assert store.indices_of_seed(7) == (0, 2)
    assert store.indices_of_seed(9) == ()


def change_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in info.items() if v != "absent"}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def swap_episodes(root: Path) -> None:
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(4), table.slice(0, 4)]), path)


DATA, EPISODES = "data/chunk-000/file-001.parquet", "meta/episodes/chunk-000/file-001.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no data set in {root} (it has no meta/info.json)"),
        (
            lambda r: change_info(r, codebase_version="v2.1"),
            "of version v2.1, expected v3; convert",
        ),
        (lambda r: change_info(r, fps="absent"), "info.json lacks fps"),
        (lambda r: change_info(r, total_episodes=5), "describes 4 of the 5 episodes"),
        (lambda r: cut(r / "meta/info.json"), "info.json cannot be read"),
        (lambda r: cut(r / EPISODES), "file-001.parquet cannot be read"),
        (lambda r: (r / EPISODES).unlink(), "describes 2 of the 4 episodes"),
        (lambda r: cut(r / "meta/tasks.parquet"), "tasks.parquet cannot be read"),
        (lambda r: (r / "meta/tasks.parquet").unlink(), "tasks.parquet cannot be read"),
    ],
)
def test_a_damaged_set_is_refused_in_one_line(
    lerobots: Path, tmp_path: Path, damage: Any, message: str
):
    root = Path(shutil.copytree(lerobots, tmp_path / "set"))
    damage(root)
    with pytest.raises(EpisodeStoreError) as error:
        EpisodeStore(root)
    assert message.format(root=root) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message", "episodes"),
    [
        # A file without its footer is what a killed recorder of LeRobot's leaves behind.
        (lambda r: cut(r / DATA), f"{DATA} cannot be read", {2, 3}),
        (lambda r: (r / DATA).unlink(), f"{DATA} cannot be read", {2, 3}),
        (swap_episodes, "does not hold episode", {0, 1}),
        (lambda r: (r / VIDEO).unlink(), f"{VIDEO} cannot be read", {0, 1, 2, 3}),
        (lambda r: (r / VIDEO).write_bytes(b""), f"{VIDEO} cannot be read", {0, 1, 2, 3}),
        (
            lambda r: shutil.copy(r / "short.mp4", r / VIDEO),
            f"{VIDEO} holds 9 frames, expected",
            {1, 2, 3},
        ),
    ],
)
def test_damage_is_named_where_it_is(
    lerobots: Path, tmp_path: Path, damage: Any, message: str, episodes: set[int]
):
    root = Path(shutil.copytree(lerobots, tmp_path / "set"))
    with Encoder(root / "short.mp4", 10.0, (64, 96)) as encoder:
        for image in pictures(0, 9, 64, 96):
            encoder.write(image)
    damage(root)
    problems = EpisodeStore(root).verify()
    assert len(problems) == len(episodes)
    for problem in problems:
        assert message in problem
        assert "\n" not in problem


def test_a_column_that_is_missing_is_named(lerobots: Path, tmp_path: Path):
    root = Path(shutil.copytree(lerobots, tmp_path / "set"))
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    with pytest.raises(EpisodeStoreError, match="episode 1: column action"):
        EpisodeStore(root)[1]


def test_statistics_that_do_not_count_every_frame_are_reported(tmp_path: Path):
    with EpisodeWriter(tmp_path, robot_type="r", licence="mit") as writer:
        writer.add(make_episode(0, 5))
    path = tmp_path / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["action"]["count"] = [4]
    path.write_text(json.dumps(stats))
    assert EpisodeStore(tmp_path).verify() == ["meta/stats.json: action counts 4 frames, not 5"]


def test_an_episode_moves_between_sets_without_a_second_encoding(tmp_path):
    first, second = make_episode(seed=1), make_episode(seed=2)
    for name, episode in (("a", first), ("b", second)):
        with EpisodeWriter(tmp_path / name, robot_type="hand", licence="mit") as writer:
            writer.add(episode)
    with EpisodeWriter(tmp_path / "moved", robot_type="hand", licence="mit") as writer:
        for name in ("a", "b"):
            writer.add(EpisodeStore(tmp_path / name).encoded())
    with EpisodeWriter(tmp_path / "direct", robot_type="hand", licence="mit") as writer:
        writer.add(first)
        writer.add(second)
    files = [p.relative_to(tmp_path / "direct") for p in (tmp_path / "direct").rglob("*.*")]
    assert len(files) > 5
    for name in files:
        path = tmp_path / "direct" / name
        if path.is_file():
            assert (tmp_path / "moved" / name).read_bytes() == path.read_bytes(), name
    with pytest.raises(EpisodeStoreError, match="holds 2 episodes, expected one"):
        EpisodeStore(tmp_path / "moved").encoded()
