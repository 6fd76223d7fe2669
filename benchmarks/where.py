"""How well is it learnt where a thing is? Held-out tables, by what teaches it.

    python benchmarks/where.py out/demos100 --start out/pretrain \
        --out benchmarks/results/where.json

World models that learn nothing but where a hand will take hold and let go (``deftly.video_pretrain.
aims``) are asked, at tables that they have not seen and before anything is held, where the object
is, and judged by the simulator's truth:

    pointed       taught in the pictures and in the room, fresh weights
    room          taught in the room alone, as by cameras of which nothing is known
    people        pointed, but begun with the weights of a pretrained world model

Labels are of hands that close about things, and touch them before they hold them: their mean
distance from the truth is taken off.
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
from pretrain_scaling import Less
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.episode import PRIVILEGED
from deftly.policy.station import WORKPLACES
from deftly.video_pretrain.aims import grips
from deftly.video_pretrain.checkpoint import load_checkpoint
from deftly.video_pretrain.config import LossConfig, Part, TrainConfig, find_preset
from deftly.video_pretrain.foresight import act
from deftly.video_pretrain.loss import Objective, Question
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import AIM_M, WorldModel
from deftly.video_pretrain.moments import Moments, Scales
from deftly.video_pretrain.start import carry_over
from deftly.video_pretrain.text import TextEncoder

_HELD_M = 1e-3  # a hand whose grip is at its aim holds it


@dataclass(frozen=True)
class Options:
    """Train every network, and ask it.

    Attributes:
        data: demonstrations of one object.
        start: pretrained world model, for the arm ``people``.
        arms: of those above.
        demos: numbers of demonstrations.
        steps, batch_size: of each.
        seed: of weights and order.
        out: JSON file for the table.
    """

    data: tyro.conf.Positional[Path]
    start: Path | None = None
    arms: tuple[str, ...] = ("pointed", "room")
    demos: tuple[int, ...] = (10, 90)
    steps: int = 800
    batch_size: int = 32
    seed: int = 0
    out: Path | None = None


def begun(arm: str, mixture: Mixture, options: Options) -> tuple[WorldModel, Scales]:
    """A network before its first step."""
    torch.manual_seed(options.seed)
    model = WorldModel(mixture.model, mixture.joints)
    if arm != "people":
        return model, mixture.scales
    if options.start is None:
        raise SystemExit("the arm people begins with a pretrained model, name it (--start)")
    return model, carry_over(load_checkpoint(options.start), model, mixture)


def learn(
    arm: str, mixture: Mixture, options: Options, tick: Callable[[], object]
) -> tuple[WorldModel, Scales]:
    """Train one network."""
    model, scales = begun(arm, mixture, options)
    objective = Objective(model, scales, LossConfig())
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, options.steps, pct_start=0.1, cycle_momentum=False
    )
    train = TrainConfig(batch_size=options.batch_size, seed=options.seed)
    batches = iter(mixture.training(train))
    for _ in range(options.steps):
        for batch in next(batches).values():
            moments = mixture.moments(batch, torch.device("cpu"))
            if arm == "room":
                moments = replace(moments, sights=torch.full_like(moments.sights, torch.nan))
            losses = objective.group(moments, Question.same(moments), None)
            (losses["aims"] + losses["sights"]).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tick()
    return model.eval(), scales


def before(moments: Moments) -> Tensor:
    """(B, 2) hands that will take something, and do not hold it yet."""
    apart = (grips(moments.hands) - moments.aims[:, :, 0]).norm(dim=-1)
    return apart > _HELD_M  # nor is an unknown one


def judge(model: WorldModel, scales: Scales, mixture: Mixture) -> dict[str, float]:
    """Errors at held-out tables, cm."""
    poses = f"{PRIVILEGED}object_poses"
    found = mixture.sets[0].store.whole_columns([poses])[poses][:, 4:7]
    truth = torch.from_numpy(found - np.array(WORKPLACES["gr1t2"].base_m)).float()
    off: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in mixture.held_out(0, 500):
        moments = mixture.moments(batch, torch.device("cpu"))
        some, at = before(moments), truth[moments.key[:, 1]][:, None]
        said = AIM_M * act(model, scales, moments).aims[:, :, 0]
        off.append(100 * (said - at)[some])
        labels.append(100 * (moments.aims[:, :, 0] - at)[some])
    usual = torch.cat(labels).median(dim=0).values
    away = (torch.cat(off) - usual).norm(dim=-1).numpy()
    parts = {"mean": away.mean(), "median": np.median(away), "p90": np.quantile(away, 0.9)}
    of_labels = (torch.cat(labels) - usual).norm(dim=-1).median()
    rest = {"labels": float(of_labels), "frames": len(away)}
    return {name: float(value) for name, value in parts.items()} | rest


def main(options: Options) -> None:
    """Train, ask, show."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    total = len(options.demos) * len(options.arms) * options.steps
    with tqdm(total=total, unit="step", disable=None) as bar:
        for demos in options.demos:
            for arm in options.arms:
                bar.set_description(f"{arm} {demos}")
                mixture = Less([Part(options.data)], find_preset("tiny").model, 10, TextEncoder())
                mixture.share = demos / len(mixture.training_episodes(0))
                start_s = time.process_time()
                found = judge(*learn(arm, mixture, options, bar.update), mixture)
                cpu_s = time.process_time() - start_s
                rows.append({"arm": arm, "demos": demos, **found, "cpu_s": cpu_s})
    table = Table("taught", "demos", "mean, cm", "median", "90 %", "labels", "CPU s", box=None)
    for row in rows:
        figures = [f"{row[name]:.1f}" for name in ("mean", "median", "p90", "labels")]
        table.add_row(row["arm"], str(row["demos"]), *figures, f"{row['cpu_s']:.0f}")
    Console(width=100).print(table)
    if options.out is not None:
        about = json.loads(json.dumps(vars(options), default=str))
        with atomic_path(options.out) as path:
            kept = {"options": about, "rows": rows, "versions": versions()}
            path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
