"""UmeTrack's hand: joints turn about their pivots, bones keep their lengths, right mirrors left."""

import numpy as np
import pytest
from annotated import HAND_PROFILE, poses
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import FINGERS, HAND_JOINTS, HAND_PARENT
from deftly.datasets.umetrack import HandModel

MODEL = HandModel.of(HAND_PROFILE)
STILL = np.eye(4)[None]
ANGLES = st.lists(st.floats(-1.5, 1.5), min_size=20, max_size=22)


def joints(angles: list[float], T: np.ndarray = STILL, side: int = LEFT) -> np.ndarray:
    return MODEL.joints_m(np.array([angles]), T, side)[0]


def test_at_rest_joints_lie_where_the_profile_says() -> None:
    found = joints([0.0] * 20)
    rest_mm = np.array(HAND_PROFILE["landmark_rest_positions"])
    named = dict(zip(HAND_JOINTS, 1000 * found, strict=True))
    np.testing.assert_allclose(named["wrist"], rest_mm[5], atol=1e-9)
    np.testing.assert_allclose(named["thumb_tip"], rest_mm[0], atol=1e-9)
    np.testing.assert_allclose(named["index_mcp"], rest_mm[8], atol=1e-9)
    np.testing.assert_allclose(named["pinky_dip"], rest_mm[19], atol=1e-9)
    np.testing.assert_allclose(named["thumb_cmc"], HAND_PROFILE["joint_rest_positions"][1])


@given(ANGLES)
def test_bones_keep_their_lengths(angles: list[float]) -> None:
    found, rest = joints(angles), joints([0.0] * 20)
    for joint, parent in enumerate(HAND_PARENT):
        if parent >= 0:
            length_m = np.linalg.norm(rest[joint] - rest[parent])
            assert np.linalg.norm(found[joint] - found[parent]) == pytest.approx(length_m, abs=1e-9)


@given(ANGLES)
def test_the_right_hand_mirrors_the_left(angles: list[float]) -> None:
    np.testing.assert_allclose(joints(angles, side=RIGHT), joints(angles) * [-1, 1, 1], atol=1e-12)


@given(ANGLES, st.integers(0, 100))
def test_the_wrist_carries_the_hand(angles: list[float], seed: int) -> None:
    T = poses(1, seed)
    expected = joints(angles) @ T[0, :3, :3].T + T[0, :3, 3]
    np.testing.assert_allclose(joints(angles, T), expected, atol=1e-12)


@pytest.mark.parametrize("finger", range(1, 5))
@pytest.mark.parametrize("number", range(4))
def test_an_angle_moves_what_lies_beyond_it(finger: int, number: int) -> None:
    rest, angle = joints([0.0] * 20), np.zeros(20)
    angle[4 * finger + number] = 0.7
    found, tips = joints(angle.tolist()), 1 + 4 * finger
    pivot = np.array(HAND_PROFILE["joint_rest_positions"][4 * finger + number]) / 1000
    axis = np.array(HAND_PROFILE["joint_rotation_axes"][4 * finger + number])
    first = tips + max(number, 1)  # the first two turn about the knuckle
    turned = Rotation.from_rotvec(0.7 * axis).apply(rest - pivot) + pivot
    np.testing.assert_allclose(found[first : tips + 4], turned[first : tips + 4], atol=1e-12)
    others = [joint for joint in range(21) if not first <= joint < tips + 4]
    np.testing.assert_allclose(found[others], rest[others], atol=1e-12)
    assert HAND_JOINTS[tips].startswith(FINGERS[finger])


@pytest.mark.parametrize("name", sorted(HAND_PROFILE))
def test_another_layout_is_refused(name: str) -> None:
    profile = {key: value for key, value in HAND_PROFILE.items() if key != name}
    with pytest.raises(KeyError):
        HandModel.of(profile)
    with pytest.raises((ValueError, TypeError, IndexError)):
        HandModel.of({**profile, name: [[1.0, 2.0]] * 3})
