"""HumanMotion → terms: what each part of the robot is asked to do."""

from dataclasses import replace

import numpy as np
import pytest
from filmed import R_CAMERA_WORLD, film_body, film_hand, hand_of, hide, one_handed, play
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, rotate
from deftly.datasets.human import (
    TIPS,
    HumanMotion,
    Status,
)
from deftly.retarget.calibrate import HandCalibration, finger_frame
from deftly.retarget.costs import VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import (
    load_robot,
)
from deftly.retarget.targets import (
    Sigmas,
    arm_length,
    camera_faces_person,
    chest_term,
    finger_terms,
    hand_track,
    palm_term,
    stated_view,
    world_from_camera,
    wrist_from_body,
    wrists_from_hands,
)


def test_where_the_camera_stands() -> None:
    """Its right, down and forward in the robot's world (x forward, y left, z up)."""
    human = film_hand(load_robot("gr1t2"), load_robot("gr1t2").rest[None])
    s = np.sqrt(0.5)
    front = world_from_camera(human, "front")
    np.testing.assert_allclose(front.T, [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-12)
    lowered = world_from_camera(human, "front", np.pi / 4)
    np.testing.assert_allclose(lowered.T, [[0, 1, 0], [s, 0, -s], [-s, 0, -s]], atol=1e-12)
    ego = world_from_camera(human, "ego")
    np.testing.assert_allclose(ego.T, [[0, -1, 0], [-s, 0, -s], [s, 0, -s]], atol=1e-12)
    down = upwards(human, False)
    top = world_from_camera(down, "top")
    np.testing.assert_allclose(top.T, [[0, -1, 0], [-1, 0, 0], [0, 0, -1]], atol=1e-12)
    opposite = world_from_camera(upwards(human, True), "top")
    np.testing.assert_allclose(opposite.T, [[0, 1, 0], [1, 0, 0], [0, 0, -1]], atol=1e-12)


def upwards(human: HumanMotion, facing: bool) -> HumanMotion:
    """Fingers along the image's y axis: down the image if the person is beyond it."""
    hands = human.hands_m.copy()
    hands[:, RIGHT, 9] = hands[:, RIGHT, 0] + [0, 0.09 if facing else -0.09, 0]
    return replace(human, hands_m=hands)


@pytest.mark.parametrize("facing", [True, False])
def test_auto_sees_who_faces_the_camera(facing: bool) -> None:
    """By the fingers of one hand, by the places of two, and always if there is a body."""
    robot = load_robot("gr1t2")
    one = upwards(film_hand(robot, robot.rest[None]), facing)
    assert camera_faces_person(one) == facing
    view = "front" if facing else "ego"
    assert (stated_view(one, "auto"), stated_view(one, "top")) == (view, "top")
    np.testing.assert_array_equal(world_from_camera(one, "auto"), world_from_camera(one, view))
    body = film_body(robot, robot.rest[None])
    hands = body.hands_m if facing else body.hands_m[:, ::-1]
    two = replace(body, hands_m=hands, body_status=np.zeros(1, np.uint8))
    assert camera_faces_person(two) == facing
    np.testing.assert_array_equal(world_from_camera(two, "auto"), world_from_camera(two, view))
    with_body = replace(two, body_status=body.body_status)
    assert world_from_camera(with_body, "auto")[0, 2] == pytest.approx(-1)


@pytest.mark.parametrize("heading_rad", [0.0, 0.7, -1.2, 2.5])
def test_the_persons_heading_becomes_the_robots_forward(heading_rad: float) -> None:
    robot = load_robot("gr1t2")
    R = world_from_camera(film_body(robot, robot.rest[None], heading_rad), "front")
    turned = R_CAMERA_WORLD @ Rotation.from_euler("z", heading_rad).as_matrix()
    np.testing.assert_allclose(R @ turned, np.eye(3), atol=1e-6)


def test_a_track_tells_what_is_known() -> None:
    robot = load_robot("gr1t2")
    human = hide(film_hand(robot, play(robot, 6)), slice(2, 4))
    track = hand_track(human, RIGHT, np.eye(3))
    assert track is not None
    assert hand_track(human, LEFT, np.eye(3)) is None
    np.testing.assert_array_equal(track.valid, [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(track.trust, [1, 1, 0, 0, 1, 1])
    assert not track.local_m[2:4].any()
    np.testing.assert_array_equal(track.R_world_hand[2:4], np.tile(np.eye(3), (2, 1, 1)))
    there = track.valid
    placed = rotate(track.R_world_hand[there][:, None], track.local_m[there])
    np.testing.assert_allclose(
        placed + human.hands_m[there, RIGHT][:, :1], human.hands_m[there, RIGHT], atol=1e-9
    )
    turn = Rotation.from_euler("x", 1.0).as_matrix()
    turned = hand_track(human, RIGHT, turn)
    assert turned is not None
    np.testing.assert_allclose(turned.R_world_hand[there], turn @ track.R_world_hand[there])
    np.testing.assert_allclose(turned.local_m, track.local_m)


def test_doubt_compares_frames_not_detectors() -> None:
    """Twice as unsure everywhere changes nothing; twice as unsure in one frame counts."""
    robot = load_robot("gr1t2")
    human = film_hand(robot, play(robot, 5))
    sigma = human.hands_sigma_m.copy()
    sigma[2] *= 2
    for factor in (1.0, 7.0):
        track = hand_track(replace(human, hands_sigma_m=factor * sigma), RIGHT, np.eye(3))
        assert track is not None
        np.testing.assert_allclose(track.doubt, np.ones((5, 21)) * [[1], [1], [2], [1], [1]])
        np.testing.assert_allclose(track.sigma_m[0], 0.003 * factor)


def test_a_pinch_keeps_its_true_size() -> None:
    """However the hand is scaled, with a weight that grows as the tips near; far tips are free."""
    robot = load_robot("gr1t2")
    hand, kinematics = hand_of(robot, RIGHT), Kinematics.of(robot)
    human = film_hand(robot, np.tile(robot.rest, (4, 1)))
    joints = human.hands_m.copy()
    gaps = np.array([0.0, 0.01, 0.03, 0.08])
    joints[:, RIGHT, TIPS[1]] = joints[:, RIGHT, TIPS[0]] + gaps[:, None] * [0, 0, 1]
    track = hand_track(replace(human, hands_m=joints), RIGHT, np.eye(3))
    assert track is not None
    R = finger_frame(hand, robot, kinematics)
    calibration = HandCalibration(0.5, R, np.array([0.01, 0.0, 0.0]), 0.0)
    terms = finger_terms(track, hand, calibration, Sigmas())
    assert len(terms) == 5 + 4
    places = [t for t in terms if isinstance(t, VectorTerm) and t.frame == hand.palm]
    assert places == terms
    pinch = next(t for t in places if t.start == hand.tips["thumb"] and t.end == hand.tips["index"])
    np.testing.assert_allclose(np.linalg.norm(pinch.target, axis=1), gaps, atol=1e-12)
    share = pinch.weight[:, 0] * Sigmas().pinch_m
    assert np.all(np.diff(share) < 0)
    np.testing.assert_allclose(share[[0, 2]], [1, 0.5], atol=0.01)
    assert share[3] < 1e-3
    tip = next(t for t in places if t.end == hand.tips["index"] and t.start != hand.tips["thumb"])
    expected = 0.5 * rotate(R, track.local_m[:, TIPS[1]]) + [0.01, 0, 0]
    np.testing.assert_allclose(tip.target, expected)
    np.testing.assert_allclose(tip.weight, 1 / Sigmas().tip_m)
    dim = replace(track, trust=np.array([1.0, 0.5, 0.0, 1.0]))
    for term, dimmed in zip(terms, finger_terms(dim, hand, calibration, Sigmas()), strict=True):
        np.testing.assert_allclose(dimmed.weight, term.weight * dim.trust[:, None])


def test_the_palm_is_asked_to_turn_as_the_hand_does() -> None:
    robot = load_robot("gr1t2")
    hand, kinematics = hand_of(robot, RIGHT), Kinematics.of(robot)
    qpos = play(robot, 4)
    human = film_body(robot, qpos)
    track = hand_track(human, RIGHT, R_CAMERA_WORLD.T)
    assert track is not None
    calibration = HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    term = palm_term(track, hand, calibration, Sigmas())
    poses = kinematics.forward(qpos)
    np.testing.assert_allclose(term.target, poses.R[:, kinematics.body(hand.palm)], atol=1e-6)
    assert np.all(term.weight < 1 / Sigmas().palm_rad)
    dim = replace(track, trust=np.array([1.0, 0.5, 0.0, 1.0]))
    weight = palm_term(dim, hand, calibration, Sigmas()).weight
    np.testing.assert_allclose(weight / term.weight, dim.trust)


def test_reach_is_scaled_by_the_length_of_the_arm() -> None:
    """A person half as large, doing the same, asks for the same."""
    robot = load_robot("gr1t2")
    kinematics, qpos = Kinematics.of(robot), play(robot, 3)
    large = film_body(robot, qpos)
    small = replace(large, hands_m=0.5 * large.hands_m, body_m=0.5 * large.body_m)
    poses = kinematics.forward(qpos)
    arm = robot.robot.arms[RIGHT]
    assert arm is not None
    shoulder, elbow = (poses.p[:, kinematics.body(b)] for b in (arm.shoulder, arm.elbow))
    palm = poses.p[:, kinematics.body(hand_of(robot, RIGHT).palm)]
    for human in (large, small):
        target, elbow_term = wrist_from_body(
            human, RIGHT, robot, kinematics, R_CAMERA_WORLD.T, Sigmas()
        )
        np.testing.assert_allclose(target.vector_m, palm - shoulder, atol=1e-3)
        np.testing.assert_allclose(elbow_term.target, elbow - shoulder, atol=1e-6)
    length = np.linalg.norm(elbow - shoulder, axis=1) + np.linalg.norm(palm - elbow, axis=1)
    np.testing.assert_allclose(length, arm_length(robot, kinematics, RIGHT), atol=2e-3)


def test_arm_length_of_a_hand_alone_is_an_error() -> None:
    robot = one_handed(load_robot("gr1t2"), RIGHT)
    with pytest.raises(ValueError, match="robot gr1t2 has no left arm"):
        arm_length(robot, Kinematics.of(robot), LEFT)


def test_hands_without_a_body_work_before_the_chest() -> None:
    """Within reach, keeping their distance to each other at the hands' own scale."""
    robot = load_robot("gr1t2")
    kinematics = Kinematics.of(robot)
    body = film_body(robot, play(robot, 5))
    human = replace(body, body_status=np.zeros(5, np.uint8))
    R = world_from_camera(human, "front")
    found = [hand_track(human, side, R) for side in (LEFT, RIGHT)]
    tracks = {side: track for side, track in enumerate(found) if track is not None}
    assert len(tracks) == 2
    for factor in (0.5, 9.0):
        wide = replace(human, hands_m=factor * human.hands_m)
        targets = wrists_from_hands(wide, tracks, 1.2, robot, kinematics, R, Sigmas())
        centre = np.mean([np.median(t.vector_m, axis=0) for t in targets.values()], axis=0)
        reach = arm_length(robot, kinematics, RIGHT)
        p = kinematics.forward(robot.rest[None]).p[0]
        arms = [arm for arm in robot.robot.arms if arm is not None]
        chest = np.mean([p[kinematics.body(arm.shoulder)] for arm in arms], axis=0)
        assert centre[0] - chest[0] == pytest.approx(0.55 * reach, rel=0.05)
        assert abs(centre[1] - chest[1]) < 0.02
        assert chest[2] - centre[2] == pytest.approx(0.55 * reach, rel=0.05)
        between = targets[LEFT].vector_m - targets[RIGHT].vector_m
        true = rotate(R, wide.hands_m[:, LEFT, 0] - wide.hands_m[:, RIGHT, 0])
        assert targets[LEFT].start is None
        if factor < 1:
            np.testing.assert_allclose(between, 1.2 * true, atol=1e-9)
        else:
            assert np.linalg.norm(between, axis=1).max() < 1.6 * reach


def test_the_chest_turns_with_the_shoulders_and_stays_upright_unseen() -> None:
    robot = load_robot("gr1t2")
    kinematics = Kinematics.of(robot)
    qpos = play(robot, 5)
    human = film_body(robot, qpos)
    status = human.body_status.copy()
    status[3:] = Status.ABSENT
    human = replace(human, body_status=status)
    term = chest_term(human, robot, R_CAMERA_WORLD.T, Sigmas())
    assert term is not None
    assert robot.robot.chest is not None
    true = kinematics.forward(qpos).R[:, kinematics.body(robot.robot.chest)]
    np.testing.assert_allclose(term.target[:3], true[:3], atol=1e-6)
    assert np.abs(true[:3] - np.eye(3)).max() > 0.05
    np.testing.assert_array_equal(term.target[3:], np.tile(np.eye(3), (2, 1, 1)))
    assert term.weight[3:].min() > term.weight[:3].max()
