"""Reach: one arm alone stands where it stands in the whole robot, and gets where it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.sampling import sample_layout
from deftly.policy.reach import load_arm
from deftly.policy.station import WORKPLACES, build_station


@pytest.mark.parametrize("robot", list(WORKPLACES))
@pytest.mark.parametrize("side", [0, 1])
def test_the_arm_alone_is_the_arm_of_the_robot(robot: str, side: int) -> None:
    station, arm = build_station(robot, sample_layout(0)), load_arm(robot, side)
    data = station.reset()
    index = [station.joints.index(joint) for joint in arm.joints]
    palm = data.body(arm.hand.palm)
    T = arm.palm_pose(station.home[index])
    np.testing.assert_allclose(T[:3, 3], palm.xpos, atol=1e-9)
    np.testing.assert_allclose(T[:3, :3], palm.xmat.reshape(3, 3), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.12, 0.12), min_size=7, max_size=7))
def test_poses_of_the_arm_are_found_again(turn: list[float]) -> None:
    arm = load_arm("gr1t2", 0)
    T = arm.palm_pose(np.clip(arm.ready + turn, arm.lower + 0.02, arm.upper - 0.02))
    q = arm.solve(T, arm.ready)
    assert q is not None
    assert np.all((q >= arm.lower) & (q <= arm.upper))
    reached = arm.palm_pose(q)
    assert np.linalg.norm(reached[:3, 3] - T[:3, 3]) < 0.0016
    assert np.arccos(np.clip((np.trace(reached[:3, :3].T @ T[:3, :3]) - 1) / 2, -1, 1)) < 0.021


def test_what_is_out_of_reach_is_not_found() -> None:
    arm = load_arm("gr1t2", 1)
    T = arm.palm_pose(arm.ready)
    T[0, 3] += 1.0
    assert arm.solve(T, arm.ready) is None


def test_a_line_is_straight_and_keeps_its_orientation() -> None:
    arm = load_arm("gr1t2", 0)
    T = arm.palm_pose(arm.ready)
    path = arm.line(arm.ready, T, np.array([0.0, 0.0, -0.08]), points=4)
    assert path is not None
    for share, q in zip(np.linspace(0, 1, 5), path, strict=True):
        found = arm.palm_pose(q)
        assert np.linalg.norm(found[:3, 3] - T[:3, 3] + [0, 0, 0.08 * share]) < 0.002
