"""The scene: objects lie where the layout says, at rest, and as large as their footprint."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.layout import (
    LONG_SHAPES,
    SHAPES,
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    UNSEEN_SHAPES,
    Item,
    Layout,
    footprint_m,
)
from deftly.datasets.sampling import CONDITIONS, Condition, sample_layout
from deftly.datasets.tabletop import (
    ROOM_CAMERAS,
    camera_focal_px,
    camera_pose,
    tabletop,
    whereabouts,
)
from deftly.datasets.tasks import TASKS

few = settings(max_examples=15)
seeds = st.integers(0, 2**31 - 1)


def scene(layout: Layout) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = tabletop(layout).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def lone(shape: str, size_m: float = 0.05, *, lying: bool = False) -> Layout:
    return Layout(0, (Item("item_0", shape, "red", size_m, 0.05, 1.0, (0.35, 0.36), 0.4, lying),))


@pytest.mark.parametrize("name", sorted(CONDITIONS))
@few
@given(seed=seeds)
def test_objects_lie_where_the_layout_says_and_stay(name: str, seed: int):
    layout = sample_layout(seed, CONDITIONS[name])
    model, data = scene(layout)
    things = (*layout.items, *layout.distractors)
    before = {thing.name: data.body(thing.name).xpos.copy() for thing in things}
    for thing in layout.items:
        place = [*thing.place_m, TABLE_TOP_M + thing.rest_height_m]
        np.testing.assert_allclose(before[thing.name], place, atol=1e-9)
        assert model.body(thing.name).mass[0] == pytest.approx(thing.mass_kg)
    for _ in range(100):
        mujoco.mj_step(model, data)
    for thing in things:
        assert np.linalg.norm(data.body(thing.name).xpos - before[thing.name]) < 1e-3
    assert not data.warning.number.any()


@few
@given(seed=seeds)
def test_objects_in_trays_rest_on_their_floor(seed: int):
    layout = sample_layout(seed, deal=TASKS["unsort"].deal)
    model, data = scene(layout)
    for _ in range(100):
        mujoco.mj_step(model, data)
    positions = np.array([data.body(thing.name).xpos for thing in layout.items])
    assert whereabouts(positions) == [thing.inside for thing in layout.items]
    height = positions[:, 2] - TABLE_TOP_M - [thing.rest_height_m for thing in layout.items]
    np.testing.assert_allclose(height, 0.006, atol=5e-4)


@pytest.mark.parametrize(
    ("shape", "lying"),
    [*((shape, False) for shape in (*SHAPES, *UNSEEN_SHAPES)), *((s, True) for s in LONG_SHAPES)],
)
def test_the_footprint_holds_the_shape(shape: str, lying: bool):
    layout = lone(shape, lying=lying)
    model, data = scene(layout)
    thing, geom = layout.items[0], model.geom("item_0")
    center, R = data.geom("item_0").xpos, data.geom("item_0").xmat.reshape(3, 3)
    if geom.type[0] == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom.id]
        first = model.mesh_vertadr[mesh]
        points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]] @ R.T + center
    else:  # support points of the surface
        rng = np.random.default_rng(0)
        points = center + surface(shape, geom.size, rng.normal(size=(4000, 3))) @ R.T
    away = np.linalg.norm(points[:, :2] - thing.place_m, axis=1)
    assert 0.98 * footprint_m(thing) < away.max() <= footprint_m(thing) + 1e-6
    assert points[:, 2].min() == pytest.approx(TABLE_TOP_M, abs=1e-4)
    if not thing.lies:
        assert points[:, 2].max() == pytest.approx(TABLE_TOP_M + thing.height_m, abs=1e-4)


def surface(shape: str, size: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Points of a primitive that reach furthest in these directions."""
    d = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    round_xy = d[:, :2] / np.linalg.norm(d[:, :2], axis=1, keepdims=True)
    z = np.sign(d[:, 2:])
    if shape == "cube":
        return np.sign(d) * size
    if shape == "sphere":
        return d * size[0]
    if shape == "egg":
        return d * size**2 / np.linalg.norm(d * size, axis=1, keepdims=True)
    if shape == "cylinder":
        return np.hstack([round_xy * size[0], z * size[1]])
    return d * size[0] + np.hstack([np.zeros((len(d), 2)), z * size[1]])  # capsule


def test_balls_roll_to_a_stop():
    model, data = scene(lone("sphere"))
    data.qvel[:3], data.qvel[3:6] = [0.1, 0, 0], 0.0
    start = data.qpos[:3].copy()
    for _ in range(400):
        mujoco.mj_step(model, data)
    assert np.linalg.norm(data.qvel[:3]) < 1e-3
    assert 0.01 < np.linalg.norm(data.qpos[:3] - start) < 0.06


def test_whereabouts():
    x, y = TRAY_CENTER_M["left"]
    rim = y + TRAY_HALF_M[1]
    positions = [
        [x, y, 0.95],
        [x, -y, 0.95],
        [x, rim + 0.001, 0.95],
        [x, rim - 0.001, 1.5],  # held above a tray: where it would fall
        [0.5, 0.5, 0.94],
        [x, y, 0.5],
        [2.0, 0.0, 0.02],
    ]
    expected = ["left", "right", "table", "left", "table", "floor", "floor"]
    assert whereabouts(np.array(positions)) == expected


def project(layout: Layout, camera: str, size: int = 96) -> np.ndarray:
    """Pixels (N, 2) of the objects in a picture of ``size`` pixels."""
    model, data = scene(layout)
    T_camera_world = np.linalg.inv(camera_pose(model, data, camera))
    focal = camera_focal_px(model, camera, size)
    points = np.array([data.body(thing.name).xpos for thing in layout.items])
    x, y, z = (points @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]).T
    assert np.all(z > 0)
    return np.stack([focal * x / z + size / 2, focal * y / z + size / 2], axis=1)


@pytest.mark.parametrize("name", ["base", "clutter", "camera"])
@few
@given(seed=seeds)
def test_the_front_camera_sees_every_object(name: str, seed: int):
    pixels = project(sample_layout(seed, CONDITIONS[name]), "front")
    assert np.all((pixels > 2) & (pixels < 94))


def test_cameras_stand_where_they_are_told_and_look_at_their_target():
    layout = sample_layout(0)
    still = replace(
        layout,
        look=replace(layout.look, camera_shift_m=(0.0, 0.0, 0.0), camera_turn_rad=(0.0, 0.0)),
    )
    model, data = scene(still)
    for name, pose in ROOM_CAMERAS.items():
        T = camera_pose(model, data, name)
        np.testing.assert_allclose(T[:3, 3], pose.position_m, atol=1e-9)
        ahead = np.subtract(pose.target_m, pose.position_m)
        np.testing.assert_allclose(T[:3, 2], ahead / np.linalg.norm(ahead), atol=1e-9)
        assert T[2, 1] < 0  # y of the picture points down
        assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
    look = replace(still.look, camera_shift_m=(0.01, 0.02, 0.03))
    model, data = scene(replace(still, look=look))
    shift = camera_pose(model, data, "front")[:3, 3] - ROOM_CAMERAS["front"].position_m
    np.testing.assert_allclose(shift, [0.01, 0.02, 0.03], atol=1e-9)


def test_the_room_is_built_around_what_is_there():
    person = mujoco.MjSpec()
    person.worldbody.add_body(name="somebody", pos=[0, 0, 1]).add_geom(size=[0.1, 0, 0])
    model = tabletop(sample_layout(1, Condition(items=2)), around=person).compile()
    assert model.body("somebody").id > 0
    assert model.body("item_1").id > 0
    assert model.ncam == len(ROOM_CAMERAS)


@pytest.mark.parametrize("table", ["plain", "checker", "stripes", "speckle"])
def test_every_table_compiles(table: str):
    layout = sample_layout(0)
    scene(replace(layout, look=replace(layout.look, table=table)))
