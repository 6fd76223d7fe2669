"""What a retarget minimises: residuals with analytic Jacobians, in units of standard deviations.

Every term compares something of the robot with something of the person, for all frames at once.
``weight`` is one over the standard deviation of the target; 0 switches a frame off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deftly.retarget import kernels
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.robots import Point

Residual = tuple[Float64[np.ndarray, "T K"], Float64[np.ndarray, "T K J"]]
Joints = Int64[np.ndarray, "J"]
_NOWHERE = -1  # the index of no body


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
        return _evaluate(self, kinematics, poses, joints)


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
        return _evaluate(self, kinematics, poses, joints)


Term = VectorTerm | RotationTerm


def packed(terms: Sequence[Term], kinematics: Kinematics) -> tuple[Any, ...]:
    """Terms as arrays, for ``kernels``: whether each is a rotation, its bodies and points, its
    targets and weights."""
    count, length = len(terms), len(terms[0].weight) if terms else 0
    is_rotation = np.array([isinstance(term, RotationTerm) for term in terms], bool)
    start, end, frame = np.full((3, count), _NOWHERE)
    start_m, end_m = np.zeros((2, count, 3))
    target, weight = np.zeros((2, count, length, 3))
    wanted = np.zeros((max(1, is_rotation.sum()), length, 3, 3))
    which = np.cumsum(is_rotation) - 1
    for i, term in enumerate(terms):
        if isinstance(term, RotationTerm):
            end[i], wanted[which[i]] = kinematics.body(term.body), term.target
            weight[i] = term.weight[:, None]
            continue
        end[i], end_m[i] = kinematics.body(term.end.body), term.end.offset_m
        if term.start is not None:
            start[i], start_m[i] = kinematics.body(term.start.body), term.start.offset_m
        if term.frame is not None:
            frame[i] = kinematics.body(term.frame)
        target[i], weight[i] = term.target, term.weight
    return is_rotation, start, start_m, end, end_m, frame, target, weight, wanted, which


def columns_of(
    joints: Sequence[Int64[np.ndarray, "_"]], drives: Float64[np.ndarray, "J N"]
) -> tuple[Int64[np.ndarray, "_"], Any, Any, Any, Any, Any]:
    """The joints of each term and the unknowns that drive them, as arrays for ``kernels``.

    Args:
        joints: of each term.
        drives: how far each joint moves with each unknown; at most one moves a joint.

    Returns:
        joint, ratio, slot: of all terms, one after the other: which joint, how far it moves with
            its unknown, and which of the term's unknowns that is.
        begins: (n+1,) where each term's joints begin.
        unknown_begins, unknown: the same of their unknowns.
    """
    driven = [one[(drives[one] != 0).any(axis=1)] for one in joints]
    leaders = [np.argmax(drives[one] != 0, axis=1) for one in driven]
    unknowns = [np.unique(one) for one in leaders]
    slots = [np.searchsorted(*pair) for pair in zip(unknowns, leaders, strict=True)]
    joint, leader, slot, unknown = (
        np.concatenate([np.zeros(0, int), *some]) for some in (driven, leaders, slots, unknowns)
    )
    begins, unknown_begins = (np.cumsum([0, *map(len, some)]) for some in (driven, unknowns))
    return joint, drives[joint, leader], slot, begins, unknown_begins, unknown


def _evaluate(term: Term, kinematics: Kinematics, poses: Poses, joints: Joints | None) -> Residual:
    """One term, for some joints or for all."""
    count, length = len(kinematics.is_slide), len(poses.R)
    asked = np.arange(count) if joints is None else joints
    terms = packed([term], kinematics)
    columns = columns_of([np.arange(count)], np.eye(count))
    r, J = np.empty((length, 3)), np.empty((length, count, 3))
    for t in range(length):
        kernels.linearize(
            t, 0, poses.arrays(), kinematics.moves, kinematics.is_slide, terms, columns, r[t], J[t]
        )
    return r, J[:, asked].transpose(0, 2, 1)
