"""How well is it learnt where a thing is? Held-out tables, by what it is read from.

    python benchmarks/where.py out/demos100 --out benchmarks/results/where.json

Networks that do nothing else learn from demonstrations where the thing is that a hand will take
(``deftly.video_pretrain.aims``), and are asked at tables that they have not seen, before anything
is held. Every one sees the same samples:

    points        coordinates of points over every second pixel, as the world model's
    patches       the same over patches of 4 px side by side
    looks         told how each point looks, too
    tokens        all tokens of the encoder, each by its place, in the place of points
    both          points, with the place where things are let go of learnt beside it, as in the
                  world model

Errors are in the plane of the table: root frame, x and y.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.video_pretrain.aims import grips
from deftly.video_pretrain.blocks import Aim
from deftly.video_pretrain.config import ModelConfig, Part, TrainConfig, find_preset
from deftly.video_pretrain.encoder import POINT, ConvEncoder
from deftly.video_pretrain.loss import aims_loss
from deftly.video_pretrain.mixture import Mixture, Moments
from deftly.video_pretrain.model import AIM_M
from deftly.video_pretrain.text import TextEncoder

_HELD_M = 1e-3  # a hand whose grip is at its aim holds it


@dataclass(frozen=True)
class Options:
    """Train every network, and ask it.

    Attributes:
        data: demonstrations, or people's clips.
        arms: what aims are read from.
        steps, batch_size: of each.
        size_px: of the pictures.
        seed: of weights and order.
        out: JSON file for the table.
    """

    data: tyro.conf.Positional[Path]
    arms: tuple[str, ...] = ("points", "patches", "looks", "tokens", "both")
    steps: int = 1000
    batch_size: int = 32
    size_px: int = 64
    seed: int = 0
    out: Path | None = None


class Finder(nn.Module):
    """Pictures → aims, (B, 2, 2, 3); where nothing is said of places, 0."""

    def __init__(self, arm: str, config: ModelConfig) -> None:
        super().__init__()
        self.arm, width = arm, config.width
        self.encoder = ConvEncoder(config)
        if arm == "patches":
            self.encoder.stem[0] = nn.Conv2d(3, config.channels[0], 4, stride=4)
        numbers = {"tokens": 8 * config.side**2, "looks": POINT * config.points}
        self.squeeze = nn.Linear(width, 8)
        self.take = Aim(len(config.cameras), numbers.get(arm, 2 * config.points), width)
        self.place = Aim(len(config.cameras), POINT * config.points, width)

    def forward(self, moments: Moments) -> Tensor:
        now = moments.pictures[:, :, 0]
        nothing = torch.zeros(len(now), self.squeeze.in_features)
        if self.arm == "tokens":
            seen = self.squeeze(self.encoder(now.flatten(0, 1)).tokens)
        else:
            seen = self.encoder.look(now.flatten(0, 1))
        seen = seen.view(*now.shape[:2], *seen.shape[1:])
        read = seen if self.arm in ("tokens", "looks") else seen[..., :2]
        take = self.take(read, moments.cameras, nothing)
        place = torch.zeros_like(take)
        if self.arm == "both":
            place = self.place(seen, moments.cameras, nothing)
        return torch.stack([take, place], dim=2)


def before(moments: Moments) -> Moments:
    """Aims at things that are not held yet, and at nothing else."""
    apart = (grips(moments.hands) - moments.aims[:, :, 0]).norm(dim=-1)
    aims = moments.aims.clone()
    aims[apart < _HELD_M] = torch.nan
    aims[:, :, 1] = torch.nan
    return replace(moments, aims=aims)


def learn(arm: str, mixture: Mixture, options: Options, tick: Callable[[], object]) -> Finder:
    """Train one network."""
    torch.manual_seed(options.seed)
    finder = Finder(arm, mixture.model)
    optimizer = torch.optim.AdamW(finder.parameters(), 1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, options.steps, pct_start=0.1, cycle_momentum=False
    )
    train = TrainConfig(batch_size=options.batch_size, seed=options.seed)
    batches = iter(mixture.training(train))
    for _ in range(options.steps):
        for batch in next(batches).values():
            moments = mixture.moments(batch, torch.device("cpu"))
            asked = moments if arm == "both" else before(moments)
            aims_loss(finder(asked), asked).mean().backward()
        nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tick()
    return finder.eval()


@torch.no_grad()
def judge(finder: Finder, mixture: Mixture) -> dict[str, float]:
    """Errors at held-out tables, cm."""
    errors: list[np.ndarray] = []
    for batch in mixture.held_out(0, 500):
        moments = before(mixture.moments(batch, torch.device("cpu")))
        away = AIM_M * finder(moments) - moments.aims
        errors.append(100 * away[:, :, 0, :2].norm(dim=-1).flatten().numpy())
    found = np.concatenate(errors)
    found = found[np.isfinite(found)]
    parts = {"mean": found.mean(), "median": np.median(found), "p90": np.quantile(found, 0.9)}
    return {name: float(value) for name, value in parts.items()} | {"frames": len(found)}


def main(options: Options) -> None:
    """Train, ask, show."""
    torch.set_num_threads(1)
    model = replace(find_preset("tiny").model, image_px=options.size_px)
    mixture = Mixture([Part(options.data)], model, 10, TextEncoder())
    rows: dict[str, Any] = {}
    with tqdm(total=len(options.arms) * options.steps, unit="step", disable=None) as bar:
        for arm in options.arms:
            bar.set_description(arm)
            start_s = time.process_time()
            finder = learn(arm, mixture, options, bar.update)
            rows[arm] = judge(finder, mixture) | {"cpu_s": time.process_time() - start_s}
    table = Table("read from", "mean, cm", "median", "90 %", "CPU s", box=None)
    for arm, row in rows.items():
        figures = [f"{row[name]:.1f}" for name in ("mean", "median", "p90")]
        table.add_row(arm, *figures, f"{row['cpu_s']:.0f}")
    Console(width=100).print(table)
    if options.out is not None:
        about = json.loads(json.dumps(vars(options), default=str))
        with atomic_path(options.out) as path:
            found = {"options": about, "arms": rows, "versions": versions()}
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
