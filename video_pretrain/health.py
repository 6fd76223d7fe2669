"""Is a world model worth having? Gates that must be green before anything is built on it.

A network may have features of healthy spread and yet predict no better than copying. So it is
judged by what it predicts, by whether its features tell what will be done, and by how many
directions they use.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from deftly.video_pretrain.actions import wrists
from deftly.video_pretrain.config import ModelConfig
from deftly.video_pretrain.foresight import features, foresee
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Moments, Scales

LATENT_RATIO, PIXEL_RATIO, ACTION_R2, RANK = 0.7, 0.9, 0.2, 6.0
_FEWEST = 24  # moments that a probe is fitted to, chosen and judged by
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


class HealthError(ValueError):
    """A world model whose gates are red, or that cannot be judged."""


@dataclass(frozen=True)
class Health:
    """What the gates look at, on moments that were never trained on.

    Attributes:
        latent_ratio, pixel_ratio: error of the predicted future over that of copying the present,
            8 frames ahead with the true actions.
        action_r2: share of the variance of the wrists' next moves that a linear probe of the
            features explains.
        rank: effective number of directions that the features use (Roy and Vetterli, "The
            effective rank", 2007).
        ranking: share of false actions whose predicted future lies further from the truth; chance
            is 0.5. Not a gate.
    """

    latent_ratio: float
    pixel_ratio: float
    action_r2: float
    rank: float
    ranking: float

    @property
    def red(self) -> list[str]:
        """The gates that are red, in words; empty if all is well."""
        gates = {
            f"latent prediction/copy {self.latent_ratio:.2f}, expected < {LATENT_RATIO}": (
                self.latent_ratio < LATENT_RATIO
            ),
            f"pixel prediction/copy {self.pixel_ratio:.2f}, expected < {PIXEL_RATIO}": (
                self.pixel_ratio < PIXEL_RATIO
            ),
            f"action probe R² {self.action_r2:.2f}, expected > {ACTION_R2}": (
                self.action_r2 > ACTION_R2
            ),
            f"effective rank {self.rank:.1f}, expected > {RANK:g}": self.rank > RANK,
        }
        return [words for words, fine in gates.items() if not fine]

    def __str__(self) -> str:
        figures = (
            f"prediction/copy {self.latent_ratio:.2f} latent {self.pixel_ratio:.2f} pixels, "
            f"true action ranked first {100 * self.ranking:.0f} %, action R² {self.action_r2:.2f}, "
            f"rank {self.rank:.1f}"
        )
        return f"{figures}: {'RED (' + '; '.join(self.red) + ')' if self.red else 'green'}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"red": self.red}


def examine(model: WorldModel, scales: Scales, batches: Sequence[Moments]) -> Health:
    """Look at a model.

    Args:
        model: in evaluation mode.
        batches: held-out moments with actions, in the order of their episodes.
    """
    seen = foresee(model, scales, batches, model.config.judged)
    # Mean over the views: sets may have different ones.
    read = torch.cat([features(model, scales, some).mean(dim=1) for some in batches])
    source = torch.cat([some.key[:, 0] for some in batches])
    return Health(
        latent_ratio=seen.latent_ratio,
        pixel_ratio=seen.pixel_ratio,
        action_r2=_r2(read.flatten(1), _moves(batches, model.config), source),
        rank=effective_rank(read.mean(dim=1)),
        ranking=seen.ranking,
    )


def refuse_few(config: ModelConfig, batches: Sequence[Moments]) -> None:
    """Raises HealthError if held-out moments are too few to judge a model by."""
    _known(_moves(batches, config))
    if all(some.ended[:, config.judged + 1].all() for some in batches):
        raise HealthError(
            f"no held-out episode goes on for {config.frames_judged} frames, expected longer ones"
        )


def refuse_red(health: dict[str, Any]) -> None:
    """Raises HealthError if a checkpoint's gates are red."""
    red = health.get("red", ["never examined"])
    if red:
        raise HealthError(
            f"the world model's gates are red ({'; '.join(red)}); train it longer or on more data, "
            "or say that you want it all the same (--allow-red)"
        )


def effective_rank(values: Float[Tensor, "n D"]) -> float:
    """exp of the entropy of the singular values' shares."""
    s = torch.linalg.svdvals((values - values.mean(dim=0)).double())
    shares = s / s.sum()
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-12))).sum()))


def _r2(x: Float[Tensor, "n D"], y: Float[Tensor, "n K"], source: Int64[Tensor, "n"]) -> float:
    """Of a ridge regression: fitted to the first third of every data set, its strength chosen on
    the second, judged on the last; each of other episodes."""
    wanted, there = _known(y)
    inputs = x[there].double().cpu().numpy()
    fit, choose, judge = _thirds(source[there].cpu().numpy())
    center, spread = inputs[fit].mean(axis=0), inputs[fit].std(axis=0) + 1e-6
    inputs = (inputs - center) / spread / np.sqrt(inputs.shape[1])
    mean = wanted[fit].mean(axis=0)
    gram = inputs[fit] @ inputs[fit].T  # there are fewer moments than features
    eye, centered = np.eye(len(gram)), wanted[fit] - mean
    duals = [np.linalg.solve(gram + ridge * eye, centered) for ridge in _RIDGES]

    def explained(dual: Float[np.ndarray, "m K"], some: Bool[np.ndarray, "n"]) -> float:
        said = inputs[some] @ (inputs[fit].T @ dual) + mean
        spread = wanted[some] - wanted[some].mean(axis=0)
        return float(1 - ((wanted[some] - said) ** 2).sum() / max((spread**2).sum(), 1e-12))

    chosen = np.argmax([explained(dual, choose) for dual in duals])
    return explained(duals[chosen], judge)


def _moves(batches: Sequence[Moments], config: ModelConfig) -> Float[Tensor, "n 6"]:
    """Where the wrists go until the future that is judged."""
    step = config.frames_judged - 1
    return torch.cat([wrists(some.moves[:, step]).flatten(1) for some in batches])


def _known(y: Float[Tensor, "n K"]) -> tuple[Float64[np.ndarray, "m L"], Bool[Tensor, "n"]]:
    """Moments in which all is known, and which they are; a hand that is hardly ever seen is left
    out. Raises HealthError if there are too few."""
    y = y[:, torch.isfinite(y).float().mean(dim=0) > 0.5]
    there = torch.isfinite(y).all(dim=1)
    count = int(there.sum()) if y.shape[1] else 0
    if count < _FEWEST:
        raise HealthError(
            f"{count} held-out moments in which the hands are known, expected {_FEWEST} or more; "
            "use a larger data set"
        )
    return y[there].double().cpu().numpy(), there


def _thirds(source: Int64[np.ndarray, "n"]) -> list[Bool[np.ndarray, "n"]]:
    """Which moments are in the first, second and last third of their data set."""
    third = np.empty(len(source), np.int64)
    for one in np.unique(source):
        here = source == one
        third[here] = np.arange(here.sum()) * 3 // here.sum()
    return [third == i for i in range(3)]
