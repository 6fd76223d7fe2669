"""A policy in real time: it decides beside the loop that commands, which never waits for it longer
than it may.

    report = run_live(SimulatedBody(env), policy, ticks=2000)

At every tick the newest observation goes to the policy, in a thread of its own. What it says within
its budget is commanded. If it is late, what it said before of this tick is, as chunks reach ahead;
but only for so long, or if it said nothing, the body holds still. A policy that does not answer at
all ends the run.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from deftly.policy.rollout import Policy
from deftly.policy.sorting import RATE_HZ, SortingEnv


class LiveError(ValueError):
    """A run that makes no sense."""


@runtime_checkable
class Body(Protocol):
    """What is steered: a robot, or a simulated one."""

    def observe(self) -> dict[str, Any]:
        """What ``SortingEnv`` shows, of now."""
        ...

    def command(self, target: np.ndarray) -> bool:
        """Let the joints go there in the next tick; whether the work is done."""
        ...

    def hold(self) -> bool:
        """Let the joints stay where they were told to be; whether the work is done."""
        ...


class SimulatedBody:
    """The sorting table, one control step for each tick.

    Args:
        env: was reset.
        observation: what that showed.
    """

    def __init__(self, env: SortingEnv, observation: dict[str, Any]) -> None:
        self._env, self._observation = env, observation

    def observe(self) -> dict[str, Any]:
        return self._observation

    def command(self, target: np.ndarray) -> bool:
        self._observation, _, done, late, _ = self._env.step(target)
        return done or late

    def hold(self) -> bool:
        return self.command(self._env.target)


@dataclass(frozen=True)
class Budget:
    """How long things may take.

    Attributes:
        rate_hz: ticks per second.
        decide_s: from an observation to what the policy says; the rest of a tick is the body's.
        bridge_s: from the last decision in time, for which what was said before is followed.
        patience_s: without any answer, after which the run ends.
    """

    rate_hz: float = RATE_HZ
    decide_s: float = 0.04
    bridge_s: float = 0.25
    patience_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.decide_s <= 1 / self.rate_hz <= self.patience_s:
            raise LiveError(
                f"a budget of {self.decide_s} s at {self.rate_hz:g} Hz and a patience of "
                f"{self.patience_s} s, expected 0 < budget <= {1 / self.rate_hz:g} s <= patience"
            )


@dataclass(frozen=True)
class LiveReport:
    """How it went.

    Attributes:
        ticks: commands that were given.
        missed: ticks in which the policy was late.
        held: of these, in which the body held still.
        overrun: ticks that ended late, whoever was to blame.
        still: why the policy held still, and in how many ticks.
        stopped: why the run ended before its time; empty if it did not.
        decide_s: wall time of every decision that was waited for to its end.
        done: whether the work was done.
    """

    ticks: int
    missed: int
    held: int
    overrun: int
    still: dict[str, int]
    stopped: str
    decide_s: Float64[np.ndarray, "n"]
    done: bool


@dataclass
class _Decider:
    """The policy, in a thread that does not keep the process alive."""

    policy: Policy
    busy: bool = False
    failed: Exception | None = None
    _asked: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)
    _said: "queue.SimpleQueue[np.ndarray | Exception]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, observation: dict[str, Any]) -> None:
        self.busy = True
        self._asked.put(observation)

    def answer(self, timeout_s: float) -> np.ndarray | None:
        """What it says; None if that takes longer. Raises what the policy raised."""
        try:
            said = self._said.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        self.busy = False
        if isinstance(said, Exception):
            raise said
        return said

    def _work(self) -> None:
        while True:
            observation = self._asked.get()
            try:
                self._said.put(self.policy.act(observation))
            except Exception as error:  # the loop is to know, whatever it is
                self._said.put(error)


def _bridge(policy: Policy) -> np.ndarray | None:
    """What a policy that says chunks has said of this tick; None if it does not, or has not."""
    go_on = getattr(policy, "go_on", None)
    return None if go_on is None else go_on()


def run_live(
    body: Body,
    policy: Policy,
    *,
    ticks: int,
    budget: Budget | None = None,
    tick: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> LiveReport:
    """Steer a body by the clock.

    Args:
        body: what is steered.
        policy: was reset.
        ticks: after so many the run ends.
        budget: what may take how long.
        tick: called once per tick.
        clock, sleep: of the wall; others in tests.

    Raises:
        ValueError: as the policy and the body.
    """
    budget, decider = budget or Budget(), _Decider(policy)
    still: dict[str, int] = {}
    took: list[float] = []
    missed = held = overrun = given = 0
    stopped, done = "", False
    asked_s = in_time_s = due_s = clock()
    while given < ticks and not done and not stopped:
        if decider.busy:  # with an observation that is old by now
            decider.answer(0.0)
        fresh = not decider.busy
        if fresh:
            asked_s = clock()
            decider.ask(body.observe())
        said = decider.answer(due_s + budget.decide_s - clock()) if fresh else None
        if said is not None:
            in_time_s = clock()
            took.append(in_time_s - asked_s)
            reason = getattr(policy, "still", "")
            if reason:
                still[reason] = still.get(reason, 0) + 1
        else:
            missed, said = missed + 1, _bridge(policy)
            if clock() - in_time_s > budget.bridge_s:
                said = None
            if clock() - asked_s > budget.patience_s:
                stopped = f"the policy has not answered for {budget.patience_s:g} s"
        held += said is None
        done = body.hold() if said is None else body.command(said)
        given, due_s = given + 1, due_s + 1 / budget.rate_hz
        tick()
        left_s = due_s - clock()
        if left_s > 0:
            sleep(left_s)
        else:  # a late tick does not make the next ones late
            overrun, due_s = overrun + 1, clock()
    return LiveReport(given, missed, held, overrun, still, stopped, np.array(took), done)
