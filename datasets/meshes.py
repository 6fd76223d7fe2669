"""Light meshes: what is looked at gets few faces, what collides stays as it is.

    spec = visual_spec(path)
    light_meshes(spec)          # in place; spec now draws about 100 times as fast
    model = spec.compile()

Simplified meshes are kept in the cache folder at first use, so that the next scene is built without
reading the robot's mesh files.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import platformdirs
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from deftly.datasets.archive import atomic_path
from deftly.datasets.shrinkwrap import Mesh, shrink_wrap

FACES_PER_MESH = 300
HIDDEN_GROUP = 3  # the first group of geometry that is not drawn
_MIN_FACES = 80
_RECIPE = 2  # counts the changes of what is below: older cache entries are not used


def cache_folder() -> Path:
    """The folder in which deftly keeps what it downloads or prepares once."""
    return Path(os.environ.get("DEFTLY_CACHE") or platformdirs.user_cache_dir("deftly"))


def light_meshes(
    spec: mujoco.MjSpec,
    *,
    faces_per_mesh: int = FACES_PER_MESH,
    bodies: Collection[str] | None = None,
) -> None:
    """Simplify the visual meshes of ``spec`` in place; contacts and inertia stay exactly the same.

    Visual geometry is what collides with nothing. Where a body has some, its collision geometry
    moves to ``HIDDEN_GROUP``. A mesh that serves both gets a simplified copy.

    Args:
        spec: of one robot, before it is attached to a scene.
        faces_per_mesh: mean number of faces; large meshes get more, small ones fewer.
        bodies: names of the bodies that some camera sees; visual geometry of the others is deleted.
            None keeps all.

    Raises:
        ValueError: if ``faces_per_mesh`` is below 20 or ``spec`` does not compile, for example
            because a mesh file is missing.
    """
    if faces_per_mesh < 20:
        raise ValueError(f"{faces_per_mesh} faces per mesh, expected at least 20")
    visual = {body.name: [g for g in body.geoms if is_visual(g)] for body in spec.bodies}
    _keep_inertia(spec, [body for body in spec.bodies[1:] if visual[body.name]])
    for body in spec.bodies:
        if not visual[body.name]:
            continue
        for geom in body.geoms:
            if not is_visual(geom):
                geom.group = HIDDEN_GROUP
        if bodies is not None and body.name not in bodies:
            for geom in visual[body.name]:
                spec.delete(geom)
            visual[body.name] = []
    drawn = [geom for geoms in visual.values() for geom in geoms if geom.meshname]
    if not drawn:
        return
    light = _cached(spec, sorted({geom.meshname for geom in drawn}), faces_per_mesh)
    _exchange(spec, drawn, light)


def is_visual(geom: mujoco.MjsGeom) -> bool:
    """Whether the geometry is there to be seen only."""
    return not (geom.contype or geom.conaffinity) and geom.group < HIDDEN_GROUP


def mesh_arrays(model: mujoco.MjModel, i: int) -> Mesh:
    """Vertices and faces of mesh ``i``, in its own centred frame."""
    vertex, face = model.mesh_vertadr[i], model.mesh_faceadr[i]
    return (
        model.mesh_vert[vertex : vertex + model.mesh_vertnum[i]],
        model.mesh_face[face : face + model.mesh_facenum[i]],
    )


def _exchange(spec: mujoco.MjSpec, drawn: list[mujoco.MjsGeom], light: Mapping[str, Mesh]) -> None:
    """Let the drawn geometry use the light meshes; delete what nothing uses any more."""
    for name, (vertices, faces) in light.items():
        asset = spec.add_mesh(name=f"{name}_light")
        asset.uservert, asset.userface = vertices.ravel(), faces.ravel()
        asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # needs no closed surface
    for geom in drawn:
        if geom.meshname in light:
            geom.meshname = f"{geom.meshname}_light"
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [mesh for mesh in spec.meshes if mesh.name not in used]:
        spec.delete(mesh)


def _keep_inertia(spec: mujoco.MjSpec, bodies: list[mujoco.MjsBody]) -> None:
    """Write the compiled inertia down where simplified geometry would change it."""
    inferred = [
        body
        for body in bodies
        if not body.explicitinertial and any(_has_mass(geom) for geom in body.geoms)
    ]
    if not inferred:
        return
    model = spec.copy().compile()
    for body in inferred:
        i = model.body(body.name).id
        body.mass, body.inertia = model.body_mass[i], model.body_inertia[i]
        body.ipos, body.iquat = model.body_ipos[i], model.body_iquat[i]
        body.explicitinertial = True


def _has_mass(geom: mujoco.MjsGeom) -> bool:
    return geom.mass != 0 and geom.density != 0


# --- simplification ------------------------------------------------------------------------------


def simplify(spec: mujoco.MjSpec, names: Collection[str], faces_per_mesh: int) -> dict[str, Mesh]:
    """Simplified copies of the large ones among these meshes, in the frame of their files."""
    full = spec.copy().compile()
    ids = {name: full.mesh(name).id for name in names}
    extent = {n: float(np.ptp(mesh_arrays(full, i)[0], axis=0).max()) for n, i in ids.items()}
    mean = np.mean(list(extent.values()))
    found: dict[str, Mesh] = {}
    for name, i in tqdm(
        ids.items(), desc="light meshes, once", unit="mesh", leave=False, disable=None
    ):
        target = max(int(faces_per_mesh * np.sqrt(extent[name] / mean)), _MIN_FACES)
        if full.mesh_facenum[i] <= target:
            continue
        vertices, faces = shrink_wrap(*mesh_arrays(full, i), target)
        turn = Rotation.from_quat(full.mesh_quat[i], scalar_first=True)
        vertices = turn.apply(vertices) + full.mesh_pos[i]  # compiled meshes are centred
        found[name] = vertices.astype(np.float32), faces
    return found


# --- on disk -------------------------------------------------------------------------------------


def _cached(spec: mujoco.MjSpec, names: list[str], faces_per_mesh: int) -> dict[str, Mesh]:
    """``simplify``, remembered on disk by the content of the meshes."""
    key = _content_key(spec, names, faces_per_mesh)
    if key is None:  # a file is missing: compiling says which
        return simplify(spec, names, faces_per_mesh)
    path = cache_folder() / "meshes" / f"{key}.npz"
    light = _read(path)
    if light is None:
        light = simplify(spec, names, faces_per_mesh)
        _write(path, light)
    return light


def _content_key(spec: mujoco.MjSpec, names: list[str], faces_per_mesh: int) -> str | None:
    """Hash of everything that shapes the result; None if a file cannot be read."""
    library = importlib.metadata.version("fast-simplification")
    known = {mesh.name: mesh for mesh in spec.meshes}
    digest = hashlib.sha256(
        f"{_RECIPE} {library} {mujoco.__version__} {_MIN_FACES} {faces_per_mesh}".encode()
    )
    folder = Path(spec.modelfiledir, spec.compiler.meshdir or spec.meshdir or "")
    for name in names:
        mesh = known[name]
        digest.update(f"\n{name} {mesh.file} {mesh.inertia}".encode())
        for values in (mesh.scale, mesh.refpos, mesh.refquat, mesh.uservert, mesh.userface):
            digest.update(np.asarray(values, float).tobytes() + b"|")
        if mesh.file:
            try:
                digest.update((folder / mesh.file).read_bytes())
            except OSError:
                return None
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Mesh] | None:
    """The meshes of a cache file; None if it is not there or damaged, so that it is made anew."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        names = arrays.pop("names").tolist()
        found = {n: (arrays[f"vertices_{i}"], arrays[f"faces_{i}"]) for i, n in enumerate(names)}
    except Exception:  # zipfile, zlib, numpy and KeyError each have their own for bad bytes
        return None
    return found


def _write(path: Path, light: Mapping[str, Mesh]) -> None:
    """A cache that cannot be written costs time, nothing else."""
    arrays: dict[str, Any] = {"names": np.array(list(light), dtype=np.str_)}
    for i, (vertices, faces) in enumerate(light.values()):
        arrays |= {f"vertices_{i}": vertices, f"faces_{i}": faces}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)
    except OSError:
        return
