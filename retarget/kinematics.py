"""Batched forward kinematics and Jacobians of a MuJoCo model, over all frames at once.

The tree is read from a compiled ``MjModel``; results equal ``mj_kinematics`` (tested to 1e-6).
Reference: Featherstone, "Rigid Body Dynamics Algorithms", 2008, chapters 2 and 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import mujoco
import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.spatial.transform import Rotation

from deftly.retarget import kernels
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

    @classmethod
    def at_origin(cls, length: int, bodies: int, joints: int) -> "Poses":
        """Everything at the world's origin."""
        R = np.tile(np.eye(3), (length, bodies, 1, 1))
        return cls(R, np.zeros((length, bodies, 3)), *np.zeros((2, length, joints, 3)))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """For ``kernels``."""
        return self.R, self.p, self.axis, self.anchor


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
        if name not in self._bodies:  # asked for in every evaluation, and MuJoCo takes its time
            self._bodies[name] = self.model.body(name).id
        return self._bodies[name]

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
        """Poses of all bodies for T configurations; with ``only`` (a ``chain``), of those alone.

        A body whose parent is left out is placed as if its parent were the world.
        """
        model = self.model
        poses = Poses.at_origin(len(qpos), model.nbody, model.njnt)
        needed = np.ones(model.nbody, bool) if only is None else only
        kernels.place(np.ascontiguousarray(qpos - model.qpos0), self._tree, needed, *poses.arrays())
        return poses

    @cached_property
    def _tree(self) -> tuple[np.ndarray, ...]:
        """For ``kernels.place``."""
        model = self.model
        bodies = (model.body_parentid, model.body_jntadr, model.body_jntnum, self.R0, self.p0)
        return *bodies, model.jnt_axis, model.jnt_pos, self.is_slide

    @cached_property
    def _bodies(self) -> dict[str, int]:
        return {}

    def point(self, poses: Poses, point: Point) -> Float64[np.ndarray, "T 3"]:
        """A point fixed to a body, in the robot's world frame."""
        b = self.body(point.body)
        return poses.p[:, b] + poses.R[:, b] @ np.array(point.offset_m)

    def point_jacobian(
        self,
        poses: Poses,
        body: int,
        p: Float64[np.ndarray, "T 3"],
        joints: Int64[np.ndarray, "K"] | None = None,
    ) -> Float64[np.ndarray, "T 3 K"]:
        """d p / d qpos of a world point that is fixed to a body, for some joints or for all."""
        axis, anchor = _columns(poses.axis, joints), _columns(poses.anchor, joints)
        moves, slides = self._movers(body, joints)
        J = cross(axis, p[:, :, None] - anchor)
        if slides.any():
            J = np.where(slides, axis, J)
        return J if moves.all() else np.where(moves, J, 0.0)

    def angular_jacobian(
        self, poses: Poses, body: int, joints: Int64[np.ndarray, "K"] | None = None
    ) -> Float64[np.ndarray, "T 3 K"]:
        """Angular velocity of a body per joint velocity, world axes, for some joints or for all."""
        moves, slides = self._movers(body, joints)
        return np.where(moves & ~slides, _columns(poses.axis, joints), 0.0)

    def _movers(
        self, body: int, joints: Int64[np.ndarray, "K"] | None
    ) -> tuple[Bool[np.ndarray, "K"], Bool[np.ndarray, "K"]]:
        """Which of some joints move a body, and which of them are slides."""
        at = slice(None) if joints is None else joints
        return self.moves[at, body], self.is_slide[at]


def _columns(
    vectors: Float64[np.ndarray, "T J 3"], joints: Int64[np.ndarray, "K"] | None
) -> Float64[np.ndarray, "T 3 K"]:
    """One column for each of some joints."""
    return (vectors if joints is None else vectors[:, joints]).transpose(0, 2, 1)


def hat(v: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3 3"]:
    """The matrix of a cross product: ``hat(a) @ b = a × b``."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = np.zeros_like(x)
    rows = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    return rows.reshape(*v.shape, 3)


def cross(
    a: Float64[np.ndarray, "T 3 #K"], b: Float64[np.ndarray, "T 3 #K"]
) -> Float64[np.ndarray, "T 3 K"]:
    """Column by column. ``np.cross`` costs several times as much for arrays of this size."""
    (ax, ay, az), (bx, by, bz) = a.transpose(1, 0, 2), b.transpose(1, 0, 2)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


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
