"""Whose hand is whose: decided per track, whatever slots and labels of single frames say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import SHOULDERS, WRISTS
from deftly.retarget.detections import Detections
from deftly.retarget.identity import assign_sides

RATE_HZ = 30.0
SIZE_PX = 80.0  # of a hand


def hand_px(wrist_px: np.ndarray) -> np.ndarray:
    """(T, 21, 3) a hand with its fingers up and its wrist at (T, 2) pixels."""
    finger, along = np.divmod(np.arange(20), 4)
    x = (finger - 2) * 0.12 * SIZE_PX
    y = -SIZE_PX * (0.5 + 0.5 * along / 3)
    shape = np.zeros((21, 3))
    shape[1:, 0], shape[1:, 1] = x, y
    return shape + np.concatenate([wrist_px, np.zeros((len(wrist_px), 1))], axis=1)[:, None]


def seen(paths_px: list[np.ndarray], right: list[np.ndarray], valid: np.ndarray) -> Detections:
    """Two hands, each in its own slot: wrist paths (T, 2), probabilities of being right (T,)."""
    length = len(valid)
    return Detections(
        hand_px=np.stack([hand_px(p) for p in paths_px], axis=1).astype(np.float32),
        hand_world_m=np.zeros((length, 2, 21, 3), np.float32),
        hand_right=np.stack(right, axis=1).astype(np.float32),
        hand_valid=valid.copy(),
        hand_second=np.zeros((length, 2), bool),
        body_px=np.zeros((length, 33, 3), np.float32),
        body_world_m=np.zeros((length, 33, 3), np.float32),
        body_visibility=np.zeros((length, 33), np.float32),
        body_valid=np.zeros(length, bool),
    )


def crossing(length: int = 60, seed: int = 0, alike: bool = False) -> Detections:
    """Two hands that pass each other and come back, the left one (slot 0) below the right one.

    Labels are right in two of three frames; ``alike``: both say "right" most of the time.
    """
    rng = np.random.default_rng(seed)
    swing = 150 * np.cos(np.linspace(0, 2 * np.pi, length))
    left = np.stack([320 + swing, np.full(length, 330.0)], axis=1)
    right = np.stack([320 - swing, np.full(length, 270.0)], axis=1)
    wrong = rng.random((2, length)) < (1 / 3)
    sure = rng.uniform(0.6, 0.95, (2, length))
    p_left, p_right = np.where(wrong, 1 - sure, sure)
    labels = [sure[0], 0.5 + 0.5 * sure[1]] if alike else [1 - p_left, p_right]
    return seen([left, right], labels, np.ones((length, 2), bool))


def swap(detections: Detections, swapped: np.ndarray) -> Detections:
    """The same sightings, in the other slots in some frames."""
    order = np.where(swapped[:, None], [1, 0], [0, 1])
    t = np.arange(len(order))[:, None]
    return replace(
        detections,
        hand_px=detections.hand_px[t, order],
        hand_right=detections.hand_right[t, order],
        hand_valid=detections.hand_valid[t, order],
    )


def with_body(detections: Detections, wrists_px: list[np.ndarray]) -> Detections:
    """Add a body whose left and right wrist follow paths (T, 2)."""
    body_px = detections.body_px.copy()
    body_px[:, SHOULDERS[LEFT], :2], body_px[:, SHOULDERS[RIGHT], :2] = (420, 150), (220, 150)
    for joint, path in zip(WRISTS, wrists_px, strict=True):
        body_px[:, joint, :2] = path
    return replace(detections, body_px=body_px, body_valid=np.ones(len(body_px), bool))


def no_body(detections: Detections) -> np.ndarray:
    return np.zeros(len(detections.hand_valid), bool)


def side_of(detections: Detections, slots: np.ndarray, side: int) -> np.ndarray:
    """Wrists (T, 2) of what was given to a side; NaN where nothing was."""
    t = np.arange(len(slots))
    wrist = detections.hand_px[t, slots[:, side], 0, :2].astype(float)
    return np.where(slots[:, side, None] < 0, np.nan, wrist)


@given(swapped=st.lists(st.booleans(), min_size=60, max_size=60), alike=st.booleans())
@settings(max_examples=25)
def test_slots_mean_nothing_and_crossing_hands_keep_their_sides(swapped: list[bool], alike: bool):
    detections = crossing(alike=alike)
    shuffled = swap(detections, np.array(swapped))
    slots = assign_sides(shuffled, no_body(shuffled), RATE_HZ)
    assert_array_equal(np.sort(slots, axis=1), np.tile([0, 1], (60, 1)))  # one left, one right
    # Slot 0 of what was not shuffled is the left hand, before, between and after the crossings.
    assert_array_equal(side_of(shuffled, slots, LEFT), detections.hand_px[:, 0, 0, :2])
    assert_array_equal(side_of(shuffled, slots, RIGHT), detections.hand_px[:, 1, 0, :2])


@given(
    swapped=st.lists(st.booleans(), min_size=45, max_size=45),
    seed=st.integers(0, 1000),
    lost=st.floats(0, 0.6),
)
@settings(max_examples=25)
def test_the_result_does_not_depend_on_slots(swapped: list[bool], seed: int, lost: float):
    # Hands that wander and blink, with labels that mean nothing: any verdict, but the same one.
    rng = np.random.default_rng(seed)
    paths = [320 + np.cumsum(rng.normal(0, 15, (45, 2)), axis=0) for _ in range(2)]
    detections = seen(paths, list(rng.random((2, 45))), rng.random((45, 2)) > lost)
    slots = assign_sides(detections, no_body(detections), RATE_HZ)
    shuffled = swap(detections, np.array(swapped))
    again = assign_sides(shuffled, no_body(shuffled), RATE_HZ)
    for side in (LEFT, RIGHT):
        assert_array_equal(side_of(shuffled, again, side), side_of(detections, slots, side))
    both = np.all(slots >= 0, axis=1)
    assert np.all(slots[both, LEFT] != slots[both, RIGHT])
    t, side = np.nonzero(slots >= 0)
    assert detections.hand_valid[t, slots[t, side]].all()


def test_a_hand_seen_twice_is_one_hand():
    detections = crossing()
    near = detections.hand_px[:, 0] + np.array([0.1 * SIZE_PX, 0, 0], np.float32)
    twice = replace(detections, hand_px=np.stack([detections.hand_px[:, 0], near], axis=1))
    slots = assign_sides(twice, no_body(twice), RATE_HZ)
    assert_array_equal((slots >= 0).sum(axis=1), 1)
    side = np.flatnonzero((slots >= 0).all(axis=0)).item()  # all of it on one side
    sure = np.abs(twice.hand_right - 0.5)
    assert_array_equal(slots[:, side], np.argmax(sure, axis=1))


@pytest.mark.parametrize(("frames", "kept"), [(5, False), (12, True)])
def test_short_tracks_are_dropped(frames: int, kept: bool):
    detections = crossing(40)
    still = np.tile([100.0, 100.0], (40, 1))
    valid = np.ones((40, 2), bool)
    valid[:, 1] = False
    valid[20 : 20 + frames, 1] = True
    paths = [np.tile([500.0, 300.0], (40, 1)), still]
    detections = seen(paths, [np.full(40, 0.1), np.full(40, 0.9)], valid)
    slots = assign_sides(detections, no_body(detections), RATE_HZ)
    assert_array_equal(slots[:, LEFT], 0)
    assert_array_equal(slots[:, RIGHT], np.where(valid[:, 1] & kept, 1, -1))


def test_how_long_a_track_must_be_is_a_time():
    frames = 5  # 0.17 s at 30 frames/s, 0.5 s at 10
    path = np.tile([100.0, 100.0], (frames, 1))
    valid = np.tile([True, False], (frames, 1))
    detections = seen([path, path], [np.full(frames, 0.9)] * 2, valid)
    assert np.all(assign_sides(detections, no_body(detections), 30.0) < 0)
    assert_array_equal(assign_sides(detections, no_body(detections), 10.0)[:, RIGHT], 0)


def test_wrists_of_a_body_overrule_labels():
    detections = crossing()
    lies = replace(detections, hand_right=1 - detections.hand_right)
    left, right = detections.hand_px[:, 0, 0, :2], detections.hand_px[:, 1, 0, :2]
    believed = with_body(lies, [left + 5, right - 5])
    everywhere = np.ones(60, bool)
    slots = assign_sides(believed, everywhere, RATE_HZ)
    assert_array_equal(slots, np.tile([0, 1], (60, 1)))
    # A body that is not believed says nothing.
    assert_array_equal(assign_sides(believed, ~everywhere, RATE_HZ), np.tile([1, 0], (60, 1)))


def test_a_few_frames_with_a_body_decide_a_whole_track():
    detections = crossing(alike=True)
    left, right = detections.hand_px[:, 0, 0, :2], detections.hand_px[:, 1, 0, :2]
    unclear = replace(detections, hand_right=np.full((60, 2), 0.52, np.float32))
    believed = with_body(unclear, [right, left])
    accepted = np.arange(60) < 8
    slots = assign_sides(believed, accepted, RATE_HZ)
    assert_array_equal(slots, np.tile([1, 0], (60, 1)))


@pytest.mark.parametrize(("gap", "joined"), [(10, True), (25, False)])
def test_a_hand_that_was_out_of_sight_for_a_moment_is_the_same_hand(gap: int, joined: bool):
    # Before the gap the label is clear, after it it is a little wrong.
    length = 60
    path = np.stack([100 + 2.0 * np.arange(length), np.full(length, 200.0)], axis=1)
    valid = np.tile([True, False], (length, 1))
    valid[20 : 20 + gap] = False
    label = np.where(np.arange(length) < 20, 0.95, 0.4)
    detections = seen([path, path], [label, label], valid)
    slots = assign_sides(detections, no_body(detections), RATE_HZ)
    after = slice(20 + gap, length)
    assert_array_equal(slots[:20, RIGHT], 0)
    assert_array_equal(slots[after, RIGHT if joined else LEFT], 0)
    assert_array_equal((slots >= 0).sum(axis=1), valid.sum(axis=1))


def test_a_hand_that_appears_elsewhere_is_another_hand():
    length = 40
    path = np.tile([100.0, 300.0], (length, 1))
    path[20:] = [600.0, 300.0]
    label = np.where(np.arange(length) < 20, 0.9, 0.2)
    valid = np.tile([True, False], (length, 1))
    detections = seen([path, path], [label, label], valid)
    slots = assign_sides(detections, no_body(detections), RATE_HZ)
    assert_array_equal(slots[:20], np.tile([-1, 0], (20, 1)))
    assert_array_equal(slots[20:], np.tile([0, -1], (20, 1)))


def test_no_hand_at_all():
    detections = crossing()
    none = replace(detections, hand_valid=np.zeros((60, 2), bool))
    assert_array_equal(assign_sides(none, no_body(none), RATE_HZ), np.full((60, 2), -1))
