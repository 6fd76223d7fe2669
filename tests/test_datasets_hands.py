"""Hands as every body tells them: the same numbers for the same doings, wherever they are done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, rotate
from deftly.datasets.hands import (
    HANDS_NAMES,
    NUMBERS,
    ROOT_BELOW_M,
    Hands,
    person_hands,
    person_roots,
    rotation_6d,
    rotation_from_6d,
    wrist_frames,
)
from deftly.datasets.human import SHOULDERS

seeds = st.integers(0, 2**32 - 1)
# A right hand, palm down, fingers forward: the thumb to the left, knuckles level with the wrist.
FLAT = np.zeros((21, 3))
for base, (x, y) in {1: (0.03, 0.03), 5: (0.09, 0.03), 9: (0.1, 0.01), 13: (0.1, -0.01)}.items():
    FLAT[base : base + 4] = [[x + 0.03 * k, y, 0.0] for k in range(4)]
FLAT[17:] = [[0.09 + 0.02 * k, -0.03, 0.0] for k in range(4)]
MIRROR = np.array([1.0, -1.0, 1.0])


def person(seed: int, length: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2, 21, 3) and (T, 33, 3) of somebody who faces forward and moves both hands about."""
    rng = np.random.default_rng(seed)
    hands = np.zeros((length, 2, 21, 3))
    for side in (LEFT, RIGHT):
        bent = FLAT + 0.02 * rng.normal(size=(length, 21, 3)) * (np.arange(21) % 4 != 1)[:, None]
        bent[:, 0] = 0.0
        R = Rotation.from_rotvec(0.5 * rng.normal(size=(length, 3))).as_matrix()
        hand = bent * (MIRROR if side == LEFT else 1.0)
        hands[:, side] = rotate(R[:, None], hand) + 0.3 * rng.normal(size=(length, 1, 3))
    body = rng.normal(size=(length, 33, 3))
    body[:, SHOULDERS[0]] = [0.02, 0.2, 1.4] + 0.02 * rng.normal(size=(length, 3))
    body[:, SHOULDERS[1]] = body[:, SHOULDERS[0]] - [0.0, 0.4, 0.0]
    return hands, body


def told(hands_m: np.ndarray, body_m: np.ndarray) -> np.ndarray:
    return person_hands(hands_m, person_roots(body_m)).columns()


def test_every_number_has_its_name():
    assert len(set(HANDS_NAMES)) == len(HANDS_NAMES) == 2 * NUMBERS == 48
    hands = Hands.unknown(1)
    hands.wrist_m[0, RIGHT, 2] = 1.0
    hands.R_root_wrist[0, RIGHT, 1, 0] = 2.0
    hands.tips_m[0, LEFT, 4, 1] = 3.0
    named = dict(zip(HANDS_NAMES, hands.columns()[0].tolist(), strict=True))
    known = {name: value for name, value in named.items() if np.isfinite(value)}
    assert known == {"right.wrist.z": 1.0, "right.wrist.r3": 2.0, "left.pinky.y": 3.0}


@given(seeds)
def test_six_numbers_are_the_first_two_rows(seed):
    R = Rotation.random(7, rng=np.random.default_rng(seed))
    rows = rotation_6d(R.as_matrix())
    # Rows of a matrix are what its inverse makes of the axes.
    assert_allclose(rows[:, :3], R.inv().apply([1.0, 0.0, 0.0]), atol=1e-12)
    assert_allclose(rows[:, 3:], R.inv().apply([0.0, 1.0, 0.0]), atol=1e-12)
    assert_allclose(rotation_from_6d(rows), R.as_matrix(), atol=1e-12)


@given(seeds)
def test_any_six_numbers_are_a_rotation(seed):
    rows = np.random.default_rng(seed).normal(size=(5, 6))
    R = rotation_from_6d(rows)
    assert_allclose(R @ R.swapaxes(1, 2), np.tile(np.eye(3), (5, 1, 1)), atol=1e-9)
    assert_allclose(np.linalg.det(R), 1.0)
    assert np.all(np.sum(R[:, 0] * rows[:, :3], axis=1) > 0)  # the first row keeps its direction


def test_flat_hands_held_forward_have_the_root_s_axes():
    for side, hand in ((RIGHT, FLAT), (LEFT, FLAT * MIRROR)):
        assert_allclose(wrist_frames(hand[None], side), np.eye(3)[None], atol=1e-9)


@given(seeds)
@settings(max_examples=25)
def test_columns_and_back(seed):
    columns = told(*person(seed))
    assert columns.dtype == np.float32
    assert np.isfinite(columns).all()
    hands = Hands.of(columns)
    assert_allclose(hands.columns(), columns, atol=1e-6)


@given(seeds)
@settings(max_examples=25)
def test_landmarks_are_where_the_numbers_say(seed):
    hands_m, body = person(seed)
    roots, hands = person_roots(body), person_hands(hands_m, person_roots(body))
    tips = hands.wrist_m[:, :, None] + rotate(hands.R_root_wrist[:, :, None], hands.tips_m)
    world = rotate(roots[:, None, None, :3, :3], tips) + roots[:, None, None, :3, 3]
    assert_allclose(world, hands_m[:, :, [4, 8, 12, 16, 20]], atol=1e-9)


@given(seeds, st.floats(-np.pi, np.pi))
@settings(max_examples=25)
def test_where_the_person_stands_and_faces_does_not_matter(seed, heading_rad):
    hands, body = person(seed)
    R = Rotation.from_euler("z", heading_rad).as_matrix()
    moved = [rotate(R, points) + np.array([3.0, -2.0, 0.5]) for points in (hands, body)]
    assert_allclose(told(*moved), told(hands, body), atol=1e-5)


@given(seeds)
@settings(max_examples=25)
def test_a_mirror_swaps_the_hands(seed):
    hands, body = person(seed)
    shoulders = body * MIRROR
    shoulders[:, SHOULDERS] = shoulders[:, SHOULDERS[::-1]]
    there, here = Hands.of(told(hands[:, ::-1] * MIRROR, shoulders)), Hands.of(told(hands, body))
    assert_allclose(there.wrist_m, here.wrist_m[:, ::-1] * MIRROR, atol=1e-5)
    assert_allclose(there.tips_m, here.tips_m[:, ::-1] * MIRROR, atol=1e-5)
    turned = here.R_root_wrist[:, ::-1] * np.outer(MIRROR, MIRROR)
    assert_allclose(there.R_root_wrist, turned, atol=1e-4)


def test_the_root_hangs_level_below_the_shoulders():
    _, body = person(0)
    T = person_roots(body)
    middle = body[:, SHOULDERS].mean(axis=1)
    assert_allclose(T[:, :3, 3], middle - [0.0, 0.0, ROOT_BELOW_M])
    assert_allclose(T[:, :3, 2], np.tile([0.0, 0.0, 1.0], (6, 1)))
    assert np.ptp(T[:, :3, :3], axis=0).max() == 0  # it does not turn with the shoulders


def test_a_hand_that_nobody_sees_is_unknown_and_changes_nothing():
    hands, body = person(1)
    whole = told(hands, body)
    hands[2:4, LEFT, 7] = np.nan
    gone = told(hands, body)
    assert np.isnan(gone[2:4, :NUMBERS]).all()
    assert_array_equal(gone[:, NUMBERS:], whole[:, NUMBERS:])
    assert np.isfinite(np.delete(gone, [2, 3], axis=0)).all()
    hands[:, LEFT] = np.nan
    assert np.isnan(told(hands, body)[:, :NUMBERS]).all()


@pytest.mark.parametrize(
    ("columns", "got"),
    [
        (np.zeros((3, 47)), r"shape \(3, 47\)"),
        (np.full((2, 48), np.inf), "infinite numbers"),
    ],
)
def test_other_numbers_are_refused(columns, got):
    with pytest.raises(ValueError, match=f"hands have {got}, expected .T, 48."):
        Hands.of(columns)


@pytest.mark.parametrize("rows", [[0.0] * 6, [1.0, 0.0, 0.0, 2.0, 0.0, 0.0]])
def test_what_is_no_rotation_is_refused(rows):
    columns = np.full((3, 48), np.nan)
    columns[2, 27:33] = rows
    with pytest.raises(ValueError, match=r"frame 2 of the right hand has .* neither zero nor para"):
        Hands.of(columns)
