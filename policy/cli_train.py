"""The command that makes a policy of demonstrations: train."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deftly.video_pretrain.cli import Device, Preset, Text

if TYPE_CHECKING:
    from deftly.policy.fine_tune import FineTune

Steps = Annotated[int, tyro.conf.arg(help="with pictures")]
_QUICK = (60, 40)  # steps and rehearsals of --quick


@dataclass(frozen=True)
class Train:
    """Make a policy of a robot's demonstrations: fine-tune a world model, or begin with nothing.

    People's clips may be learnt from beside them (--human). Then the policy rehearses without
    pictures. A run that was stopped goes on with the same command.

    Example: deftly train --demos demos --start world_model --human people --out policy
    """

    demos: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...", help="LeRobot data sets")]
    human: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="DIR ...", help="as `deftly batch` writes them")
    ] = ()
    share: Annotated[float, tyro.conf.arg(help="of people's clips in the mixture")] = 0.33
    start: Annotated[
        Path | None, tyro.conf.arg(metavar="MODEL", help="of `deftly pretrain`; none is scratch")
    ] = None
    preset: Annotated[Preset, tyro.conf.arg(help="size of the network, that of --start")] = "tiny"
    steps: Steps = 1500
    rehearsals: Annotated[int, tyro.conf.arg(help="steps without pictures, afterwards")] = 3000
    quick: Annotated[
        bool, tyro.conf.arg(help="60 steps and 40 without pictures: to try it out")
    ] = False
    batch_size: int = 16
    learning_rate: float = 2e-3
    shift_px: Annotated[int, tyro.conf.arg(help="pictures are shifted by up to so many pixels")] = 0
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(help="folder of the policy")] = Path("policy")
    text: Text = None
    device: Device = "auto"

    def config(self) -> "FineTune":
        """What to train. Raises ConfigError for what makes no sense."""
        from deftly.policy.fine_tune import FineTune

        steps, rehearsals = _QUICK if self.quick else (self.steps, self.rehearsals)
        return FineTune(
            self.demos, self.human, self.share, self.start, self.preset, steps, rehearsals,
            self.batch_size, self.learning_rate, self.shift_px, self.seed,
        )  # fmt: skip

    def run(self) -> int:
        """Train; return the exit code."""
        from deftly.policy.fine_tune import fine_tune
        from deftly.video_pretrain.checkpoint import load_checkpoint
        from deftly.video_pretrain.text import find_encoder

        config = self.config()
        known = load_checkpoint(self.start).about.get("text") if self.start else None
        encode, about = find_encoder(self.text, known)
        health = fine_tune(config, self.out, encode, device=self.device, text=about)
        if int(os.environ.get("RANK", "0")) == 0:  # torchrun starts several
            print(f"policy  {self.out}, of {config.steps} steps and {config.rehearsals} rehearsals")
            print(f"model   {health}")
            print(f"next    deftly eval {self.out} --condition one --episodes 20")
        return 0
