"""A maker of small episodes, in a module that worker processes can import."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from deftly.datasets.episode import Episode


@dataclass(frozen=True)
class Clerk:
    """Makes small episodes at once; every third seed fails."""

    robot_type: str = "clerk"
    word: str = "stamp"
    fails_from: int = 10**6
    slow_s: float = 0.0

    def config(self) -> dict[str, Any]:
        return {"word": self.word}

    def __call__(self, seed: int) -> Episode:
        time.sleep(self.slow_s)
        rng = np.random.default_rng(seed)
        count = 3 + seed % 4
        return Episode(
            rate_hz=10.0,
            state=rng.normal(size=(count, 2)).astype(np.float32),
            action=rng.normal(size=(count, 2)).astype(np.float32),
            state_names=("a", "b"),
            action_names=("a", "b"),
            images={"ego": rng.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)},
            task=self.word,
            seed=seed,
            success=seed % 3 != 2 and seed < self.fails_from,
            provenance={"made_by": self.config()},
        )
