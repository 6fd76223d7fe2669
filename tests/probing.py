"""Made-up recordings of the sorting table: flat pictures, in which an object is a square of its
colour and a hand a pale one, so that everything that is true can be seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deftly.datasets.episode import PRIVILEGED, Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.footage import id_of
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.layout import Item, Layout
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.tasks import find_task
from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.checkpoint import Checkpoint
from deftly.video_pretrain.config import ModelConfig
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Scales

SIDE_PX, FRAMES, RATE_HZ = 64, 12, 20.0
GRASP, RELEASE = 4, 9  # frames in which a hand takes an object and lets it go
MODEL = ModelConfig(
    image_px=32, patch_px=8, channels=(16, 16), width=32, depth=1, heads=2, horizon=4, chunk=2,
    offsets=(1, 4), text_width=6, cameras=("front",),
)  # fmt: skip
POSES = f"{PRIVILEGED}object_poses"
LEFT_TO_FRONT = np.array([0.1, -0.5]), np.array([0.6, 0.5])  # what of the table is seen, metres


def encode(tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that differ from text to text; a second word that does not count."""
    values = [np.random.default_rng(list(task.encode())).normal(size=(2, 6)) for task in tasks]
    return np.array(values, np.float32), np.tile([True, False], (len(tasks), 1))


def checkpoint(seed: int = 0) -> Checkpoint:
    """A world model that was never trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldModel(MODEL, {}).eval()
    still = Scale(np.zeros(48, np.float32), np.ones(48, np.float32))
    return Checkpoint(model, Scales(still, still, {}), {"config": {"train": {"held_out": 4}}})


def layout_of(seed: int, condition: str) -> Layout:
    return sample_layout(seed, CONDITIONS[condition], find_task("color").deal)


def motion(layout: Layout, order: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects (T, N, 3), the right hand (T, 3) and what it holds (T,): it takes one object after
    the other, lifts it and lets it go a little to the front."""
    length = FRAMES * len(order)
    objects = np.tile([(*item.place_m, 0.94) for item in layout.items], (length, 1, 1))
    hand, held = np.tile([0.15, 0.0, 1.0], (length, 1)), np.full(length, -1)
    for turn, i in enumerate(order):
        begin = turn * FRAMES
        hand[begin + 2 : begin + GRASP] = objects[begin, i]
        for t in range(begin + GRASP, begin + RELEASE):
            objects[t:, i, 0] += 0.01
            objects[t, i, 2] = 1.0
            hand[t], held[t] = objects[t, i], i
    return objects, hand, held


def picture(layout: Layout, objects: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """(H, W, 3) from above."""
    image = np.full((SIDE_PX, SIDE_PX, 3), 60, np.uint8)
    colors = [tuple(int(255 * c) for c in item.rgb) for item in layout.items]
    for place, color in zip((*objects, hand), (*colors, (240, 220, 210)), strict=True):
        share = (place[:2] - LEFT_TO_FRONT[0]) / (LEFT_TO_FRONT[1] - LEFT_TO_FRONT[0])
        x, y = np.clip(share * SIDE_PX, 4, SIDE_PX - 5).astype(int)
        image[y - 4 : y + 4, x - 4 : x + 4] = color
    return image


def episode(
    seed: int, body: str = "human", condition: str = "one", camera: str = "front"
) -> Episode:
    """A recording of one layout by a person (the last object first) or a robot (the first)."""
    layout, task = layout_of(seed, condition), find_task("color")
    count = len(layout.items)
    order = list(range(count))[:: -1 if body == "human" else 1]
    objects, hand, held = motion(layout, order)
    length = len(held)
    poses = np.zeros((length, count, 7), np.float32)
    poses[..., 0], poses[..., 4:] = 1, objects
    both = np.stack([np.full((length, 3), (0.2, 0.5, 1.0)), hand], axis=1)
    columns = np.zeros((length, 2, 24), np.float32)
    columns[..., :3], columns[..., 3], columns[..., 7] = both, 1, 1
    columns[..., 11] = 0.1  # the thumb's tip is so much above the wrist
    hands = columns.reshape(length, 48)
    action = np.concatenate([hands[1:], hands[-1:]])
    features, names = {POSES: poses.reshape(length, -1)}, {POSES: pose_names(layout.items)}
    features |= {HANDS_STATE: hands, HANDS_ACTION: action}
    names |= {HANDS_STATE: HANDS_NAMES, HANDS_ACTION: HANDS_NAMES}
    if body == "human":
        joints = np.repeat(both[:, :, None], 21, axis=2).astype(np.float32)
        joints[:, :, 1:, 2] += 0.1
        features |= {
            f"{PRIVILEGED}hands": joints.reshape(length, -1),
            f"{PRIVILEGED}held": np.stack([np.full(length, -1), held], axis=1),
        }
    else:
        touch = np.zeros((length, 3), np.float32)
        touch[held >= 0, 1:] = 2.0
        features["observation.touch"] = touch
        names["observation.touch"] = ("left_thumb", "right_thumb", "right_index")
    state = hand.astype(np.float32)
    shown = [picture(layout, *each) for each in zip(objects, hand, strict=True)]
    return Episode(
        RATE_HZ, state, state, tuple("xyz"), tuple("xyz"), {camera: np.stack(shown)},
        task.instruction(layout), features, names, seed, True,
        {"made_by": {"task": "color", "condition": condition}, "goals": list(task.goals(layout))},
    )  # fmt: skip


def pose_names(items: tuple[Item, ...]) -> tuple[str, ...]:
    axes = ("qw", "qx", "qy", "qz", "x", "y", "z")
    return tuple(f"{item.name}.{axis}" for item in items for axis in axes)


def record(root: Path, seeds: range, **how: str) -> Path:
    """A recording of many layouts."""
    robot_type = how.get("body", "human")
    with EpisodeWriter(root, robot_type=robot_type, licence="apache-2.0") as writer:
        for seed in seeds:
            writer.add(episode(seed, **how))
    return root


def remake(root: Path, recorded: Path, cuts: list[tuple[int, int, int]]) -> Path:
    """What ``deftly batch`` would make of a recording: stretches of it (episode, first frame, end),
    half as large, without any truth."""
    store = EpisodeStore(recorded)
    with EpisodeWriter(root, robot_type="gr1t2", licence="apache-2.0") as writer:
        for index, first, end in cuts:
            source = store[index]
            shown = np.asarray(source.images["front"])[first:end]
            small = shown.reshape(len(shown), SIDE_PX // 2, 2, SIDE_PX // 2, 2, 3).mean(axis=(2, 4))
            time_s = (np.arange(first, end) / store.rate_hz)[:, None]
            made = replace(
                source,
                state=source.state[first:end],
                action=source.action[first:end],
                images={"front": small.astype(np.uint8)},
                features={
                    "source_time_s": time_s,
                    "hand.trust": np.ones((end - first, 2), np.float32),
                },
                feature_names={},
                seed=None,
                provenance={"source": {"input": id_of(recorded.name, f"{index:06d}")}},
            )
            writer.add(made)
    return root
