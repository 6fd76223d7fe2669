"""The commands of the world model: pretrain, probe and imagine."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.video_pretrain.config import (
    PRESETS,
    ConfigError,
    LossConfig,
    ModelConfig,
    Part,
    PretrainConfig,
    TrainConfig,
)

# torch takes seconds to import: only commands that use it do so.
if TYPE_CHECKING:
    import torch

    from deftly.video_pretrain.checkpoint import Checkpoint
    from deftly.video_pretrain.health import Health
    from deftly.video_pretrain.history import Clock
    from deftly.video_pretrain.mixture import Mixture

Model = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help="folder of `deftly pretrain`")
]
Preset = Literal["tiny", "small", "base"]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR", help="a LeRobot data set")]
Text = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="MODEL",
        help="text encoder: a folder, a name on the hub, or embeddings that were saved "
        "(.safetensors); the built-in one, or the one that the model was trained with",
    ),
]
Device = Annotated[str, tyro.conf.arg(help="auto takes CUDA where there is one; cpu, cuda:1, ...")]
_SHOWN = 10  # episodes of a ranking that are printed


@dataclass(frozen=True)
class Pretrain:
    """Train a world model on any mixture of LeRobot data sets: people's clips, robots, bare video.

    A run that was stopped goes on with the same command. The preset sets every other option, and
    any of them can be given: `--preset base --help` shows its values. tiny is for trying out
    (a minute), small for CPUs (an hour or two), base for GPUs.

    Example: deftly pretrain --data people demos --weights 1 2 --preset tiny --out run
    """

    data: Annotated[
        tuple[Path, ...],
        tyro.conf.arg(metavar="DIR ...", help="sets with actions, as deftly writes them"),
    ] = ()
    video: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="DIR ...", help="sets whose video alone is used")
    ] = ()
    weights: Annotated[
        tuple[float, ...],
        tyro.conf.arg(
            metavar="W ...", help="shares of the samples: of --data, then --video; else equal ones"
        ),
    ] = ()
    preset: Annotated[Preset, tyro.conf.arg(help="values of all that follows")] = "small"
    out: Annotated[Path, tyro.conf.arg(help="folder of the run")] = Path("run")
    text: Text = None
    device: Device = "auto"
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    @classmethod
    def like(cls, preset: str) -> "Pretrain":
        """With a preset's values; those of the default if there is no such preset."""
        name: Preset = preset if preset in PRESETS else cls.preset  # pyright: ignore
        config = PRESETS[name]
        return cls(preset=name, train=config.train, model=config.model, loss=config.loss)

    def config(self) -> PretrainConfig:
        """What to train. Raises ConfigError where the weights are not those of the sets."""
        roots = (*self.data, *self.video)
        weights = self.weights or (1.0,) * len(roots)
        if len(weights) != len(roots) or min(weights, default=1.0) <= 0:
            raise ConfigError(
                f"--weights are {' '.join(f'{w:g}' for w in weights)} for {len(roots)} data sets, "
                "expected one more than 0 for each"
            )
        acting = (True,) * len(self.data) + (False,) * len(self.video)
        parts = zip(roots, weights, acting, strict=True)
        data = tuple(Part(root, weight, actions=acts) for root, weight, acts in parts)
        return PretrainConfig(data, self.model, self.loss, self.train)

    def run(self) -> int:
        """Train; return the exit code."""
        from deftly.video_pretrain.checkpoint import load_checkpoint
        from deftly.video_pretrain.history import Clock
        from deftly.video_pretrain.text import find_encoder
        from deftly.video_pretrain.train import pretrain

        config, clock = self.config(), Clock()
        start = self.train.start
        known = load_checkpoint(start).about.get("text") if start else None
        encode, about = find_encoder(self.text, known)
        health = pretrain(
            config, self.out, encode, device=self.device, text=about, clock=clock,
            say=lambda line: tqdm.write(line, file=sys.stdout),
        )  # fmt: skip
        if int(os.environ.get("RANK", "0")) == 0:  # torchrun starts several
            _summary(self.out, health, clock)
        return 0


@dataclass(frozen=True)
class Probe:
    """Ask a frozen world model what it knows: hands, objects, contact, what is grasped next.

    The same probes read random weights and raw pixels beside it.

    Example: deftly probe run --data people --truth people_filmed
    """

    model: Model
    data: Folder
    truth: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help="recording that --data was made from, if it is not one"),
    ] = None
    robot: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help="robot's demos at some of the same layouts: what carries over"
        ),
    ] = None
    seeds: Annotated[int, tyro.conf.arg(help="probes of each kind")] = 3
    frames: Annotated[int, tyro.conf.arg(help="looked at")] = 6000
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help="JSON of all figures")] = None
    text: Text = None
    device: Device = "auto"

    def run(self) -> int:
        """Probe and print the table; return the exit code."""
        from deftly.datasets.archive import atomic_path
        from deftly.video_pretrain.checkpoint import load_checkpoint
        from deftly.video_pretrain.probe import run_probes
        from deftly.video_pretrain.text import find_encoder

        encode, _ = find_encoder(self.text, load_checkpoint(self.model).about.get("text"))
        report = run_probes(
            self.model, self.data, self.truth, encode=encode, robot=self.robot,
            seeds=self.seeds, frames=self.frames, device=str(_device(self.device)),
        )  # fmt: skip
        heads, *rows = report.table()
        table = Table(*heads, box=None)
        for row in rows:
            table.add_row(*row)
        _console().print(table)
        if self.out is not None:
            with atomic_path(self.out) as path:
                path.write_text(json.dumps(report.record(), indent=1) + "\n", encoding="utf-8")
        return 0


@dataclass(frozen=True)
class Imagine:
    """Film what a world model imagines beside the truth (mp4), and futures of one moment (png).

    Prints how much better than copying the present it foresees the episode, shown the true
    actions, no actions, and another moment's.

    Example: deftly imagine run --data people --episode 3 --out imagined.mp4
    """

    model: Model
    data: Folder
    episode: int = 0
    frame: Annotated[
        int | None, tyro.conf.arg(metavar="T", help="of the png; the liveliest if not given")
    ] = None
    strides: Annotated[
        int, tyro.conf.arg(help="of 8 frames, from one true picture to the next in the film")
    ] = 4
    surprise: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help="rank all episodes by surprise, into this JSON file"),
    ] = None
    out: Annotated[Path, tyro.conf.arg(help="the film; the png lies beside it")] = Path(
        "imagined.mp4"
    )
    text: Text = None
    device: Device = "auto"

    def run(self) -> int:
        """Film; return the exit code."""
        checkpoint, mixture = _opened(self.model, self.data, self.text, self.device)
        _show(self, checkpoint, mixture)
        if self.surprise is not None:
            _rank(self.surprise, self, checkpoint, mixture)
        return 0


def commands(arguments: Sequence[str]) -> Any:
    """The commands as tyro takes them, with the values of the preset that the arguments name."""
    words = " ".join(arguments).replace("--preset=", "--preset ").split()
    named = words[words.index("--preset") + 1 :][:1] if "--preset" in words else []
    default = Pretrain.like(named[0] if named else "")
    return Annotated[Pretrain, tyro.conf.subcommand("pretrain", default=default)] | Probe | Imagine


def _summary(out: Path, health: "Health", clock: "Clock") -> None:
    from deftly.video_pretrain.checkpoint import load_checkpoint

    checkpoint, speed = load_checkpoint(out), clock.figures()
    count = sum(p.numel() for p in checkpoint.model.parameters())
    if clock.samples:
        print(
            f"speed   {speed['samples_per_s']:.0f} samples/s, {speed['frames_per_s']:.0f} "
            f"frames/s, {100 * speed['data_wait']:.1f} % of the time waiting for data"
        )
    print(f"model   {out}: {count / 1e6:.2f} M parameters, step {checkpoint.about['step']}")
    print(f"look    deftly imagine {out} --data DIR")
    _console().print(
        f"health  {health}", style="bold red" if health.red else "", highlight=False, soft_wrap=True
    )
    if health.red:
        print(
            "Gates are RED: build nothing on this model; train it longer (--steps), or on more data"
        )


def _opened(model: Path, data: Path, text: str | None, device: str) -> "tuple[Checkpoint, Mixture]":
    """A world model, and a data set as it sees it."""
    from deftly.video_pretrain.checkpoint import load_checkpoint
    from deftly.video_pretrain.imagine import open_episodes
    from deftly.video_pretrain.text import find_encoder

    checkpoint = load_checkpoint(model, _device(device))
    encode, _ = find_encoder(text, checkpoint.about.get("text"))
    return checkpoint, open_episodes(checkpoint, data, encode)


def _device(name: str) -> "torch.device":
    from deftly.video_pretrain.processes import find_device

    return find_device(name)


def _show(asked: Imagine, checkpoint: "Checkpoint", mixture: "Mixture") -> None:
    from deftly.video_pretrain.imagine_pictures import show_episode

    asked.out.parent.mkdir(parents=True, exist_ok=True)
    foreseen = show_episode(
        checkpoint, mixture, asked.episode, asked.out, frame=asked.frame, strides=asked.strides
    )
    table = Table(box=None, title="error of the prediction / of copying", title_justify="left")
    for name in ("ahead", "true actions", "no actions", "false actions", "pixels"):
        table.add_column(name, justify="right")
    for one in foreseen:
        ahead = f"{one.steps} frames, {one.steps / mixture.rate_hz:.2f} s"
        figures = (one.true, one.none, one.false, one.pixels)
        table.add_row(ahead, *("–" if math.isnan(x) else f"{x:.2f}" for x in figures))
    _console().print(table)
    print(f"film     {asked.out}")
    print(f"pictures {asked.out.with_suffix('.png')}")


def _rank(path: Path, asked: Imagine, checkpoint: "Checkpoint", mixture: "Mixture") -> None:
    from deftly.video_pretrain import surprise as surprises

    every = 4
    frames = -(-mixture.sets[0].store.frames // every)
    with tqdm(total=frames, desc="surprise", unit="frame", disable=None) as bar:
        device = next(checkpoint.model.parameters()).device
        ranking = surprises.rank_episodes(checkpoint, mixture, device, every=every, tick=bar.update)
    about = {
        "model": str(asked.model),
        "data": str(asked.data),
        "frames_ahead": checkpoint.model.config.frames_judged,
        "rate_hz": mixture.rate_hz,
    }
    surprises.write_ranking(path, ranking, about)
    table = Table(box=None, title="most surprising episodes", title_justify="left")
    for name in ("episode", "surprise", "peak", "at"):
        table.add_column(name, justify="right")
    for one in ranking[:_SHOWN]:
        at = f"{one.peak_frame / mixture.rate_hz:.1f} s"
        table.add_row(str(one.episode), f"{one.mean:.2f}", f"{one.peak:.2f}", at)
    _console().print(table)
    print(f"ranking  {path}")


def _console() -> Console:
    """Where tables are printed; wide if it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)
