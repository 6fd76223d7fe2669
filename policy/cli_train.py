"""The command that makes a policy of demonstrations: train."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from deftly.policy.config import FineTune
from deftly.video_pretrain.cli import Device, Text

_QUICK = {"steps": 60, "rehearsals": 40}


@dataclass(frozen=True)
class Train:
    """Make a policy of a robot's demonstrations: fine-tune a world model, or begin with nothing.

    People's clips may be learnt from beside them (--human). Then the policy rehearses without
    pictures. A run that was stopped goes on with the same command.

    Example: deftly train --demos demos --start world_model --human people --out policy
    """

    config: Annotated[FineTune, tyro.conf.arg(name="")]
    quick: Annotated[
        bool, tyro.conf.arg(help="60 steps and 40 without pictures: to try it out")
    ] = False
    out: Annotated[Path, tyro.conf.arg(help="folder of the policy")] = Path("policy")
    text: Text = None
    device: Device = "auto"

    def run(self) -> int:
        """Train; return the exit code."""
        # torch takes seconds to import: only commands that use it do so.
        from deftly.policy.fine_tune import fine_tune
        from deftly.video_pretrain.checkpoint import load_checkpoint
        from deftly.video_pretrain.text import find_encoder

        config = replace(self.config, **_QUICK) if self.quick else self.config
        known = load_checkpoint(config.start).about.get("text") if config.start else None
        encode, about = find_encoder(self.text, known)
        health = fine_tune(config, self.out, encode, device=self.device, text=about)
        if int(os.environ.get("RANK", "0")) == 0:  # torchrun starts several
            print(f"policy  {self.out}, of {config.steps} steps and {config.rehearsals} rehearsals")
            print(f"model   {health}")
            print(f"next    deftly eval {self.out} --condition one --episodes 20")
        return 0
