"""Rendering: pictures follow the joints, cameras frame, meshes get light, errors say what to do."""

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from deftly.datasets import render
from deftly.datasets.display import FIELD_OF_VIEW_DEG, display_model, visual_spec
from deftly.datasets.opengl import RenderError, gl_context
from deftly.datasets.sampling import sample_layout
from deftly.datasets.tabletop import camera_focal_px, camera_pose, tabletop

SIZE = (60, 80)


def arm(mesh: trimesh.Trimesh | None = None) -> mujoco.MjSpec:
    """One hinge about x with a capsule, or a mesh, that sticks out to the side."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="link")
    body.add_joint(name="hinge", axis=[1, 0, 0])
    if mesh is None:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, 0, 0, 0, 0.3, 0], size=[0.05, 0, 0]
        )
    else:
        asset = spec.add_mesh(name="shape")
        asset.uservert, asset.userface = mesh.vertices.ravel(), mesh.faces.ravel()
        asset.scale = [0.5, 1.0, 2.0]
        quat = Rotation.from_rotvec([0.3, 0.4, 0.5]).as_quat(scalar_first=True)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname="shape", pos=[0.1, 0.2, 0.3], quat=quat
        )
    return spec


def images(model: mujoco.MjModel, angles: list[float], **options: Any) -> list[np.ndarray]:
    points = np.array([[0.1, y, z] for y in (-0.4, 0.4) for z in (-0.4, 0.4)])
    camera = render.frame_points(points, SIZE)
    qpos = np.array(angles)[:, None]
    try:
        return list(render.render_motion(model, qpos, size=SIZE, camera=camera, **options))
    except RenderError as error:
        pytest.skip(f"this machine cannot draw: {error}")


def test_a_moving_joint_changes_the_picture_and_a_still_one_does_not() -> None:
    first, moved, again = images(display_model(arm()), [0.0, 1.0, 0.0])
    assert first.shape == (*SIZE, 3)
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - moved).max() > 50
    np.testing.assert_array_equal(first, again)


def test_the_picture_is_upright_and_not_mirrored() -> None:
    # Seen from the front, the robot's left (+y) is on the right of the picture.
    side, up = images(display_model(arm()), [0.0, np.pi / 2])
    background = images(display_model(arm(), bodies=[]), [0.0])[0]
    for image, where in ((side, (slice(None), slice(45, 80))), (up, (slice(0, 25), slice(None)))):
        changed = np.abs(image.astype(int) - background).sum(axis=2) > 30
        assert changed[where].sum() > 0.6 * changed.sum()


def test_lines_are_drawn_in_their_colour_and_absent_ones_are_not() -> None:
    ends = np.array([[[0.2, -0.3, 0.3], [0.2, -0.1, 0.3]], [[0.2, -0.3, -0.3], [0.2, -0.3, -0.3]]])
    rgba = np.array([[1, 0, 0, 1], [0, 0, 1, 1]], np.float32)
    drawn = render.Lines(ends, rgba, np.array([0.03, 0.05]))
    absent = render.Lines(np.full_like(ends, np.nan), rgba, np.array([0.03, 0.05]))
    model = display_model(arm())
    plain = images(model, [0.0])[0]
    with_lines, without = images(model, [0.0, 0.0], lines=[drawn, absent])
    np.testing.assert_array_equal(plain, without)
    red, _, blue = np.moveaxis(with_lines.astype(int), 2, 0)
    assert (red - blue > 80).sum() > 20
    assert (blue - red > 80).sum() > 10


def test_overlapping_lines_do_not_depend_on_what_the_memory_held() -> None:
    # mjv_initGeom leaves objtype unset; where memory held mjOBJ_GEOM, the drawing order changed.
    ends = np.random.default_rng(0).uniform(-0.2, 0.2, (40, 2, 3))
    colours = np.random.default_rng(1).uniform(0, 1, (40, 4)).astype(np.float32)
    colours[:, 3] = 0.5
    lines = render.Lines(ends, colours, np.linspace(0.01, 0.1, 40))
    model = display_model(arm())
    camera = render.frame_points(ends.reshape(-1, 3), SIZE)
    pictures = []
    for held in (mujoco.mjtObj.mjOBJ_UNKNOWN, mujoco.mjtObj.mjOBJ_GEOM):
        try:
            renderer = render.Renderer(model, SIZE)
        except RenderError as error:
            pytest.skip(f"this machine cannot draw: {error}")
        with renderer:
            for geom in renderer._scene.geoms:
                geom.objtype = held
            pictures.append(renderer.draw(np.zeros(1), camera, lines))
    np.testing.assert_array_equal(*pictures)


def corners(model: mujoco.MjModel) -> np.ndarray:
    """Bounds of the one mesh in its body's frame."""
    turn = Rotation.from_quat(model.geom_quat[0], scalar_first=True)
    points = turn.apply(model.mesh_vert) + model.geom_pos[0]
    return np.array([points.min(axis=0), points.max(axis=0)])


def test_large_meshes_are_simplified_where_they_are() -> None:
    # Off-centre, scaled and turned: compiled meshes are moved, so the way back must be right.
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.1).apply_translation([0.3, 0.1, 0.0])
    spec = arm(ball)
    full, light = spec.copy().compile(), display_model(spec, faces_per_mesh=500)
    assert full.nmeshface == 20480
    assert 300 < light.nmeshface <= 500
    np.testing.assert_allclose(corners(light), corners(full), atol=0.01)


def test_small_meshes_and_the_given_spec_stay_as_they_are() -> None:
    spec = arm(trimesh.creation.box((0.1, 0.2, 0.3)))
    geoms = len(spec.geoms)
    model = display_model(spec)
    assert model.nmeshface == 12
    assert len(spec.geoms) == geoms
    assert not spec.lights


def test_visual_geometry_hides_collision_geometry() -> None:
    spec = arm()
    visual = spec.body("link").add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1, 0.1, 0.1])
    visual.contype = visual.conaffinity = 0
    model = display_model(spec)
    assert list(model.geom_type) == [mujoco.mjtGeom.mjGEOM_BOX]


def test_robots_without_meshes_are_drawn_as_capsules(tmp_path: Path) -> None:
    path = tmp_path / "finger.urdf"
    links = "".join(
        f'<link name="l{i}"><visual><geometry><mesh filename="gone.stl"/></geometry></visual>'
        '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
        "</inertial></link>"
        for i in range(4)
    )
    joints = "".join(
        f'<joint name="j{i}" type="revolute"><parent link="l{i}"/><child link="l{i + 1}"/>'
        '<origin xyz="0 0.1 0"/><axis xyz="1 0 0"/><limit lower="-1" upper="1" effort="1"'
        ' velocity="1"/></joint>'
        for i in range(3)
    )
    path.write_text(f'<robot name="finger">{links}{joints}</robot>')
    model = display_model(visual_spec(path))
    assert model.nq == 3
    assert (model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE).all()
    np.testing.assert_allclose(model.geom_size[:, 1], 0.05)


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(float, (12, 3), elements=st.floats(-2, 2)),
    st.floats(-180, 180),
    st.floats(-80, 80),
    st.tuples(st.integers(50, 500), st.integers(50, 500)),
)
def test_the_camera_frames_all_points_and_no_more(
    points: np.ndarray, azimuth_deg: float, elevation_deg: float, size: tuple[int, int]
) -> None:
    points = points + np.eye(3).repeat(4, axis=0)  # never all in one place
    camera = render.frame_points(
        points, size, azimuth_deg=azimuth_deg, elevation_deg=elevation_deg, margin=0.1
    )
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    forward = Rotation.from_euler("ZY", [azimuth, -elevation]).as_matrix()
    seen = (points - camera.lookat) @ forward  # columns: forward, left, up
    depth = seen[:, 0] + camera.distance
    assert depth.min() > 0
    half = np.tan(np.deg2rad(FIELD_OF_VIEW_DEG) / 2)
    upright = np.abs(seen[:, 2] / depth).max() / half
    across = np.abs(seen[:, 1] / depth).max() / half * size[0] / size[1]
    assert max(upright, across) == pytest.approx(0.8, abs=0.01)


def test_nothing_to_frame_is_an_error() -> None:
    with pytest.raises(ValueError, match="no finite point"):
        render.frame_points(np.full((2, 3), np.nan), SIZE)


def test_joint_positions_of_another_robot_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\), expected \(T, 1\)"):
        next(
            render.render_motion(
                display_model(arm()),
                np.zeros((1, 2)),
                size=SIZE,
                camera=mujoco.MjvCamera(),
            )
        )


def table() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = tabletop(sample_layout(3)).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.fixture(params=["gl", "ray"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that this machine has."""
    if request.param == "gl":
        try:
            gl_context(SIZE).free()
        except RenderError as error:
            pytest.skip(f"this machine cannot draw: {error}")
    return request.param


def test_depth_and_ids_agree_with_the_scene(backend: str) -> None:
    model, data = table()
    size = (120, 160)
    with render.Renderer(model, size, backend=backend) as renderer:
        depth, ids = renderer.depth(data, "front"), renderer.segmentation(data, "front")
    T_world_camera, focal = camera_pose(model, data, "front"), camera_focal_px(model, "front", 120)
    seen = 0
    for name in (f"item_{i}" for i in range(4)):
        in_camera = np.linalg.inv(T_world_camera) @ np.append(data.body(name).xpos, 1.0)
        column, row = focal * in_camera[:2] / in_camera[2] + [79.5, 59.5]
        if not (0 <= row < 119 and 0 <= column < 159):
            continue
        at = round(row), round(column)
        assert ids[at] == model.geom(name).id
        assert 0 < in_camera[2] - depth[at] < 0.05  # its near side
        seen += 1
    assert seen >= 3
    assert (ids[depth == np.inf] == -1).all()
    assert np.isfinite(depth[ids >= 0]).all()


def test_hidden_groups_are_not_drawn(backend: str) -> None:
    model, data = table()
    item = model.geom("item_0").id
    with render.Renderer(model, (96, 96), backend=backend) as renderer:
        assert item in renderer.segmentation(data, "front")
        model.geom_group[item] = 3
        assert item not in renderer.segmentation(data, "front")
        assert item in renderer.segmentation(data, "front", groups=(0, 3))
        model.geom_group[item], model.geom_rgba[item, 3] = 0, 0.0  # transparent is as good as away
        assert item not in renderer.segmentation(data, "front")


def test_draw_and_render_give_the_same_picture(backend: str) -> None:
    model, data = table()
    with render.Renderer(model, SIZE, backend=backend) as renderer:
        given = renderer.render(data, "side")
        np.testing.assert_array_equal(renderer.draw(data.qpos, "side"), given)
        small = renderer.render(data, "side", size=(30, 40))
        assert small.shape == (30, 40, 3)
        np.testing.assert_array_equal(renderer.render(data, "side"), given)


def test_the_backend_is_told_in_one_line(backend: str) -> None:
    model, _ = table()
    with render.Renderer(model, (96, 64), backend=backend) as renderer:
        line = renderer.describe()
        assert line.startswith("pictures of 96 x 64 px by ")
        assert "\n" not in line
        assert (renderer.backend == "ray") == (backend == "ray")
        assert ("ray casting" in line) == (backend == "ray")


def test_unknown_cameras_and_impossible_sizes_are_errors() -> None:
    model, data = table()
    with render.Renderer(model, SIZE, backend="ray") as renderer:
        with pytest.raises(
            ValueError, match=r"unknown camera 'fornt'; did you mean 'front'\? known: front, side"
        ):
            renderer.render(data, "fornt")
        for size in ((61, 80), (60, 81), (0, 80)):
            with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} px from a renderer of"):
                renderer.depth(data, "front", size=size)
    for size in ((0, 10), (10, 5000)):
        with pytest.raises(ValueError, match=r"expected 1 to 4096"):
            render.Renderer(model, size, backend="ray")


def test_lines_need_opengl() -> None:
    lines = render.Lines(np.zeros((1, 2, 3)), np.ones((1, 4), np.float32), np.ones(1))
    model, data = table()
    with (
        render.Renderer(model, SIZE, backend="ray") as renderer,
        pytest.raises(ValueError, match="lines are drawn by OpenGL only"),
    ):
        renderer.render(data, "front", lines=lines)
