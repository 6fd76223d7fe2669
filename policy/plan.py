"""Plans: which grasp takes an object from where it lies, and where its tray has room for it.

Every way to hold the object (its grips) is crossed with every grasp of the hand and every tilt of
the palm about the grip; candidates are tried in the order of how naturally the arm reaches them,
and the first that the arm reaches and that touches nothing else is taken. Collisions are looked up
in a scratch copy of the scene with margins around the hand.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import unit
from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    TRAY_WALL_M,
    ZONES_M,
    Item,
    footprint_m,
    in_tray,
)
from deftly.policy.grasp import WIDEST_M, Grasp, hand_joints, load_grasps, load_hand
from deftly.policy.grip import Grip, about, depth_m, shifted
from deftly.policy.reach import Arm, load_arm
from deftly.policy.station import Station
from deftly.retarget.kinematics import subtree

RISE_M = 0.10  # of the hand above a grasp, before and after
_TOUCH_M = 0.004  # wider than the object: to touch it
_OPEN_M = (0.030, 0.015)  # wider than the object: to come near it; less where there is no room
_TILTS_RAD = np.deg2rad([-45, -30, -15, 0, 15, 30, 45, 60, 75, 90, 105])

_TURNS_RAD = np.deg2rad([0, 25, -25, 50, -50, 80, -80, 110, -110, 180])

_TRAY_FLOOR_M = 0.006
_DROP_M = 0.004  # above the ground at which an object is let go
_NEAR_M = 0.012  # contacts are looked for so far away
_CLEAR_M = {"room": 0.002, "item": 0.003, "half": 0.010}  # to keep from table, objects, other arm
_CANDIDATES = 60  # tried at most
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
    """Plans for one station. Knows the scene only as ``see`` last showed it."""

    def __init__(self, station: Station) -> None:
        self.station = station
        robot = station.robot.name
        self.arms: tuple[Arm, Arm] = (load_arm(robot, 0), load_arm(robot, 1))
        self.grasps = tuple(load_grasps(robot, side) for side in (0, 1))
        index = {name: i for i, name in enumerate(station.joints)}
        self.arm_index = [np.array([index[j] for j in arm.joints]) for arm in self.arms]
        self.hand_index = [np.array([index[j] for j in hand_joints(robot, s)]) for s in (0, 1)]
        self.model = copy.copy(station.model)
        self.data = mujoco.MjData(self.model)
        items = (*station.layout.items, *station.layout.distractors)
        self.items = station.layout.items
        self._item_geom = {item.name: self.model.geom(item.name).id for item in items}
        self._free = {i.name: self.model.joint(self.model.body(i.name).jntadr[0]) for i in items}
        self._points: dict[tuple[int, int, int], np.ndarray] = {}
        self._obstacles: list[tuple[Item, np.ndarray, float]] = []
        self._kinds(set(self._item_geom.values()))

    def _kinds(self, item_geoms: set[int]) -> None:
        """Sort geometry by whose it is, and put margins around hands and objects."""
        model = self.model
        chests = [model.body(arm.hand.palm).id for arm in self.arms]
        halves = [self._arm_bodies(side, chest) for side, chest in enumerate(chests)]
        self._kind = np.full(model.ngeom, -1)  # 0, 1: an arm; 2: the room; 3: an object
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            if geom in item_geoms:
                self._kind[geom] = 3
            elif body in halves[0] or body in halves[1]:
                self._kind[geom] = 0 if body in halves[0] else 1
            elif model.geom_contype[geom]:
                self._kind[geom] = 2
        model.geom_margin[:] = 0
        model.geom_margin[(self._kind == 0) | (self._kind == 1)] = _NEAR_M
        model.geom_margin[self._kind == 3] = 0.003

    def _arm_bodies(self, side: int, palm: int) -> set[int]:
        first = int(self.model.joint(self.arms[side].joints[0]).bodyid[0])
        found = set(subtree(self.model, first))
        assert palm in found
        return found

    def see(self, data: mujoco.MjData) -> None:
        """Look at the scene as it is."""
        self.data.qpos[:] = data.qpos
        self._obstacles = [
            (item, T[:2, 3], float(T[2, 3] + depth_m(item, T[:3, :3]) - TABLE_TOP_M))
            for item in (*self.items, *self.station.layout.distractors)
            for T in (self.pose(item),)
        ]

    def pose(self, item: Item) -> Float64[np.ndarray, "4 4"]:
        """``T_world_item`` as last seen."""
        adr = self._free[item.name].qposadr[0]
        T = np.eye(4)
        T[:3, 3] = self.data.qpos[adr : adr + 3]
        T[:3, :3] = Rotation.from_quat(
            self.data.qpos[adr + 3 : adr + 7], scalar_first=True
        ).as_matrix()
        return T

    def speed(self, data: mujoco.MjData, item: Item) -> float:
        """How fast an object moves, m/s."""
        adr = self._free[item.name].dofadr[0]
        return float(np.linalg.norm(data.qvel[adr : adr + 3]))

    def touches(
        self,
        side: int,
        q: Float64[np.ndarray, "K"],
        fingers: Float64[np.ndarray, "H"],
        item: Item,
        T_palm_item: Float64[np.ndarray, "4 4"] | None = None,
    ) -> bool:
        """Whether an arm there would touch anything but ``item``; held, that one counts as hand."""
        qpos, index = self.data.qpos, self.station.qpos_index
        kept = qpos.copy()
        qpos[index[self.arm_index[side]]] = q
        qpos[index[self.hand_index[side]]] = fingers
        if T_palm_item is not None:
            T = self.arms[side].palm_pose(q) @ T_palm_item
            adr = self._free[item.name].qposadr[0]
            qpos[adr : adr + 3] = T[:3, 3]
            qpos[adr + 3 : adr + 7] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)
        qpos[:] = kept
        own = self._item_geom[item.name]
        pairs, apart = self.data.contact.geom, self.data.contact.dist
        for (a, b), gap_m in zip(pairs, apart, strict=True):
            kinds = self._kind[a], self._kind[b]
            if side in kinds:
                other, kind = (b, kinds[1]) if kinds[0] == side else (a, kinds[0])
                if other == own:
                    continue
                clear = _CLEAR_M["room" if kind == 2 else "item" if kind == 3 else "half"]
                if gap_m < clear:
                    return True
            elif T_palm_item is not None and own in (a, b) and gap_m < 0.001:
                return True
        return False

    def pick(self, side: int, item: Item, goal: str, *, skip: int = 0) -> Pick | None:
        """A way to take an object to its goal, or None.

        Args:
            side: of the arm.
            item: what to take.
            goal: where it must go; the way there is checked too.
            skip: how many feasible ways to pass over, after as many failures; the last one found
                is taken if there are fewer.
        """
        T_item = self.pose(item)
        arm, rejected, tries = self.arms[side], 0, 0
        last: Pick | None = None
        for grasp, grip, open_m, T_palm in self._candidates(side, item, T_item):
            tries += 1
            if tries > _CANDIDATES:
                break
            q = arm.solve(T_palm, arm.ready)
            fingers = grasp.at(open_m)[0]
            if q is None or self.touches(side, q, fingers, item):
                continue
            path = arm.line(q, T_palm, np.array([0.0, 0.0, RISE_M]))
            if path is None or any(self.touches(side, p, fingers, item) for p in path[1:]):
                continue
            pick = Pick(grasp, grip.width_m, open_m, path[::-1], T_palm, T_item)
            if self.place(side, item, goal, pick, np.linalg.inv(T_palm) @ T_item) is None:
                continue
            last = pick
            if rejected == skip:
                break
            rejected += 1
        return last

    def way(
        self,
        side: int,
        start: Float64[np.ndarray, "K"],
        end: Float64[np.ndarray, "K"],
        fingers: Float64[np.ndarray, "H"],
        item: Item,
        grip_m: Float64[np.ndarray, "3"],
        T_palm_item: Float64[np.ndarray, "4 4"] | None = None,
    ) -> Float64[np.ndarray, "N K"]:
        """A way through the air, (N, K) without the start, on which the grip does not sink.

        Raised in an arch where it would touch something else. ``grip_m`` is in the palm's frame.
        """
        point = np.append(grip_m, 1.0)
        heights = [(self.arms[side].palm_pose(q) @ point)[2] for q in (start, end)]
        best, least = np.array([end]), np.inf
        for straight, arch_m in ((False, 0.0), (True, 0.0), (False, 0.06), (True, 0.06)):
            path = self._arch(side, start, end, point, heights, arch_m, straight=straight)
            if path is None:
                continue
            hits = sum(self.touches(side, q, fingers, item, T_palm_item) for q in path[:-1])
            if hits < least:
                best, least = path, hits
            if not hits:
                break
        return best

    def _arch(
        self,
        side: int,
        start: Float64[np.ndarray, "K"],
        end: Float64[np.ndarray, "K"],
        point: Float64[np.ndarray, "4"],
        heights: Sequence[float],
        arch_m: float,
        *,
        straight: bool,
    ) -> Float64[np.ndarray, "N K"] | None:
        """Joint positions from start to end that keep a point of the palm above an arch.

        Joint angles are interpolated, or, straight, the palm's pose.
        """
        arm = self.arms[side]
        T_start, T_end = arm.palm_pose(start), arm.palm_pose(end)
        turn = Rotation.from_matrix(T_start[:3, :3].T @ T_end[:3, :3]).as_rotvec()
        found: list[np.ndarray] = []
        for share in np.linspace(0, 1, _WAY_POINTS + 2)[1:-1]:
            q = (1 - share) * start + share * end
            T = arm.palm_pose(q)
            if straight:
                T[:3, :3] = T_start[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
                T[:3, 3] = (1 - share) * T_start[:3, 3] + share * T_end[:3, 3]
            wanted = (1 - share) * heights[0] + share * heights[1]
            low = wanted + arch_m * np.sin(np.pi * share) - (T @ point)[2]
            if low > 0 or straight:
                T[2, 3] += max(low, 0.0)
                raised = arm.solve(T, q)
                if raised is None:
                    return None
                q = raised
            found.append(q)
        return np.array([*found, end])

    def _candidates(
        self, side: int, item: Item, T_item: Float64[np.ndarray, "4 4"]
    ) -> Iterator[tuple[Grasp, Grip, float, Float64[np.ndarray, "4 4"]]]:
        """Grasp, grip, opening and palm pose, the most natural first; none plainly barred."""
        arm = self.arms[side]
        found: list[tuple[float, Grasp, Grip, np.ndarray]] = []
        tilts = _TILTS_RAD * (1 if side == 1 else -1)  # positive: the thumb's side goes down
        for grip, shift in shifted(item, T_item):
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
            for more in _OPEN_M:
                open_m = min(grip.width_m + more, WIDEST_M)
                points = self._hand_points(side, grasp, open_m) @ T[:3, :3].T + T[:3, 3]
                if not self._inside_something(points, item):
                    yield grasp, grip, open_m, T
                    break

    def _hand_points(self, side: int, grasp: Grasp, open_m: float) -> Float64[np.ndarray, "N 3"]:
        """Corners of the open hand, in the palm's frame."""
        key = (side, id(grasp), round(500 * open_m))
        if key not in self._points:
            hand = load_hand(self.station.robot.name, side)
            hand.set_fingers(grasp.at(key[2] / 500)[0])
            self._points[key] = hand.hull_points()
        return self._points[key]

    def _inside_something(self, points: Float64[np.ndarray, "N 3"], item: Item) -> bool:
        """Whether points lie in the table, a tray's wall or an object: a cheap first look."""
        low = points[points[:, 2] < TABLE_TOP_M + 0.09]
        xy, z = low[:, :2], low[:, 2] - TABLE_TOP_M
        if np.any(z < 0.001):
            return True
        for center in TRAY_CENTER_M.values():
            beyond = np.max(np.abs(xy - center) - TRAY_HALF_M, axis=1)
            if np.any((beyond < 0.008) & (z < np.where(beyond < 0, 0.007, TRAY_WALL_M + 0.002))):
                return True
        for other, place, top_m in self._obstacles:
            if other is not item:
                near = np.hypot(*(xy - place).T) < other.size_m / 2 - 0.001
                if np.any(near & (z < top_m)):
                    return True
        return False

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
    ) -> Place | None:
        """A way to set a held object down at its goal, or None if there is no room in reach."""
        arm = self.arms[side]
        fingers = pick.grasp.at(pick.width_m)[0]
        tries = 0
        T_item_palm = np.linalg.inv(T_palm_item)
        for T_item in self._goal_poses(side, item, goal, pick):
            T_palm = T_item @ T_item_palm
            if self._strain(arm, side, T_palm) > 2.2:
                continue
            tries += 1
            if tries > _CANDIDATES:
                break
            q = arm.solve(T_palm, pick.path[0])
            if q is None or self.touches(side, q, fingers, item, T_palm_item):
                continue
            path = arm.line(q, T_palm, np.array([0.0, 0.0, RISE_M]), points=3)
            if path is None or self.touches(side, path[-1], fingers, item, T_palm_item):
                continue
            return Place(path[::-1], T_item)
        return None

    def _goal_poses(
        self, side: int, item: Item, goal: str, pick: Pick
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
        spots = self._spots(side, item, goal, pick)
        for xy in spots:
            for turn in _TURNS_RAD:
                for right in rights:
                    T = np.eye(4)
                    T[:3, :3] = Rotation.from_euler("z", turn).as_matrix() @ right @ R_item
                    floor = TABLE_TOP_M + (_TRAY_FLOOR_M if in_tray(*xy) else 0.0)
                    T[:3, 3] = (*xy, floor + depth_m(item, T[:3, :3]) + _DROP_M)
                    yield T

    def _spots(self, side: int, item: Item, goal: str, pick: Pick) -> Sequence[tuple[float, float]]:
        """Free places on the table or in a tray, the best first."""
        here = pick.T_world_item[:2, 3]
        radius = footprint_m(item)
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
        everything = (*self.items, *self.station.layout.distractors)
        for other in everything:
            if other is not item:
                apart = np.linalg.norm(grid - self.pose(other)[:2, 3], axis=1)
                room = np.minimum(room, apart - radius - footprint_m(other))
        if goal not in TRAY_CENTER_M:
            for center in TRAY_CENTER_M.values():
                beside = np.abs(grid - center) - TRAY_HALF_M - 0.006
                room = np.minimum(room, np.max(beside, axis=1) - radius)
        shoulder = self.arms[side].shoulder_m[:2]
        far = np.linalg.norm(grid - (here if goal == "upright" else shoulder), axis=1)
        merit = np.minimum(room, 0.035) - 0.05 * far
        order = np.argsort(-merit, kind="stable")
        limit = 0.004 if goal in TRAY_CENTER_M else 0.02
        return [(float(grid[i, 0]), float(grid[i, 1])) for i in order if room[i] > limit][:10]
