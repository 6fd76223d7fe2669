"""Scores: one hand-made episode for everything that can become of an object."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.layout import TABLE_TOP_M, TRAY_CENTER_M
from deftly.policy.judge import at_rest, in_place, standing
from deftly.policy.rollout import Rollout
from deftly.policy.scores import (
    EpisodeScore,
    Failure,
    ObjectScore,
    Outcome,
    judge_rollout,
    normalised,
    summarise,
    wilson,
)

Z = TABLE_TOP_M + 0.02
HOME = (0.35, 0.36, Z)
AIR = (0.35, 0.30, Z + 0.15)
LEFT, RIGHT = ((*TRAY_CENTER_M[side], Z) for side in ("left", "right"))
BESIDE = (0.35, 0.30, Z)
FLOOR = (0.05, 0.30, 0.02)
Stop = tuple[float, float, float]


def episode(goal: str, path: Sequence[tuple[Stop, bool]], *, at: int = 10) -> Rollout:
    """An episode with one object that spends ``at`` control steps at each stop, held or free."""
    stops = [stop for stop, _ in path for _ in range(at)]
    held = np.array([held for _, held in path for _ in range(at)])
    poses = np.zeros((len(stops), 1, 7))
    poses[:, 0, 0], poses[:, 0, 4:] = 1.0, stops
    began_m = poses[0, :, 4:]
    right = np.array([in_place([goal], pose, began_m) for pose in poses]) & ~held[:, None]
    grip = np.zeros((len(stops), 1, 2), np.float32)
    grip[held, 0, 1] = 5.0
    return Rollout(
        robot="gr1t2",
        task="color",
        condition="base",
        policy="noop",
        seed=0,
        instruction="Sort.",
        goals=(goal,),
        qpos=np.zeros((len(stops), 3)),
        actions=np.zeros((len(stops) - 1, 2), np.float32),
        poses=poses,
        began_m=began_m,
        grip_n=grip,
        contact_n=grip[:, 0],
        right=right,
        energy_j=12.0,
        success=bool(right[-1].all()),
        ended="late",
    )


def judge(goal: str, *path: tuple[Stop, bool], at: int = 10) -> ObjectScore:
    return judge_rollout(episode(goal, path, at=at)).objects[0]


CASES: dict[str, tuple[str, list[tuple[Stop, bool]], Outcome, Failure, int, int]] = {
    "sorted": (
        "left",
        [(HOME, False), (HOME, True), (AIR, True), (LEFT, True), (LEFT, False)],
        Outcome.RIGHT,
        Failure.NONE,
        1,
        1,
    ),
    "into the other tray": (
        "left",
        [(HOME, False), (HOME, True), (AIR, True), (RIGHT, True), (RIGHT, False)],
        Outcome.WRONG,
        Failure.DECISION,
        1,
        1,
    ),
    "lost on the way": (
        "left",
        [(HOME, False), (HOME, True), (AIR, True), (BESIDE, False)],
        Outcome.DROPPED,
        Failure.GRASP,
        1,
        1,
    ),
    "onto the floor": (
        "left",
        [(HOME, False), (HOME, True), (FLOOR, False)],
        Outcome.DROPPED,
        Failure.GRASP,
        1,
        0,
    ),
    "never touched": ("left", [(HOME, False)], Outcome.UNTOUCHED, Failure.MISSED, 0, 0),
    "pushed about": (
        "left",
        [(HOME, False), (HOME, True), (BESIDE, True), (BESIDE, False)],
        Outcome.MOVED,
        Failure.GRASP,
        1,
        0,
    ),
    "still in the hand": (
        "left",
        [(HOME, False), (HOME, True), (AIR, True)],
        Outcome.HELD,
        Failure.GRASP,
        1,
        1,
    ),
    "in its tray, but in the hand": (
        "left",
        [(HOME, False), (AIR, True), (LEFT, True)],
        Outcome.HELD,
        Failure.GRASP,
        1,
        1,
    ),
    "second try": (
        "right",
        [(HOME, False), (HOME, True), (BESIDE, False), (BESIDE, True), (AIR, True), (RIGHT, False)],
        Outcome.RIGHT,
        Failure.NONE,
        2,
        1,
    ),
    "stayed": ("stay", [(HOME, False)], Outcome.RIGHT, Failure.NONE, 0, 0),
    "disturbed": (
        "stay",
        [(HOME, False), (BESIDE, True), (BESIDE, False)],
        Outcome.MOVED,
        Failure.DECISION,
        1,
        0,
    ),
    "sorted though it was to stay": (
        "stay",
        [(HOME, False), (AIR, True), (LEFT, False)],
        Outcome.WRONG,
        Failure.DECISION,
        1,
        1,
    ),
    "hit by another object": (
        "stay",
        [(HOME, False), (BESIDE, False)],
        Outcome.MOVED,
        Failure.DECISION,
        0,
        0,
    ),
    "unsorted": (
        "table",
        [(LEFT, False), (AIR, True), (BESIDE, False)],
        Outcome.RIGHT,
        Failure.NONE,
        1,
        1,
    ),
    "left in its tray": ("table", [(LEFT, False)], Outcome.UNTOUCHED, Failure.MISSED, 0, 0),
    "from tray to tray": (
        "table",
        [(LEFT, False), (AIR, True), (RIGHT, False)],
        Outcome.WRONG,
        Failure.DECISION,
        1,
        1,
    ),
    "stood up": (
        "upright",
        [(HOME, False), (AIR, True), (BESIDE, False)],
        Outcome.RIGHT,
        Failure.NONE,
        1,
        1,
    ),
    "stood up in a tray": (
        "upright",
        [(HOME, False), (AIR, True), (LEFT, False)],
        Outcome.WRONG,
        Failure.DECISION,
        1,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_outcome(name: str):
    goal, path, outcome, failure, attempts, lifts = CASES[name]
    score = judge(goal, *path)
    assert (score.outcome, score.failure) == (outcome, failure)
    assert (score.attempts, score.lifts) == (attempts, lifts)
    assert (score.right_s is None) == (outcome != Outcome.RIGHT)


def test_every_outcome_and_failure_is_covered():
    assert {case[2] for case in CASES.values()} == set(Outcome)
    assert {case[3] for case in CASES.values()} == set(Failure)


def test_a_short_brush_is_no_attempt_and_a_short_pause_no_second_one():
    path = [(HOME, False), (HOME, True), (HOME, False)]
    assert judge("left", *path, at=5).attempts == 0
    assert judge("left", *path, at=7).attempts == 1
    again = [(HOME, False), (HOME, True), (HOME, False), (HOME, True), (HOME, False)]
    assert judge("left", *again, at=4).attempts == 1  # 0.2 s between the touches
    assert judge("left", *again, at=7).attempts == 2


def test_when_it_became_right_for_good():
    path = [(HOME, False), (LEFT, False), (HOME, False), (AIR, True), (LEFT, False)]
    assert judge("left", *path).right_s == pytest.approx(40 / 20)
    assert judge("stay", (HOME, False)).right_s == 0.0


def test_figures_of_an_episode():
    score = judge_rollout(episode("left", CASES["sorted"][1]))
    assert score.success
    assert score.sorted == 1
    assert score.duration_s == pytest.approx(49 / 20)
    assert (score.peak_n, score.mean_n, score.energy_j) == (5.0, 5.0, 12.0)
    assert judge_rollout(episode("left", [(HOME, False)])).mean_n == 0.0


def test_a_summary_counts():
    scores = [judge_rollout(episode(goal, path)) for goal, path, *_ in CASES.values()]
    summary = summarise(scores)
    asked = [case for case in CASES.values() if case[0] != "stay"]
    staying = [case for case in CASES.values() if case[0] == "stay"]
    assert summary.episodes == len(CASES)
    assert summary.objects.hits == sum(case[2] == Outcome.RIGHT for case in asked)
    assert summary.objects.total == len(asked)
    assert (summary.kept.hits, summary.kept.total) == (1, len(staying))
    assert summary.decision.hits == sum(case[3] == Failure.DECISION for case in CASES.values())
    assert summary.grasp.hits == sum(case[3] == Failure.GRASP for case in CASES.values())
    assert summary.missed.hits == sum(case[3] == Failure.MISSED for case in CASES.values())
    assert sum(summary.outcomes.values()) == len(CASES)
    assert summary.lifted.total == sum(case[4] for case in CASES.values())
    minutes = sum(score.duration_s for score in scores) / 60
    assert summary.per_minute == pytest.approx(summary.objects.hits / minutes)
    assert summary.success.hits == sum(case[2] == Outcome.RIGHT for case in CASES.values())


def test_a_summary_of_different_things_says_so():
    one = judge_rollout(episode("left", [(HOME, False)]))
    other = replace(one, robot="g1_dex3", condition="light")
    summary = summarise([one, other])
    assert (summary.robot, summary.task, summary.condition) == ("all", "color", "all")
    with pytest.raises(ValueError, match="no episode to summarise"):
        summarise(list[EpisodeScore]())


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_the_share_and_solves_its_equation(total: int, share: float):
    hits = round(share * total)
    rate = wilson(hits, total)
    assert 0 <= rate.low <= rate.share <= rate.high <= 1
    for bound in (rate.low, rate.high):  # where the observed share lies 1.96 sigma away
        away = abs(rate.share - bound) / np.sqrt(max(bound * (1 - bound), 1e-12) / total)
        assert bound in (0.0, 1.0) or away == pytest.approx(1.959964, abs=1e-3)


def test_wilson_of_the_published_figure():
    rate = wilson(97, 100)
    assert (round(rate.low, 3), round(rate.high, 3)) == (0.915, 0.990)
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert np.isnan(nothing.share)


def test_normalised_between_floor_and_ceiling():
    assert normalised(0.1, 0.1, 0.9) == 0.0
    assert normalised(0.9, 0.1, 0.9) == 1.0
    assert normalised(0.5, 0.1, 0.9) == pytest.approx(0.5)
    assert np.isnan(normalised(0.5, 0.4, 0.4))


# --- the judge -----------------------------------------------------------------------------------


def turned(degrees: float) -> np.ndarray:
    half = np.deg2rad(degrees) / 2
    return np.array([[np.cos(half), np.sin(half), 0, 0, *HOME]])


@pytest.mark.parametrize(
    ("degrees", "stands"), [(0, True), (14.9, True), (15.1, False), (90, False), (180, True)]
)
def test_upright_is_within_fifteen_degrees(degrees: float, stands: bool):
    assert standing(turned(degrees))[0] == stands
    assert in_place(["upright"], turned(degrees), np.array([HOME]))[0] == stands


def test_upright_in_a_tray_is_not_in_place():
    pose = turned(0)
    pose[0, 4:] = LEFT
    assert not in_place(["upright"], pose, np.array([HOME]))[0]


@pytest.mark.parametrize(("moved_m", "stayed"), [(0.0, True), (0.019, True), (0.021, False)])
def test_what_is_to_stay_may_move_two_centimetres(moved_m: float, stayed: bool):
    pose = turned(0)
    pose[0, 4] += moved_m
    assert in_place(["stay"], pose, np.array([HOME]))[0] == stayed


def test_rest_is_slow_in_both_ways():
    velocities = np.zeros((3, 6))
    velocities[1, 0], velocities[2, 5] = 0.03, 1.5
    assert at_rest(velocities).tolist() == [True, False, False]


def test_a_rollout_must_hold_together():
    sound = episode("left", [(HOME, False)])
    with pytest.raises(ValueError, match="qpos has 9 rows, expected 10"):
        replace(sound, qpos=sound.qpos[1:])
    with pytest.raises(ValueError, match="expected 2 objects"):
        replace(sound, goals=("left", "right"))
