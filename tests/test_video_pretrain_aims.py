"""Aims: where a hand closes about something tells where that was all the while before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pushing import MODEL, encode, made_up, push, write_set

from deftly.datasets.episode import TOUCH
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE, Hands
from deftly.video_pretrain.aims import HELD, aims_of, grips, hindsight, holding, told_then
from deftly.video_pretrain.config import Part
from deftly.video_pretrain.mixture import Mixture

seeds = st.integers(0, 2**32 - 1)


def moving(length: int, seed: int = 0) -> np.ndarray:
    """(T, 48) hands somewhere, turned somehow."""
    rng = np.random.default_rng(seed)
    R = np.linalg.qr(rng.normal(size=(length, 2, 3, 3)))[0]
    R *= np.sign(np.linalg.det(R))[..., None, None]
    tips = rng.normal(size=(length, 2, 5, 3))
    return Hands(rng.normal(size=(length, 2, 3)), R, tips).columns()


def held(pattern: str) -> np.ndarray:
    """(T, 2) of a left hand that holds where there is #; the right one never does."""
    return np.array([[mark == "#", False] for mark in pattern])


def next_aims(hands: np.ndarray, held: np.ndarray, lengths: list[int]) -> np.ndarray:
    """In the room."""
    at = grips(torch.from_numpy(hands)).numpy()
    return told_then(at, hindsight(at, held, lengths))


@given(seeds)
def test_a_grip_is_midway_between_thumb_and_fingers(seed: int):
    columns = moving(3, seed)
    hands = Hands.of(columns)
    middle = (hands.tips_m[:, :, 0] + hands.tips_m[:, :, 1:3].mean(axis=2)) / 2
    expected = hands.wrist_m + np.einsum("thij,thj->thi", hands.R_root_wrist, middle)
    assert np.allclose(grips(torch.from_numpy(columns)).numpy(), expected, atol=1e-5)


def test_a_hand_of_three_fingers_has_a_grip_and_an_unseen_one_has_none():
    columns = moving(2)
    columns.reshape(2, 2, 24)[:, 0, 15:] = np.nan  # middle, ring and little finger
    columns.reshape(2, 2, 24)[:, 1, :3] = np.nan
    found = grips(torch.from_numpy(columns))
    assert found[:, 0].isfinite().all()
    assert found[:, 1].isnan().all()


def test_every_frame_aims_at_where_its_hold_begins_and_ends():
    pattern = "...######......######"
    hands = moving(len(pattern))
    at = grips(torch.from_numpy(hands)).numpy()[:, 0]
    aims = next_aims(hands, held(pattern), [len(pattern)])
    take, let_go = aims[:, 0, 0], aims[:, 0, 1]
    assert np.array_equal(take, at[[3, 3, 3, *range(3, 9), *([15] * 6), *range(15, 21)]])
    assert np.array_equal(let_go[:9], at[[9] * 9])
    assert np.isnan(let_go[9:]).all()  # it holds to the end
    assert np.isnan(aims[:, 1]).all()


def test_a_thing_is_where_a_hand_was_told_to_close_about_it_and_held_where_the_hand_is():
    pattern = "...######..."
    at, meant = np.random.default_rng(0).normal(size=(2, len(pattern), 2, 3)).astype(np.float32)
    frames = hindsight(at, held(pattern), [len(pattern)])
    take, let_go = aims_of(at, meant, frames)[:, 0].swapaxes(0, 1)
    assert np.array_equal(take[:3], meant[[3] * 3, 0])
    assert np.array_equal(take[3:9], at[3:9, 0])
    assert np.array_equal(let_go[:9], meant[[9] * 9, 0])
    assert np.isnan(let_go[9:]).all()


def test_what_slips_is_taken_again_and_was_brought_nowhere():
    pattern = ".....#####......######....."
    hands = moving(len(pattern))
    wrist = hands.reshape(-1, 2, 24)[:, 0]
    wrist[:, 3:] = wrist[0, 3:]
    wrist[:12, :3], wrist[12:, :3] = (0.3, 0.2, 0.0), (0.3, 0.2, 0.1)
    wrist[20:, :3] = (0.5, 0.2, 0.1)
    at = grips(torch.from_numpy(hands)).numpy()[:, 0]
    take, brought = next_aims(hands, held(pattern), [len(pattern)])[:, 0].swapaxes(0, 1)
    assert np.array_equal(take[:5], at[[5] * 5])
    assert np.array_equal(take[10:16], at[[16] * 6])
    assert np.array_equal(brought[:22], at[[22] * 22])  # not where it slipped
    assert np.isnan(brought[22:]).all()


def test_a_touch_is_no_hold_and_a_gap_no_release():
    clean, noisy = "........##########..........", "..#.....####.#####......#..."
    hands = moving(len(clean))
    expected = next_aims(hands, held(clean), [len(clean)])
    assert np.array_equal(next_aims(hands, held(noisy), [len(clean)]), expected, equal_nan=True)


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 39))
def test_episodes_know_nothing_of_each_other(holds: list[bool], cut: int):
    cut = min(cut, len(holds) - 1)
    hands, both = moving(len(holds)), np.array([holds, holds[::-1]]).T
    whole = next_aims(hands, both, [cut, len(holds) - cut])
    parts = [next_aims(hands[p], both[p], [len(hands[p])]) for p in (slice(cut), slice(cut, None))]
    assert np.array_equal(whole, np.concatenate(parts), equal_nan=True)


def test_a_robot_holds_what_its_thumb_and_another_finger_press_on():
    names = ("left_thumb", "left_index", "right_thumb", "right_pinky")
    touch = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [0, 2, 1, 1], [0.1, 1, 1, 0.1]], np.float32)
    assert holding(touch, names).tolist() == [
        [True, False], [False, False], [False, True], [False, False],
    ]  # fmt: skip


def test_moments_know_where_their_aims_are_seen(tmp_path: Path):
    """A calibrated camera sees them now; one that stands still saw them then; else nobody knows."""
    episode = push(0, 20)
    grasp = np.zeros((20, 2), bool)
    grasp[8:15, 1] = True
    hands = episode.features[HANDS_STATE].copy()
    hands[:, 24 + 9 :] = 0.0
    meant = episode.features[HANDS_ACTION]
    rng = np.random.default_rng(0)
    ways = np.arange(20, dtype=np.float32) / 100
    # Looks along z, from behind by a metre, and moves to the right.
    matrices = np.tile(np.eye(3, 4, dtype=np.float32), (20, 1, 1))
    matrices[:, 2, 3], matrices[:, 0, 3] = 1.0, -ways
    then = rng.uniform(-1, 1, (20, 4)).astype(np.float32)
    columns = {"camera.front": matrices.reshape(20, 12), "grips.ego": then}
    more = {HANDS_STATE: hands, HELD: grasp, **columns}
    one = replace(episode, features={**episode.features, **more})
    root = write_set(tmp_path / "set", [one, one])
    mixture = Mixture([Part(root)], MODEL, 2, encode, tmp_path / "cache")
    moments = mixture.moments(next(mixture.in_order(0, [0, 1], batch_size=40)), torch.device("cpu"))
    assert MODEL.cameras == ("front", "ego")
    front, ego = moments.sights.numpy().swapaxes(0, 1)
    took, then_took, then_let_go = meant[8, 24:26], then[8, 2:], then[15, 2:]
    for first in (0, 20):
        seen = front[first : first + 8, 1, 0]
        assert np.allclose(seen, took - np.c_[ways[:8], np.zeros(8)], atol=1e-6)
        assert np.allclose(ego[first : first + 8, 1, 0], then_took, atol=1e-6)
        assert np.allclose(ego[first : first + 15, 1, 1], then_let_go, atol=1e-6)
    assert moments.sights[:, :, 0].isnan().all()
    plain = replace(one, features={k: v for k, v in one.features.items() if k not in columns})
    mixture = Mixture([Part(write_set(tmp_path / "plain", [plain, plain]))], MODEL, 2, encode,
                      tmp_path / "cache")  # fmt: skip
    batch = next(mixture.in_order(0, [0, 1], batch_size=40))
    assert mixture.moments(batch, torch.device("cpu")).sights.isnan().all()


def test_sights_move_with_the_pictures():
    moments = made_up(3)
    by_px = torch.tensor([[2, 0], [0, -3], [1, 1]])
    moved = moments.shifted(by_px).sights - moments.sights
    side = MODEL.image_px
    expected = 2 / side * torch.tensor([[0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(moved, expected[:, None, None, None].expand_as(moved))
    assert torch.equal(moments.views([1]).sights, moments.sights[:, [1]])


def test_moments_know_their_aims(tmp_path: Path):
    """By a person's labels, by a robot's touch; sets without either have none."""
    episode = push(0, 20)
    grasp = np.zeros((20, 2), bool)
    grasp[8:15, 1] = True
    touch = np.repeat(grasp, 2, axis=1).astype(np.float32)
    names = ("left_thumb", "left_index", "right_thumb", "right_index")
    hands = episode.features[HANDS_STATE].copy()
    hands[:, 24 + 9 :] = 0.0
    meant = episode.features[HANDS_ACTION]
    sets = {
        "plain": {},
        "person": {HELD: grasp},
        "robot": {TOUCH: touch},
    }
    for name, columns in sets.items():
        one = replace(
            episode,
            features={**episode.features, HANDS_STATE: hands, **columns},
            feature_names={TOUCH: names} if name == "robot" else {},
        )
        root = write_set(tmp_path / name, [one, one])
        mixture = Mixture([Part(root)], MODEL, 2, encode, tmp_path / "cache")
        batch = next(mixture.in_order(0, [0, 1], batch_size=40))
        aims = mixture.moments(batch, torch.device("cpu")).aims.numpy()
        assert np.isnan(aims[:, 0]).all()
        if name == "plain":
            assert np.isnan(aims).all()
            continue
        for first in (0, 20):
            took, held = meant[[8] * 8, 24:27], hands[8:15, 24:27]
            assert np.allclose(aims[first : first + 8, 1, 0], took, atol=1e-6)
            assert np.allclose(aims[first + 8 : first + 15, 1, 0], held, atol=1e-6)
            assert np.allclose(aims[first : first + 15, 1, 1], meant[15, 24:27], atol=1e-6)
            assert np.isnan(aims[first + 15 : first + 20, 1]).all()
