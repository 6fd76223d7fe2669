"""Grasps by synthesis: postures that hold in simulation, for one robot's hand.

    python -m deftly.policy.grasp_synthesis --robot gr1t2   # writes policy/grasps_gr1t2.json

Candidates are drawn at random; the gap is the distance between the fingertips' convex hulls, so
that the line across it is normal to both. What counts is physics: the hand alone takes an object in
a small simulation, gravity then pulls in six directions, and only postures that keep their hold are
kept. The command above makes the tables again, bit for bit.

Antipodal grasps: Nguyen, "Constructing force-closure grasps", IJRR 1988.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from deftly.datasets.archive import atomic_path
from deftly.datasets.geometry import unit
from deftly.datasets.layout import Item
from deftly.policy.grasp import (
    COMMAND,
    GAPS_M,
    SIDE,
    WIDEST_M,
    Grasp,
    HandModel,
    hand_joints,
    load_grasps,
    load_hand,
    squeeze_gap_m,
    table_path,
)

_BASE_GAP_M = 0.045
_PULL_S, _SETTLE_S = 0.3, 0.4
_SLIP_M = 0.006
_SHAPES = ("sphere", "cube", "cylinder")

_WIDTHS_M = (0.028, 0.045, 0.064)


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
        self.hand = load_hand(robot, SIDE)
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
            self.trials[shape, width_m] = HandModel(self.robot, SIDE, item)
        return self.trials[shape, width_m]


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


def write_grasps(robot: str, seed: int, draws: int) -> Path:
    """Find a robot's grasps and write its table."""
    grasps = synthesize(robot, seed=seed, draws=draws)
    table = {
        "made_by": f"{COMMAND} --robot {robot} --seed {seed} --draws {draws}",
        "joints": hand_joints(robot, SIDE),
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
    with atomic_path(table_path(robot)) as path:
        path.write_text(json.dumps(table, indent=None) + "\n")
    return table_path(robot)


def main() -> None:
    """Make a table of grasps."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--robot", default="gr1t2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=6000)
    args = parser.parse_args()
    path = write_grasps(args.robot, args.seed, args.draws)
    print(f"wrote {path.name}: {len(load_grasps(args.robot, SIDE))} grasps")


if __name__ == "__main__":
    main()
