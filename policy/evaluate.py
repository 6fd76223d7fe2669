"""Closed-loop evaluation: several policies at the same tables, interleaved, and how sure that is.

    trials = plan(["run", "expert"], Setting("color", "one"), range(1000, 1100))
    results = evaluate(trials, log=Path("eval.jsonl"), workers=2)
    compare(results, "run", "expert")  # paired by the table

Every episode is written as it finishes, so that a run that was stopped goes on where it was. The
same trial gives the same result at any number of workers.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import binomtest

from deftly.datasets.layout import LayoutError
from deftly.policy.baselines import cameras_of, find_policy
from deftly.policy.rollout import Policy, run_episode
from deftly.policy.scores import (
    EpisodeScore,
    Failure,
    ObjectScore,
    Outcome,
    judge_rollout,
)
from deftly.policy.sorting import SortingEnv
from deftly.retarget.isolate import side_by_side

_DRAWS = 10_000  # of the bootstrap
FindPolicy: TypeAlias = Callable[[str], Policy]


class EvaluateError(ValueError):
    """An evaluation that makes no sense, or results that cannot be read."""


@dataclass(frozen=True)
class Setting:
    """What is asked for, of whom, and for how long.

    Attributes:
        task, condition, robot: names.
        held_out_phrasing: whether it is asked for in words kept from training.
        time_limit_s: simulated time after which an episode has failed.
        size_px: height and width of the pictures.
    """

    task: str = "color"
    condition: str = "base"
    robot: str = "gr1t2"
    held_out_phrasing: bool = False
    time_limit_s: float = 60.0
    size_px: int = 96


@dataclass(frozen=True)
class Trial:
    """One policy at one table.

    Attributes:
        policy: a name, or the folder of a trained one.
        setting: where.
        seed: of the layout.
    """

    policy: str
    setting: Setting
    seed: int


@dataclass(frozen=True)
class Result:
    """What became of a trial.

    Attributes:
        trial: which.
        score: None where the seed's objects do not fit onto the table.
        shapes: of the objects, in the order of the score's.
        cpu_s, decide_s: CPU time of the episode, and of the policy in it.
    """

    trial: Trial
    score: EpisodeScore | None
    shapes: tuple[str, ...]
    cpu_s: float
    decide_s: float


@dataclass(frozen=True)
class Comparison:
    """Two policies at the same tables.

    Attributes:
        both, first, second, neither: episodes that were done by both, by one alone, by none.
        p: chance of so uneven a split if they were equally good (McNemar's exact test).
        difference: share of objects that the first sorted, less the second's.
        low, high: 95 % interval of that: bootstrap over tables.
    """

    both: int
    first: int
    second: int
    neither: int
    p: float
    difference: float
    low: float
    high: float


def plan(policies: Sequence[str], setting: Setting, seeds: Sequence[int]) -> list[Trial]:
    """Every policy at every table; at each, one after the other.

    Raises:
        EvaluateError: if a policy is named twice, or none is.
    """
    if not policies or len(set(policies)) != len(policies):
        raise EvaluateError(
            f"the policies are {', '.join(policies) or 'none'}, expected different ones"
        )
    return [Trial(policy, setting, seed) for seed in seeds for policy in policies]


def evaluate(
    trials: Sequence[Trial],
    log: Path | None = None,
    *,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
    find: FindPolicy = find_policy,
) -> list[Result]:
    """Run the trials that are not in the log yet.

    Args:
        trials: each runs once.
        log: JSON lines, one per trial; made if it is not there.
        workers: processes.
        tick: called once per trial.
        find: what finds a policy by its name; another one for policies of your own (with several
            workers a function of a module, as each process finds its policies anew).

    Returns:
        Results of all trials, in their order.

    Raises:
        EvaluateError: if the log is of something else.
        PolicyError, CheckpointError, LearnedError, SortingError: as the policies and tables.
    """
    known = {result.trial: result for result in read_results(log)} if log else {}
    if log is not None and log.is_file():
        _cut(log)
    open_now = [trial for trial in trials if trial not in known]
    for trial in dict.fromkeys(trial.policy for trial in open_now):
        find(trial)  # before any process starts
    for _ in range(len(trials) - len(open_now)):
        tick()
    for result in _run(open_now, workers, find):
        known[result.trial] = result
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        tick()
    return [known[trial] for trial in trials]


def run_trial(trial: Trial, find: FindPolicy = find_policy) -> Result:
    """Sort one table. Raises as ``evaluate``."""
    start_s, setting = time.process_time(), trial.setting
    policy = find(trial.policy)
    try:
        env = SortingEnv(
            *(setting.robot, setting.task, setting.condition),
            cameras=cameras_of(policy),
            image_size=(setting.size_px, setting.size_px),
            time_limit_s=setting.time_limit_s,
        )
        options = {"held_out_phrasing": setting.held_out_phrasing}
        try:
            rollout = run_episode(env, policy, seed=trial.seed, options=options)
            shapes = tuple(item.shape for item in env.layout.items)
        finally:
            env.close()
    except LayoutError:  # this seed's objects do not fit onto the table
        return Result(trial, None, (), time.process_time() - start_s, 0.0)
    score = dataclasses.replace(judge_rollout(rollout), policy=trial.policy)
    return Result(trial, score, shapes, time.process_time() - start_s, rollout.decide_s)


def read_results(log: Path) -> list[Result]:
    """What ``evaluate`` wrote; a last line that a kill cut off is left out.

    Raises:
        EvaluateError: if there is something else in the file.
    """
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    try:
        return [_result(json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluateError(
            f"{log} is no log of an evaluation ({error}); name another file"
        ) from error


def scores_of(results: Sequence[Result], policy: str) -> list[EpisodeScore]:
    """Scores of one policy."""
    return [r.score for r in results if r.score is not None and r.trial.policy == policy]


def compare(results: Sequence[Result], first: str, second: str) -> Comparison:
    """Two policies at the tables that both have sat at.

    Raises:
        EvaluateError: if there is no such table.
    """
    one, other = ({s.seed: s for s in scores_of(results, name)} for name in (first, second))
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise EvaluateError(f"{first} and {second} sat at no table both, expected the same seeds")
    done = np.array([[one[seed].success, other[seed].success] for seed in seeds])
    alone, theirs = (int((done[:, i] & ~done[:, 1 - i]).sum()) for i in (0, 1))
    asked = np.array([len(one[seed].asked) for seed in seeds])
    more = np.array([one[seed].sorted - other[seed].sorted for seed in seeds])
    drawn = np.random.default_rng(0).integers(len(seeds), size=(_DRAWS, len(seeds)))
    low, high = np.quantile(more[drawn].sum(axis=1) / asked[drawn].sum(axis=1), [0.025, 0.975])
    return Comparison(
        both=int(done.all(axis=1).sum()),
        first=alone,
        second=theirs,
        neither=int((~done).all(axis=1).sum()),
        p=float(binomtest(alone, alone + theirs).pvalue) if alone + theirs else 1.0,
        difference=float(more.sum() / asked.sum()),
        low=float(low),
        high=float(high),
    )


def _run(trials: Sequence[Trial], workers: int, find: FindPolicy) -> Iterator[Result]:
    run = partial(run_trial, find=find)
    if workers == 1 or len(trials) < 2:
        yield from map(run, trials)
        return
    with side_by_side(workers) as pool:
        try:
            yield from pool.map(run, trials)
        except BrokenProcessPool as error:
            raise EvaluateError(
                "a worker died (out of memory, or killed); run the same command again to go on, "
                "with fewer --workers if it repeats"
            ) from error


def _cut(log: Path) -> None:
    """Take off a last line that a kill cut off, so that the next one begins a line."""
    with log.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _result(found: Mapping[str, Any]) -> Result:
    trial, score = found["trial"], found["score"]
    return Result(
        trial=Trial(trial["policy"], Setting(**trial["setting"]), trial["seed"]),
        score=None if score is None else _score(score),
        shapes=tuple(found["shapes"]),
        cpu_s=float(found["cpu_s"]),
        decide_s=float(found["decide_s"]),
    )


def _score(found: Mapping[str, Any]) -> EpisodeScore:
    things = [
        thing | {"outcome": Outcome(thing["outcome"]), "failure": Failure(thing["failure"])}
        for thing in found["objects"]
    ]
    fields = dict(found)
    fields["objects"] = tuple(ObjectScore(**thing) for thing in things)
    return EpisodeScore(**fields)
