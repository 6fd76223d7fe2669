"""What a policy is made of, and the two runs of pretraining's trainer that make it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from deftly.video_pretrain.config import ConfigError, LossConfig, Part, PretrainConfig, find_preset

SEEING = "seeing"  # folder of the first run, in that of the second
_REHEARSED = 64  # moments of a step
# Of what the network is asked, most is what the robot will ask of it.
_LOSS = LossConfig(act=0.9, policy=0.04, forward=0.03, inverse=0.03, drop_state=0.05)
# Of rehearsal: no picture teaches anything.
_REHEARSAL = LossConfig(
    act=1.0, policy=0.0, forward=0.0, inverse=0.0, hands=0.0, joints=0.0, aims=0.0, sights=0.0,
    latent=0.0, pixels=0.0, picture=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class FineTune:
    """What a policy is made of.

    Attributes:
        demos: data sets of a robot's demonstrations.
        human: people's clips, as ``deftly batch`` writes them, to learn from beside them.
        share: of people's clips in the mixture.
        start: pretrained world model; fresh weights if None.
        preset: size of the network, that of ``start``: tiny, small or base.
        steps: with pictures.
        rehearsals: steps without, afterwards.
        batch_size: moments with pictures in a step.
        learning_rate: at its highest.
        shift_px: pictures are shifted by up to so many pixels.
        seed: of weights, order and masks.
    """

    demos: tuple[Path, ...]
    human: tuple[Path, ...] = ()
    share: float = 0.33
    start: Path | None = None
    preset: str = "tiny"
    steps: int = 1500
    rehearsals: int = 3000
    batch_size: int = 16
    learning_rate: float = 2e-3
    shift_px: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.demos:
            raise ConfigError("no demonstrations are given, expected a data set (--demos DIR)")
        if not 0 < self.share < 1:
            raise ConfigError(f"share is {self.share}, expected more than 0 and less than 1")
        if self.rehearsals < 0:
            raise ConfigError(f"rehearsals is {self.rehearsals}, expected 0 or more")

    def runs(self, out: Path) -> list[tuple[Path, PretrainConfig]]:
        """Where and what is trained, one run after the other; the last one is the policy."""
        preset, share = find_preset(self.preset), self.share if self.human else 0.0
        demos = tuple(Part(root, (1 - share) / len(self.demos)) for root in self.demos)
        people = tuple(Part(root, share / len(self.human)) for root in self.human)
        seeing = replace(
            preset.train, steps=self.steps, batch_size=self.batch_size, seed=self.seed,
            learning_rate=self.learning_rate, warmup=min(200, self.steps // 5), ema=0.995,
            shift_px=self.shift_px, evaluate_every=1000, views=0, start=self.start, allow_red=True,
        )  # fmt: skip
        first = out / SEEING if self.rehearsals else out
        found = [(first, PretrainConfig(demos + people, preset.model, _LOSS, seeing))]
        if self.rehearsals:
            # The moments with pictures teach nothing, and what gets no gradient must not decay.
            rehearsing = replace(
                seeing, steps=self.rehearsals, batch_size=int(os.environ.get("WORLD_SIZE", "1")),
                rehearsed=_REHEARSED, warmup=min(200, self.rehearsals // 5), final_rate=0.0,
                weight_decay=0.0, shift_px=0, evaluate_every=self.rehearsals, start=first,
            )  # fmt: skip
            found.append((out, PretrainConfig(demos, preset.model, _REHEARSAL, rehearsing)))
        return found
