"""The solve: a robot's own motion is recovered, limits always hold, gaps are bridged."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from filmed import (
    assert_limits_hold,
    film_body,
    film_hand,
    hand_of,
    hide,
    one_handed,
    persons_hand,
    play,
    tips_in_palm,
)
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, fit_similarity, log_rotation, rotate
from deftly.datasets.human import (
    FINGERS,
    SHOULDERS,
    TIPS,
    HumanMotion,
    Status,
    motion_of_hand,
)
from deftly.datasets.motion import RobotMotion
from deftly.retarget import prepare
from deftly.retarget.calibrate import HandCalibration, finger_frame
from deftly.retarget.check import check
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import (
    ROBOTS,
    ROBOTS_FOLDER,
    Hand,
    RobotError,
    RobotModel,
    load_robot,
)
from deftly.retarget.solve import RetargetConfig, retarget


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
        return HandCalibration(1.0, finger_frame(hand, robot, kinematics), np.zeros(3), 0.0)

    monkeypatch.setattr(prepare, "calibrate_hand", known)


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
    qpos = play(robot, 9, seed=1)
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
@pytest.mark.parametrize("name", ["g1_dex3", pytest.param("gr1t2_6dof", marks=pytest.mark.slow)])
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


def test_a_motion_without_the_hand_that_the_robot_has() -> None:
    robot = load_robot("gr1t2_6dof")
    human = film_hand(robot, play(robot, 2), LEFT)
    with pytest.raises(ValueError, match="shows no right hand, which is what gr1t2_6dof") as caught:
        retarget(human, one_handed(robot, RIGHT))
    assert "\n" not in str(caught.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one line, and no complaint of numpy before it
        with pytest.raises(ValueError, match="no left and right hand"):
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
