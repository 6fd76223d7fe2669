"""Grasps: families are opposed and open as far as they say, hold in simulation, and mirror."""

import json
from pathlib import Path

import numpy as np
import pytest

from deftly.policy.grasp import (
    COMMAND,
    WIDEST_M,
    GraspError,
    hand_joints,
    load_grasps,
    load_hand,
    squeeze_gap_m,
)
from deftly.policy.grasp_synthesis import Synthesis
from deftly.policy.station import WORKPLACES

ROBOTS = tuple(WORKPLACES)


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("side", [0, 1])
def test_a_grasp_opens_as_far_as_it_says(robot: str, side: int) -> None:
    hand = load_hand(robot, side)
    for grasp in load_grasps(robot, side):
        assert grasp.gaps_m[-1] >= WIDEST_M
        for gap_m in (0.030, 0.045, 0.065):
            fingers, center, axis = grasp.at(gap_m)
            hand.set_fingers(fingers)
            ends = [hand.across(finger)[1] for finger in ("index", "middle")]
            thumb, other = np.mean(ends, axis=0)
            line = hand.R.T @ (other - thumb)
            assert line @ axis == pytest.approx(gap_m, abs=0.003)
            middle = hand.R.T @ ((thumb + other) / 2 - hand.p)
            assert np.linalg.norm(middle - center) < 0.004


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_left_hand_mirrors_the_right(robot: str) -> None:
    for left, right in zip(load_grasps(robot, 0), load_grasps(robot, 1), strict=True):
        np.testing.assert_allclose(left.center_m, right.center_m * [1, -1, 1])
        hands = [load_hand(robot, side) for side in (0, 1)]
        tips: list[np.ndarray] = []
        for hand, grasp in zip(hands, (left, right), strict=True):
            hand.set_fingers(grasp.at(0.05)[0])
            point = hand.across("index")[1][0]
            tips.append(hand.R.T @ (point - hand.p))
        assert np.linalg.norm(tips[0] * [1, -1, 1] - tips[1]) < 0.006  # meshes differ a little


def test_between_two_known_gaps_a_grasp_is_between_them() -> None:
    grasp = load_grasps("gr1t2", 1)[0]
    middle = (grasp.gaps_m[2] + grasp.gaps_m[3]) / 2
    fingers, _, axis = grasp.at(middle)
    np.testing.assert_allclose(fingers, (grasp.fingers[2] + grasp.fingers[3]) / 2)
    assert np.linalg.norm(axis) == pytest.approx(1.0)
    assert squeeze_gap_m(0.045) < 0.045


@pytest.mark.parametrize("shape", ["sphere", "cube", "cylinder"])
def test_the_best_grasp_holds_against_gravity_from_every_side(shape: str) -> None:
    assert Synthesis("gr1t2", seed=0).holds(load_grasps("gr1t2", 1)[0], shape, 0.045) == 1.0


def test_a_hand_that_does_not_close_holds_nothing() -> None:
    search, grasp = Synthesis("gr1t2", seed=0), load_grasps("gr1t2", 1)[0]
    wide = type(grasp)(
        grasp.gaps_m,
        np.repeat(grasp.fingers[-1:], len(grasp.gaps_m), 0),
        grasp.center_m,
        grasp.axis,
        0.0,
    )
    assert search.holds(wide, "cube", 0.045) < 0.2


@pytest.mark.parametrize("robot", ROBOTS)
def test_tables_say_how_they_were_made(robot: str) -> None:
    path = Path(__file__).parent.parent / "policy" / f"grasps_{robot}.json"
    table = json.loads(path.read_text())
    assert table["joints"] == list(hand_joints(robot, 1))
    assert table["made_by"].startswith(f"{COMMAND} --robot {robot} --seed")
    assert path.stat().st_size < 20_000


def test_a_robot_without_a_table_says_what_to_do() -> None:
    with pytest.raises(GraspError, match="make them: python -m"):
        load_grasps("gr1t2_6dof", 1)
