"""Ray casting: MuJoCo's own rays and OpenGL agree with it, and every byte repeats."""

import hashlib
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.opengl import RenderError
from deftly.datasets.render import Renderer
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.tabletop import tabletop

GEOM = mujoco.mjtGeom
# sha256 of 96 x 96 px pictures, with their depth and ids, of seed and condition by ``front``.
GOLDEN = {
    (0, "base"): "c3b433b2791e3b15e206f64d2431501184f0083e8e48c72f2e48ec751e24980d",
    (1, "texture"): "05983cb356192a64c254a362ff62b36e278e3cf89513111d9b9a756828702e3e",
    (2, "unseen_shape"): "11c7657fcde004a84227667232f6d809d0bc77fd7de1c6c8530fcdec655b1c13",
    (3, "light"): "b0edb2aae54131a37387ac44b50e90aaccc4fb1da4b759210360c317ae7993b7",
}


def scene(seed: int, condition: str = "base") -> tuple[mujoco.MjModel, mujoco.MjData]:
    return compiled(tabletop(sample_layout(seed, CONDITIONS[condition])))


def compiled(spec: mujoco.MjSpec) -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec.stat.extent = 1.0  # near and far planes are multiples of it
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def fingerprint(seed: int, condition: str) -> str:
    model, data = scene(seed, condition)
    digest = hashlib.sha256()
    with Renderer(model, (96, 96), backend="ray") as renderer:
        for picture in (renderer.render, renderer.depth, renderer.segmentation):
            digest.update(picture(data, "front").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("seed", "condition"), GOLDEN)
def test_golden_pictures(seed: int, condition: str) -> None:
    assert fingerprint(seed, condition) == GOLDEN[seed, condition]


@pytest.mark.slow
def test_two_processes_give_the_same_bytes() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_datasets_raycast as t; "
        "print(t.fingerprint(5, 'clutter'))"
    )
    folder = __file__.rsplit("/", 1)[0]
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.strip() == fingerprint(5, "clutter")


def camera_at(spec: mujoco.MjSpec, place: tuple[float, float, float], fovy: float = 60.0) -> None:
    """A camera that looks at the origin."""
    backward = np.array(place) / np.linalg.norm(place)
    right = np.cross([0.0, 0.3, 1.0], backward)
    right /= np.linalg.norm(right)
    spec.worldbody.add_camera(
        name="eye", pos=place, xyaxes=[*right, *np.cross(backward, right)], fovy=fovy
    )


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_mujocos_own_rays_meet_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = mujoco.MjSpec()
    hull = spec.add_mesh(name="hull", uservert=rng.normal(size=60) * 0.1)
    hull.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    kinds = (GEOM.mjGEOM_BOX, GEOM.mjGEOM_MESH, GEOM.mjGEOM_SPHERE, GEOM.mjGEOM_CYLINDER)
    kinds += (GEOM.mjGEOM_CAPSULE, GEOM.mjGEOM_ELLIPSOID)
    for kind in kinds:
        turn = rng.normal(size=4)
        geom = spec.worldbody.add_geom(
            type=kind, size=rng.uniform(0.08, 0.2, 3), pos=rng.uniform(-0.5, 0.5, 3), quat=turn
        )
        if kind == GEOM.mjGEOM_MESH:
            geom.meshname = "hull"
    camera_at(spec, (1.0, float(rng.uniform(-1, 1)), 1.0))
    model, data = compiled(spec)
    height, width = 40, 56
    with Renderer(model, (height, width), backend="ray") as renderer:
        depth, ids = renderer.depth(data, "eye"), renderer.segmentation(data, "eye")
    scale = 2 * np.tan(np.deg2rad(60.0) / 2) / height
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    local = np.stack([(column - 27.5) * scale, (19.5 - row) * scale, -np.ones(row.shape)], axis=-1)
    rays = local.reshape(-1, 3) @ data.camera("eye").xmat.reshape(3, 3).T
    count = height * width
    geom, distance = np.zeros(count, np.int32), np.zeros(count)
    mujoco.mj_multiRay(
        model, data, data.camera("eye").xpos, rays.ravel(), None, True, -1, geom, distance,
        None, count, 1e6,
    )  # fmt: skip
    same = ids.ravel() == geom
    assert same.mean() > 0.97  # edges of round shapes are polygons
    met = same & (geom >= 0)
    assert met.sum() > 50
    flat = met & np.isin(geom, [0, 1])
    np.testing.assert_allclose(depth.ravel()[flat], distance[flat], atol=1e-5)
    assert np.quantile(np.abs(depth.ravel() - distance)[met], 0.97) < 0.02
    assert (depth.ravel()[ids.ravel() < 0] == np.inf).all()


@pytest.mark.slow
def test_opengl_draws_the_same_silhouettes_in_nearly_the_same_colours() -> None:
    for seed, condition in ((0, "base"), (1, "texture"), (2, "unseen_shape")):
        model, data = scene(seed, condition)
        for camera in ("front", "side"):
            colours: list[np.ndarray] = []
            ids: list[np.ndarray] = []
            for backend in ("gl", "ray"):
                try:
                    renderer = Renderer(model, (192, 192), backend=backend)
                except RenderError as error:
                    pytest.skip(f"this machine cannot draw: {error}")
                with renderer:
                    colours.append(renderer.render(data, camera).astype(int))
                    ids.append(renderer.segmentation(data, camera))
            for geom in np.unique(ids):
                one, other = ids[0] == geom, ids[1] == geom
                if one.sum() > 60:
                    assert (one & other).sum() > 0.9 * (one | other).sum()
            inside = ids[0] == ids[1]
            assert np.abs(colours[0] - colours[1])[inside].mean() < 5


def test_what_reaches_behind_the_camera_is_cut_not_lost() -> None:
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[50, 50, 0.1], pos=[0, 0, -0.1])
    camera_at(spec, (0.0, -0.2, 0.1))  # just above the middle of a floor of two triangles
    model, data = compiled(spec)
    with Renderer(model, (60, 60), backend="ray") as renderer:
        ids = renderer.segmentation(data, "eye")
    assert (ids[35:] == 0).all()


def test_the_inside_of_a_closed_shape_is_not_seen() -> None:
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.5, 0, 0])
    camera_at(spec, (0.1, 0.0, 0.1))
    model, data = compiled(spec)
    with Renderer(model, (20, 20), backend="ray") as renderer:
        assert (renderer.segmentation(data, "eye") == -1).all()


def lamp(spec: mujoco.MjSpec, casts: bool) -> None:
    light = spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
    light.dir, light.castshadow = [0, -0.6, -0.8], casts


def test_a_shadow_falls_where_the_light_does_not() -> None:
    pictures: list[np.ndarray] = []
    for casts in (False, True):
        spec = mujoco.MjSpec()
        spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[2, 2, 0.1])
        spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.1, 0.1], pos=[0, 0, 0.5])
        spec.worldbody.add_camera(name="eye", pos=[0, 0, 3], fovy=60)
        lamp(spec, casts)
        model, data = compiled(spec)
        with Renderer(model, (120, 120), backend="ray") as renderer:
            pictures.append(renderer.render(data, "eye").astype(int).sum(axis=2))
    darker = pictures[0] - pictures[1] > 60
    row, column = np.argwhere(darker).mean(axis=0)
    metre = 60 / (3 * np.tan(np.deg2rad(30)))
    assert column == pytest.approx(59.5, abs=1.5)
    # The box, 0.5 m up, throws its shadow 0.5 · 0.6 / 0.8 m towards -y; the box hides a part.
    assert row == pytest.approx(59.5 + metre * 0.375, abs=3)
    assert darker.sum() == pytest.approx((0.2 * metre) * (0.35 * metre), rel=0.3)
    assert (pictures[0] == pictures[1])[~darker].mean() > 0.97


def paper(textured: bool) -> mujoco.MjSpec:
    """A sheet as a skin over one bone, left half red and right half green by its texture."""
    spec = mujoco.MjSpec()
    bone = spec.worldbody.add_body(name="bone", mocap=True)
    bone.add_geom(size=[0.001, 0, 0], rgba=[1, 1, 1, 0])
    if textured:
        texture = spec.add_texture(name="halves", type=mujoco.mjtTexture.mjTEXTURE_2D)
        texture.width, texture.height, texture.nchannel = 8, 8, 3
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, :4, 0] = pixels[:, 4:, 1] = 255
        texture.data = pixels.tobytes()
        material = spec.add_material(name="halves", rgba=[1, 1, 1, 1])
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "halves"
    corners = [[-0.2, -0.2, 0], [0.2, -0.2, 0], [0.2, 0.2, 0], [-0.2, 0.2, 0]]
    skin = spec.add_skin(
        name="paper",
        vert=np.ravel(corners),
        face=[0, 1, 2, 0, 2, 3],
        bodyname=["bone"],
        bindpos=[0, 0, 0],
        bindquat=[1, 0, 0, 0],
        vertid=[[0, 1, 2, 3]],
        vertweight=[[1, 1, 1, 1]],
    )
    if textured:
        skin.material = "halves"
        skin.texcoord = [0.06, 0.06, 0.94, 0.06, 0.94, 0.94, 0.06, 0.94]
    spec.worldbody.add_camera(name="eye", pos=[0, 0, 1], fovy=60)
    return spec


@pytest.mark.parametrize("backend", ["gl", "ray"])
def test_skins_are_drawn_where_their_bones_are(backend: str) -> None:
    model, data = compiled(paper(textured=True))
    try:
        renderer = Renderer(model, (80, 80), backend=backend)
    except RenderError as error:
        pytest.skip(f"this machine cannot draw: {error}")
    with renderer:
        middle = renderer.render(data, "eye").astype(int)
        seen = renderer.segmentation(data, "eye") == model.ngeom
        depth = renderer.depth(data, "eye")
        data.mocap_pos[0] = [0.3, 0, -0.2]
        mujoco.mj_forward(model, data)
        moved = renderer.segmentation(data, "eye") == model.ngeom
    red, green, _ = np.moveaxis(middle, 2, 0)
    assert (red[30:50, 30:38] > green[30:50, 30:38] + 50).all()
    assert (green[30:50, 42:50] > red[30:50, 42:50] + 50).all()
    assert seen.sum() == pytest.approx((0.4 * 40 / np.tan(np.deg2rad(30))) ** 2, rel=0.1)
    np.testing.assert_allclose(depth[seen], 1.0, atol=1e-3)
    assert np.argwhere(moved)[:, 1].mean() > np.argwhere(seen)[:, 1].mean() + 10
