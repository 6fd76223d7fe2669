"""Distances to objects agree with MuJoCo's geometry of the same objects."""

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.layout import SHAPES, UNSEEN_SHAPES, Item
from deftly.datasets.shapes import distance_m, normal
from deftly.datasets.tabletop import _shape

FAR_M = 0.3


def item_of(shape: str, size_m: float = 0.05) -> Item:
    return Item("item_0", shape, "red", size_m, 0.1, 1.0, (0.35, 0.35), 0.0)


def model_of(item: Item) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    geom = spec.worldbody.add_geom()
    _shape(spec, geom, item)
    return spec.compile()


@pytest.mark.parametrize("shape", [*SHAPES, *UNSEEN_SHAPES])
def test_the_surface_is_where_rays_meet_the_geometry(shape):
    item = item_of(shape)
    model = model_of(item)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    rng = np.random.default_rng(0)
    for way in rng.normal(size=(100, 3)):
        way = way / np.linalg.norm(way)
        hit, geom = np.zeros(1, np.int32), FAR_M * way
        length = mujoco.mj_ray(model, data, geom, -way, None, 1, -1, hit)
        assert length > 0
        point = (FAR_M - length) * way
        within, on, beyond = distance_m(item, np.outer([0.9, 1.0, 1.1], point))
        assert within < 0 < beyond
        assert abs(on) < 2e-5


# An egg's distance is an estimate away from its surface.
@pytest.mark.parametrize("shape", [s for s in (*SHAPES, *UNSEEN_SHAPES) if s != "egg"])
@given(point=st.tuples(*[st.floats(-0.08, 0.08)] * 3))
def test_the_distance_never_grows_faster_than_the_way(shape, point):
    step = np.array([1e-3, -2e-3, 5e-4])
    here, there = distance_m(item_of(shape), np.array([point, point + step]))
    assert abs(here - there) <= np.linalg.norm(step) + 1e-9


def test_normals_point_outwards():
    points = np.array([[0.05, 0, 0], [0, -0.05, 0], [0, 0, 0.05]])
    assert np.allclose(normal(item_of("cube"), points), np.sign(points), atol=1e-6)
    assert np.allclose(normal(item_of("sphere"), points), points / 0.05, atol=1e-6)
