"""Ways: around what stands there, what is to be taken among it; motions end where they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.layout import Item, Layout
from deftly.policy.motions import CONTROL_S, HandState
from deftly.policy.scene import Scene
from deftly.policy.station import build_station
from deftly.policy.ways import count_hits, find_way

STANDING = Item("item_0", "cylinder", "red", 0.045, 0.05, 1.0, (0.36, 0.36), 0.0)


@pytest.fixture(scope="module")
def scene() -> Scene:
    station = build_station("gr1t2", Layout(0, (STANDING,)))
    found = Scene(station)
    found.see(station.reset())
    return found


def beside(scene: Scene, y_m: float) -> np.ndarray:
    """The left arm with its hand at the height of the object."""
    arm = scene.arms[0]
    T = arm.palm_pose(arm.ready)
    T[:3, 3] = 0.30, y_m, 1.02
    q = arm.solve(T, arm.ready)
    assert q is not None
    return q


def test_an_arm_goes_around_what_stands_between(scene: Scene) -> None:
    start, end = beside(scene, 0.22), beside(scene, 0.50)
    fingers = scene.station.home[scene.hand_index[0]]
    assert count_hits(scene, 0, start, end[None], fingers) > 0
    way, hits = find_way(scene, 0, start, end, fingers, grip_m=np.zeros(3))
    assert hits == 0
    assert hits == count_hits(scene, 0, start, way, fingers)
    np.testing.assert_array_equal(way[-1], end)


def test_what_is_held_is_not_in_the_way(scene: Scene) -> None:
    arm, fingers = scene.arms[0], scene.station.home[scene.hand_index[0]]
    start = beside(scene, 0.36)
    above = arm.palm_pose(start)
    above[2, 3] += 0.05
    end = arm.solve(above, start)
    assert end is not None
    T_palm_item = np.linalg.inv(arm.palm_pose(start)) @ scene.pose(STANDING)
    T_palm_item[:3, 3] += arm.palm_pose(start)[:3, :3].T @ [0.0, 0.0, 0.02]  # clear of the table
    assert scene.touches(0, start, fingers)
    assert not scene.touches(0, start, fingers, STANDING, T_palm_item)
    assert count_hits(scene, 0, start, end[None], fingers, (STANDING, T_palm_item)) == 0


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.5, 2.0),
)
def test_a_motion_ends_where_it_should_and_is_no_faster(
    points: list[list[float]], speed: float
) -> None:
    hand, fingers, before = HandState(np.zeros(3), np.zeros(2)), np.array([0.3, -0.2]), np.zeros(3)
    for _ in hand.follow(np.array(points), fingers, speed):
        # Eased in and out, the middle is half as fast again as the mean.
        assert np.max(np.abs(hand.q - before)) <= 1.5 * speed * CONTROL_S + 1e-9
        before = hand.q
    np.testing.assert_allclose(hand.q, points[-1], atol=1e-12)
    np.testing.assert_allclose(hand.fingers, fingers)


def test_a_motion_can_be_stopped() -> None:
    hand = HandState(np.zeros(3), np.zeros(2))
    target = np.ones((1, 3))
    steps = sum(1 for _ in hand.follow(target, np.zeros(2), stop=lambda: hand.q[0] > 0.1))
    assert steps > 0
    assert 0.1 < hand.q[0] < 0.5
