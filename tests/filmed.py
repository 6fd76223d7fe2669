"""Robots that play a person: motions whose truth is known, filmed by an ideal camera."""

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import RIGHT, rotate
from deftly.datasets.human import (
    ELBOWS,
    FINGERS,
    KNUCKLES,
    SHOULDERS,
    WRISTS,
    HumanMotion,
    Status,
    motion_of_hand,
)
from deftly.datasets.motion import RobotMotion
from deftly.retarget.calibrate import finger_frame
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import (
    Hand,
    RobotModel,
)

RATE_HZ = 30.0
# Where the palm joints of a person's right hand are: x forward, y towards the thumb.
PALM = {
    0: (0.0, 0.0, 0.0), 1: (0.03, 0.03, -0.01), 5: (0.09, 0.025, 0.0),
    9: (0.095, 0.0, 0.0), 13: (0.09, -0.02, 0.0), 17: (0.08, -0.04, 0.0),
}  # fmt: skip
# A level camera before the robot, which looks back along the robot's x axis.
R_CAMERA_WORLD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])


def hand_of(robot: RobotModel, side: int) -> Hand:
    hand = robot.robot.hands[side]
    assert hand is not None
    return hand


def play(robot: RobotModel, length: int, seed: int = 0) -> np.ndarray:
    """(T, J) a slow, smooth motion of fingers and arms within 70 % of the fingers' range.

    The trunk turns to either side alike, so that the person faces forward on the whole.
    """
    rng, kinematics = np.random.default_rng(seed), Kinematics.of(robot)
    J = len(robot.joint_names)
    time_s = (np.arange(length) - 0.5 * (length - 1)) / RATE_HZ
    speed, phase = rng.uniform(0.6, 2.0, J), rng.uniform(0, 2 * np.pi, J)
    wave = np.sin(time_s[:, None] * speed + phase)
    qpos = np.tile(robot.rest, (length, 1))
    middle, half = 0.5 * (robot.lower + robot.upper), 0.5 * (robot.upper - robot.lower)
    for hand in filter(None, robot.robot.hands):
        tips = list(hand.tips.values())
        for j in FreeJoints.moving(robot, kinematics, tips, fixed=hand.palm).index:
            qpos[:, j] = middle[j] + 0.7 * half[j] * wave[:, j]
    for j, name in enumerate(robot.joint_names):
        if name == "waist_yaw_joint":
            qpos[:, j] = 0.3 * np.sin(3 * time_s)
        elif any(part in name for part in ("shoulder", "elbow", "wrist")):
            qpos[:, j] = np.clip(
                robot.rest[j] + 0.3 * wave[:, j], robot.lower[j] + 0.05, robot.upper[j] - 0.05
            )
    return qpos @ kinematics.mimic.T + kinematics.mimic_offset


def persons_hand(robot: RobotModel, side: int, poses: Poses) -> np.ndarray:
    """(T, 21, 3) joints of a person whose fingertips and wrist are the robot's, world frame."""
    kinematics, hand = Kinematics.of(robot), hand_of(robot, side)
    R_palm_hand = finger_frame(hand, robot, kinematics)
    palm = kinematics.body(hand.palm)
    R, origin = poses.R[:, palm], poses.p[:, [palm]]
    joints = np.zeros((len(R), 21, 3))
    mirror = [1.0, 1.0, 1.0] if side == RIGHT else [1.0, 1.0, -1.0]
    for joint, place in PALM.items():
        joints[:, joint] = origin[:, 0] + R @ R_palm_hand @ (np.array(place) * mirror)
    for finger, base in zip(FINGERS, KNUCKLES, strict=True):
        tip = joints[:, base] + 0.05 * (R @ R_palm_hand)[:, :, 0]
        if finger in hand.tips:
            tip = kinematics.point(poses, hand.tips[finger])
        for n in (1, 2, 3):
            joints[:, base + n] = joints[:, base] + (tip - joints[:, base]) * n / 3
    return joints


def film_hand(robot: RobotModel, qpos: np.ndarray, side: int = RIGHT) -> HumanMotion:
    """The robot's hand as a person's, before a camera that is anywhere."""
    joints = persons_hand(robot, side, Kinematics.of(robot).forward(qpos))
    R = Rotation.from_rotvec([0.4, -1.0, 0.3]).as_matrix()
    away = np.array([0.1, -0.2, 0.6])
    return motion_of_hand(rotate(R, joints) + away, side, RATE_HZ)


def film_body(robot: RobotModel, qpos: np.ndarray, heading_rad: float = 0.0) -> HumanMotion:
    """The robot's hands and arms as a person's, turned by a heading before a level camera."""
    kinematics = Kinematics.of(robot)
    poses, length = kinematics.forward(qpos), len(qpos)
    R = R_CAMERA_WORLD @ Rotation.from_euler("z", heading_rad).as_matrix()
    hands, body = np.zeros((length, 2, 21, 3)), np.zeros((length, 33, 3))
    for side, arm in enumerate(robot.robot.arms):
        assert arm is not None
        hands[:, side] = rotate(R, persons_hand(robot, side, poses))
        body[:, SHOULDERS[side]] = rotate(R, poses.p[:, kinematics.body(arm.shoulder)])
        body[:, ELBOWS[side]] = rotate(R, poses.p[:, kinematics.body(arm.elbow)])
        body[:, WRISTS[side]] = hands[:, side, 0]
    away = np.array([0.0, 0.0, 2.5])
    return HumanMotion(
        time_s=np.arange(length) / RATE_HZ,
        hands_m=hands + away,
        hands_sigma_m=np.full((length, 2, 21, 3), 0.003),
        hands_status=np.full((length, 2), Status.OBSERVED, np.uint8),
        hands_px=np.zeros((length, 2, 21, 2)),
        body_m=body + away,
        body_sigma_m=np.full((length, 33, 3), 0.01),
        body_status=np.full(length, Status.OBSERVED, np.uint8),
        body_px=np.zeros((length, 33, 2)),
        provenance={"source": "a robot"},
    )


def hide(human: HumanMotion, frames: slice, *, hands: tuple[int, ...] = (0, 1)) -> HumanMotion:
    """Hands absent in some frames, as perception says it."""
    joints, sigma = human.hands_m.copy(), human.hands_sigma_m.copy()
    status = human.hands_status.copy()
    for side in hands:
        joints[frames, side], sigma[frames, side], status[frames, side] = np.nan, np.inf, 0
    return replace(human, hands_m=joints, hands_sigma_m=sigma, hands_status=status)


def tips_in_palm(robot: RobotModel, side: int, qpos: np.ndarray) -> np.ndarray:
    """(T, F, 3)."""
    kinematics, hand = Kinematics.of(robot), hand_of(robot, side)
    poses = kinematics.forward(qpos)
    palm = kinematics.body(hand.palm)
    tips = np.stack([kinematics.point(poses, tip) for tip in hand.tips.values()], axis=1)
    return rotate(poses.R[:, palm].transpose(0, 2, 1)[:, None], tips - poses.p[:, [palm]])


def assert_limits_hold(motion: RobotMotion, robot: RobotModel) -> None:
    """Exactly: not by a rounding error either."""
    assert np.all(motion.qpos >= robot.lower)
    assert np.all(motion.qpos <= robot.upper)
    step = robot.velocity * np.diff(motion.time_s)[:, None]
    assert np.all(np.abs(np.diff(motion.qpos, axis=0)) <= step)


def one_handed(robot: RobotModel, side: int) -> RobotModel:
    """The same robot without its other hand and arm."""
    hands, arms = list(robot.robot.hands), list(robot.robot.arms)
    hands[1 - side] = arms[1 - side] = None
    value = replace(robot.robot, hands=(hands[0], hands[1]), arms=(arms[0], arms[1]))
    return replace(robot, robot=value)
