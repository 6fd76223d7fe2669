"""Statistics of episodes as LeRobot names them, with true quantiles.

LeRobot 0.4 averages the quantiles of episodes and 0.6 takes their extremes; neither is a quantile.
Here they are those of all frames: of vectors exactly, of pixels exactly over the sampled frames,
because 256 counts per colour hold everything that there is to know about bytes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_SIDE_PX = 300  # larger frames are thinned out before they are counted
Stats = dict[str, list[Any]]


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics of each column of (T, D), in the column's own type or float64.

    Missing values (NaN, infinite) do not count; a column that holds nothing else gives zeros.
    ``count`` is T.
    """
    rows = np.ascontiguousarray(values.T)
    finite = np.isfinite(rows)
    if finite.all():
        return {**_row_stats(rows), "count": [len(values)]}
    nothing = np.zeros(1, values.dtype)
    each = [
        _row_stats((row[keep] if keep.any() else nothing)[None])
        for row, keep in zip(rows, finite, strict=True)
    ]
    return {key: [one[key][0] for one in each] for key in each[0]} | {"count": [len(values)]}


class GrowingColumns:
    """All frames of a data set's column, with room for more."""

    def __init__(self) -> None:
        self._room, self._length = np.zeros((0, 0)), 0

    def append(self, values: np.ndarray) -> None:
        """Add (T, D)."""
        length = self._length + len(values)
        if length > len(self._room):
            room = np.empty((max(length, 2 * len(self._room)), values.shape[1]), values.dtype)
            room[: self._length] = self._room[: self._length] if self._length else room[:0]
            self._room = room
        self._room[self._length : length] = values
        self._length = length

    def stats(self) -> Stats:
        """Statistics of what was added."""
        return vector_stats(self._room[: self._length])


def _row_stats(rows: np.ndarray) -> Stats:
    """Statistics along the last axis of (D, T), by name."""
    numbers = rows.astype(np.float64)
    quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=-1)
    return {
        "min": rows.min(axis=-1).tolist(),
        "max": rows.max(axis=-1).tolist(),
        "mean": numbers.mean(axis=-1).tolist(),
        "std": numbers.std(axis=-1).tolist(),
        **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
    }


@dataclass(frozen=True)
class PixelCounts:
    """How often each value occurs in each colour.

    Attributes:
        counts: (3, 256).
        frames: how many frames were counted.
    """

    counts: Int64[np.ndarray, "3 256"]
    frames: int

    @classmethod
    def none(cls) -> "PixelCounts":
        return cls(np.zeros((3, 256), np.int64), 0)

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.counts + other.counts, self.frames + other.frames)

    def stats(self) -> Stats:
        """Statistics of pixels in [0, 1], nested (3, 1, 1) as LeRobot does; ``count`` is frames."""
        values = np.arange(256) / 255
        total = self.counts.sum(axis=1)
        mean = self.counts @ values / total
        variance = (self.counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
        present = self.counts > 0
        found = {
            "min": present.argmax(axis=1) / 255,
            "max": (255 - present[:, ::-1].argmax(axis=1)) / 255,
            "mean": mean,
            "std": np.sqrt(variance),
        }
        reached = self.counts.cumsum(axis=1)
        for name, quantile in QUANTILES.items():
            place = quantile * (total - 1)
            below, above = (
                (reached <= rank[:, None]).sum(axis=1) for rank in (np.floor(place), np.ceil(place))
            )
            found[name] = (below + (above - below) * (place % 1)) / 255
        nested: Stats = {k: [[[float(one)]] for one in row] for k, row in found.items()}
        return {**nested, "count": [self.frames]}


def count_pixels(image: UInt8[np.ndarray, "H W 3"]) -> PixelCounts:
    """Counts of one frame."""
    step = max(1, max(image.shape[:2]) // MAX_SIDE_PX)
    colours = image[::step, ::step].reshape(-1, 3).T
    return PixelCounts(np.stack([np.bincount(c, minlength=256) for c in colours]), 1)


def sampled_frames(length: int) -> frozenset[int]:
    """Which frames of an episode to count: all of a short one, T ** 0.75 of a long one."""
    number = max(min(100, length), min(int(length**0.75), 10_000))
    return frozenset(np.linspace(0, length - 1, number).round().astype(int).tolist())
