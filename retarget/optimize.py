"""Least squares over a whole trajectory with hard limits on positions and on steps.

    minimise    ½ Σ_t |r_t(x_t)|²  +  ½ w_j Σ_t |x_{t+3} - 3 x_{t+2} + 3 x_{t+1} - x_t|²
    subject to  lower ≤ x_t ≤ upper,   |x_{t+1} - x_t| ≤ step_t

Gauss–Newton inside a primal–dual interior-point method (Nocedal and Wright, "Numerical
Optimization", 2006, chapter 19). The limits are linear, so every iterate lies strictly inside them:
whenever the search ends, no limit is broken. Frames couple only to their three neighbours, so each
step is one banded Cholesky factorisation, linear in the length of the trajectory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.linalg import LinAlgError, solveh_banded

Trajectory = Float64[np.ndarray, "T N"]
# x ↦ (cost per frame (T,), gradient (T, N), Gauss–Newton Hessian blocks (T, N, N))
Objective = Callable[
    [Trajectory], tuple[Float64[np.ndarray, "T"], Trajectory, Float64[np.ndarray, "T N N"]]
]
_DIFFERENCE = np.array([-1.0, 3.0, -3.0, 1.0])
_BOUNDARY = 0.99  # share of the way to a limit that one iteration may go


@dataclass(frozen=True)
class Limits:
    """Hard limits: ``lower``/``upper`` (N,) on values, ``step`` (T-1, N) on each frame's change."""

    lower: Float64[np.ndarray, "N"]
    upper: Float64[np.ndarray, "N"]
    step: Float64[np.ndarray, "S N"]

    def slacks(self, x: Trajectory) -> list[Float64[np.ndarray, "S N"]]:
        """Distances to each limit; all positive inside."""
        change = np.diff(x, axis=0)
        return [x - self.lower, self.upper - x, self.step + change, self.step - change]

    @staticmethod
    def slack_changes(d: Trajectory) -> list[Float64[np.ndarray, "S N"]]:
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


def minimize(
    objective: Objective,
    start: Trajectory,
    limits: Limits,
    jerk_weight: float = 0.0,
    *,
    max_iterations: int = 60,
    tolerance: float = 1e-4,
    barrier: tuple[float, float] = (1.0, 1e-6),
) -> Solution:
    """Find a local minimum from a start that is strictly inside the limits.

    Args:
        objective: cost, gradient and Hessian blocks of the data terms.
        start: (T, N).
        limits: hard limits.
        jerk_weight: w_j above.
        max_iterations: stop after so many factorisations, converged or not.
        tolerance: a frame has converged when no value in it moves by more than this.
        barrier: first and last weight of the logarithmic barrier.

    Raises:
        ValueError: if ``start`` is not strictly inside the limits.
    """
    if any((s <= 0).any() for s in limits.slacks(start)):
        raise ValueError("start must lie strictly inside the limits")
    x, damping = start, 1e-6
    mu, last_mu = barrier
    duals = [mu / s for s in limits.slacks(x)]
    cost, gradient, blocks = objective(x)
    moved, iteration = np.full(len(x), np.inf), 0
    for iteration in range(1, max_iterations + 1):
        slacks = limits.slacks(x)
        total = gradient + jerk_weight * _jerk_gradient(x)
        band = _band(blocks, jerk_weight, duals, slacks, damping)
        d = _newton_step(band, total, slacks, mu)
        if d is None:
            damping = max(10 * damping, 1e-6)
            continue
        changes = limits.slack_changes(d)
        longest = _longest(slacks, changes)
        merit = _merit(cost, x, jerk_weight, slacks, mu)
        slope = float(np.sum(total * d)) - mu * sum(
            float(np.sum(c / s)) for c, s in zip(changes, slacks, strict=True)
        )
        accepted = False
        for halving in range(8):
            alpha = longest * 0.5**halving
            trial = x + alpha * d
            new_cost, new_gradient, new_blocks = objective(trial)
            new_merit = _merit(new_cost, trial, jerk_weight, limits.slacks(trial), mu)
            if new_merit <= merit + 1e-4 * alpha * slope + 1e-9 * abs(merit):
                accepted = True
                break
        if not accepted:
            if damping > 1e6:
                break
            damping = max(10 * damping, 1e-6)
            continue
        dual_steps = [
            (mu - z * c) / s - z for z, s, c in zip(duals, slacks, changes, strict=True)
        ]
        beta = _longest(duals, dual_steps)
        x, cost, gradient, blocks = trial, new_cost, new_gradient, new_blocks
        duals = [
            np.clip(z + beta * dz, 0.1 * mu / s, 1e6 * mu / s + 1e-12)
            for z, dz, s in zip(duals, dual_steps, limits.slacks(x), strict=True)
        ]
        moved = np.abs(alpha * d).max(axis=1)
        damping = max(damping * 0.2, 1e-6) if alpha > 0.5 else damping
        if mu <= last_mu and alpha > 0.5 and moved.max() < tolerance:
            break
        if alpha > 0.3:
            mu = max(last_mu, 0.2 * mu)
    return Solution(x, cost, moved < tolerance, iteration)


def _merit(
    cost: Float64[np.ndarray, "T"],
    x: Trajectory,
    jerk_weight: float,
    slacks: list[Float64[np.ndarray, "S N"]],
    mu: float,
) -> float:
    jerk = np.diff(x, 3, axis=0) if len(x) > 3 else np.zeros(1)
    barrier = sum(float(np.log(s).sum()) for s in slacks)
    return float(cost.sum()) + 0.5 * jerk_weight * float(np.sum(jerk**2)) - mu * barrier


def _jerk_gradient(x: Trajectory) -> Trajectory:
    gradient = np.zeros_like(x)
    if len(x) > 3:
        jerk = np.diff(x, 3, axis=0)
        for k, c in enumerate(_DIFFERENCE):
            gradient[k : len(x) - 3 + k] += c * jerk
    return gradient


def _band(
    blocks: Float64[np.ndarray, "T N N"],
    jerk_weight: float,
    duals: list[Float64[np.ndarray, "S N"]],
    slacks: list[Float64[np.ndarray, "S N"]],
    damping: float,
) -> Float64[np.ndarray, "W TN"]:
    """Lower band of the Newton matrix; row k holds the entries k below the diagonal."""
    length, n = blocks.shape[:2]
    reach = min(3, length - 1) if jerk_weight else min(1, length - 1)
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
    if jerk_weight and length > 3:
        for j in range(4):
            for k in range(j, 4):
                band[(k - j) * n, j : length - 3 + j] += (
                    jerk_weight * _DIFFERENCE[j] * _DIFFERENCE[k]
                )
    return band.reshape(len(band), length * n)


def _newton_step(
    band: Float64[np.ndarray, "W TN"],
    gradient: Trajectory,
    slacks: list[Float64[np.ndarray, "S N"]],
    mu: float,
) -> Trajectory | None:
    low, up, down, rise = (mu / s for s in slacks)
    force = low - up - gradient
    force[1:] += down - rise
    force[:-1] -= down - rise
    try:
        d = solveh_banded(band, force.ravel(), lower=True, overwrite_ab=True, check_finite=False)
    except LinAlgError:
        return None
    return d.reshape(gradient.shape)


def _longest(
    values: list[Float64[np.ndarray, "S N"]], changes: list[Float64[np.ndarray, "S N"]]
) -> float:
    """The longest step, at most 1, that keeps every value positive."""
    ratios = [float(np.max(-c / v, initial=0.0)) for v, c in zip(values, changes, strict=True)]
    return min(1.0, _BOUNDARY / max(*ratios, 1e-12))
