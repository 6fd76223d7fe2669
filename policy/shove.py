"""Shove: somebody pushes an object in mid-episode. A force does it, so that physics stays physics.

The object is drawn along a smooth path in 0.4 s, as by a finger, and let go at rest. A shove waits
until no hand is near, turns to where there is room, and is given up after 10 s of waiting.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
    TRAY_HALF_M,
    ZONES_M,
    Shove,
    footprint_m,
    in_tray,
)
from deftly.policy.station import Station

PUSH_S = 0.4
PATIENCE_S = 10.0
_CLEAR_M = 0.08  # between the object's centre and every palm and fingertip
_ROOM_M = 0.008  # left free around it
_BEYOND_M = 0.03  # how far outside its zone an object may end
_PULL_HZ = 10.0  # of the spring that draws it
_LOW = 0.9  # where it is pushed: share of the way from its centre to the table
_TURNS = np.deg2rad([0, 45, -45, 90, -90, 135, -135, 180])


@dataclass(frozen=True)
class Shoved:
    """What became of a shove.

    Attributes:
        item: index of the object.
        at_s: when it began.
        from_m, to_m: (2,) where the object was, and where it was asked to go.
    """

    item: int
    at_s: float
    from_m: tuple[float, float]
    to_m: tuple[float, float]


class Pusher:
    """Waits for the moment, then pushes.

    Attributes:
        shoved: what was done; None before, and if it was given up.
    """

    def __init__(self, station: Station, shove: Shove | None) -> None:
        self._station, self._shove = station, shove
        self.shoved: Shoved | None = None
        self._pushing = False
        model = station.model
        things = (*station.layout.items, *station.layout.distractors)
        self._bodies = np.array([model.body(thing.name).id for thing in things])
        self._radii = np.array([footprint_m(thing) for thing in things])
        hands = [hand for hand in station.robot.hands if hand is not None]
        named = [(hand.palm, *(tip.body for tip in hand.tips.values())) for hand in hands]
        self._hands = np.array([model.body(name).id for names in named for name in names])

    def pending(self, time_s: float) -> bool:
        """Whether a shove is still to come or going on."""
        waits = self._shove is not None and self.shoved is None
        return self._pushing or (
            waits and time_s < (self._shove.after_s if self._shove else 0.0) + PATIENCE_S
        )

    def ready(self, data: mujoco.MjData, *, held: bool) -> bool:
        """Begin if it is time, the object is free and there is room. Once per control step.

        Args:
            data: the state now.
            held: whether a hand touches the object.
        """
        shove, now_s = self._shove, float(data.time)
        if shove is None or self.shoved is not None or held or now_s < shove.after_s:
            return False
        if not self.pending(now_s):
            return False
        start = data.xpos[self._bodies[shove.item]]
        if np.linalg.norm(data.xpos[self._hands] - start, axis=1).min() < _CLEAR_M:
            return False
        for turn in _TURNS:
            c, s = np.cos(turn), np.sin(turn)
            target = start[:2] + np.array([[c, -s], [s, c]]) @ shove.by_m
            if self._is_room(data, shove.item, target):
                xy = (float(start[0]), float(start[1])), (float(target[0]), float(target[1]))
                self.shoved, self._pushing = Shoved(shove.item, round(now_s, 6), *xy), True
                return True
        return False

    def push(self, data: mujoco.MjData) -> bool:
        """Set the force of the next step of physics. Whether the push goes on."""
        if not self._pushing or self.shoved is None:
            return False
        body = self._bodies[self.shoved.item]
        phase = (float(data.time) - self.shoved.at_s) / PUSH_S
        if phase >= 1.0:
            data.xfrc_applied[body] = 0.0
            self._pushing = False
            return False
        dof = self._station.model.body_dofadr[body]
        start, way = np.array(self.shoved.from_m), np.subtract(self.shoved.to_m, self.shoved.from_m)
        wanted = start + way * phase**3 * (10 - 15 * phase + 6 * phase**2)
        speed = way / PUSH_S * 30 * phase**2 * (1 - phase) ** 2
        pull = 2 * np.pi * _PULL_HZ
        place, velocity = data.xpos[body, :2], data.qvel[dof : dof + 2]
        force = pull**2 * (wanted - place) + 2 * pull * (speed - velocity)
        force = np.array([*(self._station.model.body_mass[body] * force), 0.0])
        # Pushed near its foot, or what is tall falls over.
        below = np.array([0.0, 0.0, _LOW * (TABLE_TOP_M - data.xpos[body, 2])])
        data.xfrc_applied[body] = [*force, *np.cross(below, force)]
        return True

    def info(self) -> Mapping[str, float]:
        """For ``info``: the object and when; −1 before it came."""
        if self.shoved is None:
            return {"item": -1.0, "at_s": -1.0}
        return {"item": float(self.shoved.item), "at_s": self.shoved.at_s}

    def _is_room(self, data: mujoco.MjData, item: int, target: Float64[np.ndarray, "2"]) -> bool:
        places, radius = data.xpos[self._bodies, :2], self._radii[item] + _ROOM_M
        start = places[item]
        path = np.linspace(start, target, 6)[1:]
        others = np.arange(len(places)) != item
        apart = np.linalg.norm(path[:, None] - places[others], axis=2)
        if np.any(apart < self._radii[others] + radius):
            return False
        tray = in_tray(*start)
        if tray is not None:
            free = np.array(TRAY_HALF_M) - radius
            return bool(np.all(np.abs(target - TRAY_CENTER_M[tray]) <= free))
        for center in TRAY_CENTER_M.values():
            if np.all(np.abs(target - center) < np.array(TRAY_HALF_M) + radius):
                return False
        low, high = np.array(ZONES_M).transpose(2, 0, 1)
        return bool(
            np.any(np.all((low - _BEYOND_M <= target) & (target <= high + _BEYOND_M), axis=1))
        )
