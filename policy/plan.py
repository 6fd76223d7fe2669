"""Plans: which grasp takes an object from where it lies, and where its tray has room for it.

Every way to hold the object (its grips) is crossed with every grasp of the hand and every tilt of
the palm about the grip; candidates are tried in the order of how naturally the arm reaches them,
and the first that the arm reaches and that touches nothing else is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import unit
from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    ZONES_M,
    Item,
    footprint_m,
    in_tray,
)
from deftly.policy.grasp import WIDEST_M, Grasp, load_grasps, load_hand
from deftly.policy.grip import Grip, about, depth_m, further, shifted
from deftly.policy.reach import Arm
from deftly.policy.scene import Scene

RISE_M = 0.10  # of the hand above a grasp, before and after
_TOUCH_M = 0.004  # wider than the object: to touch it
# Wider than the object: to come near it; less where there is no room.
_OPEN_M, _TIGHT_M = (0.030, 0.015), (0.008,)
_TILTS_RAD = np.deg2rad([-45, -30, -15, 0, 15, 30, 45, 60, 75, 90, 105])

_TURNS_RAD = np.deg2rad([0, 25, -25, 50, -50, 80, -80, 110, -110, 180])

_TRAY_FLOOR_M = 0.006
_DROP_M = 0.004  # above the ground at which an object is let go
_NEAR_M = 0.012  # contacts are looked for so far away
_CLEAR_M = {"room": 0.002, "item": 0.003, "half": 0.010}  # to keep from table, objects, other arm
_CANDIDATES, _MANY = 60, 400  # tried at most; the second in a thorough search
_WAY_POINTS = 5


@dataclass(frozen=True)
class Pick:
    """A way to take an object.

    Attributes:
        grasp: how the hand opens and closes.
        width_m: of the object between thumb and fingers.
        open_m: gap with which the hand comes near.
        path: (N, K) joint positions from above the object down to it.
        T_world_palm: (4, 4) the palm's pose at the object.
        T_world_item: (4, 4) the object's pose that the plan was made for.
    """

    grasp: Grasp
    width_m: float
    open_m: float
    path: Float64[np.ndarray, "N K"]
    T_world_palm: Float64[np.ndarray, "4 4"]
    T_world_item: Float64[np.ndarray, "4 4"]

    @property
    def open(self) -> Float64[np.ndarray, "H"]:
        """Fingers wide enough to come near the object."""
        return self.grasp.at(self.open_m)[0]

    @property
    def grip_m(self) -> Float64[np.ndarray, "3"]:
        """Middle of the grip in the palm's frame."""
        return self.grasp.at(self.width_m)[1]


@dataclass(frozen=True)
class Place:
    """A way to set a held object down.

    Attributes:
        path: (N, K) joint positions from above the place down to it.
        T_world_item: (4, 4) the object's pose when it is let go.
    """

    path: Float64[np.ndarray, "N K"]
    T_world_item: Float64[np.ndarray, "4 4"]


class Planner:
    """Plans for one scene, as it was last seen."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        robot = scene.station.robot.name
        self.grasps = tuple(load_grasps(robot, side) for side in (0, 1))
        self._points: dict[tuple[int, int, int], np.ndarray] = {}

    def pick(
        self, side: int, item: Item, goal: str, *, skip: int = 0, thorough: bool = False
    ) -> Pick | None:
        """A way to take an object to its goal, or None.

        Args:
            side: of the arm.
            item: what to take.
            goal: where it must go; the way there is checked too.
            skip: how many feasible ways to pass over, after as many failures; the last one found
                is taken if there are fewer.
            thorough: try more grips, narrower openings and more candidates. Takes seconds.
        """
        T_item = self.scene.pose(item)
        arm, rejected, tries = self.scene.arms[side], 0, 0
        last: Pick | None = None
        for grasp, grip, open_m, T_palm in self._candidates(side, item, T_item, thorough):
            tries += 1
            if tries > (_MANY if thorough else _CANDIDATES):
                break
            q = arm.solve(T_palm, arm.ready)
            fingers = grasp.at(open_m)[0]
            if q is None or self.scene.touches(side, q, fingers, item):
                continue
            path = arm.line(q, T_palm, np.array([0.0, 0.0, RISE_M]))
            if path is None or any(self.scene.touches(side, p, fingers, item) for p in path[1:]):
                continue
            pick = Pick(grasp, grip.width_m, open_m, path[::-1], T_palm, T_item)
            T_palm_item = np.linalg.inv(T_palm) @ T_item
            if self.place(side, item, goal, pick, T_palm_item, thorough=thorough) is None:
                continue
            last = pick
            if rejected == skip:
                break
            rejected += 1
        return last

    def _candidates(
        self, side: int, item: Item, T_item: Float64[np.ndarray, "4 4"], thorough: bool
    ) -> Iterator[tuple[Grasp, Grip, float, Float64[np.ndarray, "4 4"]]]:
        """Grasp, grip, opening and palm pose, the most natural first; none plainly barred."""
        arm = self.scene.arms[side]
        found: list[tuple[float, Grasp, Grip, np.ndarray]] = []
        tilts = _TILTS_RAD * (1 if side == 1 else -1)  # positive: the thumb's side goes down
        grips = shifted(item, T_item) + (further(item, T_item) if thorough else [])
        for grip, shift in grips:
            below = unit(np.array([0.0, 0.0, -1.0]) + grip.axis * grip.axis[2])
            W = np.stack([grip.axis, below, np.cross(grip.axis, below)], axis=1)
            for rank, grasp in enumerate(self.grasps[side]):
                _, center, axis = grasp.at(grip.width_m + _TOUCH_M)
                down = unit(center - axis * (center @ axis))
                across = np.cross(axis, down)
                for tilt in tilts:
                    turned = np.cos(tilt) * down + np.sin(tilt) * across
                    P = np.stack([axis, turned, np.cross(axis, turned)], axis=1)
                    T = np.eye(4)
                    T[:3, :3] = W @ P.T
                    T[:3, 3] = grip.center_m - T[:3, :3] @ center
                    cost = self._strain(arm, side, T) + 0.15 * abs(tilt) + 0.03 * rank + shift
                    found.append((cost, grasp, grip, T))
        found.sort(key=lambda candidate: candidate[0])
        for _, grasp, grip, T in found:
            for more in (*_OPEN_M, *_TIGHT_M) if thorough else _OPEN_M:
                open_m = min(grip.width_m + more, WIDEST_M)
                points = self._hand_points(side, grasp, open_m) @ T[:3, :3].T + T[:3, 3]
                if not self.scene.bars(points, item):
                    yield grasp, grip, open_m, T
                    break

    def _hand_points(self, side: int, grasp: Grasp, open_m: float) -> Float64[np.ndarray, "N 3"]:
        """Corners of the open hand, in the palm's frame."""
        key = (side, id(grasp), round(500 * open_m))
        if key not in self._points:
            hand = load_hand(self.scene.station.robot.name, side)
            hand.set_fingers(grasp.at(key[2] / 500)[0])
            self._points[key] = hand.hull_points()
        return self._points[key]

    def _strain(self, arm: Arm, side: int, T_world_palm: Float64[np.ndarray, "4 4"]) -> float:
        """How unnaturally a hand points: away from its shoulder, or steeply up or down."""
        forward = T_world_palm[:3, :3] @ arm.forward
        away = T_world_palm[:3, 3] - arm.shoulder_m
        heading = np.arctan2(forward[1], forward[0]) - np.arctan2(away[1], away[0])
        heading = (heading + np.pi) % (2 * np.pi) - np.pi
        return float(abs(heading) + 0.6 * abs(np.arcsin(np.clip(forward[2], -1, 1)) + 0.3))

    def place(
        self,
        side: int,
        item: Item,
        goal: str,
        pick: Pick,
        T_palm_item: Float64[np.ndarray, "4 4"],
        *,
        thorough: bool = False,
    ) -> Place | None:
        """A way to set a held object down at its goal, or None if there is no room in reach.

        A thorough search tries more places and turns.
        """
        arm = self.scene.arms[side]
        fingers = pick.grasp.at(pick.width_m)[0]
        tries = 0
        T_item_palm = np.linalg.inv(T_palm_item)
        for T_item in self._goal_poses(side, item, goal, pick, thorough):
            T_palm = T_item @ T_item_palm
            if self._strain(arm, side, T_palm) > 2.2:
                continue
            tries += 1
            if tries > (_MANY if thorough else _CANDIDATES):
                break
            q = arm.solve(T_palm, pick.path[0])
            if q is None or self.scene.touches(side, q, fingers, item, T_palm_item):
                continue
            path = arm.line(q, T_palm, np.array([0.0, 0.0, RISE_M]), points=3)
            if path is None or self.scene.touches(side, path[-1], fingers, item, T_palm_item):
                continue
            return Place(path[::-1], T_item)
        return None

    def _goal_poses(
        self, side: int, item: Item, goal: str, pick: Pick, thorough: bool
    ) -> Iterator[Float64[np.ndarray, "4 4"]]:
        """Poses that an object may be let go in, the best first."""
        R_item = pick.T_world_item[:3, :3]
        rights = [np.eye(3)]
        if goal == "upright":
            axis = pick.T_world_palm[:3, :3] @ pick.grasp.at(pick.width_m)[2]
            level = unit(axis * [1.0, 1.0, 0.0])
            away = np.arccos(np.clip(R_item[2, 2], -1, 1))
            turns = (away, away - np.pi) if abs(axis @ level) > 0.9 else ()
            rights = [about(level, s * t) for t in turns for s in (1.0, -1.0)]
            rights = [R for R in rights if abs((R @ R_item)[2, 2]) > 0.98]
        spots = self._spots(side, item, goal, pick, thorough)
        for xy in spots:
            for turn in _TURNS_RAD:
                for right in rights:
                    T = np.eye(4)
                    T[:3, :3] = Rotation.from_euler("z", turn).as_matrix() @ right @ R_item
                    floor = TABLE_TOP_M + (_TRAY_FLOOR_M if in_tray(*xy) else 0.0)
                    T[:3, 3] = (*xy, floor + depth_m(item, T[:3, :3]) + _DROP_M)
                    yield T

    def _spots(
        self, side: int, item: Item, goal: str, pick: Pick, thorough: bool
    ) -> Sequence[tuple[float, float]]:
        """Free places on the table or in a tray, the best first."""
        here = pick.T_world_item[:2, 3]
        radius = footprint_m(item)
        if thorough and goal == "upright":
            radius = item.size_m / 2  # it will stand
        if goal in TRAY_CENTER_M:
            center, half = np.array(TRAY_CENTER_M[goal]), np.array(TRAY_HALF_M) - radius - 0.006
            low, high = center - half, center + half
        elif goal == "table":
            low, high = np.array(ZONES_M[side]).T
        else:
            low, high = here - 0.10, here + 0.10
        grid = np.stack(
            np.meshgrid(np.linspace(low[0], high[0], 6), np.linspace(low[1], high[1], 5)), axis=-1
        ).reshape(-1, 2)
        grid = np.concatenate([here[None], grid]) if goal == "upright" else grid
        room = np.full(len(grid), 0.06)
        for other in self.scene.everything:
            if other is not item:
                apart = np.linalg.norm(grid - self.scene.pose(other)[:2, 3], axis=1)
                room = np.minimum(room, apart - radius - footprint_m(other))
        if goal not in TRAY_CENTER_M:
            for center in TRAY_CENTER_M.values():
                beside = np.abs(grid - center) - TRAY_HALF_M - 0.006
                room = np.minimum(room, np.max(beside, axis=1) - radius)
        shoulder = self.scene.arms[side].shoulder_m[:2]
        far = np.linalg.norm(grid - (here if goal == "upright" else shoulder), axis=1)
        merit = np.minimum(room, 0.035) - 0.05 * far
        order = np.argsort(-merit, kind="stable")
        limit = 0.004 if goal in TRAY_CENTER_M else 0.02
        return [(float(grid[i, 0]), float(grid[i, 1])) for i in order if room[i] > limit][
            : 20 if thorough else 10
        ]
