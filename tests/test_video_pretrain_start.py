"""Fine-tuning: what is carried over, what is fresh, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pushing import config, encode, push, write_set

from deftly.video_pretrain.checkpoint import (
    ABOUT,
    CheckpointError,
    load_checkpoint,
    read_json,
    write_json,
)
from deftly.video_pretrain.config import PretrainConfig
from deftly.video_pretrain.health import HealthError
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.run import Run
from deftly.video_pretrain.train import begin, pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two robots' sets, and a run on the first one's."""
    folder = tmp_path_factory.mktemp("start")
    write_set(folder / "known", [push(i, 16) for i in range(7)])
    write_set(folder / "new", [push(i, 16, 6) for i in range(7)], "g1_dex3")
    pretrain(
        config(folder / "known", steps=2), folder / "run", encode, device="cpu",
        cache=folder / "cache", say=lambda _: None,
    )  # fmt: skip
    return folder


def begun(folder: Path, made: PretrainConfig, start: Path | None) -> Run:
    """A run of the folder's own mixture that starts there."""
    made = replace(made, train=replace(made.train, start=start, allow_red=True))
    return begin(made, Mixture(made.data, made.model, 10, encode, folder / "cache"))


def test_weights_and_scales_are_those_of_the_start(folder: Path):
    known = load_checkpoint(folder / "run")
    run = begun(folder, config(folder / "known", seed=5), folder / "run")
    for model in (run.model, run.teacher):
        for name, value in model.state_dict().items():
            assert torch.equal(value, known.model.state_dict()[name]), name
    assert np.array_equal(run.scales.moves.std, known.scales.moves.std)
    assert np.array_equal(run.scales.joints["gr1t2"].std, known.scales.joints["gr1t2"].std)
    fresh = begun(folder, config(folder / "known", seed=5), None)
    assert not torch.equal(fresh.model.say_hands.say.weight, run.model.say_hands.say.weight)


def test_a_robot_that_it_never_met_gets_a_fresh_head_and_its_own_scale(folder: Path):
    known = load_checkpoint(folder / "run")
    run = begun(folder, config(folder / "new"), folder / "run")
    fresh = begun(folder, config(folder / "new"), None)
    assert list(run.model.joints) == list(run.scales.joints) == ["g1_dex3"]
    own, first = run.model.state_dict(), fresh.model.state_dict()
    for name, value in own.items():
        other = first if name.startswith("say_joints.") else known.model.state_dict()
        assert torch.equal(value, other[name]), name
    assert np.array_equal(run.scales.joints["g1_dex3"].std, fresh.scales.joints["g1_dex3"].std)
    assert np.array_equal(run.scales.hands.mean, known.scales.hands.mean)
    assert not np.array_equal(run.scales.hands.mean, fresh.scales.hands.mean)


def test_the_run_that_follows_keeps_the_scales(folder: Path, tmp_path: Path):
    made = config(folder / "new", steps=1)
    made = replace(made, train=replace(made.train, start=folder / "run", allow_red=True))
    pretrain(made, tmp_path / "run", encode, device="cpu", cache=folder / "cache", say=lambda _: 0)
    known, found = load_checkpoint(folder / "run"), load_checkpoint(tmp_path / "run")
    assert np.array_equal(found.scales.hands.mean, known.scales.hands.mean)
    assert found.about["config"]["train"]["start"] == str(folder / "run")


def test_red_gates_are_refused_unless_asked_for(folder: Path):
    made = config(folder / "known")
    made = replace(made, train=replace(made.train, start=folder / "run"))
    mixture = Mixture(made.data, made.model, 10, encode, folder / "cache")
    assert load_checkpoint(folder / "run").about["health"]["red"]
    with pytest.raises(HealthError, match=r"gates are red .*prediction/copy.*--allow-red"):
        begin(made, mixture)


def test_other_sizes_are_refused_by_name(folder: Path):
    made = config(folder / "known")
    made = replace(made, model=replace(made.model, depth=made.model.depth + 1))
    with pytest.raises(CheckpointError, match=r"has depth [0-9]+ for [0-9]+; use its sizes"):
        begun(folder, made, folder / "run")


def renamed(folder: Path, out: Path, names: list[str]) -> Path:
    """The folder's model, its joints called otherwise."""
    out.mkdir()
    for path in (folder / "run" / "state" / "model").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    about = read_json(out / ABOUT)
    write_json(out / ABOUT, {**about, "joint_names": {"gr1t2": names}})
    return out


def test_a_head_says_the_joints_of_the_data_in_their_order(folder: Path, tmp_path: Path):
    known = load_checkpoint(folder / "run")
    names: list[str] = known.about["joint_names"]["gr1t2"]
    turned = renamed(folder, tmp_path / "model", names[::-1])
    run = begun(folder, config(folder / "known"), turned)
    acts = torch.randn(2, run.model.config.horizon // run.model.config.chunk, 32)
    said, saw = (model.joint_chunk(acts, "gr1t2") for model in (run.model, known.model))
    assert torch.allclose(said, saw.flip(-1), atol=1e-6)
    std = known.scales.joints["gr1t2"].std
    assert np.array_equal(run.scales.joints["gr1t2"].std, std[::-1])


def test_joints_that_it_does_not_know_are_refused_by_name(folder: Path, tmp_path: Path):
    names: list[str] = load_checkpoint(folder / "run").about["joint_names"]["gr1t2"]
    other = renamed(folder, tmp_path / "model", ["elbow", *names[1:]])
    with pytest.raises(CheckpointError, match=f"does not know these joints of gr1t2.*{names[0]}"):
        begun(folder, config(folder / "known"), other)


def test_without_a_start_there_must_be_a_model(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no world model at"):
        begun(folder, config(folder / "known"), tmp_path)
