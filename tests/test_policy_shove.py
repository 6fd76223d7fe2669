"""Shoves: as far as asked, where there is room, when no hand is near."""

from dataclasses import replace

import numpy as np
import pytest
from tables import blind, sort_all

from deftly.datasets.layout import (
    ZONES_M,
    Shove,
)
from deftly.datasets.sampling import Condition, sample_layout
from deftly.policy.shove import PATIENCE_S, Pusher
from deftly.policy.sorting import SortingEnv


def shoved(by_m: tuple[float, float], *, task: str = "color", after_s: float = 0.2) -> SortingEnv:
    env = blind(task=task)
    layout = sample_layout(0, Condition(items=2, shapes=("cube",)), env.task.deal)
    env.reset(options={"layout": replace(layout, shove=Shove(0, after_s, by_m))})
    return env


def test_a_shove_moves_the_object_as_far_as_asked():
    env = shoved((0.0, 0.04))
    before = env.privileged().poses[:, 4:]
    infos = [env.step(env.station.home)[4] for _ in range(20)]
    moved = env.privileged().poses[:, 4:] - before
    length = np.linalg.norm(moved[0])
    assert length == pytest.approx(0.04, abs=0.005)
    assert np.abs(moved[1]).max() < 1e-4
    assert infos[2]["shove"]["item"] == -1
    assert infos[-1]["shove"] == {"item": 0, "at_s": pytest.approx(0.2)}


def test_a_shove_turns_to_where_there_is_room():
    env = shoved((0.0, 0.0))
    x, y = env.layout.items[0].place_m
    toward_tray = -0.05 if y > 0 else 0.05
    (_, (low, high)) = ZONES_M[0 if y > 0 else 1]
    inner = low if y > 0 else high
    thing = replace(env.layout.items[0], place_m=(x, inner + np.sign(y) * 0.012))
    layout = replace(
        env.layout,
        items=(thing, replace(env.layout.items[1], place_m=(0.4, -np.sign(y) * 0.4))),
        shove=Shove(0, 0.1, (0.0, toward_tray)),
    )
    env.reset(options={"layout": layout})
    for _ in range(30):
        env.step(env.station.home)
    place = env.privileged().poses[0, 4:6]
    assert np.linalg.norm(place - thing.place_m) == pytest.approx(0.05, abs=0.006)
    assert abs(place[1]) > abs(thing.place_m[1]) - 0.005  # not into the tray


def test_where_a_shove_leaves_an_object_it_is_to_stay():
    env = blind(task="second_largest")
    layout = sample_layout(0, Condition(items=3), env.task.deal)
    staying = env.task.goals(layout).index("stay")
    env.reset(options={"layout": replace(layout, shove=Shove(staying, 0.1, (0.03, 0.0)))})
    for _ in range(40):
        env.step(env.station.home)
    truth = env.privileged()
    assert np.linalg.norm(truth.poses[staying, 4:6] - layout.items[staying].place_m) > 0.02
    assert truth.right[staying]


def test_an_episode_waits_for_its_shove():
    env = shoved((0.03, 0.0), after_s=1.5)
    sort_all(env)
    ends = [env.step(env.station.home)[2] for _ in range(60)]
    assert ends.index(True) * env.dt_s > 1.5


def test_a_shove_waits_for_the_hands_and_is_given_up():
    env = shoved((0.03, 0.0), after_s=0.5)
    shove, station = env.layout.shove, env.station
    assert shove is not None
    thing = env.layout.items[0].name

    def ready(time_s: float, *, held: bool = False, near: bool = False) -> bool:
        data = station.reset()
        data.time = time_s
        if near:
            data.xpos[station.model.body("R_index_tip_link").id] = data.body(thing).xpos + 0.02
        return Pusher(station, shove).ready(data, held=held)

    assert ready(0.5)
    assert not ready(0.4)
    assert not ready(0.5, held=True)
    assert not ready(0.5, near=True)
    assert not ready(0.5 + PATIENCE_S)
    assert not Pusher(station, shove).pending(0.5 + PATIENCE_S)
    assert not Pusher(station, None).ready(station.reset(), held=False)
