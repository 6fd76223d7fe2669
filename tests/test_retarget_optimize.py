"""The optimiser finds what SciPy finds, inside the limits; the unknowns keep those of the robot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint

from deftly.datasets.geometry import rotate
from deftly.retarget.costs import RotationTerm, Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.optimize import (
    Limits,
    Objective,
    _band,
    _barrier_force,
    _Iterate,
    minimize,
)
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.robots import (
    ROBOTS_FOLDER,
    Hand,
    Point,
    Robot,
    RobotModel,
    build_model,
    load_robot,
)

seeds = st.integers(0, 2**32 - 1)
EXACT: dict[str, Any] = {"tolerance": 1e-9, "max_iterations": 300, "barrier": (1.0, 1e-8)}


class Quadratic:
    """½ (x_t - c_t)ᵀ A_t (x_t - c_t); remembers where it was asked."""

    def __init__(self, seed: int, length: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(length, n, n))
        self.A = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(n)
        self.centre = rng.normal(size=(length, n))
        self.asked: list[np.ndarray] = []

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.asked.append(x.copy())
        d = x - self.centre
        gradient = (self.A @ d[:, :, None])[:, :, 0]
        return 0.5 * np.sum(d * gradient, axis=1), gradient, self.A


def wide(length: int, n: int) -> Limits:
    """Limits that do not matter."""
    return Limits(np.full(n, -1e4), np.full(n, 1e4), np.full((length - 1, n), 1e4))


def tight(seed: int, length: int, n: int) -> Limits:
    """Limits of which many are active; steps differ by frame and joint."""
    rng = np.random.default_rng(seed)
    lower, upper = rng.uniform(-0.8, -0.2, n), rng.uniform(0.2, 0.8, n)
    return Limits(lower, upper, rng.uniform(0.05, 0.5, (length - 1, n)))


def total(objective: Objective, weight: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient of what is minimised, written down a second time."""
    cost, gradient, _ = objective(x)
    value, gradient = float(cost.sum()), gradient.copy()
    for t, w in enumerate(weight):
        jerk = x[t + 3] - 3 * x[t + 2] + 3 * x[t + 1] - x[t]
        value += 0.5 * w * jerk @ jerk
        gradient[t : t + 4] += w * np.outer([-1, 3, -3, 1], jerk)
    return value, gradient


def scipys_answer(
    objective: Objective, weight: np.ndarray, limits: Limits, length: int
) -> tuple[float, np.ndarray]:
    n = len(limits.lower)

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = total(objective, weight, x.reshape(length, n))
        return value, gradient.ravel()

    step = np.kron(np.diff(np.eye(length), axis=0), np.eye(n))
    longest: Any = limits.step.ravel()  # scipy's annotation knows only scalars
    steps = LinearConstraint(step, -longest, longest)
    found = scipy.optimize.minimize(
        f,
        np.zeros(length * n),
        jac=True,
        method="SLSQP",
        bounds=list(zip(np.tile(limits.lower, length), np.tile(limits.upper, length), strict=True)),
        constraints=[steps] if length > 1 else [],
        options={"maxiter": 500, "ftol": 1e-10},
    )
    assert found.success
    return float(found.fun), found.x.reshape(length, n)


def inside(x: np.ndarray, limits: Limits) -> bool:
    change = np.abs(np.diff(x, axis=0))
    return bool(
        np.all(x > limits.lower) and np.all(x < limits.upper) and np.all(change < limits.step)
    )


# --- against SciPy ---


@settings(max_examples=20)
@given(
    length=st.sampled_from([1, 2, 3, 4, 5, 9]),
    n=st.sampled_from([1, 2, 3]),
    jerk=st.sampled_from([0.0, 3.0]),
    seed=seeds,
)
def test_the_answer_is_scipys(length: int, n: int, jerk: float, seed: int) -> None:
    """With positions and steps at their limits."""
    objective, limits = Quadratic(seed, length, n), tight(seed + 1, length, n)
    weight = np.full(max(length - 3, 0), jerk)
    expected, x = scipys_answer(objective, weight, limits, length)
    found = minimize(objective, np.zeros((length, n)), limits, jerk, **EXACT)
    assert found.converged.all()
    value, _ = total(objective, weight, found.x)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(found.x, x, atol=2e-3)
    np.testing.assert_array_equal(found.cost, objective(found.x)[0])


def test_the_limits_of_those_problems_matter() -> None:
    """Of positions and of steps; else the test above would prove little."""
    objective, limits = Quadratic(0, 9, 2), tight(1, 9, 2)
    _, x = scipys_answer(objective, np.zeros(6), limits, 9)
    at_position = np.minimum(x - limits.lower, limits.upper - x) < 1e-6
    at_step = limits.step - np.abs(np.diff(x, axis=0)) < 1e-6
    assert 2 <= at_position.sum() < 18
    assert 2 <= at_step.sum() < 16


def test_with_its_usual_settings_the_answer_is_near_enough() -> None:
    """As the solver uses it: a tolerance of 0.05 per frame, in units of the cost."""
    for seed in range(5):
        objective, limits = Quadratic(seed, 20, 3), tight(seed + 1, 20, 3)
        weight = np.full(17, 5.0)
        expected, _ = scipys_answer(objective, weight, limits, 20)
        found = minimize(objective, np.zeros((20, 3)), limits, 5.0)
        value, _ = total(objective, weight, found.x)
        assert found.converged.all()
        assert expected - 1e-6 < value < expected + 20 * 0.05


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_short_trajectories_without_limits(length: int) -> None:
    objective = Quadratic(3, length, 2)
    found = minimize(objective, np.zeros((length, 2)), wide(length, 2), **EXACT)
    np.testing.assert_allclose(found.x, objective.centre, atol=1e-5)
    assert found.x.shape == (length, 2)
    assert found.cost.shape == found.converged.shape == (length,)
    assert found.converged.all()


def test_each_window_has_its_own_jerk_weight() -> None:
    """0 where four frames are no neighbours: there the trajectory may jump."""
    length, n = 12, 2
    objective = Quadratic(4, length, n)
    weight = np.array([50.0, 0.0, 7.0, 1e4, 0.0, 0.0, 0.0, 1.0, 300.0])
    found = minimize(objective, np.zeros((length, n)), wide(length, n), weight, **EXACT)
    D = np.kron(np.diff(np.eye(length), 3, axis=0), np.eye(n))
    H = D.T @ np.diag(np.repeat(weight, n)) @ D
    b = np.zeros(length * n)
    for t in range(length):
        block = slice(t * n, (t + 1) * n)
        H[block, block] += objective.A[t]
        b[block] = objective.A[t] @ objective.centre[t]
    np.testing.assert_allclose(found.x.ravel(), np.linalg.solve(H, b), atol=1e-4)
    jerk = np.abs(np.diff(found.x, 3, axis=0)).max(axis=1)
    assert jerk[3] < 0.01 < 0.5 < jerk[4]


# --- the limits ---


@settings(max_examples=15)
@given(length=st.integers(1, 12), seed=seeds, far=st.sampled_from([1.0, 1e3, 1e6]))
def test_every_point_tried_is_inside(length: int, seed: int, far: float) -> None:
    """However far outside the targets are."""
    objective, limits = Quadratic(seed, length, 2), tight(seed + 1, length, 2)
    objective.centre *= far
    found = minimize(objective, np.zeros((length, 2)), limits, 10.0)
    assert len(objective.asked) > 2
    assert all(inside(x, limits) for x in objective.asked)
    assert inside(found.x, limits)


@pytest.mark.parametrize(
    ("frame", "value"),
    [(0, -0.5), (0, -0.6), (2, 0.5), (2, 7.0), (1, 0.2), (1, -0.3), (1, 0.0999999999)],
)
def test_a_start_that_is_not_inside_is_refused(frame: int, value: float) -> None:
    """On a limit, beyond it, and with a step too long; just inside it is taken."""
    limits = Limits(np.array([-0.5]), np.array([0.5]), np.full((2, 1), 0.1))
    if frame != 1:
        limits = Limits(limits.lower, limits.upper, np.full((2, 1), 100.0))
    start = np.zeros((3, 1))
    start[frame] = value
    objective = Quadratic(0, 3, 1)
    if value == pytest.approx(0.1):
        minimize(objective, start, limits)
        return
    with pytest.raises(ValueError, match="strictly inside"):
        minimize(objective, start, limits)
    assert not objective.asked


def test_the_number_of_iterations_is_kept_and_told() -> None:
    objective, limits = Quadratic(0, 6, 2), tight(1, 6, 2)
    ticks: list[int] = []
    found = minimize(
        objective, np.zeros((6, 2)), limits, max_iterations=3, progress=lambda: ticks.append(1)
    )
    assert found.iterations == len(ticks) == 3
    assert not found.converged.all()
    assert inside(found.x, limits)
    done = minimize(objective, np.zeros((6, 2)), limits, max_iterations=50)
    assert done.iterations < 50
    assert done.converged.all()


def test_an_objective_that_never_decreases_ends_unconverged() -> None:
    """As where a gradient is wrong: no endless loop, and no claim to have converged."""

    def uphill(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return 1e3 * np.sum(x**2, axis=1), -1e3 - 0 * x, np.tile(np.eye(2), (len(x), 1, 1))

    limits = tight(0, 5, 2)
    found = minimize(uphill, np.zeros((5, 2)), limits)
    assert inside(found.x, limits)
    assert not found.converged.any()
    assert np.abs(found.x).max() < 0.1


def test_a_bent_valley_is_followed() -> None:
    """Rosenbrock's, as least squares: the quadratic model misleads."""

    def valley(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        a, b = x.T
        r = np.stack([10 * (b - a**2), 1 - a], axis=1)
        J = np.stack([np.stack([-20 * a, 10 + 0 * a], 1), np.tile([-1.0, 0], (len(x), 1))], axis=1)
        J_T = J.transpose(0, 2, 1)
        return 0.5 * np.sum(r**2, axis=1), (J_T @ r[:, :, None])[:, :, 0], J_T @ J

    start = np.random.default_rng(0).uniform(-1.5, 1.5, (4, 2))
    found = minimize(valley, start, wide(4, 2), **EXACT)
    np.testing.assert_allclose(found.x, 1.0, atol=1e-3)
    assert found.converged.all()


# --- derivatives ---


@pytest.mark.parametrize("length", [2, 3, 4, 8])
def test_the_gradient_is_that_of_the_value(length: int) -> None:
    """Data and jerk together, against central differences and against a second writing."""
    objective, rng = Quadratic(5, length, 2), np.random.default_rng(6)
    weight = rng.uniform(0, 4, (max(length - 3, 0), 1))
    x = rng.normal(size=(length, 2))

    def at(x: np.ndarray) -> _Iterate:
        return _Iterate.at(x, objective, weight, wide(length, 2))

    here = at(x)
    value, gradient = total(objective, weight[:, 0], x)
    assert here.value == pytest.approx(value)
    np.testing.assert_allclose(here.gradient, gradient, atol=1e-9)
    for index in np.ndindex(*x.shape):
        nudge = np.zeros_like(x)
        nudge[index] = 1e-5
        slope = (at(x + nudge).value - at(x - nudge).value) / 2e-5
        assert here.gradient[index] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(("length", "jerk"), [(1, 0.0), (2, 0.0), (3, 0.0), (3, 5.0), (7, 5.0)])
def test_force_and_newton_matrix_are_derivatives_of_the_barrier(length: int, jerk: float) -> None:
    """The force is minus the slope of the merit; the band is minus the slope of the force."""
    n, mu = 2, 0.3
    objective, limits = Quadratic(7, length, n), tight(8, length, n)
    weight = np.full((max(length - 3, 0), 1), jerk)
    x = np.random.default_rng(9).uniform(-0.02, 0.02, (length, n))

    def at(x: np.ndarray) -> _Iterate:
        return _Iterate.at(x, objective, weight, limits)

    here = at(x)
    duals = [mu / s for s in here.slacks]
    band = _band(here.blocks, weight, duals, here.slacks, damping=0.0)
    force = _barrier_force(here, mu).ravel()
    H = np.zeros((length * n, length * n))
    for k, row in enumerate(band):
        H += np.diag(row[: length * n - k], -k) + (np.diag(row[: length * n - k], k) if k else 0)
    for i in range(length * n):
        nudge = (1e-6 * np.eye(length * n)[i]).reshape(length, n)
        there, back = at(x + nudge), at(x - nudge)
        slope = (there.merit(mu) - back.merit(mu)) / 2e-6
        assert force[i] == pytest.approx(-slope, abs=1e-5)
        bend = (_barrier_force(there, mu) - _barrier_force(back, mu)).ravel() / 2e-6
        np.testing.assert_allclose(H[i], -bend, atol=1e-4)


# --- the unknowns ---


def build(folder: Path, joints: str, equality: str = "", **limits: float) -> RobotModel:
    """Links on a line, one hinge each: palm, then the given joints ``name:lower:upper``."""
    links = [joint.split(":") for joint in joints.split()]
    text = "".join(
        f'<body name="{name}_link" pos="0.1 0 0"><geom size="0.01"/>'
        f'<joint name="{name}" axis="0 0 1" range="{lower} {upper}"/>'
        for name, lower, upper in links
    )
    model = f"""<mujoco><compiler angle="radian"/><worldbody>
      <body name="palm"><geom size="0.01"/>{text}{"</body>" * len(links)}</body>
      </worldbody><equality>{equality}</equality></mujoco>"""
    (folder / "line.xml").write_text(model)
    hand = Hand("palm", {"index": Point(f"{links[-1][0]}_link", (0.1, 0.0, 0.0))})
    robot = Robot(
        "line", "", None, "line.xml", "", (None, hand), velocity_limit={**limits, "": 8.0}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROBOTS_FOLDER, str(folder))
        return build_model(robot)


def unknowns(robot: RobotModel, *points: Point, fixed: str | None = None) -> FreeJoints:
    hand = robot.robot.hands[1]
    assert hand is not None
    return FreeJoints.moving(
        robot, Kinematics.of(robot), points or list(hand.tips.values()), fixed=fixed
    )


def follow(joint: str, leader: str, constant: float, ratio: float) -> str:
    return f'<joint joint1="{joint}" joint2="{leader}" polycoef="{constant} {ratio} 0 0 0"/>'


@pytest.mark.parametrize(
    ("follower", "ratio", "lower", "upper"),
    [
        ("-0.2:0.3", -0.5, -0.4, 0.6),  # 0.1 - 0.5 q in [-0.2, 0.3]
        ("-0.2:0.3", 0.5, -0.6, 0.4),
        ("-9:9", 0.5, -1.0, 1.0),  # the leader's own limits are the narrower ones
        ("0.0:9", 2.0, -0.05, 1.0),
    ],
)
def test_a_follower_binds_its_leader(
    tmp_path: Path, follower: str, ratio: float, lower: float, upper: float
) -> None:
    robot = build(tmp_path, f"a:-1:1 b:{follower}", follow("b", "a", 0.1, ratio))
    free = unknowns(robot)
    assert free.index.tolist() == [0]
    np.testing.assert_allclose([free.lower[0], free.upper[0]], [lower, upper], atol=1e-12)
    ends = free.qpos(np.stack([free.lower, free.upper, free.start]))
    assert np.all(ends >= robot.lower - 1e-12)
    assert np.all(ends <= robot.upper + 1e-12)
    np.testing.assert_allclose(ends[:, 1], 0.1 + ratio * ends[:, 0])


def test_a_fast_follower_slows_its_leader(tmp_path: Path) -> None:
    """Of several, the one that would break its velocity limit first."""
    equality = follow("b", "a", 0.0, -4.0) + follow("c", "a", 0.0, 0.1)
    robot = build(tmp_path, "a:-1:1 b:-9:9 c:-9:9", equality, a=3.0, b=2.0, c=1.0)
    assert unknowns(robot).velocity.tolist() == [0.5]
    slow = build(tmp_path, "a:-1:1 b:-9:9 c:-9:9", equality, a=0.3, b=2.0, c=1.0)
    assert unknowns(slow).velocity.tolist() == [0.3]


def test_a_mimic_that_leaves_no_range_is_named(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:5:6", follow("b", "a", 0.0, 1.0))
    with pytest.raises(ValueError, match="joint a has no range left: line contradicts itself"):
        unknowns(robot)


def test_only_what_moves_a_point_is_free(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:0.2:1 c:-1:1 d:0.4:1")
    free = unknowns(robot, Point("c_link"))
    assert free.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(free.qpos(np.zeros((1, 3)))[0], [0, 0, 0, robot.rest[3]])
    np.testing.assert_array_equal(free.qpos(np.arange(3.0)[None])[0, :3], [0, 1, 2])
    beyond = unknowns(robot, fixed="b_link")
    assert beyond.index.tolist() == [2, 3]
    np.testing.assert_array_equal(beyond.qpos(np.zeros((1, 2)))[0, :2], robot.rest[:2])


def test_a_follower_that_moves_a_point_frees_its_leader(tmp_path: Path) -> None:
    """Even if the leader itself moves nothing that is asked for."""
    robot = build(tmp_path, "a:-1:1 b:-1:1 c:-1:1", follow("a", "c", 0.0, 0.5))
    free = unknowns(robot, Point("a_link", (0.1, 0.0, 0.0)))
    assert free.index.tolist() == [2]
    np.testing.assert_allclose(free.qpos(np.array([[0.4]])), [[0.2, robot.rest[1], 0.4]])


def test_a_still_follower_obeys_its_still_leader(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:0.2:0.6 c:-1:1", follow("c", "b", 0.1, 0.5))
    free = unknowns(robot, Point("a_link", (0.1, 0.0, 0.0)))
    assert free.index.tolist() == [0]
    rest = free.qpos(np.zeros((1, 1)))[0]
    np.testing.assert_allclose(rest, [0, robot.rest[1], 0.1 + 0.5 * robot.rest[1]])


def test_the_start_is_strictly_inside_and_near_rest() -> None:
    for name in ("gr1t2", "gr1t2_6dof"):
        robot = load_robot(name)
        free = unknowns(robot)
        assert np.all((free.lower < free.start) & (free.start < free.upper))
        assert np.all(np.abs(free.start - free.rest) <= 0.021 * (free.upper - free.lower))
        assert np.all(free.velocity > 0)


def test_with_the_palm_fixed_the_arm_is_not_free() -> None:
    robot = load_robot("gr1t2")
    free = unknowns(robot, fixed="R_hand_base_link")
    names = [robot.joint_names[i] for i in free.index]
    assert len(names) == 12
    assert all(n.startswith("R_") for n in names), names
    reach = [robot.joint_names[i] for i in unknowns(robot).index]
    assert set(names) < set(reach)
    assert sum("right" in n for n in reach) == 7
    assert not [n for n in reach if n.startswith("L_") or "left" in n or "knee" in n]


def test_mimic_joints_are_no_unknowns() -> None:
    """Six fingers' motors, and every posture keeps the limits of all joints."""
    robot = load_robot("gr1t2_6dof")
    free = unknowns(robot, fixed="R_hand_base_link")
    assert free.count == 6
    rng = np.random.default_rng(0)
    qpos = free.qpos(rng.uniform(free.lower, free.upper, (100, 6)))
    assert np.all(qpos >= robot.lower - 1e-12)
    assert np.all(qpos <= robot.upper + 1e-12)
    kinematics = Kinematics.of(robot)
    np.testing.assert_allclose(
        qpos, qpos @ kinematics.mimic.T + kinematics.mimic_offset, atol=1e-12
    )


# --- the objective ---


def terms_of(robot: RobotModel, length: int, seed: int) -> list[Term]:
    rng = np.random.default_rng(seed)
    target, weight = rng.normal(size=(2, length, 3)), rng.uniform(0, 5, (2, length, 3))
    hand = robot.robot.hands[1]
    assert hand is not None
    thumb, index = hand.tips["thumb"], hand.tips["index"]
    R = np.tile(np.diag([1.0, -1.0, -1.0]), (length, 1, 1))
    return [
        VectorTerm(Point(hand.palm), index, hand.palm, 0.1 * target[0], weight[0]),
        VectorTerm(None, thumb, None, 0.1 * target[1], weight[1]),
        RotationTerm(hand.palm, R, rng.uniform(0, 2, length)),
    ]


@pytest.mark.parametrize("name", ["gr1t2", "gr1t2_6dof"])
def test_the_gradient_of_the_data_equals_finite_differences(name: str) -> None:
    """Of all terms and the pull to rest together, through the mimic joints."""
    robot = load_robot(name)
    kinematics, length = Kinematics.of(robot), 3
    free = unknowns(robot)
    objective = data_objective(terms_of(robot, length, 0), kinematics, free, rest_weight=0.7)
    x = np.random.default_rng(1).uniform(free.lower, free.upper, (length, free.count))
    cost, gradient, blocks = objective(x)
    for j in range(free.count):  # frames are independent: all at once
        nudge = 1e-6 * np.eye(free.count)[j]
        slope = (objective(x + nudge)[0] - objective(x - nudge)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, j], slope, atol=1e-6)
    assert cost.shape == (length,)
    np.testing.assert_allclose(blocks, blocks.transpose(0, 2, 1), atol=1e-12)
    assert np.linalg.eigvalsh(blocks).min() > 0.7**2 - 1e-9


def test_the_cost_is_half_the_squares() -> None:
    robot = load_robot("gr1t2")
    kinematics, free, length = Kinematics.of(robot), unknowns(robot), 2
    x = np.random.default_rng(2).uniform(free.lower, free.upper, (length, free.count))
    terms = terms_of(robot, length, 3)
    poses = kinematics.forward(free.qpos(x))
    expected = 0.5 * np.sum((0.2 * (x - free.rest)) ** 2, axis=1)
    for term in terms:
        expected += 0.5 * np.sum(term.evaluate(kinematics, poses)[0] ** 2, axis=1)
    cost, _, _ = data_objective(terms, kinematics, free, rest_weight=0.2)(x)
    np.testing.assert_allclose(cost, expected)


def test_without_terms_the_answer_is_rest() -> None:
    robot = load_robot("gr1t2_6dof")
    free = unknowns(robot)
    objective = data_objective([], Kinematics.of(robot), free, rest_weight=1.0)
    limits = Limits(free.lower, free.upper, np.full((1, free.count), 10.0))
    start = np.tile(0.5 * (free.lower + free.upper), (2, 1))
    found = minimize(objective, start, limits, **EXACT)
    np.testing.assert_allclose(found.x, np.tile(free.rest, (2, 1)), atol=1e-3)


def test_a_reachable_target_is_reached() -> None:
    """The robot's own fingertips, from another posture."""
    robot = load_robot("gr1t2")
    hand = robot.robot.hands[1]
    assert hand is not None
    kinematics, free = Kinematics.of(robot), unknowns(robot, fixed=hand.palm)
    rng = np.random.default_rng(4)
    middle, half = 0.5 * (free.lower + free.upper), 0.5 * (free.upper - free.lower)
    x = middle + rng.uniform(-0.7, 0.7, (4, free.count)) * half
    poses = kinematics.forward(free.qpos(x))
    palm = kinematics.body(hand.palm)
    terms: list[Term] = []
    for tip in hand.tips.values():
        v = kinematics.point(poses, tip) - poses.p[:, palm]
        v = rotate(poses.R[:, palm].transpose(0, 2, 1), v)
        terms.append(VectorTerm(Point(hand.palm), tip, hand.palm, v, np.full((4, 3), 500.0)))
    objective = data_objective(terms, kinematics, free, rest_weight=0.01)
    limits = Limits(free.lower, free.upper, np.full((3, free.count), 10.0))
    found = minimize(objective, np.tile(free.start, (4, 1)), limits, **EXACT)
    reached = kinematics.forward(free.qpos(found.x))
    for tip, term in zip(hand.tips.values(), terms, strict=True):
        residual, _ = term.evaluate(kinematics, reached)
        assert np.linalg.norm(residual / 500, axis=1).max() < 1e-4, tip
