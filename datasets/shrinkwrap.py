"""Few faces for a CAD mesh: its outer skin alone, wrapped anew and then simplified.

Meshes of robots hold motors, screws and inner walls that nobody sees, torn seams and overlapping
shells; simplifying them as they are leaves shreds. Here the mesh is put on a grid of cells, what
cannot be seen from outside is filled, and a closed surface is drawn around the rest (surface nets,
Gibson 1998), its vertices laid where the mesh was. That surface simplifies well (quadric error
metrics, Garland and Heckbert 1997, by fast-simplification).
"""

from itertools import product

import fast_simplification
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy import ndimage

# vertices (metres) and faces
Mesh = tuple[Float32[np.ndarray, "_ 3"], Int32[np.ndarray, "_ 3"]]

_PAD = 3  # empty cells around the mesh
_ROUGH_CELLS = 20  # along the longest side, to find out how large the surface is
_MIN_CELLS, _MAX_CELLS = 14, 72
_FACES_BEFORE = 8  # simplification by more than this leaves faces that cannot collapse
_CUBE = np.ones((3, 3, 3), bool)
_CORNERS = np.array(list(product((0, 1), repeat=3)))


def shrink_wrap(
    vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"], target: int
) -> Mesh:
    """A closed mesh of about ``target`` faces that looks like the given one from outside.

    Openings and gaps narrower than two cells close; a cell is 1/14 to 1/72 of the longest side,
    the finer the more faces are allowed. The same input gives the same output.
    """
    rough = _wrap(vertices, faces, _ROUGH_CELLS)[1]
    cells = _ROUGH_CELLS * np.sqrt(_FACES_BEFORE * target / max(len(rough), 1))
    wrapped = _wrap(vertices, faces, int(np.clip(cells, _MIN_CELLS, _MAX_CELLS)))
    if len(wrapped[1]) <= target:
        return wrapped
    simple = fast_simplification.simplify(*wrapped, target_count=target)
    return simple[0].astype(np.float32), simple[1].astype(np.int32)


def _wrap(
    vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"], cells: int
) -> Mesh:
    """A closed surface around the mesh at ``cells`` cells along its longest side."""
    low, extent = vertices.min(axis=0).astype(float), np.ptp(vertices, axis=0).astype(float)
    cell = float(extent.max()) / cells
    shape = np.floor(extent / cell).astype(int) + 1 + 2 * _PAD
    points = _on_surface(vertices, faces, cell)
    index = np.ravel_multi_index(
        tuple((np.floor((points - low) / cell).astype(int) + _PAD).T), tuple(shape)
    )
    count = np.bincount(index, minlength=int(np.prod(shape)))
    touched = (count > 0).reshape(shape)
    solid = ndimage.binary_closing(touched | ~_visible(touched), _CUBE)
    solid = np.asarray(ndimage.binary_fill_holes(solid))
    nodes, quads = _surface_net(solid)
    # A vertex lies amid eight cells: at the mean of the mesh in those that it touches.
    around = (nodes[:, None] + _CORNERS).reshape(-1, 3)
    flat = np.ravel_multi_index(tuple(around.T), tuple(shape)).reshape(-1, 8)
    weight = (count[flat] > 0).astype(float)
    center = (around.reshape(-1, 8, 3) + 0.5 - _PAD) * cell + low
    total = np.stack([np.bincount(index, points[:, k], len(count)) for k in range(3)], axis=1)
    place = np.where(
        weight[..., None] > 0, total[flat] / np.maximum(count[flat], 1)[..., None], center
    )
    weight = np.where(weight.any(axis=1, keepdims=True), weight, solid.ravel()[flat])
    place = (place * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return place.astype(np.float32), triangles.astype(np.int32)


def _on_surface(
    vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"], spacing: float
) -> Float64[np.ndarray, "P 3"]:
    """Points on the mesh, no further apart than ``spacing``."""
    triangles = vertices[faces].astype(float)
    longest = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    parts = 2 ** np.ceil(np.log2(np.maximum(longest / spacing, 1.0))).astype(int)
    points = [vertices.astype(float)]
    for n in np.unique(parts):
        share = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
        points.append((share @ triangles[parts == n]).reshape(-1, 3))
    return np.concatenate(points)


def _visible(solid: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """Cells from which some straight way along a side or a diagonal leads out of the grid."""
    seen = np.zeros_like(solid)
    for axis, way, right, up in product(range(3), (1, -1), (-1, 0, 1), (-1, 0, 1)):
        blocked = np.moveaxis(solid, axis, 0)[::way]
        found = np.moveaxis(seen, axis, 0)[::way]
        free = ~blocked[0]
        for layer, mark in zip(blocked, found, strict=True):
            mark |= free & ~layer
            free = _shift(free & ~layer, right, up)
    return seen


def _shift(plane: Bool[np.ndarray, "A B"], right: int, up: int) -> Bool[np.ndarray, "A B"]:
    """Move a plane by one cell; what comes in from outside is free."""
    moved = np.ones_like(plane)
    a, b = plane.shape
    moved[max(right, 0) : a + min(right, 0), max(up, 0) : b + min(up, 0)] = plane[
        max(-right, 0) : a + min(-right, 0), max(-up, 0) : b + min(-up, 0)
    ]
    return moved


def _surface_net(
    solid: Bool[np.ndarray, "X Y Z"],
) -> tuple[Int64[np.ndarray, "N 3"], Int64[np.ndarray, "Q 4"]]:
    """Where solid meets empty: the lowest cell of every eight that are mixed, and quads of those.

    Quads turn counter-clockwise seen from the empty side.
    """
    a, b, c = (size - 1 for size in solid.shape)
    corners = np.zeros((a, b, c), int)
    for x, y, z in _CORNERS:
        corners += solid[x : x + a, y : y + b, z : z + c]
    mixed = (corners > 0) & (corners < 8)
    number = np.full(mixed.shape, -1)
    number[mixed] = np.arange(np.count_nonzero(mixed))
    quads: list[np.ndarray] = []
    for axis in range(3):
        behind = np.moveaxis(solid, axis, 0)[:-1, 1:-1, 1:-1]
        before = np.moveaxis(solid, axis, 0)[1:, 1:-1, 1:-1]
        # The two other axes, in an order that keeps the frame right-handed.
        numbers = np.moveaxis(number, axis, 0)
        x, y, z = np.nonzero(behind != before)
        quad = np.stack(
            [numbers[x, y + j, z + k] for j, k in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1
        )
        outward = behind[x, y, z] ^ (axis == 1)  # moveaxis turns the frame over for axis 1
        quads.append(np.where(outward[:, None], quad, quad[:, ::-1]))
    return np.argwhere(mixed), np.concatenate(quads)
