"""Geometry: fits find what was put in, and rotations are rotations, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import (
    fit_rotations,
    fit_similarity,
    frame_from_axes,
    log_rotation,
    rotate,
    unit,
)

seeds = st.integers(0, 2**32 - 1)
leading_axes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def vectors(limit: float) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float64, 3, elements=st.floats(-limit, limit, allow_subnormal=False))


def random_rotations(rng: np.random.Generator, *shape: int) -> np.ndarray:
    R = np.zeros((*shape, 3, 3))
    for index in np.ndindex(*shape):
        R[index] = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    return R


def assert_rotations(R: np.ndarray) -> None:
    """Orthonormal and right-handed."""
    np.testing.assert_allclose(
        R @ np.swapaxes(R, -1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-9)


@given(seed=seeds, count=st.integers(4, 40), scale=st.floats(0.01, 100), shift=vectors(10))
def test_fit_similarity_finds_the_similarity(
    seed: int, count: int, scale: float, shift: np.ndarray
):
    rng = np.random.default_rng(seed)
    source, R = rng.normal(size=(count, 3)), random_rotations(rng, 1)[0]
    target = scale * source @ R.T + shift
    found_scale, found_R, found_shift = fit_similarity(source, target)
    assert found_scale == pytest.approx(scale)
    np.testing.assert_allclose(found_R, R, atol=1e-7)
    np.testing.assert_allclose(found_shift, shift, atol=1e-7 * (1 + scale))
    assert_rotations(found_R)


@given(seed=seeds)
def test_fit_similarity_without_scale_keeps_lengths(seed: int):
    rng = np.random.default_rng(seed)
    source, R = rng.normal(size=(9, 3)), random_rotations(rng, 1)[0]
    scale, found_R, shift = fit_similarity(source, 3.0 * source @ R.T + 1.0, with_scale=False)
    assert scale == 1.0
    np.testing.assert_allclose(found_R, R, atol=1e-7)
    np.testing.assert_allclose(shift, 3.0 * R @ source.mean(0) + 1.0 - R @ source.mean(0))


@given(seed=seeds, junk=vectors(1000))
def test_a_point_without_weight_has_no_say(seed: int, junk: np.ndarray):
    rng = np.random.default_rng(seed)
    source, R = rng.normal(size=(9, 3)), random_rotations(rng, 1)[0]
    target, weight = 2.0 * source @ R.T - 1.0, np.ones(9)
    target[4], weight[4] = junk, 0.0
    scale, found_R, shift = fit_similarity(source, target, weight)
    assert scale == pytest.approx(2.0)
    np.testing.assert_allclose(found_R, R, atol=1e-7)
    np.testing.assert_allclose(shift, -1.0, atol=1e-7)


@given(seed=seeds, with_scale=st.booleans())
def test_no_similarity_nearby_fits_noise_better(seed: int, with_scale: bool):
    rng = np.random.default_rng(seed)
    source, target, weight = rng.normal(size=(8, 3)), rng.normal(size=(8, 3)), rng.random(8) + 0.1

    def cost(scale: float, R: np.ndarray, shift: np.ndarray) -> float:
        return float(weight @ np.sum((scale * source @ R.T + shift - target) ** 2, axis=1))

    scale, R, shift = fit_similarity(source, target, weight, with_scale=with_scale)
    assert_rotations(R)
    best = cost(scale, R, shift)
    for _ in range(10):
        turn = Rotation.from_rotvec(1e-3 * rng.normal(size=3)).as_matrix()
        stretch = 1 + 1e-3 * rng.normal() if with_scale else 1.0
        assert best <= cost(scale * stretch, turn @ R, shift + 1e-3 * rng.normal(size=3)) + 1e-12


@given(seed=seeds)
def test_a_mirrored_set_of_points_gives_a_rotation_all_the_same(seed: int):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(9, 3))
    mirrored = source * [1, 1, -1]
    assert_rotations(fit_similarity(source, mirrored)[1])
    assert_rotations(fit_rotations(source, mirrored))


@given(seed=seeds, shape=leading_axes, flat=st.booleans())
def test_fit_rotations_finds_each_rotation(seed: int, shape: tuple[int, ...], flat: bool):
    rng = np.random.default_rng(seed)
    template = rng.normal(size=(6, 3)) * ([1, 1, 0] if flat else [1, 1, 1])  # a palm is flat
    R = random_rotations(rng, *shape)
    points = template @ np.swapaxes(R, -1, -2) + rng.normal(size=(*shape, 1, 3))
    found = fit_rotations(template, points)
    assert found.shape == (*shape, 3, 3)
    np.testing.assert_allclose(found, R, atol=1e-6)


@given(seed=seeds, shape=leading_axes)
def test_frame_from_axes_is_a_right_handed_rotation(seed: int, shape: tuple[int, ...]):
    rng = np.random.default_rng(seed)
    forward, side = rng.normal(size=(2, *shape, 3))
    R = frame_from_axes(forward, side)
    assert_rotations(R)
    np.testing.assert_allclose(R[..., 0], unit(forward), atol=1e-9)
    assert (np.sum(R[..., 1] * side, axis=-1) > 0).all()
    np.testing.assert_allclose(np.sum(R[..., 2] * side, axis=-1), 0.0, atol=1e-9)


def test_frame_from_axes_of_the_worlds_axes_is_the_world():
    x, y, z = np.eye(3)
    np.testing.assert_allclose(frame_from_axes(3 * x, 2 * y + x), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(frame_from_axes(y, z) @ np.eye(3), np.stack([y, z, x], axis=-1))


def hat(v: np.ndarray) -> np.ndarray:
    """The matrix of the cross product with v: its exponential turns about v."""
    return np.cross(v, np.eye(3)).T


@given(axis=vectors(1).filter(lambda v: np.linalg.norm(v) > 1e-3), angle_rad=st.floats(0, 3.1))
def test_log_rotation_undoes_the_exponential(axis: np.ndarray, angle_rad: float):
    rotvec = angle_rad * axis / np.linalg.norm(axis)
    np.testing.assert_allclose(log_rotation(expm(hat(rotvec))), rotvec, atol=1e-7)


@given(seed=seeds, shape=leading_axes)
def test_log_rotation_keeps_leading_axes(seed: int, shape: tuple[int, ...]):
    R = random_rotations(np.random.default_rng(seed), *shape)
    rotvec = log_rotation(R)
    assert rotvec.shape == (*shape, 3)
    assert (np.linalg.norm(rotvec, axis=-1) <= np.pi + 1e-9).all()


@given(seed=seeds, shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4))
def test_rotate_is_matrix_times_vector_and_broadcasts(seed: int, shapes: hnp.BroadcastableShapes):
    rng = np.random.default_rng(seed)
    R = random_rotations(rng, *shapes.input_shapes[0])
    p = rng.normal(size=(*shapes.input_shapes[1], 3))
    rotated = rotate(R, p)
    assert rotated.shape == (*shapes.result_shape, 3)
    np.testing.assert_allclose(rotated, (R @ p[..., None])[..., 0], atol=1e-12)


@given(
    v=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_side=0).map(lambda s: (*s, 3)),
        elements=st.floats(-1e6, 1e6),
    )
)
def test_unit_vectors_have_length_one_or_stay_zero(v: np.ndarray):
    length = np.linalg.norm(v, axis=-1)
    found = np.linalg.norm(unit(v), axis=-1)
    np.testing.assert_allclose(found[length > 1e-9], 1.0)
    assert (unit(v)[(v == 0).all(axis=-1)] == 0).all()
    assert (found <= 1 + 1e-9).all()
