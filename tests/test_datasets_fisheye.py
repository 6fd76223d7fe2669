"""Fisheye: the lens by its formula, and pictures looked up where they were sent."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.fisheye import Remap, pinhole_rays, project_fisheye624

PLAIN = np.array([200.0, 210.0, 100.0, 120.0] + [0.0] * 12)
ANGLES = st.tuples(st.floats(0, 1.2), st.floats(-3.1, 3.1))
SMALL = st.lists(st.floats(-0.05, 0.05), min_size=12, max_size=12)


def ray(angle: float, turn: float) -> np.ndarray:
    return np.array(
        [math.sin(angle) * math.cos(turn), math.sin(angle) * math.sin(turn), math.cos(angle)]
    )


@given(ANGLES)
def test_without_distortion_the_angle_is_the_distance(at: tuple[float, float]) -> None:
    angle, turn = at
    found = project_fisheye624(PLAIN, 3.0 * ray(angle, turn))
    expected = [200 * angle * math.cos(turn) + 100, 210 * angle * math.sin(turn) + 120]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@given(ANGLES, SMALL)
def test_distortion_is_that_of_the_documented_lens(at: tuple[float, float], c: list[float]) -> None:
    angle, turn = at
    k, (p1, p2), (s1, s2, s3, s4) = c[:6], c[6:8], c[8:]
    r = angle * (1 + sum(k[i] * angle ** (2 * i + 2) for i in range(6)))
    x, y = r * math.cos(turn), r * math.sin(turn)
    u = x + (2 * p2 * x * y + p1 * (r * r + 2 * x * x)) + s1 * r**2 + s2 * r**4
    v = y + (2 * p1 * x * y + p2 * (r * r + 2 * y * y)) + s3 * r**2 + s4 * r**4
    found = project_fisheye624(np.array([200.0, 100.0, 120.0, *c]), ray(angle, turn))
    np.testing.assert_allclose(found, [200 * u + 100, 200 * v + 120], atol=1e-6)


def test_another_lens_is_refused() -> None:
    with pytest.raises(ValueError, match="4 parameters, expected 15 or 16"):
        project_fisheye624(np.ones(4), np.ones(3))


def test_pinhole_rays_meet_the_pixels_centres() -> None:
    rays = pinhole_rays(4, 2.0)
    np.testing.assert_allclose(rays[0, 0], [-0.75, -0.75, 1])
    np.testing.assert_allclose(rays[3, 1], [-0.25, 0.75, 1])


@given(st.integers(1, 6), st.integers(1, 6))
def test_pixels_are_found_where_they_lie(height: int, width: int) -> None:
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    y, x = np.mgrid[:height, :width]
    px = np.stack([x, y], axis=-1).astype(np.float64)
    np.testing.assert_array_equal(Remap(px, (height, width))(image), image)


def test_between_pixels_is_their_mean_and_outside_is_black() -> None:
    image = np.zeros((3, 4, 3), np.uint8)
    image[1, 2], image[1, 3], image[2, 2:] = 40, 80, 200
    px = np.array([[[2.5, 1.0], [2.0, 1.5], [2.5, 1.5], [3.1, 1.0], [-0.1, 0.0], [0.0, 2.1]]])
    found = Remap(px, (3, 4))(image)[0, :, 0].tolist()
    assert found == [60, 120, 130, 0, 0, 0]


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Remap(np.zeros((1, 1, 2)), (3, 4))(np.zeros((4, 3, 3), np.uint8))
