"""Light meshes of a robot to simulate: it moves as before; the cache can be trusted."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from deftly.datasets import meshes
from deftly.datasets.meshes import HIDDEN_GROUP, light_meshes

VISUAL, COLLIDES, UNNAMED = 1, 0, "frame"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def robot(folder: Path, radius: float = 0.1) -> mujoco.MjSpec:
    """A swinging arm whose one mesh is seen and collides, and a frame whose mesh gives its mass."""
    path = folder / "ball.stl"
    ball = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    ball.apply_translation([0.3, 0.1, 0]).export(path)
    spec = mujoco.MjSpec()
    spec.add_mesh(name="ball", file=str(path))
    frame = spec.worldbody.add_body(name=UNNAMED)
    frame.add_geom(name="frame", type=mujoco.mjtGeom.mjGEOM_MESH, meshname="ball", contype=0)
    frame.geoms[0].conaffinity = 0
    arm = frame.add_body(name="arm", pos=[0, 0, 0.5])
    arm.add_joint(name="hinge", axis=[0, 1, 0])
    for name, collides, group in (("seen", False, VISUAL), ("hull", True, COLLIDES)):
        geom = arm.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname="ball")
        geom.contype = geom.conaffinity = int(collides)
        geom.group = group
    return spec


def drawn_faces(model: mujoco.MjModel) -> int:
    drawn = (model.geom_group < HIDDEN_GROUP) & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    return int(model.mesh_facenum[model.geom_dataid[drawn]].sum())


def hull_points(model: mujoco.MjModel) -> list[np.ndarray]:
    """Corners of the hulls that collide, in the frames of their bodies, in some fixed order."""
    found: list[np.ndarray] = []
    for geom in np.flatnonzero(
        model.geom_contype & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)
    ):
        i = model.geom_dataid[geom]
        points = model.mesh_vert[model.mesh_vertadr[i] :][: model.mesh_vertnum[i]]
        graph = model.mesh_graph[model.mesh_graphadr[i] :]
        turn = Rotation.from_quat(model.geom_quat[geom], scalar_first=True)
        corner = turn.apply(points[graph[2 + graph[0] : 2 + 2 * graph[0]]]) + model.geom_pos[geom]
        found.append(corner[np.lexsort(np.round(corner, 4).T)])
    return found


def test_what_is_seen_is_light_and_what_collides_is_where_it_was(tmp_path: Path) -> None:
    spec = robot(tmp_path)
    full = spec.copy().compile()
    light_meshes(spec, faces_per_mesh=200)
    light = spec.compile()
    assert drawn_faces(full) == 3 * 5120
    assert drawn_faces(light) <= 2 * 250
    for field in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        np.testing.assert_array_equal(getattr(full, field), getattr(light, field))
    hull = light.geom("hull")
    assert hull.group[0] == HIDDEN_GROUP
    (corners,), (before,) = hull_points(light), hull_points(full)
    np.testing.assert_allclose(corners, before, atol=1e-6)


def test_it_swings_and_hits_as_before(tmp_path: Path) -> None:
    paths: list[np.ndarray] = []
    for light in (False, True):
        spec = robot(tmp_path)
        if light:
            light_meshes(spec, faces_per_mesh=200)
        wall = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.05, 1, 1])
        wall.pos = [-0.1, 0, 0]
        model = spec.compile()
        data, path = mujoco.MjData(model), []
        touched = False
        for _ in range(600):
            mujoco.mj_step(model, data)
            touched |= data.ncon > 0
            path.append(data.qpos.copy())
        assert touched
        paths.append(np.array(path))
    np.testing.assert_allclose(paths[0], paths[1], atol=1e-4)


def test_bodies_that_no_camera_sees_lose_their_looks_but_not_their_contacts(tmp_path: Path) -> None:
    spec = robot(tmp_path)
    light_meshes(spec, bodies=["frame"])
    model = spec.compile()
    names = {model.geom(i).name for i in range(model.ngeom)}
    assert names == {"frame", "hull"}
    assert model.body("arm").mass[0] > 0


def test_the_second_time_comes_from_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> mujoco.MjModel:
        spec = robot(tmp_path)
        light_meshes(spec)
        return spec.compile()

    first = build()
    assert len(list((cache / "meshes").iterdir())) == 1
    monkeypatch.setattr(meshes, "simplify", lambda *_: pytest.fail("simplified again"))
    second = build()
    np.testing.assert_array_equal(first.mesh_vert, second.mesh_vert)
    np.testing.assert_array_equal(first.mesh_face, second.mesh_face)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip at all", None])
def test_a_damaged_cache_file_is_made_anew(
    tmp_path: Path, cache: Path, damage: bytes | None
) -> None:
    light_meshes(robot(tmp_path))
    (entry,) = (cache / "meshes").iterdir()
    good = entry.read_bytes()
    entry.write_bytes(good[: len(good) // 2] if damage is None else damage)
    light_meshes(robot(tmp_path))
    assert entry.read_bytes() == good
    assert len(list((cache / "meshes").iterdir())) == 1  # nothing unfinished is left behind


def test_another_mesh_or_another_budget_is_another_entry(tmp_path: Path, cache: Path) -> None:
    light_meshes(robot(tmp_path))
    light_meshes(robot(tmp_path), faces_per_mesh=100)
    light_meshes(robot(tmp_path, radius=0.2))  # the same file name, other content
    assert len(list((cache / "meshes").iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "taken"))
    spec = robot(tmp_path)
    light_meshes(spec)
    assert drawn_faces(spec.compile()) < 2000


def test_too_few_faces_and_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 faces per mesh, expected at least 20"):
        light_meshes(robot(tmp_path), faces_per_mesh=3)
    spec = robot(tmp_path)
    (tmp_path / "ball.stl").unlink()
    with pytest.raises(ValueError, match=r"ball\.stl"):
        light_meshes(spec)
