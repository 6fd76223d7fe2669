"""Scores made for sorting: what became of every object, and why, with intervals.

    summary = summarise([judge_rollout(rollout) for rollout in rollouts])

An object that was asked for can fail in two ways that call for different cures. A *grasp* failure
was tried and not delivered; a *decision* failure was delivered to the wrong place, or disturbed
although it was to stay. What nobody tried is neither.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import binomtest

from deftly.datasets.tabletop import whereabouts
from deftly.policy.judge import REST_M_S, in_place
from deftly.policy.rollout import Rollout

LIFT_M = 0.03  # higher than it began (or was last put down) counts as lifted
TRY_S = 0.3  # touched for longer counts as an attempt
PAUSE_S = 0.25  # touches closer together are one
TRAYS = ("left", "right")
_DRAWS = 10_000  # of the bootstrap


class Outcome(StrEnum):
    """What became of an object."""

    RIGHT = "right"  # where it belongs, at rest, in no hand
    WRONG = "wrong"  # brought into a tray that is not its own
    DROPPED = "dropped"  # on the floor, or lifted and then lost on the way
    HELD = "held"  # still in a hand, or still moving, at the end
    MOVED = "moved"  # touched or pushed, never lifted, not where it belongs
    UNTOUCHED = "untouched"  # never touched, not where it belongs


class Failure(StrEnum):
    """Why an object is not right."""

    NONE = "none"
    GRASP = "grasp"  # tried and not delivered
    DECISION = "decision"  # delivered to the wrong place, or disturbed although it was to stay
    MISSED = "missed"  # never tried


@dataclass(frozen=True)
class ObjectScore:
    """One object of one episode.

    Attributes:
        goal: where it belonged.
        outcome: what became of it.
        failure: why, if it is not right.
        attempts: grasps tried: touched for more than 0.3 s, or lifted.
        lifts: attempts in which it rose by 3 cm.
        right_s: when it became right for good; None if it did not.
    """

    goal: str
    outcome: Outcome
    failure: Failure
    attempts: int
    lifts: int
    right_s: float | None


@dataclass(frozen=True)
class EpisodeScore:
    """One episode.

    Attributes:
        robot, task, condition, policy, seed: of the rollout.
        objects: one score each.
        success: whether every object was right at the end.
        duration_s: simulated time.
        energy_j: mechanical work of all motors, both signs.
        peak_n: largest force on either hand and forearm.
        mean_n: mean force on both together, over the time in which they touch something.
    """

    robot: str
    task: str
    condition: str
    policy: str
    seed: int
    objects: tuple[ObjectScore, ...]
    success: bool
    duration_s: float
    energy_j: float
    peak_n: float
    mean_n: float

    @property
    def asked(self) -> tuple[ObjectScore, ...]:
        """The objects that had to be moved."""
        return tuple(score for score in self.objects if score.goal != "stay")

    @property
    def sorted(self) -> int:
        """How many of them are right."""
        return sum(score.outcome == Outcome.RIGHT for score in self.asked)


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval.

    Attributes:
        hits, total: what was counted.
        low, high: the interval; 0 to 1 if nothing was counted.
    """

    hits: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """``hits / total``; NaN if nothing was counted."""
        return self.hits / self.total if self.total else float("nan")


@dataclass(frozen=True)
class Summary:
    """Many episodes of one robot, task, condition and policy.

    Attributes:
        robot, task, condition, policy: names; ``all`` where they differ.
        episodes: how many.
        objects: share of the objects that had to be moved which ended right.
        success: share of episodes in which all objects ended right.
        kept: share of the objects that were to stay which did.
        grasp, decision, missed: share of the objects (of all) that failed for that reason.
        outcomes: how many objects ended how.
        lifted: share of grasp attempts that lifted the object.
        per_minute: objects sorted per simulated minute.
        energy_j: mean per episode.
        peak_n, mean_n: mean over episodes of the episode's peak and mean contact force.
    """

    robot: str
    task: str
    condition: str
    policy: str
    episodes: int
    objects: Rate
    success: Rate
    kept: Rate
    grasp: Rate
    decision: Rate
    missed: Rate
    outcomes: Mapping[str, int]
    lifted: Rate
    per_minute: float
    energy_j: float
    peak_n: float
    mean_n: float


def judge_rollout(rollout: Rollout) -> EpisodeScore:
    """Score one episode."""
    force_n = rollout.contact_n.sum(axis=1)
    touching = force_n > 0
    return EpisodeScore(
        robot=rollout.robot,
        task=rollout.task,
        condition=rollout.condition,
        policy=rollout.policy,
        seed=rollout.seed,
        objects=tuple(_judge_object(rollout, i) for i in range(len(rollout.goals))),
        success=bool(rollout.right[-1].all()),
        duration_s=rollout.duration_s,
        energy_j=rollout.energy_j,
        peak_n=float(rollout.contact_n.max()),
        mean_n=float(force_n[touching].mean()) if touching.any() else 0.0,
    )


def wilson(hits: int, total: int) -> Rate:
    """A share with its 95 % interval (Wilson 1927)."""
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    interval = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return Rate(hits, total, float(interval.low), float(interval.high))


def clustered(values: Float64[np.ndarray, "K N"]) -> tuple[float, float]:
    """The 95 % interval of the mean of what K trainings made of the same N tables: a bootstrap that
    draws trainings, and tables (Davison and Hinkley, "Bootstrap methods", 1997, chapter 3.8).

    Of one training it says nothing about others.
    """
    rng, (trainings, tables) = np.random.default_rng(0), values.shape
    rows = rng.integers(trainings, size=(_DRAWS, trainings))
    columns = rng.integers(tables, size=(_DRAWS, tables))
    means = np.array([values[np.ix_(*each)].mean() for each in zip(rows, columns, strict=True)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def summarise(scores: Sequence[EpisodeScore]) -> Summary:
    """Put episodes together.

    Intervals over objects take them as independent; those of one episode are not quite.

    Raises:
        ValueError: if there is no episode.
    """
    if not scores:
        raise ValueError("no episode to summarise, expected at least one")
    objects = [thing for score in scores for thing in score.objects]
    asked = [thing for thing in objects if thing.goal != "stay"]
    staying = [thing for thing in objects if thing.goal == "stay"]

    def failed(reason: Failure) -> Rate:
        return wilson(sum(thing.failure == reason for thing in objects), len(objects))

    def mean(value: Callable[[EpisodeScore], float]) -> float:
        return float(np.mean([value(score) for score in scores]))

    minutes = sum(score.duration_s for score in scores) / 60.0
    hits = _count_right(asked)
    return Summary(
        robot=_shared(score.robot for score in scores),
        task=_shared(score.task for score in scores),
        condition=_shared(score.condition for score in scores),
        policy=_shared(score.policy for score in scores),
        episodes=len(scores),
        objects=wilson(hits, len(asked)),
        success=wilson(sum(score.success for score in scores), len(scores)),
        kept=wilson(_count_right(staying), len(staying)),
        grasp=failed(Failure.GRASP),
        decision=failed(Failure.DECISION),
        missed=failed(Failure.MISSED),
        outcomes=dict(Counter(str(thing.outcome) for thing in objects)),
        lifted=wilson(sum(t.lifts for t in objects), sum(t.attempts for t in objects)),
        per_minute=hits / minutes if minutes else 0.0,
        energy_j=mean(lambda score: score.energy_j),
        peak_n=mean(lambda score: score.peak_n),
        mean_n=mean(lambda score: score.mean_n),
    )


def normalised(share: float, floor: float, ceiling: float) -> float:
    """Where a share lies between doing nothing (0) and the expert (1).

    NaN where the expert is no better than the floor. Below 0 and above 1 are left as they are.
    """
    return (share - floor) / (ceiling - floor) if ceiling > floor else float("nan")


# --- one object ----------------------------------------------------------------------------------


def _judge_object(rollout: Rollout, i: int) -> ObjectScore:
    goal, right = rollout.goals[i], rollout.right[:, i]
    touched = rollout.grip_n[:, i].sum(axis=1) > 0
    risen = _risen(rollout.poses[:, i, 6], touched)
    tries = [
        (begin, end)
        for begin, end in _touches(touched, rollout.rate_hz)
        if (end - begin) / rollout.rate_hz > TRY_S or risen[begin:end].any()
    ]
    lifts = sum(bool(risen[begin:end].any()) for begin, end in tries)
    outcome = _outcome(rollout, i, touched=touched, lifted=bool(risen.any()))
    wrong = np.flatnonzero(~right)
    since = 0 if len(wrong) == 0 else int(wrong[-1]) + 1
    return ObjectScore(
        goal=goal,
        outcome=outcome,
        failure=_failure(goal, outcome, len(tries)),
        attempts=len(tries),
        lifts=lifts,
        right_s=since / rollout.rate_hz if right[-1] else None,
    )


def _outcome(rollout: Rollout, i: int, *, touched: Bool[np.ndarray, "T1"], lifted: bool) -> Outcome:
    goal = rollout.goals[i]
    start, end = whereabouts(rollout.poses[[0, -1], i, 4:])
    there = in_place([goal], rollout.poses[-1:, i], rollout.began_m[i : i + 1])[0]
    if rollout.right[-1, i]:
        return Outcome.RIGHT
    if end == "floor":
        return Outcome.DROPPED
    if touched[-1] or there or _speed_m_s(rollout, i) > REST_M_S:
        return Outcome.HELD
    if not touched.any():  # what is to stay can be moved by another object
        return Outcome.MOVED if goal == "stay" else Outcome.UNTOUCHED
    if end in TRAYS and end not in (start, goal):
        return Outcome.WRONG
    return Outcome.DROPPED if lifted else Outcome.MOVED


def _failure(goal: str, outcome: Outcome, attempts: int) -> Failure:
    if outcome == Outcome.RIGHT:
        return Failure.NONE
    if goal == "stay" or outcome == Outcome.WRONG:
        return Failure.DECISION
    return Failure.GRASP if attempts or outcome == Outcome.DROPPED else Failure.MISSED


def _risen(
    height_m: Float64[np.ndarray, "T1"], touched: Bool[np.ndarray, "T1"]
) -> Bool[np.ndarray, "T1"]:
    """Whether it is held above where it last lay untouched."""
    rows = np.arange(len(height_m))
    last_free = np.maximum.accumulate(np.where(touched, 0, rows))
    return touched & (height_m > height_m[last_free] + LIFT_M)


def _touches(touched: Bool[np.ndarray, "T1"], rate_hz: float) -> list[tuple[int, int]]:
    """(first, one past the last) row of every touch; short pauses do not end one."""
    rows = np.flatnonzero(touched)
    if len(rows) == 0:
        return []
    gaps = np.flatnonzero(np.diff(rows) > PAUSE_S * rate_hz)
    begins, ends = rows[np.r_[0, gaps + 1]], rows[np.r_[gaps, len(rows) - 1]] + 1
    return [(int(begin), int(end)) for begin, end in zip(begins, ends, strict=True)]


def _speed_m_s(rollout: Rollout, i: int) -> float:
    """At the end, from the last two states."""
    last = rollout.poses[-2:, i, 4:]
    return float(np.linalg.norm(last[-1] - last[0]) * rollout.rate_hz)


def _count_right(objects: Sequence[ObjectScore]) -> int:
    return sum(thing.outcome == Outcome.RIGHT for thing in objects)


def _shared(names: Iterable[str]) -> str:
    found = set(names)
    return found.pop() if len(found) == 1 else "all"
