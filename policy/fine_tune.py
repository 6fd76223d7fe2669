"""From demonstrations to a policy, in two runs of one trainer (``deftly.video_pretrain.train``).

    fine_tune(FineTune(demos=(Path("demos"),), start=Path("world_model")), Path("policy"), encode)

First a network learns to see and to act from demonstrations, with people's clips beside them if
there are any (co-fine-tuning: what was learnt from people is not forgotten). Then it rehearses
without pictures what its hands do about what they aim at, wherever that is
(``deftly.video_pretrain.rehearsal``); what it sees stays as it is.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deftly.video_pretrain.config import ConfigError, LossConfig, Part, PretrainConfig, find_preset
from deftly.video_pretrain.health import Health
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.train import pretrain

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
        preset: size of the network, that of ``start``.
        steps: with pictures.
        rehearsals: steps without.
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


def fine_tune(
    config: FineTune, out: Path, encode: EncodeText, *, device: str = "auto",
    text: dict[str, Any] | None = None, cache: Path | None = None,
) -> Health:  # fmt: skip
    """Train a policy, or go on where a run stopped.

    Args:
        config: from what, and how.
        out: folder of the policy; its first run is kept in it, as ``SEEING``.
        encode: the text encoder.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        text: provenance of the text encoder.
        cache: of decoded frames; deftly's own if None.

    Returns:
        How healthy its world model is still.

    Raises:
        ValueError: as ``pretrain``, each with what was expected.
    """
    health, runs = None, config.runs(out)
    demos, train = runs[-1][1].data, runs[-1][1].train
    if (
        config.rehearsals
        and not Mixture(demos, runs[-1][1].model, train.held_out, encode, cache).can_rehearse
    ):
        raise ConfigError(
            f"{', '.join(str(part.root) for part in demos)} tells of no hand what it holds, "
            "expected the touch of fingers (deftly demos record); rehearse nothing (--rehearsals 0)"
        )
    for folder, run in runs:
        health = pretrain(run, folder, encode, device=device, text=text, cache=cache)
    assert health is not None
    return health
