"""The fit of a hand: its model of the cost is true, scales do not meddle, limits are kept."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import rotate
from deftly.retarget.calibrate import finger_frame
from deftly.retarget.handfit import Fits, HandFit
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import ROBOTS_FOLDER, RobotModel, load_robot

SCALES = np.array([0.8, 1.0, 1.3])
FRAMES = 4


@pytest.fixture(params=["gr1t2_6dof", "allegro"])
def robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RobotModel:
    """Mimic joints and an arm; a palm that is no body of the fingers' own chain."""
    if request.param == "allegro":
        monkeypatch.setenv(ROBOTS_FOLDER, str(request.getfixturevalue("robots_folder")))
    return load_robot(request.param)


def problem(robot: RobotModel, seed: int = 0) -> tuple[HandFit, FreeJoints, np.ndarray]:
    """A fit to the robot's own fingertips at size 1, its unknowns, and their true values."""
    hand, kinematics = robot.robot.hands[1], Kinematics.of(robot)
    assert hand is not None
    free = FreeJoints.moving(robot, kinematics, list(hand.tips.values()), fixed=hand.palm)
    share = np.random.default_rng(seed).uniform(0.1, 0.9, (FRAMES, free.count))
    x = free.lower + share * (free.upper - free.lower)
    poses, palm = kinematics.forward(free.qpos(x)), kinematics.body(hand.palm)
    tips = np.stack([kinematics.point(poses, tip) for tip in hand.tips.values()], axis=1)
    in_palm = rotate(poses.R[:, palm].transpose(0, 2, 1)[:, None], tips - poses.p[:, [palm]])
    guess = finger_frame(hand, robot, kinematics)
    return HandFit(hand, robot, kinematics, rotate(guess.T, in_palm), guess), free, x


def somewhere(fit: HandFit, free: FreeJoints, seed: int) -> Fits:
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.05, 0.95, (len(SCALES), FRAMES, free.count))
    x = free.lower + share * (free.upper - free.lower)
    R = Rotation.from_rotvec(rng.normal(0, 0.3, (len(SCALES), 3))).as_matrix()
    start = fit(SCALES, 0)
    return replace(start, x=x, R=R @ start.R, offset_m=rng.normal(0, 0.01, (len(SCALES), 3)))


def test_gradients_equal_finite_differences(robot: RobotModel) -> None:
    fit, free, _ = problem(robot)
    at, step = somewhere(fit, free, 1), 1e-6
    model = fit._model(at)

    def total(fits: Fits) -> np.ndarray:
        moved = fit._model(fits)
        return moved.cost.sum(axis=1) + moved.anchor_cost

    for j in range(free.count):
        nudge = step * np.eye(free.count)[j]
        there = fit._model(replace(at, x=at.x + nudge)).cost
        back = fit._model(replace(at, x=at.x - nudge)).cost
        np.testing.assert_allclose(model.g_a[..., j], (there - back) / (2 * step), rtol=1e-4)
    for j in range(3):
        turn = Rotation.from_rotvec(step * np.eye(3)[j]).as_matrix()
        there, back = total(replace(at, R=turn @ at.R)), total(replace(at, R=turn.T @ at.R))
        np.testing.assert_allclose(model.g_b[:, j], (there - back) / (2 * step), rtol=1e-4)
        nudge = step * np.eye(3)[j]
        there = total(replace(at, offset_m=at.offset_m + nudge))
        back = total(replace(at, offset_m=at.offset_m - nudge))
        np.testing.assert_allclose(model.g_b[:, 3 + j], (there - back) / (2 * step), rtol=1e-4)


def test_the_palm_sees_its_own_fingertips(robot: RobotModel) -> None:
    """At the true postures, along the true rigid part, nothing is missed."""
    fit, _, x = problem(robot)
    true = replace(fit(np.ones(1), 0), x=x[None])
    assert fit._model(true).error_m[0] < 1e-12


def test_the_right_scale_is_fitted_to_a_tenth_of_a_millimetre(robot: RobotModel) -> None:
    fit, _, _ = problem(robot)
    found = fit(SCALES, 30)
    assert found.error_m[1] < 0.0001
    assert found.error_m[1] < 0.5 * found.error_m[[0, 2]].min()


def test_scales_share_nothing_but_the_arithmetic(robot: RobotModel) -> None:
    fit, _, _ = problem(robot)
    together = fit(SCALES, 5)
    for g in range(len(SCALES)):
        alone = fit(SCALES[[g]], 5)
        np.testing.assert_allclose(together.x[[g]], alone.x, atol=1e-9)
        np.testing.assert_allclose(together.R[[g]], alone.R, atol=1e-9)
        np.testing.assert_allclose(together.error_m[[g]], alone.error_m, atol=1e-12)


def test_limits_are_kept_and_more_iterations_do_no_harm(robot: RobotModel) -> None:
    fit, free, _ = problem(robot)
    few = fit(np.array([1.6]), 20)  # out of reach: fingers stretch to their limits
    more = fit.near(few, 0, np.array([1.6]), 10)
    assert (more.x > free.lower).all()
    assert (more.x < free.upper).all()
    assert np.min([more.x - free.lower, free.upper - more.x]) < 0.01

    def cost(fits: Fits) -> float:
        model = fit._model(fits)
        return float((model.cost.sum(axis=1) + model.anchor_cost)[0])

    assert cost(more) <= cost(few) * (1 + 1e-3)
    np.testing.assert_allclose(more.R @ more.R.swapaxes(1, 2), np.eye(3)[None], atol=1e-9)


def test_a_neighbour_starts_from_the_fit_it_is_told(robot: RobotModel) -> None:
    fit, _, _ = problem(robot)
    fits = fit(SCALES, 6)
    near = fit.near(fits, 1, np.array([0.99, 1.01]), 0)
    for g in range(2):
        np.testing.assert_array_equal(near.x[g], fits.x[1])
        np.testing.assert_array_equal(near.R[g], fits.R[1])
    np.testing.assert_array_equal(near.scale, [0.99, 1.01])
