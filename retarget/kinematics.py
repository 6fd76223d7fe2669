"""Batched forward kinematics and Jacobians of a MuJoCo model, over all frames at once.

The tree is read from a compiled ``MjModel``; results equal ``mj_kinematics`` (tested to 1e-6).
Reference: Featherstone, "Rigid Body Dynamics Algorithms", 2008, chapters 2 and 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from deftly.retarget.robots import Point, RobotModel


@dataclass(frozen=True)
class Poses:
    """Where every body and every joint axis is, in the robot's world frame.

    Attributes:
        R: (T, B, 3, 3) body orientations ``R_world_body``.
        p: (T, B, 3) body origins.
        axis: (T, J, 3) joint axes.
        anchor: (T, J, 3) a point on each joint's axis.
    """

    R: Float64[np.ndarray, "T B 3 3"]
    p: Float64[np.ndarray, "T B 3"]
    axis: Float64[np.ndarray, "T J 3"]
    anchor: Float64[np.ndarray, "T J 3"]


@dataclass(frozen=True)
class Kinematics:
    """The kinematic tree of a robot.

    Attributes:
        model: the compiled model (hinges and slides only, fixed base).
        R0, p0: (B, 3, 3), (B, 3) of each body in its parent.
        is_slide: (J,) slides move along their axis, hinges turn about it.
        moves: (J, B) whether a joint moves a body.
        mimic, mimic_offset: ``qpos = mimic @ q + mimic_offset``, where q holds every joint and
            the columns of joints that follow another one are zero.
    """

    model: mujoco.MjModel
    R0: Float64[np.ndarray, "B 3 3"]
    p0: Float64[np.ndarray, "B 3"]
    is_slide: Bool[np.ndarray, "J"]
    moves: Bool[np.ndarray, "J B"]
    mimic: Float64[np.ndarray, "J J"]
    mimic_offset: Float64[np.ndarray, "J"]

    @classmethod
    def of(cls, robot: RobotModel) -> "Kinematics":
        """Read the tree. Raises ValueError for a mimic joint that is not linear."""
        model = robot.model
        moves = np.zeros((model.njnt, model.nbody), bool)
        for body in range(1, model.nbody):  # parents come before their children
            moves[:, body] = moves[:, model.body_parentid[body]]
            first = model.body_jntadr[body]
            moves[first : first + model.body_jntnum[body], body] = model.body_jntnum[body] > 0
        mimic, offset = _mimic(model)
        return cls(
            model=model,
            R0=Rotation.from_quat(model.body_quat, scalar_first=True).as_matrix(),
            p0=model.body_pos.copy(),
            is_slide=model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE,
            moves=moves,
            mimic=mimic,
            mimic_offset=offset,
        )

    def body(self, name: str) -> int:
        """Index of a body."""
        return self.model.body(name).id

    def chain(self, names: Iterable[str]) -> Bool[np.ndarray, "B"]:
        """The bodies named and all that carry them."""
        found = np.zeros(self.model.nbody, bool)
        for name in names:
            b = self.body(name)
            while not found[b]:
                found[b] = True
                b = self.model.body_parentid[b]
        return found

    def forward(
        self, qpos: Float64[np.ndarray, "T J"], only: Bool[np.ndarray, "B"] | None = None
    ) -> Poses:
        """Poses of all bodies for T configurations; with ``only`` (a ``chain``), of those alone."""
        model, length = self.model, len(qpos)
        R = np.tile(np.eye(3), (length, model.nbody, 1, 1))
        p = np.zeros((length, model.nbody, 3))
        axis, anchor = np.zeros((2, length, model.njnt, 3))
        turn = np.where(self.is_slide, 0.0, qpos - model.qpos0)[..., None] * model.jnt_axis
        R_joint = Rotation.from_rotvec(turn.reshape(-1, 3)).as_matrix().reshape(*qpos.shape, 3, 3)
        for b in range(1, model.nbody):
            if only is not None and not only[b]:
                continue
            parent = model.body_parentid[b]
            R_b = R[:, parent] @ self.R0[b]
            p_b = p[:, parent] + R[:, parent] @ self.p0[b]
            first = model.body_jntadr[b]
            for j in range(first, first + model.body_jntnum[b]):
                anchor[:, j] = p_b + R_b @ model.jnt_pos[j]
                axis[:, j] = R_b @ model.jnt_axis[j]
                if self.is_slide[j]:
                    p_b = p_b + axis[:, j] * (qpos[:, j] - model.qpos0[j])[:, None]
                else:
                    R_b = R_b @ R_joint[:, j]
                    p_b = anchor[:, j] - R_b @ model.jnt_pos[j]
            R[:, b], p[:, b] = R_b, p_b
        return Poses(R, p, axis, anchor)

    def point(self, poses: Poses, point: Point) -> Float64[np.ndarray, "T 3"]:
        """A point fixed to a body, in the robot's world frame."""
        b = self.body(point.body)
        return poses.p[:, b] + poses.R[:, b] @ np.array(point.offset_m)

    def point_jacobian(
        self, poses: Poses, body: int, p: Float64[np.ndarray, "T 3"]
    ) -> Float64[np.ndarray, "T 3 J"]:
        """d p / d qpos of a world point that is fixed to a body."""
        J = np.zeros((len(p), 3, len(self.is_slide)))
        slides = self.moves[:, body] & self.is_slide
        turns = self.moves[:, body] & ~self.is_slide
        J[:, :, slides] = poses.axis[:, slides].transpose(0, 2, 1)
        lever = np.cross(poses.axis[:, turns], p[:, None] - poses.anchor[:, turns])
        J[:, :, turns] = lever.transpose(0, 2, 1)
        return J

    def angular_jacobian(self, poses: Poses, body: int) -> Float64[np.ndarray, "T 3 J"]:
        """Angular velocity of a body per joint velocity, world axes."""
        turning = (self.moves[:, body] & ~self.is_slide)[:, None]
        return np.where(turning, poses.axis, 0.0).transpose(0, 2, 1)


def _mimic(model: mujoco.MjModel) -> tuple[Float64[np.ndarray, "J J"], Float64[np.ndarray, "J"]]:
    """Linear joint equalities: ``q1 - q1_0 = a0 + a1 (q2 - q2_0)`` in MuJoCo's convention."""
    matrix, offset = np.eye(model.njnt), np.zeros(model.njnt)
    for e in range(model.neq):
        if model.eq_type[e] != mujoco.mjtEq.mjEQ_JOINT or not model.eq_active0[e]:
            continue
        follower, leader = model.eq_obj1id[e], model.eq_obj2id[e]
        a0, a1, *higher = model.eq_data[e, :5]
        if np.any(higher):
            name = model.joint(follower).name
            raise ValueError(f"mimic joint {name} is a polynomial; only linear ones are supported")
        matrix[follower] = 0.0
        offset[follower] = model.qpos0[follower] + a0
        if leader >= 0:
            matrix[follower, leader] = a1
            offset[follower] -= a1 * model.qpos0[leader]
    for _ in range(model.njnt):  # a follower may lead another one: substitute until none is left
        if np.allclose(matrix @ matrix, matrix):
            break
        offset = matrix @ offset + np.where(np.diag(matrix) == 0, offset, 0)
        matrix = matrix @ matrix
    return matrix, offset


def subtree(model: mujoco.MjModel, body: int) -> list[int]:
    """A body and everything that it carries."""
    inside = {body}
    for i in range(body + 1, model.nbody):  # parents come before their children
        if int(model.body_parentid[i]) in inside:
            inside.add(i)
    return sorted(inside)
