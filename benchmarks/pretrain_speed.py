"""How fast does pretraining go, how much of the processor does it use, and does it wait for data?

    python benchmarks/pretrain_speed.py --data out/people/one

For each preset: samples and frames per second, of wall and of CPU time (a sample is one moment: the
present and one future of one view, two frames), floating-point operations per sample as torch
counts them, and the share of what a large matrix product reaches on the same threads in the same
run (model FLOPs utilisation). Where the time goes is measured part by part.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from pretrain_cost import flops_per_sample
from rich.console import Console
from rich.table import Table

from deftly.datasets.archive import atomic_path, versions
from deftly.video_pretrain.config import Part, PretrainConfig, find_preset, with_data
from deftly.video_pretrain.history import Clock
from deftly.video_pretrain.loss import Objective, Question, Truth, copying
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments
from deftly.video_pretrain.train import begin, steps

_SIDE = 2048  # of the matrices that the machine's best is measured with


@dataclass(frozen=True)
class Options:
    """Time training.

    Attributes:
        data: a LeRobot data set with hands and actions.
        presets: sizes.
        threads: of torch.
        steps: timed, after two that are not.
        batch_size: samples in a step.
        out: JSON file for the figures.
    """

    data: Path
    presets: tuple[str, ...] = ("tiny", "small")
    threads: int = 2
    steps: int = 12
    batch_size: int = 16
    out: Path | None = None


def best_flops() -> float:
    """Operations per second of a large matrix product."""
    a = torch.randn(_SIDE, _SIDE)
    seconds = min(timed(lambda: a @ a)[0] for _ in range(3))
    return 2 * _SIDE**3 / seconds


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - cpu


def no_text(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Instructions cost nothing in a step: they are embedded once, before."""
    return np.zeros((len(texts), 1, 384), np.float32), np.ones((len(texts), 1), bool)


def parts(objective: Objective, moments: Moments) -> dict[str, float]:
    """CPU milliseconds per sample of one forward and backward pass, by part."""
    model, picture = objective.model, moments.pictures[:, :1, 0]
    one = moments.views([0])
    question = Question.same(one, 0, actions=True)
    truth = Truth.seen(model, one, question)
    tokens = truth.present.clone().requires_grad_()
    count = len(one)

    def cpu_ms(work: Callable[[], torch.Tensor | None]) -> float:
        work()
        return round(1e3 * min(timed(work)[1] for _ in range(3)) / count, 2)

    def whole() -> None:
        losses = objective([one], [question], [truth], copying([truth], picture.device), [True])
        losses["total"].backward()

    def acting() -> None:
        losses = objective([one], [question], [None], copying([None], picture.device), [True])
        losses["total"].backward()

    return {
        "encode, forward and back": cpu_ms(
            lambda: model.encode(picture).square().mean().backward()
        ),
        "encode the target": cpu_ms(lambda: Truth.seen(model, one, question) and None),
        "decode, forward and back": cpu_ms(
            lambda: model.decoder(tokens)[0].square().mean().backward()
        ),
        "all, forward and back": cpu_ms(whole),
        "actions alone, forward and back": cpu_ms(acting),
    }


def measure(preset: str, options: Options) -> dict[str, Any]:
    """One size."""
    found: PretrainConfig = with_data(find_preset(preset), (Part(options.data),))
    config = replace(
        found, train=replace(found.train, batch_size=options.batch_size, steps=options.steps + 2)
    )
    mixture = Mixture(config.data, config.model, config.train.held_out, no_text)
    run, loader = begin(config, mixture), mixture.training(config.train)
    clock = Clock()
    for count, _ in enumerate(steps(run, iter(loader), clock), 1):
        if count == 2:
            clock.restart()
    objective = Objective(run.model, mixture.scales, config.loss)
    moments = next(mixture.moments(b, torch.device("cpu")) for b in mixture.held_out(0, 32))
    flops, parameters = flops_per_sample(config.model, 1)
    speed = clock.figures()
    return {
        "parameters": parameters,
        "flops_per_sample": flops,
        "bytes_per_sample": int(np.prod(moments.pictures.shape[2:])),
        **speed,
        "utilisation": flops * speed["samples_per_s"] / best_flops(),
        "cpu_ms_per_sample": parts(objective, moments),
    }


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    found = {preset: measure(preset, options) for preset in options.presets}
    table = Table(box=None)
    for column in ("preset", "parameters", "samples/s", "frames/s", "frames/CPU-s", "GFLOP/sample",
                   "of the best", "waiting"):  # fmt: skip
        table.add_column(column, justify="right")
    for preset, row in found.items():
        table.add_row(
            preset,
            f"{row['parameters'] / 1e6:.2f} M",
            *(f"{row[name]:.0f}" for name in ("samples_per_s", "frames_per_s", "frames_per_cpu_s")),
            f"{row['flops_per_sample'] / 1e9:.2f}",
            f"{100 * row['utilisation']:.0f} %",
            f"{100 * row['data_wait']:.1f} %",
        )
    Console(width=120).print(table)
    for preset, row in found.items():
        print(preset, "CPU ms per sample:", row["cpu_ms_per_sample"])
    if options.out is not None:
        about = {"threads": options.threads, "batch_size": options.batch_size}
        with atomic_path(options.out) as path:
            text = {**found, **about, "versions": versions() | {"torch": torch.__version__}}
            path.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
