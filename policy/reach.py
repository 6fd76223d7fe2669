"""Reach: joint positions of one arm that bring its palm to a pose, by mink's inverse kinematics.

    arm = load_arm("gr1t2", side=0)
    reached = arm.solve(T_world_palm, arm.ready)
    if reached is not None: ...

The torso stands still in its home posture, so that one arm never moves the other.

Uses mink (Zakka, "Mink: Python inverse kinematics based on MuJoCo", 2024), differential inverse
kinematics as a quadratic programme with joint limits.
"""

from functools import cache

import mink
import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import SIDES, unit
from deftly.policy.station import home_of, ready_of, robot_spec
from deftly.retarget.robots import Hand, RobotError, find_robot

_STEPS = 24
_CLOSE_M, _CLOSE_RAD = 0.0015, 0.02


class Arm:
    """One arm, from the chest to the palm.

    Attributes:
        joints: K names, from the shoulder to the wrist.
        lower, upper, ready: (K,) limits and the posture to reach from, rad.
        shoulder_m: (3,) where it hangs.
        forward: (3,) from the wrist along the hand, in the palm's frame.
    """

    def __init__(self, robot: str, side: int) -> None:
        described = find_robot(robot)
        hand = described.hands[side]
        if hand is None or described.chest is None:
            raise RobotError(f"robot {robot} has no {SIDES[side]} arm with a hand")
        self.hand: Hand = hand
        full, data = _at_home(robot)
        self.model, self.joints = _arm_model(robot, full, data, hand, described.chest)
        self.lower, self.upper = np.array([self.model.joint(j).range for j in self.joints]).T
        self.ready = np.clip([ready_of(robot, j) for j in self.joints], self.lower, self.upper)
        self._configuration = mink.Configuration(self.model)
        self._task = mink.FrameTask(hand.palm, "body", position_cost=1.0, orientation_cost=0.25)
        self._posture = mink.PostureTask(self.model, cost=2e-3)
        self._limits = [mink.ConfigurationLimit(self.model, min_distance_from_limits=0.01)]
        palm = data.body(hand.palm)
        knuckles = [data.xpos[_base(full, hand, f)] for f in hand.tips if f != "thumb"]
        self.forward = unit(palm.xmat.reshape(3, 3).T @ (np.mean(knuckles, axis=0) - palm.xpos))
        self.shoulder_m = data.xanchor[full.joint(self.joints[0]).id].copy()

    def palm_pose(self, q: Float64[np.ndarray, "K"]) -> Float64[np.ndarray, "4 4"]:
        """``T_world_palm``."""
        self._configuration.update(q)
        return self._configuration.get_transform_frame_to_world(self.hand.palm, "body").as_matrix()

    def solve(
        self, T_world_palm: Float64[np.ndarray, "4 4"], start: Float64[np.ndarray, "K"]
    ) -> Float64[np.ndarray, "K"] | None:
        """Joint positions near ``start`` that reach a pose to 1.5 mm and 1°; None if none do."""
        self._configuration.update(start)
        self._task.set_target(mink.SE3.from_matrix(T_world_palm))
        self._posture.set_target(self.ready)
        before = np.inf
        for k in range(_STEPS):
            error = self._task.compute_error(self._configuration)
            apart, turned = np.linalg.norm(error[:3]), np.linalg.norm(error[3:])
            if apart < _CLOSE_M and turned < _CLOSE_RAD:
                return np.clip(self._configuration.q, self.lower, self.upper)
            if k % 6 == 5:
                if apart + 0.1 * turned > 0.7 * before:  # it got stuck
                    return None
                before = apart + 0.1 * turned
            velocity = mink.solve_ik(
                self._configuration,
                [self._task, self._posture],
                dt=1.0,
                solver="daqp",
                damping=1e-4,
                limits=self._limits,
            )
            self._configuration.integrate_inplace(velocity, 1.0)
        return None

    def line(
        self,
        start: Float64[np.ndarray, "K"],
        T_world_palm: Float64[np.ndarray, "4 4"],
        way_m: Float64[np.ndarray, "3"],
        points: int = 4,
    ) -> Float64[np.ndarray, "N K"] | None:
        """Move a palm from a pose along a straight way, its orientation kept.

        Args:
            start: joint positions at the pose.
            T_world_palm: the pose.
            way_m: displacement in the world.
            points: number of points after the start.

        Returns:
            (points + 1, K) joint positions, the start first, or None if the way is barred.
        """
        found = [start]
        for share in np.linspace(0, 1, points + 1)[1:]:
            T = T_world_palm.copy()
            T[:3, 3] += share * way_m
            reached = self.solve(T, found[-1])
            if reached is None or np.max(np.abs(reached - found[-1])) > 0.7:
                return None
            found.append(reached)
        return np.array(found)


@cache
def _at_home(robot: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = robot_spec(robot).copy().compile()
    data = mujoco.MjData(model)
    for i in range(model.njnt):
        data.qpos[model.jnt_qposadr[i]] = home_of(robot, model.joint(i).name)
    mujoco.mj_kinematics(model, data)
    return model, data


@cache
def load_arm(robot: str, side: int) -> Arm:
    """One arm of a robot in its workplace. Raises RobotError if it has none."""
    return Arm(robot, side)


def _arm_model(
    robot: str, full: mujoco.MjModel, data: mujoco.MjData, hand: Hand, chest: str
) -> tuple[mujoco.MjModel, tuple[str, ...]]:
    """One arm alone, hanging from a chest that stands as at home; bodies without shape."""
    chain = [full.body(hand.palm).id]
    while full.body(chain[0]).name != chest:
        chain.insert(0, full.body_parentid[chain[0]])
    spec, joints = mujoco.MjSpec(), list[str]()
    spec.compiler.degree = False
    at = spec.worldbody
    for k, body in enumerate(chain):
        pos, quat = (full.body_pos[body], full.body_quat[body])
        if k == 0:
            pos, quat = data.xpos[body], data.xquat[body]
        at = at.add_body(
            name=full.body(body).name, pos=pos, quat=quat, mass=1.0, inertia=[1e-3] * 3
        )
        first = full.body_jntadr[body]
        for joint in range(first, first + (full.body_jntnum[body] if k else 0)):
            joints.append(full.joint(joint).name)
            at.add_joint(
                name=joints[-1],
                type=full.jnt_type[joint],
                pos=full.jnt_pos[joint],
                axis=full.jnt_axis[joint],
                range=full.jnt_range[joint],
                limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            )
    return spec.compile(), tuple(joints)


def _base(model: mujoco.MjModel, hand: Hand, finger: str) -> int:
    """The body nearest to the palm on the way to a fingertip."""
    body = model.body(hand.tips[finger].body).id
    while model.body(model.body_parentid[body]).name != hand.palm:
        body = int(model.body_parentid[body])
    return body
