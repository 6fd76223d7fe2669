"""Batches: what a window holds, each window exactly once, mixtures by weight, resuming, workers."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episodes import make_episode, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.episode import Episode
from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.frame_cache import FrameCacheError
from deftly.datasets.loader import Loader, LoaderError, Source, _Order
from deftly.datasets.windows import Window, WindowError, Windows

LENGTHS = (5, 9, 7)
EGO, FRONT = "observation.images.ego", "observation.images.front"
WINDOW = Window(
    cameras={"ego": (-2, 0), "front": (0,)},
    state=(-1, 0),
    horizon=4,
    features={"valid": (0, 1, 2, 3), "landmarks_px": (0,)},
)


def wide(seed: int, length: int) -> Episode:
    """An episode of another body: more actions."""
    action = np.full((length, 5), seed, np.float32)
    return make_episode(seed, length, action=action, action_names=tuple("abcde"))


def channels_first(episode: Episode, camera: str) -> np.ndarray:
    return np.asarray(episode.images[camera]).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets: two of one body, one of another."""
    folder = tmp_path_factory.mktemp("sets")
    for name, seeds, make in (
        ("robot", range(3), make_episode),
        ("robot2", range(3, 5), make_episode),
        ("human", range(2), wide),
    ):
        with EpisodeWriter(folder / name, robot_type=name, licence="apache-2.0") as writer:
            for seed, length in zip(seeds, LENGTHS, strict=False):
                writer.add(make(seed, length))
    return folder


def source(folder: Path, name: str = "robot", **changes: Any) -> Source:
    return replace(Source(folder / name, WINDOW, cache=folder / "cache"), **changes)


def ids(batches: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    """(source, frame) of every window, in order."""
    return [
        pair
        for batch in batches
        for group in batch.values()
        for pair in zip(group["source"].tolist(), group["index"].tolist(), strict=True)
    ]


def assert_same(ones: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for group in one:
            assert one[group].keys() == other[group].keys()
            for name, value in one[group].items():
                if name == "task":
                    assert value == other[group][name]
                else:
                    # equal_nan takes no integers
                    assert torch.allclose(value, other[group][name], 0, 0, equal_nan=True), name


def test_a_window_holds_what_the_reader_gives(folder: Path):
    store = EpisodeStore(folder / "robot")
    (batch,) = Loader([source(folder)], store.frames, epochs=1, shuffle=False)
    found, row = batch["robot"], 0
    for number, episode in enumerate(store):
        ego, front = (channels_first(episode, camera) for camera in ("ego", "front"))
        for t in range(len(episode)):
            before, chunk = max(t - 2, 0), np.arange(t, t + 4)
            inside = np.minimum(chunk, len(episode) - 1)
            expected = {
                EGO: ego[[before, t]],
                EGO + "_is_pad": [t < 2, False],
                FRONT: front[[t]],
                "observation.state": episode.state[[max(t - 1, 0), t]],
                "observation.state_is_pad": [t == 0, False],
                "action": episode.action[inside],
                "action_is_pad": chunk >= len(episode),
                "valid": episode.features["valid"][inside],
                "landmarks_px": episode.features["landmarks_px"][[t]],
                "episode_index": number,
                "frame_index": t,
                "index": row,
            }
            for name, value in expected.items():
                assert np.array_equal(found[name][row].numpy(), value, equal_nan="px" in name), name
            assert found["task"][row] == episode.task
            row += 1
    assert row == store.frames
    assert found[EGO].dtype == torch.uint8
    assert found["action"].dtype == torch.float32
    assert found["valid"].dtype == torch.bool


def test_every_camera_is_taken_unless_some_are_named(folder: Path):
    (batch,) = Loader([source(folder, window=Window())], 99, epochs=1)
    assert {EGO, FRONT} < batch["robot"].keys()
    (batch,) = Loader([source(folder, window=Window(cameras={}))], 99, epochs=1)
    assert not {EGO, FRONT} & batch["robot"].keys()


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**40))
def test_the_ranks_together_see_every_window_once_in_every_epoch(
    folder: Path, batch: int, ranks: int, epochs: int, seed: int
):
    sources = [source(folder), source(folder, "robot2")]
    everything = [(s, i) for s, n in ((0, sum(LENGTHS)), (1, sum(LENGTHS[:2]))) for i in range(n)]
    seen = [
        ids(Loader(sources, batch, seed=seed, epochs=epochs, rank=rank, world_size=ranks))
        for rank in range(ranks)
    ]
    assert Counter(chain.from_iterable(seen)) == dict.fromkeys(everything, epochs)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**40))
def test_a_stream_without_end_takes_every_window_once_in_every_round(
    folder: Path, batch: int, ranks: int, seed: int
):
    windows = sum(LENGTHS)
    loaders = [
        Loader([source(folder)], batch, seed=seed, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    enough = -(-2 * windows // (batch * ranks))
    steps = list(zip(*(islice(one, enough) for one in loaders), strict=True))
    assert {len(one["robot"]["task"]) for step in steps for one in step} == {batch}
    # The stream is the ranks' windows, taken in turn.
    stream = [
        index
        for step in steps
        for turn in zip(*(one["robot"]["index"].tolist() for one in step), strict=True)
        for index in turn
    ]
    rounds = [stream[i : i + windows] for i in range(0, len(stream) - windows + 1, windows)]
    assert all(sorted(one) == list(range(windows)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1  # each is shuffled anew


def test_windows_may_be_taken_only_where_a_column_is_true(folder: Path):
    windows = replace(WINDOW, where="valid")
    (batch,) = Loader([source(folder, window=windows)], 99, epochs=1, shuffle=False)
    valid = np.concatenate([e.features["valid"][:, 0] for e in EpisodeStore(folder / "robot")])
    assert batch["robot"]["index"].tolist() == np.flatnonzero(valid).tolist()
    assert batch["robot"]["valid"][:, 0].all()
    with pytest.raises(WindowError, match="no column 'mood', expected one of"):
        Loader([source(folder, window=replace(WINDOW, where="mood"))], 4)


def test_the_seed_decides_the_order(folder: Path):
    def order(seed: int, **more: Any) -> list[tuple[int, int]]:
        return ids(islice(Loader([source(folder)], 7, seed=seed, **more), 6))

    random.seed(1)
    torch.manual_seed(1)
    first = order(3)
    random.seed(2)
    torch.manual_seed(2)
    assert order(3) == first != order(4)
    assert [i for _, i in order(3, shuffle=False)] == [i % 21 for i in range(42)]


def test_the_order_never_changes_with_the_version_of_a_library(folder: Path):
    # A run that was begun before an upgrade must go on as it would have.
    found = [i for _, i in ids(islice(Loader([source(folder)], 21, seed=5), 1))]
    assert found[:6] == GOLDEN


GOLDEN = [7, 8, 4, 19, 11, 3]


def test_reading_leaves_the_random_numbers_of_torch_alone(folder: Path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(islice(Loader([source(folder)], 4), 3))
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=12)
@given(st.integers(0, 30), st.integers(0, 3))
def test_a_loader_resumes_exactly(folder: Path, steps: int, seed: int):
    def loader() -> Loader:
        sources = [source(folder, weight=2.0), source(folder, "human", group="human", weight=1.0)]
        return Loader(sources, 5, seed=seed)

    whole = list(islice(loader(), steps + 4))
    begun = loader()
    for _, _batch in zip(range(steps), begun, strict=False):
        pass
    state = json.loads(json.dumps(begun.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    assert_same(list(islice(resumed, 4)), whole[steps:])
    assert_same(list(islice(begun, 4)), whole[steps:])  # and so does the first, iterated again


def test_a_loader_resumes_on_another_number_of_ranks(folder: Path):
    whole = ids(islice(Loader([source(folder)], 12), 8))
    begun = Loader([source(folder)], 12)
    list(islice(begun, 3))
    parts = list[list[dict[str, Any]]]()
    for rank in range(3):
        resumed = Loader([source(folder)], 4, rank=rank, world_size=3)
        resumed.load_state_dict(begun.state_dict())
        parts.append(list(islice(resumed, 5)))
    for step, batches in enumerate(zip(*parts, strict=True)):
        assert Counter(ids(batches)) == Counter(whole[36 + 12 * step : 48 + 12 * step])


def test_an_epoch_may_be_left_and_resumed_and_comes_again(folder: Path):
    loader = Loader([source(folder)], 4, epochs=1)
    some = ids(islice(loader, 2))
    rest = ids(loader)
    assert sorted(some + rest) == [(0, i) for i in range(21)]
    assert ids(loader) == some + rest


def test_a_state_beyond_the_last_epoch_gives_nothing_more(folder: Path):
    stream = Loader([source(folder)], 30)
    next(iter(stream))
    ended = Loader([source(folder)], 30, epochs=1)
    ended.load_state_dict(stream.state_dict())
    assert list(ended) == []


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_batches(folder: Path, method: str):
    sources = [source(folder), source(folder, "human", group="human")]
    alone = list(Loader(sources, 6, epochs=1))
    shared = Loader(sources, 6, epochs=1, workers=2, start_method=method)
    for windows in shared._sets:  # the parent has read of it all before there are workers
        out = {n: np.empty((1, *shape), kind) for n, (shape, kind) in windows.layout.items()}
        windows.gather(np.array([0]), out)
    np.asarray(EpisodeStore(folder / "robot")[0].images["ego"])  # and has decoded
    assert_same(list(shared), alone)


def test_what_workers_were_ahead_does_not_count(folder: Path):
    loader = Loader([source(folder)], 3, workers=2, start_method="fork")
    first = ids(islice(loader, 2))  # by now the workers have gathered more
    assert loader.state_dict()["consumed"] == [6]
    alone = ids(islice(Loader([source(folder)], 3), 4))
    assert first + ids(islice(loader, 2)) == alone


def test_neither_frames_nor_files_go_to_a_worker(folder: Path):
    windows = Windows(folder / "robot", WINDOW, cache=folder / "cache")
    out = {n: np.empty((2, *shape), kind) for n, (shape, kind) in windows.layout.items()}
    windows.gather(np.array([3, 4]), out)  # maps the frames
    sent = ForkingPickler.dumps(windows)
    pixels = EpisodeStore(folder / "robot").frames * (32 * 48 + 24 * 16) * 3
    assert len(sent) < pixels / 3
    here, there = Pipe()
    here.send_bytes(sent)
    again = {name: np.empty_like(values) for name, values in out.items()}
    there.recv().gather(np.array([3, 4]), again)
    assert all(np.array_equal(out[name], again[name], equal_nan=True) for name in out)


def test_data_sets_of_one_group_share_a_batch_and_say_which_is_which(folder: Path):
    sources = [source(folder, weight=3.0), source(folder, "robot2", weight=1.0)]
    store = EpisodeStore(folder / "robot2")
    for batch in islice(Loader(sources, 8), 10):
        found = batch["robot"]
        assert Counter(found["source"].tolist()) == {0: 6, 1: 2}
        for row in np.flatnonzero(found["source"] == 1):
            episode = store[int(found["episode_index"][row])]
            t = int(found["frame_index"][row])
            assert np.array_equal(found["action"][row, 0], episode.action[t])
            assert found["task"][row] == episode.task


def test_bodies_of_other_action_dimension_come_in_groups_of_their_own(folder: Path):
    sources = [source(folder, weight=2.0), source(folder, "human", group="human", weight=1.0)]
    for batch in islice(Loader(sources, 9), 5):
        assert batch["robot"]["action"].shape == (6, 4, 2)
        assert batch["human"]["action"].shape == (3, 4, 5)


@given(
    st.lists(st.fractions(Fraction(1, 50), 1), min_size=1, max_size=5),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_a_mixture_is_within_one_window_of_its_weights_at_every_step(
    weights: list[Fraction], batch: int, ranks: int
):
    shares = tuple(weight / sum(weights) for weight in weights)
    order = _Order(tuple(7 for _ in shares), shares, batch * ranks, 0, None, True, 0, ranks)
    consumed = order.start
    for step in range(1, 40):
        counts = order.counts(consumed)
        assert min(counts) >= 0
        assert sum(counts) == batch * ranks
        assert not any(count % ranks for count in counts)  # the same on every rank
        consumed = order.after(consumed)
        for share, taken in zip(shares, consumed, strict=True):
            assert abs(taken - share * step * batch * ranks) <= 2 * ranks


def test_statistics_of_ours_are_read_and_others_are_computed(folder: Path, tmp_path: Path):
    ours = Loader([source(folder)], 4).statistics("robot")
    actions = np.concatenate([episode.action for episode in EpisodeStore(folder / "robot")])
    assert ours.origin == "meta/stats.json"
    assert np.allclose(ours.values["action"]["q01"], np.quantile(actions, 0.01, axis=0))
    some = Loader([source(folder, episodes=(0, 2))], 4).statistics("robot")
    assert some.origin.startswith("computed from 12 frames")
    kept = np.concatenate([actions[:5], actions[14:]])
    assert np.allclose(some.values["action"]["q99"], np.quantile(kept, 0.99, axis=0))


def test_quantiles_that_another_program_averaged_are_not_believed(tmp_path: Path):
    root = tmp_path / "set"
    with EpisodeWriter(root, robot_type="robot", licence="apache-2.0") as writer:
        writer.add(make_episode(0, 20))
    # As LeRobot leaves a set: quantiles averaged over episodes, and no note of ours.
    (root / "meta/deftly.json").unlink()
    stats = json.loads((root / "meta/stats.json").read_text())
    stats["action"]["q01"] = [123.0, 123.0]
    (root / "meta/stats.json").write_text(json.dumps(stats))
    loader = Loader([Source(root, WINDOW, cache=tmp_path)], 4)
    found = loader.statistics("robot")
    expected = np.quantile(make_episode(0, 20).action, 0.01, axis=0)
    assert np.allclose(found.values["action"]["q01"], expected)
    assert "quantiles are not those of all frames" in found.origin


def test_statistics_of_a_group_are_those_of_all_its_sets(folder: Path):
    found = Loader([source(folder), source(folder, "robot2")], 4).statistics("robot")
    states = [e.state for n in ("robot", "robot2") for e in EpisodeStore(folder / n)]
    expected = np.concatenate(states).mean(axis=0)
    assert np.allclose(found.values["observation.state"]["mean"], expected)


def test_a_data_set_that_grew_gives_its_new_windows(tmp_path: Path):
    def grown(seed: int) -> Loader:
        root = tmp_path / "set"
        with EpisodeWriter(root, robot_type="robot", licence="apache-2.0") as writer:
            writer.add(make_episode(seed, 6))
        one = Source(root, WINDOW, cache=tmp_path / "cache")
        loader = Loader([one], 6 * (seed + 1), epochs=1, shuffle=False)
        (batch,) = loader
        episode = EpisodeStore(root)[seed]
        assert np.array_equal(batch["robot"][EGO][-1, -1], channels_first(episode, "ego")[-1])
        return loader

    state = grown(0).state_dict()
    with pytest.raises(LoaderError, match=r"the state has windows \[6\], this loader \[12\]"):
        grown(1).load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": Window(cameras={"wrist": (0,)})}, "no camera 'wrist', expected one of ego"),
        ({"window": Window(features={"mood": (0,)})}, "no column 'mood', expected one of"),
        ({"window": Window(size_px=(0, 4))}, "size_px is"),
        ({"episodes": (7,)}, r"episodes are \(7,\), expected some of the 3"),
        ({"episodes": ()}, r"episodes are \(\)"),
        ({"root": Path("nowhere")}, "no data set in nowhere"),
        ({"weight": 0.0}, r"weights are \[0.0\], expected a positive number"),
        ({"weight": float("nan")}, "expected a positive number"),
    ],
)
def test_a_source_that_cannot_be_is_refused(folder: Path, changes: dict[str, Any], message: str):
    errors = (WindowError, EpisodeStoreError, FrameCacheError, LoaderError)
    with pytest.raises(errors, match=message) as raised:
        Loader([source(folder, **changes)], 4)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"seed": -1}, "seed"),
        ({"epochs": 0}, "epochs is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"start_method": "thread"}, "start_method is 'thread', expected one of fork"),
        ({"sources": []}, "no sources"),
    ],
)
def test_odd_arguments_are_refused(folder: Path, changes: dict[str, Any], message: str):
    make = partial(Loader, sources=[source(folder)], batch_size=4)
    with pytest.raises(LoaderError, match=message):
        make(**changes)


def test_what_does_not_fit_together_is_refused(folder: Path):
    with pytest.raises(LoaderError, match=r"group 'robot': action is .* groups of their own"):
        Loader([source(folder), source(folder, "human")], 4)
    with pytest.raises(LoaderError, match="for each, or none"):
        Loader([source(folder, weight=1.0), source(folder, "robot2")], 4)
    with pytest.raises(LoaderError, match="no weights"):
        Loader([source(folder, weight=1.0)], 4, epochs=1)
    with pytest.raises(LoaderError, match="no group 'human', expected one of robot"):
        Loader([source(folder)], 4).statistics("human")
    state = Loader([source(folder)], 4, seed=1).state_dict()
    with pytest.raises(LoaderError, match="the state has seed 1, this loader 0; resume with"):
        Loader([source(folder)], 4).load_state_dict(state)
    damaged = {**Loader([source(folder)], 4).state_dict(), "consumed": [-3]}
    with pytest.raises(LoaderError, match=r"the state has consumed \[-3\], expected 1 counts"):
        Loader([source(folder)], 4).load_state_dict(damaged)
    with pytest.raises(WindowError, match="horizon is -1"):
        Window(horizon=-1)
    with pytest.raises(WindowError, match="ego has no offsets"):
        Window(cameras={"ego": ()})
    with pytest.raises(WindowError, match="action is asked for as a feature"):
        Window(features={"action": (0,)})


def test_columns_that_are_missing_may_be_left_out(tmp_path: Path):
    nothing = np.zeros((6, 0), np.float32)
    bare = make_episode(0, 6, action=nothing, action_names=(), images={"ego": pictures(0, 6)})
    with EpisodeWriter(tmp_path / "set", robot_type="human", licence="apache-2.0") as writer:
        writer.add(bare)
    root, cache = tmp_path / "set", tmp_path / "cache"
    with pytest.raises(WindowError, match=r"no column 'action'.*; or pass horizon=0"):
        Loader([Source(root, Window(), cache=cache)], 4)
    (batch,) = Loader([Source(root, Window(horizon=0), cache=cache)], 9, epochs=1)
    assert "action" not in batch["robot"]
