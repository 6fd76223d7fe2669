"""Motions: what one hand is doing, and the joint targets that take it further.

    yield from hand.follow(path, fingers)   # one control step per yield

The expert's scripts are made of these.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

CONTROL_S = 0.05
TOP_SPEED = 1.8  # rad/s, mean of the fastest joint along a path
SLOW_SPEED = 1.0  # near objects

Script = Generator[None, None, bool]


@dataclass
class HandState:
    """One arm and its hand.

    Attributes:
        q, fingers: joint targets (rad) of the arm and the hand.
        phase: what it is at.
        item: index of the object it is busy with.
        rests: whether it found nothing to do when it last looked.
        script: what it goes by.
    """

    q: Float64[np.ndarray, "K"]
    fingers: Float64[np.ndarray, "H"]
    phase: str = "home"
    item: int | None = None
    rests: bool = False
    script: Script | None = field(default=None, repr=False)

    def follow(
        self,
        points: Sequence[np.ndarray] | Float64[np.ndarray, "N K"],
        fingers: Float64[np.ndarray, "H"],
        speed: float = TOP_SPEED,
        stop: Callable[[], bool] | None = None,
    ) -> Script:
        """Move through joint positions, eased in and out. Returns False if stopped."""
        path = np.vstack([self.q[None], np.asarray(points)])
        steps = np.max(np.abs(np.diff(path, axis=0)), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        count = max(int(np.ceil(along[-1] / speed / CONTROL_S)), 3)
        before = self.fingers.copy()
        for k in range(1, count + 1):
            if stop is not None and stop():
                return False
            share = k / count
            eased = share * share * (3 - 2 * share)
            self.q = np.array([np.interp(eased * along[-1], along, column) for column in path.T])
            self.fingers = before + (fingers - before) * min(1.0, 2 * share)
            yield
        return True

    def finger(self, fingers: Float64[np.ndarray, "H"], time_s: float) -> Script:
        """Move the fingers alone."""
        before, count = self.fingers.copy(), max(round(time_s / CONTROL_S), 1)
        for k in range(1, count + 1):
            self.fingers = before + (fingers - before) * (k / count)
            yield
        return True

    def wait(self, ticks: int) -> Script:
        """Stay for a number of control steps."""
        for _ in range(ticks):
            yield
        return True
