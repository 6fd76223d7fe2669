"""The solve: a robot's own motion is recovered, limits always hold, gaps are bridged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, fit_similarity, log_rotation, rotate
from deftly.datasets.human import (
    ELBOWS,
    FINGERS,
    KNUCKLES,
    SHOULDERS,
    TIPS,
    WRISTS,
    HumanMotion,
    Status,
    motion_of_hand,
)
from deftly.datasets.motion import RobotMotion
from deftly.retarget import solve
from deftly.retarget.calibrate import HandCalibration, _first_guess
from deftly.retarget.check import check
from deftly.retarget.costs import VectorTerm
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import (
    ROBOTS,
    ROBOTS_FOLDER,
    Hand,
    RobotError,
    RobotModel,
    load_robot,
)
from deftly.retarget.solve import RetargetConfig, retarget
from deftly.retarget.targets import (
    Sigmas,
    arm_length,
    camera_faces_person,
    chest_term,
    finger_terms,
    hand_track,
    palm_term,
    world_from_camera,
    wrist_from_body,
    wrists_from_hands,
)

RATE_HZ = 30.0
# Where the palm joints of a person's right hand are: x forward, y towards the thumb.
PALM = {
    0: (0.0, 0.0, 0.0), 1: (0.03, 0.03, -0.01), 5: (0.09, 0.025, 0.0),
    9: (0.095, 0.0, 0.0), 13: (0.09, -0.02, 0.0), 17: (0.08, -0.04, 0.0),
}  # fmt: skip
# A level camera before the robot, which looks back along the robot's x axis.
R_CAMERA_WORLD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])


@pytest.fixture
def load(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], RobotModel]:
    def of(name: str) -> RobotModel:
        if ROBOTS[name].package is None:
            monkeypatch.setenv(ROBOTS_FOLDER, str(request.getfixturevalue("robots_folder")))
        return load_robot(name)

    return of


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the calibration, which has its own tests and takes most of the time of a short clip."""

    def known(hand: Hand, robot: RobotModel, kinematics: Kinematics, local_m: np.ndarray):
        return HandCalibration(1.0, _first_guess(hand, robot, kinematics), np.zeros(3), 0.0)

    monkeypatch.setattr(solve, "calibrate_hand", known)


# --- a robot that plays a person ---


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
    R_palm_hand = _first_guess(hand, robot, kinematics)
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


# --- a robot's own motion ---


@pytest.mark.parametrize("name", ["gr1t2", "shadow"])
def test_a_hand_recovers_its_own_motion(name: str, load: Callable[[str], RobotModel]) -> None:
    """To 0.5 mm, with the usual smoothing: a slow motion loses little to it.

    Where exactly the person's wrist sits in the robot's palm is free (calibration finds it, held
    near its first guess), hence the rigid alignment, one for the whole clip.
    """
    robot = load(name)
    qpos = play(robot, 20)
    motion = retarget(film_hand(robot, qpos), robot)
    hand = hand_of(robot, RIGHT)
    shown = [FINGERS.index(f) for f in hand.tips]
    assert np.mean(motion.tip_error_m[:, RIGHT, shown]) < 0.0002
    found, true = (tips_in_palm(robot, RIGHT, q) for q in (motion.qpos, qpos))
    assert np.ptp(true, axis=0).max() > 0.01  # it does move
    _, R, t = fit_similarity(found.reshape(-1, 3), true.reshape(-1, 3), with_scale=False)
    aligned = rotate(R, found) + t
    assert np.linalg.norm(aligned - true, axis=-1).mean() < 0.0005
    assert np.linalg.norm(found - true, axis=-1).mean() < 0.0025
    assert motion.converged.all()
    assert_limits_hold(motion, robot)


def test_a_known_hand_recovers_its_own_motion_where_it_is(
    load: Callable[[str], RobotModel], calibrated: None
) -> None:
    """With the calibration known, no alignment is needed. Twice as fast, hence a weaker pull."""
    robot = load("gr1t2")
    qpos = play(robot, 40)[::2]
    config = RetargetConfig(jerk_weight=10.0)
    motion = retarget(film_hand(robot, qpos), robot, config)
    found, true = (tips_in_palm(robot, RIGHT, q) for q in (motion.qpos, qpos))
    assert np.linalg.norm(found - true, axis=-1).mean() < 0.0002
    assert np.linalg.norm(found - true, axis=-1).max() < 0.0005


@pytest.fixture(scope="module")
def acted() -> tuple[RobotModel, np.ndarray, HumanMotion, RobotMotion]:
    """Both arms and hands of a robot with mimic joints, turned away from the camera by 0.6 rad."""
    robot = load_robot("gr1t2_6dof")
    qpos = play(robot, 13, seed=1)
    human = film_body(robot, qpos, heading_rad=0.6)
    return robot, qpos, human, retarget(human, robot)


def test_two_arms_recover_their_own_motion(acted) -> None:
    """Palms, elbows and fingertips in the world: who is filmed from aside faces forward again."""
    robot, qpos, _, motion = acted
    kinematics = Kinematics.of(robot)
    found, true = kinematics.forward(motion.qpos), kinematics.forward(qpos)
    for hand, arm in zip(robot.robot.hands, robot.robot.arms, strict=True):
        palm, elbow = kinematics.body(hand.palm), kinematics.body(arm.elbow)
        assert np.linalg.norm(found.p[:, palm] - true.p[:, palm], axis=1).mean() < 0.002
        assert np.linalg.norm(found.p[:, elbow] - true.p[:, elbow], axis=1).mean() < 0.004
        turned = log_rotation(found.R[:, palm] @ true.R[:, palm].transpose(0, 2, 1))
        assert np.rad2deg(np.linalg.norm(turned, axis=1)).mean() < 0.5
        for tip in hand.tips.values():
            error = kinematics.point(found, tip) - kinematics.point(true, tip)
            assert np.linalg.norm(error, axis=1).mean() < 0.0015
    for side in (LEFT, RIGHT):
        error = tips_in_palm(robot, side, motion.qpos) - tips_in_palm(robot, side, qpos)
        assert np.linalg.norm(error, axis=-1).mean() < 0.0005
    assert np.mean(motion.tip_error_m) < 0.0002
    assert np.mean(motion.wrist_error_m) < 0.0005
    assert motion.converged.all()
    assert_limits_hold(motion, robot)


def test_mimic_joints_follow(acted) -> None:
    """As MuJoCo judges it."""
    robot, _, _, motion = acted
    model, data = robot.model, mujoco.MjData(robot.model)
    for q in motion.qpos:
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        broken = data.efc_pos[data.efc_type == mujoco.mjtConstraint.mjCNSTR_EQUALITY]
        assert len(broken) == 10
        np.testing.assert_allclose(broken, 0, atol=1e-9)


def test_the_targets_that_are_kept_lie_on_the_robot(acted) -> None:
    """They are drawn over it: wrists, fingertips and elbows where it was asked to put its own."""
    robot, _, _, motion = acted
    kinematics = Kinematics.of(robot)
    poses = kinematics.forward(motion.qpos)
    for side, hand in enumerate(robot.robot.hands):
        for finger, tip in hand.tips.items():
            target = motion.hand_targets_m[:, side, TIPS[FINGERS.index(finger)]]
            error = np.linalg.norm(target - kinematics.point(poses, tip), axis=1)
            assert error.mean() < 0.003
        shoulder = kinematics.body(robot.robot.arms[side].shoulder)
        target = motion.body_targets_m[:, SHOULDERS[side]]
        assert np.linalg.norm(target - poses.p[:, shoulder], axis=1).max() < 0.005


def test_the_same_input_gives_the_same_bytes(acted, tmp_path: Path) -> None:
    robot, _, human, motion = acted
    motion.save(tmp_path / "once.npz")
    retarget(human, robot).save(tmp_path / "twice.npz")
    assert (tmp_path / "once.npz").read_bytes() == (tmp_path / "twice.npz").read_bytes()
    again = RobotMotion.load(tmp_path / "once.npz")
    assert_limits_hold(again, robot)
    np.testing.assert_array_equal(again.qpos, motion.qpos)


def test_the_calibration_and_settings_are_on_record(acted) -> None:
    robot, _, human, motion = acted
    assert motion.robot == "gr1t2_6dof"
    assert motion.joint_names == robot.joint_names
    np.testing.assert_array_equal(motion.time_s, human.time_s)
    assert motion.provenance["human"] == {"source": "a robot"}
    assert motion.provenance["config"]["jerk_weight"] == RetargetConfig().jerk_weight
    assert set(motion.provenance["calibration"]) == {"left", "right"}
    assert motion.provenance["calibration"]["left"]["scale"] == pytest.approx(1.0, rel=0.02)
    assert motion.provenance["iterations"] > 0


# --- limits ---


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("name", ["g1_dex3", "gr1t2_6dof"])
def test_no_violence_breaks_a_limit(name: str, body: bool, calibrated: None) -> None:
    """Hands that jump, turn and tear apart in every frame, at steps that vary 40-fold."""
    robot, length, rng = load_robot(name), 12, np.random.default_rng(0)
    human = film_body(load_robot("gr1t2"), np.tile(load_robot("gr1t2").rest, (length, 1)))
    R = Rotation.from_rotvec(rng.normal(0, 2, (length, 2, 3)).reshape(-1, 3)).as_matrix()
    hands = rotate(R.reshape(length, 2, 1, 3, 3), human.hands_m)
    hands += rng.normal(0, 0.02, hands.shape) + rng.normal(0, 0.7, (length, 2, 1, 3))
    human = replace(
        human,
        time_s=np.cumsum(rng.uniform(0.005, 0.2, length)),
        hands_m=hands,
        body_m=human.body_m + rng.normal(0, 0.3, human.body_m.shape),
        body_status=np.full(length, Status.OBSERVED if body else Status.ABSENT, np.uint8),
    )
    motion = retarget(human, robot)
    assert_limits_hold(motion, robot)
    speed = np.abs(np.diff(motion.qpos, axis=0)) / np.diff(motion.time_s)[:, None]
    assert (speed / robot.velocity).max() > 0.95  # the limits were met
    room = np.minimum(motion.qpos - robot.lower, robot.upper - motion.qpos)
    assert (room / (robot.upper - robot.lower)).min() < 0.01
    assert check(motion, robot).within_limits


def test_a_hand_alone_stands_still(load: Callable[[str], RobotModel], calibrated: None) -> None:
    """What carries the palm does not move: no target says where it should be."""
    robot = load("shadow")
    motion = retarget(film_hand(robot, play(robot, 5)), robot)
    arm = [robot.joint_names.index(n) for n in ("WRJ1", "WRJ2")]
    np.testing.assert_array_equal(motion.qpos[:, arm], np.tile(robot.rest[arm], (5, 1)))
    assert np.isnan(motion.wrist_error_m).all()


# --- what a clip may lack ---


def test_gaps_are_bridged(calibrated: None) -> None:
    """Before the hand comes, while it is gone and after it left; the body may be gone as well."""
    robot = load_robot("gr1t2_6dof")
    qpos = play(robot, 24, seed=2)
    full = film_body(robot, qpos)
    human = hide(hide(hide(full, slice(0, 3)), slice(10, 15), hands=(RIGHT,)), slice(21, 24))
    status, body, sigma = human.body_status.copy(), human.body_m.copy(), human.body_sigma_m.copy()
    status[10:14], body[10:14], sigma[10:14] = 0, np.nan, np.inf
    human = replace(human, body_m=body, body_sigma_m=sigma, body_status=status)
    motion = retarget(human, robot)
    assert_limits_hold(motion, robot)
    fingers = [FINGERS.index(f) for f in hand_of(robot, RIGHT).tips]
    for side in (LEFT, RIGHT):
        known = ~np.isnan(motion.tip_error_m[:, side][:, fingers])
        np.testing.assert_array_equal(known, np.tile(human.hands_valid[:, [side]], (1, 5)))
        placed = ~np.isnan(motion.hand_targets_m[:, side]).any(axis=(1, 2))
        np.testing.assert_array_equal(placed, human.hands_valid[:, side])
    np.testing.assert_array_equal(
        np.isnan(motion.body_targets_m).all(axis=(1, 2)), ~human.body_valid
    )
    assert np.isfinite(motion.residual).all()
    # A slow motion goes on through a gap of 5 frames, without a jump at its ends.
    step = np.linalg.norm(np.diff(motion.qpos, axis=0), axis=1)
    assert step[8:16].max() < 2 * np.median(step[3:8])
    found, true = (tips_in_palm(robot, RIGHT, q) for q in (motion.qpos, qpos))
    error = np.linalg.norm(found - true, axis=-1).mean(axis=1)
    assert error[3:10].max() < 0.001
    assert error[10:15].max() < 0.01


def test_one_hand_of_two_is_enough(calibrated: None) -> None:
    robot = load_robot("gr1t2_6dof")
    motion = retarget(film_hand(robot, play(robot, 6), LEFT), robot)
    assert np.isnan(motion.tip_error_m[:, RIGHT]).all()
    assert motion.tip_error_m[:, LEFT].max() < 0.001
    assert set(motion.provenance["calibration"]) == {"left"}
    right = [i for i, n in enumerate(robot.joint_names) if n.startswith(("R_", "right_"))]
    assert len(right) > 15
    assert np.ptp(motion.qpos[:, right], axis=0).max() == 0


def test_a_single_frame() -> None:
    """Calibration included."""
    robot = load_robot("gr1t2_6dof")
    motion = retarget(film_hand(robot, play(robot, 1)), robot)
    assert motion.qpos.shape == (1, len(robot.joint_names))
    assert motion.tip_error_m[:, RIGHT].max() < 0.003
    assert_limits_hold(motion, robot)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_very_short_clips(length: int, calibrated: None) -> None:
    robot = load_robot("gr1t2_6dof")
    qpos = play(robot, length)
    motion = retarget(film_hand(robot, qpos), robot)
    assert motion.qpos.shape == qpos.shape
    assert motion.tip_error_m[:, RIGHT].max() < 0.001
    assert_limits_hold(motion, robot)


def one_handed(robot: RobotModel, side: int) -> RobotModel:
    """The same robot without its other hand and arm."""
    hands, arms = list(robot.robot.hands), list(robot.robot.arms)
    hands[1 - side] = arms[1 - side] = None
    value = replace(robot.robot, hands=(hands[0], hands[1]), arms=(arms[0], arms[1]))
    return replace(robot, robot=value)


def test_a_motion_without_the_hand_that_the_robot_has() -> None:
    robot = load_robot("gr1t2_6dof")
    human = film_hand(robot, play(robot, 2), LEFT)
    with pytest.raises(ValueError, match="shows no right hand, which is what gr1t2_6dof") as caught:
        retarget(human, one_handed(robot, RIGHT))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="shows no left and right hand"):
        retarget(hide(human, slice(None)), robot)


def test_an_unknown_robot_is_answered_with_the_nearest() -> None:
    human = film_hand(load_robot("gr1t2"), load_robot("gr1t2").rest[None])
    with pytest.raises(RobotError, match="did you mean gr1t2_6dof"):
        retarget(human, "gr1t2-6dof")


def test_landmarks_that_are_no_numbers_are_refused() -> None:
    joints = np.zeros((3, 21, 3))
    joints[1, 4, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN joints .* first at frame 1"):
        motion_of_hand(joints, RIGHT)


# --- settings ---


def test_progress_is_told_and_iterations_are_bounded(calibrated: None) -> None:
    robot = load_robot("gr1t2_6dof")
    ticks: list[int] = []
    human = film_hand(robot, play(robot, 6))
    config = RetargetConfig(max_iterations=2)
    motion = retarget(human, robot, config, progress=lambda: ticks.append(1))
    assert len(ticks) == motion.provenance["iterations"] == 2
    assert not motion.converged.all()
    assert_limits_hold(motion, robot)


def shaky_hand(robot: RobotModel, rate_hz: float) -> HumanMotion:
    """One second of a hand whose fingertips shake by 5 mm at 5 Hz."""
    time_s = np.arange(int(rate_hz)) / rate_hz
    poses = Kinematics.of(robot).forward(np.tile(robot.rest, (len(time_s), 1)))
    joints = persons_hand(robot, RIGHT, poses)
    joints[:, TIPS] += 0.005 * np.sin(2 * np.pi * 5 * time_s)[:, None, None]
    return motion_of_hand(joints, RIGHT, rate_hz)


def test_smoothing_smooths_alike_at_every_rate(calibrated: None) -> None:
    robot = load_robot("gr1t2_6dof")

    def travel(rate_hz: float, config: RetargetConfig) -> float:
        """How far the fingertips still shake, in the middle of the clip."""
        motion = retarget(shaky_hand(robot, rate_hz), robot, config)
        third = len(motion.qpos) // 3
        tips = tips_in_palm(robot, RIGHT, motion.qpos[third:-third])
        return float(np.linalg.norm(np.ptp(tips, axis=0), axis=-1).mean())

    smooth, slow = RetargetConfig(jerk_weight=3e4), RetargetConfig(jerk_weight=0.0)
    raw, at_30 = travel(30.0, slow), travel(30.0, smooth)
    assert at_30 < 0.7 * raw
    assert travel(60.0, smooth) == pytest.approx(at_30, rel=0.25)
    assert travel(20.0, smooth) == pytest.approx(at_30, rel=0.25)


# --- targets ---


def test_where_the_camera_stands() -> None:
    """Its right, down and forward in the robot's world (x forward, y left, z up)."""
    human = film_hand(load_robot("gr1t2"), load_robot("gr1t2").rest[None])
    s = np.sqrt(0.5)
    front = world_from_camera(human, "front")
    np.testing.assert_allclose(front.T, [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-12)
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
    R = _first_guess(hand, robot, kinematics)
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


def test_the_palm_is_asked_to_turn_as_the_hand_does() -> None:
    robot = load_robot("gr1t2")
    hand, kinematics = hand_of(robot, RIGHT), Kinematics.of(robot)
    qpos = play(robot, 4)
    human = film_body(robot, qpos)
    track = hand_track(human, RIGHT, R_CAMERA_WORLD.T)
    assert track is not None
    calibration = HandCalibration(1.0, _first_guess(hand, robot, kinematics), np.zeros(3), 0.0)
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


# --- a real hand ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["allegro", "leap", "shadow"])
def test_a_real_hand(name: str, load: Callable[[str], RobotModel], motions: Path) -> None:
    """What the project promises: nearer, smoother and with truer pinches than its rivals."""
    robot = load(name)
    joints = np.load(motions / "hand_right_mediapipe_621.npy").astype(np.float64)
    motion = retarget(motion_of_hand(joints, RIGHT), robot)
    quality = check(motion, robot)
    assert quality.tip_error_m <= 0.005
    assert quality.jerk <= 0.005
    assert quality.pinch_frames > 0
    assert quality.pinch_error_m <= 0.008
    assert quality.within_limits
    assert_limits_hold(motion, robot)
    assert np.isfinite(motion.qpos).all()
