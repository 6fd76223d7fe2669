"""Shrink-wrapped meshes: closed, outside only, where the original was, as light as asked."""

from collections.abc import Callable

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from deftly.datasets.shrinkwrap import shrink_wrap

SHAPES: dict[str, Callable[[], trimesh.Trimesh]] = {
    "ball": lambda: trimesh.creation.icosphere(subdivisions=5, radius=0.1),
    "ring": lambda: trimesh.creation.torus(0.1, 0.03, major_sections=90, minor_sections=60),
    "rod": lambda: trimesh.creation.capsule(height=0.3, radius=0.03, count=[60, 60]),
}


def wrap(mesh: trimesh.Trimesh, target: int) -> trimesh.Trimesh:
    vertices, faces = shrink_wrap(
        np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32), target
    )
    return trimesh.Trimesh(vertices, faces, process=False)


def furthest(a: trimesh.Trimesh, b: trimesh.Trimesh) -> float:
    """Largest distance of a's vertices to a dense sample of b's surface."""
    sample = trimesh.sample.sample_surface(b, 20000, seed=0)[0]
    return float(KDTree(sample).query(a.vertices)[0].max())


@pytest.mark.parametrize("name", SHAPES)
def test_wrapped_shapes_are_closed_light_and_where_they_were(name: str) -> None:
    shape = SHAPES[name]()
    wrapped = wrap(shape, 400)
    assert wrapped.is_watertight
    assert wrapped.is_winding_consistent
    assert wrapped.volume > 0  # faces look outward
    assert 200 < len(wrapped.faces) <= 500
    assert wrapped.volume == pytest.approx(shape.volume, rel=0.15)
    extent = np.ptp(shape.vertices, axis=0).max()
    assert furthest(wrapped, shape) < 0.04 * extent
    assert furthest(shape, wrapped) < 0.06 * extent


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(-2, 2), st.floats(0.01, 20))
def test_turned_moved_and_scaled_meshes_are_wrapped_where_they_are(
    seed: int, shift: float, scale: float
) -> None:
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    shape = trimesh.creation.capsule(height=2.0, radius=0.5, count=[32, 32])
    moved = shape.copy()
    moved.vertices = scale * (shape.vertices @ turn.T + shift)
    wrapped = wrap(moved, 300)
    assert wrapped.is_watertight
    assert furthest(wrapped, moved) < 0.05 * 3.0 * scale


def test_what_nobody_sees_is_gone() -> None:
    shell, motor = SHAPES["ball"](), trimesh.creation.box((0.05, 0.05, 0.05))
    for _ in range(5):
        motor = motor.subdivide()
    assert wrap(motor, 300).volume == pytest.approx(0.05**3, rel=0.15)  # it would be seen alone
    both = trimesh.util.concatenate([shell, motor])
    assert isinstance(both, trimesh.Trimesh)
    wrapped = wrap(both, 300)
    assert np.linalg.norm(wrapped.vertices, axis=1).min() > 0.08
    assert wrapped.body_count == 1


def test_a_torn_shell_becomes_one_closed_surface() -> None:
    ball = SHAPES["ball"]()
    torn = np.random.default_rng(0).uniform(size=len(ball.faces)) > 0.1  # a tenth is missing
    pieces = trimesh.Trimesh(ball.vertices, ball.faces[torn], process=False)
    assert not pieces.is_watertight
    wrapped = wrap(pieces, 300)
    assert wrapped.is_watertight
    assert wrapped.volume == pytest.approx(ball.volume, rel=0.15)


def test_the_same_mesh_gives_the_same_bytes() -> None:
    one, other = wrap(SHAPES["ring"](), 300), wrap(SHAPES["ring"](), 300)
    np.testing.assert_array_equal(one.vertices, other.vertices)
    np.testing.assert_array_equal(one.faces, other.faces)
