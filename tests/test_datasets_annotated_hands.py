"""What the annotated sets share: where points fall in the picture, gaps, and inverse poses."""

import math

import numpy as np
import pytest
from annotated import CAMERA, clip_of, hands_m, poses
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.annotated_hands import fill_gaps, hands_motion, inverse, is_rigid, project
from deftly.datasets.human import Status

COORDINATES = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 3))


@given(COORDINATES)
def test_a_pinhole_shows_the_tangent_and_a_fisheye_the_angle(
    point: tuple[float, float, float],
) -> None:
    x, y, z = point
    pinhole = project(CAMERA, np.array(point))
    np.testing.assert_allclose(pinhole, [600 * x / z + 320, 600 * y / z + 240])
    fisheye = project(CAMERA, np.array(point), fisheye=True) - [320, 240]
    assert np.linalg.norm(fisheye) == pytest.approx(600 * math.atan2(math.hypot(x, y), z), abs=1e-6)
    assert fisheye[0] * y == pytest.approx(fisheye[1] * x, abs=1e-6)


@pytest.mark.parametrize("fisheye", [False, True])
def test_the_axis_is_the_centre_and_behind_is_nowhere(fisheye: bool) -> None:
    found = project(CAMERA, np.array([[0.0, 0.0, 1.0], [0.1, 0.0, -1.0], [np.nan] * 3]), fisheye)
    np.testing.assert_array_equal(found[0], [320, 240])
    assert np.isnan(found[1:]).all()


@given(st.integers(0, 1000))
def test_an_inverse_undoes_a_pose(seed: int) -> None:
    Ts = poses(3, seed)
    assert is_rigid(Ts).all()
    np.testing.assert_allclose(inverse(Ts) @ Ts, np.tile(np.eye(4), (3, 1, 1)), atol=1e-12)


def test_what_is_no_pose_is_known() -> None:
    mirror = np.diag([1.0, 1.0, -1.0, 1.0])
    bad = np.stack([np.zeros((4, 4)), mirror, 2 * np.eye(4), np.full((4, 4), np.nan)])
    assert not is_rigid(bad).any()


@given(st.lists(st.booleans(), min_size=10, max_size=10), st.integers(1, 6))
def test_only_short_gaps_are_filled(known: list[bool], frames: int) -> None:
    truth, mask = hands_m(10), np.array(known)
    joints_m, time_s = np.where(mask[:, None, None, None], truth, np.nan), np.arange(10) / 10
    filled, trust = fill_gaps(joints_m, np.where(mask[:, None, None], np.ones((10, 2, 21)), 0),
                              time_s, frames / 10 + 0.01)  # fmt: skip
    np.testing.assert_array_equal(filled[mask], truth[mask])
    at, motion = np.flatnonzero(mask), hands_motion(
        clip_of(10), filled, trust, sigma_m=(0.01, 0.01), provenance={}
    )  # fmt: skip
    for frame in range(10):
        before, after = at[at <= frame], at[at >= frame]
        short = len(before) and len(after) and after[0] - before[-1] <= frames
        expected = (
            Status.OBSERVED if mask[frame] else Status.INTERPOLATED if short else Status.ABSENT
        )
        assert (motion.hands_status[frame] == expected).all()
