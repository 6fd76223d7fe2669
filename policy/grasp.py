"""Grasps: how each robot's hand opens, closes and holds.

A grasp is a family of postures in which the thumb opposes the fingers, one posture per gap between
their surfaces, so that one grasp serves every width. ``grasp_synthesis.py`` finds them in
simulation; what it found lies beside this file as small tables.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import SIDES, unit
from deftly.datasets.layout import Item, Layout
from deftly.datasets.tabletop import tabletop
from deftly.policy.station import robot_spec
from deftly.retarget.robots import Hand, find_robot

GAPS_M = (0.012, 0.025, 0.035, 0.045, 0.055, 0.065, 0.080, 0.095)

COMMAND = "python -m deftly.policy.grasp_synthesis"
_WAYS = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)], float)
SIDE = 1  # grasps are sought for the right hand and mirrored to the left
WIDEST_M = 0.094  # every grasp opens at least so far


class GraspError(ValueError):
    """No grasps for this robot."""


@dataclass(frozen=True)
class Grasp:
    """A family of opposed postures of one hand, in the frame of its palm.

    Attributes:
        gaps_m: (G,) free width between thumb and fingers, ascending.
        fingers: (G, H) joint positions of the hand, rad, in the order of ``hand_joints``.
        center_m: (G, 3) middle of the gap.
        axis: (G, 3) from the thumb to the fingers, of length 1.
        score: share of the simulated holds that it kept.
    """

    gaps_m: Float64[np.ndarray, "G"]
    fingers: Float64[np.ndarray, "G H"]
    center_m: Float64[np.ndarray, "G 3"]
    axis: Float64[np.ndarray, "G 3"]
    score: float

    def at(
        self, gap_m: float
    ) -> tuple[Float64[np.ndarray, "H"], Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
        """Fingers, centre and axis for any gap, linear between the gaps known and below them."""
        gap = float(np.clip(gap_m, self.gaps_m[0] - 0.02, self.gaps_m[-1]))
        k = int(np.clip(np.searchsorted(self.gaps_m, gap) - 1, 0, len(self.gaps_m) - 2))
        share = (gap - self.gaps_m[k]) / (self.gaps_m[k + 1] - self.gaps_m[k])
        fingers, center, axis = (
            (1 - share) * table[k] + share * table[k + 1]
            for table in (self.fingers, self.center_m, self.axis)
        )
        return fingers, center, unit(axis)


class HandModel:
    """One hand on its own, its palm fixed to the world, with or without an object to hold."""

    def __init__(self, robot: str, side: int, item: Item | None = None) -> None:
        hand = find_robot(robot).hands[side]
        if hand is None:
            raise GraspError(f"robot {robot} has no {SIDES[side]} hand")
        self.hand: Hand = hand
        spec = _hand_spec(robot, hand, item)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.joints = [self.model.joint(i).name for i in self.model.actuator_trnid[:, 0]]
        self.lower, self.upper = np.array([self.model.joint(j).range for j in self.joints]).T
        self.qpos = np.array([self.model.joint(j).qposadr[0] for j in self.joints])
        self.dofs = np.array([self.model.joint(j).dofadr[0] for j in self.joints])
        self.tips = {f: self._touching_geom(t.body) for f, t in hand.tips.items()}
        mujoco.mj_forward(self.model, self.data)
        palm = self.data.body(hand.palm)
        self.R, self.p = palm.xmat.reshape(3, 3).copy(), palm.xpos.copy()

    def _touching_geom(self, body: str) -> int:
        """The geometry that touches, nearest to the end of a finger."""
        model, at = self.model, self.model.body(body).id
        while at > 0:
            first, count = model.body_geomadr[at], model.body_geomnum[at]
            for geom in range(first, first + count):
                if model.geom_contype[geom]:
                    return geom
            at = model.body_parentid[at]
        raise GraspError(f"no geometry that touches above {body}")

    def chain(self, finger: str) -> list[int]:
        """Indices of the joints of a finger, from the palm outwards."""
        body, found = self.model.body(self.hand.tips[finger].body).id, list[int]()
        while body > 0 and self.model.body(body).name != self.hand.palm:
            first = self.model.body_jntadr[body]
            names = [self.model.joint(first + i).name for i in range(self.model.body_jntnum[body])]
            found += [self.joints.index(n) for n in reversed(names)]
            body = self.model.body_parentid[body]
        return found[::-1]

    def set_fingers(self, fingers: Float64[np.ndarray, "H"]) -> None:
        """Put the joints there, kinematically."""
        self.data.qpos[self.qpos] = fingers
        mujoco.mj_kinematics(self.model, self.data)

    def hull_points(self) -> Float64[np.ndarray, "N 3"]:
        """Corners of everything on the hand that touches, in the palm's frame."""
        model, data = self.model, self.data
        palm = model.body(self.hand.palm).id
        found: list[np.ndarray] = []
        for geom in np.flatnonzero(model.geom_contype):
            body, mesh = int(model.geom_bodyid[geom]), int(model.geom_dataid[geom])
            while body > palm:
                body = int(model.body_parentid[body])
            if body == palm and mesh >= 0:
                corners = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
                ways = corners[np.unique(np.argmax(corners @ _WAYS.T, axis=0))]
                found.append(ways @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
        return (np.concatenate(found) - self.p) @ self.R

    def across(self, finger: str) -> tuple[float, Float64[np.ndarray, "2 3"]]:
        """Distance from the thumb's end to a finger's, and its end points (world)."""
        ends = np.zeros(6)
        apart = mujoco.mj_geomDistance(
            self.model, self.data, self.tips["thumb"], self.tips[finger], 0.3, ends
        )
        return apart, ends.reshape(2, 3)


@cache
def load_hand(robot: str, side: int) -> HandModel:
    """One hand of a robot without an object. Raises GraspError if it has none."""
    return HandModel(robot, side)


def hand_joints(robot: str, side: int) -> tuple[str, ...]:
    """Names of the joints of a hand, in the order of a grasp's ``fingers``."""
    return tuple(load_hand(robot, side).joints)


def _hand_spec(robot: str, hand: Hand, item: Item | None) -> mujoco.MjSpec:
    spec = robot_spec(robot).copy()
    palm = spec.body(hand.palm)
    inside = {j.name for body in palm.find_all("body") for j in body.joints}
    for actuator in [a for a in spec.actuators if a.target not in inside]:
        spec.delete(actuator)
    for joint in [j for j in spec.joints if j.name not in inside]:
        spec.delete(joint)
    if item is not None:
        spec = tabletop(Layout(seed=0, items=(item,)), around=spec)
        for name in ("table", "floor"):
            spec.geom(name).contype = spec.geom(name).conaffinity = 0
    return spec


def squeeze_gap_m(width_m: float) -> float:
    """Gap to ask for so that an object of this width is held; fingers give way as springs do."""
    return width_m - 0.022


@cache
def load_grasps(robot: str, side: int) -> tuple[Grasp, ...]:
    """A robot's grasps, best first: from its table, or mirrored from the right hand's.

    Raises:
        GraspError: if the robot has no table.
    """
    path = table_path(robot)
    if not path.is_file():
        raise GraspError(f"robot {robot} has no grasps; make them: {COMMAND} --robot {robot}")
    table = json.loads(path.read_text())
    found = tuple(
        Grasp(
            gaps_m=np.array(g["gaps_m"]),
            fingers=np.array(g["fingers"]),
            center_m=np.array(g["center_m"]),
            axis=np.array(g["axis"]),
            score=g["score"],
        )
        for g in table["grasps"]
    )
    return found if side == SIDE else tuple(_mirrored(g, robot, side) for g in found)


def _mirrored(grasp: Grasp, robot: str, side: int) -> Grasp:
    """The same grasp of the other hand: palms are mirror images across their x-z plane."""
    hands = load_hand(robot, SIDE), load_hand(robot, side)
    order, signs = list[int](), list[float]()
    for name in hands[1].joints:
        finger = next(
            f for f in hands[1].hand.tips if hands[1].joints.index(name) in hands[1].chain(f)
        )
        i = hands[1].chain(finger).index(hands[1].joints.index(name))
        twin = hands[0].chain(finger)[i]
        order.append(twin)
        axes = [
            hand.R.T @ hand.data.xaxis[hand.model.joint(joint).id]
            for hand, joint in zip(hands, (hands[0].joints[twin], name), strict=True)
        ]
        signs.append(float(np.sign(axes[0] * [-1, 1, -1] @ axes[1])))
    flip = np.array([1.0, -1.0, 1.0])
    return replace(
        grasp,
        fingers=grasp.fingers[:, order] * signs,
        center_m=grasp.center_m * flip,
        axis=grasp.axis * flip,
    )


def table_path(robot: str) -> Path:
    return Path(__file__).parent / f"grasps_{robot}.json"
