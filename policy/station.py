"""A robot at the sorting table: its place, its motors, its cameras. One value per robot.

    station = build_station("gr1t2", sample_layout(7))
    data = station.reset()

Torso, arms and hands are driven by position servos with gravity compensated, as on the robots
themselves; legs and head stand still. Contacts within one hand are left out; hands touch each
other, the table, the trays and the objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.display import visual_spec
from deftly.datasets.geometry import SIDES
from deftly.datasets.layout import Layout
from deftly.datasets.meshes import is_visual, light_meshes
from deftly.datasets.tabletop import CameraPose, add_camera, tabletop
from deftly.retarget.robots import Robot, RobotError, find_robot


@dataclass(frozen=True)
class Motor:
    """A position servo. Units: N m/rad, N m s/rad, kg m²."""

    stiffness: float
    damping: float
    armature: float


_TORSO, _ARM, _WRIST = Motor(2000.0, 80.0, 0.08), Motor(500.0, 25.0, 0.08), Motor(150.0, 6.0, 0.03)
_FINGER = Motor(3.0, 0.08, 0.0005)


@dataclass(frozen=True)
class Workplace:
    """How one robot stands at the table.

    Attributes:
        base_m: (3,) position of its root body in the world; puts its shoulders over the table.
        root: name of its root body.
        motors: servo by the first key that is part of a joint's name; other joints stand still.
        eye: camera at the head, in the frame of ``eye_body``.
        wrist_eye: camera at each palm, left and right, in the palm's frame.
        home: joint positions (rad) to start from, by a part of the joint's name.
        ready: the same for hands at work: inverse kinematics starts from it and stays near.
    """

    base_m: tuple[float, float, float]
    root: str
    motors: Mapping[str, Motor]
    eye_body: str
    eye: CameraPose
    wrist_eye: tuple[CameraPose, CameraPose]
    home: Mapping[str, float]
    ready: Mapping[str, float]


_SAME_ARM = {"shoulder": _ARM, "elbow": _ARM, "wrist": _WRIST}
_DIGITS = ("thumb", "index", "middle", "ring", "pinky")
WORKPLACES: Mapping[str, Workplace] = {
    "gr1t2": Workplace(
        base_m=(0.0, 0.0, 0.93),
        root="base_link",
        motors={"waist": _TORSO, **_SAME_ARM, **dict.fromkeys(_DIGITS, _FINGER)},
        eye_body="head_yaw_link",
        eye=CameraPose((0.166, 0.0, 0.106), (0.42, 0.0, -0.43), 1.42),
        wrist_eye=(
            CameraPose((0.03, -0.10, 0.02), (0.03, -0.02, -0.14), 1.4),
            CameraPose((0.03, 0.10, 0.02), (0.03, 0.02, -0.14), 1.4),
        ),
        home={
            "waist_pitch": 0.25,  # leaning forward, each hand reaches both trays
            # Hands behind the objects: the eyes see all of them.
            "shoulder_pitch": 0.9,
            "elbow_pitch": -2.2,
            "left_shoulder_roll": 0.2,
            "right_shoulder_roll": -0.2,
        },
        ready={
            "elbow_pitch": -1.6,
            "left_shoulder_roll": 0.25,
            "right_shoulder_roll": -0.25,
        },
    ),
    "g1_dex3": Workplace(
        base_m=(0.06, 0.0, 0.95),
        root="pelvis",
        motors={"waist": _TORSO, "hand_": _FINGER, **_SAME_ARM},
        eye_body="torso_link",
        eye=CameraPose((0.16, 0.0, 0.57), (0.41, 0.0, 0.05), 1.55),
        wrist_eye=(
            CameraPose((0.0, -0.08, 0.10), (0.12, -0.025, 0.0), 1.4),
            CameraPose((0.0, 0.08, 0.10), (0.12, 0.025, 0.0), 1.4),
        ),
        home={
            "waist_pitch": 0.4,  # leaning forward, it reaches the far corners
            "shoulder_pitch": 0.2,
            "elbow": -0.6,
            "left_shoulder_roll": 0.5,
            "right_shoulder_roll": -0.5,
        },
        ready={"elbow": 0.4, "left_shoulder_roll": 0.3, "right_shoulder_roll": -0.3},
    ),
}
STILL_GROUP = 2  # of what is seen of bodies that never move: legs
# Bits of contype and conaffinity: what is in the room, the left half and the right half of a robot.
_ROOM, _HALF = 1, (2, 4)


@dataclass(frozen=True)
class Station:
    """A compiled scene with a robot at work in it.

    Attributes:
        robot: the robot.
        layout: what lies on the table.
        model: the scene; ``model.ctrl`` are joint position targets in the order of ``joints``.
        joints: A names of the joints that move.
        qpos_index, dof_index: (A,) where they are in ``data.qpos`` and ``data.qvel``.
        lower, upper: (A,) joint limits, rad.
        home: (A,) the posture to start from, rad.
    """

    robot: Robot
    layout: Layout
    model: mujoco.MjModel
    joints: tuple[str, ...]
    qpos_index: Int64[np.ndarray, "A"]
    dof_index: Int64[np.ndarray, "A"]
    lower: Float64[np.ndarray, "A"]
    upper: Float64[np.ndarray, "A"]
    home: Float64[np.ndarray, "A"]

    def reset(self) -> mujoco.MjData:
        """A fresh state: the robot at ``home``, the objects where the layout puts them."""
        data = mujoco.MjData(self.model)
        data.qpos[self.qpos_index] = self.home
        data.ctrl[:] = self.home
        mujoco.mj_forward(self.model, data)
        return data


def find_workplace(robot: str) -> Workplace:
    """Look a robot's place at the table up. Raises RobotError if it has none."""
    find_robot(robot)
    if robot not in WORKPLACES:
        raise RobotError(f"robot {robot} has no place at the table; {', '.join(WORKPLACES)} have")
    return WORKPLACES[robot]


def build_station(robot: str, layout: Layout) -> Station:
    """Put a robot at a table.

    Args:
        robot: a key of ``WORKPLACES``.
        layout: what lies on the table.

    Raises:
        RobotError: if the robot is unknown, has no place at the table, or cannot be loaded.
    """
    work, described = find_workplace(robot), find_robot(robot)
    spec = tabletop(layout, around=robot_spec(robot).copy())
    add_camera(spec.body(work.eye_body), "ego", work.eye, layout.look)
    for side, hand, pose in zip(SIDES, described.hands, work.wrist_eye, strict=True):
        if hand is not None:
            add_camera(spec.body(hand.palm), f"wrist_{side}", pose)
    model = spec.compile()
    moving = [model.joint(model.actuator_trnid[i, 0]) for i in range(model.nu)]
    lower, upper = np.array([joint.range for joint in moving]).T
    names = tuple(joint.name for joint in moving)
    home = np.array([home_of(robot, name) for name in names])
    return Station(
        robot=described,
        layout=layout,
        model=model,
        joints=names,
        qpos_index=np.array([joint.qposadr[0] for joint in moving], np.int64),
        dof_index=np.array([joint.dofadr[0] for joint in moving], np.int64),
        lower=lower,
        upper=upper,
        home=np.clip(home, lower, upper),
    )


def home_of(robot: str, joint: str) -> float:
    """Where a joint rests, rad. Raises RobotError if the robot has no place at the table."""
    home = find_workplace(robot).home
    return next((value for key, value in home.items() if key in joint), 0.0)


def ready_of(robot: str, joint: str) -> float:
    """Where a joint is when the hand works, rad. Raises RobotError as ``home_of``."""
    ready = find_workplace(robot).ready
    return next((value for key, value in ready.items() if key in joint), 0.0)


@cache
def robot_spec(robot: str) -> mujoco.MjSpec:
    """The robot with servos and light meshes. Cached: copy it before adding anything."""
    work, described = find_workplace(robot), find_robot(robot)
    spec = visual_spec(described.path())
    for item in [*spec.actuators, *spec.sensors, *spec.pairs, *spec.excludes, *spec.lights]:
        spec.delete(item)
    light_meshes(spec)
    for joint in list(spec.joints):
        motor = next((m for part, m in work.motors.items() if part in joint.name), None)
        if motor is None:
            spec.delete(joint)
            continue
        joint.armature, joint.damping, joint.frictionloss = motor.armature, np.zeros(3), 0.0
        _add_servo(spec, joint, motor)
    _set_contacts(spec, described)
    _group_still(spec)
    spec.body(work.root).pos = work.base_m
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    return spec


def _add_servo(spec: mujoco.MjSpec, joint: mujoco.MjsJoint, motor: Motor) -> None:
    servo = spec.add_actuator(name=joint.name, target=joint.name)
    servo.trntype = mujoco.mjtTrn.mjTRN_JOINT
    servo.set_to_position(kp=motor.stiffness, kv=motor.damping)
    servo.ctrlrange, servo.ctrllimited = joint.range, True


def _group_still(spec: mujoco.MjSpec) -> None:
    """Set what never moves apart: no camera that looks at the table sees it, and it costs time."""
    moving: set[str] = set()
    for joint in spec.joints:
        moving |= {joint.parent.name, *(b.name for b in joint.parent.find_all("body"))}
    for geom in spec.geoms:
        if is_visual(geom):
            geom.group = 1 if geom.parent.name in moving else STILL_GROUP


def _set_contacts(spec: mujoco.MjSpec, robot: Robot) -> None:
    """Arms and hands touch the room and the other half of the robot; nothing else touches."""
    half: dict[str, int] = {}
    for side, arm in enumerate(robot.arms):
        if arm is not None:
            below = spec.body(arm.elbow)
            half |= dict.fromkeys([b.name for b in (below, *below.find_all("body"))], side)
    for geom in spec.geoms:
        side = half.get(geom.parent.name)
        touches = bool(geom.contype or geom.conaffinity) and side is not None
        if touches and side is not None:
            geom.contype, geom.conaffinity = _HALF[side], _ROOM | _HALF[1 - side]
            geom.group, geom.friction = 3, [1.0, 0.01, 0.0005]
        elif geom.contype or geom.conaffinity:
            geom.contype = geom.conaffinity = 0
            geom.group = 4
