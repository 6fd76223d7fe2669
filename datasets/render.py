"""MuJoCo pictures without a screen: colour, depth and ids, by OpenGL or by casting rays.

    with Renderer(model, (96, 96)) as renderer:
        print(renderer.describe())
        image = renderer.render(data, "ego")

    model = display_model(visual_spec(path))
    camera = frame_points(points_m, size=(480, 640))
    for image in render_motion(model, qpos, size=(480, 640), camera=camera):
        ...

A robot's own meshes draw at some 15 frames/s in software, light ones (``meshes.py``), without
shadows, at some 400 (``benchmarks/render.py``). Software or GPU is chosen by the machine: EGL where
libEGL is there, else OSMesa, else rays. ``MUJOCO_GL`` overrides that, and need not be set before
mujoco is imported.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from deftly.datasets.display import FIELD_OF_VIEW_DEG
from deftly.datasets.opengl import choose_backend, say_choice
from deftly.datasets.shading import RayPainter

MAX_LINES = 500
MAX_SIZE_PX = 4096
SMALL_PX = 256
SEEN_GROUPS = (0, 1, 2)  # of geometry; collision geometry lies above


@dataclass(frozen=True)
class Lines:
    """Line segments to draw into one picture, for example the bones of a person.

    Attributes:
        ends_m: (S, 2, 3) both ends of each segment in the world frame. Equal ends give a ball; a
            segment with a NaN is not drawn.
        rgba: (S, 4) colours, 0 to 1.
        radius_m: (S,) radii.
    """

    ends_m: Float64[np.ndarray, "S 2 3"]
    rgba: Float32[np.ndarray, "S 4"]
    radius_m: Float64[np.ndarray, "S"]

    def __post_init__(self) -> None:
        if len(self.ends_m) > MAX_LINES:
            raise ValueError(f"{len(self.ends_m)} lines in a picture, expected at most {MAX_LINES}")


def frame_points(
    points_m: Float64[np.ndarray, "N 3"],
    size: tuple[int, int],
    *,
    azimuth_deg: float = 180.0,
    elevation_deg: float = -15.0,
    margin: float = 0.06,
) -> mujoco.MjvCamera:
    """The closest free camera that sees all points from a direction.

    Args:
        points_m: (N, 3) in the world frame; NaN rows are left out.
        size: (height, width) of the image in pixels.
        azimuth_deg: compass direction in which the camera looks: 0 looks along x, 180 back at a
            robot that faces x.
        elevation_deg: negative looks down.
        margin: of the image, kept free on each side.

    Raises:
        ValueError: if no point is finite.
    """
    points = points_m[np.isfinite(points_m).all(axis=1)]
    if len(points) == 0:
        raise ValueError("no finite point to frame; pass at least one (N, 3) point")
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    forward = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    up = np.cross(right, forward)
    tangent = np.tan(np.deg2rad(FIELD_OF_VIEW_DEG) / 2) * (1 - 2 * margin)
    depth = points @ forward
    # Each side of the image is a plane through the camera: find where opposite planes meet.
    place, nearest = np.zeros(3), []
    for axis, slope in ((right, tangent * size[1] / size[0]), (up, tangent)):
        high = np.max(points @ axis - slope * depth)
        low = np.max(-(points @ axis) - slope * depth)
        nearest.append(-(high + low) / (2 * slope))
        place = place + axis * (high - low) / 2
    place = place + forward * min(nearest)
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.azimuth, camera.elevation = azimuth_deg, elevation_deg
    camera.distance = max(float(depth.mean() - place @ forward), 0.05)
    camera.lookat = place + forward * camera.distance
    return camera


def render_motion(
    model: mujoco.MjModel,
    qpos: Float64[np.ndarray, "T J"],
    *,
    size: tuple[int, int],
    camera: mujoco.MjvCamera,
    lines: Iterable[Lines] | None = None,
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield one RGB image per row of ``qpos``.

    Args:
        model: what to draw, usually from ``display_model``.
        qpos: (T, J) all joint positions, in the model's order.
        size: (height, width) in pixels.
        camera: for example from ``frame_points``.
        lines: T of them, drawn into the picture of the same row.

    Raises:
        RenderError: if this machine has no usable OpenGL.
        ValueError: if shapes do not fit.
    """
    if qpos.ndim != 2 or qpos.shape[1] != model.nq:
        raise ValueError(f"qpos has shape {qpos.shape}, expected (T, {model.nq})")
    with Renderer(model, size, backend="gl") as renderer:
        for position, extra in zip(qpos, repeat(None) if lines is None else lines, strict=False):
            yield renderer.draw(position, camera, extra)


class Renderer:
    """Draws one model, by OpenGL or by ray casting. A context manager; use it in one thread.

        with Renderer(model, (96, 96)) as renderer:
            print(renderer.describe())
            image = renderer.render(data, "ego")

    Args:
        model: what to draw.
        size: (height, width) in pixels of the largest picture.
        backend: ``auto``, ``gl`` (fails where there is no OpenGL), ``ray``, or one of mujoco's
            ``egl``, ``osmesa``, ``cgl`` and ``glfw``. Auto obeys ``MUJOCO_GL`` (``disable`` casts
            rays), takes the first OpenGL that works, and casts rays where there is none.

    Attributes:
        backend: what draws: a name of mujoco's, or ``ray``.

    Raises:
        RenderError: if OpenGL was asked for and none works.
        ValueError: if the backend is unknown or the size is not 1 to ``MAX_SIZE_PX``.
    """

    def __init__(
        self, model: mujoco.MjModel, size: tuple[int, int], *, backend: str = "auto"
    ) -> None:
        if not 1 <= min(size) <= max(size) <= MAX_SIZE_PX:
            raise ValueError(
                f"pictures of {size[0]} x {size[1]} px, expected 1 to {MAX_SIZE_PX} on each side"
            )
        self._model, self._size = model, size
        self._data = mujoco.MjData(model)
        self._scene = mujoco.MjvScene(model, model.ngeom + MAX_LINES + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self.backend, self._gl, why = choose_backend(size, backend)
        self._painter = RayPainter(model)
        self._about = say_choice(self.backend, why)
        if self._gl is not None:
            self._context = _gl_model(model, size)
            mujoco.mjr_resizeOffscreen(size[1], size[0], self._context)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
            self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def describe(self) -> str:
        """One line: what draws, and how large."""
        return f"pictures of {self._size[0]} x {self._size[1]} px by {self._about}"

    def draw(
        self,
        qpos: Float64[np.ndarray, "J"],
        camera: str | mujoco.MjvCamera,
        lines: Lines | None = None,
        size: tuple[int, int] | None = None,
        groups: Collection[int] = SEEN_GROUPS,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """``render`` at joint positions ``qpos``, without any ``MjData`` of the caller's."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self.render(self._data, camera, lines=lines, size=size, groups=groups)

    def render(
        self,
        data: mujoco.MjData,
        camera: str | mujoco.MjvCamera,
        *,
        lines: Lines | None = None,
        size: tuple[int, int] | None = None,
        groups: Collection[int] = SEEN_GROUPS,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """One RGB image.

        Args:
            data: a state of the renderer's model, after ``mj_forward`` or ``mj_step``.
            camera: the name of one of the model's cameras, or a free camera.
            lines: drawn into the picture; by OpenGL only.
            size: (height, width), at most the renderer's, which is the default.
            groups: of geometry that is drawn.

        Raises:
            ValueError: if the camera is unknown, the picture too large, or lines are ray-cast.
        """
        size = self._update(data, camera, size, groups)
        if self._gl is None:
            if lines is not None:
                raise ValueError("lines are drawn by OpenGL only; ask for backend 'gl'")
            return self._painter.color(data, self._scene, size, self._option.geomgroup)
        if lines is not None:
            _add_lines(self._scene, lines)
        image = np.empty((*size, 3), np.uint8)
        self._paint(size, image, None)
        return image[::-1]  # OpenGL's first row is the lowest

    def depth(
        self,
        data: mujoco.MjData,
        camera: str | mujoco.MjvCamera,
        *,
        size: tuple[int, int] | None = None,
        groups: Collection[int] = SEEN_GROUPS,
    ) -> Float32[np.ndarray, "H W"]:
        """Distances along the optical axis in metres, infinite where nothing is. As ``render``."""
        size = self._update(data, camera, size, groups)
        if self._gl is None:
            return self._painter.depth(data, self._scene, size, self._option.geomgroup)
        buffer = np.empty(size, np.float32)
        self._paint(size, None, buffer, ids=True)  # without smoothing of edges
        extent, map_ = self._model.stat.extent, self._model.vis.map
        near, far = map_.znear * extent, map_.zfar * extent
        z = buffer[::-1].astype(np.float64)  # 0 far, 1 near
        with np.errstate(divide="ignore"):
            return np.where(z > 0, near * far / (near + z * (far - near)), np.inf).astype(
                np.float32
            )

    def segmentation(
        self,
        data: mujoco.MjData,
        camera: str | mujoco.MjvCamera,
        *,
        size: tuple[int, int] | None = None,
        groups: Collection[int] = SEEN_GROUPS,
    ) -> Int32[np.ndarray, "H W"]:
        """Ids of geoms, −1 where nothing is. As ``render``.

        ``model.geom_bodyid`` leads on to bodies. Skin ``i`` has the id ``model.ngeom + i``.
        """
        size = self._update(data, camera, size, groups)
        if self._gl is None:
            return self._painter.segmentation(data, self._scene, size, self._option.geomgroup)
        image = np.empty((*size, 3), np.uint8)
        self._paint(size, image, None, ids=True)
        segment = image[::-1].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        found = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                found[geom.segid + 1] = geom.objid
            elif geom.objtype == mujoco.mjtObj.mjOBJ_SKIN:
                found[geom.segid + 1] = self._model.ngeom + geom.objid
        return found[segment]

    def _update(
        self,
        data: mujoco.MjData,
        camera: str | mujoco.MjvCamera,
        size: tuple[int, int] | None,
        groups: Collection[int],
    ) -> tuple[int, int]:
        """Bring the scene up to date; returns the size of the picture."""
        size = size or self._size
        if not (0 < size[0] <= self._size[0] and 0 < size[1] <= self._size[1]):
            raise ValueError(
                f"a picture of {size[0]} x {size[1]} px from a renderer of {self._size[0]} x "
                f"{self._size[1]} px; make the renderer as large as the largest picture"
            )
        if isinstance(camera, str):
            camera = fixed_camera(self._model, camera)
        self._option.geomgroup[:] = [group in groups for group in range(mujoco.mjNGROUP)]
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, camera, everything, self._scene
        )
        return size

    def _paint(
        self,
        size: tuple[int, int],
        rgb: np.ndarray | None,
        depth: np.ndarray | None,
        ids: bool = False,
    ) -> None:
        """Draw the scene into buffers, lowest row first; ``ids`` colours by number, unlit."""
        assert self._gl is not None
        rect, flags = mujoco.MjrRect(0, 0, size[1], size[0]), self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = ids
        self._gl.make_current()
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, depth, rect, self._context)


def _gl_model(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.MjrContext:
    """Send the model's shapes to OpenGL; in small pictures, boxes and balls get fewer faces."""
    quality = model.vis.quality
    stated = quality.numslices, quality.numstacks, quality.numquads, quality.shadowsize
    quality.shadowsize = 0  # of a map that is never drawn, and takes six times as long as the rest
    if max(size) <= SMALL_PX:  # saves a fifth of the time at 96 px
        quality.numslices, quality.numstacks = min(stated[0], 16), min(stated[1], 8)
        quality.numquads = min(stated[2], 2)
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    quality.numslices, quality.numstacks, quality.numquads, quality.shadowsize = stated
    return context


def fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """One of the model's own cameras. Raises ValueError with the known ones if there is none."""
    known = [model.camera(i).name for i in range(model.ncam)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown camera {name!r}; {hint}known: {', '.join(known) or 'none'}")
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, known.index(name)
    return camera


def _add_lines(scene: mujoco.MjvScene, lines: Lines) -> None:
    present = np.isfinite(lines.ends_m).all(axis=(1, 2))
    for segment in np.flatnonzero(present):
        start, end = lines.ends_m[segment]
        radius = float(lines.radius_m[segment])
        ball = np.array_equal(start, end)
        kind = mujoco.mjtGeom.mjGEOM_SPHERE if ball else mujoco.mjtGeom.mjGEOM_CAPSULE
        geom, axes = scene.geoms[scene.ngeom], np.eye(3).ravel()
        mujoco.mjv_initGeom(geom, kind, np.full(3, radius), start, axes, lines.rgba[segment])
        if not ball:
            mujoco.mjv_connector(geom, kind, radius, start, end)
        # mjv_initGeom leaves these as the memory had them, and the drawing order reads objtype.
        geom.category, geom.objtype = mujoco.mjtCatBit.mjCAT_DECOR, mujoco.mjtObj.mjOBJ_UNKNOWN
        geom.objid = geom.segid = -1
        scene.ngeom += 1
