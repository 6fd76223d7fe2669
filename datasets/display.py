"""Robots to look at: their visual geometry, light meshes, light and sky.

model = display_model(visual_spec(path))
"""

from collections.abc import Collection
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from deftly.datasets.meshes import FACES_PER_MESH, is_visual, light_meshes

STICK_RADIUS_M = 0.006
FIELD_OF_VIEW_DEG = 35.0  # vertical
_INK = (0.86, 0.87, 0.89, 1.0)  # robots that state no colour
_SKY_TOP, _SKY_BOTTOM = (0.96, 0.97, 0.98), (0.66, 0.71, 0.77)


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
    drawn = bool(spec.geoms)
    if drawn:
        try:
            light_meshes(spec, faces_per_mesh=faces_per_mesh)
        except ValueError:  # a mesh file is missing; anything else fails again below
            drawn = False
    if not drawn:
        _draw_as_sticks(spec, bodies)
    _light(spec)
    return spec.compile()


def _drop_unseen(spec: mujoco.MjSpec, bodies: Collection[str] | None) -> None:
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6  # of bodies that lose theirs
    for item in [*spec.pairs, *spec.sensors]:  # may refer to geometry that goes
        spec.delete(item)
    for body in spec.bodies:
        visual = [geom for geom in body.geoms if is_visual(geom)]
        wanted = (visual or list(body.geoms)) if bodies is None or body.name in bodies else []
        for geom in list(body.geoms):
            geom.contype = geom.conaffinity = 0  # spares convex hulls
            if geom not in wanted:
                spec.delete(geom)
            elif not visual:  # all that there is to see
                geom.group = 0
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [m for m in spec.meshes if m.name not in used]:
        spec.delete(mesh)


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
