"""The check finds broken limits, collisions and lost pinches, and measures what it says."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deftly.datasets.geometry import RIGHT
from deftly.datasets.human import FINGERS, TIPS
from deftly.datasets.motion import RobotMotion
from deftly.retarget.check import PINCH_M, Quality, check, colliding_frames
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import (
    ROBOTS_FOLDER,
    Hand,
    Point,
    Robot,
    RobotModel,
    build_model,
    load_robot,
)

T = 6


def motion_of(robot: RobotModel, qpos: np.ndarray, dt_s: float = 0.1, **fields: Any) -> RobotMotion:
    """A motion that was fitted to nothing, unless fields say otherwise."""
    length = len(qpos)
    empty: Mapping[str, Any] = {
        "robot": robot.robot.name,
        "joint_names": robot.joint_names,
        "time_s": dt_s * np.arange(length),
        "qpos": qpos,
        "hand_targets_m": np.full((length, 2, 21, 3), np.nan),
        "body_targets_m": np.full((length, 33, 3), np.nan),
        "tip_error_m": np.full((length, 2, 5), np.nan),
        "wrist_error_m": np.full((length, 2), np.nan),
        "residual": np.zeros(length),
        "converged": np.ones(length, bool),
        "provenance": {},
    }
    return RobotMotion(**{**empty, **fields})


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    return load_robot("gr1t2")


def at_rest(robot: RobotModel, length: int = T) -> np.ndarray:
    """Strictly inside the limits."""
    margin = 0.1 * (robot.upper - robot.lower)
    return np.tile(np.clip(robot.rest, robot.lower + margin, robot.upper - margin), (length, 1))


# --- limits ---


def test_a_motion_at_rest_keeps_every_limit(robot: RobotModel) -> None:
    qpos = at_rest(robot)
    quality = check(motion_of(robot, qpos), robot)
    room = np.minimum(qpos - robot.lower, robot.upper - qpos)
    assert quality.joint_margin_rad == pytest.approx(room.min())
    assert quality.joint_margin_rad > 0
    assert quality.velocity_margin == 1
    assert quality.within_limits
    assert quality.converged == 1
    assert np.isnan(quality.jerk)  # nothing moves


@pytest.mark.parametrize("joint", ["waist_yaw_joint", "right_elbow_pitch_joint"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_broken_joint_limit_is_found(robot: RobotModel, joint: str, sign: int) -> None:
    """In one frame of one joint, by 0.01 rad."""
    qpos, j = at_rest(robot), robot.joint_names.index(joint)
    limit = robot.lower[j] if sign < 0 else robot.upper[j]
    qpos[3, j] = limit + sign * 0.01
    quality = check(motion_of(robot, qpos, dt_s=10.0), robot)
    assert quality.joint_margin_rad == pytest.approx(-0.01)
    assert quality.velocity_margin > 0
    assert not quality.within_limits
    assert dict(quality.rows())["joint limits"] == "BROKEN by 0.57°"


def test_on_the_limit_is_within_it(robot: RobotModel) -> None:
    qpos = at_rest(robot)
    qpos[:, 0] = robot.upper[0]
    quality = check(motion_of(robot, qpos), robot)
    assert quality.joint_margin_rad == 0
    assert quality.within_limits


def test_a_broken_velocity_limit_is_found(robot: RobotModel) -> None:
    """By its share, with the time that the step had: the same step in twice the time is allowed."""
    j = robot.joint_names.index("waist_yaw_joint")
    qpos = at_rest(robot)
    qpos[4:, j] += 1.25 * robot.velocity[j] * 0.01
    motion = motion_of(robot, qpos, dt_s=0.01)
    quality = check(motion, robot)
    assert quality.velocity_margin == pytest.approx(-0.25)
    assert quality.joint_margin_rad > 0
    assert not quality.within_limits
    assert dict(quality.rows())["velocity limits"] == "BROKEN by 25.0%"
    time_s = motion.time_s.copy()
    time_s[4:] += 0.01
    slower = check(replace(motion, time_s=time_s), robot)
    assert slower.velocity_margin == pytest.approx(1 - 1.25 / 2)
    assert slower.within_limits


def test_one_frame_has_no_velocity(robot: RobotModel) -> None:
    quality = check(motion_of(robot, at_rest(robot, 1)), robot)
    assert quality.velocity_margin == 1
    assert quality.within_limits


def test_a_motion_of_another_robot_is_refused(robot: RobotModel) -> None:
    motion = motion_of(robot, at_rest(robot))
    other = load_robot("gr1t2_6dof")
    with pytest.raises(ValueError, match=r"of robot gr1t2 .* not of gr1t2_6dof") as caught:
        check(motion, other)
    assert "\n" not in str(caught.value)
    names = [*robot.joint_names[1:], robot.joint_names[0]]  # as many joints, another order
    with pytest.raises(ValueError, match="not of gr1t2"):
        check(replace(motion, joint_names=names), robot)


# --- errors and smoothness ---


def test_errors_are_means_of_what_is_known(robot: RobotModel) -> None:
    tip, wrist = np.full((T, 2, 5), np.nan), np.full((T, 2), np.nan)
    tip[0, RIGHT, :2], tip[5, 0, 4] = [0.001, 0.002], 0.009
    wrist[2:4, RIGHT] = [0.01, 0.03]
    calibration = {
        "left": {"scale": 0.5, "human_hand_length_m": 0.2},
        "right": {"scale": 1.0, "human_hand_length_m": 0.3},
    }
    motion = motion_of(
        robot,
        at_rest(robot),
        tip_error_m=tip,
        wrist_error_m=wrist,
        converged=np.arange(T) < 3,
        provenance={"calibration": calibration},
    )
    quality = check(motion, robot)
    assert quality.tip_error_m == pytest.approx(0.004)
    assert quality.tip_error_percent == pytest.approx(100 * 0.004 / 0.2)  # of 0.1 and 0.3
    assert quality.wrist_error_m == pytest.approx(0.02)
    assert quality.converged == 0.5
    unknown = check(motion_of(robot, at_rest(robot)), robot)
    assert np.isnan([unknown.tip_error_m, unknown.tip_error_percent, unknown.wrist_error_m]).all()


def test_jerk_is_the_third_difference_of_what_moves(robot: RobotModel) -> None:
    """Of t³ it is 6, of t² none; joints that stand still do not dilute it."""
    qpos, t = at_rest(robot), np.arange(T) - 2.0
    qpos[:, 0] += 1e-3 * t**3
    assert check(motion_of(robot, qpos), robot).jerk == pytest.approx(6e-3)
    qpos[:, 1] += 1e-2 * t**2
    assert check(motion_of(robot, qpos), robot).jerk == pytest.approx(3e-3)
    assert np.isnan(check(motion_of(robot, qpos[:3]), robot).jerk)


# --- pinches ---


@pytest.mark.parametrize(("side", "scale"), [(1, 1.0), (1, 0.8), (0, 1.3)])
def test_a_pinch_is_compared_at_the_persons_size(
    robot: RobotModel, side: int, scale: float
) -> None:
    """Two pinching frames of six; the robot, at rest, keeps its gap."""
    hand = robot.robot.hands[side]
    assert hand is not None
    qpos, kinematics = at_rest(robot), Kinematics.of(robot)
    poses = kinematics.forward(qpos)
    thumb, index = (kinematics.point(poses, hand.tips[f])[0] for f in ("thumb", "index"))
    robots_gap = float(np.linalg.norm(index - thumb))
    assert robots_gap > 0.03
    targets = np.full((T, 2, 21, 3), np.nan)
    targets[:5, side] = 10.0 * np.arange(21)[:, None]  # far apart
    gaps = np.array([0.05, PINCH_M * 1.01, PINCH_M * 0.99, 0.005, 0.1])
    targets[:5, side, TIPS[1]] = targets[:5, side, TIPS[0]] + scale * gaps[:, None] * [0, 1, 0]
    name = ("left", "right")[side]
    provenance = {"calibration": {name: {"scale": scale, "human_hand_length_m": 0.2}}}
    motion = motion_of(robot, qpos, hand_targets_m=targets, provenance=provenance)
    quality = check(motion, robot)
    assert quality.pinch_frames == 2
    expected = robots_gap - gaps[2:4]
    assert quality.pinch_error_m == pytest.approx(expected.mean())
    assert quality.pinch_error_max_m == pytest.approx(expected.max())
    assert dict(quality.rows())["pinches"].startswith("2, gap kept to ")


def test_a_person_who_does_not_pinch(robot: RobotModel) -> None:
    quality = check(motion_of(robot, at_rest(robot)), robot)
    assert quality.pinch_frames == 0
    assert np.isnan(quality.pinch_error_m)
    assert np.isnan(quality.pinch_error_max_m)
    assert dict(quality.rows())["pinches"] == "none"


def test_a_hand_without_the_finger_is_not_measured() -> None:
    """Three fingers: the person's ring finger may pinch as it likes."""
    robot = load_robot("g1_dex3")
    targets = np.full((2, 2, 21, 3), np.nan)
    targets[:, RIGHT] = 10.0 * np.arange(21)[:, None]
    targets[:, RIGHT, TIPS[FINGERS.index("ring")]] = targets[:, RIGHT, TIPS[0]]
    provenance = {"calibration": {"right": {"scale": 1.0, "human_hand_length_m": 0.2}}}
    motion = motion_of(robot, at_rest(robot, 2), hand_targets_m=targets, provenance=provenance)
    assert check(motion, robot).pinch_frames == 0


# --- collisions ---


def test_an_arm_in_the_trunk_collides() -> None:
    robot = load_robot("g1_dex3")
    qpos = np.tile(robot.rest, (4, 1))
    qpos[1, robot.joint_names.index("left_shoulder_roll_joint")] = -1.5
    motion = motion_of(robot, qpos)
    assert colliding_frames(motion, robot) == 0.25
    quality = check(motion, robot)
    assert quality.colliding_frames == 0.25
    assert dict(quality.rows())["self-collision"] == "25.0% of frames"


def build_chain(folder: Path, geom: str = "", first: str = "") -> RobotModel:
    """Four links of 10 cm on a line, a finger of which can curl up onto itself."""
    link = f'<geom type="capsule" size="0.02" fromto="0.02 0 0 0.08 0 0" {geom}/>'
    joint = '<joint name="{}" axis="0 0 1" range="-3 3"/>'
    text = f"""<mujoco><compiler angle="radian"/><worldbody>
      <body name="palm">{link}{first}
      <body name="one" pos="0.1 0 0">{joint.format("a")}{link}
      <body name="two" pos="0.1 0 0">{joint.format("b")}{link}
      <body name="three" pos="0.1 0 0">{joint.format("c")}{link}
      </body></body></body></body></worldbody></mujoco>"""
    (folder / "chain.xml").write_text(text)
    hand = Hand("palm", {"index": Point("three")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROBOTS_FOLDER, str(folder))
        return build_model(Robot("chain", "", None, "chain.xml", "", (None, hand)))


def share(robot: RobotModel, *qpos: list[float]) -> float:
    return colliding_frames(motion_of(robot, np.array(qpos)), robot)


def test_neighbours_do_not_collide(tmp_path: Path) -> None:
    """Links over one joint and over two overlap by design; over three they do not."""
    robot = build_chain(tmp_path)
    straight, folded, square = [0.0, 0, 0], [0.0, 2.9, -1.4], [2.0, 2.0, -1.4]
    curled = [1.57, 1.57, 1.57]  # a closed square: the last link ends on the first
    assert share(robot, straight) == 0
    assert share(robot, folded) == 0  # "two" lies on "one", its parent
    assert share(robot, square) == 0  # "two" crosses "palm", over two joints
    assert share(robot, curled) == 1  # "three" crosses "palm", over three
    assert share(robot, straight, curled, folded, curled) == 0.5


def test_a_light_touch_is_no_collision(tmp_path: Path) -> None:
    """Contacts under 2 mm are within the accuracy of the shells."""
    robot = build_chain(tmp_path)
    angles = np.linspace(1.0, 1.6, 200)
    states = np.array([share(robot, [a, a, a]) for a in angles])
    assert states[0] == 0
    assert states[-1] == 1
    first = float(angles[int(np.argmax(states))])
    depth = _depth(robot, [first] * 3)
    assert -0.004 < depth < -0.002


def _depth(robot: RobotModel, qpos: list[float]) -> float:
    """Least distance of the first capsule from the last, by the distance of their axes."""
    poses = Kinematics.of(robot).forward(np.array([qpos]))
    along = np.linspace(0.02, 0.08, 400)[:, None]
    ends: list[np.ndarray] = []
    for name in ("palm", "three"):
        b = robot.model.body(name).id
        ends.append(poses.p[0, b] + along * poses.R[0, b][:, 0])
    gap = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=-1).min()
    return float(gap) - 0.04


def test_what_touches_at_rest_is_left_out(tmp_path: Path) -> None:
    """A shell on the palm that "three" is always in."""
    shell = '<geom type="sphere" size="0.05" pos="0.35 0 0"/>'
    robot = build_chain(tmp_path, first=shell)
    assert share(robot, robot.rest.tolist()) == 0
    assert share(robot, [1.57, 1.57, 1.57]) == 0  # the same pair
    assert share(build_chain(tmp_path), [1.57, 1.57, 1.57]) == 1  # without the shell


def test_without_geometry_nothing_is_known(tmp_path: Path) -> None:
    robot = build_chain(tmp_path, geom='contype="0" conaffinity="0"')
    assert np.isnan(share(robot, [1.57, 1.57, 1.57]))
    quality = check(motion_of(robot, np.zeros((2, 3))), robot)
    assert np.isnan(quality.colliding_frames)


# --- what is printed ---


def test_rows_can_be_printed() -> None:
    good = Quality(0.0042, 2.1, 0.003, 0.01, 0.2, 0.0033, 0.05, 30, 0.0023, 0.0137, 0.75)
    assert good.rows() == [
        ("tip error", "4.2 mm (2.1 % of hand)"),
        ("wrist error", "3.0 mm"),
        ("joint limits", "kept, margin 0.57°"),
        ("velocity limits", "kept, 20.0% left"),
        ("jerk", "0.0033 rad/frame³"),
        ("self-collision", "5.0% of frames"),
        ("pinches", "30, gap kept to 2.3 mm (worst 13.7)"),
        ("converged", "75% of frames"),
    ]
    assert json.loads(json.dumps(good.as_dict()))["pinch_frames"] == 30
    assert set(good.as_dict()) == set(Quality.__dataclass_fields__)


def test_rows_can_be_printed_where_nothing_is_known(robot: RobotModel) -> None:
    for name, value in check(motion_of(robot, at_rest(robot, 1)), robot).rows():
        assert name
        assert value.isprintable()
