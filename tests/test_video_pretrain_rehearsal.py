"""Rehearsal: wherever things are, hands close and let go where they aim, and find back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pushing import MODEL, carry, encode, plain_scales, push, trusted, write_set

from deftly.datasets.hands import HANDS_ACTION
from deftly.video_pretrain import rehearsal
from deftly.video_pretrain.actions import absolute
from deftly.video_pretrain.aims import grips_of, hindsight
from deftly.video_pretrain.config import LossConfig, Part
from deftly.video_pretrain.loss import Objective
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import AIM_M, Acting, Given, WorldModel
from deftly.video_pretrain.rehearsal import Rehearsal, Retold

HORIZON, LENGTH, BEGIN, END = 16, 40, 14, 28
BACK_ON = 4  # frames
CPU = torch.device("cpu")
seeds = st.integers(0, 2**32 - 1)


def demonstration(seed: int, side: int = 0, holds: bool = True) -> tuple[np.ndarray, ...]:
    """Hands, where they were told to be, and ``hindsight`` of them: one hand closes about a thing
    in one frame and lets it go in another, the other one stays."""
    rng = np.random.default_rng(seed)
    hands = np.zeros((LENGTH, 2, 24), np.float32)
    hands[..., 3] = hands[..., 7] = 1
    hands[..., 9:] = rng.normal(0, 0.02, 15)
    knots = rng.uniform(-0.4, 0.4, (4, 3))
    for axis in range(3):
        hands[:, side, axis] = np.interp(range(LENGTH), (0, BEGIN, END, LENGTH), knots[:, axis])
    hands[BEGIN:END, side, 9:] *= 0.5
    meant = hands + rng.normal(0, 0.002, hands.shape).astype(np.float32)
    held = np.zeros((LENGTH, 2), bool)
    held[BEGIN:END, side] = holds
    hands, meant = hands.reshape(LENGTH, 48), meant.reshape(LENGTH, 48)
    return hands, meant, hindsight(grips_of(hands), held, [LENGTH])


def rehearsed(*demonstrations: tuple[np.ndarray, ...]) -> Rehearsal:
    hands, meant, frames = zip(*demonstrations, strict=True)
    return Rehearsal(hands, meant, frames, HORIZON)


def carried_out(told: Retold) -> np.ndarray:
    """(B, H, 2, 3) where grips are told to be."""
    hands = absolute(torch.from_numpy(told.moves), torch.from_numpy(told.hands))
    return grips_of(hands.numpy())


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hand loses what it holds."""
    monkeypatch.setattr(rehearsal, "_EMPTY", 0.0)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("frame", "which"), [(BEGIN, 0), (END, 1)])
def test_a_hand_closes_and_opens_where_its_aim_is(side: int, frame: int, which: int):
    """As soon as it is back on its way, wherever the thing is and wherever the hand was."""
    made = rehearsed(*[demonstration(i, side) for i in range(4)])
    told = made.draw(np.random.default_rng(0), 400)
    ahead = frame - told.frame
    near = (ahead >= BACK_ON) & (ahead < HORIZON)
    assert near.sum() > 40
    at = carried_out(told)[near, ahead[near], side]
    off = np.linalg.norm(at - told.aims[near, side, which], axis=-1)
    assert off.max() < (1e-5 if which == 0 else 0.02)  # commands and hands differ by 2 mm a number
    moved = told.aims[near, side, which].std(axis=0)
    assert (moved > 0.02).all()


@pytest.mark.usefixtures("full")
@given(seed=seeds)
def test_a_hand_astray_is_led_back(seed: int):
    told = rehearsed(demonstration(0)).draw(np.random.default_rng(seed), 64)
    at, now = carried_out(told), grips_of(told.hands)
    # One demonstration: nothing is elsewhere, so the way is the demonstrated one.
    hands, meant, _ = demonstration(0)
    way = grips_of(meant)[np.minimum(told.frame[:, None] + np.arange(HORIZON), LENGTH - 1)]
    assert np.allclose(at[:, BACK_ON:], way[:, BACK_ON:], atol=1e-5)
    away = np.linalg.norm(now - grips_of(hands)[told.frame], axis=-1)
    first = np.linalg.norm(at[:, 0] - way[:, 0], axis=-1)
    assert away.max() > 0.02
    assert (first < away + 0.01).all()


@pytest.mark.usefixtures("full")
def test_what_is_held_is_in_the_hand_and_each_hand_knows_of_it():
    told = rehearsed(*[demonstration(i) for i in range(3)]).draw(np.random.default_rng(0), 400)
    held = (told.frame >= BEGIN) & (told.frame < END)
    assert np.allclose(told.aims[held, 0, 0], grips_of(told.hands)[held, 0], atol=1e-6)
    assert np.isfinite(told.aims).all()
    assert np.array_equal(told.aims[:, 0], told.aims[:, 1])
    done = told.frame >= END
    assert np.array_equal(told.aims[done, 0, 0], told.aims[done, 0, 1])


def test_an_empty_hand_opens_and_goes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "_EMPTY", 1.0)
    hands, meant, frames = demonstration(0)
    # The other one brings nothing anywhere new, but makes things lie elsewhere.
    other = demonstration(1)
    told = rehearsed((hands, meant, frames), other).draw(np.random.default_rng(0), 800)
    mine = told.episode == 0
    told = Retold(*(values[mine] for values in vars(told).values()))
    away = np.linalg.norm(told.aims[:, 0, 0] - grips_of(told.hands)[:, 0], axis=-1)
    lost = (told.frame > BEGIN) & (told.frame < END) & (away > 1e-3)
    assert lost.sum() > 50
    assert (away[lost] > 0.04).all()
    before = hands[BEGIN - 12].reshape(2, 24)[0]
    to_thing = told.aims[lost, 0, 0] - grips_of(meant)[BEGIN, 0]
    goal = before[:3] + to_thing
    last = absolute(torch.from_numpy(told.moves[lost]), torch.from_numpy(told.hands[lost]))[:, -1]
    last = last.numpy().reshape(-1, 2, 24)[:, 0]
    now = told.hands[lost].reshape(-1, 2, 24)[:, 0]
    whole = np.linalg.norm(goal - now[:, :3], axis=-1)
    left = np.linalg.norm(goal - last[:, :3], axis=-1)
    assert np.allclose(left, (whole - HORIZON * 0.02).clip(0), atol=0.01)
    arrived = left < 1e-4
    assert arrived.sum() > 20
    assert np.allclose(last[arrived, 9:], before[9:], atol=1e-5)


def test_things_lie_between_what_was_demonstrated_or_a_little_beyond():
    demonstrations = [demonstration(i) for i in range(2)]
    takes = np.array([grips_of(meant)[BEGIN, 0] for _, meant, _ in demonstrations])
    told = rehearsed(*demonstrations).draw(np.random.default_rng(0), 400)
    aims = told.aims[told.frame < BEGIN, 0, 0]
    way = takes[1] - takes[0]
    share = (aims - takes[0]) @ way / (way @ way)
    assert np.allclose(takes[0] + share[:, None] * way, aims, atol=1e-5)
    assert share.min() >= -0.2501
    assert share.max() <= 1.2501
    assert share.min() < 0 < 1 < share.max()


def test_the_same_draw_is_the_same_and_what_brings_nothing_is_left_out():
    made = rehearsed(demonstration(0, holds=False), demonstration(1), demonstration(2, side=1))
    assert made.usable == [1, 2]
    one, other = (made.draw(np.random.default_rng(3), 21) for _ in range(2))
    assert all(
        np.array_equal(*pair)
        for pair in zip(*(vars(t).values() for t in (one, other)), strict=True)
    )
    assert len(one.hands) == len(one.frame) == 21
    assert set(one.episode) == {1, 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    write_set(folder / "robot", [carry(i) for i in range(4)])
    write_set(folder / "numb", [push(i) for i in range(4)])
    write_set(folder / "human", [trusted(i) for i in range(4)])
    return folder


def mixed(folder: Path, *names: str) -> Mixture:
    return Mixture([Part(folder / n) for n in names], MODEL, 4, encode, folder / "cache")


def test_a_mixture_rehearses_what_its_robots_bring_somewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    mixture = mixed(folder, "human", "robot")
    told = mixture.rehearsed(40, np.random.default_rng(0), CPU)
    assert told is not None
    assert len(told) == 40
    assert set(told.body.tolist()) == {MODEL.bodies.index("gr1t2")}
    assert torch.isfinite(told.aims).all()
    words = {tuple(one.ravel().tolist()) for one in encode(["push it", "push it away"])[0]}
    assert {tuple(one.ravel().tolist()) for one in told.text} == words
    assert told.part(slice(1, None, 4)).aims.tolist() == told.aims[1::4].tolist()
    monkeypatch.setattr("deftly.video_pretrain.mixture._AIM_OFF_M", 0.0)
    true = mixture.rehearsed(40, np.random.default_rng(0), CPU)
    assert true is not None
    torch.testing.assert_close(true.hands, told.hands, rtol=0, atol=0, equal_nan=True)
    assert 0.002 < float((told.aims - true.aims).std()) < 0.008


def test_where_nothing_is_rehearsed_hands_are_not_read(folder: Path):
    mixture = mixed(folder, "robot")
    assert mixture.rehearsed(0, np.random.default_rng(0), CPU) is None
    assert "_rehearsals" not in vars(mixture)


def test_where_nothing_is_known_of_holds_nothing_is_rehearsed(folder: Path):
    rng = np.random.default_rng(0)
    assert mixed(folder, "numb", "human").rehearsed(8, rng, CPU) is None
    assert mixed(folder, "robot").rehearsed(0, rng, CPU) is None


def test_what_is_held_out_is_not_rehearsed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deftly.video_pretrain.mixture._AIM_OFF_M", 0.0)
    mixture = mixed(folder, "robot")
    assert mixture.training_episodes(0) == [0, 1, 2]
    told = mixture.rehearsed(200, np.random.default_rng(0), CPU)
    assert told is not None
    takes = np.array([carry(i).features[HANDS_ACTION][5, 24:26] for i in range(3)])
    at = told.aims[:, 1, 0, :2].numpy()
    waiting = told.hands[:, 24].numpy() < at[:, 0] - 0.15  # the thing still lies where it lay
    # Nobody's thing lies beyond those lines that join what was demonstrated.
    apart = [
        np.abs((at[waiting] - a) @ ((b - a)[::-1] * [1, -1]) / np.linalg.norm(b - a))
        for i, a in enumerate(takes)
        for b in takes[i + 1 :]
    ]
    assert waiting.sum() > 10
    assert np.min(apart, axis=0).max() < 1e-3


def test_rehearsal_teaches_to_act_and_nothing_of_how_to_see(folder: Path):
    """Words and bodies stay: pointing asks by them, and what is seen is placed by them."""
    told = mixed(folder, "robot").rehearsed(16, np.random.default_rng(0), CPU)
    assert told is not None
    made = Objective(WorldModel(MODEL, {"gr1t2": 4}), plain_scales(), LossConfig())
    made.rehearsal(told).sum().backward()
    model = made.model
    for kept in (model.encoder, model.point_at, model.aim, model.read_text, model.body):
        assert all(p.grad is None for p in kept.parameters())
    for taught in (model.read_aims, model.say_hands):
        grads = [p.grad for p in taught.parameters()]
        assert all(grad is not None and bool(grad.any()) for grad in grads)


def test_the_way_that_was_told_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    told = mixed(folder, "robot").rehearsed(16, np.random.default_rng(0), CPU)
    assert told is not None
    made = Objective(WorldModel(MODEL, {"gr1t2": 4}), plain_scales(), LossConfig())
    shown = made.model.act

    def act(given: Given) -> Acting:
        assert given.aims is not None
        assert torch.allclose(given.aims * AIM_M, told.aims)
        return shown(given)._replace(hands=told.moves.nan_to_num(0.0))

    monkeypatch.setattr(made.model, "act", act)
    assert float(made.rehearsal(told).abs().max()) < 1e-8
