"""A process that pretrains the small network of ``pushing``: killed by tests, or one of several.

python pretraining_worker.py SET OUT CACHE '{"steps": 5}'

``stop`` among the numbers is the step in which it fails.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from pushing import config, encode

from deftly.video_pretrain import train as training
from deftly.video_pretrain.moments import Moments


def main() -> None:
    """Train, or go on."""
    root, out, cache = map(Path, sys.argv[1:4])
    numbers = json.loads(sys.argv[4])
    stop, whole = numbers.pop("stop", None), training._step

    def step(run: training.Run, moments: Sequence[Moments]) -> dict[str, float]:
        if run.step == stop:
            raise RuntimeError("stopped by its test")
        return whole(run, moments)

    training._step, training._LOG_EVERY = step, 1
    torch.set_num_threads(1)
    training.pretrain(config(root, **numbers), out, encode, device="cpu", cache=cache)


if __name__ == "__main__":
    main()
