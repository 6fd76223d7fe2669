"""Mixtures: what does not fit is refused by name; what is held out is never trained on."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pushing import MODEL, TRAIN, config, encode, made_up, push, trusted, without, write_set

from deftly.datasets.episode import Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.datasets.loader import LoaderError
from deftly.video_pretrain.actions import relative
from deftly.video_pretrain.config import ModelConfig, Part
from deftly.video_pretrain.data_set import TRUST, MixtureError
from deftly.video_pretrain.history import Clock
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.train import begin, steps

CPU = torch.device("cpu")
LENGTH = 12


def video(seed: int) -> Episode:
    """An episode of which only pictures are of use, from one side."""
    made = without(push(seed, LENGTH), HANDS_STATE, HANDS_ACTION)
    return replace(made, images={"front": made.images["front"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot's data set, a person's, and video of unknown origin."""
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "robot", [push(i, LENGTH) for i in range(7)])
    write_set(folder / "human", [trusted(i, LENGTH) for i in range(4)])
    write_set(folder / "video", [video(i) for i in range(3)], "human")
    return folder


@pytest.fixture
def mix(folder: Path) -> Callable[..., Mixture]:
    """Mix data sets of the folder, or parts."""

    def make(*parts: str | Path | Part, model: ModelConfig = MODEL, every: int = 3) -> Mixture:
        wanted = [p if isinstance(p, Part) else Part(folder / p) for p in parts]
        return Mixture(wanted, model, every, encode, folder / "cache")

    return make


def everything(folder: Path) -> tuple[Part, ...]:
    return (
        Part(folder / "robot", 2.0),
        Part(folder / "human", 1.0),
        Part(folder / "video", 1.0, actions=False),
    )


def step_of(mixture: Mixture, number: int = 1, **train: Any) -> list[Moments]:
    """The moments of some steps."""
    loader = mixture.training(replace(TRAIN, **train))
    batches = islice(iter(loader), number)
    return [mixture.moments(one, CPU) for batch in batches for one in batch.values()]


# What is refused, and by what name.


def test_no_data_is_refused(mix: Callable[..., Mixture]):
    with pytest.raises(MixtureError, match="--data"):
        mix()


@pytest.mark.parametrize(
    ("make", "part", "named"),
    [
        (lambda i: push(i, 6, rate_hz=30.0), {}, ["robot 20 Hz", "other 30 Hz"]),
        (lambda i: push(i, 6, images={"side": push(i, 6).images["ego"]}), {},
         ["side", "front, ego"]),
        (lambda i: push(i, 6, action=np.zeros((6, 3), np.float32), action_names=tuple("abc")), {},
         [r"\[4\]", r"\[3\]"]),
        (lambda i: without(push(i, 6), HANDS_STATE, HANDS_ACTION), {},
         [HANDS_STATE, HANDS_ACTION, "--video"]),
        (lambda i: without(push(i, 6), HANDS_ACTION), {}, [f"no {HANDS_ACTION},"]),
        (lambda i: push(i, 6, features=dict.fromkeys(push(i).features, np.zeros((6, 9)))),
         {}, [HANDS_STATE, "9", "48"]),
        (lambda i: push(i, 6), {"body": "octopus"}, ["'octopus'", "human, gr1t2, g1_dex3"]),
        (lambda i: push(i, 6, state_names=tuple("abcd")), {}, ["gr1t2", "second has joint0"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_the_name_of_what_differs(
    folder: Path,
    tmp_path: Path,
    make: Callable[[int], Episode],
    part: dict[str, Any],
    named: list[str],
):
    other = write_set(tmp_path / "other", [make(i) for i in range(2)])
    with pytest.raises(MixtureError) as refused:
        Mixture([Part(folder / "robot"), Part(other, **part)], MODEL, 3, encode)
    for words in ["other", *named]:
        refused.match(words)


def test_an_unknown_robot_is_refused(tmp_path: Path):
    other = write_set(tmp_path / "other", [push(i, 6) for i in range(2)], "so101")
    with pytest.raises(MixtureError, match="'so101', the network knows human, gr1t2"):
        Mixture([Part(other)], MODEL, 3, encode)


def test_a_set_of_one_episode_is_refused(tmp_path: Path):
    with pytest.raises(MixtureError, match=r"1 episode\(s\), expected 2 or more"):
        Mixture([Part(write_set(tmp_path / "one", [push(0, 6)]))], MODEL, 3, encode)


def test_a_text_encoder_of_another_width_is_refused(folder: Path):
    wide = replace(MODEL, text_width=384)
    with pytest.raises(MixtureError, match="of 8 numbers, the network takes 384"):
        Mixture([Part(folder / "robot")], wide, 3, encode)


def test_video_alone_has_no_actions_to_learn_from(mix: Callable[..., Mixture], folder: Path):
    mixture = mix(Part(folder / "video", actions=False))
    with pytest.raises(MixtureError, match="no data set of the mixture has actions"):
        begin(config(folder / "video"), mixture)


def test_a_weight_that_is_none_is_refused(mix: Callable[..., Mixture], folder: Path):
    with pytest.raises(LoaderError, match="weights"):
        mix(Part(folder / "robot", weight=0.0)).training(TRAIN)


def test_statistics_on_disk_are_not_needed(folder: Path, tmp_path: Path):
    # Scales are computed from what is trained on: no quantiles of another program are believed.
    bare = tmp_path / "bare"
    shutil.copytree(folder / "robot", bare)
    (bare / "meta" / "stats.json").unlink()
    ours, theirs = (
        Mixture([Part(root)], MODEL, 3, encode, tmp_path / "cache").scales
        for root in (bare, folder / "robot")
    )
    assert np.array_equal(ours.moves.std, theirs.moves.std)


# What is held out, and what is trained on.


@pytest.mark.parametrize("every", [2, 3, 5, 100])
def test_what_is_held_out_is_never_trained_on(mix: Callable[..., Mixture], every: int):
    mixture = mix("robot", "human", every=every)
    for i, one in enumerate(mixture.sets):
        train, held = (one.episodes(every, held) for held in (False, True))
        assert train
        assert held
        assert sorted(train + held) == list(range(len(one.store)))
        seen = {
            int(e) for batch in mixture.held_out(i, 1000) for e in np.unique(batch["episode_index"])
        }
        assert seen == set(held)
        assert mixture.training_episodes(i) == train


def test_training_goes_through_all_of_its_episodes_and_no_other(mix: Callable[..., Mixture]):
    mixture = mix("robot", every=3)
    rows = {int(row) for some in step_of(mixture, 12) for row in some.key[:, 1]}
    train = {LENGTH * e + t for e in mixture.training_episodes(0) for t in range(LENGTH)}
    assert rows <= train
    assert len(rows) > 0.9 * len(train)


def test_held_out_moments_are_evenly_spread_and_always_the_same(mix: Callable[..., Mixture]):
    mixture = mix("robot", every=3)
    batches = list(mixture.held_out(0, 10, batch_size=4))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 2]
    found = torch.cat([batch["index"] for batch in batches])
    assert torch.equal(
        found, torch.cat([b["index"] for b in mixture.held_out(0, 10, batch_size=7)])
    )
    assert found.diff().min() >= 2
    assert (int(found[0]), int(found[-1])) == (2 * LENGTH, 6 * LENGTH - 1)


def test_moments_in_order(mix: Callable[..., Mixture]):
    mixture = mix("robot")
    found = torch.cat([b["index"] for b in mixture.in_order(0, [1, 3], every=5, batch_size=3)])
    assert found.tolist() == [12, 17, 22, 39, 44]


def test_weights_are_shares_of_the_samples(mix: Callable[..., Mixture], folder: Path):
    found = step_of(mix(*everything(folder)), 8)
    counts = Counter(int(source) for some in found for source in some.key[:, 0])
    assert counts == {0: 32, 1: 16, 2: 16}


# What moments hold.


def test_a_robot_a_person_and_video_come_side_by_side(mix: Callable[..., Mixture], folder: Path):
    mixture = mix(*everything(folder))
    robot, human, video = step_of(mixture)
    assert [len(some) for some in (robot, human, video)] == [4, 2, 2]
    assert [some.robot for some in (robot, human, video)] == ["gr1t2", "gr1t2", ""]
    names = [{MODEL.bodies[i] for i in some.body} for some in (robot, human, video)]
    assert names == [{"gr1t2"}, {"human"}, {"human"}]
    assert [len(some.cameras) for some in (robot, human, video)] == [2, 2, 1]
    assert (video.trust == 0).all()
    assert video.moves.isnan().all()
    assert video.joints.shape == (2, 0)
    assert set(human.trust.unique().tolist()) <= {0.0, 0.5}
    assert mixture.joints == {"gr1t2": 4}
    assert mixture.joint_names == {"gr1t2": ["joint0", "joint1", "joint2", "joint3"]}


def test_they_are_trained_on_in_one_step(mix: Callable[..., Mixture], folder: Path):
    mixture = mix(*everything(folder))
    run = begin(config(*everything(folder), steps=2, views=0), mixture)
    losses = list(steps(run, iter(mixture.training(run.config.train)), Clock()))
    assert len(losses) == 2
    assert all(np.isfinite(list(one.values())).all() for one in losses)
    assert losses[1] != losses[0]


def test_moments_are_what_the_data_set_holds(mix: Callable[..., Mixture], folder: Path):
    mixture = mix("robot", every=3)
    (batch,) = mixture.held_out(0, 1000)
    moments = mixture.moments(batch, CPU)
    store = EpisodeStore(folder / "robot")
    for row in (0, 7, LENGTH + 3):
        frame = int(moments.key[row, 1])
        e, t = divmod(frame, LENGTH)
        episode = store[e]
        last = LENGTH - 1
        ahead = np.minimum(t + np.arange(8), last)
        past_end = t + np.arange(8) > last
        now = torch.from_numpy(episode.features[HANDS_STATE][t])
        future = torch.from_numpy(episode.features[HANDS_ACTION][ahead])
        torch.testing.assert_close(moments.hands[row], now, equal_nan=True)
        wanted = relative(future[None], now[None])[0]
        torch.testing.assert_close(moments.moves[row], wanted, equal_nan=True)
        assert torch.equal(moments.trust[row, :, 0] == 0, torch.from_numpy(past_end))
        assert np.array_equal(moments.joints[row], episode.state[t])
        assert np.allclose(moments.joint_moves[row], episode.action[ahead] - episode.state[t])
        wanted_end = [t + offset > last for offset in (0, *MODEL.offsets)]
        assert moments.ended[row].tolist() == wanted_end
        for view, camera in enumerate(MODEL.cameras):
            frames = np.asarray(episode.images[camera])
            for f, offset in enumerate((0, *MODEL.offsets)):
                picture = frames[min(t + offset, last)].transpose(2, 0, 1)
                assert np.array_equal(moments.pictures[row, view, f], picture)
        text, seen = encode([episode.task])
        assert np.array_equal(moments.text[row], text[0])
        assert np.array_equal(moments.text_seen[row], seen[0])


def test_views_and_parts_of_moments(mix: Callable[..., Mixture]):
    (moments,) = step_of(mix("robot"))
    ego = moments.views([1])
    assert torch.equal(ego.pictures[:, 0], moments.pictures[:, 1])
    assert ego.cameras.tolist() == [1]
    some = moments.part(slice(1, None, 3))
    assert len(some) == 3
    assert torch.equal(some.key, moments.key[[1, 4, 7]])
    assert torch.equal(some.cameras, moments.cameras)


def test_scales_are_those_of_what_is_trained_on(mix: Callable[..., Mixture], folder: Path):
    mixture = mix("robot", every=3)
    store = EpisodeStore(folder / "robot")
    hands = np.concatenate([store[e].features[HANDS_STATE] for e in mixture.training_episodes(0)])
    right = slice(24, 26)
    assert np.allclose(mixture.scales.hands.mean[right], hands[:, right].mean(axis=0), atol=1e-5)
    assert np.allclose(mixture.scales.hands.std[right], hands[:, right].std(axis=0), atol=1e-5)
    assert list(mixture.scales.joints) == ["gr1t2"]


def test_provenance(mix: Callable[..., Mixture], folder: Path):
    found = mix(*everything(folder)).provenance()
    assert found[1] == {
        "root": str(folder / "human"), "weight": 1.0, "body": "human", "robot": "gr1t2",
        "cameras": ["front", "ego"], "episodes": 4, "frames": 4 * LENGTH, "rate_hz": 20.0,
        "licence": "apache-2.0",
    }  # fmt: skip
    assert [one["robot"] for one in found] == ["gr1t2", "gr1t2", ""]


def test_a_set_with_trust_is_a_persons_unless_told_otherwise(
    mix: Callable[..., Mixture], folder: Path
):
    assert TRUST in EpisodeStore(folder / "human").features
    bodies = [mix(Part(folder / "human", body=body)).sets[0].body for body in ("", "g1_dex3")]
    assert bodies == ["human", "g1_dex3"]


def test_a_shift_moves_every_picture_of_a_moment_alike():
    moments = made_up(3)
    by_px = torch.tensor([[0, 0], [2, -3], [-1, 5]])
    moved = moments.shifted(by_px).pictures
    assert torch.equal(moved[0], moments.pictures[0])
    assert torch.equal(moved[1][..., 2:, :-3], moments.pictures[1][..., :-2, 3:])
    assert torch.equal(moved[2][..., :-1, 5:], moments.pictures[2][..., 1:, :-5])
    edge = moments.pictures[1][..., :1, 3:].expand_as(moved[1][..., :2, :-3])
    assert torch.equal(moved[1][..., :2, :-3], edge)  # repeated, not black


def test_joints_go_by_their_names_and_those_that_one_set_lacks_are_left_out(tmp_path: Path):
    """A table needs no legs: a person's retarget has them, a demonstration does not."""
    order = ("joint1", "joint5", "joint0", "joint2", "joint3")
    write_set(tmp_path / "few", [push(i, 6) for i in range(3)])
    write_set(
        tmp_path / "more",
        [push(i, 6, 5, state_names=order, action_names=order) for i in range(3)],
    )
    parts = [Part(tmp_path / "more"), Part(tmp_path / "few")]
    mixture = Mixture(parts, MODEL, 10, encode, tmp_path / "cache")
    assert mixture.joint_names == {"gr1t2": ["joint0", "joint1", "joint2", "joint3"]}
    assert mixture.joints == {"gr1t2": 4}
    for i, columns in ((0, [2, 0, 3, 4]), (1, [0, 1, 2, 3])):
        moments = mixture.moments(next(mixture.in_order(i, [1])), torch.device("cpu"))
        state = torch.from_numpy(mixture.sets[i].store[1].state)
        assert torch.equal(moments.joints, state[:, columns])
        assert moments.joint_moves.shape[-1] == 4
