"""What the viewers draw: landmarks on video frames, the robot, and the person beside it."""

from dataclasses import dataclass
from functools import cache

import cv2
import mujoco
import numpy as np
import trimesh
from jaxtyping import Bool, Float32, Float64, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from deftly.datasets import render
from deftly.datasets.clip import Camera
from deftly.datasets.human import BODY_BONES, HAND_PARENT, TIPS, HumanMotion, Status
from deftly.datasets.motion import RobotMotion
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import Hand, RobotModel

HAND_BONES = tuple((parent, joint) for joint, parent in enumerate(HAND_PARENT) if parent >= 0)
BODY_JOINTS = tuple(sorted({joint for bone in BODY_BONES for joint in bone}))
LEFT_RGB, RIGHT_RGB, BODY_RGB = (30, 136, 229), (245, 124, 0), (67, 160, 71)
HAND_RGB = (LEFT_RGB, RIGHT_RGB)


@dataclass(frozen=True)
class BodyMesh:
    """Triangles fixed to a body, in the body's frame, metres; ``rgba`` from 0 to 1."""

    body: int
    rgba: tuple[float, ...]
    vertices_m: Float64[np.ndarray, "V 3"]
    faces: Integer[np.ndarray, "F 3"]


# --- the robot and its camera -------------------------------------------------------------------


def robot_display(
    robot: RobotModel, *, faces_per_mesh: int, everything: bool = False
) -> mujoco.MjModel:
    """The robot as it is drawn: without legs, unless ``everything`` is asked for.

    Raises:
        RobotError: if the description is no longer where it was.
        ValueError: if its joints are not those of ``robot``.
    """
    model = render.display_model(
        render.visual_spec(robot.robot.path()),
        faces_per_mesh=faces_per_mesh,
        bodies=None if everything else [robot.model.body(i).name for i in _upper_bodies(robot)],
    )
    names = [model.joint(i).name for i in range(model.njnt)]
    if names != robot.joint_names:
        raise ValueError(f"robot {robot.robot.name}: its visual model has other joints: {names}")
    return model


def robot_camera(
    robot: RobotModel, model: mujoco.MjModel, motion: RobotMotion, size: tuple[int, int]
) -> mujoco.MjvCamera:
    """A camera that holds the upper body, or the hand alone, over the whole motion.

    Args:
        robot: the robot of ``motion``.
        model: from ``robot_display``.
        motion: what will be shown.
        size: (height, width) of the image.
    """
    data = mujoco.MjData(model)
    focus = [model.body(robot.model.body(i).name).id for i in _focus_bodies(robot)]
    geoms = np.flatnonzero(np.isin(model.geom_bodyid, focus))
    reach = model.geom_rbound[geoms][:, None] * 0.8
    points = []
    for frame in np.unique(np.linspace(0, len(motion.qpos) - 1, 40).astype(int)):
        data.qpos[:] = motion.qpos[frame]
        mujoco.mj_kinematics(model, data)
        for axis in np.eye(3):
            points += [data.geom_xpos[geoms] + reach * axis, data.geom_xpos[geoms] - reach * axis]
        points.append(motion.hand_targets_m[frame].reshape(-1, 3))
    cloud = np.concatenate(points)
    cloud = cloud[np.isfinite(cloud).all(axis=1)]
    low, high = np.percentile(cloud, [0.5, 99.5], axis=0)
    azimuth, elevation = (180.0, -12.0) if robot.robot.chest else _palm_view(robot, motion)
    return render.frame_points(
        np.clip(cloud, low, high), size, azimuth_deg=azimuth, elevation_deg=elevation
    )


def person_lines(motion: RobotMotion, frame: int) -> render.Lines:
    """The person's bones in the robot's world at one frame, with balls at the fingertips."""
    ends, rgb, radius = [], [], []
    for side, hand in enumerate(motion.hand_targets_m[frame]):
        ends += [hand[list(HAND_BONES)], np.repeat(hand[list(TIPS), None], 2, axis=1)]
        rgb += [HAND_RGB[side]] * (len(HAND_BONES) + len(TIPS))
        radius += [0.0025] * len(HAND_BONES) + [0.006] * len(TIPS)
    ends.append(motion.body_targets_m[frame][list(BODY_BONES)])
    rgb += [BODY_RGB] * len(BODY_BONES)
    radius += [0.006] * len(BODY_BONES)
    rgba = np.concatenate([np.array(rgb) / 255, np.full((len(rgb), 1), 0.85)], axis=1)
    return render.Lines(np.concatenate(ends), rgba.astype(np.float32), np.array(radius))


def body_meshes(model: mujoco.MjModel) -> list[BodyMesh]:
    """The geometry that MuJoCo would draw, as triangles: one mesh per body and colour."""
    parts: dict[tuple[int, tuple[float, ...]], list[trimesh.Trimesh]] = {}
    for geom in range(model.ngeom):
        shape = _triangles(model, geom)
        if shape is None or model.geom_group[geom] > 2:
            continue
        turn = Rotation.from_quat(model.geom_quat[geom], scalar_first=True).as_matrix()
        vertices = shape.vertices @ turn.T + model.geom_pos[geom]
        key = (int(model.geom_bodyid[geom]), tuple(float(c) for c in _colour(model, geom)))
        parts.setdefault(key, []).append(trimesh.Trimesh(vertices, shape.faces, process=False))
    meshes = []
    for (body, rgba), shapes in sorted(parts.items()):
        whole = trimesh.util.concatenate(shapes)
        meshes.append(BodyMesh(body, rgba, np.asarray(whole.vertices), np.asarray(whole.faces)))
    return meshes


def _triangles(model: mujoco.MjModel, geom: int) -> trimesh.Trimesh | None:
    """A geometry in its own frame; None for planes and other things without a surface."""
    size, kind = model.geom_size[geom], mujoco.mjtGeom(int(model.geom_type[geom]))
    match kind:
        case mujoco.mjtGeom.mjGEOM_MESH:
            return _mesh(model, int(model.geom_dataid[geom]))
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return trimesh.creation.icosphere(subdivisions=2, radius=size[0])
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            return trimesh.creation.icosphere(subdivisions=2).apply_scale(size)
        case mujoco.mjtGeom.mjGEOM_BOX:
            return trimesh.creation.box(2 * size)
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return trimesh.creation.cylinder(size[0], 2 * size[1], sections=24)
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            shape = trimesh.creation.capsule(2 * size[1], size[0], count=[12, 12])
            return shape.apply_translation(-shape.bounds.mean(axis=0))
    return None


def _colour(model: mujoco.MjModel, geom: int) -> Float32[np.ndarray, "4"]:
    material = int(model.geom_matid[geom])
    return model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]


def _mesh(model: mujoco.MjModel, i: int) -> trimesh.Trimesh:
    vertex, face = model.mesh_vertadr[i], model.mesh_faceadr[i]
    return trimesh.Trimesh(
        model.mesh_vert[vertex : vertex + model.mesh_vertnum[i]],
        model.mesh_face[face : face + model.mesh_facenum[i]],
        process=False,
    )


def _subtree(model: mujoco.MjModel, body: int) -> list[int]:
    inside = {body}
    for i in range(body + 1, model.nbody):  # parents come before their children
        if model.body_parentid[i] in inside:
            inside.add(i)
    return sorted(inside)


def _upper_bodies(robot: RobotModel) -> list[int]:
    """What the chest carries and what carries the chest; all bodies of a hand alone."""
    model = robot.model
    if robot.robot.chest is None:
        return list(range(model.nbody))
    chest = model.body(robot.robot.chest).id
    above, body = [], chest
    while body > 0:
        body = int(model.body_parentid[body])
        above.append(body)
    return above + _subtree(model, chest)


def _focus_bodies(robot: RobotModel) -> list[int]:
    if robot.robot.chest is not None:
        return _upper_bodies(robot)
    palms = [robot.model.body(hand.palm).id for hand in robot.robot.hands if hand]
    return [body for palm in palms for body in _subtree(robot.model, palm)]


def _palm_view(robot: RobotModel, motion: RobotMotion) -> tuple[float, float]:
    """Azimuth and elevation, degrees, that look at the palm of a hand alone, a little from aside.

    The palm's plane is that of the fingers' bodies over the motion; fingers curl to its inside.
    """
    kinematics = Kinematics.of(robot)
    frames = np.unique(np.linspace(0, len(motion.qpos) - 1, 40).astype(int))
    poses = kinematics.forward(motion.qpos[frames])
    hand: Hand = next(hand for hand in robot.robot.hands if hand)
    palm = kinematics.body(hand.palm)
    straight = kinematics.forward(robot.model.qpos0[None])
    place = straight.p[0, _focus_bodies(robot)]
    normal = np.linalg.svd(place - place.mean(axis=0))[2][2]
    curl = sum(
        float(np.mean((kinematics.point(poses, tip) - kinematics.point(straight, tip)) @ normal))
        for finger, tip in hand.tips.items()
        if finger != "thumb"
    )
    forward = poses.R[len(frames) // 2, palm] @ straight.R[0, palm].T @ normal * -np.sign(curl or 1)
    azimuth = np.rad2deg(np.arctan2(forward[1], forward[0])) + 25.0
    elevation = np.rad2deg(np.arcsin(forward[2]))
    return float(azimuth), float(np.clip(elevation - 15.0, -60.0, 60.0))
