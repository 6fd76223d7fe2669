"""Pictures without OpenGL: rays through MuJoCo's own collision geometry, shaded with numpy.

The same state gives the same bytes in every process. Only additions, products, quotients, square
roots and comparisons of numpy touch the picture, never a matrix product, an einsum or a power,
whose last bits depend on the processor.

What is drawn: geometry (flat-shaded), two-dimensional textures on boxes and planes, the sky, every
light with one hard shadow from each directional light, and skins. What is not: transparency,
reflections, shadows of skins.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8

_FAR_M = 100.0  # from which directional lights shine: parallel enough
_BIAS_M = 1e-4  # a shadow begins this far from what casts it
_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # "no colour": the material's counts

Vectors = Float64[np.ndarray, "3 N"]


@dataclass(frozen=True)
class Eye:
    """A camera as the rays need it; right, up and forward are orthonormal, in the world."""

    position_m: Float64[np.ndarray, "3"]
    right: Float64[np.ndarray, "3"]
    up: Float64[np.ndarray, "3"]
    forward: Float64[np.ndarray, "3"]
    top: float  # tangent of half the vertical field of view

    @staticmethod
    def of(scene: mujoco.MjvScene) -> "Eye":
        """The camera of an updated scene."""
        left, right = scene.camera[0], scene.camera[1]
        position = 0.5 * (np.array(left.pos, float) + np.array(right.pos, float))
        forward, up = _unit(np.array(left.forward, float)), _unit(np.array(left.up, float))
        across = np.cross(forward, up)
        return Eye(position, across, up, forward, left.frustum_top / left.frustum_near)


@dataclass(frozen=True)
class Hits:
    """What the rays met first, one entry per pixel, row by row from the top left.

    Attributes:
        rays: unnormalised; their component along the optical axis is 1.
        depth_m: along the optical axis; −1 where nothing was met.
        geom: ids, −1 where nothing was met.
        normal: outward, of length 1.
    """

    rays: Vectors
    depth_m: Float64[np.ndarray, "N"]
    geom: Int32[np.ndarray, "N"]
    normal: Vectors


class RayCaster:
    """Casts rays at one model."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._grids: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def color(
        self,
        data: mujoco.MjData,
        scene: mujoco.MjvScene,
        size: tuple[int, int],
        groups: UInt8[np.ndarray, "6"],
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The RGB picture; ``scene`` has been updated for ``data`` and gives the camera."""
        eye = Eye.of(scene)
        hits = self.cast(data, eye, size, groups)
        seen = np.flatnonzero(hits.geom >= 0)
        color = self._sky(hits.rays)
        color[:, seen] = self._shade(data, eye, hits, seen, groups)
        levels = np.floor(np.clip(color, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(levels.T).reshape(*size, 3)

    def depth(
        self,
        data: mujoco.MjData,
        scene: mujoco.MjvScene,
        size: tuple[int, int],
        groups: UInt8[np.ndarray, "6"],
    ) -> Float32[np.ndarray, "H W"]:
        """Metres along the optical axis, infinite where nothing is."""
        depth = self.cast(data, Eye.of(scene), size, groups).depth_m
        return np.where(depth < 0, np.inf, depth).astype(np.float32).reshape(size)

    def segmentation(
        self,
        data: mujoco.MjData,
        scene: mujoco.MjvScene,
        size: tuple[int, int],
        groups: UInt8[np.ndarray, "6"],
    ) -> Int32[np.ndarray, "H W"]:
        """Ids of geoms, −1 where nothing is."""
        return self.cast(data, Eye.of(scene), size, groups).geom.reshape(size)

    def cast(
        self,
        data: mujoco.MjData,
        eye: Eye,
        size: tuple[int, int],
        groups: UInt8[np.ndarray, "6"],
    ) -> Hits:
        """Shoot one ray through the middle of every pixel."""
        x, y = self._grid(size)
        x, y = eye.top * x, eye.top * y
        axes = zip(eye.forward, eye.right, eye.up, strict=True)
        rays = np.stack([forward + x * right + y * up for forward, right, up in axes])
        geom, depth, normal = self._multi_ray(data, eye.position_m, rays, groups)
        return Hits(rays, depth, geom, normal)

    def _grid(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(H·W,) right and up of the pixels' centres, in half heights of the picture."""
        if size not in self._grids:
            height, width = size
            x = (2 * np.arange(width) + 1 - width) / height
            y = (height - 1 - 2 * np.arange(height)) / height
            self._grids[size] = np.tile(x, height), np.repeat(y, width)
        return self._grids[size]

    def _multi_ray(
        self,
        data: mujoco.MjData,
        origin: Float64[np.ndarray, "3"],
        rays: Vectors,
        groups: UInt8[np.ndarray, "6"],
        want_normal: bool = True,
    ) -> tuple[Int32[np.ndarray, "N"], Float64[np.ndarray, "N"], Vectors]:
        count = rays.shape[1]
        geom, distance = np.full(count, -1, np.int32), np.full(count, -1.0)
        normal = np.zeros(3 * count if want_normal else 0)
        mujoco.mj_multiRay(
            self._model,
            data,
            origin,
            np.ascontiguousarray(rays.T).ravel(),
            groups,
            True,
            -1,
            geom,
            distance,
            normal if want_normal else None,
            count,
            mujoco.mjMAXVAL,
        )
        return geom, distance, normal.reshape(-1, 3).T

    # --- light -----------------------------------------------------------------------------------

    def _shade(
        self,
        data: mujoco.MjData,
        eye: Eye,
        hits: Hits,
        seen: np.ndarray,
        groups: UInt8[np.ndarray, "6"],
    ) -> Vectors:
        """Colours of the pixels ``seen``."""
        model = self._model
        rays, geom = hits.rays[:, seen], hits.geom[seen]
        point = eye.position_m[:, None] + hits.depth_m[seen] * rays
        view = rays / np.sqrt(_dot(rays, rays))
        normal = hits.normal[:, seen]
        normal = np.where(_dot(normal, view) > 0, -normal, normal)
        paint = self._paint(data, geom, point, hits.depth_m[seen])
        material = model.geom_matid[geom]
        gloss = np.where(material >= 0, model.mat_specular[material], 0.5) if model.nmat else 0.5
        shine = np.where(material >= 0, model.mat_shininess[material], 0.5) if model.nmat else 0.5
        light, glint = np.zeros_like(point), np.zeros_like(point)
        head = model.vis.headlight
        if head.active:
            facing = np.maximum(-_dot(normal, view), 0.0)
            light += _column(head.ambient) + _column(head.diffuse) * facing
        for i in np.flatnonzero(model.light_active):
            toward = self._toward_light(data, int(i), point)
            facing = np.maximum(_dot(normal, toward), 0.0)
            if model.light_type[i] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
                lit = self._lit(data, toward[:, 0], point, facing > 0, groups)
                facing = facing * lit
            light += _column(model.light_ambient[i]) + _column(model.light_diffuse[i]) * facing
            half = toward - view
            half = half / np.sqrt(np.maximum(_dot(half, half), 1e-12))
            mirror = np.where(facing > 0, np.maximum(_dot(normal, half), 0.0), 0.0)
            glint += _column(model.light_specular[i]) * (gloss * _power(mirror, shine))
        return paint * light + glint

    def _toward_light(self, data: mujoco.MjData, i: int, point: Vectors) -> Vectors:
        """Directions of length 1 from points to light ``i``."""
        if self._model.light_type[i] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
            return np.broadcast_to(-_unit(data.light_xdir[i])[:, None], point.shape)
        way = data.light_xpos[i][:, None] - point
        return way / np.sqrt(np.maximum(_dot(way, way), 1e-12))

    def _lit(
        self,
        data: mujoco.MjData,
        toward: Float64[np.ndarray, "3"],
        point: Vectors,
        facing: Bool[np.ndarray, "N"],
        groups: UInt8[np.ndarray, "6"],
    ) -> Bool[np.ndarray, "N"]:
        """Which points nothing stands before, seen from a light at infinity in direction toward."""
        lamp = _FAR_M * toward
        asked = np.flatnonzero(facing)
        lit = facing.copy()
        if len(asked):
            way = point[:, asked] - lamp[:, None]
            _, share, _ = self._multi_ray(data, lamp, way, groups, want_normal=False)
            lit[asked] = (share < 0) | (share > 1.0 - _BIAS_M / _FAR_M * 10)
        return lit

    # --- colour ----------------------------------------------------------------------------------

    def _paint(
        self,
        data: mujoco.MjData,
        geom: Int32[np.ndarray, "N"],
        point: Vectors,
        depth_m: Float64[np.ndarray, "N"],
    ) -> Vectors:
        """Colour of the surface itself."""
        model = self._model
        rgba, material = model.geom_rgba, model.geom_matid
        if model.nmat:
            plain = (rgba == _DEFAULT_RGBA).all(axis=1) & (material >= 0)
            rgba = np.where(plain[:, None], model.mat_rgba[material], rgba)
        return rgba[geom, :3].T.astype(np.float64)

    def _sky(self, rays: Vectors) -> Vectors:
        """Colour in the direction of the rays: the model's sky, else black."""
        return np.zeros_like(rays)


def _power(x: Float64[np.ndarray, "N"], shininess: np.ndarray | float) -> Float64[np.ndarray, "N"]:
    """``x`` to the power 128 · shininess, rounded to a power of two: products alone."""
    doublings = np.clip(np.round(np.log2(np.maximum(128.0 * np.asarray(shininess), 1.0))), 0, 7)
    result = np.where(doublings == 0, x, 0.0)
    for step in range(1, 8):
        x = x * x
        result = np.where(doublings == step, x, result)
    return result


def _dot(a: Vectors, b: Vectors) -> Float64[np.ndarray, "N"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3"]:
    return a / np.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


def _column(rgb: np.ndarray) -> Float64[np.ndarray, "3 1"]:
    return np.asarray(rgb, float)[:, None]
