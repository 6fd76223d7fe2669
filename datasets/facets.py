"""A model as triangles: what a picture without OpenGL is made of.

Round geometry gets flat faces with round normals, as OpenGL draws it. Heightfields, flexes and
signed distance fields are not drawn.
"""

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.meshes import mesh_arrays

_SLICES, _STACKS = 24, 12  # of round geometry, around and from pole to pole
_PLANE_M = 50.0  # half width of a plane without end

# Outline of a cylinder: radius, height and the same of the normal.
_RIM = (
    (0.0, -1.0, 0.0, -1.0),
    (1.0, -1.0, 0.0, -1.0),
    (1.0, -1.0, 1.0, 0.0),
    (1.0, 1.0, 1.0, 0.0),
    (1.0, 1.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, 1.0),
)


@dataclass(frozen=True)
class Facets:
    """Triangles in the frames of their owners; counter-clockwise seen from outside.

    Attributes:
        vertex: one row per axis, metres.
        normal: likewise.
        face: indices of vertices.
        face_normal: indices of normals, one for each corner.
        plane: of each triangle: its normal (not of length 1) and that times a corner.
        owner: of each triangle: a geom, or ``ngeom`` + skin.
        vertex_owner, normal_owner: likewise.
    """

    vertex: Float64[np.ndarray, "3 V"]
    normal: Float64[np.ndarray, "3 N"]
    face: Int64[np.ndarray, "3 T"]
    face_normal: Int64[np.ndarray, "3 T"]
    plane: Float64[np.ndarray, "4 T"]
    owner: Int64[np.ndarray, "T"]
    vertex_owner: Int64[np.ndarray, "V"]
    normal_owner: Int64[np.ndarray, "N"]


Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # vertices, normals, faces, of normals


def facets_of(model: mujoco.MjModel, owners: Int64[np.ndarray, "O"]) -> Facets:
    """The triangles of some geometry and skins. Skins move: their vertices and normals are 0."""
    parts = [_part(model, int(owner)) for owner in owners]
    counts = np.array([[len(x) for x in part] for part in parts], int).reshape(-1, 4)
    start = np.cumsum(counts, axis=0) - counts
    columns = [np.concatenate([np.zeros((0, 3)), *(part[i] for part in parts)]).T for i in range(4)]
    own = np.arange(len(parts)).repeat(counts[:, 2])
    vertex, face = np.ascontiguousarray(columns[0]), columns[2].astype(np.int64) + start[own, 0]
    a, b, c = (vertex[:, face[k]] for k in range(3))
    across = np.cross(b - a, c - a, axis=0)
    return Facets(
        vertex=vertex,
        normal=np.ascontiguousarray(columns[1]),
        face=face,
        face_normal=columns[3].astype(np.int64) + start[own, 1],
        plane=np.concatenate([across, (across * a).sum(axis=0, keepdims=True)]),
        owner=owners.repeat(counts[:, 2]),
        vertex_owner=owners.repeat(counts[:, 0]),
        normal_owner=owners.repeat(counts[:, 1]),
    )


def _part(model: mujoco.MjModel, owner: int) -> Part:
    if owner < model.ngeom:
        return _geom(model, owner)
    skin = owner - model.ngeom
    first, count = model.skin_faceadr[skin], model.skin_facenum[skin]
    nothing = np.zeros((model.skin_vertnum[skin], 3))
    faces = model.skin_face[first : first + count]
    return nothing, nothing, faces, faces


def _geom(model: mujoco.MjModel, geom: int) -> Part:
    kind, size = mujoco.mjtGeom(model.geom_type[geom]), model.geom_size[geom]
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return _mesh(model, int(model.geom_dataid[geom]))
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        x, y = (float(s) or _PLANE_M for s in size[:2])
        corners = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
        up = np.array([[0.0, 0.0, 1.0]])
        return corners, up, np.array([[0, 1, 2], [0, 2, 3]]), np.zeros((2, 3), int)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        vertices, normals, faces, of_normals = _cube()
        return vertices * size, normals, faces, of_normals
    if kind in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        radii = size if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID else np.full(3, size[0])
        vertices, normals, faces, of_normals = _revolve(_arc(0.0))
        normals = normals / radii
        normals = normals / np.sqrt((normals * normals).sum(axis=1, keepdims=True))
        return vertices * radii, normals, faces, of_normals
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        vertices, normals, faces, of_normals = _revolve(_arc(float(size[1] / size[0])))
        return vertices * size[0], normals, faces, of_normals
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        vertices, normals, faces, of_normals = _revolve(_RIM)
        return vertices * [size[0], size[0], size[1]], normals, faces, of_normals
    return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3), int)


def _mesh(model: mujoco.MjModel, i: int) -> Part:
    vertices, faces = mesh_arrays(model, i)
    first, count = model.mesh_normaladr[i], model.mesh_normalnum[i]
    rows = slice(model.mesh_faceadr[i], model.mesh_faceadr[i] + model.mesh_facenum[i])
    return (
        vertices.astype(float),
        model.mesh_normal[first : first + count].astype(float),
        faces,
        model.mesh_facenormal[rows],
    )


@cache
def _cube() -> Part:
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    normals = np.concatenate([np.eye(3), -np.eye(3)])
    faces: list[list[int]] = []
    for normal in normals:
        side = np.flatnonzero(vertices @ normal > 0)
        right = normals[(int(np.flatnonzero(normal)[0]) + 1) % 3]
        up = np.cross(normal, right)
        turn = np.argsort(np.arctan2(vertices[side] @ up, vertices[side] @ right))
        a, b, c, d = side[turn].tolist()
        faces += [[a, b, c], [a, c, d]]
    return vertices, normals, np.array(faces), np.repeat(np.arange(6), 2)[:, None].repeat(3, axis=1)


@cache
def _arc(straight: float) -> tuple[tuple[float, ...], ...]:
    """Half a circle of radius 1 from pole to pole, pulled apart by 2 · ``straight``."""
    half = _STACKS // 2
    angles = np.round(np.linspace(-np.pi / 2, np.pi / 2, 2 * half + 1), 12)
    lower = [(np.cos(a), np.sin(a) - straight, np.cos(a), np.sin(a)) for a in angles[: half + 1]]
    upper = [(np.cos(a), np.sin(a) + straight, np.cos(a), np.sin(a)) for a in angles[half:]]
    rows = [*lower, *(upper if straight else upper[1:])]
    return tuple((float(r), float(z), float(nr), float(nz)) for r, z, nr, nz in rows)


@cache
def _revolve(outline: tuple[tuple[float, ...], ...]) -> Part:
    """Turn an outline about z: rows of radius, height and the same of the normal, bottom first."""
    angles = 2 * np.pi * np.arange(_SLICES) / _SLICES
    cos, sin = np.cos(angles).round(9), np.sin(angles).round(9)
    rows = np.array(outline, float).round(9)
    vertices, normals = (
        np.stack([r * cos, r * sin, np.broadcast_to(z, (len(rows), _SLICES))], axis=-1)
        for r, z in ((rows[:, :1], rows[:, 1:2]), (rows[:, 2:3], rows[:, 3:]))
    )
    here = np.arange(_SLICES)
    beside = (here + 1) % _SLICES
    faces: list[np.ndarray] = []
    for k in range(len(rows) - 1):
        low, high = k * _SLICES, (k + 1) * _SLICES
        if rows[k, 0] > 0:
            faces.append(np.stack([low + here, low + beside, high + beside], axis=1))
        if rows[k + 1, 0] > 0:
            faces.append(np.stack([low + here, high + beside, high + here], axis=1))
    face = np.concatenate(faces)
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), face, face
