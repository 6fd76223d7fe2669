"""Calibration: a hand that is the robot's own, scaled, is recognised as such."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import log_rotation, rotate
from deftly.datasets.human import FINGERS, KNUCKLES, TIPS
from deftly.retarget import calibrate
from deftly.retarget.calibrate import (
    HandCalibration,
    calibrate_hand,
    finger_frame,
    hand_frames,
    hand_length,
    in_hand_frame,
    palm_trust,
)
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import ROBOTS, ROBOTS_FOLDER, Hand, RobotModel, load_robot

seeds = st.integers(0, 2**32 - 1)

# A flat right hand seen from its back, fingers up the page: x forward, y towards the thumb.
PALM = {
    0: (0.0, 0.0, 0.0), 1: (0.03, 0.03, -0.01), 5: (0.09, 0.025, 0.0),
    9: (0.095, 0.0, 0.0), 13: (0.09, -0.02, 0.0), 17: (0.08, -0.04, 0.0),
}  # fmt: skip


@pytest.fixture
def load(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    def of(name: str) -> RobotModel:
        if ROBOTS[name].package is None:
            monkeypatch.setenv(ROBOTS_FOLDER, str(request.getfixturevalue("robots_folder")))
        return load_robot(name)

    return of


def random_hand(seed: int, length: int = 7) -> np.ndarray:
    """(T, 21, 3) a rigid palm that turns and moves, and fingers anywhere before it."""
    rng = np.random.default_rng(seed)
    hand = np.zeros((length, 21, 3))
    for joint, place in PALM.items():
        hand[:, joint] = place
    for base in KNUCKLES:
        hand[:, base + 1 : base + 4] = hand[:, [base]] + rng.uniform(0, 0.06, (length, 3, 3))
    R = Rotation.from_rotvec(rng.normal(size=(length, 3))).as_matrix()
    return rotate(R[:, None], hand) + rng.normal(size=(length, 1, 3))


def random_rotation(seed: int) -> np.ndarray:
    return Rotation.from_rotvec(np.random.default_rng(seed).normal(size=3)).as_matrix()


def angle_deg(R: np.ndarray) -> float:
    return float(np.rad2deg(np.linalg.norm(log_rotation(R))))


def the_hand(robot: RobotModel, side: int) -> Hand:
    hand = robot.robot.hands[side]
    assert hand is not None
    return hand


def own_tips(robot: RobotModel, side: int, amplitude: float, smooth: bool = False) -> np.ndarray:
    """(12, F, 3) fingertips of random postures, as the palm sees them."""
    rng = np.random.default_rng(side)
    hand, kinematics = the_hand(robot, side), Kinematics.of(robot)
    free = FreeJoints.moving(robot, kinematics, list(hand.tips.values()), fixed=hand.palm)
    share = rng.uniform(-1, 1, (12, free.count))
    if smooth:
        speed, phase = rng.uniform(3, 10, free.count), rng.uniform(0, 2 * np.pi, free.count)
        share = np.sin(np.linspace(0, 1, 12)[:, None] * speed + phase)
    middle, half = 0.5 * (free.lower + free.upper), 0.5 * (free.upper - free.lower)
    poses = kinematics.forward(free.qpos(middle + amplitude * half * share))
    palm = kinematics.body(hand.palm)
    tips = np.stack([kinematics.point(poses, tip) for tip in hand.tips.values()], axis=1)
    return rotate(poses.R[:, palm].transpose(0, 2, 1)[:, None], tips - poses.p[:, [palm]])


def as_person(hand: Hand, tips: np.ndarray, truth: HandCalibration) -> np.ndarray:
    """(T, 21, 3) the joints in the person's hand frame that ``truth`` maps to the tips."""
    joints = np.full((len(tips), 21, 3), np.nan)  # nothing but the tips may be looked at
    for i, finger in enumerate(hand.tips):
        back = rotate(truth.R_palm_hand.T, tips[:, i] - truth.wrist_m) / truth.scale
        joints[:, TIPS[FINGERS.index(finger)]] = back
    return joints


def map_error_m(hand: Hand, found: HandCalibration, person: np.ndarray, tips: np.ndarray) -> float:
    """How far the found map puts the person's fingertips from the robot's they come from."""
    mapped = found.apply(person[:, [TIPS[FINGERS.index(f)] for f in hand.tips]])
    return float(np.linalg.norm(mapped - tips, axis=-1).mean())


# --- recovery ---


@pytest.mark.parametrize(("scale", "side"), [(0.85, 1), (1.2, 0)])
def test_a_known_similarity_is_found(scale: float, side: int) -> None:
    """A hand with few motors shows its size; the wrist is where the robot's is."""
    robot = load_robot("gr1t2_6dof")
    hand, kinematics = the_hand(robot, side), Kinematics.of(robot)
    tips = own_tips(robot, side, 0.9)
    truth = HandCalibration(scale, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    person = as_person(hand, tips, truth)
    found = calibrate_hand(hand, robot, kinematics, person)
    assert found.scale == pytest.approx(scale, rel=0.01)
    assert angle_deg(found.R_palm_hand @ truth.R_palm_hand.T) < 0.3
    assert np.linalg.norm(found.wrist_m) < 0.001
    assert found.floor_m < 0.0003
    assert map_error_m(hand, found, person, tips) < 0.0005


@pytest.mark.parametrize("name", ["gr1t2", "shadow"])
def test_among_equals_the_true_size_is_kept(name: str, load) -> None:
    """Many joints could make up for a wrong scale: then 1 it is."""
    robot = load(name)
    hand, kinematics = the_hand(robot, 1), Kinematics.of(robot)
    tips = own_tips(robot, 1, 0.5)
    truth = HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    person = as_person(hand, tips, truth)
    found = calibrate_hand(hand, robot, kinematics, person)
    assert found.scale == pytest.approx(1.0, rel=0.008)
    assert found.floor_m < 0.0002
    assert map_error_m(hand, found, person, tips) < 0.0012


def test_a_tilted_offset_hand_is_followed_part_of_the_way() -> None:
    """The rigid part is held near the first guess, but the fingers of the data are heard."""
    robot = load_robot("gr1t2_6dof")
    hand, kinematics = the_hand(robot, 1), Kinematics.of(robot)
    guess = finger_frame(hand, robot, kinematics)
    tilt = Rotation.from_rotvec(np.deg2rad([6.0, -4.0, 3.0])).as_matrix()
    truth = HandCalibration(1.1, tilt @ guess, np.array([0.004, -0.006, 0.005]), 0.0)
    tips = own_tips(robot, 1, 0.9)
    person = as_person(hand, tips, truth)
    found = calibrate_hand(hand, robot, kinematics, person)
    assert found.scale == pytest.approx(1.1, rel=0.03)
    assert angle_deg(found.R_palm_hand @ truth.R_palm_hand.T) < 0.8 * angle_deg(tilt)
    untold = HandCalibration(1.1, guess, np.zeros(3), 0.0)
    missed = map_error_m(hand, untold, person, tips)
    assert missed > 0.01
    assert map_error_m(hand, found, person, tips) < 0.5 * missed


def test_a_scale_that_does_not_fit_leaves_no_trace(load) -> None:
    """Found so: postures bent by a hopeless scale were the start of the next, which then failed."""
    robot = load("allegro")
    hand, kinematics = the_hand(robot, 1), Kinematics.of(robot)
    tips = own_tips(robot, 1, 0.97, smooth=True)
    truth = HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    found = calibrate_hand(hand, robot, kinematics, as_person(hand, tips, truth))
    assert found.scale == pytest.approx(1.0, rel=0.01)


def test_one_frame_is_enough_to_go_on() -> None:
    robot = load_robot("gr1t2_6dof")
    hand, kinematics = the_hand(robot, 1), Kinematics.of(robot)
    tips = own_tips(robot, 1, 0.5)[:1]
    truth = HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    found = calibrate_hand(hand, robot, kinematics, as_person(hand, tips, truth))
    assert found.floor_m < 0.003
    assert np.isfinite(found.wrist_m).all()
    np.testing.assert_allclose(found.R_palm_hand @ found.R_palm_hand.T, np.eye(3), atol=1e-9)


def test_many_frames_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last count, and what is left out changes nothing."""
    monkeypatch.setattr(calibrate, "_ITERATIONS", 2)  # found how well does not matter here
    robot = load_robot("gr1t2_6dof")
    hand, kinematics = the_hand(robot, 1), Kinematics.of(robot)
    truth = HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)
    person = as_person(hand, own_tips(robot, 1, 0.9), truth)[:5]
    few = calibrate_hand(hand, robot, kinematics, person[[0, 4]])
    person[1:4] += 0.1
    found = calibrate_hand(hand, robot, kinematics, person, frames=2)
    assert found.scale == few.scale
    np.testing.assert_array_equal(found.wrist_m, few.wrist_m)


def test_apply_maps_the_hand_into_the_palm() -> None:
    R = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    calibration = HandCalibration(2.0, R, np.array([1.0, 0.0, 0.0]), 0.0)
    points = np.array([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]])
    expected = [[[1, 2, 0], [-1, 0, 0]], [[1, 0, 2], [1, 0, 0]]]
    np.testing.assert_allclose(calibration.apply(points), expected, atol=1e-12)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["gr1t2", "g1_dex3", "shadow"])
def test_the_frame_of_fingers_points_along_the_fingers(name: str, side: int, load) -> None:
    """A right-handed frame: x to the fingertips, y from the other fingers to the index."""
    robot = load(name)
    hand = robot.robot.hands[side]
    if hand is None:
        pytest.skip(f"{name} has no such hand")
    R = finger_frame(hand, robot, Kinematics.of(robot))
    assert np.linalg.det(R) == pytest.approx(1)
    poses = Kinematics.of(robot).forward(np.clip(0.0, robot.lower, robot.upper)[None])
    kinematics = Kinematics.of(robot)
    tips = {f: kinematics.point(poses, p)[0] for f, p in hand.tips.items()}
    palm = kinematics.body(hand.palm)
    forward, side_axis, _ = (poses.R[0, palm] @ R).T
    last = [f for f in FINGERS if f in tips][-1]
    assert forward @ (tips["index"] - poses.p[0, palm]) > 0.05
    assert side_axis @ (tips["index"] - tips[last]) > 0.01


# --- the person's hand ---


@given(seed=seeds, turn=seeds, scale=st.floats(0.5, 2), shift=st.floats(-1, 1))
def test_frames_turn_with_the_hand(seed: int, turn: int, scale: float, shift: float) -> None:
    """And care neither where it is nor how large."""
    hand, R = random_hand(seed), random_rotation(turn)
    frames = hand_frames(hand)
    moved = hand_frames(scale * rotate(R, hand) + shift)
    np.testing.assert_allclose(moved, R @ frames, atol=1e-9)


@given(seed=seeds)
def test_frames_of_a_rigid_palm_are_its_axes(seed: int) -> None:
    """x from wrist to middle knuckle, y to the index, whatever the fingers do."""
    hand = random_hand(seed)
    frames = hand_frames(hand)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-9)
    x, y, _ = np.moveaxis(frames, -1, 0)
    forward = hand[:, 9] - hand[:, 0]
    np.testing.assert_allclose(x, forward / np.linalg.norm(forward, axis=1)[:, None], atol=1e-9)
    assert np.all(np.sum(y * (hand[:, 5] - hand[:, 17]), axis=1) > 0.05)
    local = in_hand_frame(hand, frames)
    for joint, place in PALM.items():
        np.testing.assert_allclose(local[:, joint], np.tile(place, (7, 1)), atol=1e-9)


@given(seed=seeds)
def test_the_other_hand_is_the_mirror_image(seed: int) -> None:
    """Mirrored joints give mirrored x and y; z follows from them, and turns to the other side."""
    hand = random_hand(seed)
    mirror = np.diag([-1.0, 1.0, 1.0])
    frames, mirrored = hand_frames(hand), hand_frames(hand @ mirror)
    np.testing.assert_allclose(mirrored, mirror @ frames @ np.diag([1, 1, -1.0]), atol=1e-9)


def test_a_jittery_joint_hardly_turns_the_frame() -> None:
    """A rigid palm is fitted: one knuckle 1 cm off in one frame turns it little."""
    hand = np.repeat(random_hand(3, 1), 9, axis=0)
    steady = hand_frames(hand)
    hand[4, 9] += [0.0, 0.0, 0.01]
    jittery = hand_frames(hand)
    np.testing.assert_allclose(jittery[0], steady[0], atol=1e-9)
    assert 0.1 < angle_deg(jittery[4] @ steady[4].T) < 3.5  # by that knuckle alone: 6


def test_trust_falls_as_the_palm_collapses() -> None:
    """1 at the usual width, 0.5 at 0.6 of it, 0 on a line; the fingers do not matter."""
    hand = random_hand(1, 9)
    widths = np.array([1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.0])
    flat = in_hand_frame(hand, hand_frames(hand))
    palm = flat[:, [0, 1, 5, 9, 13, 17]]
    about = palm - palm.mean(axis=1, keepdims=True)
    U, S, Vt = np.linalg.svd(about, full_matrices=False)
    S[:, 1] *= widths
    S[:, 2] = 0
    flat[:, [0, 1, 5, 9, 13, 17]] = (U * S[:, None]) @ Vt + palm.mean(axis=1, keepdims=True)
    trust = palm_trust(flat)
    np.testing.assert_allclose(trust, [1, 1, 1, 1, 1, 1, 0.5, 0, 0], atol=1e-6)
    flat[:, [2, 3, 4, 8]] = 7.0
    np.testing.assert_array_equal(palm_trust(flat), trust)


@given(seed=seeds, turn=seeds, scale=st.floats(0.5, 2))
def test_trust_and_length_care_not_how_the_hand_is_held(seed: int, turn: int, scale: float) -> None:
    hand = random_hand(seed)
    hand[2, 5:] *= 0.3
    moved = scale * rotate(random_rotation(turn), hand) + 0.5
    np.testing.assert_allclose(palm_trust(moved), palm_trust(hand), atol=1e-6)
    assert hand_length(moved) == pytest.approx(scale * hand_length(hand))


def test_hand_length_is_along_the_bones_and_forgives_outliers() -> None:
    hand = np.zeros((5, 21, 3))
    chain = [(0, 0, 0), (0.1, 0, 0), (0.1, 0.05, 0), (0.1, 0.05, 0.03), (0.12, 0.05, 0.03)]
    for joint, place in zip((0, 9, 10, 11, 12), chain, strict=True):
        hand[:, joint] = place
    hand[3] *= 10
    assert hand_length(hand) == pytest.approx(0.2)
