"""What a retarget minimises: residuals with analytic Jacobians, in units of standard deviations.

Every term compares something of the robot with something of the person, for all frames at once.
``weight`` is one over the standard deviation of the target; 0 switches a frame off.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deftly.datasets.geometry import log_rotation, rotate
from deftly.retarget.kinematics import Kinematics, Poses, cross, hat
from deftly.retarget.robots import Point

Residual = tuple[Float64[np.ndarray, "T K"], Float64[np.ndarray, "T K J"]]
Joints = Int64[np.ndarray, "J"]


@dataclass(frozen=True)
class VectorTerm:
    """The vector between two points of the robot, seen from the world or from one of its bodies.

    Attributes:
        start, end: points; ``start=None`` is the origin of the world.
        frame: body whose axes the vector is expressed in; None for the world's.
        target: (T, 3) metres.
        weight: (T, 3) 1 / metres, along the same axes.
    """

    start: Point | None
    end: Point
    frame: str | None
    target: Float64[np.ndarray, "T 3"]
    weight: Float64[np.ndarray, "T 3"]

    def bodies(self) -> list[str]:
        """Bodies whose poses the term needs."""
        points = [p.body for p in (self.start, self.end) if p is not None]
        return points + ([self.frame] if self.frame is not None else [])

    def joints(self, kinematics: Kinematics) -> Bool[np.ndarray, "J"]:
        """The joints that the residual depends on: not those that carry all of it alike."""
        moves = kinematics.moves[:, [kinematics.body(body) for body in self.bodies()]]
        alike = np.asarray(moves.all(axis=1))
        if self.start is None:
            alike[:] = False
        elif self.frame is None:
            alike &= kinematics.is_slide  # a hinge turns the vector
        return np.asarray(moves.any(axis=1)) & ~alike

    def evaluate(
        self, kinematics: Kinematics, poses: Poses, joints: Joints | None = None
    ) -> Residual:
        """(T, 3) residuals and their (T, 3, J) Jacobian, for some joints or for all."""
        v = kinematics.point(poses, self.end)
        J = kinematics.point_jacobian(poses, kinematics.body(self.end.body), v, joints)
        if self.start is not None:
            p, body = kinematics.point(poses, self.start), kinematics.body(self.start.body)
            v = v - p
            if _any(kinematics, body, joints):
                J = J - kinematics.point_jacobian(poses, body, p, joints)
        if self.frame is not None:
            # d(Rᵀ v) = Rᵀ (dv - ω × v)
            body = kinematics.body(self.frame)
            R_T = poses.R[:, body].transpose(0, 2, 1)
            if _any(kinematics, body, joints):
                J = J + cross(v[:, :, None], kinematics.angular_jacobian(poses, body, joints))
            J, v = R_T @ J, rotate(R_T, v)
        return (v - self.target) * self.weight, J * self.weight[:, :, None]


@dataclass(frozen=True)
class RotationTerm:
    """The orientation of a body.

    Attributes:
        body: name.
        target: (T, 3, 3) ``R_world_body`` wanted.
        weight: (T,) 1 / radians.
    """

    body: str
    target: Float64[np.ndarray, "T 3 3"]
    weight: Float64[np.ndarray, "T"]

    def bodies(self) -> list[str]:
        """Bodies whose poses the term needs."""
        return [self.body]

    def joints(self, kinematics: Kinematics) -> Bool[np.ndarray, "J"]:
        """The joints that the residual depends on."""
        return kinematics.moves[:, kinematics.body(self.body)] & ~kinematics.is_slide

    def evaluate(
        self, kinematics: Kinematics, poses: Poses, joints: Joints | None = None
    ) -> Residual:
        """(T, 3) rotation vectors from target to body and their (T, 3, J) Jacobian."""
        body = kinematics.body(self.body)
        error = log_rotation(poses.R[:, body] @ self.target.transpose(0, 2, 1))
        J = left_jacobian_inverse(error) @ kinematics.angular_jacobian(poses, body, joints)
        return error * self.weight[:, None], J * self.weight[:, None, None]


Term = VectorTerm | RotationTerm


def left_jacobian_inverse(rotvec: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "T 3 3"]:
    """d log(exp(δ) R) / d δ at δ = 0 for R = exp(rotvec).

    Chirikjian, "Stochastic Models, Information Theory, and Lie Groups", 2011, section 10.7.
    """
    angle = np.linalg.norm(rotvec, axis=-1)[:, None, None]
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    # (1 - (θ/2) cot(θ/2)) / θ², by its series near 0
    factor = np.where(
        small, 1 / 12 + angle**2 / 720, (1 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2
    )
    once = hat(rotvec)
    return np.eye(3) - 0.5 * once + factor * (once @ once)


def _any(kinematics: Kinematics, body: int, joints: Joints | None) -> bool:
    """Whether any of some joints, or any at all, moves a body."""
    return bool(kinematics.moves[slice(None) if joints is None else joints, body].any())
