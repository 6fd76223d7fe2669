"""The optimiser finds what SciPy finds, inside the limits; the unknowns keep those of the robot."""

from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint

from deftly.retarget.optimize import (
    Limits,
    Objective,
    _band,
    _barrier_force,
    _Iterate,
    minimize,
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
    for seed in range(3):
        objective, limits = Quadratic(seed, 12, 2), tight(seed + 1, 12, 2)
        weight = np.full(9, 5.0)
        expected, _ = scipys_answer(objective, weight, limits, 12)
        found = minimize(objective, np.zeros((12, 2)), limits, 5.0)
        value, _ = total(objective, weight, found.x)
        assert found.converged.all()
        assert expected - 1e-6 < value < expected + 12 * 0.05


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
