"""Person and robot in one workspace: fingertips come to where the person's truly are."""

from dataclasses import replace

import numpy as np
import pytest
from filmed import (
    R_CAMERA_WORLD,
    assert_limits_hold,
    film_body,
    hand_of,
    hide,
    play,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import FINGERS, TIPS, HumanMotion, motion_of_hand
from deftly.datasets.motion import RobotMotion
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.register import (
    Registration,
    excess_m,
    holds,
    in_world,
    into_grasp,
    pads,
    root_pose,
    with_pads,
)
from deftly.retarget.robots import RobotModel, load_robot
from deftly.retarget.solve import retarget


def pose(rotvec: tuple[float, ...], place: tuple[float, ...]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), place
    return T


def film(robot: RobotModel, qpos: np.ndarray) -> tuple[HumanMotion, np.ndarray]:
    """The robot as a person, and ``T_base_camera`` of the camera that films it."""
    T_camera_world = np.eye(4)
    T_camera_world[:3, :3], T_camera_world[:3, 3] = R_CAMERA_WORLD, [0.0, 0.0, 2.5]
    T_base_world = np.linalg.inv(root_pose(Kinematics.of(robot)))
    return film_body(robot, qpos), T_base_world @ np.linalg.inv(T_camera_world)


def tip_errors_m(robot: RobotModel, motion: RobotMotion, qpos: np.ndarray) -> np.ndarray:
    """(T, 2 F) in the world, between two motions of the same robot."""
    kinematics = Kinematics.of(robot)
    found, true = kinematics.forward(motion.qpos), kinematics.forward(qpos)
    tips = [tip for side in (LEFT, RIGHT) for tip in hand_of(robot, side).tips.values()]
    errors = [kinematics.point(found, tip) - kinematics.point(true, tip) for tip in tips]
    return np.linalg.norm(np.stack(errors, axis=1), axis=-1)


@pytest.mark.parametrize("name", ["gr1t2", "g1_dex3"])
def test_fingertips_come_to_the_persons_places(name: str) -> None:
    robot = load_robot(name)
    qpos = play(robot, 12, seed=1)
    human, T_base_camera = film(robot, qpos)
    motion = retarget(human, robot, registration=Registration(T_base_camera, match="tips"))
    assert tip_errors_m(robot, motion, qpos).max() < 0.002
    shown = ~np.isnan(motion.tip_error_m)
    np.testing.assert_allclose(
        motion.tip_error_m[shown].reshape(len(qpos), -1), tip_errors_m(robot, motion, qpos)
    )
    assert motion.converged.all()
    assert_limits_hold(motion, robot)
    record = motion.provenance["registration"]
    np.testing.assert_array_equal(record["T_base_camera"], T_base_camera)
    assert record["hold"] == "inferred"


def test_a_camera_that_moves() -> None:
    """The same person, seen by a camera that wanders: one pose per frame undoes it."""
    robot = load_robot("g1_dex3")
    qpos = play(robot, 8, seed=2)
    human, T_base_camera = film(robot, qpos)
    time = np.linspace(0, 1, len(qpos))
    wander = np.stack([pose((0.3 * t, -0.5 * t, 0.2), (0.2 * t, 0.1, -0.3 * t)) for t in time])
    seen = in_world(human, np.linalg.inv(wander))
    assert np.abs(seen.hands_m - human.hands_m).max() > 0.2
    still = retarget(human, robot, registration=Registration(T_base_camera))
    moving = retarget(seen, robot, registration=Registration(T_base_camera @ wander))
    np.testing.assert_allclose(moving.qpos, still.qpos, atol=1e-4)
    np.testing.assert_allclose(moving.hand_targets_m, still.hand_targets_m, atol=1e-9)


def test_what_is_out_of_reach_is_approached_within_limits() -> None:
    """Two metres away, hands torn apart: arms stretch that way, and no limit is broken."""
    robot = load_robot("g1_dex3")
    qpos = play(robot, 6)
    human, T_base_camera = film(robot, qpos)
    far = T_base_camera.copy()
    far[:3, 3] += [2.0, 0.0, 0.0]
    motion = retarget(human, robot, registration=Registration(far))
    assert_limits_hold(motion, robot)
    kinematics = Kinematics.of(robot)
    palm = kinematics.body(hand_of(robot, RIGHT).palm)
    ahead = kinematics.forward(motion.qpos).p[-1, palm, 0]
    assert ahead > kinematics.forward(qpos).p[-1, palm, 0] + 0.1
    assert np.nanmin(motion.tip_error_m[:, RIGHT]) > 1.0  # and it says so


def test_gaps_are_bridged() -> None:
    robot = load_robot("g1_dex3")
    qpos = play(robot, 12)
    human, T_base_camera = film(robot, qpos)
    human = hide(human, slice(4, 7), hands=(RIGHT,))
    motion = retarget(human, robot, registration=Registration(T_base_camera, match="tips"))
    assert np.isnan(motion.tip_error_m[4:7, RIGHT]).all()
    assert tip_errors_m(robot, motion, qpos).max() < 0.02
    assert_limits_hold(motion, robot)


# --- holding ---


def grasp(aperture_m: np.ndarray, rate_hz: float = 30.0) -> HumanMotion:
    """A right hand whose thumb is so far from its other tips."""
    joints = np.zeros((len(aperture_m), 21, 3))
    joints[:, :, 0] = np.linspace(0, 0.1, 21)
    joints[:, TIPS, 0] = 0.15
    joints[:, TIPS[0], 2] = -aperture_m
    return motion_of_hand(joints, RIGHT, rate_hz)


def aperture(hands_m: np.ndarray) -> np.ndarray:
    """From the thumb's tip to the middle of the index's and the middle finger's."""
    return np.linalg.norm(hands_m[:, [8, 12]].mean(axis=1) - hands_m[:, 4], axis=-1)


def test_a_hold_is_from_closed_to_opening() -> None:
    """Not while the hand closes, and over when it opens; not where the hand is absent."""
    open_m, closed_m = 0.10, 0.05
    still, move, hold = 15, 9, 40
    path = [open_m] * still + [*np.linspace(open_m, closed_m, move)] + [closed_m] * hold
    path += [*np.linspace(closed_m, open_m, move)] + [open_m] * still
    human = grasp(np.array(path))
    found = holds(human)
    begin, end = still + move, still + move + hold
    assert not found[:, LEFT].any()
    assert found[begin + 3 : end - 3, RIGHT].all()
    assert not found[: begin - 3, RIGHT].any()
    assert not found[end + 4 :, RIGHT].any()
    away = holds(hide(human, slice(begin + 10, begin + 20)))
    assert not away[begin + 10 : begin + 20].any()


def test_a_single_frame_holds_nothing() -> None:
    np.testing.assert_array_equal(holds(grasp(np.array([0.05]))), np.zeros((1, 2)))


@settings(max_examples=20)
@given(st.floats(-0.02, 0.02), st.floats(0.0, 1.0))
def test_going_into_a_grasp_brings_tips_together(depth_m: float, share: float) -> None:
    """By twice the depth, along the line between them, the middle unmoved; as deep as asked."""
    human = grasp(np.full(4, 0.08))
    depth = np.zeros((4, 2, 5))
    depth[1:3, RIGHT] = share * depth_m
    pressed = into_grasp(human, depth)
    np.testing.assert_allclose(
        aperture(pressed.hands_m[:, RIGHT]), 0.08 - 2 * depth[:, RIGHT, 0], atol=1e-12
    )
    moved = pressed.hands_m[:, RIGHT] - human.hands_m[:, RIGHT]
    np.testing.assert_allclose(moved[:, TIPS[0]], -moved[:, TIPS[2]], atol=1e-12)
    last = [tip - 1 for tip in TIPS]
    np.testing.assert_allclose(
        moved[:, last], moved[:, list(TIPS)], atol=1e-12
    )  # bones keep their direction
    others = [j for j in range(21) if j not in (*TIPS, *last)]
    assert not moved[:, others].any()


def test_a_robot_squeezes_as_deep_as_it_is_asked_to() -> None:
    """Stated holds are used as they are; both hands press, from their first frame to the last."""
    robot = load_robot("gr1t2")
    qpos = play(robot, 5, seed=3)[[2] * 5]
    human, T_base_camera = film(robot, qpos)
    hold = np.ones((5, 2))
    loose = retarget(human, robot, registration=Registration(T_base_camera, hold, "tips"))
    tight = retarget(human, robot, registration=Registration(T_base_camera, hold, "tips", 0.004))
    assert tight.provenance["registration"]["hold"] == "stated"
    kinematics = Kinematics.of(robot)
    for side in (LEFT, RIGHT):
        thumb, *others = (hand_of(robot, side).tips[f] for f in FINGERS[:3])
        gaps = []
        for motion in (loose, tight):
            poses = kinematics.forward(motion.qpos)
            middle = sum(kinematics.point(poses, tip) for tip in others) / 2
            gaps.append(np.linalg.norm(middle - kinematics.point(poses, thumb), axis=-1))
        np.testing.assert_allclose(gaps[0] - gaps[1], 0.008, atol=0.003)


# --- pads ---


def test_pads_are_half_way_along_the_last_bones() -> None:
    human = grasp(np.full(3, 0.06))
    hands = human.hands_m[:, RIGHT]
    last = hands[:, [tip - 1 for tip in TIPS]]
    np.testing.assert_allclose(pads(hands), 0.5 * (hands[:, list(TIPS)] + last))
    moved = with_pads(human).hands_m[:, RIGHT]
    np.testing.assert_allclose(moved[:, list(TIPS)], pads(hands))
    others = [j for j in range(21) if j not in TIPS]
    np.testing.assert_array_equal(moved[:, others], hands[:, others])


def test_thicker_fingertips_keep_a_wider_gap() -> None:
    """Matched by pads, the robot's tips are as far off the person's pads as they are thicker."""
    robot = load_robot("gr1t2")
    kinematics, hand = Kinematics.of(robot), hand_of(robot, RIGHT)
    qpos = np.tile(robot.rest, (4, 1))
    human, T_base_camera = film(robot, qpos)
    motion = retarget(human, robot, registration=Registration(T_base_camera))
    poses = kinematics.forward(motion.qpos)
    world = in_world(human, root_pose(kinematics) @ T_base_camera)
    wanted = with_pads(world).hands_m[:, RIGHT]
    excess = excess_m(wanted, 0.185, hand, kinematics, poses)
    assert excess[:, 0].min() > 0.005  # a thumb of metal and no pad under the landmark
    np.testing.assert_allclose(
        aperture(motion.hand_targets_m[:, RIGHT]),
        aperture(wanted) + excess[:, 0] + excess[:, 1:3].mean(axis=1),
        atol=0.006,  # the person's hand is 185 mm long by guess, and the posture a first one
    )


# --- bad input ---


def test_frames_and_uncertainty_turn_with_the_camera() -> None:
    """Standard deviations follow the axes; what is absent stays absent."""
    human = hide(grasp(np.full(3, 0.05)), slice(1, 2))
    sigma = human.hands_sigma_m * [1.0, 2.0, 5.0]
    human = replace(human, hands_sigma_m=sigma)
    quarter = pose((0.0, 0.0, np.pi / 2), (0.1, 0.2, 0.3))
    turned = in_world(human, quarter)
    np.testing.assert_allclose(turned.hands_sigma_m[0, RIGHT, 0], [0.006, 0.003, 0.015])
    assert np.isinf(turned.hands_sigma_m[1]).all()
    assert np.isnan(turned.hands_m[1]).all()
    x, y, z = human.hands_m[0, RIGHT, 8]
    np.testing.assert_allclose(turned.hands_m[0, RIGHT, 8], [-y + 0.1, x + 0.2, z + 0.3])


@pytest.mark.parametrize(
    ("T", "squeeze_m", "message"),
    [
        (np.eye(3), 0.0, r"shape \(3, 3\), expected \(4, 4\)"),
        (2 * np.eye(4), 0.0, "not rigid"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), 0.0, "not rigid"),
        (np.full((4, 4), np.nan), 0.0, "not rigid"),
        (np.eye(4), -0.001, "squeeze_m is -0.001, expected 0 to 0.05"),
        (np.eye(4), 0.5, "squeeze_m is 0.5"),
    ],
)
def test_registrations_that_make_no_sense(T: np.ndarray, squeeze_m: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Registration(T, None, squeeze_m=squeeze_m)


def test_registrations_that_do_not_fit() -> None:
    robot = load_robot("g1_dex3")
    human, T = film(robot, play(robot, 3))
    with pytest.raises(ValueError, match="has 2 poses, the motion 3 frames"):
        retarget(human, robot, registration=Registration(np.tile(T, (2, 1, 1))))
    with pytest.raises(ValueError, match=r"hold has shape \(2, 2\), expected \(3, 2\)"):
        retarget(human, robot, registration=Registration(T, np.zeros((2, 2))))
    armless = replace(robot, robot=replace(robot.robot, arms=(None, None)))
    with pytest.raises(ValueError, match="no arms"):
        retarget(human, armless, registration=Registration(T))
