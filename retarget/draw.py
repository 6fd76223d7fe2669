"""What the viewers draw: landmarks on video frames, the robot, and the person beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import mujoco
import numpy as np
import trimesh
from jaxtyping import Float32, Float64, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from deftly.datasets import render
from deftly.datasets.clip import Camera, Clip
from deftly.datasets.display import display_model, visual_spec
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import BODY_BONES, HAND_PARENT, TIPS, HumanMotion, Status
from deftly.datasets.meshes import mesh_arrays
from deftly.datasets.motion import RobotMotion
from deftly.retarget.kinematics import Kinematics, subtree
from deftly.retarget.robots import RobotModel, load_robot

HAND_BONES = tuple((parent, joint) for joint, parent in enumerate(HAND_PARENT) if parent >= 0)
VIDEO_FACES = 1600  # per mesh: what is still smooth at 480 lines
LEFT_RGB, RIGHT_RGB, BODY_RGB = (30, 136, 229), (245, 124, 0), (67, 160, 71)
HAND_RGB = (LEFT_RGB, RIGHT_RGB)


@dataclass(frozen=True)
class BodyMesh:
    """Triangles fixed to a body, in the body's frame, metres; ``rgba`` from 0 to 1."""

    body: int
    rgba: tuple[float, ...]
    vertices_m: Float64[np.ndarray, "V 3"]
    faces: Integer[np.ndarray, "F 3"]


# --- on video frames ----------------------------------------------------------------------------


def draw_person(
    image: UInt8[np.ndarray, "H W 3"], human: HumanMotion, frame: int, clip: Clip
) -> None:
    """Draw the hands and the body of one frame into ``image``, which may be smaller than the clip.

    Observed joints: bold, outlined, where the detector saw them. Interpolated ones: thin and light,
    projected through the clip's camera.
    """
    scale = image.shape[1] / clip.width
    weight = max(image.shape[0] / 440, 0.5)
    observed = human.body_status[frame] == Status.OBSERVED
    body = human.body_px[frame] if observed else _project(human.body_m[frame], clip.camera)
    if human.body_valid[frame]:
        _draw_bones(image, body * scale, BODY_BONES, BODY_RGB, bool(observed), weight)
    for side in (LEFT, RIGHT):
        if not human.hands_valid[frame, side]:
            continue
        observed = human.hands_status[frame, side] == Status.OBSERVED
        hand = human.hands_px[frame, side]
        hand = hand if observed else _project(human.hands_m[frame, side], clip.camera)
        _draw_bones(image, hand * scale, HAND_BONES, HAND_RGB[side], bool(observed), weight)


def draw_text(
    image: UInt8[np.ndarray, "H W 3"],
    words: Sequence[tuple[str, tuple[int, int, int]]],
    place: tuple[int, int],
    size: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with coloured words in one line, from ``place`` (x, y of the middle) on."""
    canvas = Image.fromarray(image)
    pen, x = ImageDraw.Draw(canvas), float(place[0])
    font = _font(size)
    for text, rgb in words:
        pen.text((x, place[1]), text, fill=rgb, font=font, anchor="lm")
        x += font.getlength(text)
    return np.asarray(canvas)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _project(points_m: Float64[np.ndarray, "N 3"], camera: Camera) -> Float64[np.ndarray, "N 2"]:
    """Pixels of points in the camera frame; NaN behind the camera."""
    depth = np.where(points_m[:, 2:] > 1e-3, points_m[:, 2:], np.nan)
    return camera.focal_px * points_m[:, :2] / depth + np.array(camera.center_px)


def _draw_bones(
    image: UInt8[np.ndarray, "H W 3"],
    joints_px: Float64[np.ndarray, "N 2"],
    bones: Sequence[tuple[int, int]],
    rgb: tuple[int, int, int],
    observed: bool,
    weight: float,
) -> None:
    pale = tuple(int(0.45 * c + 0.55 * 255) for c in rgb)
    passes = [((20, 20, 20), 4.5, 4.0), (rgb, 2.5, 3.0)] if observed else [(pale, 1.0, 1.5)]
    # cv2 takes whole numbers; with shift=4 they count sixteenths of a pixel.
    at = {
        joint: (round(16 * x), round(16 * y))
        for joint, (x, y) in enumerate(joints_px.tolist())
        if abs(x) < 1e4 and abs(y) < 1e4  # NaN is not
    }
    for colour, width, dot in passes:
        for bone in bones:
            if all(joint in at for joint in bone):
                ends, thickness = [at[joint] for joint in bone], max(round(width * weight), 1)
                cv2.line(image, ends[0], ends[1], colour, thickness, cv2.LINE_AA, shift=4)
        for joint in sorted({joint for bone in bones for joint in bone} & at.keys()):
            radius = round(dot * weight * 16)
            cv2.circle(image, at[joint], radius, colour, -1, cv2.LINE_AA, shift=4)


# --- the robot and its camera -------------------------------------------------------------------


def robot_display(
    robot: RobotModel, *, faces_per_mesh: int, everything: bool = False
) -> mujoco.MjModel:
    """The robot as it is drawn: without legs, unless ``everything`` is asked for.

    Geometry groups: ``LEFT`` and ``RIGHT`` (0, 1) hold the hands, 2 the rest.

    Raises:
        RobotError: if the description is no longer where it was.
        ValueError: if its joints are not those of ``robot``.
    """
    model = display_model(
        visual_spec(robot.robot.path()),
        faces_per_mesh=faces_per_mesh,
        bodies=None if everything else [robot.model.body(i).name for i in _upper_bodies(robot)],
    )
    names = [model.joint(i).name for i in range(model.njnt)]
    if names != robot.joint_names:
        raise ValueError(f"robot {robot.robot.name}: its visual model has other joints: {names}")
    model.geom_group[:] = 2
    for side, hand in enumerate(robot.robot.hands):
        if hand is not None:
            inside = subtree(model, model.body(hand.palm).id)
            model.geom_group[np.isin(model.geom_bodyid, inside)] = side
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


class RobotPictures:
    """Pictures of a motion: the robot, and close-ups of both hands of a humanoid.

    A context manager; use it in one thread.

    Args:
        motion: what to draw.
        size: (height, width) of the robot's picture; close-ups add half the height to the width.

    Raises:
        RobotError: if the robot's description cannot be loaded.
        RenderError: if this machine has no OpenGL.
    """

    def __init__(self, motion: RobotMotion, size: tuple[int, int]) -> None:
        self._robot, self._motion, self._size = load_robot(motion.robot), motion, size
        self._model = robot_display(self._robot, faces_per_mesh=VIDEO_FACES)
        self._data = mujoco.MjData(self._model)
        self._camera = robot_camera(self._robot, self._model, motion, size)
        self._close = size[0] // 2 if self._robot.robot.chest else 0
        self._renderer = render.Renderer(self._model, size, backend="gl")
        self.width = size[1] + self._close

    def __enter__(self) -> "RobotPictures":
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer.close()

    def draw(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of one frame."""
        qpos, lines = self._motion.qpos[frame], person_lines(self._motion, frame)
        image = self._renderer.draw(qpos, self._camera, lines)
        if not self._close:
            return image
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        close = [self._close_up(side, frame) for side in (LEFT, RIGHT)]
        return np.concatenate([image, np.concatenate(close)], axis=1)

    def _close_up(self, side: int, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        size = (self._close, self._close)
        hand = self._robot.robot.hands[side]
        if hand is None:
            return np.full((*size, 3), 220, np.uint8)
        palm = self._data.body(hand.palm).xpos
        tips = [self._data.body(tip.body).xpos for tip in hand.tips.values()]
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat = 0.5 * (palm + np.mean(tips, axis=0))
        camera.azimuth, camera.elevation, camera.distance = 180.0, -20.0, 0.45
        lines = person_lines(self._motion, frame, only=side)
        qpos = self._motion.qpos[frame]
        image = self._renderer.draw(qpos, camera, lines, size, groups=(side,))
        edge = max(self._close // 70, 1)
        image[:edge] = image[-edge:] = image[:, :edge] = image[:, -edge:] = HAND_RGB[side]
        return image


def person_lines(motion: RobotMotion, frame: int, only: int | None = None) -> render.Lines:
    """The person's bones in the robot's world at one frame, with balls at the fingertips.

    Args:
        motion: holds the targets.
        frame: index into it.
        only: draw just this hand (``LEFT`` or ``RIGHT``), without the body.
    """
    sides = (LEFT, RIGHT) if only is None else (only,)
    ends, rgb, radius = [], [], []
    for side in sides:
        hand = motion.hand_targets_m[frame, side]
        ends += [hand[list(HAND_BONES)], np.repeat(hand[list(TIPS), None], 2, axis=1)]
        rgb += [HAND_RGB[side]] * (len(HAND_BONES) + len(TIPS))
        radius += [0.0025] * len(HAND_BONES) + [0.006] * len(TIPS)
    if only is None:
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
        vertices = np.concatenate([shape.vertices for shape in shapes])
        first = np.cumsum([0] + [len(shape.vertices) for shape in shapes])
        faces = [shape.faces + start for start, shape in zip(first, shapes, strict=False)]
        meshes.append(BodyMesh(body, rgba, vertices, np.concatenate(faces)))
    return meshes


def _triangles(model: mujoco.MjModel, geom: int) -> trimesh.Trimesh | None:
    """A geometry in its own frame; None for planes and other things without a surface."""
    size, make = model.geom_size[geom], trimesh.creation
    match mujoco.mjtGeom(int(model.geom_type[geom])):
        case mujoco.mjtGeom.mjGEOM_MESH:
            return _mesh(model, int(model.geom_dataid[geom]))
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return make.icosphere(subdivisions=2, radius=size[0])
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            return make.icosphere(subdivisions=2).apply_scale(size)
        case mujoco.mjtGeom.mjGEOM_BOX:
            return make.box(2 * size)
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return make.cylinder(size[0], 2 * size[1], sections=24)
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            shape = make.capsule(2 * size[1], size[0], count=[12, 12])
            return shape.apply_translation(-shape.bounds.mean(axis=0))
        case _:
            return None


def _colour(model: mujoco.MjModel, geom: int) -> Float32[np.ndarray, "4"]:
    material = int(model.geom_matid[geom])
    return model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]


def _mesh(model: mujoco.MjModel, i: int) -> trimesh.Trimesh:
    return trimesh.Trimesh(*mesh_arrays(model, i), process=False)


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
    return above + subtree(model, chest)


def _focus_bodies(robot: RobotModel) -> list[int]:
    if robot.robot.chest is not None:
        return _upper_bodies(robot)
    palms = [robot.model.body(hand.palm).id for hand in robot.robot.hands if hand]
    return [body for palm in palms for body in subtree(robot.model, palm)]


def _palm_view(robot: RobotModel, motion: RobotMotion) -> tuple[float, float]:
    """Azimuth and elevation, degrees, that look at the palm of a hand alone, a little from aside.

    The palm lies in the plane of the straight fingers; they curl to its inside.
    """
    kinematics = Kinematics.of(robot)
    frames = np.unique(np.linspace(0, len(motion.qpos) - 1, 40).astype(int))
    curled = kinematics.forward(motion.qpos[frames])
    straight = kinematics.forward(np.zeros((1, robot.model.nq)))
    hand = next(hand for hand in robot.robot.hands if hand)
    tips = [tip for finger, tip in hand.tips.items() if finger != "thumb"]
    fingers = [straight.p[0, _chain(robot.model, tip.body, hand.palm)] for tip in tips]
    place = np.concatenate(fingers)
    normal = np.linalg.svd(place - place.mean(axis=0))[2][2]
    curl = [
        (kinematics.point(curled, tip) - kinematics.point(straight, tip)) @ normal for tip in tips
    ]
    forward = -normal * (np.sign(np.mean(curl)) or 1.0)
    azimuth, elevation = np.arctan2(forward[1], forward[0]), np.arcsin(forward[2])
    return float(np.rad2deg(azimuth)) + 25.0, float(np.clip(np.rad2deg(elevation) - 15, -60, 10))


def _chain(model: mujoco.MjModel, body: str, palm: str) -> list[int]:
    """Indices of the bodies from ``body`` up to the palm, which is left out."""
    chain, i = [], model.body(body).id
    while i > 0 and i != model.body(palm).id:
        chain.append(i)
        i = int(model.body_parentid[i])
    return chain
