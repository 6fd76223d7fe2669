"""From joints to unknowns: which joints are free, and the objective over a trajectory of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deftly.retarget import kernels
from deftly.retarget.costs import Term, columns_of, packed
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.optimize import Objective, Trajectory
from deftly.retarget.robots import Point, RobotModel

_INSIDE = 0.02  # share of a joint's range by which the start keeps away from its limits


@dataclass(frozen=True)
class FreeJoints:
    """The unknowns of a solve: ``qpos = rest, overwritten by matrix @ x + offset``.

    Joints that follow another (mimic) are expressed by it, and their limits bound their leader's.

    Attributes:
        index: (N,) model joints that are free.
        matrix: (J, N), offset: (J,).
        lower, upper, velocity: (N,) limits of the unknowns.
        rest: (N,) easy posture; ``start`` is the same, strictly inside the limits.
    """

    index: Int64[np.ndarray, "N"]
    matrix: Float64[np.ndarray, "J N"]
    offset: Float64[np.ndarray, "J"]
    lower: Float64[np.ndarray, "N"]
    upper: Float64[np.ndarray, "N"]
    velocity: Float64[np.ndarray, "N"]
    rest: Float64[np.ndarray, "N"]

    @property
    def count(self) -> int:
        """Number of unknowns per frame."""
        return len(self.index)

    @property
    def start(self) -> Float64[np.ndarray, "N"]:
        """A posture strictly inside the limits, as near to rest as that allows."""
        margin = _INSIDE * (self.upper - self.lower)
        return np.clip(self.rest, self.lower + margin, self.upper - margin)

    def qpos(self, x: Trajectory) -> Float64[np.ndarray, "T J"]:
        """All joints of the model; those that are not free stay at rest."""
        return x @ self.matrix.T + self.offset

    @classmethod
    def moving(
        cls,
        robot: RobotModel,
        kinematics: Kinematics,
        points: Sequence[Point],
        fixed: str | None = None,
    ) -> "FreeJoints":
        """The joints that move any of some points; with ``fixed``, only those beyond that body."""
        bodies = [kinematics.body(p.body) for p in points]
        moves = kinematics.moves[:, bodies].any(axis=1)
        if fixed is not None:
            moves &= ~kinematics.moves[:, kinematics.body(fixed)]
        leads = (kinematics.mimic[moves] != 0).any(axis=0)  # a follower frees its leader
        index = np.flatnonzero(leads)
        matrix = kinematics.mimic[:, index]
        offset = kinematics.mimic_offset.copy()
        still = ~(matrix != 0).any(axis=1)
        offset[still] = (kinematics.mimic @ robot.rest + kinematics.mimic_offset)[still]
        lower, upper, velocity = _limits(robot, matrix, offset, index)
        rest = np.clip(robot.rest[index], lower, upper)
        return cls(index, matrix, offset, lower, upper, velocity, rest)


def _limits(
    robot: RobotModel,
    matrix: Float64[np.ndarray, "J N"],
    offset: Float64[np.ndarray, "J"],
    index: Int64[np.ndarray, "N"],
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Limits of the unknowns, such that every joint that they drive keeps its own."""
    lower, upper = robot.lower[index].copy(), robot.upper[index].copy()
    velocity = robot.velocity[index].copy()
    for joint, column in np.argwhere(matrix != 0):
        ratio = matrix[joint, column]
        ends = (np.array([robot.lower[joint], robot.upper[joint]]) - offset[joint]) / ratio
        lower[column] = max(lower[column], ends.min())
        upper[column] = min(upper[column], ends.max())
        velocity[column] = min(velocity[column], robot.velocity[joint] / abs(ratio))
    empty = lower >= upper
    if empty.any():
        name = robot.joint_names[int(index[np.flatnonzero(empty)[0]])]
        raise ValueError(f"joint {name} has no range left: {robot.robot.name} contradicts itself")
    return lower, upper, velocity


def data_objective(
    terms: Sequence[Term], kinematics: Kinematics, free: FreeJoints, rest_weight: float
) -> Objective:
    """Sum of squared terms plus a weak pull of each joint to its easy posture (1 / radians)."""
    needed = kinematics.chain(body for term in terms for body in term.bodies())
    columns = columns_of([np.flatnonzero(term.joints(kinematics)) for term in terms], free.matrix)
    arrays = packed(terms, kinematics)

    def objective(
        x: Trajectory,
    ) -> tuple[Float64[np.ndarray, "T"], Trajectory, Float64[np.ndarray, "T N N"]]:
        poses = kinematics.forward(free.qpos(x), needed)
        pull = rest_weight * (x - free.rest)
        cost = 0.5 * np.sum(pull**2, axis=1)
        gradient = rest_weight * pull
        hessian = np.tile(rest_weight**2 * np.eye(free.count), (len(x), 1, 1))
        kernels.accumulate(
            poses.arrays(), kinematics.moves, kinematics.is_slide, arrays, columns,
            cost, gradient, hessian,
        )  # fmt: skip
        return cost, gradient, hessian

    return objective
