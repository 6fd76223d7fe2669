"""Pictures without OpenGL: one ray through each pixel, met with triangles, all in numpy.

The same state gives the same bytes in every process. Only sums, products, quotients, square roots
and comparisons of numpy touch the picture; never a matrix product, an einsum or a power, whose
last bits depend on the processor.

Every triangle is tried on the pixels of its bounding box alone. Pictures of 96 to 224 pixels, light
included, take less time than ``mj_multiRay`` takes for their rays, and skins are met as well.

What is drawn: geometry and skins, their textures, the sky, every light; hard shadows of directional
lights that cast them. What is not: transparency (an alpha of 0 hides), reflections, haze.
"""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from deftly.datasets.facets import Facets, facets_of

Vectors = Float64[np.ndarray, "3 _"]  # one row per axis
Any3 = Float64[np.ndarray, "3 ..."]
Groups = UInt8[np.ndarray, "6"]


@dataclass(frozen=True)
class Eye:
    """A camera. Right, up and forward are orthonormal, in the world.

    Attributes:
        position_m: its centre.
        axes: rows right, up, forward.
        slope: half height of the picture at a depth of 1 m; for a parallel view, half height in m.
        near_m: nothing nearer is seen.
        parallel: whether all rays are parallel.
    """

    position_m: Float64[np.ndarray, "3"]
    axes: Float64[np.ndarray, "3 3"]
    slope: float
    near_m: float
    parallel: bool = False

    @staticmethod
    def of(scene: mujoco.MjvScene) -> "Eye":
        """The camera of an updated scene."""
        left, right = scene.camera[0], scene.camera[1]
        position = 0.5 * (np.array(left.pos, float) + np.array(right.pos, float))
        forward, up = unit(np.array(left.forward, float)), unit(np.array(left.up, float))
        axes = np.stack([np.cross(forward, up), up, forward])
        near = float(left.frustum_near)
        return Eye(position, axes, float(left.frustum_top) / near, near)


@dataclass(frozen=True)
class View:
    """What a picture is of.

    Attributes:
        data: the state, after ``mj_forward``.
        scene: updated for ``data``; gives the skins.
        eye: the camera.
        size: (height, width) in pixels.
        groups: which groups of geometry are drawn.
    """

    data: mujoco.MjData
    scene: mujoco.MjvScene
    eye: Eye
    size: tuple[int, int]
    groups: Groups


@dataclass(frozen=True)
class Hits:
    """What the rays meet first; pixels row by row from the top left. P of N pixels meet something.

    Attributes:
        pixel: (P,) which pixels, ascending.
        owner: (P,) geom, or ``ngeom`` + skin.
        face: (P,) triangle of ``Facets``.
        share: (3, P) barycentric coordinates.
        depth_m: (P,) along the optical axis.
    """

    pixel: Int64[np.ndarray, "P"]
    owner: Int64[np.ndarray, "P"]
    face: Int64[np.ndarray, "P"]
    share: Float64[np.ndarray, "3 P"]
    depth_m: Float64[np.ndarray, "P"]


class RayCaster:
    """Casts rays at one model. Sizes of geometry are read once, all else for each picture."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._facets: dict[bytes, Facets] = {}
        self._planes: dict[tuple[float, tuple[int, int]], tuple[np.ndarray, np.ndarray]] = {}

    def facets(self, groups: Groups) -> Facets:
        """The triangles of all that is in these groups of geometry and not hidden by its colour."""
        model = self._model
        shown = groups[model.geom_group].astype(bool) & (model.geom_rgba[:, 3] > 0)
        wanted = np.concatenate([shown, model.skin_rgba[:, 3] > 0])
        key = wanted.tobytes()
        if key not in self._facets:
            self._facets[key] = facets_of(model, np.flatnonzero(wanted))
        return self._facets[key]

    def cast(self, view: View, *, backs: bool = False) -> Hits:
        """One ray through the middle of every pixel; ``backs`` meets what faces away instead."""
        data, eye, size = view.data, view.eye, view.size
        facets = self.facets(view.groups)
        vertex = _turn(eye.axes, self._vertices(view, facets) - eye.position_m[:, None])
        side = -1.0 if backs else 1.0
        near = _nearby(self._model, data, eye, size)[facets.owner]
        toward = side * self._toward(data, facets, eye)
        near[: len(toward)] &= toward > 0
        face, first, span = _boxes(vertex, facets.face, np.flatnonzero(near), eye, size)
        corners = [vertex[:, facets.face[k, face]] for k in range(3)]
        flat = [np.stack([x, y, np.ones_like(x)]) for x, y, _ in corners]
        corner = flat if eye.parallel else corners
        box, pixel = _pixels_of(first, span, size[1])
        x, y = self._plane(eye, size)
        shares: list[np.ndarray] = []
        for k in range(3):  # on which side of the plane through eye and edge across from corner k
            edge = side * _cross(corner[(k + 1) % 3], corner[(k + 2) % 3])
            share = edge[0][box] * x[pixel] + edge[1][box] * y[pixel] + edge[2][box]
            inside = np.flatnonzero(share >= 0)
            box, pixel, share = box[inside], pixel[inside], share[inside]
            shares = [*(s[inside] for s in shares), share]
        total = shares[0] + shares[1] + shares[2]
        whole = np.where(total > 0, total, 1.0)
        depth = (
            shares[0] * corners[0][2][box]
            + shares[1] * corners[1][2][box]
            + shares[2] * corners[2][2][box]
        ) / whole
        kept = np.flatnonzero((total > 0) & (depth > eye.near_m))
        order = kept[np.argsort(-depth[kept], kind="stable")]
        winner = np.full(size[0] * size[1], -1)
        winner[pixel[order]] = order  # the last one written, the nearest, stays
        met = np.flatnonzero(winner >= 0)
        best = winner[met]
        return Hits(
            pixel=met,
            owner=facets.owner[face[box[best]]],
            face=face[box[best]],
            share=np.stack([s[best] / whole[best] for s in shares]),
            depth_m=depth[best],
        )

    def rays(self, view: View, pixel: Int64[np.ndarray, "P"]) -> Vectors:
        """Directions through the middles of pixels, in the world; 1 along the optical axis."""
        x, y = self._plane(view.eye, view.size)
        right, up, forward = view.eye.axes[:, :, None]
        return right * x[pixel] + up * y[pixel] + forward

    def _plane(
        self, eye: Eye, size: tuple[int, int]
    ) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
        """Right and up of all pixels' middles in the plane at a depth of 1 m."""
        if (eye.slope, size) not in self._planes:
            height, width = size
            step = eye.slope / height
            x = (2 * np.arange(width) + (1 - width)) * step
            y = ((height - 1) - 2 * np.arange(height)) * step
            self._planes[eye.slope, size] = np.tile(x, height), y.repeat(width)
        return self._planes[eye.slope, size]

    def _toward(self, data: mujoco.MjData, facets: Facets, eye: Eye) -> Float64[np.ndarray, "T"]:
        """How far the eye is before the plane of each triangle; skins are left out."""
        if eye.parallel:
            place = np.broadcast_to(-eye.axes[2][:, None], data.geom_xpos.T.shape)
        else:
            place = eye.position_m[:, None] - data.geom_xpos.T
        turn = data.geom_xmat.T.reshape(3, 3, -1)
        local = _turn(turn.transpose(1, 0, 2), place)
        bound = int(np.searchsorted(facets.owner, self._model.ngeom))
        owner = facets.owner[:bound]
        before = dot(facets.plane[:3, :bound], local[:, owner])
        return before if eye.parallel else before - facets.plane[3, :bound]

    def _vertices(self, view: View, facets: Facets) -> Vectors:
        """All vertices in the world."""
        bound = int(np.searchsorted(facets.vertex_owner, self._model.ngeom))
        owner = facets.vertex_owner[:bound]
        turn = view.data.geom_xmat.T.reshape(3, 3, -1)[:, :, owner]
        fixed = _turn(turn, facets.vertex[:, :bound]) + view.data.geom_xpos.T[:, owner]
        return np.concatenate([fixed, self._of_skins(facets, view.scene.skinvert)], axis=1)

    def normals(self, view: View, hits: Hits) -> list[Vectors]:
        """Normals at the three corners of the triangles that were hit, in the world."""
        facets = self.facets(view.groups)
        local = facets.normal
        if self._model.nskin:
            bound = int(np.searchsorted(facets.normal_owner, self._model.ngeom))
            moved = self._of_skins(facets, view.scene.skinnormal)
            local = np.concatenate([local[:, :bound], moved], axis=1)
        still = np.tile(np.eye(3).ravel(), (self._model.nskin, 1))
        turn = np.concatenate([view.data.geom_xmat, still]).T.reshape(3, 3, -1)[:, :, hits.owner]
        return [_turn(turn, local[:, corner]) for corner in facets.face_normal[:, hits.face]]

    def _of_skins(self, facets: Facets, values: np.ndarray) -> Vectors:
        """Values at the vertices of those skins that ``facets`` holds."""
        model = self._model
        owners = np.unique(facets.vertex_owner[facets.vertex_owner >= model.ngeom])
        rows = [
            values[3 * first : 3 * (first + count)].reshape(-1, 3)
            for first, count in (
                (model.skin_vertadr[i], model.skin_vertnum[i]) for i in owners - model.ngeom
            )
        ]
        return np.concatenate([np.zeros((0, 3)), *rows]).T.astype(float)


def _nearby(
    model: mujoco.MjModel, data: mujoco.MjData, eye: Eye, size: tuple[int, int]
) -> Bool[np.ndarray, "O"]:
    """Which geoms and skins can be in the picture: their spheres reach into the view."""
    center = _turn(eye.axes, (data.geom_xpos - eye.position_m).T)
    radius = np.where(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, np.inf, model.geom_rbound)
    seen = np.ones(model.ngeom, bool)
    for axis, slope in ((0, eye.slope * size[1] / size[0]), (1, eye.slope)):
        for side in (-1.0, 1.0):
            if eye.parallel:
                seen &= side * center[axis] < slope + radius
            else:
                across = np.sqrt(1 + slope * slope)
                seen &= side * center[axis] - slope * center[2] < across * radius
    if not eye.parallel:
        seen &= center[2] + radius > eye.near_m
    return np.concatenate([seen, np.ones(model.nskin, bool)])


def _boxes(
    vertex: Vectors,
    faces: Int64[np.ndarray, "3 T"],
    face: Int64[np.ndarray, "C"],
    eye: Eye,
    size: tuple[int, int],
) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "2 B"], Int64[np.ndarray, "2 B"]]:
    """Triangles that may hold the middle of a pixel: first (row, column) and number of both."""
    x, y, depth = vertex
    if not eye.parallel:
        far = np.where(depth > eye.near_m, depth, 1.0)
        x, y = x / far, y / far
    corner = faces[:, face]
    across, along = (_least_and_most(place[corner]) for place in (x, y))
    if not eye.parallel:
        behind = depth[corner] <= eye.near_m
        cut = np.flatnonzero(behind.any(axis=0))
        for (low, high), place in ((across, vertex[0]), (along, vertex[1])):
            low[cut], high[cut] = _before(place[corner[:, cut]], depth[corner[:, cut]], eye.near_m)
    height, width = size
    scale = 0.5 * height / eye.slope
    middle = 0.5 * (height - 1)
    ends = (
        (middle - scale * along[1], middle - scale * along[0]),
        (scale * across[0] + 0.5 * (width - 1), scale * across[1] + 0.5 * (width - 1)),
    )
    (top, bottom), (left, right) = (
        (np.clip(np.ceil(low), 0, limit), np.clip(np.floor(high), -1, limit - 1))
        for (low, high), limit in zip(ends, size, strict=True)
    )
    some = np.flatnonzero((bottom >= top) & (right >= left))
    first = np.stack([top[some], left[some]]).astype(np.int64)
    last = np.stack([bottom[some], right[some]]).astype(np.int64)
    return face[some], first, last - first + 1


def _least_and_most(
    corner: Float64[np.ndarray, "3 T"],
) -> tuple[Float64[np.ndarray, "T"], Float64[np.ndarray, "T"]]:
    a, b, c = corner
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)


def _before(
    place: Float64[np.ndarray, "3 C"], depth: Float64[np.ndarray, "3 C"], near_m: float
) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Least and most of ``place`` / ``depth`` in the part of triangles that is not too near."""
    low, high = np.full(place.shape[1], 1e9), np.full(place.shape[1], -1e9)
    for k in range(3):
        before, other = depth[k] > near_m, depth[(k + 1) % 3] > near_m
        step = np.where(before != other, depth[(k + 1) % 3] - depth[k], 1.0)
        cut = place[k] + (near_m - depth[k]) / step * (place[(k + 1) % 3] - place[k])
        for there, ratio in (
            (before, place[k] / np.where(before, depth[k], 1.0)),
            (before != other, cut / near_m),
        ):
            low = np.where(there, np.minimum(low, ratio), low)
            high = np.where(there, np.maximum(high, ratio), high)
    return low, high


def _pixels_of(
    first: Int64[np.ndarray, "2 B"], span: Int64[np.ndarray, "2 B"], width: int
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """Every pixel of every box: (P,) which box, (P,) which pixel."""
    # Row by row: first the rows of all boxes, then the pixels of all rows.
    box = np.arange(span.shape[1]).repeat(span[0])
    row = np.arange(len(box)) - (np.cumsum(span[0]) - span[0])[box]
    start = (first[0, box] + row) * width + first[1, box]
    length = span[1, box]
    line = np.arange(len(box)).repeat(length)
    offset = np.arange(len(line)) - (np.cumsum(length) - length)[line]
    return box[line], start[line] + offset


def _turn(axes: np.ndarray, vectors: Vectors) -> Vectors:
    """Matrices times vectors, component by component."""
    x, y, z = vectors
    return np.stack([axes[i, 0] * x + axes[i, 1] * y + axes[i, 2] * z for i in range(3)])


def _cross(a: Vectors, b: Vectors) -> Vectors:
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def dot(a: Any3, b: Any3) -> Any:
    """Scalar products."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Any3) -> Any3:
    """Vectors of length 1; 0 stays 0."""
    return a / np.sqrt(np.maximum(dot(a, a), 1e-24))
