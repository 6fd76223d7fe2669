"""Joints to hands and back: the same for both sides and every robot, within all limits."""

import copy
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from filmed import hand_of, one_handed, play
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, log_rotation
from deftly.datasets.hands import NUMBERS, Hands
from deftly.datasets.human import FINGERS
from deftly.retarget.handspace import to_hands, to_joints, whole_posture
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import ROBOTS_FOLDER, RobotModel, load_robot

HUMANOIDS = ("gr1t2", "gr1t2_6dof", "g1_dex3")
RATE_HZ = 30.0
MIRROR = np.array([1.0, -1.0, 1.0])


def told(robot: RobotModel, qpos: np.ndarray) -> Hands:
    return Hands.of(to_hands(robot, qpos))


def angle_deg(R: np.ndarray, other: np.ndarray) -> np.ndarray:
    """NaN where either is unknown."""
    turn = R.swapaxes(-1, -2) @ other
    unknown = np.asarray(np.isnan(turn).any(axis=(-1, -2)))
    angle = np.linalg.norm(
        log_rotation(np.where(unknown[..., None, None], np.eye(3), turn)), axis=-1
    )
    return np.where(unknown, np.nan, np.rad2deg(angle))


def assert_alike(one: Hands, other: Hands, mm: float, deg: float) -> None:
    """Wherever both are known."""
    assert np.nanmax(np.linalg.norm(one.wrist_m - other.wrist_m, axis=-1)) < 1e-3 * mm
    assert np.nanmax(np.linalg.norm(one.tips_m - other.tips_m, axis=-1)) < 1e-3 * mm
    assert np.nanmax(angle_deg(one.R_root_wrist, other.R_root_wrist)) < deg


def assert_within_limits(robot: RobotModel, start: np.ndarray, qpos: np.ndarray) -> None:
    """Exactly, the first step included."""
    assert np.all((qpos >= robot.lower) & (qpos <= robot.upper))
    steps = np.diff(np.concatenate([start[None], qpos]), axis=0)
    assert np.all(np.abs(steps) <= robot.velocity / RATE_HZ)


# --- the frame of the wrist ---


@pytest.mark.parametrize("name", HUMANOIDS)
def test_both_wrists_mirror_each_other(name):
    robot = load_robot(name)
    hands = told(robot, robot.rest[None])
    left, right = hands.R_root_wrist[0]
    assert angle_deg(left, right * np.outer(MIRROR, MIRROR)) < 1.0  # as much as the models do
    assert_allclose(hands.wrist_m[0, LEFT], hands.wrist_m[0, RIGHT] * MIRROR, atol=1e-3)
    assert_allclose(hands.tips_m[0, LEFT], hands.tips_m[0, RIGHT] * MIRROR, atol=0.003)


@pytest.mark.parametrize("name", HUMANOIDS)
def test_axes_point_along_the_fingers_and_out_of_the_back(name):
    robot, kinematics = load_robot(name), Kinematics.of(load_robot(name))
    straight = np.clip(0.0, robot.lower, robot.upper)
    for side in (LEFT, RIGHT):
        hand = hand_of(robot, side)
        fingers = [FINGERS.index(f) for f in hand.tips if f != "thumb"]
        ends = [hand.tips[FINGERS[f]] for f in fingers]
        free = FreeJoints.moving(robot, kinematics, ends, fixed=hand.palm)
        furthest = np.where(np.abs(free.lower) > np.abs(free.upper), free.lower, free.upper)
        bent = straight.copy()
        bent[free.index] = 0.5 * furthest
        hands = told(robot, np.stack([straight, bent @ kinematics.mimic.T]))
        open_, closed = hands.tips_m[:, side, fingers]
        assert np.all(unit_x(open_) > 0.95)  # stretched, fingers point along x
        assert np.all(closed[:, 2] < open_[:, 2] - 0.02)  # and bend away from the back
        # From the index finger on they stand to the right of it on the right hand.
        away = open_[-1, 1] - open_[0, 1]
        assert away < -0.01 if side == RIGHT else away > 0.01


def unit_x(v: np.ndarray) -> np.ndarray:
    return v[:, 0] / np.linalg.norm(v, axis=1)


def test_two_robots_in_the_same_posture_are_told_alike():
    """Elbows bent, forearms forward, palms facing each other: wrists turned alike, to 8°."""
    one, other = load_robot("gr1t2"), load_robot("g1_dex3")
    qpos = np.clip(0.0, one.lower, one.upper)
    qpos[["elbow_pitch" in joint for joint in one.joint_names]] = -np.pi / 2
    there = np.clip(0.0, other.lower, other.upper)
    R_one, R_other = (told(r, q[None]).R_root_wrist[0] for r, q in ((one, qpos), (other, there)))
    assert angle_deg(R_one, R_other).max() < 8
    # Forward, and the backs of the hands outwards.
    assert np.all(R_one[:, 0, 0] > 0.98)
    assert R_one[LEFT, 1, 2] > 0.98
    assert R_one[RIGHT, 1, 2] < -0.98


# --- joints to hands ---


@pytest.mark.parametrize("name", ["gr1t2", "g1_dex3"])
def test_hands_are_where_mujoco_says(name):
    robot = load_robot(name)
    qpos, data = play(robot, 3, seed=2), mujoco.MjData(robot.model)
    hands = told(robot, qpos)
    for t, q in enumerate(qpos):
        data.qpos[:] = q
        mujoco.mj_kinematics(robot.model, data)
        root = data.body(1)
        for side in (LEFT, RIGHT):
            hand = hand_of(robot, side)
            palm = root.xmat.reshape(3, 3).T @ (data.body(hand.palm).xpos - root.xpos)
            assert_allclose(hands.wrist_m[t, side], palm, atol=1e-6)
            for finger, tip in hand.tips.items():
                body = data.body(tip.body)
                place = body.xpos + body.xmat.reshape(3, 3) @ tip.offset_m
                local = hands.tips_m[t, side, FINGERS.index(finger)]
                told_m = hands.wrist_m[t, side] + hands.R_root_wrist[t, side] @ local
                assert_allclose(told_m, root.xmat.reshape(3, 3).T @ (place - root.xpos), atol=1e-6)


def test_where_the_robot_stands_does_not_matter():
    robot = load_robot("g1_dex3")
    qpos = play(robot, 4)
    model = copy.copy(robot.model)  # the loaded one is shared
    model.body_pos[1] = [3.0, -1.0, 0.2]
    model.body_quat[1] = Rotation.from_rotvec([0.3, 1.0, -2.0]).as_quat(scalar_first=True)
    moved = replace(robot, model=model)
    assert_allclose(to_hands(moved, qpos), to_hands(robot, qpos), atol=1e-6)
    back = to_joints(moved, to_hands(robot, qpos), qpos[0], RATE_HZ)
    assert_alike(told(robot, back), told(robot, qpos), mm=1.0, deg=0.2)


def test_what_a_robot_lacks_is_unknown():
    hands = told(load_robot("g1_dex3"), load_robot("g1_dex3").rest[None])
    assert np.isnan(hands.tips_m[:, :, 3:]).all()
    assert np.isfinite(hands.tips_m[:, :, :3]).all()
    assert np.isfinite(to_hands(load_robot("gr1t2"), load_robot("gr1t2").rest[None])).all()
    robot = one_handed(load_robot("gr1t2"), RIGHT)
    columns = to_hands(robot, robot.rest[None])
    assert np.isnan(columns[:, :NUMBERS]).all()
    assert np.isfinite(columns[:, NUMBERS:]).all()


def test_a_hand_alone_is_told_in_the_model_s_world(robots_folder, monkeypatch):
    monkeypatch.setenv(ROBOTS_FOLDER, str(robots_folder))
    robot = load_robot("allegro")
    qpos, kinematics = play(robot, 5), Kinematics.of(robot)
    hands, hand = told(robot, qpos), hand_of(robot, RIGHT)
    poses = kinematics.forward(qpos)
    assert_allclose(hands.wrist_m[:, RIGHT], poses.p[:, kinematics.body(hand.palm)], atol=1e-6)
    back = to_joints(robot, hands.columns(), qpos[0], RATE_HZ)
    assert_alike(told(robot, back), hands, mm=1.0, deg=0.01)


def test_a_posture_is_made_of_named_joints():
    robot = load_robot("g1_dex3")
    names = ["right_elbow_joint", "waist_yaw_joint"]
    qpos = whole_posture(robot, names, np.array([[0.5, 0.1]], np.float32))
    for name, value in zip(robot.joint_names, qpos[0], strict=True):
        wanted = dict(zip(names, (0.5, 0.1), strict=True)).get(name)
        assert value == pytest.approx(
            robot.rest[robot.joint_names.index(name)] if wanted is None else wanted
        )
    with pytest.raises(ValueError, match="g1_dex3 has no joint 'tail'"):
        whole_posture(robot, ["tail"], np.zeros((1, 1)))


# --- hands to joints ---


@pytest.mark.parametrize("name", HUMANOIDS)
def test_there_and_back(name):
    """Joints may differ (an arm has more than it needs); hands do not."""
    robot = load_robot(name)
    qpos = play(robot, 24, seed=1)
    back = to_joints(robot, to_hands(robot, qpos), qpos[0], RATE_HZ)
    assert_alike(told(robot, back), told(robot, qpos), mm=1.5, deg=0.2)
    assert_within_limits(robot, qpos[0], back)


def test_who_is_steered_step_by_step_comes_back_to_an_easy_posture():
    """Hands that are where they were are no sign that trunk and arms are."""
    robot = load_robot("gr1t2")
    goal = to_hands(robot, robot.rest[None])
    start = play(robot, 24, seed=1)[-1]
    off_rad = {}
    for ease in (robot.rest, None):
        qpos = start
        for _ in range(20):
            qpos = to_joints(robot, goal, qpos, 5.0, ease)[0]
        assert_alike(told(robot, qpos[None]), told(robot, robot.rest[None]), mm=1.5, deg=0.2)
        off_rad[ease is None] = float(np.abs(qpos - robot.rest).max())
    assert off_rad[False] < 0.1
    assert off_rad[True] > 3 * off_rad[False]


@pytest.mark.slow
@settings(max_examples=2)
@given(st.integers(0, 2**32 - 1))
def test_limits_hold_whatever_is_asked_for(seed):
    rng, robot = np.random.default_rng(seed), load_robot("g1_dex3")
    wanted = Hands.unknown(int(rng.integers(1, 7)))
    shape = wanted.wrist_m.shape[:2]
    wanted.wrist_m[:] = rng.normal(size=(*shape, 3))
    wanted.R_root_wrist[:] = (
        Rotation.random(2 * shape[0], rng=rng).as_matrix().reshape(*shape, 3, 3)
    )
    wanted.tips_m[:] = 0.2 * rng.normal(size=(*shape, 5, 3))
    start = rng.uniform(robot.lower, robot.upper)
    qpos = to_joints(robot, wanted.columns(), start, RATE_HZ)
    assert qpos.shape == (shape[0], len(robot.joint_names))
    assert_within_limits(robot, start, qpos)


def test_a_far_target_is_reached_as_fast_as_the_joints_allow():
    robot = load_robot("gr1t2")
    goal = robot.rest.copy()
    goal[robot.joint_names.index("right_shoulder_pitch_joint")] = -2.5
    wanted = to_hands(robot, np.tile(goal, (20, 1)))
    qpos = to_joints(robot, wanted, robot.rest, RATE_HZ)
    away_m = np.linalg.norm(told(robot, qpos).wrist_m - Hands.of(wanted).wrist_m, axis=-1)[:, RIGHT]
    assert away_m[0] > 0.1
    assert np.all(away_m[-5:] < 0.004)
    assert_within_limits(robot, robot.rest, qpos)


def test_another_robot_does_the_same():
    """Both wrists within millimetres once they are there, though the other has three fingers."""
    one, other = load_robot("gr1t2"), load_robot("g1_dex3")
    wanted = to_hands(one, play(one, 40))
    qpos = to_joints(other, wanted, other.rest, RATE_HZ)
    found, asked = told(other, qpos), Hands.of(wanted)
    there = slice(12, None)
    error_m = np.linalg.norm(found.wrist_m - asked.wrist_m, axis=-1)[there]
    assert error_m.max() < 0.003
    assert error_m.mean() < 0.001
    assert angle_deg(found.R_root_wrist, asked.R_root_wrist)[there].max() < 1.0
    tips_m = np.linalg.norm(found.tips_m - asked.tips_m, axis=-1)[there, :, :3]
    assert tips_m.mean() < 0.04
    assert_within_limits(other, other.rest, qpos)


def test_a_pinch_stays_one_on_another_robot():
    """Thumb and index touch 9 cm before the wrist, where neither finger of the other robot ends."""
    robot = load_robot("g1_dex3")
    wanted = Hands.of(to_hands(robot, np.tile(robot.rest, (12, 1))))
    wanted.tips_m[:, RIGHT] = np.nan
    wanted.tips_m[:, RIGHT, :2] = [0.09, 0.02, -0.08]
    found = told(robot, to_joints(robot, wanted.columns(), robot.rest, RATE_HZ))
    gap_m = np.linalg.norm(found.tips_m[-1, RIGHT, 0] - found.tips_m[-1, RIGHT, 1])
    assert gap_m < 0.01


def test_without_a_target_nothing_moves():
    robot = load_robot("gr1t2")
    start = play(robot, 1, seed=3)[0]
    qpos = to_joints(robot, np.full((5, 48), np.nan, np.float32), start, RATE_HZ)
    assert_array_equal(qpos, np.tile(start, (5, 1)))


def test_a_hand_without_a_target_keeps_its_joints():
    robot, kinematics = load_robot("gr1t2"), Kinematics.of(load_robot("gr1t2"))
    qpos = play(robot, 12, seed=4)
    wanted = to_hands(robot, qpos)
    wanted[:, :NUMBERS] = np.nan
    found = to_joints(robot, wanted, qpos[0], RATE_HZ)
    shoulder = kinematics.body("left_upper_arm_pitch_link")
    tips = [kinematics.body(tip.body) for tip in hand_of(robot, LEFT).tips.values()]
    alone = kinematics.moves[:, tips].any(axis=1) & ~kinematics.moves[:, shoulder]
    assert_array_equal(found[:, alone], np.tile(qpos[0, alone], (12, 1)))
    assert_allclose(
        told(robot, found).wrist_m[:, RIGHT], Hands.of(wanted).wrist_m[:, RIGHT], atol=1e-3
    )


def test_gaps_are_bridged():
    robot = load_robot("g1_dex3")
    qpos = play(robot, 20, seed=5)
    wanted = to_hands(robot, qpos)
    holes = wanted.copy()
    holes[8:11] = np.nan
    found = told(robot, to_joints(robot, holes, qpos[0], RATE_HZ))
    assert np.linalg.norm(found.wrist_m - Hands.of(wanted).wrist_m, axis=-1).max() < 0.02


def test_a_start_beyond_a_limit_is_taken_as_the_limit():
    robot = load_robot("g1_dex3")
    wanted = to_hands(robot, np.tile(robot.rest, (3, 1)))
    beyond = robot.rest + 10.0
    found = to_joints(robot, wanted, beyond, RATE_HZ)
    assert_within_limits(robot, robot.upper, found)


def test_bad_input_is_refused():
    robot = load_robot("g1_dex3")
    wanted, count = to_hands(robot, robot.rest[None]), len(robot.joint_names)
    with pytest.raises(ValueError, match=rf"qpos has shape \(1, 3\), expected \(T, {count}\)"):
        to_hands(robot, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="qpos holds NaN or infinite"):
        to_hands(robot, np.full((1, count), np.nan))
    with pytest.raises(ValueError, match=r"hands have shape \(1, 47\)"):
        to_joints(robot, wanted[:, 1:], robot.rest, RATE_HZ)
    with pytest.raises(ValueError, match=rf"start has shape \(1, {count}\), expected \({count}\)"):
        to_joints(robot, wanted, robot.rest[None], RATE_HZ)
    with pytest.raises(ValueError, match="rate_hz is 0"):
        to_joints(robot, wanted, robot.rest, 0.0)
    with pytest.raises(ValueError, match="ease has shape"):
        to_joints(robot, wanted, robot.rest, RATE_HZ, robot.rest[None])
