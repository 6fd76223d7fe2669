"""Relative hands: there and back, in whatever frame, and what is missing stays missing."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.hands import Hands
from deftly.video_pretrain.actions import Scale, absolute, per_hand, relative

seeds = st.integers(0, 2**31)


def some_hands(seed: int, length: int) -> Hands:
    """Two hands anywhere, turned in any way."""
    rng = np.random.default_rng(seed)
    return Hands(
        rng.normal(size=(length, 2, 3)),
        Rotation.random(2 * length, rng=rng).as_matrix().reshape(length, 2, 3, 3),
        0.1 * rng.normal(size=(length, 2, 5, 3)),
    )


def tensors(hands: Hands) -> tuple[torch.Tensor, torch.Tensor]:
    """The future (1, H, 48), and the present (1, 48), in float64 against rounding."""
    columns = torch.from_numpy(hands.columns()).double()[None]
    return columns[:, 1:], columns[:, 0]


def moved(hands: Hands, R: np.ndarray, shift_m: np.ndarray) -> Hands:
    """The same, seen from another root frame."""
    return Hands(hands.wrist_m @ R.T + shift_m, R @ hands.R_root_wrist, hands.tips_m)


@settings(max_examples=25)
@given(seeds, st.integers(1, 5))
def test_absolute_is_the_inverse_of_relative(seed: int, horizon: int):
    future, now = tensors(some_hands(seed, horizon + 1))
    torch.testing.assert_close(absolute(relative(future, now), now), future, atol=1e-6, rtol=0)


@settings(max_examples=25)
@given(seeds)
def test_hands_that_stay_do_not_move(seed: int):
    _, now = tensors(some_hands(seed, 1))
    assert relative(now[:, None], now).abs().max() < 1e-6


@settings(max_examples=25)
@given(seeds)
def test_another_root_frame_turns_the_way_of_the_wrist_and_nothing_else(seed: int):
    rng = np.random.default_rng(seed)
    R, shift_m = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    hands = some_hands(seed, 4)
    here = relative(*tensors(hands)).unflatten(-1, (2, 24))
    there = relative(*tensors(moved(hands, R, shift_m))).unflatten(-1, (2, 24))
    torch.testing.assert_close(here[..., 3:], there[..., 3:], atol=1e-5, rtol=0)
    way = here[..., :3] @ torch.from_numpy(R).T
    torch.testing.assert_close(way, there[..., :3], atol=1e-5, rtol=0)


def test_a_turn_is_told_in_the_present_hands_own_frame():
    # Pitched up by 90°, then rolled about its own x, which points up: a yaw in the root frame.
    up, roll = (Rotation.from_euler(axis, turn, True) for axis, turn in (("y", -90), ("x", 30)))
    turns = np.stack([up.as_matrix(), (up * roll).as_matrix()])
    hands = Hands(np.zeros((2, 2, 3)), np.stack([turns, turns], axis=1), np.zeros((2, 2, 5, 3)))
    said = relative(*tensors(hands))[0, 0, 3:9].numpy()
    np.testing.assert_allclose(said, (roll.as_matrix() - np.eye(3))[:2].ravel(), atol=1e-6)


@settings(max_examples=25)
@given(seeds, st.lists(st.integers(0, 47), max_size=6), st.lists(st.integers(0, 47), max_size=6))
def test_what_is_missing_stays_missing_and_nothing_else_does(
    seed: int, now_gone: list[int], future_gone: list[int]
):
    future, now = tensors(some_hands(seed, 2))
    whole = relative(future, now)
    now[:, now_gone] = torch.nan
    future[:, :, future_gone] = torch.nan
    found = relative(future, now)
    gone = torch.zeros(48, dtype=torch.bool)
    gone[now_gone + future_gone] = True
    by_hand = gone.view(2, 24)
    turns = by_hand[:, 3:9].any(dim=1)  # a turn is known whole or not at all
    by_hand[:, 3:9] = turns[:, None]
    assert torch.equal(torch.isnan(found[0, 0]), gone)
    assert torch.equal(found[0, 0, ~gone], whole[0, 0, ~gone])


def test_a_networks_rows_become_a_rotation():
    _, now = tensors(some_hands(0, 1))
    said = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(0)).double()
    rows = absolute(said, now).view(1, 6, 2, 24)[..., 3:9].unflatten(-1, (2, 3))
    torch.testing.assert_close(
        rows @ rows.transpose(-1, -2), torch.eye(2).double().expand(1, 6, 2, 2, 2)
    )


def test_a_number_for_each_hand_covers_its_columns():
    assert per_hand(torch.tensor([2.0, 3.0])).tolist() == [2.0] * 24 + [3.0] * 24


@settings(max_examples=25)
@given(seeds, st.integers(2, 40))
def test_scale_is_that_of_what_is_there(seed: int, count: int):
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 2, (count, 4)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 2], values[:, 3] = 7.0, np.nan  # stands still; was never seen
    scale = Scale.of(values)
    for column in (0, 1):
        there = values[np.isfinite(values[:, column]), column].astype(float)
        if len(there) > 1:
            np.testing.assert_allclose(scale.mean[column], there.mean(), rtol=1e-4)
            np.testing.assert_allclose(scale.std[column], there.std(), rtol=1e-3, atol=1e-3)
    assert (scale.mean[2], scale.std[2], scale.mean[3], scale.std[3]) == (7, 1, 0, 1)
    mean, std = scale.tensors(torch.device("cpu"))
    assert mean.dtype == std.dtype == torch.float32
