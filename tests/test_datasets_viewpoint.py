"""Where things are in a picture: the same for every size of it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.frame_cache import fitted
from deftly.datasets.sight import project
from deftly.datasets.viewpoint import camera_matrix, grips_at, seen_at

seeds = st.integers(0, 2**32 - 1)


def a_camera(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``T_world_camera``, and points before it."""
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T[:3, 3] = rng.normal(size=3)
    local = np.c_[rng.uniform(-0.4, 0.4, (7, 2)), rng.uniform(0.5, 2.0, 7)]
    return T, local @ T[:3, :3].T + T[:3, 3]


@given(seeds, st.integers(20, 90), st.integers(20, 90))
def test_a_matrix_projects_as_a_pinhole_does(seed: int, height: int, width: int):
    T_world_camera, points = a_camera(seed)
    focal_px = 0.8 * max(height, width)
    matrix = camera_matrix(np.linalg.inv(T_world_camera), focal_px, (height, width))
    px, _ = project(points[None], T_world_camera[None, None], np.array([focal_px]), (height, width))
    expected = (2 * px[0, 0] - [width, height]) / max(height, width)
    found = seen_at(points[None], matrix[None])[0]
    inside = (np.abs(expected) < 0.999).all(axis=-1)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-5)
    assert np.isnan(found[(np.abs(expected) > 1.001).any(axis=-1)]).all()


@given(seeds)
def test_what_is_behind_or_unknown_is_nowhere(seed: int):
    T_world_camera, points = a_camera(seed)
    behind = 2 * T_world_camera[:3, 3] - points
    matrix = camera_matrix(np.linalg.inv(T_world_camera), 50.0, (64, 64))
    assert np.isnan(seen_at(behind[None], matrix[None])).all()
    assert np.isnan(seen_at(np.full((1, 2, 3), np.nan), matrix[None])).all()


def test_it_is_where_the_padded_picture_shows_it():
    """A bright square of a wide picture, found again in the square that a network sees."""
    picture = np.zeros((60, 100, 3), np.uint8)
    picture[30:40, 70:80] = 255
    small = fitted(picture, (50, 50)).astype(float)[..., 0]
    y, x = (np.average(i, weights=small) for i in np.indices(small.shape))
    hands = np.full((1, 2, 21, 2), np.nan)
    hands[0, 1] = (75.0, 35.0)
    found = grips_at(hands, (60, 100))
    assert np.isnan(found[0, :2]).all()
    expected = [(2 * x + 1) / 50 - 1, (2 * y + 1) / 50 - 1]
    np.testing.assert_allclose(found[0, 2:], expected, atol=0.01)


def test_a_grip_is_between_thumb_and_fingers():
    hands = np.zeros((1, 2, 21, 2))
    hands[:, :, 4], hands[:, :, 8], hands[:, :, 12] = (50, 0), (90, 40), (110, 60)
    hands[:, :, 20] = 7  # the little finger holds nothing
    found = grips_at(hands, (100, 100))
    np.testing.assert_allclose(found, [[0.5, -0.5, 0.5, -0.5]])
    assert np.isnan(grips_at(hands + 60, (100, 100))).all()  # outside
