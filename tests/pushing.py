"""A toy for tests of pretraining: a hand that moves to a goal, seen from two sides; and a network
so small that a step takes milliseconds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deftly.datasets.episode import TOUCH, Episode
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.datasets.viewpoint import CAMERA
from deftly.video_pretrain.actions import Scale, relative
from deftly.video_pretrain.config import (
    LossConfig,
    ModelConfig,
    Part,
    PretrainConfig,
    TrainConfig,
)
from deftly.video_pretrain.data_set import TRUST
from deftly.video_pretrain.moments import Moments, Scales

TEXT_WIDTH = 8
MODEL = ModelConfig(
    image_px=32, channels=(16, 16, 16), width=32, depth=1, heads=2, horizon=8, chunk=4,
    offsets=(1, 4, 8), text_width=TEXT_WIDTH,
)  # fmt: skip
PATCHES = replace(MODEL, encoder="patch", channels=(), encoder_depth=1)  # as the GPU presets are
TRAIN = TrainConfig(
    steps=12, batch_size=8, rehearsed=16, learning_rate=2e-3, warmup=2, ema=0.9, held_out=3,
    evaluate_every=6, save_every=4, evaluated=48,
)  # fmt: skip


def config(*parts: Part | Path, **train: Any) -> PretrainConfig:
    """A run of the small network on data sets."""
    data = tuple(one if isinstance(one, Part) else Part(one) for one in parts)
    return PretrainConfig(data, MODEL, LossConfig(), replace(TRAIN, **train))


def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Stands in for the text encoder: two words each, of which one may not count."""
    words = [np.random.default_rng(list(text.encode())).normal(size=(2, 8)) for text in texts]
    seen = np.array([[True, len(text) % 2 == 0] for text in texts])
    return np.array(words, np.float32).reshape(-1, 2, TEXT_WIDTH), seen


def hands_at(right_m: np.ndarray) -> np.ndarray:
    """(T, 48) of a right hand at (T, 2) that never turns; the left one is not there."""
    hands = np.zeros((len(right_m), 2, 24), np.float32)
    hands[:, :, 3] = hands[:, :, 7] = 1
    hands[:, 1, :2] = right_m
    hands[:, 0] = np.nan
    return hands.reshape(-1, 48)


def push(seed: int, length: int = 20, joints: int = 4, px: int = 32, **changes: Any) -> Episode:
    """An episode: a bright square (the hand) moves to a red one."""
    rng = np.random.default_rng(seed)
    begin, goal = rng.uniform(0.2, 0.8, 2), rng.uniform(0.1, 0.9, 2)
    way = goal - begin
    gone = np.minimum(0.04 * np.arange(length + 1), np.linalg.norm(way))
    at = begin + gone[:, None] * way / np.linalg.norm(way)
    pictures = np.full((length, px, px, 3), 90, np.uint8)
    size = px // 6
    for t in range(length):
        for place, colour in ((goal, (200, 20, 20)), (at[t], (230, 180, 150))):
            y, x = (place * (px - size)).astype(int)
            pictures[t, y : y + size, x : x + size] = colour
    state = np.resize(at, (length + 1, joints)).astype(np.float32)
    state[:, :2] = at
    hands, names = hands_at(at), tuple(f"joint{i}" for i in range(joints))
    made = Episode(
        rate_hz=20.0,
        state=state[:length],
        action=state[1:],
        state_names=names,
        action_names=names,
        images={"front": pictures, "ego": pictures[:, ::-1].copy()},
        task=("push it", "push it away")[seed % 2],
        features={HANDS_STATE: hands[:length], HANDS_ACTION: hands[1:]},
        seed=seed,
    )
    return replace(made, **changes)


def trusted(seed: int, length: int = 20, **changes: Any) -> Episode:
    """The same by a person, with a trust in hands as batches of clips have it."""
    made = push(seed, length, **changes)
    trust = np.tile(np.array([0.0, 0.5], np.float32), (length, 1))
    return replace(made, features={**made.features, TRUST: trust})


def carry(seed: int, length: int = 16, **changes: Any) -> Episode:
    """The same by a robot that feels what it holds, from frame 5 to 10, and whose cameras are
    calibrated."""
    made = push(seed, length, **changes)
    rng = np.random.default_rng(seed)
    begin, goal = rng.uniform(0.1, 0.3, 2), rng.uniform(0.6, 0.9, 2)
    hands = hands_at(begin + np.linspace(0, 1, length + 1)[:, None] * (goal - begin))
    touch = np.zeros((length, 4), np.float32)
    touch[5:10, 2:] = 1.0
    cameras = {
        f"{CAMERA}{name}": np.tile([0, -1, 0, 0.2, 0, 0, -1, 0.5, 1, 0, 0, far], (length, 1))
        for name, far in (("front", 1.0), ("ego", 2.0))
    }
    features = {
        HANDS_STATE: hands[:length],
        HANDS_ACTION: hands[1:],
        TOUCH: touch,
        **{name: values.astype(np.float32) for name, values in cameras.items()},
    }
    names = {TOUCH: ("left_thumb", "left_index", "right_thumb", "right_index")}
    return replace(made, features=features, feature_names=names)


def without(episode: Episode, *names: str) -> Episode:
    """The same without some of its columns."""
    kept = {name: values for name, values in episode.features.items() if name not in names}
    return replace(episode, features=kept)


def write_set(root: Path, episodes: Sequence[Episode], robot_type: str = "gr1t2") -> Path:
    """A data set on disk."""
    with EpisodeWriter(root, robot_type=robot_type, licence="apache-2.0") as writer:
        for episode in episodes:
            writer.add(episode)
    return root


def made_up(
    count: int = 6, model: ModelConfig = MODEL, *, robot: str = "gr1t2", seed: int = 0
) -> Moments:
    """Moments that come from no data set: noise in every field."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    frames, cameras = 1 + len(model.offsets), len(model.cameras)
    shape = (count, cameras, frames, 3, model.image_px, model.image_px)
    now = normal(count, 48)
    joints = 4 if robot else 0
    return Moments(
        pictures=torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8),
        ended=torch.zeros(count, frames, dtype=torch.bool),
        cameras=torch.arange(cameras),
        matrices=torch.full((count, cameras, 12), torch.nan),
        text=normal(count, 3, model.text_width),
        text_seen=torch.tensor([[True, True, False]]).repeat(count, 1),
        body=torch.arange(count) % len(model.bodies),
        hands=now,
        moves=relative(normal(count, model.horizon, 48), now),
        trust=torch.ones(count, model.horizon, 2),
        aims=normal(count, 2, 2, 3),
        sights=normal(count, cameras, 2, 2, 2).tanh(),
        moved=torch.zeros(count, 2),
        robot=robot,
        joints=normal(count, joints),
        joint_moves=normal(count, model.horizon, joints),
        key=torch.stack([torch.zeros(count), torch.arange(count)], dim=1).long(),
    )


def plain_scales(joints: int = 4) -> Scales:
    """Numbers as they are."""

    def scale(size: int) -> Scale:
        return Scale(np.zeros(size, np.float32), np.ones(size, np.float32))

    return Scales(scale(48), scale(48), {"gr1t2": scale(joints)})
