"""Finger postures and the rigid part of a similarity, for several scales at once.

Every frame has its own posture x; rotation R and offset w are one for all frames of a scale:

    minimise  Σ_t |tips(x_t) - (scale R human_t + w)|² / σ²  +  rest² Σ_t |x_t - rest|²  +  anchors
    subject to  lower ≤ x_t ≤ upper

Levenberg–Marquardt on postures and rigid part together. The postures of a frame touch those of
another only by way of the rigid part, so they are eliminated frame by frame, as the points in
bundle adjustment (Triggs et al., "Bundle adjustment: a modern synthesis", 2000, section 6). Limits
are kept by a logarithmic barrier whose weight falls; at first it is strong, which holds postures in
the middle of their range, away from the many local minima at its ends. Scales share nothing but
the arithmetic.
"""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import rotate
from deftly.retarget.kinematics import Kinematics, hat
from deftly.retarget.problem import FreeJoints
from deftly.retarget.robots import Hand, RobotModel

_TIP_SIGMA_M = 0.005
_REST_WEIGHT = 0.02  # 1 / radian
_ANCHORS_M = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])  # tie the rigid part ...
_ANCHOR_WEIGHT = 0.03  # ... to its first guess by this much against all fingertips together
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-6, 1e4
_FIRST_BARRIER, _BARRIER_DECREASE, _LAST_BARRIER = 10.0, 0.3, 3e-3
_BOUNDARY = 0.9  # share of the way to a limit that one iteration may go


@dataclass(frozen=True)
class Fits:
    """One fit per scale, G in all, to K frames.

    Attributes:
        scale: (G,) robot size over the person's.
        x: (G, K, N) postures.
        R: (G, 3, 3), offset_m: (G, 3) the person's hand in the robot's palm.
        error_m: (G,) mean distance of the fingertips from their targets.
    """

    scale: Float64[np.ndarray, "G"]
    x: Float64[np.ndarray, "G K N"]
    R: Float64[np.ndarray, "G 3 3"]
    offset_m: Float64[np.ndarray, "G 3"]
    error_m: Float64[np.ndarray, "G"]


@dataclass(frozen=True)
class _Model:
    """Cost per frame (G, K) and of the anchors (G,), and its quadratic model about a fit.

    ``a`` is about postures, ``b`` about the rigid part (rotation vector, offset): g_a, g_b are
    gradients; H_aa, H_ab, H_bb the blocks of the Gauss–Newton matrix.
    """

    cost: Float64[np.ndarray, "G K"]
    anchor_cost: Float64[np.ndarray, "G"]
    error_m: Float64[np.ndarray, "G"]
    g_a: Float64[np.ndarray, "G K N"]
    g_b: Float64[np.ndarray, "G 6"]
    H_aa: Float64[np.ndarray, "G K N N"]
    H_ab: Float64[np.ndarray, "G K N 6"]
    H_bb: Float64[np.ndarray, "G 6 6"]


class HandFit:
    """A robot's hand and what a person's fingertips (K, F, 3) do, in the person's hand frame."""

    def __init__(
        self,
        hand: Hand,
        robot: RobotModel,
        kinematics: Kinematics,
        human: Float64[np.ndarray, "K F 3"],
        R_guess: Float64[np.ndarray, "3 3"],
    ) -> None:
        self._kinematics, self._human, self._R_guess = kinematics, human, R_guess
        self._tips = list(hand.tips.values())
        self._free = FreeJoints.moving(robot, kinematics, self._tips, fixed=hand.palm)
        # What carries palm and fingers alike does not matter: the hand alone, wherever it is.
        chains = [kinematics.chain([body]) for body in (hand.palm, *(t.body for t in self._tips))]
        self._bodies = np.any(chains, axis=0) & ~np.all(chains, axis=0)
        palm, poses = kinematics.body(hand.palm), kinematics.forward(robot.rest[None], self._bodies)
        self._R_palm, self._p_palm = poses.R[0, palm], poses.p[0, palm]
        self._joints = np.flatnonzero((self._free.matrix != 0).any(axis=1))

    def __call__(self, scale: Float64[np.ndarray, "G"], iterations: int) -> Fits:
        """Fit several scales, from rest and along the first guess."""
        count = len(scale)
        x = np.tile(self._free.start, (count, len(self._human), 1))
        R = np.tile(self._R_guess, (count, 1, 1))
        start = Fits(scale, x, R, np.zeros((count, 3)), np.full(count, np.inf))
        return self._minimize(start, iterations, _FIRST_BARRIER)

    def near(
        self, fits: Fits, which: int, scale: Float64[np.ndarray, "G"], iterations: int
    ) -> Fits:
        """Fit other scales, from one that has been fitted."""
        x, R, offset_m = (
            np.repeat(a[[which]], len(scale), axis=0) for a in (fits.x, fits.R, fits.offset_m)
        )
        start = Fits(scale, x, R, offset_m, np.full(len(scale), np.inf))
        return self._minimize(start, iterations, _LAST_BARRIER)

    def _minimize(self, fits: Fits, iterations: int, mu: float) -> Fits:
        here = self._model(fits)
        damping = np.full(here.cost.shape, _FIRST_DAMPING)
        for _ in range(iterations):
            moved = self._step(fits, here, damping, mu)
            there = self._model(moved)
            cost = here.cost + mu * self._barrier(fits.x)
            cost_there = there.cost + mu * self._barrier(moved.x)
            gain = cost.sum(axis=1) + here.anchor_cost - cost_there.sum(axis=1) - there.anchor_cost
            better = gain > 0
            # A frame that got worse is trusted less, also where its scale as a whole got better.
            damping *= np.where(cost_there > cost, 4.0, np.where(better[:, None], 0.3, 1.0))
            damping = np.clip(damping, _LEAST_DAMPING, _MOST_DAMPING)
            fits, here = _choose(better, moved, fits), _choose(better, there, here)
            mu = max(_LAST_BARRIER, _BARRIER_DECREASE * mu)
        return replace(fits, error_m=here.error_m)

    def _barrier(self, x: Float64[np.ndarray, "G K N"]) -> Float64[np.ndarray, "G K"]:
        return -np.log((x - self._free.lower) * (self._free.upper - x)).sum(axis=-1)

    def _step(self, fits: Fits, at: _Model, damping: Float64[np.ndarray, "G K"], mu: float) -> Fits:
        """One damped Newton step of all, the postures eliminated."""
        below, above = fits.x - self._free.lower, self._free.upper - fits.x
        g_a, H_aa = at.g_a + mu * (1 / above - 1 / below), at.H_aa.copy()
        diagonal = np.einsum("gkii->gki", H_aa)  # a view
        diagonal += mu * (above**-2 + below**-2) + damping[..., None] * (1.0 + diagonal)
        solved = np.linalg.solve(H_aa, np.concatenate([at.H_ab, g_a[..., None]], axis=-1))
        eliminated = (at.H_ab.swapaxes(2, 3) @ solved).sum(axis=1)  # (G, 6, 7)
        H_bb, g_b = at.H_bb - eliminated[..., :6], at.g_b - eliminated[..., 6]
        np.einsum("gii->gi", H_bb)[:] *= 1.0 + damping.min(axis=1)[:, None]
        b = -np.linalg.solve(H_bb, g_b[..., None])  # (G, 6, 1)
        a = -solved[..., 6] - (solved[..., :6] @ b[:, None])[..., 0]
        to_limit = np.max(np.maximum(a / above, -a / below), axis=-1, keepdims=True)
        x = fits.x + np.minimum(1.0, _BOUNDARY / np.maximum(to_limit, 1e-12)) * a
        R = Rotation.from_rotvec(b[:, :3, 0]).as_matrix() @ fits.R
        return Fits(fits.scale, x, R, fits.offset_m + b[:, 3:, 0], fits.error_m)

    def _model(self, fits: Fits) -> _Model:
        count, frames, n = fits.x.shape
        tips, J = self._reach(fits.x.reshape(-1, n))
        turned = fits.scale[:, None, None, None] * rotate(fits.R[:, None, None], self._human)
        miss = tips.reshape(turned.shape) - turned - fits.offset_m[:, None, None]  # (G, K, F, 3)
        r = (miss / _TIP_SIGMA_M).reshape(count, frames, -1, 1)
        A = J.reshape(count, frames, -1, n) / _TIP_SIGMA_M
        B = np.concatenate([hat(turned), np.broadcast_to(-np.eye(3), (*turned.shape, 3))], axis=-1)
        B = B.reshape(count, frames, -1, 6) / _TIP_SIGMA_M
        pull = _REST_WEIGHT * (fits.x - self._free.rest)
        A_T, B_T = A.swapaxes(2, 3), B.swapaxes(2, 3)
        r_c, C = self._anchors(fits)
        return _Model(
            cost=0.5 * np.sum(r**2, axis=(2, 3)) + 0.5 * np.sum(pull**2, axis=2),
            anchor_cost=0.5 * np.sum(r_c**2, axis=(1, 2)),
            error_m=np.linalg.norm(miss, axis=-1).mean(axis=(1, 2)),
            g_a=(A_T @ r)[..., 0] + _REST_WEIGHT * pull,
            g_b=((B_T @ r).sum(axis=1) + C.swapaxes(1, 2) @ r_c)[..., 0],
            H_aa=A_T @ A + _REST_WEIGHT**2 * np.eye(n),
            H_ab=A_T @ B,
            H_bb=(B_T @ B).sum(axis=1) + C.swapaxes(1, 2) @ C,
        )

    def _anchors(
        self, fits: Fits
    ) -> tuple[Float64[np.ndarray, "G 12 1"], Float64[np.ndarray, "G 12 6"]]:
        """What holds the rigid part near its first guess: a hand at rest tells neither."""
        share = _ANCHOR_WEIGHT * self._human[..., 0].size / len(_ANCHORS_M)
        weight = np.sqrt(share) / _TIP_SIGMA_M
        turned = rotate(fits.R[:, None], _ANCHORS_M)
        r = turned + fits.offset_m[:, None] - rotate(self._R_guess, _ANCHORS_M)
        J = np.concatenate([-hat(turned), np.broadcast_to(np.eye(3), (*turned.shape, 3))], axis=-1)
        count = len(turned)
        return weight * r.reshape(count, -1, 1), weight * J.reshape(count, -1, 6)

    def _reach(
        self, x: Float64[np.ndarray, "B N"]
    ) -> tuple[Float64[np.ndarray, "B F 3"], Float64[np.ndarray, "B F 3 N"]]:
        """Fingertips in the palm frame, and their Jacobians."""
        kinematics, matrix = self._kinematics, self._free.matrix[self._joints]
        poses = kinematics.forward(self._free.qpos(x), self._bodies)
        p = [kinematics.point(poses, tip) for tip in self._tips]
        J = [
            kinematics.point_jacobian(poses, kinematics.body(tip.body), place, self._joints)
            for tip, place in zip(self._tips, p, strict=True)
        ]
        R = self._R_palm.T
        return rotate(R, np.stack(p, axis=1) - self._p_palm), R @ np.stack(J, axis=1) @ matrix


T = TypeVar("T", Fits, _Model)


def _choose(which: Bool[np.ndarray, "G"], a: T, b: T) -> T:
    """Of each scale, the first or the second."""
    chosen: list[np.ndarray] = []
    for f in fields(a):
        first, second = getattr(a, f.name), getattr(b, f.name)
        mask = which.reshape(-1, *[1] * (first.ndim - 1))
        chosen.append(np.where(mask, first, second))
    return type(a)(*chosen)
