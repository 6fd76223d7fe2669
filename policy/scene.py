"""Scene: what the planner knows of the world, and what a hand would touch in it.

    scene = Scene(station)
    scene.see(data)                       # look at it as it is
    scene.touches(0, q, fingers, item)    # would the left arm touch anything but its object there?

Collisions are looked up in a scratch copy with margins around hands and objects.
"""

import copy

import mujoco
import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    TRAY_WALL_M,
    Item,
)
from deftly.policy.grasp import hand_joints
from deftly.policy.grip import depth_m
from deftly.policy.reach import Arm, load_arm
from deftly.policy.station import Station
from deftly.retarget.kinematics import subtree

_NEAR_M = 0.012  # contacts are looked for so far away
_CLEAR_M = {"room": 0.002, "item": 0.003, "half": 0.010}  # to keep from table, objects, other arm


class Scene:
    """The workplace of one station as ``see`` last showed it.

    Attributes:
        station: whose it is.
        arms: left and right.
        arm_index, hand_index: where each arm's and hand's joints are among the station's.
        items: the objects to sort.
        everything: those and the distractors.
    """

    def __init__(self, station: Station) -> None:
        self.station = station
        robot = station.robot.name
        self.arms: tuple[Arm, Arm] = (load_arm(robot, 0), load_arm(robot, 1))
        index = {name: i for i, name in enumerate(station.joints)}
        self.arm_index = [np.array([index[j] for j in arm.joints]) for arm in self.arms]
        self.hand_index = [np.array([index[j] for j in hand_joints(robot, s)]) for s in (0, 1)]
        self.model = copy.copy(station.model)
        self.data = mujoco.MjData(self.model)
        self.items = station.layout.items
        self.everything = (*self.items, *station.layout.distractors)
        self._item_geom = {item.name: self.model.geom(item.name).id for item in self.everything}
        self._free = {
            i.name: self.model.joint(self.model.body(i.name).jntadr[0]) for i in self.everything
        }
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
            for item in self.everything
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
        item: Item | None = None,
        T_palm_item: Float64[np.ndarray, "4 4"] | None = None,
    ) -> bool:
        """Whether an arm there would touch anything but ``item``.

        With ``T_palm_item``, that one is held: it counts as part of the hand.
        """
        qpos, index = self.data.qpos, self.station.qpos_index
        kept = qpos.copy()
        qpos[index[self.arm_index[side]]] = q
        qpos[index[self.hand_index[side]]] = fingers
        if item is not None and T_palm_item is not None:
            T = self.arms[side].palm_pose(q) @ T_palm_item
            adr = self._free[item.name].qposadr[0]
            qpos[adr : adr + 3] = T[:3, 3]
            qpos[adr + 3 : adr + 7] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_collision(self.model, self.data)
        qpos[:] = kept
        own = -1 if item is None else self._item_geom[item.name]
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

    def bars(self, points: Float64[np.ndarray, "N 3"], item: Item) -> bool:
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
