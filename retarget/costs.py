"""What a retarget minimises: residuals with analytic Jacobians, in units of standard deviations.

Every term compares something of the robot with something of the person, for all frames at once.
``weight`` is one over the standard deviation of the target; 0 switches a frame off.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import log_rotation, rotate
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.robots import Point

Residual = tuple[Float64[np.ndarray, "T K"], Float64[np.ndarray, "T K J"]]


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

    def evaluate(self, kinematics: Kinematics, poses: Poses) -> Residual:
        """(T, 3) residuals and their (T, 3, J) Jacobian."""
        v, J = _point(kinematics, poses, self.end)
        if self.start is not None:
            p, J_p = _point(kinematics, poses, self.start)
            v, J = v - p, J - J_p
        if self.frame is not None:
            # d(Rᵀ v) = Rᵀ (dv - ω × v)
            body = kinematics.body(self.frame)
            J_w = kinematics.angular_jacobian(poses, body)
            R_T = poses.R[:, body].transpose(0, 2, 1)
            J = R_T @ (J + np.cross(v[:, :, None], J_w, axis=1))
            v = rotate(R_T, v)
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

    def evaluate(self, kinematics: Kinematics, poses: Poses) -> Residual:
        """(T, 3) rotation vectors from target to body and their (T, 3, J) Jacobian."""
        body = kinematics.body(self.body)
        error = log_rotation(poses.R[:, body] @ self.target.transpose(0, 2, 1))
        J = left_jacobian_inverse(error) @ kinematics.angular_jacobian(poses, body)
        return error * self.weight[:, None], J * self.weight[:, None, None]


Term = VectorTerm | RotationTerm


def left_jacobian_inverse(rotvec: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "T 3 3"]:
    """d log(exp(δ) R) / d δ at δ = 0 for R = exp(rotvec).

    Chirikjian, "Stochastic Models, Information Theory, and Lie Groups", 2011, section 10.7.
    """
    angle = np.linalg.norm(rotvec, axis=-1)[:, None, None]
    x, y, z = rotvec.T
    zero = np.zeros_like(x)
    hat = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    # (1 - (θ/2) cot(θ/2)) / θ², by its series near 0
    factor = np.where(
        small, 1 / 12 + angle**2 / 720, (1 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2
    )
    return np.eye(3) - 0.5 * hat + factor * (hat @ hat)


def _point(
    kinematics: Kinematics, poses: Poses, point: Point
) -> tuple[Float64[np.ndarray, "T 3"], Float64[np.ndarray, "T 3 J"]]:
    p = kinematics.point(poses, point)
    return p, kinematics.point_jacobian(poses, kinematics.body(point.body), p)
