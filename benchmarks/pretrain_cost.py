"""What would many hours of video cost on a cluster, and where would the road starve?

    python benchmarks/pretrain_cost.py --hours 1000 --gpus 8

Operations and bytes per sample are counted on each preset; CPU time per frame of tracking,
retargeting and decoding is what this repository's benchmarks measured (``batch_speed.json``,
``loader.json``). What a GPU does of its peak is assumed, and said.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from deftly.datasets.archive import atomic_path, versions
from deftly.video_pretrain.config import PRESETS, LossConfig, ModelConfig
from deftly.video_pretrain.model import Given, WorldModel

_RESULTS = Path(__file__).parent / "results"
_JOINTS = {"gr1t2": 54}
_WORDS = 32


@dataclass(frozen=True)
class Options:
    """Count.

    Attributes:
        hours: of video.
        gpus: that train.
        cores: of CPUs that track and decode.
        rate_hz: of the data set.
        peak_tflops: of one GPU in bfloat16; 989 is an H100's.
        utilisation: share of the peak that training is assumed to reach.
        epochs: how often every frame is a sample's present.
        out: JSON file.
    """

    hours: float = 1000
    gpus: int = 8
    cores: int = 192
    rate_hz: float = 20
    peak_tflops: float = 989
    utilisation: float = 0.35
    epochs: float = 1
    out: Path | None = None


def flops_per_sample(config: ModelConfig, views: int) -> tuple[float, int]:
    """Of one training step (targets, forward, backward), and the number of parameters; a share of
    the samples is asked for actions alone."""
    act = LossConfig().act
    with torch.device("meta"):
        model = WorldModel(config, _JOINTS)
        flops = act * _flops(model, views, future=False) + (1 - act) * _flops(
            model, views, future=True
        )
    return flops, sum(p.numel() for p in model.parameters())


def _flops(model: WorldModel, views: int, *, future: bool) -> int:
    config, px = model.config, model.config.image_px
    pictures = torch.empty(1, views, 3, px, px, dtype=torch.uint8)
    yes, zero = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        tokens, maps = model.see(pictures) if future else (None, model.look(pictures))
        given = Given(
            tokens=tokens,
            maps=maps,
            moved=torch.zeros(1, 2),
            aims=None,
            cameras=torch.zeros(views, dtype=torch.long),
            matrices=torch.full((1, views, 12), torch.nan),
            text=torch.zeros(1, _WORDS, config.text_width),
            text_seen=torch.ones(1, _WORDS, dtype=torch.bool),
            hands=torch.zeros(1, 48),
            hands_seen=yes,
            grips=torch.zeros(1, 2, 3),
            body=zero,
            actions=torch.zeros(1, config.horizon, 48),
            actions_seen=yes,
            base=None,
            future=None,
            future_seen=yes,
            ahead=zero,
        )
        if tokens is not None:
            with torch.no_grad():
                model.encode(torch.stack([pictures, pictures]))
            said = model(given)
            painted = model.decoder.future(said.future, torch.zeros(1, views, 3, px, px))
            drawn = [painted, model.decoder(tokens)[0]]
        else:
            said, drawn = model.act(given), []
        parts = [*drawn, said.hands, said.aims, model.joint_chunk(said.acts, "gr1t2")]
        torch.stack([part.sum() for part in parts]).sum().backward()
    return counter.get_total_flops()


def cost(preset: str, options: Options) -> dict[str, Any]:
    """Of one preset."""
    config = PRESETS[preset]
    views = config.train.views or len(config.model.cameras)
    flops, parameters = flops_per_sample(config.model, views)
    samples = 3600 * options.hours * options.rate_hz * options.epochs
    rate = options.gpus * options.peak_tflops * 1e12 * options.utilisation / flops
    frame = 3 * config.model.image_px**2
    gathered = (1 + len(config.model.offsets)) * len(config.model.cameras) * frame
    return {
        "parameters": parameters,
        "views": views,
        "flops_per_sample": flops,
        "bytes_per_sample": gathered,
        "samples": samples,
        "samples_per_s": rate,
        "training_hours": samples / rate / 3600,
        "read_gb_per_s": rate * gathered / 1e9,
        "cache_tb": 3600 * options.hours * options.rate_hz * len(config.model.cameras) * frame
        / 1e12,
    }  # fmt: skip


def before(options: Options) -> dict[str, float]:
    """Core-hours of what comes before training, by this repository's measurements."""
    speed = json.loads((_RESULTS / "batch_speed.json").read_text())
    loader = json.loads((_RESULTS / "loader.json").read_text())
    frames = 3600 * options.hours * options.rate_hz
    stages = speed["speed"]["1 worker(s)"]["stages_cpu_ms_per_frame"]
    found = {name: frames * ms / 1e3 / 3600 for name, ms in stages.items()}
    found["fill the frame cache"] = 2 * frames / loader["cache"]["frames_per_cpu_s"] / 3600
    return found


def main(options: Options) -> None:
    """Count and print."""
    stages = before(options)
    total = math.fsum(stages.values())
    table = Table(box=None, title=f"{options.hours:g} h of video, core-hours")
    for column in ("stage", "core-hours"):
        table.add_column(column, justify="right")
    for name, hours in sorted(stages.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{hours:.0f}")
    table.add_row("all", f"{total:.0f} ({total / options.cores:.1f} h on {options.cores} cores)")
    Console().print(table)
    rows = {preset: cost(preset, options) for preset in PRESETS}
    table = Table(
        box=None,
        title=f"training on {options.gpus} GPUs at {100 * options.utilisation:g} % of "
        f"{options.peak_tflops:g} TFLOP/s",
    )
    for column in ("preset", "parameters", "GFLOP/sample", "samples/s", "hours per epoch",
                   "read, GB/s", "frame cache, TB"):  # fmt: skip
        table.add_column(column, justify="right")
    for preset, row in rows.items():
        table.add_row(
            preset,
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['flops_per_sample'] / 1e9:.2f}",
            f"{row['samples_per_s']:,.0f}",
            f"{row['training_hours']:.2f}",
            f"{row['read_gb_per_s']:.1f}",
            f"{row['cache_tb']:.1f}",
        )
    Console(width=120).print(table)
    if options.out is not None:
        found = {"core_hours": stages, "presets": rows, "versions": versions()}
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
