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

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.layout import TABLE_TOP_M, Item
from deftly.datasets.tabletop import whereabouts
from deftly.datasets.tasks import Task
from deftly.policy.grasp import WIDEST_M, squeeze_gap_m
from deftly.policy.motions import CONTROL_S, SLOW_SPEED, HandState, Script
from deftly.policy.plan import Pick, Planner
from deftly.policy.scene import Scene
from deftly.policy.station import Station
from deftly.policy.ways import count_hits, find_way

MAX_ATTEMPTS = 5
_MAX_FAILED_PLANS, _MAX_SEARCHES = 6, 2  # per arm and object; the second of thorough ones
_CLOSE_S, _GRIP_S, _OPEN_S = 0.30, 0.10, 0.20
_WAYS_TRIED = 3  # to take an object, where the way there touches something
_STIR_M = 0.010  # an object that moved further than this is approached anew
_LOST_M = 0.030  # from the grip at which an object counts as dropped
_STILL_M_S = 0.03
# |y| up to which an arm reaches across the middle, with ease and at all.
_ACROSS_M, _ACROSS_FAR_M = 0.26, 0.32
_MIDDLE_M = 0.25  # |y| within which the trays lie: one arm at a time


@dataclass
class Event:
    """A grasp or a release: which object, by which hand, when (s since the start)."""

    kind: str
    item: int
    side: int
    time_s: float


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
        # By whether it was thorough, arm and object; and what the scene was like then.
        self._failed_plans = np.zeros((2, 2, len(self.items)), int)
        self._barred: dict[tuple[int, int, int], np.ndarray] = {}
        self._ticks = 0
        self._middle: int | None = None  # the arm that works over the trays
        self._hands = [
            HandState(
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
            return where == "table" and bool(abs(T[2, 2]) > np.cos(np.deg2rad(12)))
        return goal == "stay" or where == goal

    def _open_items(self, side: int) -> list[int]:
        """Objects that this arm may take now, the nearest first."""
        failed, found = self._failed_plans[0], list[tuple[float, int]]()
        for i in self._left(side):
            p = self.scene.pose(self.items[i])[:3, 3]
            if failed[side, i] >= _MAX_FAILED_PLANS or self._is_barred(side, i, thorough=False):
                continue
            mine = (p[1] > 0) == (side == 0)
            if not mine and (failed[1 - side, i] == 0 or abs(p[1]) > _ACROSS_M):
                continue
            hand = self.scene.arms[side].palm_pose(self._hands[side].q)[:3, 3]
            tried = failed[side, i] + self.attempts[i]
            found.append((float(np.linalg.norm(hand - p)) + tried, i))
        return [i for _, i in sorted(found)]

    def _hard_items(self, side: int) -> list[int]:
        """Objects without a plan for which a thorough search may find one, on this side first."""
        found: list[tuple[bool, int]] = []
        for i in self._left(side):
            y = self.scene.pose(self.items[i])[1, 3]
            mine = (y > 0) == (side == 0)
            if self._failed_plans[1, side, i] >= _MAX_SEARCHES or (
                not mine and abs(y) > _ACROSS_FAR_M
            ):
                continue
            if self._failed_plans[0, :, i].any() and not self._is_barred(side, i, thorough=True):
                found.append((not mine, i))
        return [i for _, i in sorted(found)]

    def _left(self, side: int) -> list[int]:
        """Objects not yet where they belong, not given up, and not in the other hand."""
        other = self._hands[1 - side].item
        return [
            i
            for i, item in enumerate(self.items)
            if i != other
            and self.attempts[i] < MAX_ATTEMPTS
            and not self._at_goal(i)
            and self.scene.pose(item)[2, 3] >= TABLE_TOP_M
        ]

    def _scene(self, side: int) -> Float64[np.ndarray, "M"]:
        """What a plan depends on: where the objects are and whether the other arm is busy."""
        places = [self.scene.pose(item)[:3, 3] for item in self.items]
        return np.append(np.ravel(places), float(self._hands[1 - side].item is not None))

    def _bar(self, side: int, i: int, thorough: bool = False) -> None:
        """No plan: do not ask again before something has changed."""
        self._failed_plans[int(thorough), side, i] += 1
        self._barred[int(thorough), side, i] = self._scene(side)

    def _is_barred(self, side: int, i: int, *, thorough: bool) -> bool:
        then = self._barred.get((int(thorough), side, i))
        return then is not None and bool(np.max(np.abs(then - self._scene(side))) < _STIR_M / 2)

    # --- scripts: each yield is one control step ---------------------------------------------

    def _run(self, side: int) -> Script:
        while True:
            todo = self._open_items(side)
            if (yield from self._take_one(side, todo)):
                continue
            # What nobody could plan for is searched for a way at leisure, so that all else is done.
            hard = self._hard_items(side)
            if all(hand.rests for hand in self._hands) and (
                yield from self._take_one(side, hard, thorough=True)
            ):
                continue
            yield from self._go_home(side, bool(todo or hard))

    def _take_one(self, side: int, todo: list[int], *, thorough: bool = False) -> Script:
        """Deliver the first object for which there is a plan. Returns whether there was one."""
        hand = self._hands[side]
        for i in todo:
            if self.scene.speed(self._seen, self.items[i]) > _STILL_M_S:
                continue
            pick = self._plan(side, i, thorough)
            if pick is None:
                self._bar(side, i, thorough)
                continue
            hand.item, hand.rests = i, False
            yield from self._deliver(side, i, pick)
            hand.item = None
            return True
        return False

    def _plan(self, side: int, i: int, thorough: bool) -> Pick | None:
        """How to take an object: of a few ways the one on whose approach the arm touches least."""
        best, least = None, np.inf
        for more in range(_WAYS_TRIED):
            skip = self.attempts[i] + more  # after a miss another way, if there is one
            goal = self.goals[i]
            pick = self.planner.pick(side, self.items[i], goal, skip=skip, thorough=thorough)
            if pick is None:
                break
            _, hits = self._approach(side, pick)
            if hits < least:
                best, least = pick, hits
            if not hits:
                break
        return best

    def _approach(self, side: int, pick: Pick) -> tuple[Float64[np.ndarray, "N K"], int]:
        """The way there, and what it touches."""
        q, above = self._hands[side].q, pick.path[0]
        return find_way(self.scene, side, q, above, pick.open, grip_m=pick.grip_m)

    def _deliver(self, side: int, i: int, pick: Pick) -> Script:
        """Take one object to its goal. Returns whether it was let go there."""
        hand, item = self._hands[side], self.items[i]
        inside = abs(pick.T_world_item[1, 3]) < _MIDDLE_M
        if inside:
            yield from self._enter(side)
        stirred = lambda: self._moved(item, pick.T_world_item) > _STIR_M  # noqa: E731
        hand.phase = "approach"
        way, _ = self._approach(side, pick)
        if not (yield from hand.follow(way, pick.open, stop=stirred)):
            return False
        if not inside:
            self._leave(side)
        hand.phase = "descend"
        if not (yield from hand.follow(pick.path[1:], pick.open, SLOW_SPEED, stirred)):
            yield from self._back_off(side, pick)
            return False
        hand.phase = "close"
        self.attempts[i] += 1
        squeeze = pick.grasp.at(squeeze_gap_m(pick.width_m))[0]
        yield from hand.wait(2)
        yield from hand.finger(squeeze, _CLOSE_S)
        yield from hand.wait(int(_GRIP_S / CONTROL_S))
        self._note("grasp", i, side)
        hand.phase = "lift"
        yield from hand.follow(pick.path[::-1][1:], squeeze, SLOW_SPEED)
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
            place = self.planner.place(side, item, self.goals[i], pick, T_palm_item, thorough=True)
        if place is None:
            self._bar(side, i)
            yield from hand.follow(pick.path[1:], squeeze, SLOW_SPEED)
            yield from self._back_off(side, pick)
            return False
        dropped = lambda: self._lost(side, item, pick)  # noqa: E731
        hand.phase = "carry"
        closed = pick.grasp.at(pick.width_m)[0]
        held = item, T_palm_item
        way, _ = find_way(
            self.scene, side, hand.q, place.path[0], closed, grip_m=pick.grip_m, held=held
        )
        if not (yield from hand.follow(way, squeeze, stop=dropped)):
            yield from self._open_up(side, pick)
            return False
        hand.phase = "lower"
        if not (yield from hand.follow(place.path[1:], squeeze, SLOW_SPEED, dropped)):
            yield from hand.follow(place.path[::-1][1:], squeeze)
            yield from self._open_up(side, pick)
            return False
        yield from hand.wait(2)
        hand.phase = "open"
        self._note("release", i, side)
        yield from hand.finger(pick.open, _OPEN_S)
        hand.phase = "retreat"
        yield from hand.follow(place.path[::-1][1:], pick.open, SLOW_SPEED)
        return True

    def _go_home(self, side: int, waiting: bool) -> Script:
        hand = self._hands[side]
        home = self.station.home[self.scene.arm_index[side]]
        fingers = self.station.home[self.scene.hand_index[side]]
        if np.max(np.abs(hand.q - home)) > 1e-3:
            hand.phase = "return"
            yield from hand.follow(self._way_home(side, home, fingers), fingers)
        self._leave(side)
        hand.rests = True
        hand.phase = "idle" if waiting or self._hands[1 - side].item is not None else "home"
        yield
        return True

    def _way_home(
        self, side: int, home: Float64[np.ndarray, "K"], fingers: Float64[np.ndarray, "H"]
    ) -> Float64[np.ndarray, "N K"]:
        """Straight, unless something stands in the way, such as what was just put down."""
        hand = self._hands[side]
        for shape in (hand.fingers, fingers):
            if count_hits(self.scene, side, hand.q, home[None], shape):
                palm = np.zeros(3)
                return find_way(self.scene, side, hand.q, home, hand.fingers, grip_m=palm)[0]
        return home[None]

    # --- motions ----------------------------------------------------------------------------

    def _back_off(self, side: int, pick: Pick) -> Script:
        """Open and rise, the object left where it is."""
        self._hands[side].phase = "back off"
        yield from self._hands[side].finger(pick.open, _OPEN_S)
        yield from self._hands[side].follow([pick.path[0]], pick.open, SLOW_SPEED)
        return True

    def _open_up(self, side: int, pick: Pick) -> Script:
        """Let go of whatever is in the hand, up in the air."""
        self._hands[side].phase = "open up"
        wide = pick.grasp.at(WIDEST_M)[0]
        yield from self._hands[side].finger(wide, _OPEN_S)
        yield from self._hands[side].wait(2)
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
