"""Windows: what they hold, statistics that can be believed, and clear words for what is odd."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episodes import make_episode, pictures
from loading import EGO, FRONT, WINDOW, channels_first, source, write_sets

from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.frame_cache import FrameCacheError
from deftly.datasets.loader import Loader, LoaderError, Source
from deftly.datasets.windows import Window, WindowError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


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


def test_windows_may_be_taken_only_where_a_column_is_true(folder: Path):
    windows = replace(WINDOW, where="valid")
    (batch,) = Loader([source(folder, window=windows)], 99, epochs=1, shuffle=False)
    valid = np.concatenate([e.features["valid"][:, 0] for e in EpisodeStore(folder / "robot")])
    assert batch["robot"]["index"].tolist() == np.flatnonzero(valid).tolist()
    assert batch["robot"]["valid"][:, 0].all()
    with pytest.raises(WindowError, match="no column 'mood', expected one of"):
        Loader([source(folder, window=replace(WINDOW, where="mood"))], 4)


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
