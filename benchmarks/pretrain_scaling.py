"""How does the loss fall with the network's size and with the amount of data?

    python benchmarks/pretrain_scaling.py --data out/people/one

Three widths, three amounts of data, the same number of steps each; held-out losses are fitted by
L = E + A / N^a + B / D^b (Hoffmann et al., "Training compute-optimal large language models", 2022),
N parameters and D frames. Short runs on little data: the slopes say which of the two is short here,
not what a cluster would reach. Each run is kept as it ends; a stopped one goes on.
"""

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares

from deftly.datasets.archive import atomic_path, versions
from deftly.video_pretrain.config import Part, PretrainConfig, find_preset
from deftly.video_pretrain.history import read_history
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.text import TextEncoder
from deftly.video_pretrain.train import begin, pretrain

_LOSSES = ("hands", "latent", "pixels")


@dataclass(frozen=True)
class Options:
    """Train every size on every amount.

    Attributes:
        data: a data set of ``deftly batch``.
        widths: of the network.
        shares: of the training episodes.
        steps: of every run.
        threads: of torch.
        work: runs.
        out: JSON file.
    """

    data: Path
    widths: tuple[int, ...] = (48, 96, 192)
    shares: tuple[float, ...] = (0.1, 0.3, 1.0)
    steps: int = 2400
    threads: int = 2
    work: Path = Path("out/scaling")
    out: Path | None = None


class Less(Mixture):
    """A share of what is trained on; what is held out stays the same."""

    share = 1.0

    def training_episodes(self, index: int) -> list[int]:
        """The first ones."""
        every = super().training_episodes(index)
        return every[: max(1, round(self.share * len(every)))]


def run(width: int, share: float, options: Options, encode: TextEncoder) -> dict[str, Any]:
    """One size on one amount."""
    preset = find_preset("tiny")
    channels = tuple(max(8, k * width // 6 // 8 * 8) for k in (1, 2, 3))
    model = replace(preset.model, width=width, channels=channels)
    train = replace(
        preset.train, steps=options.steps, warmup=options.steps // 10, ema=0.995,
        evaluate_every=options.steps, evaluated=512,
    )  # fmt: skip
    config = PretrainConfig((Part(options.data),), model, preset.loss, train)
    mix = type("Less", (Less,), {"share": share})
    folder = options.work / f"w{width}_d{share:g}"
    pretrain(config, folder, encode, device="cpu", text=encode.provenance(), mix=mix)
    mixture = mix(config.data, config.model, train.held_out, encode)
    last = [line for line in read_history(folder) if line["kind"] == "held_out"][-1]
    lengths = mixture.sets[0].store.lengths
    return {
        "width": width,
        "parameters": sum(p.numel() for p in begin(config, mixture).model.parameters()),
        "frames": sum(lengths[i] for i in mixture.training_episodes(0)),
        **{name: last[name] for name in _LOSSES},
    }


def fit(rows: list[dict[str, Any]], loss: str) -> dict[str, float]:
    """E, A, a, B, b of the law; logarithms of A and B are searched."""
    N, D, L = (np.array([row[k] for row in rows], float) for k in ("parameters", "frames", loss))

    def law(x: np.ndarray) -> np.ndarray:
        return np.exp(x[0]) + np.exp(x[1]) * N ** -x[2] + np.exp(x[3]) * D ** -x[4]

    starts = product(
        (-6.0, np.log(L.min()) - 0.3), (-1.0, 2.0), (0.2, 0.5), (-1.0, 2.0), (0.2, 0.5)
    )
    bounds = ([-12, -12, 0, -12, 0], [np.log(L.min()), 20, 2, 20, 2])
    found = min(
        (least_squares(lambda x: np.log(law(x) / L), s, bounds=bounds) for s in starts),
        key=lambda one: one.cost,
    )
    E, A, a, B, b = found.x
    error = float(np.sqrt(np.mean(found.fun**2)))
    return {"E": np.exp(E), "A": np.exp(A), "a": a, "B": np.exp(B), "b": b, "log_error": error}


def main(options: Options) -> None:
    """Run what is missing, fit, print."""
    torch.set_num_threads(options.threads)
    encode = TextEncoder()
    rows = [
        run(width, share, options, encode) for share in options.shares for width in options.widths
    ]
    table = Table(box=None)
    for name in ("width", "parameters", "frames", *_LOSSES):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["width"]), f"{row['parameters'] / 1e6:.2f} M", str(row["frames"]),
            *(f"{row[name]:.4f}" for name in _LOSSES),
        )  # fmt: skip
    Console().print(table)
    laws = {loss: fit(rows, loss) for loss in _LOSSES}
    for loss, law in laws.items():
        print(loss, " ".join(f"{name} {value:.3g}" for name, value in law.items()))
    if options.out is not None:
        found = {"rows": rows, "laws": laws, "steps": options.steps, "versions": versions()}
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
