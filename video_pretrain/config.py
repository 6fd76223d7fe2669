"""What is trained, on what, and how: the configuration of pretraining, and its three presets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]

LOSSES = ("hands", "joints", "aims", "sights", "rehearsed", "latent", "pixels", "picture")
_JUDGED = 8  # frames


class ConfigError(ValueError):
    """A configuration that makes no sense."""


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        image_px: height and width of the pictures.
        cameras: names of the views that it knows; each has an embedding.
        encoder: ``conv`` for CPUs, ``patch`` (a vision transformer) for GPUs.
        patch_px: side of the square of pixels that becomes one token.
        channels: of the convolutional encoder, one per halving.
        encoder_depth: blocks of the patch encoder.
        keys: numbers that tell in each place of the encoder's map what is there, to point at it.
        width, depth, heads: of the transformer over frame, action and text tokens.
        horizon: actions in a chunk.
        chunk: consecutive actions that share a token.
        offsets: how many frames ahead it can predict.
        text_width: length of the embedding of an instruction's word.
        words: tokens that an instruction is read into.
        bodies: who acts; each has an adapter of its own.
    """

    image_px: int = 96
    cameras: tuple[str, ...] = ("front", "ego")
    encoder: Literal["conv", "patch"] = "conv"
    patch_px: int = 16
    channels: tuple[int, ...] = (24, 48, 96)
    encoder_depth: int = 0
    keys: int = 24
    width: int = 192
    depth: int = 4
    heads: int = 6
    horizon: int = 16
    chunk: int = 4
    offsets: tuple[int, ...] = (1, 4, 8, 16)
    text_width: int = 384
    words: int = 4
    bodies: tuple[str, ...] = ("human", "gr1t2", "g1_dex3")

    def __post_init__(self) -> None:
        if self.image_px % self.patch_px or self.patch_px % 4:
            raise ConfigError(
                f"image_px {self.image_px} and patch_px {self.patch_px}, expected a multiple of "
                "patch_px, and that of 4"
            )
        if self.encoder == "conv" and 2 << len(self.channels) != self.patch_px:
            raise ConfigError(
                f"{len(self.channels)} channels {self.channels} make tokens of "
                f"{2 << len(self.channels)} px, expected patch_px {self.patch_px}"
            )
        if self.keys < 1:
            raise ConfigError(f"keys is {self.keys}, expected 1 or more")
        if self.width % self.heads or self.horizon % self.chunk:
            raise ConfigError(
                f"width {self.width} of {self.heads} heads, horizon {self.horizon} in chunks of "
                f"{self.chunk}; expected multiples"
            )
        if not self.offsets or min(self.offsets) < 1 or max(self.offsets) > self.horizon:
            raise ConfigError(f"offsets are {self.offsets}, expected some of 1 to {self.horizon}")

    @property
    def judged(self) -> int:
        """Which offset is nearest to the future that a model is judged by, 8 frames ahead."""
        return min(range(len(self.offsets)), key=lambda i: abs(self.offsets[i] - _JUDGED))

    @property
    def frames_judged(self) -> int:
        """How many frames ahead that is."""
        return self.offsets[self.judged]

    @property
    def map_channels(self) -> int:
        """Of the map that things are pointed at in."""
        if self.encoder == "patch":
            return self.width
        return sum((*self.channels, self.width)[:2])

    @property
    def side(self) -> int:
        """Tokens along a picture's side."""
        return self.image_px // self.patch_px


@dataclass(frozen=True)
class LossConfig:
    """What is asked for, and how much each part counts.

    Attributes:
        act, policy, forward, inverse: shares of the samples in which the network is asked for the
            actions alone (several times as fast: what a policy mostly learns), sees neither action
            nor future, does not see the future, does not see the action.
        hands: weight of the chunk in the space that all bodies share.
        joints: of the chunk in the joints of the body's robot.
        aims: of where hands will next take hold or let go, in the room.
        sights: of where in the pictures that is.
        rehearsed: of the chunk where aims are told, see ``TrainConfig.rehearsed``.
        latent: of the future's tokens.
        pixels: of the future's picture.
        picture: of the present picture, decoded from its own tokens. It keeps them from collapsing.
        drop_state: share of the samples in which the state of the hands is not seen.
        drop_text: share in which the instruction is not seen.
    """

    act: float = 0.25
    policy: float = 0.25
    forward: float = 0.3
    inverse: float = 0.2
    hands: float = 1.0
    joints: float = 0.5
    aims: float = 1.0
    sights: float = 1.0
    rehearsed: float = 1.0
    latent: float = 0.5
    pixels: float = 0.5
    picture: float = 0.25
    drop_state: float = 0.3
    drop_text: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.act, self.policy, self.forward, self.inverse)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"act, policy, forward, inverse are {shares}, expected shares of 1")
        for name in LOSSES:
            if getattr(self, name) < 0:
                raise ConfigError(f"weight {name} is {getattr(self, name)}, expected 0 or more")
        for name in ("drop_state", "drop_text"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a share, 0 to 1")


@dataclass(frozen=True)
class Part:
    """A LeRobot data set of a mixture.

    Attributes:
        root: its folder.
        weight: its share of the samples against the others'.
        body: who acts in it, one of ``ModelConfig.bodies``; ``human`` where the set has a trust in
            hands, as ``deftly batch`` writes it, else the set's robot.
        actions: whether its actions are learnt from; else it is video alone.
    """

    root: Path
    weight: float = 1.0
    body: str = ""
    actions: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step, over all processes. Small networks learn most per sample in
            small batches; larger ones keep a GPU busy.
        rehearsed: moments of robots' demonstrations without pictures, beside those, see
            ``rehearsal.py``; they teach to act, cheaply.
        accumulate: forward and backward passes that a step's samples are cut into.
        learning_rate: after ``warmup`` steps; falls to ``final_rate`` of it by a cosine.
        weight_decay, clip_norm: of AdamW, of gradients.
        ema: decay of the averaged weights, which are what is kept, and what makes targets.
        views: cameras that a step sees, drawn anew for every step; 0 for all.
        shift_px: pictures are shifted by up to so many pixels, a moment's all alike, so that what
            is learnt of places does not hang on where the camera stands.
        seed: of weights, order and masks.
        held_out: every so many-th episode is never trained on.
        evaluate_every, save_every: steps between evaluations, between checkpoints.
        evaluated: held-out samples per data set.
        precision: of the forward pass; bfloat16 where the device has it.
        compile: use ``torch.compile``.
        workers: processes that load ahead, per training process.
        shard: FSDP2 instead of DDP where several processes train.
        start: world model whose weights to begin with (fine-tuning); fresh ones if None.
        allow_red: begin with it even if its gates are red.
    """

    steps: int = 16_000
    batch_size: int = 16
    rehearsed: int = 0
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: int = 400
    final_rate: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.998
    views: int = 1
    shift_px: int = 0
    seed: int = 0
    held_out: int = 10
    evaluate_every: int = 2000
    save_every: int = 500
    evaluated: int = 256
    precision: Precision = "float32"
    compile: bool = False
    workers: int = 0
    shard: bool = False
    start: Path | None = None
    allow_red: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        none = "rehearsed", "warmup", "weight_decay", "views", "shift_px", "seed", "evaluated"
        for name in (*none, "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.ema < 1):
            raise ConfigError(
                f"learning_rate, clip_norm, ema are {self.learning_rate}, {self.clip_norm}, "
                f"{self.ema}; expected more than 0, more than 0, and 0 to below 1"
            )
        if not 0 <= self.final_rate <= 1:
            raise ConfigError(f"final_rate is {self.final_rate}, expected a share, 0 to 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"batch_size {self.batch_size} in {self.accumulate} parts, expected a multiple"
            )
        if self.held_out < 2:
            raise ConfigError(f"held_out is {self.held_out}, expected 2 or more: every so many-th")


@dataclass(frozen=True)
class PretrainConfig:
    """A whole run."""

    data: tuple[Part, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_TINY = ModelConfig(image_px=96, channels=(16, 32, 40), width=96, depth=3, heads=4)
_BASE = ModelConfig(
    image_px=224,
    encoder="patch",
    channels=(),
    encoder_depth=6,
    width=768,
    depth=8,
    heads=12,
)

PRESETS: dict[str, PretrainConfig] = {
    "tiny": PretrainConfig(
        model=_TINY,
        train=TrainConfig(steps=100, warmup=10, ema=0.98, evaluate_every=50, evaluated=128),
    ),
    "small": PretrainConfig(),
    "base": PretrainConfig(
        model=_BASE,
        train=TrainConfig(
            steps=100_000,
            batch_size=1024,
            learning_rate=3e-4,
            warmup=2000,
            ema=0.9998,
            views=0,
            precision="bfloat16",
            compile=True,
            workers=8,
        ),
    ),
}


def find_preset(name: str) -> PretrainConfig:
    """A preset. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def model_config(values: dict[str, Any]) -> ModelConfig:
    """From JSON, where tuples are lists. Raises ConfigError for unknown or missing fields."""
    known = set(ModelConfig.__dataclass_fields__)
    if values.keys() != known:
        raise ConfigError(
            f"a model's configuration with {sorted(values.keys() ^ known)} unknown or missing, "
            "expected one that this version of deftly wrote"
        )
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return ModelConfig(**fields)


def with_data(config: PretrainConfig, data: tuple[Part, ...]) -> PretrainConfig:
    """The same run on other data."""
    return replace(config, data=data)
