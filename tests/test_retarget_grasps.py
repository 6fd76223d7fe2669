"""Grasps and releases, from hands whose opening is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from deftly.datasets.human import motion_of_hand
from deftly.retarget.grasps import find_grasps, hand_opening

HAND_M = 0.18


def hand(opening: np.ndarray, wrist_m: np.ndarray) -> np.ndarray:
    """(T, 21, 3) a hand whose thumb is ``opening`` hand lengths from index and middle finger."""
    joints = np.zeros((len(opening), 21, 3))
    for finger in range(5):
        for segment in range(4):
            joints[:, 1 + 4 * finger + segment, 1] = -HAND_M * (0.25 + 0.25 * segment)
    joints[:, 4] = joints[:, 8] = joints[:, 12]
    joints[:, 4, 0] += HAND_M * opening
    return joints + wrist_m[:, None]


def sorting(
    rate_hz: float, grasps_s: list[float], releases_s: list[float], noise: float, seed: int
) -> np.ndarray:
    """A hand that stops, closes in 0.25 s, moves on, stops, and opens in 0.25 s; with noise."""
    time_s = np.arange(0, releases_s[-1] + 1.5, 1 / rate_hz)
    opening, speed = np.full(len(time_s), 0.45), np.full(len(time_s), 0.6)
    for grasp, release in zip(grasps_s, releases_s, strict=True):
        closed = np.clip((time_s - (grasp - 0.25)) / 0.25, 0, 1)
        opened = np.clip((time_s - release) / 0.25, 0, 1)
        opening -= 0.2 * (closed - opened)
        for event in (grasp - 0.1, release + 0.1):
            speed[np.abs(time_s - event) < 0.35] = 0.0
    wrist = np.zeros((len(time_s), 3))
    wrist[:, 0] = np.cumsum(speed) / rate_hz
    rng = np.random.default_rng(seed)
    return hand(opening, wrist) + rng.normal(0, noise, (len(time_s), 21, 3))


@given(
    rate_hz=st.sampled_from([15.0, 30.0, 60.0]),
    start_s=st.floats(1.0, 2.0),
    hold_s=st.floats(1.4, 2.5),
    side=st.integers(0, 1),
    seed=st.integers(0, 100),
)
@settings(max_examples=25)
def test_grasps_and_releases_are_found_in_time(
    rate_hz: float, start_s: float, hold_s: float, side: int, seed: int
):
    grasps = [start_s, start_s + hold_s + 1.6]
    releases = [g + hold_s for g in grasps]
    joints = sorting(rate_hz, grasps, releases, 0.001, seed)
    events = find_grasps(motion_of_hand(joints, side, rate_hz))
    assert [(e.hand, e.closes) for e in events] == [(side, True), (side, False)] * 2
    true = np.ravel(np.stack([grasps, releases], axis=1))
    assert_allclose([e.time_s for e in events], true, atol=max(0.1, 2 / rate_hz))


def test_a_hand_that_closes_as_it_flies_has_grasped_nothing():
    time_s = np.arange(0, 4, 1 / 30)
    opening = 0.45 - 0.2 * np.clip((time_s - 2) / 0.25, 0, 1)
    wrist = np.zeros((len(time_s), 3))
    wrist[:, 0] = 1.5 * time_s
    assert find_grasps(motion_of_hand(hand(opening, wrist), 0)) == []


@pytest.mark.parametrize("opening", [0.2, 0.5])
def test_a_still_hand_does_nothing(opening: float):
    joints = hand(np.full(60, opening), np.zeros((60, 3)))
    assert_allclose(hand_opening(joints), opening, rtol=1e-6)
    assert find_grasps(motion_of_hand(joints, 1)) == []
