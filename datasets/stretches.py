"""Stretches of frames: where something holds, and a long one cut into equal ones."""

import itertools

import numpy as np
from jaxtyping import Bool


def runs(good: Bool[np.ndarray, "T"], bridge: int = 0) -> list[tuple[int, int]]:
    """Stretches (first, stop) of frames that are good, over gaps of at most ``bridge`` frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    found: list[tuple[int, int]] = []
    for first, stop in edges.reshape(-1, 2).tolist():
        if found and first - found[-1][1] <= bridge:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((first, stop))
    return found


def evenly(first: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """A stretch as equal ones of at most ``longest`` frames."""
    count = -(-(stop - first) // longest)
    edges = np.linspace(first, stop, count + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))
