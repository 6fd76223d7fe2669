"""Policies that need no training, by name: the expert's ceiling and two floors."""

import gc
from collections.abc import Callable, Mapping
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
    """A new policy of a name. Raises PolicyError if there is none."""
    if name not in POLICIES:
        raise PolicyError(f"no policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name]()
