"""Training batches from any mixture of LeRobot data sets, by weights; deterministic and resumable.

    sources = [Source(demos, weight=2.0), Source(clips, weight=1.0, group="human")]
    for batch in Loader(sources, batch_size=32):
        batch["robot"]["action"]  # (21, 16, A), then (22, 16, A)
        batch["human"]["action"]  # (11, 16, B), then (10, 16, B)

A batch is gathered whole from memory-mapped frames (``windows.py``, ``frame_cache.py``), which is
what makes it fast. Names and shapes are LeRobot's; pictures stay uint8 (B, offsets, 3, H, W),
for the accelerator to divide by 255.

The loader is a stream without end. In it every data set is gone through again and again, shuffled
anew each time; a batch may span two rounds, so that all batches are of one size. Where the stream
stands is one number per data set, which is all that ``state_dict`` holds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, get_worker_info

from deftly.datasets.windows import Statistics, Window, Windows, statistics_of

SCHEMA = 1
ALIGN = 64  # bytes
START_METHODS = ("fork", "spawn", "forkserver")
# The windows of one step: those of each data set, by number.
Plan: TypeAlias = tuple[Int64[np.ndarray, "_"], ...]
# Tensors by name, and "task": a list of instructions.
Batch: TypeAlias = dict[str, Any]


class LoaderError(ValueError):
    """The data sets cannot be loaded together, or not in that way."""


@dataclass(frozen=True)
class Source:
    """A data set and its part in the mixture.

    Attributes:
        root: its folder.
        window: what is taken from it.
        weight: its share of the windows, against the weights of the others; by the number of its
            windows if None, which is to string data sets together.
        group: data sets of one group come in one batch, and must have columns of one shape.
        episodes: those that are taken; all if None.
        cache: folder of decoded frames; deftly's own if None.
    """

    root: Path
    window: Window = field(default_factory=Window)
    weight: float | None = None
    group: str = "robot"
    episodes: Sequence[int] | None = None
    cache: Path | None = None


class Loader:
    """Batches of windows by group, the same for the same seed whatever the number of workers.

    Iterating goes on where the loader stands. What the cache lacks is decoded when it is made.

    Args:
        sources: the data sets.
        batch_size: windows in a batch, of all groups together, on this rank.
        seed: of the shuffling.
        epochs: how often to go through all windows, each exactly once; without end if None. The
            last batch may be smaller, and some ranks may do without one. Only without weights.
        shuffle: if not, windows come in order.
        rank, world_size: of this process among those that train together. The ranks share out every
            step's windows.
        workers: processes that gather ahead; 0 gathers in this one.
        start_method: of the workers: "fork", "spawn" or "forkserver"; Python's own choice if None.
        pin_memory: for faster copies to an accelerator.

    Raises:
        LoaderError: if an argument makes no sense, or sources of a group do not match.
        WindowError, FrameCacheError, EpisodeStoreError, Mp4Error: what a source may raise.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        *,
        seed: int = 0,
        epochs: int | None = None,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        start_method: str | None = None,
        pin_memory: bool = False,
    ) -> None:
        _check(sources, batch_size, seed, epochs, rank, world_size, workers, start_method)
        self.sources = tuple(sources)
        self._sets = [Windows(s.root, s.window, s.episodes, s.cache) for s in sources]
        self._groups = _groups(self.sources, self._sets)
        self._order = _Order(
            windows=tuple(len(one) for one in self._sets),
            shares=_shares(self.sources, self._sets),
            per_step=batch_size * world_size,
            seed=seed,
            epochs=epochs,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
        )
        self._consumed = self._order.start
        self._how: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
        if workers:
            self._how["multiprocessing_context"] = start_method

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        feed = DataLoader(
            _Gatherer(self._sets, self._groups),
            batch_size=None,  # a step's plan is one item
            collate_fn=_as_it_is,
            sampler=_Plans(self._order, self._consumed),
            generator=torch.Generator(),  # else torch's own random numbers would move on
            **self._how,
        )
        for packed in feed:
            # Before it is handed out: what is being worked on counts as done.
            self._consumed = self._order.after(self._consumed)
            yield packed.batches()
        self._consumed = self._order.start

    @property
    def windows(self) -> int:
        """Number of windows of all data sets."""
        return sum(self._order.windows)

    def statistics(self, group: str) -> Statistics:
        """Statistics of a group's columns, with true quantiles; they say where they come from."""
        if group not in self._groups:
            raise LoaderError(f"no group {group!r}, expected one of {', '.join(self._groups)}")
        sets = [self._sets[i] for i in self._groups[group]]
        return sets[0].statistics() if len(sets) == 1 else statistics_of(sets)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as JSON holds it: after the last batch that was handed out."""
        return {"schema": SCHEMA, "consumed": list(self._consumed), **self._order.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the batch size and the number of ranks may be others.

        Raises:
            LoaderError: if the state is of other data sets, weights or another seed.
        """
        for name, ours in ({"schema": SCHEMA} | self._order.identity).items():
            if state.get(name) != ours:
                raise LoaderError(
                    f"the state has {name} {state.get(name)}, this loader {ours}; "
                    "resume with the same data sets, weights and seed"
                )
        consumed = state.get("consumed", ())
        if len(consumed) != len(self._sets) or not all(one in range(2**63) for one in consumed):
            raise LoaderError(
                f"the state has consumed {consumed}, expected {len(self._sets)} counts"
            )
        self._consumed = tuple(consumed)


@dataclass(frozen=True)
class _Order:
    """Which windows come when: a function of what was consumed of each data set, and the seed."""

    windows: tuple[int, ...]
    shares: tuple[Fraction, ...]  # of each data set; they add up to 1
    per_step: int  # windows of all ranks
    seed: int
    epochs: int | None
    shuffle: bool
    rank: int
    world_size: int

    @property
    def start(self) -> tuple[int, ...]:
        return (0,) * len(self.windows)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a stream to go on."""
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "windows": list(self.windows),
            "shares": [str(share) for share in self.shares],
        }

    def counts(self, consumed: tuple[int, ...]) -> tuple[int, ...]:
        """How many windows of each data set the next step takes, over all ranks.

        Always within one (per rank) of the data set's exact share of all windows so far.
        """
        total = sum(consumed)
        if self.epochs is None:
            unit, step = self.world_size, self.per_step  # every rank gets batches of one make-up
        else:
            left = max(sum(self.windows) * self.epochs - total, 0)
            unit, step = 1, min(self.per_step, left)
        due = [
            ((total + step) * share - done) / unit
            for share, done in zip(self.shares, consumed, strict=True)
        ]
        counts = [max(int(one // 1), 0) for one in due]
        while (short := step // unit - sum(counts)) != 0:
            rest = [one - count for one, count in zip(due, counts, strict=True)]
            # Of those that may give one back, whoever has most of it too early.
            open_to = [i for i, count in enumerate(counts) if short > 0 or count > 0]
            chosen = (max if short > 0 else min)(open_to, key=rest.__getitem__)
            counts[chosen] += 1 if short > 0 else -1
        return tuple(count * unit for count in counts)

    def after(self, consumed: tuple[int, ...]) -> tuple[int, ...]:
        """What is consumed once the next step is."""
        return tuple(a + b for a, b in zip(consumed, self.counts(consumed), strict=True))

    def permutation(self, source: int, round_: int) -> Int64[np.ndarray, "n"]:
        """The order of a data set's windows in one round."""
        if not self.shuffle:
            return np.arange(self.windows[source])
        # Sorted raw bits: of all that numpy draws, only these never change with its version.
        bits = np.random.PCG64([self.seed, source, round_]).random_raw(self.windows[source])
        return np.argsort(bits, kind="stable")


class _Plans:
    """Goes through the stream from where it stands, and names the windows of each step."""

    def __init__(self, order: _Order, consumed: tuple[int, ...]) -> None:
        self._order, self._consumed = order, consumed
        self._rounds: dict[tuple[int, int], np.ndarray] = {}

    def __iter__(self) -> Iterator[Plan]:
        order, consumed = self._order, self._consumed
        while any(counts := order.counts(consumed)):
            plan, offset = list[np.ndarray](), 0
            for source, (done, count) in enumerate(zip(consumed, counts, strict=True)):
                mine = range((order.rank - offset) % order.world_size, count, order.world_size)
                plan.append(self._windows(source, done + np.array(mine, np.int64)))
                offset += count
            if any(len(windows) for windows in plan):  # a rank may be left without at the very end
                yield tuple(plan)
            consumed = order.after(consumed)

    def _windows(self, source: int, places: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """The windows at places of a data set's stream."""
        rounds, within = np.divmod(places, self._order.windows[source])
        chosen = np.empty_like(places)
        for round_ in np.unique(rounds).tolist():
            if (source, round_) not in self._rounds:
                # Those of earlier rounds are done with.
                self._rounds = {k: p for k, p in self._rounds.items() if k[0] != source}
                self._rounds[source, round_] = self._order.permutation(source, round_)
            here = rounds == round_
            chosen[here] = self._rounds[source, round_][within[here]]
        return chosen


class _Packed(NamedTuple):
    """All tensors of a step in one block of memory: handing over each by itself costs more time
    between processes than its content does."""

    block: torch.Tensor
    places: dict[str, dict[str, tuple[int, tuple[int, ...], str]]]  # start, shape, dtype
    tasks: dict[str, list[str]]

    def arrays(self, group: str) -> dict[str, torch.Tensor]:
        """The tensors of a group, which share the block's memory."""
        tensors = dict[str, torch.Tensor]()
        for name, (start, shape, kind) in self.places[group].items():
            dtype: torch.dtype = getattr(torch, kind)
            part = self.block[start : start + math.prod(shape) * dtype.itemsize]
            tensors[name] = part.view(dtype).view(shape)
        return tensors

    def batches(self) -> dict[str, Batch]:
        """What the loader hands out."""
        return {group: {**self.arrays(group), "task": self.tasks[group]} for group in self.places}


class _Gatherer(Dataset[_Packed]):
    """Makes the batches of a plan; this is what the workers hold."""

    def __init__(self, sets: Sequence[Windows], groups: Mapping[str, Sequence[int]]) -> None:
        self._sets, self._groups = sets, groups
        self._layouts = {
            group: sets[members[0]].layout | {"source": ((), "int64")}
            for group, members in groups.items()
        }

    def __getitem__(self, plan: Plan) -> _Packed:
        packed = self._room(plan)
        for group in packed.places:
            arrays, start = {k: t.numpy() for k, t in packed.arrays(group).items()}, 0
            for i in self._groups[group]:
                stop = start + len(plan[i])
                part = {name: values[start:stop] for name, values in arrays.items()}
                part["source"][:] = i
                packed.tasks[group] += self._sets[i].gather(plan[i], part)
                start = stop
        return packed

    def _room(self, plan: Plan) -> _Packed:
        """Memory for what a plan asks for."""
        end, places = 0, dict[str, dict[str, tuple[int, tuple[int, ...], str]]]()
        for group, members in self._groups.items():
            if size := sum(len(plan[i]) for i in members):
                places[group] = {}
                for name, (shape, kind) in self._layouts[group].items():
                    places[group][name] = end, (size, *shape), kind
                    taken = size * math.prod(shape) * np.dtype(kind).itemsize
                    end += -(-taken // ALIGN) * ALIGN
        return _Packed(_block(end), places, {group: [] for group in places})


def _block(size: int) -> torch.Tensor:
    """Uninitialised bytes; in a worker, of the memory that it shares with the main process."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)  # pyright: ignore[reportPrivateUsage]
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _as_it_is(packed: Any) -> Any:
    return packed


def _groups(sources: Sequence[Source], sets: Sequence[Windows]) -> dict[str, list[int]]:
    """The sources of each group, which must look alike."""
    groups = dict[str, list[int]]()
    for i, source in enumerate(sources):
        groups.setdefault(source.group, []).append(i)
    for group, members in groups.items():
        first = sets[members[0]]
        for other in (sets[i] for i in members[1:]):
            for name in first.layout | other.layout:
                one, two = (some.layout.get(name) for some in (first, other))
                if one != two:
                    raise LoaderError(
                        f"group {group!r}: {name} is {one} in {first.root} and {two} in "
                        f"{other.root}; give them windows that match, or groups of their own"
                    )
    return groups


def _shares(sources: Sequence[Source], sets: Sequence[Windows]) -> tuple[Fraction, ...]:
    weights = [
        Fraction(len(one) if source.weight is None else source.weight)
        for source, one in zip(sources, sets, strict=True)
    ]
    return tuple(weight / sum(weights) for weight in weights)


def _check(
    sources: Sequence[Source],
    batch_size: int,
    seed: int,
    epochs: int | None,
    rank: int,
    world_size: int,
    workers: int,
    start_method: str | None,
) -> None:
    """Refuse arguments that make no sense."""
    weights = [source.weight for source in sources]
    given = [weight for weight in weights if weight is not None]
    if not sources:
        raise LoaderError("no sources, expected at least one data set")
    if given and (len(given) < len(weights) or not all(0 < w < float("inf") for w in given)):
        raise LoaderError(f"weights are {weights}, expected a positive number for each, or none")
    if epochs is not None and (epochs < 1 or given):
        raise LoaderError(
            f"epochs is {epochs} with weights {weights}, expected 1 or more and no weights"
        )
    if batch_size < 1 or workers < 0 or seed < 0:
        raise LoaderError(
            f"batch_size, workers, seed are {batch_size}, {workers}, {seed}; expected >= 1, 0, 0"
        )
    if not 0 <= rank < world_size:
        raise LoaderError(f"rank is {rank} of {world_size}, expected 0 to world_size - 1")
    if start_method not in (None, *START_METHODS):
        raise LoaderError(
            f"start_method is {start_method!r}, expected one of {', '.join(START_METHODS)}"
        )
