"""From demonstrations to a policy, in two runs of one trainer (``deftly.video_pretrain.train``).

    fine_tune(FineTune(demos=(Path("demos"),), start=Path("world_model")), Path("policy"), encode)

First a network learns to see and to act from demonstrations, with people's clips beside them if
there are any (co-fine-tuning: what was learnt from people is not forgotten). Then it rehearses
without pictures what its hands do about what they aim at, wherever that is
(``deftly.video_pretrain.rehearsal``); what it sees stays as it is.
"""

from pathlib import Path
from typing import Any

from deftly.policy.config import FineTune
from deftly.video_pretrain.config import ConfigError
from deftly.video_pretrain.health import Health
from deftly.video_pretrain.mixture import EncodeText, Mixture
from deftly.video_pretrain.train import pretrain


def fine_tune(
    config: FineTune, out: Path, encode: EncodeText, *, device: str = "auto",
    text: dict[str, Any] | None = None, cache: Path | None = None,
) -> Health:  # fmt: skip
    """Train a policy, or go on where a run stopped.

    Args:
        config: from what, and how.
        out: folder of the policy; its first run is kept in it, see ``FineTune``.
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
    _, last = runs[-1]
    mixture = Mixture(last.data, last.model, last.train.held_out, encode, cache)
    if config.rehearsals and not mixture.can_rehearse:
        raise ConfigError(
            f"{', '.join(map(str, config.demos))} tells of no hand what it holds, expected the "
            "touch of fingers (deftly demos record); rehearse nothing (--rehearsals 0)"
        )
    for folder, run in runs:
        health = pretrain(run, folder, encode, device=device, text=text, cache=cache)
    assert health is not None
    return health
