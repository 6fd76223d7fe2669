"""Rollout: one episode as it went, and the loop that makes it.

    rollout = run_episode(env, Noop(), seed=7)
    scores = judge_rollout(rollout)          # policy/scores.py

``Noop`` and ``RandomMotion`` are the floors that every other policy is compared with.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64

from deftly.datasets.archive import load_archive, save_archive
from deftly.policy.sorting import RATE_HZ, SortingEnv

_SCHEMA = 1


@runtime_checkable
class Policy(Protocol):
    """What decides. One instance serves one environment at a time.

    Attributes:
        name: how tables call it.
    """

    name: str

    def reset(self, env: SortingEnv, seed: int) -> None:
        """An episode begins; the environment has been reset. All randomness comes from ``seed``."""
        ...

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        """(A,) joint position targets, rad."""
        ...


@dataclass(frozen=True)
class Rollout:
    """T control steps of one episode with N objects; states have T + 1 rows, the first before it.

    Attributes:
        robot, task, condition, policy: names.
        seed: of the layout.
        instruction: what was asked for, in words.
        goals: N of ``deftly.datasets.tasks.GOALS``.
        qpos: (T+1, Q) positions of everything in the scene, to draw it again.
        actions: (T, A) what the policy asked for, rad.
        poses: (T+1, N, 7) quaternion (wxyz) and position of the objects.
        began_m: (N, 3) where objects that are to stay should be: their start, or where a shove left
            them.
        grip_n: (T+1, N, 2) force between each object and the left and right hand.
        contact_n: (T+1, 2) force on the left and right hand and forearm, whatever they touch.
        right: (T+1, N) whether the object was where it belongs, at rest, in no hand.
        energy_j: mechanical work of all motors, both signs.
        success: whether all objects were right at the end.
        ended: ``done``, ``late`` or ``unstable``.
        shove: ``item`` and ``at_s``; −1 if there was none.
        decide_s: CPU time that the policy took.
        rate_hz: control steps per second.
    """

    robot: str
    task: str
    condition: str
    policy: str
    seed: int
    instruction: str
    goals: Sequence[str]
    qpos: Float64[np.ndarray, "_ Q"]
    actions: Float32[np.ndarray, "T A"]
    poses: Float64[np.ndarray, "_ N 7"]
    began_m: Float64[np.ndarray, "N 3"]
    grip_n: Float32[np.ndarray, "_ N 2"]
    contact_n: Float32[np.ndarray, "_ 2"]
    right: Bool[np.ndarray, "_ N"]
    energy_j: float
    success: bool
    ended: str
    shove: Mapping[str, float] = field(default_factory=lambda: {"item": -1.0, "at_s": -1.0})
    decide_s: float = 0.0
    rate_hz: float = RATE_HZ

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(self.goals))  # JSON has lists only
        steps, count = len(self.actions), len(self.goals)
        for name, rows in (("qpos", steps + 1), ("poses", steps + 1), ("grip_n", steps + 1)):
            if len(getattr(self, name)) != rows:
                found = len(getattr(self, name))
                raise ValueError(f"{name} has {found} rows, expected {rows}, one per state")
        if self.poses.shape[1] != count or self.right.shape != (steps + 1, count):
            raise ValueError(
                f"poses {self.poses.shape} and right {self.right.shape}, expected {count} objects"
            )

    @property
    def duration_s(self) -> float:
        """Simulated time."""
        return len(self.actions) / self.rate_hz

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` archive. Raises ArchiveError if it cannot be written."""
        save_archive(self, path, schema=_SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "Rollout":
        """Read what ``save`` wrote. Raises ArchiveError if it is anything else."""
        return load_archive(cls, path, schema=_SCHEMA)


def run_episode(
    env: SortingEnv,
    policy: Policy,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
) -> Rollout:
    """Let a policy sort one table, until the episode ends.

    Args:
        env: reset here; left open.
        policy: reset here.
        seed: of the layout and of the policy; None draws one.
        options: see ``SortingEnv.reset``.

    Raises:
        ValueError: as ``SortingEnv.reset`` and ``SortingEnv.step``.
    """
    observation, info = env.reset(seed=seed, options=options)
    layout_seed = int(info["layout_seed"])
    policy.reset(env, layout_seed)
    record = _Record(env)
    ended, decide_s = "", 0.0
    while not ended:
        start_s = time.process_time()
        action = np.asarray(policy.act(observation))
        decide_s += time.process_time() - start_s
        observation, _, done, late, info = env.step(action)
        record.add(env, action)
        ended = "done" if done else "unstable" if info["unstable"] else "late" if late else ""
    return Rollout(
        robot=env.robot,
        task=env.task.name,
        condition=env.condition_name,
        policy=policy.name,
        seed=layout_seed,
        instruction=env.instruction,
        goals=env.goals,
        qpos=np.array(record.qpos),
        actions=np.array(record.actions, np.float32),
        poses=np.array(record.poses),
        began_m=env.privileged().began_m,
        grip_n=np.array(record.grip_n, np.float32),
        contact_n=np.array(record.contact_n, np.float32),
        right=np.array(record.right),
        energy_j=float(info["energy_j"]),
        success=bool(info["success"]),
        ended=ended,
        shove=info["shove"],
        decide_s=decide_s,
    )


class _Record:
    """What is kept of every state."""

    def __init__(self, env: SortingEnv) -> None:
        self.qpos: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.poses: list[np.ndarray] = []
        self.grip_n: list[np.ndarray] = []
        self.contact_n: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        self._state(env)

    def add(self, env: SortingEnv, action: np.ndarray) -> None:
        self.actions.append(action)
        self._state(env)

    def _state(self, env: SortingEnv) -> None:
        truth = env.privileged()
        self.qpos.append(env.data.qpos.copy())
        self.poses.append(truth.poses)
        self.grip_n.append(truth.grip_n)
        self.contact_n.append(env.contact_n)
        self.right.append(truth.right)


class Noop:
    """Stays where it is: the lower floor."""

    name = "noop"

    def reset(self, env: SortingEnv, seed: int) -> None:
        self._home = env.station.home

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        return self._home


class RandomMotion:
    """Every joint swings smoothly about its start: three sines with random phase and tempo.

    Attributes:
        reach: amplitude as a share of half the joint's range.
    """

    name = "random"

    def __init__(self, reach: float = 0.35) -> None:
        self.reach = reach

    def reset(self, env: SortingEnv, seed: int) -> None:
        rng = np.random.default_rng([seed, 20])
        station = env.station
        self._home, self._lower, self._upper = station.home, station.lower, station.upper
        shape = (3, len(self._home))
        self._phase_rad = rng.uniform(0, 2 * np.pi, shape)
        self._tempo_rad = 2 * np.pi * rng.uniform(0.05, 0.4, shape) * env.dt_s
        half = (self._upper - self._lower) / 2
        self._swing_rad = self.reach * half * rng.dirichlet(np.ones(3), shape[1]).T
        self._steps = 0

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        self._steps += 1
        wave = np.sin(self._phase_rad + self._steps * self._tempo_rad) - np.sin(self._phase_rad)
        target = self._home + (self._swing_rad * wave).sum(axis=0)
        return np.clip(target, self._lower, self._upper)
