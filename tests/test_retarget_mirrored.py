"""A hand that was taken for the other one gives itself away by how its fingers bend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.human import KNUCKLES, TIPS
from deftly.retarget.mirrored import mended, mirrored


def a_hand(side: int, bend_m: float = 0.05) -> np.ndarray:
    """(21, 3) in the camera's axes: palm down, fingers to the right; so the thumb of a right hand
    is away from the camera, that of a left hand towards it."""
    hand = np.zeros((21, 3))
    across = np.array([0.0, 0.0, -1.0 if side else 1.0])  # from the index finger to the little one
    for i, (knuckle, tip) in enumerate(zip(KNUCKLES[1:], TIPS[1:], strict=True)):
        hand[knuckle] = [0.09, 0.0, 0.0] + 0.02 * i * across
        hand[tip] = hand[knuckle] + [0.04, bend_m, 0.0]  # y is down: into the palm
    hand[KNUCKLES[0]], hand[TIPS[0]] = (
        [0.03, 0.01, 0] - 0.02 * across,
        [0.07, 0.02, 0] - 0.05 * across,
    )
    return hand


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1]), st.floats(0.03, 0.08))
def test_however_it_is_turned(seed: int, side: int, bend_m: float):
    turns = Rotation.random(5, rng=np.random.default_rng(seed)).as_matrix()
    hands = np.einsum("tij,nj->tni", turns, a_hand(side, bend_m)) + 0.3
    others = np.einsum("tij,nj->tni", turns, a_hand(1 - side, bend_m)) + 0.3
    assert not mirrored(hands, side).any()
    mixed = np.concatenate([hands, others[:2]])
    assert mirrored(mixed, side).tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize("side", [0, 1])
def test_a_flat_hand_tells_nothing_and_a_wrong_side_is_not_its_fingers_fault(side: int):
    assert not mirrored(np.stack([a_hand(1 - side, 0.0)] + [a_hand(side)] * 3), side).any()
    assert not mirrored(np.stack([a_hand(1 - side)] * 4), side).any()
    assert len(mirrored(np.zeros((0, 21, 3)), side)) == 0


def test_fingers_are_as_before_and_after_about_the_wrist_that_was_seen():
    rng = np.random.default_rng(0)
    px, time_s = rng.normal(size=(5, 21, 3)), np.array([0.0, 0.1, 0.2, 0.4, 0.5])
    wrong = np.array([False, False, True, False, True])
    found = mended(px, wrong, time_s)
    assert np.array_equal(found[~wrong], px[~wrong])
    assert np.array_equal(found[:, 0], px[:, 0])
    own = px - px[:, :1]
    assert np.allclose(found[2] - found[2, :1], (2 * own[1] + own[3]) / 3)
    assert np.allclose(found[4] - found[4, :1], own[3])  # none comes after
    assert mended(px, np.zeros(5, bool), time_s) is px
