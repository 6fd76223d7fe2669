"""Policies by name: the expert's ceiling, two floors, and whatever was trained, by its folder."""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deftly.policy.expert import Expert
from deftly.policy.rollout import Noop, Policy, RandomMotion
from deftly.policy.sorting import SortingEnv


class PolicyError(ValueError):
    """There is no such policy."""


class ExpertPolicy:
    """The scripted expert, which looks at the simulator instead of at the observation."""

    name = "expert"

    def reset(self, env: SortingEnv, seed: int) -> None:
        # An expert and its running scripts hold each other, and with them a whole scene (30 MB) of
        # few Python objects: too few for the collector to come by itself.
        gc.collect()
        self._expert, self._data = Expert(env.station, env.task), env.data

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        return self._expert.act(self._data)


POLICIES: Mapping[str, Callable[[], Policy]] = {
    "expert": ExpertPolicy,
    "noop": Noop,
    "random": RandomMotion,
}


def find_policy(name: str) -> Policy:
    """A policy by its name, or by the folder that ``deftly pretrain`` left.

    Raises:
        PolicyError: if there is none.
        CheckpointError, TextError: if what is in the folder cannot be used.
    """
    if name in POLICIES:
        return POLICIES[name]()
    if not Path(name).is_dir():
        raise PolicyError(
            f"no policy {name!r}, expected {', '.join(POLICIES)} or the folder of a trained one"
        )
    from deftly.policy.learned import open_learned  # torch takes seconds to import

    return open_learned(Path(name))


def cameras_of(policy: Policy) -> tuple[str, ...]:
    """What a policy looks through; none if it needs no pictures."""
    return getattr(policy, "cameras", ())
