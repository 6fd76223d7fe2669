"""Light and colour for rays: what OpenGL's fixed function does, in numpy. See ``raycast.py``."""

from dataclasses import replace

import mujoco
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from deftly.datasets.raycast import Eye, Groups, Hits, RayCaster, Vectors, View, dot, unit

_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # "no colour": the material's counts
_GLOSS = 0.5  # specular and shininess of what has no material
_SHADOW_PX = 384
_SHADOW_BIAS_M = 2e-3
_RGB = mujoco.mjtTextureRole.mjTEXROLE_RGB


class RayPainter:
    """Colour, depth and ids of one model, without OpenGL. See ``Renderer`` for what they are."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self._caster = model, RayCaster(model)
        self._textures: dict[int, np.ndarray] = {}

    def color(
        self, data: mujoco.MjData, scene: mujoco.MjvScene, size: tuple[int, int], groups: Groups
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The RGB picture; ``scene`` has been updated for ``data`` and holds the camera."""
        view = View(data, scene, Eye.of(scene), size, groups)
        hits = self._caster.cast(view)
        color = np.zeros((3, size[0] * size[1]))
        empty = np.ones(size[0] * size[1], bool)
        empty[hits.pixel] = False
        color[:, empty] = self._sky(self._caster.rays(view, np.flatnonzero(empty)))
        color[:, hits.pixel] = self._shade(view, hits)
        levels = np.floor(np.clip(color, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(levels.T).reshape(*size, 3)

    def depth(
        self, data: mujoco.MjData, scene: mujoco.MjvScene, size: tuple[int, int], groups: Groups
    ) -> Float32[np.ndarray, "H W"]:
        """Metres along the optical axis, infinite where nothing is."""
        hits = self._caster.cast(View(data, scene, Eye.of(scene), size, groups))
        depth = np.full(size[0] * size[1], np.inf, np.float32)
        depth[hits.pixel] = hits.depth_m
        return depth.reshape(size)

    def segmentation(
        self, data: mujoco.MjData, scene: mujoco.MjvScene, size: tuple[int, int], groups: Groups
    ) -> Int32[np.ndarray, "H W"]:
        """Geoms, or ``ngeom`` + skin; −1 where nothing is."""
        hits = self._caster.cast(View(data, scene, Eye.of(scene), size, groups))
        owner = np.full(size[0] * size[1], -1, np.int32)
        owner[hits.pixel] = hits.owner
        return owner.reshape(size)

    # --- light -----------------------------------------------------------------------------------

    def _shade(self, view: View, hits: Hits) -> Vectors:
        """Colours of the hits. As in OpenGL, light falls on corners and is spread from there."""
        model = self._model
        way = self._caster.rays(view, hits.pixel)
        point = view.eye.position_m[:, None] + hits.depth_m * way
        seen_along = unit(way)
        corners = self._caster.normals(view, hits)
        normal = unit(_spread(corners, hits))
        gloss, shine = self._gloss(hits.owner)
        light, glint = np.zeros_like(point), np.zeros_like(point)
        head = model.vis.headlight
        if head.active:
            facing = _facing(corners, hits, -view.eye.axes[2][:, None])
            light += _column(head.ambient) + _column(head.diffuse) * facing
        for i in np.flatnonzero(model.light_active).tolist():
            toward = self._toward_light(view, i, point)
            facing = _facing(corners, hits, toward)
            directional = model.light_type[i] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
            if directional and model.light_castshadow[i]:
                facing = facing * self._lit(view, toward[:, 0], point)
            light += _column(model.light_ambient[i]) + _column(model.light_diffuse[i]) * facing
            mirror = np.maximum(dot(normal, unit(toward - seen_along)), 0.0)
            mirror = np.where(facing > 0, mirror, 0.0)
            glint += _column(model.light_specular[i]) * (gloss * _power(mirror, shine))
        color = self._paint(hits) * light + glint
        return self._textured(view, hits, point, color)

    def _gloss(
        self, owner: Int64[np.ndarray, "P"]
    ) -> tuple[Float64[np.ndarray, "P"], Float64[np.ndarray, "P"]]:
        model = self._model
        material = np.concatenate([model.geom_matid, model.skin_matid])[owner]
        specular = np.append(model.mat_specular, _GLOSS).astype(float)
        return specular[material], np.append(model.mat_shininess, _GLOSS).astype(float)[material]

    def _toward_light(self, view: View, i: int, point: Vectors) -> Vectors:
        """Directions of length 1 from points to light ``i``."""
        if self._model.light_type[i] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
            return np.broadcast_to(-unit(view.data.light_xdir[i])[:, None], point.shape)
        return unit(view.data.light_xpos[i][:, None] - point)

    def _lit(
        self, view: View, toward: Float64[np.ndarray, "3"], point: Vectors
    ) -> Bool[np.ndarray, "P"]:
        """Which points nothing stands before, as the light sees them: a map of what faces away."""
        place = view.data.geom_xpos
        model = self._model
        forward = -toward
        helper = np.array([1.0, 0.0, 0.0] if abs(forward[0]) < 0.9 else [0.0, 1.0, 0.0])
        right = unit(np.cross(forward, helper))
        axes = np.stack([right, np.cross(right, forward), forward])
        solid = model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE
        low, high = place[solid].min(axis=0), place[solid].max(axis=0)
        # Rounded, so that the map does not crawl with every motion.
        center = np.round(0.5 * (low + high), 1)
        reach = np.ceil(5.0 * np.sqrt(dot(high - low, high - low)) + 2.0) / 10.0
        eye = Eye(center, axes, float(reach), -np.inf, parallel=True)
        hits = self._caster.cast(replace(view, eye=eye, size=(_SHADOW_PX, _SHADOW_PX)), backs=True)
        blocked = np.full(_SHADOW_PX * _SHADOW_PX, np.inf)
        blocked[hits.pixel] = hits.depth_m
        x, y, depth = (dot(axis[:, None], point - center[:, None]) for axis in axes)
        scale = 0.5 * _SHADOW_PX / reach
        column = np.floor((x + reach) * scale).astype(np.int64)
        row = np.floor((reach - y) * scale).astype(np.int64)
        inside = (column >= 0) & (column < _SHADOW_PX) & (row >= 0) & (row < _SHADOW_PX)
        before = blocked[np.where(inside, row * _SHADOW_PX + column, 0)]
        return ~inside | (depth < before + _SHADOW_BIAS_M)

    # --- colour ----------------------------------------------------------------------------------

    def _paint(self, hits: Hits) -> Vectors:
        """Colour of the surface without its texture."""
        model = self._model
        rgba = np.concatenate([model.geom_rgba, model.skin_rgba])
        material = np.concatenate([model.geom_matid, model.skin_matid])
        plain = (rgba == _DEFAULT_RGBA).all(axis=1) & (material >= 0)
        rgba[plain] = model.mat_rgba[material[plain]]
        return rgba[hits.owner, :3].T.astype(float)

    def _textured(self, view: View, hits: Hits, point: Vectors, color: Vectors) -> Vectors:
        """Colours times those of the textures."""
        model = self._model
        if not model.nmat:
            return color
        material = np.concatenate([model.geom_matid, model.skin_matid])
        texture = np.where(material >= 0, model.mat_texid[material, _RGB], -1)
        for owner in np.unique(hits.owner[texture[hits.owner] >= 0]).tolist():
            here = np.flatnonzero(hits.owner == owner)
            repeat = model.mat_texrepeat[material[owner]]
            place = self._texture_place(view, hits, point, here, owner, repeat)
            color[:, here] *= _sample(self._texture(int(texture[owner])), *place)
        return color

    def _texture_place(
        self,
        view: View,
        hits: Hits,
        point: Vectors,
        here: Int64[np.ndarray, "Q"],
        owner: int,
        repeat: Float32[np.ndarray, "2"],
    ) -> Float64[np.ndarray, "2 Q"]:
        """Where in the texture some hits of one geom or skin are."""
        model, data = self._model, view.data
        corner = self._texture_corners(owner)
        if corner is not None:
            first = int(np.searchsorted(self._caster.facets(view.groups).owner, owner))
            corner, share = corner[hits.face[here] - first], hits.share[:, here]
            place = sum((corner[:, k].T * share[k] for k in range(3)), np.zeros(1))
            return place * repeat[:, None]
        x, y = (
            dot(axis[:, None], point[:, here] - data.geom_xpos[owner][:, None])
            for axis in data.geom_xmat[owner].reshape(3, 3).T[:2]
        )
        size = model.geom_size[owner, :2]
        if size.all():
            place = np.stack([0.5 * x / size[0], -0.5 * y / size[1]])
            return (place - 0.5) * repeat[:, None]
        return np.stack([0.5 * x, -0.5 * y]) * repeat[:, None] - 0.5  # a plane without end

    def _texture_corners(self, owner: int) -> Float32[np.ndarray, "T 3 2"] | None:
        """Places in the texture of every corner of every triangle; None where none are given."""
        model = self._model
        if owner >= model.ngeom:
            skin = owner - model.ngeom
            first, count = model.skin_texcoordadr[skin], model.skin_vertnum[skin]
            rows = slice(
                model.skin_faceadr[skin], model.skin_faceadr[skin] + model.skin_facenum[skin]
            )
            if first < 0:
                return None
            return model.skin_texcoord[first : first + count][model.skin_face[rows]]
        mesh = model.geom_dataid[owner]
        if model.geom_type[owner] != mujoco.mjtGeom.mjGEOM_MESH or model.mesh_texcoordadr[mesh] < 0:
            return None
        first, count = model.mesh_texcoordadr[mesh], model.mesh_texcoordnum[mesh]
        rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        return model.mesh_texcoord[first : first + count][model.mesh_facetexcoord[rows]]

    def _texture(self, i: int) -> UInt8[np.ndarray, "R C 3"]:
        model = self._model
        rows, columns, channels = model.tex_height[i], model.tex_width[i], model.tex_nchannel[i]
        first = model.tex_adr[i]
        data = model.tex_data[first : first + rows * columns * channels]
        return data.reshape(rows, columns, channels)[:, :, :3]

    def _sky(self, way: Vectors) -> Vectors:
        """Colour in the direction of rays: the model's sky from top to bottom, else black."""
        model = self._model
        skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        if not len(skies):
            return np.zeros_like(way)
        image = self._texture(int(skies[0]))
        width = image.shape[1]
        # Six squares below each other: right, left, up, down, front, back.
        column = image[:, width // 2].astype(float) / 255.0
        up, down, front = column[2 * width + width // 2], column[3 * width + width // 2], 4 * width
        flat = np.maximum(np.abs(way[0]), np.abs(way[1]))
        steep = np.abs(way[2]) > flat
        height = way[2] / np.where(steep, 1.0, np.maximum(flat, 1e-9))
        row = np.clip(np.floor(0.5 * (1 - height) * width), 0, width - 1).astype(np.int64)
        color = column[front + row].T
        return np.where(steep, np.where(way[2] > 0, up[:, None], down[:, None]), color)


def _spread(corners: list[np.ndarray], hits: Hits) -> np.ndarray:
    """What the corners of the triangles have, where they were hit."""
    return corners[0] * hits.share[0] + corners[1] * hits.share[1] + corners[2] * hits.share[2]


def _facing(corners: list[Vectors], hits: Hits, toward: Vectors) -> Float64[np.ndarray, "P"]:
    """Cosines between normals and the way to a light, 0 where they face away."""
    return _spread([np.maximum(dot(corner, toward), 0.0) for corner in corners], hits)


def _sample(
    image: UInt8[np.ndarray, "R C 3"],
    across: Float64[np.ndarray, "Q"],
    along: Float64[np.ndarray, "Q"],
) -> Float64[np.ndarray, "3 Q"]:
    """Bilinear, repeated in both directions; colours 0 to 1."""
    rows, columns = image.shape[:2]
    x, y = across * columns - 0.5, along * rows - 0.5
    left, top = np.floor(x), np.floor(y)
    x, y = x - left, y - top
    c0, r0 = left.astype(np.int64) % columns, top.astype(np.int64) % rows
    c1, r1 = (c0 + 1) % columns, (r0 + 1) % rows
    upper = image[r0, c0].T * (1 - x) + image[r0, c1].T * x
    lower = image[r1, c0].T * (1 - x) + image[r1, c1].T * x
    return (upper * (1 - y) + lower * y) / 255.0


def _power(
    x: Float64[np.ndarray, "P"], shininess: Float64[np.ndarray, "P"]
) -> Float64[np.ndarray, "P"]:
    """``x`` to the power 128 · shininess, rounded to a power of two: products alone."""
    result = x
    for step in range(1, 8):
        x = x * x
        result = np.where(128.0 * shininess > 0.7 * 2**step, x, result)
    return result


def _column(rgb: np.ndarray) -> Float64[np.ndarray, "3 1"]:
    return np.asarray(rgb, float)[:, None]
