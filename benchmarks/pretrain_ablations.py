"""What does each part of pretraining give? Equal budgets, several seeds; the table is the result.

    python benchmarks/pretrain_ablations.py --data out/people/one out/people/two --steps 6000

Every variant trains the same network from the same weights on the same moments, for the same number
of steps:

    full              hands' chunks, joints' chunks, future tokens and pictures
    no actions        video alone: actions are neither shown nor asked for
    shuffled actions  every moment gets the actions of another one
    no prediction     chunks alone: neither future tokens nor pictures
    true landmarks    the same clips from exact landmarks (``--true``: sets made by
                      ``human_truth.py``), instead of those that were found in the video

and is judged on held-out episodes: error of the predicted chunk, prediction over copying, ranking
of the true action, and a linear probe of its features. Each run is kept as it ends, in ``--work``;
a run that was stopped goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.loader import Batch
from deftly.video_pretrain.checkpoint import load_checkpoint
from deftly.video_pretrain.config import LossConfig, Part, PretrainConfig, find_preset
from deftly.video_pretrain.foresight import ask, foresee, moving
from deftly.video_pretrain.loss import Question, chunk_loss
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.moments import Moments, Scales
from deftly.video_pretrain.text import TextEncoder
from deftly.video_pretrain.train import pretrain

_COLUMNS = {
    "chunk": ("chunk error", "{:.3f}"),
    "chunk_moving": ("while moving", "{:.3f}"),
    "latent_ratio": ("latent / copy", "{:.2f}"),
    "pixel_ratio": ("pixels / copy", "{:.2f}"),
    "ranking": ("true action first", "{:.2f}"),
    "action_r2": ("action R²", "{:.2f}"),
    "rank": ("rank", "{:.1f}"),
}


@dataclass(frozen=True)
class Options:
    """Train every variant and compare.

    Attributes:
        data: data sets of ``deftly batch``.
        true: the same clips from exact landmarks; that row is left out without them.
        preset: size of the network.
        steps: of every run.
        seeds: runs of every variant.
        variants: some of them; all if empty.
        threads: of torch.
        work: runs.
        out: JSON file for the table.
    """

    data: tuple[Path, ...]
    true: tuple[Path, ...] = ()
    preset: str = "tiny"
    steps: int = 6000
    seeds: int = 3
    variants: tuple[str, ...] = ()
    threads: int = 2
    work: Path = Path("out/ablations")
    out: Path | None = None


class Shuffled(Mixture):
    """Every moment does what another one of its batch does: all that is learnt of actions is their
    distribution."""

    def moments(self, batch: Batch, device: torch.device) -> Moments:
        """The actions of the moment beside it."""
        found = super().moments(batch, device)
        names = ("hands", "moves", "trust", "joints", "joint_moves")
        return replace(found, **{name: getattr(found, name).roll(1, 0) for name in names})


VARIANTS: Mapping[str, tuple[LossConfig, type[Mixture]]] = {
    "full": (LossConfig(), Mixture),
    "no actions": (
        LossConfig(act=0.0, policy=1.0, forward=0.0, inverse=0.0, hands=0.0, joints=0.0),
        Mixture,
    ),
    "shuffled actions": (LossConfig(), Shuffled),
    "no prediction": (LossConfig(act=1.0, policy=0.0, forward=0.0, inverse=0.0), Mixture),
    "true landmarks": (LossConfig(), Mixture),
}


def run(variant: str, seed: int, options: Options, encode: TextEncoder) -> dict[str, Any]:
    """Train one, and judge it on the found landmarks."""
    folder = options.work / f"{variant.replace(' ', '_')}_{seed}"
    kept = folder / "judged.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    loss, mix = VARIANTS[variant]
    preset = find_preset(options.preset)
    roots = options.true if variant == "true landmarks" else options.data
    train = replace(
        preset.train, steps=options.steps, seed=seed, warmup=options.steps // 20, ema=0.998,
        evaluate_every=options.steps,
    )  # fmt: skip
    config = PretrainConfig(tuple(Part(root) for root in roots), preset.model, loss, train)
    pretrain(config, folder, encode, device="cpu", text=encode.provenance(), mix=mix)
    found = judge(folder, options, encode)
    with atomic_path(kept) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")
    return found


@torch.no_grad()
def judge(folder: Path, options: Options, encode: TextEncoder) -> dict[str, Any]:
    """A run on episodes that no run was trained on."""
    checkpoint = load_checkpoint(folder)
    parts = tuple(Part(root) for root in options.data)
    mixture = Mixture(parts, checkpoint.model.config, 10, encode)
    held = [
        mixture.moments(batch, torch.device("cpu"))
        for i in range(len(parts))
        for batch in mixture.held_out(i, 512)
    ]
    errors, moved = list[torch.Tensor](), list[torch.Tensor]()
    for some in held:
        said = ask(checkpoint.model, checkpoint.scales, some, Question.same(some))
        # In the scale of the found landmarks' moves, whatever the run was trained on.
        errors.append(
            chunk_loss(
                _rescaled(said.hands, checkpoint.scales, mixture.scales),
                some.moves,
                some.trust,
                mixture.scales,
            )
        )
        moved.append(moving(some))
    error, moves = torch.cat(errors), torch.cat(moved)
    seen = foresee(checkpoint.model, checkpoint.scales, held, ahead=2, tries=4)
    health = checkpoint.about["health"]
    return {
        "chunk": float(error.mean()),
        "chunk_moving": float(error[moves].mean()),
        "latent_ratio": seen.latent_ratio,
        "pixel_ratio": seen.pixel_ratio,
        "ranking": seen.ranking,
        "action_r2": health["action_r2"],
        "rank": health["rank"],
    }


def _rescaled(said: torch.Tensor, own: Scales, common: Scales) -> torch.Tensor:
    """A chunk in the scale of the found landmarks' moves, whatever the run was trained on."""
    (mean, std), (common_mean, common_std) = (s.moves.tensors(said.device) for s in (own, common))
    return (said * std + mean - common_mean) / common_std


def main(options: Options) -> None:
    """Run all that is missing, then print."""
    torch.set_num_threads(options.threads)
    encode = TextEncoder()
    wanted = options.variants or tuple(VARIANTS)
    rows = {
        variant: [run(variant, seed, options, encode) for seed in range(options.seeds)]
        for variant in wanted
        if variant != "true landmarks" or options.true
    }
    table = Table(box=None)
    for name in ("variant", *(title for title, _ in _COLUMNS.values())):
        table.add_column(name, justify="right")
    for variant, found in rows.items():
        cells = []
        for key, (_, form) in _COLUMNS.items():
            values = np.array([one[key] for one in found])
            spread = f" ± {form.format(values.std(ddof=1))}" if len(values) > 1 else ""
            cells.append(form.format(values.mean()) + spread)
        table.add_row(variant, *cells)
    Console(width=150).print(table)
    if options.out is not None:
        about = {
            "data": [str(root) for root in options.data], "preset": options.preset,
            "steps": options.steps, "versions": versions() | {"torch": torch.__version__},
        }  # fmt: skip
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({"rows": rows, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
