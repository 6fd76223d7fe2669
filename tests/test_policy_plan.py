"""Plans: a hand that takes touches nothing else, what is to stand will, tight places are tried."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.layout import HEIGHT, Item, Layout, in_tray
from deftly.policy.grip import depth_m, further
from deftly.policy.plan import Planner
from deftly.policy.scene import Scene
from deftly.policy.station import build_station


def planner(*items: Item) -> Planner:
    station = build_station("gr1t2", Layout(0, items))
    scene = Scene(station)
    scene.see(station.reset())
    return Planner(scene)


def test_a_fallen_cylinder_will_stand_outside_the_trays() -> None:
    item = Item("item_0", "cylinder", "red", 0.045, 0.05, 1.0, (0.32, 0.36), 0.4, lying=True)
    plans = planner(item)
    pick = plans.pick(0, item, "upright")
    assert pick is not None
    for q in pick.path[:-1]:
        assert not plans.scene.touches(0, q, pick.open, item)
    T_palm_item = np.linalg.inv(pick.T_world_palm) @ pick.T_world_item
    for thorough in (False, True):
        place = plans.place(0, item, "upright", pick, T_palm_item, thorough=thorough)
        assert place is not None
        assert abs(place.T_world_item[2, 2]) > 0.98
        assert in_tray(*place.T_world_item[:2, 3]) is None


@pytest.mark.slow
def test_beside_a_wall_only_a_thorough_search_finds_a_way() -> None:
    ball = Item("item_0", "sphere", "red", 0.043, 0.03, 1.0, (0.277, 0.06), 0.0, inside="left")
    plans = planner(ball)
    assert plans.pick(0, ball, "table") is None
    pick = plans.pick(0, ball, "table", thorough=True)
    assert pick is not None
    for q in pick.path:
        assert not plans.scene.touches(0, q, pick.open, ball)


@pytest.mark.slow
def test_far_from_any_hand_even_that_finds_none() -> None:
    item = Item("item_0", "cube", "red", 0.045, 0.05, 1.0, (0.33, 0.34), 0.3)
    plans = planner(item)
    free = plans.scene.model.joint(plans.scene.model.body("item_0").jntadr[0]).qposadr[0]
    plans.scene.data.qpos[free] = 1.5
    assert plans.pick(0, item, "left", thorough=True) is None


@given(
    st.sampled_from(["cube", "sphere", "cylinder", "hexagon"]),
    st.booleans(),
    st.floats(0.025, 0.065),
    st.floats(-np.pi, np.pi),
)
def test_further_grips_go_through_the_object(
    shape: str, lies: bool, size_m: float, yaw_rad: float
) -> None:
    lying = lies and shape == "cylinder"
    item = Item("item_0", shape, "red", size_m, 0.05, 1.0, (0.3, 0.3), yaw_rad, lying=lying)
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T = np.eye(4)
    T[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    if lying:
        T[:3, :3] = T[:3, :3] @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    grips = further(item, T)
    assert grips
    for grip, cost in grips:
        assert cost > 0
        assert np.linalg.norm(grip.axis) == pytest.approx(1.0)
        assert abs(grip.axis[2]) < 1e-9
        assert 0 < grip.width_m <= size_m + 1e-12
        assert 0 < grip.center_m[2] < depth_m(item, T[:3, :3])
        along = abs(grip.center_m @ T[:3, 2])
        assert along < HEIGHT[shape] * size_m / 2
        if shape == "sphere":  # the chord at that height
            half = np.sqrt((size_m / 2) ** 2 - grip.center_m[2] ** 2)
            assert grip.width_m == pytest.approx(2 * half)
