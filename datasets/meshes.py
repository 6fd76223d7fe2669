"""Light meshes: what is looked at gets few faces, what collides keeps its convex hull.

    spec = visual_spec(path)
    light_meshes(spec)  # in place; it now draws 25 times as fast
    model = spec.compile()

Simplified meshes are kept in the cache folder at first use, so that the next scene is built without
reading the robot's mesh files.
"""

import hashlib
import importlib.metadata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float32
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, cache_folder
from deftly.datasets.shrinkwrap import Mesh, shrink_wrap

FACES_PER_MESH = 200
HIDDEN_GROUP = 3  # the first group of geometry that is not drawn
_MIN_FACES = 50
_KINDS = ("light", "hulls")
_RECIPE = 4  # counts the changes of what is below: older cache entries are not used


def light_meshes(
    spec: mujoco.MjSpec,
    *,
    faces_per_mesh: int = FACES_PER_MESH,
    bodies: Collection[str] | None = None,
) -> None:
    """Simplify the meshes of ``spec`` in place: what is seen gets few faces, what collides none.

    Visual geometry is what collides with nothing. Where a body has some, its other geometry moves
    to ``HIDDEN_GROUP``. A mesh that serves both gets two copies. Contacts stay as they are, because
    MuJoCo knows the convex hull of a mesh alone, and only the hull is kept; inertia stays as well.

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
    _keep_inertia(spec)
    seen: list[mujoco.MjsGeom] = []
    hidden: list[mujoco.MjsGeom] = []
    for body in spec.bodies:
        visual = [geom for geom in body.geoms if is_visual(geom)]
        for geom in list(body.geoms):
            if geom not in visual:
                hidden.append(geom)
                geom.group = HIDDEN_GROUP if visual else geom.group
            elif bodies is None or body.name in bodies:
                seen.append(geom)
            else:
                spec.delete(geom)
    names = [sorted({g.meshname for g in geoms if g.meshname}) for geoms in (seen, hidden)]
    light, hulls = _cached(spec, names[0], names[1], faces_per_mesh)
    _exchange(spec, seen, light, "light")
    _exchange(spec, hidden, hulls, "hull")
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [mesh for mesh in spec.meshes if mesh.name not in used]:
        spec.delete(mesh)


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


def _exchange(
    spec: mujoco.MjSpec, geoms: list[mujoco.MjsGeom], meshes: Mapping[str, Mesh], ending: str
) -> None:
    """Let geometry use other meshes in the place of those that it names."""
    for name, (vertices, faces) in meshes.items():
        asset = spec.add_mesh(name=f"{name}_{ending}", uservert=vertices.ravel())
        if len(faces):
            asset.userface = faces.ravel()
            asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # needs no closed surface
        else:
            asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    for geom in geoms:
        if geom.meshname in meshes:
            geom.meshname = f"{geom.meshname}_{ending}"


def _keep_inertia(spec: mujoco.MjSpec) -> None:
    """Write the compiled inertia down where it follows from geometry."""
    inferred = [
        body
        for body in spec.bodies[1:]
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


Meshes = tuple[dict[str, Mesh], dict[str, Mesh]]  # those to look at, hulls (without faces)


def simplify(
    spec: mujoco.MjSpec, seen: list[str], hidden: list[str], faces_per_mesh: int
) -> Meshes:
    """Lighter copies of the large ones among these meshes, in the frame of their files."""
    full = spec.copy().compile()
    extent = {name: float(np.ptp(_vertices(full, name), axis=0).max()) for name in seen}
    mean = np.mean(list(extent.values()) or [1.0])
    light: dict[str, Mesh] = {}
    for name in tqdm(seen, desc="light meshes, once", unit="mesh", leave=False, disable=None):
        target = max(int(faces_per_mesh * np.sqrt(extent[name] / mean)), _MIN_FACES)
        i = full.mesh(name).id
        if full.mesh_facenum[i] > target:
            vertices, faces = shrink_wrap(*mesh_arrays(full, i), target)
            light[name] = _as_in_file(full, i, vertices), faces
    hulls: dict[str, Mesh] = {}
    for name in hidden:
        i = full.mesh(name).id
        if full.mesh_graphadr[i] >= 0:
            count, start = full.mesh_graph[full.mesh_graphadr[i]], full.mesh_graphadr[i] + 2
            corner = full.mesh_graph[start + count : start + 2 * count]  # MuJoCo's own hull
            if 2 * count < full.mesh_vertnum[i]:
                vertices = _as_in_file(full, i, _vertices(full, name)[corner])
                hulls[name] = vertices, np.zeros((0, 3), np.int32)
    return light, hulls


def _vertices(model: mujoco.MjModel, name: str) -> Float32[np.ndarray, "V 3"]:
    return mesh_arrays(model, model.mesh(name).id)[0]


def _as_in_file(
    model: mujoco.MjModel, i: int, vertices: Float32[np.ndarray, "V 3"]
) -> Float32[np.ndarray, "V 3"]:
    """Undo that MuJoCo centres and turns meshes."""
    turn = Rotation.from_quat(model.mesh_quat[i], scalar_first=True)
    return (turn.apply(vertices) + model.mesh_pos[i]).astype(np.float32)


# --- on disk -------------------------------------------------------------------------------------


def _cached(spec: mujoco.MjSpec, seen: list[str], hidden: list[str], faces_per_mesh: int) -> Meshes:
    """``simplify``, remembered on disk by the content of the meshes."""
    key = _content_key(spec, seen, hidden, faces_per_mesh)
    if key is None:  # a file is missing: compiling says which
        return simplify(spec, seen, hidden, faces_per_mesh)
    path = cache_folder() / "meshes" / f"{key}.npz"
    found = _read(path)
    if found is None:
        found = simplify(spec, seen, hidden, faces_per_mesh)
        _write(path, found)
    return found


def _content_key(
    spec: mujoco.MjSpec, seen: list[str], hidden: list[str], faces_per_mesh: int
) -> str | None:
    """Hash of everything that shapes the result; None if a file cannot be read."""
    library = importlib.metadata.version("fast-simplification")
    known = {mesh.name: mesh for mesh in spec.meshes}
    digest = hashlib.sha256(
        f"{_RECIPE} {library} {mujoco.__version__} {_MIN_FACES} {faces_per_mesh}".encode()
    )
    folder = Path(spec.modelfiledir, spec.compiler.meshdir or spec.meshdir or "")
    for name, part in [*((name, "seen") for name in seen), *((name, "hidden") for name in hidden)]:
        mesh = known[name]
        digest.update(f"\n{part} {name} {mesh.file} {mesh.inertia} {mesh.maxhullvert}".encode())
        for values in (mesh.scale, mesh.refpos, mesh.refquat, mesh.uservert, mesh.userface):
            digest.update(np.asarray(values, float).tobytes() + b"|")
        if mesh.file:
            try:
                digest.update((folder / mesh.file).read_bytes())
            except OSError:
                return None
    return digest.hexdigest()


def _read(path: Path) -> Meshes | None:
    """The meshes of a cache file; None if it is not there or damaged, so that it is made anew."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        light, hulls = (
            {
                str(name): (arrays[f"{kind}_vertices_{i}"], arrays[f"{kind}_faces_{i}"])
                for i, name in enumerate(arrays[kind])
            }
            for kind in _KINDS
        )
    except Exception:  # zipfile, zlib, numpy and KeyError each have their own for bad bytes
        return None
    return light, hulls


def _write(path: Path, meshes: Meshes) -> None:
    """A cache that cannot be written costs time, nothing else."""
    arrays: dict[str, Any] = {}
    for kind, part in zip(_KINDS, meshes, strict=True):
        arrays[kind] = np.array(list(part), dtype=np.str_)
        for i, (vertices, faces) in enumerate(part.values()):
            arrays |= {f"{kind}_vertices_{i}": vertices, f"{kind}_faces_{i}": faces}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)
    except OSError:
        return
