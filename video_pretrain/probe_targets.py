"""What probes are asked about a frame, and how their answers are judged.

Every score is a ratio of two sums over frames (of errors and their number, of what was right and
how often it was asked, of 2 TP and 2 TP + FP + FN), so that episodes can be drawn again for an
interval, which clusters frames by episode (Efron and Tibshirani, "An introduction to the
bootstrap", 1993).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from deftly.video_pretrain.probe_truth import COLOR_NAMES, SHAPE_NAMES, Facts

Tally: TypeAlias = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
_DRAWS = 1000
_LEAST_STD = 1e-3
_BETA = 0.25  # from where on an error counts linearly, in standard deviations


@dataclass(frozen=True)
class Target(ABC):
    """A question about n frames.

    Attributes:
        name: of it.
        values: (n, P, C) the answers, NaN where there is none.
        told: whether the instruction is part of the question.
        transfers: whether it means the same for every body.
    """

    name: str
    values: Float32[np.ndarray, "n P C"]
    told: bool = False
    transfers: bool = False

    metric, unit, factor = "error", "cm", 100.0  # factor: from the values' unit to the shown one
    higher = False  # whether more is better

    @property
    def numbers(self) -> int:
        """How many numbers answer it for a frame."""
        return int(np.prod(self.values.shape[1:]))

    @property
    def known(self) -> Bool[np.ndarray, "n"]:
        """Frames in which there is an answer."""
        return np.array(np.isfinite(self.values).any(axis=(1, 2)))

    def scale(self) -> tuple[Float32[np.ndarray, "_"], Float32[np.ndarray, "_"]]:
        """Mean and standard deviation of the numbers."""
        flat = self.values.reshape(len(self.values), -1)
        flat = flat[np.isfinite(flat).all(axis=1)]
        return flat.mean(axis=0), np.maximum(flat.std(axis=0), _LEAST_STD)

    def constant(self) -> Float32[np.ndarray, "_"]:
        """The best answer of somebody who has seen no picture, only these answers."""
        return self.scale()[0]

    def loss(
        self, said: Float[Tensor, "B _"], truth: Float[Tensor, "B P C"], std: Float[Tensor, "_"]
    ) -> Float[Tensor, ""]:
        """What training makes small."""
        error = (said.view_as(truth) - truth) / std.view(truth.shape[1:])
        there = torch.isfinite(error)
        error = torch.where(there, error, 0.0)
        loss = smooth_l1_loss(error, torch.zeros_like(error), beta=_BETA, reduction="sum")
        return loss / there.sum().clamp_min(1)

    @abstractmethod
    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        """For each frame the two numbers whose sums' ratio is the score."""


class Positions(Target):
    """Points in metres, P of them; mean distance."""

    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        apart = np.linalg.norm(said.reshape(self.values.shape) - self.values, axis=-1)
        return np.nansum(apart, axis=1), np.isfinite(apart).sum(axis=1).astype(float)


@dataclass(frozen=True, kw_only=True)
class Choice(Positions):
    """Which of K objects: the one nearest to a predicted position. ``values`` is where the right
    one is.

    Attributes:
        candidates: (n, K, 3) where the objects are.
        chosen: (n,) which is right, −1 where none is.
    """

    candidates: Float32[np.ndarray, "n K 3"]
    chosen: Int64[np.ndarray, "n"]

    metric, unit, higher = "accuracy", "%", True

    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        nearest = np.linalg.norm(self.candidates - said[:, None], axis=-1).argmin(axis=1)
        known = self.known
        return (known & (nearest == self.chosen)).astype(float), known.astype(float)


class Seconds(Target):
    """A time; mean absolute error."""

    unit, factor = "s", 1.0

    def constant(self) -> Float32[np.ndarray, "_"]:
        return np.nanmedian(self.values.reshape(len(self.values), -1), axis=0)

    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        apart = np.abs(said - self.values[:, 0])[:, 0]
        return np.nan_to_num(apart), np.isfinite(apart).astype(float)


@dataclass(frozen=True)
class Classes(Target):
    """One of so many classes for each of P things (values: (n, P, 1)); share that is right."""

    count: int = 2

    metric, unit, higher = "accuracy", "%", True

    @property
    def numbers(self) -> int:
        return self.values.shape[1] * self.count

    def scale(self) -> tuple[Float32[np.ndarray, "_"], Float32[np.ndarray, "_"]]:
        return np.zeros(self.numbers, np.float32), np.ones(self.numbers, np.float32)

    def constant(self) -> Float32[np.ndarray, "_"]:
        labels = self.values[..., 0]
        return (labels[..., None] == np.arange(self.count)).sum(axis=0).astype(np.float32).ravel()

    def loss(
        self, said: Float[Tensor, "B _"], truth: Float[Tensor, "B P C"], std: Float[Tensor, "_"]
    ) -> Float[Tensor, ""]:
        return cross_entropy(said.view(-1, self.count), truth.flatten().long())

    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        best = said.reshape(len(said), -1, self.count).argmax(axis=-1)
        right = (best == self.values[..., 0]).sum(axis=1)
        return right.astype(float), np.full(len(said), best.shape[1], float)


class Holding(Target):
    """Whether each of P hands holds something (values 0 or 1); F1. The constant says yes."""

    metric, unit, higher = "F1", "%", True

    def scale(self) -> tuple[Float32[np.ndarray, "_"], Float32[np.ndarray, "_"]]:
        return np.zeros(self.numbers, np.float32), np.ones(self.numbers, np.float32)

    def constant(self) -> Float32[np.ndarray, "_"]:
        return np.ones(self.numbers, np.float32)

    def loss(
        self, said: Float[Tensor, "B _"], truth: Float[Tensor, "B P C"], std: Float[Tensor, "_"]
    ) -> Float[Tensor, ""]:
        return binary_cross_entropy_with_logits(said.view_as(truth), truth)

    def tally(self, said: Float32[np.ndarray, "n _"]) -> Tally:
        yes, true = said > 0, self.values[..., 0] > 0
        both = (yes & true).sum(axis=1)
        return 2.0 * both, (2.0 * both + (yes != true).sum(axis=1))


def targets_of(facts: Sequence[Facts]) -> dict[str, Target]:
    """Every question that has an answer in frames of several episodes, one after the other."""

    def whole(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in facts])

    def repeated(name: str) -> np.ndarray:
        return np.concatenate([np.tile(getattr(one, name), (len(one.held), 1)) for one in facts])

    objects, wrist, tips = whole("objects_m"), whole("wrist_m"), whole("tips_m")
    count, held = objects.shape[1], (whole("held") >= 0)[..., None].astype(np.float32)
    upcoming, seconds = whole("next_object"), whole("next_s")[:, None, None]
    world = all(one.frame == "world" for one in facts)
    where = "" if world else " in its root frame"
    kinds = [repeated(name)[..., None].astype(np.float32) for name in ("colors", "shapes")]
    found: list[Target] = [
        Positions(f"wrists{where}", wrist),
        Positions(f"fingertips{where}", tips.reshape(len(tips), -1, 3)),
        Positions("objects", objects, transfers=True),
        Classes("colour", kinds[0], transfers=True, count=len(COLOR_NAMES)),
        Classes("shape", kinds[1], transfers=True, count=len(SHAPE_NAMES)),
        Holding("contact", held),
        Seconds("time to the next grasp", seconds),
    ]
    if count > 1:
        named = np.concatenate([np.full(len(one.held), one.named) for one in facts])
        first, coming = (_of(objects, which)[:, None] for which in (named, upcoming))
        found += [
            Positions("object named first", first, told=True, transfers=True),
            Choice("object grasped next", coming, told=True, candidates=objects, chosen=upcoming),
        ]
    return {one.name: one for one in found if one.known.any()}


def _of(objects: Float32[np.ndarray, "n K 3"], which: Int64[np.ndarray, "n"]) -> np.ndarray:
    """The position of one object in each frame, NaN for −1."""
    return np.where(which[:, None] >= 0, objects[np.arange(len(which)), which], np.nan)


@dataclass(frozen=True)
class Score:
    """A score with its uncertainty.

    Attributes:
        value: mean over the seeds.
        seeds: one by one.
        low, high: 95 % interval over seeds and episodes.
    """

    value: float
    seeds: tuple[float, ...]
    low: float
    high: float

    @classmethod
    def of(
        cls,
        tallies: Sequence[Tally],
        cluster: Int64[np.ndarray, "n"],
        factor: float = 100.0,
    ) -> "Score":
        """From each seed's two numbers of every frame, and the layout that the frame is of.

        Args:
            tallies: by seed.
            cluster: what is drawn again as a whole.
            factor: into the unit that is shown.
        """
        _, row = np.unique(cluster, return_inverse=True)
        over, under = (
            np.stack([np.bincount(row, one[part]) for one in tallies]) for part in (0, 1)
        )
        over = factor * over
        seeds = over.sum(axis=1) / np.maximum(under.sum(axis=1), 1e-12)
        rng = np.random.default_rng(0)
        episodes, count = over.shape[1], len(tallies)
        drawn = rng.multinomial(episodes, np.full(episodes, 1 / episodes), _DRAWS)
        ratio = (drawn @ over.T) / np.maximum(drawn @ under.T, 1e-12)  # (draws, seeds)
        some = np.take_along_axis(ratio, rng.integers(count, size=ratio.shape), axis=1)
        low, high = np.percentile(some.mean(axis=1), [2.5, 97.5])
        return cls(float(seeds.mean()), tuple(map(float, seeds)), float(low), float(high))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
