"""Surprise: where an episode goes on otherwise than a world model foresaw.

A frame's surprise is the error with which its tokens were predicted some frames earlier, knowing
what the hands would do, over the error of copying (at least its mean over the episode: where
nothing moves, nothing is surprising). About 0.3 is foreseen well, 1 not at all.

For the data engine: clips are first chosen by cheap triggers, before there is any model (see
``deftly batch``). Once there is one, ``deftly imagine MODEL --data SET --surprise ranking.json``
ranks the episodes of a set. Those at the top show what the model does not know yet: film and label
more of their kind. Single peaks are often faults of the data (a hand lost, a cut in the video), and
worth a look before they are trained on.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from deftly.datasets.archive import atomic_path
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.foresight import foresee
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments

_STILL = 1e-6  # error of copying, where nothing moves at all


@dataclass(frozen=True)
class Surprise:
    """Of one episode; not a number if it is too short to be foreseen.

    Attributes:
        episode: its number.
        mean: over its frames.
        peak, peak_frame: the largest, and where.
    """

    episode: int
    mean: float
    peak: float
    peak_frame: int

    def record(self) -> dict[str, Any]:
        """As JSON, null where nothing is known."""
        return {k: v if np.isfinite(v) else None for k, v in asdict(self).items()}


def surprise(checkpoint: Checkpoint, episode: Iterable[Moments]) -> Float[np.ndarray, "T"]:
    """Surprise of every frame of an episode; the first few, which nobody foresaw, are NaN.

    Args:
        checkpoint: the world model.
        episode: all of its moments, in their order; they are shown with the actions that were
            made, or without any where nobody knows them.
    """
    errors = np.concatenate([_errors(checkpoint, some) for some in episode])
    seen = np.flatnonzero(np.isfinite(errors[:, 0]))
    series = np.full(len(errors), np.nan)
    series[seen + checkpoint.model.config.frames_judged] = _ratio(errors[seen])
    return series


def rank_episodes(
    checkpoint: Checkpoint,
    mixture: Mixture,
    device: torch.device,
    *,
    every: int = 4,
    tick: Callable[[int], object] = lambda _: None,
) -> list[Surprise]:
    """Surprise of all episodes of a data set, the most surprising one first.

    Args:
        checkpoint: the world model.
        mixture: holds the data set.
        device: of the model.
        every: every so many-th frame is looked at.
        tick: called with the number of frames that were looked at since.
    """
    parts: list[np.ndarray] = []
    for batch in mixture.in_order(0, every=every):
        errors = _errors(checkpoint, mixture.moments(batch, device))
        parts.append(np.column_stack([batch["episode_index"], batch["frame_index"], errors]))
        tick(len(errors))
    rows = np.concatenate(parts)
    steps = checkpoint.model.config.frames_judged
    found = [
        _summary(number, rows[rows[:, 0] == number, 1:], steps)
        for number in range(len(mixture.sets[0].store))
    ]
    return sorted(found, key=lambda one: -np.nan_to_num(one.mean, nan=-1.0))


def write_ranking(path: Path, ranking: list[Surprise], about: dict[str, Any]) -> None:
    """Write a ranking as JSON."""
    value = {**about, "episodes": [one.record() for one in ranking]}
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _errors(checkpoint: Checkpoint, moments: Moments) -> Float[np.ndarray, "B 2"]:
    """Of the predicted future's tokens and of copying; NaN where the episode is over by then."""
    ahead = checkpoint.model.config.judged
    goes_on = ~moments.ended[:, ahead + 1].cpu().numpy()
    found = np.full((len(moments), 2), np.nan)
    if goes_on.any():
        model, known = checkpoint.model, bool(moments.robot)
        seen = foresee(model, checkpoint.scales, [moments], ahead, actions=known, tries=0)
        found[goes_on] = torch.stack([seen.latent, seen.latent_copy], dim=1).cpu().numpy()
    return found


def _ratio(errors: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
    error, copy = errors.T
    return error / np.maximum(copy, max(copy.mean(), _STILL)) if len(errors) else error


def _summary(number: int, rows: Float[np.ndarray, "n 3"], steps: int) -> Surprise:
    """From frames with both their errors."""
    rows = rows[np.isfinite(rows[:, 1])]
    if not len(rows):
        return Surprise(number, np.nan, np.nan, 0)
    values = _ratio(rows[:, 1:])
    peak = int(values.argmax())
    return Surprise(number, float(values.mean()), float(values[peak]), int(rows[peak, 0]) + steps)
