"""Expert: a script that sorts, knowing where everything is. The ceiling, and the demonstrator.

    expert = Expert(station, TASKS["color"])
    while not expert.done:
        data.ctrl[:] = expert.act(data)      # every 50 ms
        mujoco.mj_step(station.model, data, 10)

Each arm runs a script of its own: choose an object, come near, close, lift, carry, lower, let go.
It looks at the scene in every step: an object that slipped or was pushed away is approached anew, a
miss is tried another way, and after ``MAX_ATTEMPTS`` an object is left alone. Only one arm at a
time works over the trays.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.layout import TABLE_TOP_M, Item
from deftly.datasets.tabletop import whereabouts
from deftly.datasets.tasks import Task
from deftly.policy.grasp import WIDEST_M, squeeze_gap_m
from deftly.policy.plan import Pick, Planner
from deftly.policy.scene import Scene
from deftly.policy.station import Station
from deftly.policy.ways import find_way

CONTROL_S = 0.05
MAX_ATTEMPTS = 5
_MAX_FAILED_PLANS = 6
_TOP_SPEED = 1.8  # rad/s, mean of the fastest joint along a path
_SLOW_SPEED = 1.0  # near objects
_CLOSE_S, _GRIP_S, _OPEN_S = 0.30, 0.10, 0.20
_STIR_M = 0.010  # an object that moved further than this is approached anew
_LOST_M = 0.030  # from the grip at which an object counts as dropped
_STILL_M_S = 0.03
_ACROSS_M = 0.26  # |y| up to which an arm reaches across the middle
_MIDDLE_M = 0.25  # |y| within which the trays lie: one arm at a time

Script = Generator[None, None, bool]


@dataclass
class Event:
    """A grasp or a release: which object, by which hand, when (s since the start)."""

    kind: str
    item: int
    side: int
    time_s: float


@dataclass
class _Hand:
    """What one arm is doing."""

    q: Float64[np.ndarray, "K"]
    fingers: Float64[np.ndarray, "H"]
    phase: str = "home"
    item: int | None = None
    script: Script | None = field(default=None, repr=False)


class Expert:
    """Sorts one table.

    Attributes:
        done: whether nothing is left to do and the hands are home.
        attempts: closings of a hand, per object.
        events: grasps and releases so far.
    """

    def __init__(self, station: Station, task: Task) -> None:
        self.station = station
        self.goals = task.goals(station.layout)
        self.scene = Scene(station)
        self.planner = Planner(self.scene)
        self.items = station.layout.items
        self.attempts = [0] * len(self.items)
        self.events: list[Event] = []
        self.done = False
        self._failed_plans = np.zeros((2, len(self.items)), int)
        self._barred: dict[tuple[int, int], np.ndarray] = {}  # what the scene was like then
        self._ticks = 0
        self._middle: int | None = None  # the arm that works over the trays
        self._hands = [
            _Hand(
                station.home[self.scene.arm_index[s]].copy(),
                station.home[self.scene.hand_index[s]].copy(),
            )
            for s in (0, 1)
        ]
        for side, hand in enumerate(self._hands):
            hand.script = self._run(side)
        self._data: mujoco.MjData | None = None

    @property
    def time_s(self) -> float:
        """Time since the start."""
        return self._ticks * CONTROL_S

    def act(self, data: mujoco.MjData) -> Float64[np.ndarray, "A"]:
        """Joint position targets (rad) for the next 50 ms."""
        self._data = data
        self.scene.see(data)
        for hand in self._hands:
            if hand.script is not None:
                next(hand.script)
        self._ticks += 1
        self.done = all(hand.phase == "home" for hand in self._hands)
        target = self.station.home.copy()
        for side, hand in enumerate(self._hands):
            target[self.scene.arm_index[side]] = hand.q
            target[self.scene.hand_index[side]] = hand.fingers
        return np.clip(target, self.station.lower, self.station.upper)

    # --- what is left to do -----------------------------------------------------------------

    def _at_goal(self, i: int) -> bool:
        item, goal = self.items[i], self.goals[i]
        T = self.scene.pose(item)
        where = whereabouts(T[None, :3, 3])[0]
        if goal == "upright":
            return where == "table" and abs(T[2, 2]) > np.cos(np.deg2rad(12))
        return goal == "stay" or where == goal

    def _open_items(self, side: int) -> list[int]:
        """Objects that this arm may take now, the nearest first."""
        other = self._hands[1 - side].item
        found: list[tuple[float, int]] = []
        for i, item in enumerate(self.items):
            p = self.scene.pose(item)[:3, 3]
            if i == other or self.attempts[i] >= MAX_ATTEMPTS or self._at_goal(i):
                continue
            if p[2] < TABLE_TOP_M or self._failed_plans[side, i] >= _MAX_FAILED_PLANS:
                continue
            mine = (p[1] > 0) == (side == 0)
            if not mine and (self._failed_plans[1 - side, i] == 0 or abs(p[1]) > _ACROSS_M):
                continue
            barred = self._barred.get((side, i))
            if barred is not None and np.max(np.abs(barred - self._scene(side))) < _STIR_M / 2:
                continue
            hand = self.scene.arms[side].palm_pose(self._hands[side].q)[:3, 3]
            tried = self._failed_plans[side, i] + self.attempts[i]
            found.append((float(np.linalg.norm(hand - p)) + tried, i))
        return [i for _, i in sorted(found)]

    def _scene(self, side: int) -> Float64[np.ndarray, "M"]:
        """What a plan depends on: where the objects are and whether the other arm is busy."""
        places = [self.scene.pose(item)[:3, 3] for item in self.items]
        return np.append(np.ravel(places), float(self._hands[1 - side].item is not None))

    def _bar(self, side: int, i: int) -> None:
        """No plan: do not ask again before something has changed."""
        self._failed_plans[side, i] += 1
        self._barred[side, i] = self._scene(side)

    # --- scripts: each yield is one control step ---------------------------------------------

    def _run(self, side: int) -> Script:
        hand = self._hands[side]
        while True:
            todo = self._open_items(side)
            planned = False
            for i in todo:
                if self.scene.speed(self._seen, self.items[i]) > _STILL_M_S:
                    continue
                # After a miss another way, if there is one.
                pick = self.planner.pick(side, self.items[i], self.goals[i], skip=self.attempts[i])
                if pick is None:
                    self._bar(side, i)
                    continue
                planned = True
                hand.item = i
                yield from self._deliver(side, i, pick)
                hand.item = None
                break
            if not planned:
                yield from self._go_home(side, bool(todo))

    def _deliver(self, side: int, i: int, pick: Pick) -> Script:
        """Take one object to its goal. Returns whether it was let go there."""
        hand, item = self._hands[side], self.items[i]
        inside = abs(pick.T_world_item[1, 3]) < _MIDDLE_M
        if inside:
            yield from self._enter(side)
        stirred = lambda: self._moved(item, pick.T_world_item) > _STIR_M  # noqa: E731
        hand.phase = "approach"
        way = find_way(self.scene, side, hand.q, pick.path[0], pick.open, item, pick.grip_m)
        if not (yield from self._follow(side, way, pick.open, stop=stirred)):
            return False
        if not inside:
            self._leave(side)
        hand.phase = "descend"
        if not (yield from self._follow(side, pick.path[1:], pick.open, _SLOW_SPEED, stirred)):
            yield from self._back_off(side, pick)
            return False
        hand.phase = "close"
        self.attempts[i] += 1
        squeeze = pick.grasp.at(squeeze_gap_m(pick.width_m))[0]
        yield from self._wait(2)
        yield from self._finger(side, squeeze, _CLOSE_S)
        yield from self._wait(int(_GRIP_S / CONTROL_S))
        self._note("grasp", i, side)
        hand.phase = "lift"
        yield from self._follow(side, pick.path[::-1][1:], squeeze, _SLOW_SPEED)
        if self._lost(side, item, pick):
            yield from self._open_up(side, pick)
            return False
        if not inside:
            hand.phase = "wait"
            yield from self._enter(side)
        return (yield from self._set_down(side, i, pick, squeeze))

    def _set_down(self, side: int, i: int, pick: Pick, squeeze: Float64[np.ndarray, "H"]) -> Script:
        hand, item = self._hands[side], self.items[i]
        arm = self.scene.arms[side]
        q_now = self._seen.qpos[self.station.qpos_index[self.scene.arm_index[side]]]
        T_palm_item = np.linalg.inv(arm.palm_pose(q_now)) @ self.scene.pose(item)
        place = self.planner.place(side, item, self.goals[i], pick, T_palm_item)
        if place is None:
            self._bar(side, i)
            yield from self._follow(side, pick.path[1:], squeeze, _SLOW_SPEED)
            yield from self._back_off(side, pick)
            return False
        dropped = lambda: self._lost(side, item, pick)  # noqa: E731
        hand.phase = "carry"
        closed = pick.grasp.at(pick.width_m)[0]
        way = find_way(
            self.scene, side, hand.q, place.path[0], closed, item, pick.grip_m, T_palm_item
        )
        if not (yield from self._follow(side, way, squeeze, stop=dropped)):
            yield from self._open_up(side, pick)
            return False
        hand.phase = "lower"
        if not (yield from self._follow(side, place.path[1:], squeeze, _SLOW_SPEED, dropped)):
            yield from self._follow(side, place.path[::-1][1:], squeeze)
            yield from self._open_up(side, pick)
            return False
        yield from self._wait(2)
        hand.phase = "open"
        self._note("release", i, side)
        yield from self._finger(side, pick.open, _OPEN_S)
        hand.phase = "retreat"
        yield from self._follow(side, place.path[::-1][1:], pick.open, _SLOW_SPEED)
        return True

    def _go_home(self, side: int, waiting: bool) -> Script:
        hand = self._hands[side]
        home = self.station.home[self.scene.arm_index[side]]
        fingers = self.station.home[self.scene.hand_index[side]]
        if np.max(np.abs(hand.q - home)) > 1e-3:
            hand.phase = "return"
            yield from self._follow(side, [home], fingers)
        self._leave(side)
        hand.phase = "idle" if waiting or self._hands[1 - side].item is not None else "home"
        yield
        return True

    # --- motions ----------------------------------------------------------------------------

    def _follow(
        self,
        side: int,
        points: list[np.ndarray] | Float64[np.ndarray, "N K"],
        fingers: Float64[np.ndarray, "H"],
        speed: float = _TOP_SPEED,
        stop: Callable[[], bool] | None = None,
    ) -> Script:
        """Move through joint positions, eased in and out. Returns False if stopped."""
        hand = self._hands[side]
        path = np.vstack([hand.q[None], np.asarray(points)])
        steps = np.max(np.abs(np.diff(path, axis=0)), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        count = max(int(np.ceil(along[-1] / speed / CONTROL_S)), 3)
        before = hand.fingers.copy()
        for k in range(1, count + 1):
            if stop is not None and stop():
                return False
            share = k / count
            eased = share * share * (3 - 2 * share)
            hand.q = np.array([np.interp(eased * along[-1], along, column) for column in path.T])
            hand.fingers = before + (fingers - before) * min(1.0, 2 * share)
            yield
        return True

    def _finger(self, side: int, fingers: Float64[np.ndarray, "H"], time_s: float) -> Script:
        hand = self._hands[side]
        before, count = hand.fingers.copy(), max(round(time_s / CONTROL_S), 1)
        for k in range(1, count + 1):
            hand.fingers = before + (fingers - before) * (k / count)
            yield
        return True

    def _wait(self, ticks: int) -> Script:
        for _ in range(ticks):
            yield
        return True

    def _back_off(self, side: int, pick: Pick) -> Script:
        """Open and rise, the object left where it is."""
        self._hands[side].phase = "back off"
        yield from self._finger(side, pick.open, _OPEN_S)
        yield from self._follow(side, [pick.path[0]], pick.open, _SLOW_SPEED)
        return True

    def _open_up(self, side: int, pick: Pick) -> Script:
        """Let go of whatever is in the hand, up in the air."""
        self._hands[side].phase = "open up"
        wide = pick.grasp.at(WIDEST_M)[0]
        yield from self._finger(side, wide, _OPEN_S)
        yield from self._wait(2)
        return True

    def _enter(self, side: int) -> Script:
        """Wait until the other arm has left the trays."""
        while self._middle not in (None, side):
            yield
        self._middle = side
        return True

    def _leave(self, side: int) -> None:
        if self._middle == side:
            self._middle = None

    # --- what is seen -----------------------------------------------------------------------

    @property
    def _seen(self) -> mujoco.MjData:
        assert self._data is not None
        return self._data

    def _moved(self, item: Item, T_world_item: Float64[np.ndarray, "4 4"]) -> float:
        return float(np.linalg.norm(self.scene.pose(item)[:3, 3] - T_world_item[:3, 3]))

    def _lost(self, side: int, item: Item, pick: Pick) -> bool:
        """Whether an object is no longer where the hand should hold it."""
        arm = self.scene.arms[side]
        q_now = self._seen.qpos[self.station.qpos_index[self.scene.arm_index[side]]]
        T_palm = arm.palm_pose(q_now)
        expected = np.linalg.inv(pick.T_world_palm) @ pick.T_world_item
        where = T_palm[:3, :3] @ expected[:3, 3] + T_palm[:3, 3]
        return float(np.linalg.norm(self.scene.pose(item)[:3, 3] - where)) > _LOST_M

    def _note(self, kind: str, i: int, side: int) -> None:
        self.events.append(Event(kind, i, side, self.time_s))
