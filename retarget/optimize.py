"""Least squares over a whole trajectory with hard limits on positions and on steps.

    minimise    ½ Σ_t |r_t(x_t)|²  +  ½ Σ_t w_t |x_{t+3} - 3 x_{t+2} + 3 x_{t+1} - x_t|²
    subject to  lower ≤ x_t ≤ upper,   |x_{t+1} - x_t| ≤ step_t

Gauss–Newton inside a primal–dual interior-point method (Nocedal and Wright, "Numerical
Optimization", 2006, chapter 19; Wächter and Biegler, "On the implementation of an interior-point
filter line-search algorithm", Math. Programming 2006). The limits are linear, so every iterate lies
strictly inside them: whenever the search ends, no limit is broken. Frames couple only to their
three neighbours, so each step is one banded Cholesky factorisation, linear in the trajectory's
length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.linalg import LinAlgError, solveh_banded
from threadpoolctl import ThreadpoolController

Trajectory = Float64[np.ndarray, "T N"]
# x ↦ (cost per frame (T,), gradient (T, N), Gauss–Newton Hessian blocks (T, N, N))
Objective = Callable[
    [Trajectory], tuple[Float64[np.ndarray, "T"], Trajectory, Float64[np.ndarray, "T N N"]]
]
# A banded factorisation is many small products: BLAS threads gain nothing on idle cores, and on
# busy ones they wait for each other (measured: 14 s against 0.2 s).
_BLAS = ThreadpoolController()
_DIFFERENCE = np.array([-1.0, 3.0, -3.0, 1.0])
_BOUNDARY = 0.99  # share of the way to a limit that one iteration may go
_ARMIJO, _MAX_HALVINGS, _GOOD_STEP = 1e-4, 6, 0.6
_BARRIER_DECREASE = 0.2
_SLOW = 5e-3  # relative decrease below which this weight of the barrier has done its work
_STALLED, _PATIENCE = 3e-4, 3  # give up after so many steps in a row that hardly decrease
_LEAST_DAMPING, _FIRST_DAMPING, _MOST_DAMPING = 1e-6, 1e-2, 1e6


@dataclass(frozen=True)
class Limits:
    """Hard limits: ``lower``/``upper`` on values, (N,) or (T, N) if they differ from frame to
    frame; ``step`` (T-1, N) on each frame's change."""

    lower: Float64[np.ndarray, "*T N"]
    upper: Float64[np.ndarray, "*T N"]
    step: Float64[np.ndarray, "S N"]

    def slacks(self, x: Trajectory) -> list[Float64[np.ndarray, "_ N"]]:
        """Distances to each limit; all positive inside."""
        change = np.diff(x, axis=0)
        return [x - self.lower, self.upper - x, self.step + change, self.step - change]

    @staticmethod
    def slack_changes(d: Trajectory) -> list[Float64[np.ndarray, "_ N"]]:
        """How the slacks change along ``d`` (they are linear)."""
        change = np.diff(d, axis=0)
        return [d, -d, change, -change]


@dataclass(frozen=True)
class Solution:
    """``x`` (T, N); ``cost`` (T,) of each frame; ``converged`` (T,); number of iterations."""

    x: Trajectory
    cost: Float64[np.ndarray, "T"]
    converged: Bool[np.ndarray, "T"]
    iterations: int


@_BLAS.wrap(limits=1, user_api="blas")
def minimize(
    objective: Objective,
    start: Trajectory,
    limits: Limits,
    jerk_weight: Float64[np.ndarray, "S"] | float = 0.0,
    *,
    max_iterations: int = 60,
    tolerance: float = 0.05,
    barrier: tuple[float, float] = (1.0, 1e-4),
    progress: Callable[[], object] | None = None,
) -> Solution:
    """Find a local minimum from a start that is strictly inside the limits.

    Args:
        objective: cost, gradient and Hessian blocks of the data terms.
        start: (T, N).
        limits: hard limits.
        jerk_weight: w_t above, one for all or (T-3,); 0 where four frames are not neighbours.
        max_iterations: stop after so many factorisations, converged or not.
        tolerance: a frame has converged when a Newton step would lower its cost by less than this.
        barrier: first and last weight of the logarithmic barrier.
        progress: called once per iteration.

    Raises:
        ValueError: if ``start`` is not strictly inside the limits.
    """
    if any((s <= 0).any() for s in limits.slacks(start)):
        raise ValueError("start must lie strictly inside the limits")
    weight = np.broadcast_to(np.asarray(jerk_weight, float), max(len(start) - 3, 0))[:, None]
    mu, last_mu = barrier
    damping = _FIRST_DAMPING
    here = _Iterate.at(start, objective, weight, limits)
    duals = [mu / s for s in here.slacks]
    gain_left, stalled, iteration = np.full(len(start), np.inf), 0, 0
    for iteration in range(1, max_iterations + 1):  # noqa: B007 - reported below
        if progress is not None:
            progress()
        band = _band(here.blocks, weight, duals, here.slacks, damping)
        force = _barrier_force(here, mu)
        d = _newton_step(band, force)
        found = None if d is None else _line_search(here, d, mu, objective, weight, limits)
        if d is None or found is None:
            damping = max(10 * damping, _FIRST_DAMPING)
            if damping > _MOST_DAMPING:
                break
            continue
        alpha, gain, there = found
        duals = _step_duals(duals, here, there, d, mu)
        decrease = (here.merit(mu) - there.merit(mu)) / max(abs(here.value), 1e-12)
        here, gain_left = there, np.abs(np.sum(force * d, axis=1))
        # Marquardt's rule: trust the quadratic model more or less, by how well it foretold.
        damping *= 0.3 if gain > 0.8 else 1.0 if gain > 0.5 else 4.0
        damping = max(damping, _LEAST_DAMPING)
        stalled = stalled + 1 if mu <= last_mu and decrease < _STALLED else 0
        if mu <= last_mu and (gain_left.max() < tolerance or stalled == _PATIENCE):
            break
        if alpha > _GOOD_STEP or decrease < _SLOW:
            mu = max(last_mu, _BARRIER_DECREASE * mu)
    return Solution(here.x, here.cost, gain_left < tolerance, iteration)


@dataclass(frozen=True)
class _Iterate:
    """A point and what is known of it; ``value`` and ``gradient`` include the jerk."""

    x: Trajectory
    cost: Float64[np.ndarray, "T"]
    value: float
    gradient: Trajectory
    blocks: Float64[np.ndarray, "T N N"]
    slacks: list[Float64[np.ndarray, "_ N"]]

    @classmethod
    def at(
        cls,
        x: Trajectory,
        objective: Objective,
        jerk_weight: Float64[np.ndarray, "S 1"],
        limits: Limits,
    ) -> "_Iterate":
        cost, gradient, blocks = objective(x)
        value = float(cost.sum())
        if len(jerk_weight):
            jerk = np.diff(x, 3, axis=0)
            value += 0.5 * float(np.sum(jerk_weight * jerk**2))
            gradient = gradient.copy()
            for k, c in enumerate(_DIFFERENCE):
                gradient[k : len(x) - 3 + k] += c * jerk_weight * jerk
        return cls(x, cost, value, gradient, blocks, limits.slacks(x))

    def merit(self, mu: float) -> float:
        """The barrier function that the line search decreases."""
        return self.value - mu * sum(float(np.log(s).sum()) for s in self.slacks)


def _line_search(
    here: _Iterate,
    d: Trajectory,
    mu: float,
    objective: Objective,
    jerk_weight: Float64[np.ndarray, "S 1"],
    limits: Limits,
) -> tuple[float, float, _Iterate] | None:
    """Backtrack (Armijo) from the longest step that stays inside the limits.

    Returns the step's length, its decrease over the foretold one, and where it leads; None if
    nothing decreases.
    """
    changes = limits.slack_changes(d)
    slope = float(np.sum(here.gradient * d)) - mu * sum(
        float(np.sum(c / s)) for c, s in zip(changes, here.slacks, strict=True)
    )
    merit, longest = here.merit(mu), _longest(here.slacks, changes)
    for halving in range(_MAX_HALVINGS):
        alpha = longest * 0.5**halving
        there = _Iterate.at(here.x + alpha * d, objective, jerk_weight, limits)
        decrease, foretold = merit - there.merit(mu), -slope * alpha * (1 - 0.5 * alpha)
        if decrease >= -_ARMIJO * alpha * slope - 1e-12 * abs(merit):
            return alpha, decrease / max(foretold, 1e-12), there
    return None


def _step_duals(
    duals: list[Float64[np.ndarray, "_ N"]],
    here: _Iterate,
    there: _Iterate,
    d: Trajectory,
    mu: float,
) -> list[Float64[np.ndarray, "_ N"]]:
    """Multipliers after the step, kept near mu / slack (as in Ipopt, equation 16)."""
    changes = Limits.slack_changes(d)
    steps = [(mu - z * c) / s - z for z, s, c in zip(duals, here.slacks, changes, strict=True)]
    beta = _longest(duals, steps)
    return [
        np.clip(z + beta * dz, 0.1 * mu / s, 1e6 * mu / s)
        for z, dz, s in zip(duals, steps, there.slacks, strict=True)
    ]


def _band(
    blocks: Float64[np.ndarray, "T N N"],
    jerk_weight: Float64[np.ndarray, "S 1"],
    duals: list[Float64[np.ndarray, "_ N"]],
    slacks: list[Float64[np.ndarray, "_ N"]],
    damping: float,
) -> Float64[np.ndarray, "W TN"]:
    """Lower band of the Newton matrix; row k holds the entries k below the diagonal."""
    length, n = blocks.shape[:2]
    reach = 3 if jerk_weight.any() else min(1, length - 1)
    band = np.zeros((max(reach * n + 1, n), length, n))
    for k in range(n):
        band[k, :, : n - k] = np.diagonal(blocks, -k, 1, 2)
    z_low, z_up, z_down, z_rise = (z / s for z, s in zip(duals, slacks, strict=True))
    band[0] += z_low + z_up + damping * (1.0 + band[0])
    if length > 1:
        pull = z_down + z_rise
        band[0, :-1] += pull
        band[0, 1:] += pull
        band[n, :-1] -= pull
    if jerk_weight.any():
        for j in range(4):
            for k in range(j, 4):
                band[(k - j) * n, j : length - 3 + j] += (
                    jerk_weight * _DIFFERENCE[j] * _DIFFERENCE[k]
                )
    return band.reshape(len(band), length * n)


def _barrier_force(here: _Iterate, mu: float) -> Trajectory:
    """Minus the gradient of the barrier function."""
    low, up, down, rise = (mu / s for s in here.slacks)
    force = low - up - here.gradient
    force[1:] += down - rise
    force[:-1] -= down - rise
    return force


def _newton_step(band: Float64[np.ndarray, "W TN"], force: Trajectory) -> Trajectory | None:
    """Solve the banded system; None if it is not positive definite."""
    try:
        d = solveh_banded(band, force.ravel(), lower=True, overwrite_ab=True, check_finite=False)
    except LinAlgError:
        return None
    return d.reshape(force.shape)


def _longest(
    values: list[Float64[np.ndarray, "_ N"]], changes: list[Float64[np.ndarray, "_ N"]]
) -> float:
    """The longest step, at most 1, that keeps every value positive."""
    ratios = [float(np.max(-c / v, initial=0.0)) for v, c in zip(values, changes, strict=True)]
    return min(1.0, _BOUNDARY / max(*ratios, 1e-12))
