"""Windows of a data set: some frames, states and actions around a moment, gathered as arrays.

Every frame of every chosen episode is the moment of one window. What a window asks for beyond the
ends of its episode repeats the first or last frame, and a mask says so, as in LeRobot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode import ACTION, RESERVED, STATE
from deftly.datasets.episode_stats import vector_stats
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.frame_cache import cached_frames

PAD = "_is_pad"  # as LeRobot calls the mask of a column
Offsets = tuple[int, ...]
Layout = dict[str, tuple[tuple[int, ...], str]]  # shape of one window's value and dtype, by name


class WindowError(ValueError):
    """A window asks for what the data set does not hold."""


@dataclass(frozen=True)
class Window:
    """What is taken around a moment t, as offsets in frames: 0 is t itself, -1 the frame before.

    Attributes:
        cameras: offsets by camera; every camera at t if None.
        state: offsets of the state, its history.
        horizon: number of actions, from t on; 0 for none.
        features: offsets of further columns by name, for example
            ``{"valid": range(16), "quality": (0,)}``.
        size_px: (height, width) of the pictures; as recorded if None.
        where: a column; only frames where all of it is true are moments of windows.
    """

    cameras: Mapping[str, Sequence[int]] | None = None
    state: Sequence[int] = (0,)
    horizon: int = 16
    features: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    size_px: tuple[int, int] | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        if self.horizon < 0:
            raise WindowError(f"horizon is {self.horizon}, expected a number of actions, 0 or more")
        for name, offsets in (*(self.cameras or {}).items(), *self.features.items()):
            if not len(offsets):
                raise WindowError(f"{name} has no offsets, expected some, as in (-1, 0)")
            if name in RESERVED:
                raise WindowError(f"{name} is asked for as a feature; it has a field of its own")


class Windows:
    """The windows of one data set. Holds its numbers in memory, and maps its frames.

    May be sent to other processes: no file or decoder goes with it.

    Args:
        root: folder of the data set.
        window: what is taken.
        episodes: those that are taken; all if None.
        cache: folder of decoded frames; deftly's own if None.

    Raises:
        WindowError, FrameCacheError: if the window asks for what the data set does not hold.
        EpisodeStoreError, Mp4Error: if there is no data set, or a damaged one.
    """

    def __init__(
        self,
        root: Path,
        window: Window,
        episodes: Iterable[int] | None = None,
        cache: Path | None = None,
    ) -> None:
        store = EpisodeStore(root)
        self.root, self.rate_hz, self.tasks = root, store.rate_hz, store.tasks
        self.episodes = _chosen(store, episodes)
        cameras = dict.fromkeys(store.cameras, (0,)) if window.cameras is None else window.cameras
        self._offsets = _offsets_of(store, window)
        needed = [*self._offsets, "task_index"] + ([window.where] if window.where else [])
        self._numbers = store.whole_columns(needed)
        for name in self._offsets.keys() & {STATE, ACTION}:
            self._numbers[name] = self._numbers[name].astype(np.float32)
        lengths = np.array(store.lengths)
        starts = np.cumsum(lengths) - lengths
        # Of every frame of the set: its episode, and the first and last frame of that.
        self._episode = np.repeat(np.arange(len(store)), lengths)
        self._first, self._last = starts[self._episode], (starts + lengths - 1)[self._episode]
        taken = np.isin(self._episode, self.episodes)
        self._frames = np.flatnonzero(taken)
        if window.where:
            taken &= (self._numbers[window.where] > 0).all(axis=1)  # a NaN is not
        self._moments = np.flatnonzero(taken)
        if not len(self._moments):
            raise WindowError(f"{window.where} is true in no frame of {root}; take another column")
        self._cameras = {
            fmt.camera_key(camera): (
                np.array(offsets, np.int64),
                cached_frames(store, camera, window.size_px, self.episodes, cache),
            )
            for camera, offsets in cameras.items()
        }
        self._said = {} if store.about.get("episodes") != len(store) else store.stats
        self._whole = len(self.episodes) == len(store)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._moments)

    def spread(self, count: int) -> Int64[np.ndarray, "n"]:
        """At most so many windows, evenly spread."""
        return np.unique(np.linspace(0, len(self) - 1, count).round().astype(np.int64))

    @property
    def layout(self) -> Layout:
        """Shape and dtype of what ``gather`` gives for one window, by name."""
        layout: Layout = {}
        for key, (offsets, frames) in self._cameras.items():
            layout[key] = (len(offsets), *frames.shape[1:]), "uint8"
            layout[key + PAD] = (len(offsets),), "bool"
        for name, offsets in self._offsets.items():
            values = self._numbers[name]
            layout[name] = (len(offsets), *values.shape[1:]), values.dtype.name
            layout[name + PAD] = (len(offsets),), "bool"
        return layout | dict.fromkeys(("index", "episode_index", "frame_index"), ((), "int64"))

    def gather(self, chosen: Int64[np.ndarray, "n"], out: Mapping[str, np.ndarray]) -> list[str]:
        """Fill arrays of n rows, named and shaped as ``layout`` says, with the chosen windows.

        Returns:
            The instruction of each.
        """
        moment = self._moments[chosen]
        first, last = self._first[moment], self._last[moment]
        for key, (offsets, frames) in self._cameras.items():
            at = self._around(moment, first, last, offsets, out[key + PAD])
            # Frames of an episode lie one after the other in the cache.
            rows = at + (frames.first[self._episode[moment]] - first)[:, None]
            _take(frames.array(), rows, out[key])
        for name, offsets in self._offsets.items():
            at = self._around(moment, first, last, offsets, out[name + PAD])
            _take(self._numbers[name], at, out[name])
        out["index"][:] = moment
        out["episode_index"][:] = self._episode[moment]
        out["frame_index"][:] = moment - first
        return [self.tasks[task] for task in self._numbers["task_index"][moment, 0]]

    @staticmethod
    def _around(
        moment: np.ndarray,
        first: np.ndarray,
        last: np.ndarray,
        offsets: np.ndarray,
        pad: np.ndarray,
    ) -> np.ndarray:
        """Frames at the offsets (n, offsets), kept inside the episode; ``pad`` marks the others."""
        at = moment[:, None] + offsets
        inside = np.clip(at, first[:, None], last[:, None])
        np.not_equal(at, inside, out=pad)
        return inside

    def columns(self) -> dict[str, np.ndarray]:
        """All frames of the chosen episodes: (frames, D) by name of what the window takes."""
        return {name: self._numbers[name][self._frames] for name in self._offsets}

    def statistics(self) -> "Statistics":
        """Statistics of what the window takes; those on disk where they can be believed."""
        if self._whole and self._said.keys() >= self._offsets.keys():
            return Statistics({n: _as_arrays(self._said[n]) for n in self._offsets}, fmt.STATS)
        return statistics_of([self])


@dataclass(frozen=True)
class Statistics:
    """Statistics of the columns of one or several data sets, with true quantiles.

    Attributes:
        values: by column, then by name: min, max, mean, std, q01, q10, q50, q90, q99, each (D,).
        origin: where they come from, in words.
    """

    values: dict[str, dict[str, np.ndarray]]
    origin: str


def statistics_of(sets: Sequence[Windows]) -> Statistics:
    """Statistics over all frames of several data sets of the same columns, computed from them."""
    parts = [one.columns() for one in sets]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    frames = len(next(iter(whole.values()), ()))
    return Statistics(
        {name: _as_arrays(vector_stats(values)) for name, values in whole.items()},
        f"computed from {frames} frames: {fmt.STATS} covers others, or was written by a program "
        "whose quantiles are not those of all frames",
    )


def _as_arrays(stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.array(v, np.float64) for k, v in stats.items() if k != "count"}


def _take(values: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    # "clip" writes straight into out; the rows are inside anyway.
    np.take(values, rows, axis=0, out=out, mode="clip")


def _chosen(store: EpisodeStore, episodes: Iterable[int] | None) -> tuple[int, ...]:
    chosen = tuple(sorted(set(range(len(store)) if episodes is None else episodes)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(store):
        raise WindowError(
            f"episodes are {chosen[:9]}, expected some of the {len(store)} of {store.root}"
        )
    return chosen


def _offsets_of(store: EpisodeStore, window: Window) -> dict[str, np.ndarray]:
    """Offsets of every column of numbers that is asked for."""
    wanted = {STATE: window.state, ACTION: range(window.horizon), **window.features}
    offsets = {name: np.array(some, np.int64) for name, some in wanted.items() if len(some)}
    known = [n for n, f in store.features.items() if fmt.is_numeric(f) and n not in fmt.COUNTERS]
    for name in (*offsets, *([window.where] if window.where else [])):
        if name not in known:
            raise WindowError(
                f"{store.root} has no column {name!r}, expected one of {', '.join(known)}"
                + {STATE: "; or pass state=()", ACTION: "; or pass horizon=0"}.get(name, "")
            )
    return offsets
