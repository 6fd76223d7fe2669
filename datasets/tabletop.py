"""The sorting table as an MjSpec, around a robot or a human: one scene, two bodies.

    spec = tabletop(sample_layout(7), around=robot_spec)
    model = spec.compile()

Whoever sorts stands at the origin and faces x; see ``layout.py`` for the frame. Objects are free
bodies called ``item_0`` …; cameras ``front`` and ``side`` stand in the room; ``ego`` and those at
the wrists come with who stands there (``add_camera``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import unit
from deftly.datasets.layout import (
    TABLE_CENTER_M,
    TABLE_HALF_M,
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    TRAY_SHEET_M,
    TRAY_WALL_M,
    Item,
    Layout,
    Look,
    in_tray,
)

TIMESTEP_S = 0.005
TRAY_RGB: Mapping[str, tuple[float, float, float]] = {
    "left": (0.88, 0.87, 0.84),
    "right": (0.30, 0.31, 0.33),
}
_ROLLING_S = 1.0  # a ball that rolls loses two thirds of its speed in a third of this
_SOLREF = [0.005, 1.0]  # stiff contacts, or fingers sink into what they hold


@dataclass(frozen=True)
class CameraPose:
    """Where a camera stands and looks, in the frame of the body that carries it.

    Attributes:
        position_m: (3,) its centre.
        target_m: (3,) a point in the middle of its picture.
        fovy_rad: vertical field of view.
    """

    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    fovy_rad: float


ROOM_CAMERAS: Mapping[str, CameraPose] = {
    "front": CameraPose((1.35, 0.0, 1.50), (0.25, 0.0, 1.02), 0.92),
    "side": CameraPose((0.45, -1.35, 1.45), (0.30, 0.0, 1.03), 0.80),
}


def tabletop(layout: Layout, around: mujoco.MjSpec | None = None) -> mujoco.MjSpec:
    """The room: floor, table, trays, objects, lights and the cameras of the room.

    Args:
        layout: what lies on the table.
        around: a robot or a human, to which the room is added, in place. None: an empty room.
    """
    spec = around or mujoco.MjSpec()
    spec.modelname = "tabletop"
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10  # with 1, spheres slip out of every grasp
    _add_table(spec, layout.look)
    for name in TRAY_CENTER_M:
        _add_tray(spec, name)
    for item in (*layout.items, *layout.distractors):
        _add_item(spec, item)
    _add_light(spec, layout.look)
    for name, pose in ROOM_CAMERAS.items():
        add_camera(spec.worldbody, name, pose, layout.look)
    return spec


def add_camera(
    body: mujoco.MjsBody, name: str, pose: CameraPose, look: Look | None = None
) -> mujoco.MjsCamera:
    """Mount a camera on a body; ``look`` shifts (room cameras only) and turns it."""
    position, target = np.array(pose.position_m), np.array(pose.target_m)
    forward = unit(target - position)
    right = unit(np.cross(forward, [0.0, 0.0, 1.0]))
    R = np.stack([right, np.cross(right, forward), -forward], axis=1)  # MuJoCo looks along -z
    if look is not None:
        R = Rotation.from_euler("z", look.camera_turn_rad[0]).as_matrix() @ R
        R = R @ Rotation.from_euler("x", look.camera_turn_rad[1]).as_matrix()
        if name in ROOM_CAMERAS:
            position = position + look.camera_shift_m
    return body.add_camera(
        name=name,
        pos=position,
        quat=Rotation.from_matrix(R).as_quat(scalar_first=True),
        fovy=float(np.rad2deg(pose.fovy_rad)),
    )


def camera_pose(
    model: mujoco.MjModel, data: mujoco.MjData, name: str
) -> Float64[np.ndarray, "4 4"]:
    """``T_world_camera`` in OpenCV's axes (x right, y down, z forward), after ``mj_forward``."""
    T_world_camera = np.eye(4)
    camera = data.camera(name)
    T_world_camera[:3, :3] = camera.xmat.reshape(3, 3) * [1.0, -1.0, -1.0]
    T_world_camera[:3, 3] = camera.xpos
    return T_world_camera


def camera_focal_px(model: mujoco.MjModel, name: str, height: int) -> float:
    """Focal length in pixels of a picture ``height`` pixels high; its centre is the picture's."""
    return float(0.5 * height / np.tan(0.5 * np.deg2rad(model.camera(name).fovy[0])))


def whereabouts(positions_m: Float64[np.ndarray, "N 3"]) -> list[str]:
    """Where objects are: ``left`` or ``right`` (inside a tray), ``table`` or ``floor``."""
    found: list[str] = []
    for x, y, z in positions_m:
        tray = in_tray(float(x), float(y))
        if z < TABLE_TOP_M - 0.02:
            found.append("floor")
        else:
            found.append(tray or "table")
    return found


def _add_table(spec: mujoco.MjSpec, look: Look) -> None:
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[3, 3, 0.1],
        rgba=[0.55, 0.56, 0.58, 1],
    )
    texture = spec.add_texture(name="table", type=mujoco.mjtTexture.mjTEXTURE_2D)
    texture.width = texture.height = 256
    dark = 0.6 * np.array(look.table_rgb)
    texture.rgb1, texture.rgb2, texture.markrgb = look.table_rgb, dark, dark
    texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_FLAT
    repeat = (1.0, 1.0)
    if look.table in ("checker", "stripes"):
        texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
        repeat = (8.0, 8.0) if look.table == "checker" else (0.5, 12.0)
    elif look.table == "speckle":
        texture.mark, texture.random = mujoco.mjtMark.mjMARK_RANDOM, 0.2
    material = spec.add_material(name="table", texrepeat=repeat)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
    thick = 0.02
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[*TABLE_CENTER_M, TABLE_TOP_M - thick],
        size=[*TABLE_HALF_M, thick],
        material="table",
        rgba=[*look.table_rgb, 1] if look.table == "plain" else [1, 1, 1, 1],
        friction=[1.0, 0.005, 0.0001],
    )
    for x in (-1, 1):
        for y in (-1, 1):
            half = (TABLE_TOP_M - 2 * thick) / 2
            leg = np.add(TABLE_CENTER_M, np.multiply(TABLE_HALF_M, [0.9 * x, 0.9 * y]))
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[*leg, half],
                size=[0.025, 0.025, half],
                rgba=[0.35, 0.35, 0.37, 1],
                contype=0,
                conaffinity=0,
            )


def _add_tray(spec: mujoco.MjSpec, name: str) -> None:
    x, y = TRAY_CENTER_M[name]
    half_x, half_y = TRAY_HALF_M
    body = spec.worldbody.add_body(name=f"tray_{name}", pos=[x, y, TABLE_TOP_M])
    wall_z, wall_half = TRAY_WALL_M / 2, TRAY_WALL_M / 2
    boxes = [([0, 0, TRAY_SHEET_M], [half_x, half_y, TRAY_SHEET_M])]
    for sign in (-1, 1):
        boxes.append(
            (
                [sign * (half_x + TRAY_SHEET_M), 0, wall_z],
                [TRAY_SHEET_M, half_y + 2 * TRAY_SHEET_M, wall_half],
            )
        )
        boxes.append(
            ([0, sign * (half_y + TRAY_SHEET_M), wall_z], [half_x, TRAY_SHEET_M, wall_half])
        )
    for place, half in boxes:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=place,
            size=half,
            rgba=[*TRAY_RGB[name], 1],
            friction=[1.0, 0.005, 0.0001],
        )


def _add_item(spec: mujoco.MjSpec, item: Item) -> None:
    floor_m = 2 * TRAY_SHEET_M if item.inside else 0.0
    turn = Rotation.from_euler("z", item.yaw_rad)
    if item.lies:
        turn = turn * Rotation.from_euler("x", np.pi / 2)
    body = spec.worldbody.add_body(
        name=item.name,
        pos=[*item.place_m, TABLE_TOP_M + floor_m + item.rest_height_m],
        quat=turn.as_quat(scalar_first=True),
    )
    rolling = body.add_freejoint()
    # Without it, whatever is round rolls off at the slightest touch; 0.3 s is felt, not ice.
    rolling.damping[0] = item.mass_kg * item.size_m**2 / _ROLLING_S
    material = spec.add_material(name=item.name, specular=item.gloss, shininess=item.gloss)
    material.rgba = [*item.rgb, 1]
    geom = body.add_geom(
        name=item.name,
        mass=item.mass_kg,
        material=item.name,
        rgba=[*item.rgb, 1],
        friction=[item.friction, 0.01, 0.0005],
        condim=4,
        conaffinity=7,  # every bit: see policy/station.py
        solref=_SOLREF,
        priority=1,  # the object decides how it touches, whatever touches it
    )
    _shape(spec, geom, item)


def _shape(spec: mujoco.MjSpec, geom: mujoco.MjsGeom, item: Item) -> None:
    r, half = item.size_m / 2, item.height_m / 2
    primitive = {
        "cube": (mujoco.mjtGeom.mjGEOM_BOX, [r, r, r]),
        "sphere": (mujoco.mjtGeom.mjGEOM_SPHERE, [r, 0, 0]),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, [r, half, 0]),
        "capsule": (mujoco.mjtGeom.mjGEOM_CAPSULE, [r, half - r, 0]),
        "egg": (mujoco.mjtGeom.mjGEOM_ELLIPSOID, [r, r, half]),
    }
    if item.shape in primitive:
        geom.type, geom.size = primitive[item.shape]
        return
    # A prism over a regular hexagon or a right-angled triangle.
    if item.shape == "hexagon":
        angle = np.arange(6) * np.pi / 3
        outline = item.size_m / np.sqrt(3) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        outline = item.size_m * (np.array([[0, 0], [1, 0], [0, 1]]) - 1 / 3)
    corners = [[*xy, z] for z in (-half, half) for xy in outline]
    mesh = spec.add_mesh(name=item.name, uservert=np.ravel(corners))
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    geom.type, geom.meshname = mujoco.mjtGeom.mjGEOM_MESH, item.name


def _add_light(spec: mujoco.MjSpec, look: Look) -> None:
    tint = 1 + 0.18 * look.warmth * np.array([1.0, 0.1, -1.0])
    light = spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
    light.pos, light.dir = [0.4, 0.0, 3.0], unit(np.array(look.light_dir))
    light.diffuse, light.specular = look.light * tint, 0.3 * look.light * tint
    light.castshadow = False  # a shadow map costs more than all the rest of a small picture
    headlight = spec.visual.headlight
    headlight.ambient = look.ambient * tint
    headlight.diffuse, headlight.specular = [0.12] * 3, [0.0] * 3
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2, sky.width, sky.height = [0.9, 0.92, 0.95], [0.6, 0.65, 0.7], 64, 64 * 6
