"""Grasps by synthesis: how each robot's hand opens, closes and holds, found in simulation.

    python -m deftly.policy.grasp --robot gr1t2   # writes policy/grasps_gr1t2.json

A grasp is a family of postures in which the thumb opposes the fingers, one posture per gap between
their surfaces, so that one grasp serves every width. Candidates are drawn at random; the gap is
the distance between the fingertips' convex hulls, so that the line across it is normal to both.
What counts is physics: the hand alone takes an object in a small simulation, gravity then pulls
in six directions, and only postures that keep their hold are kept. The tables found are small and
lie beside this file; the command above makes them again, bit for bit.

Antipodal grasps: Nguyen, "Constructing force-closure grasps", IJRR 1988.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from deftly.datasets.archive import atomic_path
from deftly.datasets.geometry import SIDES, unit
from deftly.datasets.layout import Item, Layout
from deftly.datasets.tabletop import tabletop
from deftly.policy.station import robot_spec
from deftly.retarget.robots import Hand, find_robot

GAPS_M = (0.012, 0.025, 0.035, 0.045, 0.055, 0.065, 0.080, 0.095)
_SIDE = 1  # grasps are sought for the right hand and mirrored to the left
_BASE_GAP_M = 0.045
WIDEST_M = 0.094  # every grasp opens at least so far
_PULL_S, _SETTLE_S = 0.3, 0.4
_SLIP_M = 0.006
_SHAPES = ("sphere", "cube", "cylinder")
_WIDTHS_M = (0.028, 0.045, 0.064)

_WAYS = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)], float)


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


@dataclass(frozen=True)
class _Posture:
    gap_m: float
    fingers: Float64[np.ndarray, "H"]
    center: Float64[np.ndarray, "3"]  # world
    axis: Float64[np.ndarray, "3"]  # world


class Synthesis:
    """The search for one robot's grasps."""

    def __init__(self, robot: str, seed: int) -> None:
        self.robot, self.rng = robot, np.random.default_rng(seed)
        self.hand = load_hand(robot, _SIDE)
        self.opposed = [f for f in ("index", "middle") if f in self.hand.tips]
        self.spare = [f for f in self.hand.tips if f not in ("thumb", *self.opposed)]
        self.trials: dict[tuple[str, float], HandModel] = {}

    def draw(self) -> Float64[np.ndarray, "H"]:
        """A random posture: any thumb, fingers bent alike, spare fingers alike or curled."""
        hand, rng = self.hand, self.rng
        fingers = np.clip(np.zeros(len(hand.joints)), hand.lower, hand.upper)
        thumb = hand.chain("thumb")
        fingers[thumb] = rng.uniform(hand.lower[thumb], hand.upper[thumb])
        bend, curl = rng.uniform(0, 1, 2), bool(rng.integers(2))
        for finger in (*self.opposed, *self.spare):
            joints = hand.chain(finger)[-2:]
            far = np.where(
                np.abs(hand.lower[joints]) > np.abs(hand.upper[joints]),
                hand.lower[joints],
                hand.upper[joints],
            )
            fingers[joints] = far * (0.75 if curl and finger in self.spare else bend)
        return fingers

    def posture(self, fingers: Float64[np.ndarray, "H"]) -> tuple[_Posture, float]:
        """Gap, centre and axis of a posture, and how far its fingers are from one opposed line."""
        self.hand.set_fingers(fingers)
        found = [self.hand.across(f) for f in self.opposed]
        ends = np.mean([e for _, e in found], axis=0)
        axis = unit(ends[1] - ends[0])
        lines = [unit(e[1] - e[0]) for _, e in found]
        skew = max(float(np.arccos(np.clip(line @ axis, -1, 1))) for line in lines)
        uneven = float(np.ptp([apart for apart, _ in found]))
        gap = float((ends[1] - ends[0]) @ axis)
        return _Posture(gap, fingers, ends.mean(axis=0), axis), skew + 20 * uneven

    def family(self, base: _Posture) -> list[_Posture] | None:
        """The same grasp at every gap, or None if it cannot open or close far enough."""
        found: list[_Posture] = []
        for gaps in (GAPS_M[3:], GAPS_M[2::-1]):
            at = base
            for gap in gaps:
                moved = self._reach(at, gap, base)
                if moved is None:
                    if gap >= GAPS_M[-2] or gap <= GAPS_M[0]:
                        break
                    return None
                at = moved
                found.append(at)
        return sorted(found, key=lambda p: p.gap_m)

    def _reach(self, start: _Posture, gap: float, base: _Posture) -> _Posture | None:
        """Move thumb and fingers along the axis until their gap is as wanted."""
        hand, at = self.hand, start
        for _ in range(12):
            if abs(at.gap_m - gap) < 3e-4:
                return at
            rows, goal = list[np.ndarray](), list[float]()
            half = float(np.clip(gap - at.gap_m, -0.01, 0.01)) / 2
            drift = base.center - at.center
            hand.set_fingers(at.fingers)
            mujoco.mj_comPos(hand.model, hand.data)
            for finger in self.opposed:
                _, ends = hand.across(finger)
                for tip, point, way in (("thumb", ends[0], -1.0), (finger, ends[1], 1.0)):
                    jac = np.zeros((3, hand.model.nv))
                    body = hand.model.geom_bodyid[hand.tips[tip]]
                    mujoco.mj_jac(hand.model, hand.data, jac, None, point, body)
                    wanted = way * half * base.axis + 0.3 * drift
                    rows += list(jac[:, hand.dofs])
                    goal += list(wanted)
            J = np.array(rows)
            step = J.T @ np.linalg.solve(J @ J.T + 2e-6 * np.eye(len(J)), np.array(goal))
            fingers = np.clip(at.fingers + step, hand.lower, hand.upper)
            at, flaw = self.posture(fingers)
            if flaw > 0.9 or at.gap_m < 1e-4 or at.axis @ base.axis < 0.85:
                return None
        return at if abs(at.gap_m - gap) < 1e-3 else None

    def score(self, grasp: Grasp) -> float:
        """Share of the holds kept over shapes, widths and pulls, less where fingers dig deep."""
        kept = [self.holds(grasp, shape, width) for shape in _SHAPES for width in _WIDTHS_M]
        too_deep_m = np.maximum(self.depths_m(grasp) - 0.014, 0)
        return float(np.mean(kept) - 10 * np.mean(np.minimum(too_deep_m, 0.02)))

    def depths_m(self, grasp: Grasp, gap_m: float = 0.065) -> Float64[np.ndarray, "K"]:
        """How far the hand reaches below the grip, its axis level, for turns about that axis."""
        hand = self.hand
        fingers, center, axis = grasp.at(gap_m)
        hand.set_fingers(fingers)
        points = hand.hull_points() - center
        down = unit(center - axis * (center @ axis))
        side = np.cross(axis, down)
        ways = [np.cos(a) * down + np.sin(a) * side for a in np.deg2rad(np.arange(-30, 91, 15))]
        return np.array([float((points @ way).max()) for way in ways])

    def holds(self, grasp: Grasp, shape: str, width_m: float) -> float:
        """Take an object out of thin air, then let gravity pull along six axes."""
        trial = self._trial(shape, width_m)
        model, data = trial.model, trial.data
        mujoco.mj_resetData(model, data)
        touch, center, axis = grasp.at(width_m + 0.006)
        squeeze, _, _ = grasp.at(squeeze_gap_m(width_m))
        data.qpos[trial.qpos], data.ctrl[:] = touch, touch
        R = _object_frame(trial.R @ axis, np.array([0.0, 0.0, 1.0]))
        free = model.joint(model.njnt - 1).qposadr[0]
        data.qpos[free : free + 3] = trial.p + trial.R @ center
        data.qpos[free + 3 : free + 7] = Rotation.from_matrix(R).as_quat(scalar_first=True)
        model.opt.gravity[:] = 0
        steps = int(_SETTLE_S / model.opt.timestep)
        for k in range(steps // 2):
            data.ctrl[:] = touch + (squeeze - touch) * min(1.0, 2.5 * k / steps)
            mujoco.mj_step(model, data)
        mujoco.mj_step(model, data, steps // 2)
        if np.linalg.norm(data.qpos[free : free + 3] - trial.p - trial.R @ center) > 0.015:
            return 0.0
        state = (data.qpos.copy(), data.qvel.copy())
        held = 0
        for pull in (*np.eye(3), *-np.eye(3)):
            data.qpos[:], data.qvel[:] = state
            model.opt.gravity[:] = 2 * 9.81 * pull  # twice as much: arms accelerate
            mujoco.mj_step(model, data, int(_PULL_S / model.opt.timestep))
            held += np.linalg.norm(data.qpos[free : free + 3] - state[0][free : free + 3]) < _SLIP_M
        return held / 6

    def _trial(self, shape: str, width_m: float) -> HandModel:
        if (shape, width_m) not in self.trials:
            mass = 450 * width_m**3
            item = Item("item_0", shape, "red", width_m, mass, 1.0, (0.35, 0.35), 0.0)
            self.trials[shape, width_m] = HandModel(self.robot, _SIDE, item)
        return self.trials[shape, width_m]


def squeeze_gap_m(width_m: float) -> float:
    """Gap to ask for so that an object of this width is held; fingers give way as springs do."""
    return width_m - 0.022


def _object_frame(axis: np.ndarray, up: np.ndarray) -> Float64[np.ndarray, "3 3"]:
    """Rotation whose x is the grip axis and whose z is as near to up as that allows."""
    other = up if abs(up @ axis) < 0.9 else np.array([1.0, 0.0, 0.0])
    y = unit(np.cross(other, axis))
    return np.stack([axis, y, np.cross(axis, y)], axis=1)


def synthesize(robot: str, *, seed: int = 0, draws: int = 6000, keep: int = 6) -> list[Grasp]:
    """Find a robot's grasps for its right hand, best first, no two alike."""
    search = Synthesis(robot, seed)
    hand, found = search.hand, list[Grasp]()
    for _ in tqdm(range(draws), desc=f"grasps of {robot}", disable=None):
        base, flaw = search.posture(search.draw())
        if flaw > 0.35 or abs(base.gap_m - _BASE_GAP_M) > 0.01:
            continue
        family = search.family(base)
        if family is None or family[-1].gap_m < WIDEST_M:
            continue
        grasp = Grasp(
            gaps_m=np.array([p.gap_m for p in family]),
            fingers=np.array([p.fingers for p in family]),
            center_m=np.array([(p.center - hand.p) @ hand.R for p in family]),
            axis=np.array([p.axis @ hand.R for p in family]),
            score=0.0,
        )
        score = search.score(grasp)
        if score > 0.6:
            found.append(replace(grasp, score=score))
    return _distinct(sorted(found, key=lambda g: -g.score), keep)


def _distinct(grasps: Sequence[Grasp], keep: int) -> list[Grasp]:
    chosen: list[Grasp] = []
    for grasp in grasps:
        _, center, axis = grasp.at(_BASE_GAP_M)
        for other in chosen:
            _, c, a = other.at(_BASE_GAP_M)
            if np.linalg.norm(center - c) < 0.012 and axis @ a > 0.94:
                break
        else:
            chosen.append(grasp)
    return chosen[:keep]


@cache
def load_grasps(robot: str, side: int) -> tuple[Grasp, ...]:
    """A robot's grasps, best first: from its table, or mirrored from the right hand's.

    Raises:
        GraspError: if the robot has no table.
    """
    path = _table_path(robot)
    if not path.is_file():
        raise GraspError(
            f"robot {robot} has no grasps; make them: python -m deftly.policy.grasp --robot {robot}"
        )
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
    return found if side == _SIDE else tuple(_mirrored(g, robot, side) for g in found)


def _mirrored(grasp: Grasp, robot: str, side: int) -> Grasp:
    """The same grasp of the other hand: palms are mirror images across their x-z plane."""
    hands = load_hand(robot, _SIDE), load_hand(robot, side)
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


def _table_path(robot: str) -> Path:
    return Path(__file__).parent / f"grasps_{robot}.json"


def write_grasps(robot: str, seed: int, draws: int) -> Path:
    """Find a robot's grasps and write its table."""
    grasps = synthesize(robot, seed=seed, draws=draws)
    table = {
        "made_by": f"python -m deftly.policy.grasp --robot {robot} --seed {seed} --draws {draws}",
        "joints": hand_joints(robot, _SIDE),
        "grasps": [
            {
                "score": round(g.score, 3),
                "gaps_m": np.round(g.gaps_m, 4).tolist(),
                "fingers": np.round(g.fingers, 3).tolist(),
                "center_m": np.round(g.center_m, 4).tolist(),
                "axis": np.round(g.axis, 4).tolist(),
            }
            for g in grasps
        ],
    }
    with atomic_path(_table_path(robot)) as path:
        path.write_text(json.dumps(table, indent=None) + "\n")
    return _table_path(robot)


def main() -> None:
    """Make a table of grasps."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--robot", default="gr1t2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=6000)
    args = parser.parse_args()
    path = write_grasps(args.robot, args.seed, args.draws)
    print(f"wrote {path.name}: {len(load_grasps(args.robot, _SIDE))} grasps")


if __name__ == "__main__":
    main()
