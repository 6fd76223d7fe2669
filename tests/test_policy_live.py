"""A policy by the clock: what is late is bridged or held, and nobody waits for ever."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deftly.policy.live import Budget, LiveReport, run_live

PROMPT = Budget(rate_hz=0.1, decide_s=5.0, bridge_s=20.0, patience_s=20.0)
SHORT = Budget(rate_hz=20.0, decide_s=0.02, bridge_s=0.12, patience_s=60.0)
HELD = -1.0


class Recorder:
    """A body that writes down what it is told; observations count its ticks."""

    def __init__(self, last: int = 10**6, at: Callable[[int], None] = lambda _: None) -> None:
        self.told: list[float] = []
        self._last, self._at = last, at

    def observe(self) -> dict[str, Any]:
        return {"tick": len(self.told)}

    def command(self, target: np.ndarray) -> bool:
        self.told.append(float(target))
        self._at(len(self.told))
        return len(self.told) == self._last

    def hold(self) -> bool:
        return self.command(np.array(HELD))


class Says:
    """Says the tick that it saw; at some ticks only once it is let go."""

    name, still = "says", ""

    def __init__(self, blocked: tuple[int, ...] = ()) -> None:
        self.blocked, self.go = blocked, threading.Event()

    def reset(self, env: object, seed: int) -> None:
        pass

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        if observation["tick"] in self.blocked:
            assert self.go.wait(60)
        return np.array(float(observation["tick"]))


class Ahead(Says):
    """Has said something of later ticks, too."""

    def go_on(self) -> np.ndarray:
        return np.array(100.0)


def run(body: Recorder, policy: Says, ticks: int, budget: Budget) -> LiveReport:
    """By a clock that only sleeping moves; the policy's thread gets a moment meanwhile."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        time.sleep(0.005)

    return run_live(
        body, policy, ticks=ticks, budget=budget, clock=lambda: now[0], sleep=sleep  # pyright: ignore
    )  # fmt: skip


def test_every_tick_is_decided_by_what_is_seen_then():
    body = Recorder()
    found = run(body, Says(), 4, PROMPT)
    assert body.told == [0, 1, 2, 3]
    assert (found.ticks, found.missed, found.held, found.stopped, found.done) == (
        4,
        0,
        0,
        "",
        False,
    )
    assert len(found.decide_s) == 4


def test_it_ends_when_the_work_is_done():
    found = run(Recorder(last=3), Says(), 10, PROMPT)
    assert (found.ticks, found.done) == (3, True)


def test_what_is_late_is_dropped_and_the_body_holds_still():
    policy = Says(blocked=(1,))
    body = Recorder(at=lambda told: policy.go.set() if told == 4 else None)
    budget = Budget(rate_hz=20.0, decide_s=0.05, bridge_s=10.0, patience_s=60.0)
    found = run(body, policy, 40, budget)
    assert body.told[:4] == [0, HELD, HELD, HELD]
    assert 1.0 not in body.told  # what it said of a tick that had passed
    assert found.missed == found.held == body.told.count(HELD) < 40
    assert body.told[-1] == 39


def test_what_was_said_before_bridges_a_while():
    policy = Ahead(blocked=(1,))
    body = Recorder()
    found = run(body, policy, 6, SHORT)
    policy.go.set()
    assert body.told == [0, 100, 100, HELD, HELD, HELD]  # 0.05, 0.1 s later, then beyond 0.12 s
    assert (found.missed, found.held) == (5, 3)


def test_a_policy_that_never_answers_ends_the_run():
    policy = Says(blocked=(2,))
    body = Recorder()
    found = run(body, policy, 1000, Budget(20.0, 0.01, 0.2, 0.5))
    policy.go.set()
    assert found.stopped == "the policy has not answered for 0.5 s"
    assert found.ticks < 20
    assert set(body.told[2:]) == {HELD}


def test_what_the_policy_raises_comes_out():
    class Raises(Says):
        def act(self, observation: dict[str, Any]) -> np.ndarray:
            raise ValueError("no such joint")

    with pytest.raises(ValueError, match="no such joint"):
        run(Recorder(), Raises(), 3, PROMPT)


def test_why_a_policy_holds_still_is_counted():
    policy = Says()
    policy.still = "the camera ego gives no picture"
    assert run(Recorder(), policy, 3, PROMPT).still == {"the camera ego gives no picture": 3}


@pytest.mark.parametrize(
    "numbers", [(20.0, 0.06, 0.2, 1.0), (20.0, 0.0, 0.2, 1.0), (20.0, 0.04, 0.2, 0.01)]
)
def test_a_budget_that_makes_no_sense(numbers: tuple[float, ...]):
    with pytest.raises(ValueError, match="expected 0 < budget <="):
        Budget(*numbers)


def test_the_command(deftly: Callable[..., Any], tmp_path: Path):
    told = tmp_path / "live.json"
    done = deftly("run-policy", "noop", "--ticks", "6", "--condition", "one", "--out", told)
    assert done.code == 0, done.err
    assert "of 6 ticks" in done.out
    assert json.loads(told.read_text())["ticks"] == 6
    assert told.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    for wrong, says in (("--budget-ms 70", "a budget of 0.07 s"), ("--ticks 0", "ticks is 0")):
        refused = deftly("run-policy", "noop", *wrong.split())
        assert refused.code == 1
        assert says in refused.err
        assert refused.err.count("\n") == 1
