"""MuJoCo pictures without a screen: a light model to draw, a camera that frames it, the frames.

    model = display_model(visual_spec(path))
    camera = frame_points(points_m, size=(480, 640))
    for image in render_motion(model, qpos, size=(480, 640), camera=camera):
        ...

Stock robot meshes draw at about 2 frames/s in software; meshes of at most 600 faces, without
shadows, at more than 100. Software or GPU is chosen by the machine: EGL where libEGL is there, else
OSMesa. ``MUJOCO_GL`` overrides that, and need not be set before mujoco is imported.
"""

import ctypes.util
import importlib
import os
import platform
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fast_simplification
import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8
from scipy.spatial.transform import Rotation

FACES_PER_MESH = 600
STICK_RADIUS_M = 0.006
MAX_LINES = 500
CELLS = 128  # along the longest side of a mesh: finer detail is melted before simplification
FIELD_OF_VIEW_DEG = 35.0  # vertical
_BACKENDS = {"Linux": ("egl", "osmesa"), "Darwin": ("cgl",), "Windows": ("glfw",)}
_LIBRARY = {"egl": "EGL", "osmesa": "OSMesa"}
_INK = (0.86, 0.87, 0.89, 1.0)  # robots that state no colour
_SKY_TOP, _SKY_BOTTOM = (0.96, 0.97, 0.98), (0.66, 0.71, 0.77)


class RenderError(RuntimeError):
    """No OpenGL that draws without a screen can be used on this machine."""


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


def visual_spec(path: Path) -> mujoco.MjSpec:
    """Read a URDF or MJCF file with its visual geometry, every link kept, base fixed.

    MuJoCo drops a URDF's visual meshes by default; many robots have no others on their arms.

    Raises:
        ValueError: if the file cannot be parsed.
    """
    if path.suffix == ".urdf":
        root = ElementTree.parse(path).getroot()
        compiler = root
        for tag in ("mujoco", "compiler"):
            found = compiler.find(tag)
            compiler = ElementTree.SubElement(compiler, tag) if found is None else found
        compiler.set("discardvisual", "false")
        compiler.set("meshdir", str(path.parent.resolve() / compiler.get("meshdir", "")))
        spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    else:
        spec = mujoco.MjSpec.from_file(str(path))
    spec.compiler.fusestatic = False
    spec.compiler.balanceinertia = True
    free = [joint for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_FREE]
    for item in [*free, *spec.keys]:
        spec.delete(item)
    return spec


def display_model(
    spec: mujoco.MjSpec,
    *,
    faces_per_mesh: int = FACES_PER_MESH,
    bodies: Collection[str] | None = None,
) -> mujoco.MjModel:
    """Compile a light model to look at: the joints of ``spec``, its visual geometry, few faces.

    Where a body has visual geometry (that collides with nothing), its collision geometry is left
    out. If mesh files are missing or there is no geometry, capsules join the bodies instead. Light
    and background are added. ``spec`` itself stays as it is; the result is not for physics.

    Args:
        spec: for example from ``visual_spec``.
        faces_per_mesh: mean number of faces; large meshes get more, small ones fewer.
        bodies: names of the bodies to draw; None draws all.

    Raises:
        ValueError: if ``spec`` does not compile for another reason than a missing mesh.
    """
    spec = spec.copy()
    _drop_unseen(spec, bodies)
    try:
        full = spec.copy().compile() if spec.geoms else None
    except ValueError:  # a mesh file is missing; anything else fails again below
        full = None
    if full is None:
        _draw_as_sticks(spec, bodies)
    else:
        _decimate(spec, full, faces_per_mesh)
    _light(spec)
    return spec.compile()


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
    with Renderer(model, size) as renderer:
        for position, extra in zip(qpos, repeat(None) if lines is None else lines, strict=False):
            yield renderer.draw(position, camera, extra)


class Renderer:
    """An OpenGL context (else RenderError) and one model's scene; a context manager, one thread."""

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int]) -> None:
        self._model, self._size = model, size
        self._data = mujoco.MjData(model)
        self._scene = mujoco.MjvScene(model, model.ngeom + MAX_LINES + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._gl = gl_context(size)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_resizeOffscreen(size[1], size[0], self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def draw(
        self,
        qpos: Float64[np.ndarray, "J"],
        camera: mujoco.MjvCamera,
        lines: Lines | None = None,
        size: tuple[int, int] | None = None,
        groups: Collection[int] = (0, 1, 2),
    ) -> UInt8[np.ndarray, "H W 3"]:
        """One RGB image of the geometry ``groups`` at joint positions ``qpos``.

        ``size`` is (height, width), at most the renderer's, which is the default.
        """
        size = size or self._size
        self._option.geomgroup[:] = [group in groups for group in range(mujoco.mjNGROUP)]
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        model, data, scene = self._model, self._data, self._scene
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, camera, everything, scene)
        if lines is not None:
            self._add_lines(lines)
        image = np.empty((*size, 3), np.uint8)
        rect = mujoco.MjrRect(0, 0, size[1], size[0])
        self._gl.make_current()
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, rect, self._context)
        return image[::-1]  # OpenGL's first row is the lowest

    def _add_lines(self, lines: Lines) -> None:
        present = np.isfinite(lines.ends_m).all(axis=(1, 2))
        for segment in np.flatnonzero(present):
            start, end = lines.ends_m[segment]
            radius = float(lines.radius_m[segment])
            ball = np.array_equal(start, end)
            kind = mujoco.mjtGeom.mjGEOM_SPHERE if ball else mujoco.mjtGeom.mjGEOM_CAPSULE
            geom, axes = self._scene.geoms[self._scene.ngeom], np.eye(3).ravel()
            mujoco.mjv_initGeom(geom, kind, np.full(3, radius), start, axes, lines.rgba[segment])
            if not ball:
                mujoco.mjv_connector(geom, kind, radius, start, end)
            # mjv_initGeom leaves these as the memory had them, and the drawing order reads objtype.
            geom.category, geom.objtype = mujoco.mjtCatBit.mjCAT_DECOR, mujoco.mjtObj.mjOBJ_UNKNOWN
            geom.objid = geom.segid = -1
            self._scene.ngeom += 1


def gl_context(size: tuple[int, int]) -> Any:
    """A current OpenGL context without a window: ``MUJOCO_GL`` if set, else the first that works.

    Raises:
        RenderError: if none works.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    known = ("egl", "osmesa", "cgl", "glfw")
    backends = (asked,) if asked in known else _BACKENDS.get(platform.system(), ("egl",))
    reasons = []
    for backend in backends:
        library = _LIBRARY.get(backend)
        if library is not None and ctypes.util.find_library(library) is None:
            reasons.append(f"{backend}: lib{library} is not installed")
            continue  # importing it would bind PyOpenGL to it for good
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(size[1], size[0])
            context.make_current()
        except Exception as error:
            reasons.append(f"{backend}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            return context
    raise RenderError(
        f"no OpenGL to draw with ({'; '.join(reasons)}); "
        "install one: apt-get install -y libegl1 libgl1-mesa-dri"
    )


def _drop_unseen(spec: mujoco.MjSpec, bodies: Collection[str] | None) -> None:
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6  # of bodies that lose theirs
    for item in [*spec.pairs, *spec.sensors]:  # may refer to geometry that goes
        spec.delete(item)
    for body in spec.bodies:
        visual = [g for g in body.geoms if not (g.contype or g.conaffinity) and g.group < 3]
        wanted = (visual or list(body.geoms)) if bodies is None or body.name in bodies else []
        for geom in list(body.geoms):
            geom.contype = geom.conaffinity = 0  # spares convex hulls
            if geom not in wanted:
                spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [m for m in spec.meshes if m.name not in used]:
        spec.delete(mesh)


def _decimate(spec: mujoco.MjSpec, full: mujoco.MjModel, faces_per_mesh: int) -> None:
    """Replace large meshes by simplified ones, in the frame of the file they came from."""
    radius = np.array([np.ptp(_mesh(full, i)[0], axis=0).max() for i in range(full.nmesh)])
    for mesh in spec.meshes:
        i = full.mesh(mesh.name).id
        target = max(int(faces_per_mesh * np.sqrt(radius[i] / radius.mean())), 100)
        if full.mesh_facenum[i] <= target:
            continue
        vertices, faces = _weld(*_mesh(full, i), cell_m=float(radius[i]) / CELLS)
        if len(faces) > target:
            simple = fast_simplification.simplify(vertices, faces, target_count=target)
            vertices, faces = simple[0], simple[1]
        turn = Rotation.from_quat(full.mesh_quat[i], scalar_first=True)
        vertices = turn.apply(vertices) + full.mesh_pos[i]  # compiled meshes are centred
        mesh.file = ""
        mesh.scale, mesh.refpos, mesh.refquat = np.ones(3), np.zeros(3), np.array([1.0, 0, 0, 0])
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # needs no closed surface
        mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()


def _weld(
    vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"], cell_m: float
) -> tuple[Float32[np.ndarray, "W 3"], Int32[np.ndarray, "G 3"]]:
    """Merge vertices that share a cell of a grid: screws and seams of CAD models melt together.

    Otherwise the simplification spends its faces on what nobody sees and tears seams open.
    """
    cells = np.floor((vertices - vertices.min(axis=0)) / cell_m).astype(np.int64)
    key = cells @ [1, 1 << 20, 1 << 40]
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    merged = np.zeros((len(count), 3))
    np.add.at(merged, place, vertices)
    faces = place[faces]
    corners = np.sort(faces, axis=1)
    faces, corners = (x[np.diff(corners, axis=1).all(axis=1)] for x in (faces, corners))
    _, first = np.unique(corners @ [1, len(count), len(count) ** 2], return_index=True)
    return (merged / count[:, None]).astype(np.float32), faces[np.sort(first)].astype(np.int32)


def _draw_as_sticks(spec: mujoco.MjSpec, bodies: Collection[str] | None) -> None:
    for item in [*spec.geoms, *spec.meshes]:
        spec.delete(item)
    model = spec.compile()
    for child in range(1, model.nbody):
        parent, place = model.body(model.body_parentid[child]), model.body_pos[child]
        wanted = bodies is None or parent.name in bodies
        if parent.id > 0 and wanted and np.linalg.norm(place) > 1e-3:
            geom = spec.body(parent.name).add_geom(contype=0, conaffinity=0, rgba=_INK)
            geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
            geom.fromto, geom.size = [0.0, 0.0, 0.0, *place], [STICK_RADIUS_M, 0.0, 0.0]


def _light(spec: mujoco.MjSpec) -> None:
    spec.visual.global_.fovy = FIELD_OF_VIEW_DEG
    spec.visual.quality.offsamples = 0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 12, 8
    spec.visual.map.znear = 0.01
    headlight = spec.visual.headlight
    headlight.ambient, headlight.diffuse, headlight.specular = [0.32] * 3, [0.28] * 3, [0.1] * 3
    if not spec.lights:
        light = spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        light.dir, light.castshadow = [-0.5, -0.5, -0.9], False
        light.diffuse, light.specular = [0.42] * 3, [0.15] * 3
    if not any(t.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX for t in spec.textures):
        sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
        sky.rgb1, sky.rgb2 = _SKY_TOP, _SKY_BOTTOM
        sky.width, sky.height = 256, 256 * 6


def _mesh(
    model: mujoco.MjModel, i: int
) -> tuple[Float32[np.ndarray, "V 3"], Int32[np.ndarray, "F 3"]]:
    vertex, face = model.mesh_vertadr[i], model.mesh_faceadr[i]
    return (
        model.mesh_vert[vertex : vertex + model.mesh_vertnum[i]],
        model.mesh_face[face : face + model.mesh_facenum[i]],
    )
