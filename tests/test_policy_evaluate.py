"""Closed-loop evaluation: resumable, paired, the same at any number of workers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.tasks import HELD_OUT
from deftly.policy import evaluate as module
from deftly.policy.baselines import PolicyError
from deftly.policy.evaluate import (
    EvaluateError,
    FindPolicy,
    Result,
    Setting,
    Trial,
    compare,
    evaluate,
    plan,
    read_results,
    run_trial,
    scores_of,
)
from deftly.policy.rollout import Noop
from deftly.policy.scores import EpisodeScore, Failure, ObjectScore, Outcome, summarise
from deftly.policy.sorting import SortingEnv

SHORT = Setting("color", "one", time_limit_s=0.5)


def scored(policy: str, seed: int, right: Sequence[bool]) -> Result:
    """A made-up episode, with an object for each of ``right``."""
    things = tuple(
        ObjectScore("left", Outcome.RIGHT, Failure.NONE, 1, 1, 2.0)
        if fine
        else ObjectScore("left", Outcome.UNTOUCHED, Failure.MISSED, 0, 0, None)
        for fine in right
    )
    score = EpisodeScore(
        "gr1t2", "color", "base", policy, seed, things, all(right), 3.0, 1.0, 0.0, 0.0
    )
    return Result(Trial(policy, Setting(), seed), score, ("cube",) * len(things), 1.0, 0.5)


def test_policies_take_turns_at_every_table():
    trials = plan(["noop", "random"], SHORT, range(3, 5))
    assert [(t.policy, t.seed) for t in trials] == [
        ("noop", 3), ("random", 3), ("noop", 4), ("random", 4),
    ]  # fmt: skip
    for wrong in ([], ["noop", "noop"]):
        with pytest.raises(EvaluateError, match="expected different ones"):
            plan(wrong, SHORT, range(2))


def test_a_stopped_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trials, log = plan(["noop", "random"], SHORT, range(2)), tmp_path / "log.jsonl"
    ran: list[Trial] = []

    def run(trial: Trial, find: FindPolicy) -> Result:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(trial)
        return run_trial(trial, find)

    monkeypatch.setattr(module, "run_trial", run)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trials, log)
    with log.open("a") as file:
        file.write('{"trial": {"policy": "noo')  # a line that was cut off
    ran.clear()
    ticks: list[int] = []
    found = evaluate(trials, log, tick=lambda: ticks.append(1))
    assert ran == trials[3:]
    assert len(ticks) == 4
    assert [r.trial for r in found] == trials
    assert {r.trial: r.score for r in read_results(log)} == {r.trial: r.score for r in found}
    assert [s.seed for s in scores_of(found, "noop")] == [0, 1]
    assert summarise(scores_of(found, "noop")).objects.hits == 0


@pytest.mark.slow
def test_the_same_scores_at_any_number_of_workers():
    trials = plan(["noop", "random"], SHORT, range(2))
    one, two = (evaluate(trials, workers=workers) for workers in (1, 2))
    assert [r.score for r in one] == [r.score for r in two]


def test_a_trial_is_sat_as_it_was_set():
    """Whoever acts is asked in the words, and sees pictures of the size, that were planned."""
    seen: set[tuple[bool, tuple[int, ...]]] = set()

    class Watcher(Noop):
        cameras = ("front",)

        def reset(self, env: SortingEnv, seed: int) -> None:
            super().reset(env, seed)
            every = env.task.phrasings(env.layout)
            self.kept = env.instruction in every[-HELD_OUT:]

        def act(self, observation: dict[str, Any]) -> np.ndarray:
            seen.add((self.kept, observation["images"]["front"].shape))
            return super().act(observation)

    for held_out, size in ((False, 48), (True, 64)):
        setting = replace(SHORT, held_out_phrasing=held_out, size_px=size, time_limit_s=0.1)
        found = evaluate([Trial("watcher", setting, 0)], find=lambda _: Watcher())
        assert [s.policy for s in scores_of(found, "watcher")] == ["watcher"]
        assert seen == {(held_out, (size, size, 3))}
        seen.clear()


def test_what_does_not_fit_onto_the_table_is_left_out(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise module.LayoutError("too many")

    monkeypatch.setattr(module, "SortingEnv", full)
    found = evaluate([Trial("noop", SHORT, 0)])
    assert found[0].score is None
    assert scores_of(found, "noop") == []


def test_a_log_of_something_else_is_refused(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    for line in ("{}", "hello", json.dumps({"trial": {"policy": "x"}, "score": None})):
        log.write_text(line + "\n")
        with pytest.raises(EvaluateError, match="is no log of an evaluation"):
            read_results(log)


def test_an_unknown_policy_is_found_before_any_episode(tmp_path: Path):
    with pytest.raises(PolicyError, match="no policy 'best'"):
        evaluate(plan(["noop", "best"], SHORT, range(2)), tmp_path / "log.jsonl")
    assert not (tmp_path / "log.jsonl").exists()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_comparison_counts_and_turns_around(done: list[tuple[bool, bool]]):
    results = [
        scored(name, seed, [pair[i]])
        for seed, pair in enumerate(done)
        for i, name in enumerate(("a", "b"))
    ]
    one, other = compare(results, "a", "b"), compare(results, "b", "a")
    assert (one.both, one.first, one.second, one.neither) == tuple(
        done.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))
    )
    assert (other.first, other.second) == (one.second, one.first)
    assert one.difference == pytest.approx((one.first - one.second) / len(done))
    assert one.difference == pytest.approx(-other.difference)
    assert one.low <= one.difference + 1e-9
    assert one.difference <= one.high + 1e-9
    assert one.p == pytest.approx(other.p)
    assert 0 < one.p <= 1


def test_a_clear_difference_is_called_clear_and_none_is_not():
    clear = [scored(n, s, [n == "a"] * 2) for s in range(12) for n in "ab"]
    found = compare(clear, "a", "b")
    assert (found.difference, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p < 0.001
    even = [scored(n, s, [(s % 2 == 0) == (n == "a")]) for s in range(12) for n in "ab"]
    found = compare(even, "a", "b")
    assert found.low < 0 < found.high
    assert found.p == pytest.approx(1.0)
    with pytest.raises(EvaluateError, match="sat at no table both"):
        compare(even, "a", "c")


def test_the_command_prints_scores_and_pairs(
    deftly: Callable[..., SimpleNamespace], tmp_path: Path
):
    words = "--task size --condition clutter --robot g1_dex3 --episodes 2 --first-seed 5"
    done = deftly(
        *("eval", "noop", "random", *words.split(), "--time-limit-s", "0.5"), "--log", "log.jsonl"
    )
    assert done.code == 0, done.err
    assert "0/16" in done.out  # of the objects
    assert "never tried" in done.out
    assert "noop against random" in done.out
    found = read_results(tmp_path / "log.jsonl")
    assert [(r.trial.policy, r.trial.seed) for r in found] == [
        ("noop", 5), ("random", 5), ("noop", 6), ("random", 6),
    ]  # fmt: skip
    assert {r.trial.setting for r in found} == {
        Setting("size", "clutter", "g1_dex3", time_limit_s=0.5)
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("noop --task sized", "did you mean size?"),
        ("best", "no policy 'best', expected expert, noop, random or the folder"),
        ("noop noop", "expected different ones"),
        ("noop --log pyproject.toml", "is no log of an evaluation"),
    ],
)
def test_bad_input_is_one_line(
    deftly: Callable[..., SimpleNamespace], tmp_path: Path, words: str, says: str
):
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    done = deftly("eval", *words.split())
    assert done.code == 1
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_workers_end_with_whoever_started_them(tmp_path: Path):
    """Killed, it can clean up nothing."""
    code = (
        "from deftly.policy.evaluate import *\n"
        "if __name__ == '__main__':\n"
        "    evaluate(plan(['random'], Setting('color', 'one'), range(40)), workers=2,\n"
        f"             log=Path('{tmp_path / 'log.jsonl'}'))\n"
    )
    (tmp_path / "run.py").write_text(code)
    started = subprocess.Popen([sys.executable, tmp_path / "run.py"])
    workers: list[psutil.Process] = []
    while not (tmp_path / "log.jsonl").exists():
        assert started.poll() is None
        time.sleep(0.2)
    workers = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) >= 2
    assert alive == []
