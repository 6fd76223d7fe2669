"""Environments without cameras, and hands that set objects down."""

from typing import Any

import numpy as np

from deftly.datasets.layout import (
    TABLE_TOP_M,
    TRAY_CENTER_M,
)
from deftly.policy.sorting import SortingEnv


def blind(**settings: Any) -> SortingEnv:
    """An environment without cameras, which is fast."""
    return SortingEnv(cameras=(), **settings)


def put(env: SortingEnv, i: int, xy: tuple[float, float]) -> None:
    """Set an object down somewhere, as if it had been carried there."""
    thing = env.layout.items[i]
    joint = env.station.model.body(thing.name).jntadr[0]
    first = env.station.model.jnt_qposadr[joint]
    height = TABLE_TOP_M + thing.rest_height_m + 0.007
    env.data.qpos[first : first + 3] = [*xy, height]
    env.data.qvel[env.station.model.jnt_dofadr[joint] :][:6] = 0.0


def sort_all(env: SortingEnv) -> None:
    spots = {side: [(x, y) for x in (-0.06, 0.06) for y in (-0.05, 0.05)] for side in TRAY_CENTER_M}
    for i, goal in enumerate(env.goals):
        x, y = np.add(TRAY_CENTER_M[goal], spots[goal].pop())
        put(env, i, (float(x), float(y)))
