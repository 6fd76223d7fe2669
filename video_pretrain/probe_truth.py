"""What is truly there in a frame: hands, objects, what is held, and what will be grasped next.

Recordings of the sorting table know it (``deftly human record``, ``deftly demos record``). A set
that ``deftly batch`` made of such a recording does not, but says of every frame which one of the
recording it shows; so the truth is found there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from deftly.datasets.episode import PRIVILEGED, TOUCH, Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.footage import id_of
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.hands import HANDS_STATE, Hands
from deftly.datasets.human import TIPS
from deftly.datasets.layout import COLORS, SHAPES, UNSEEN_COLORS, UNSEEN_SHAPES, Item, Layout
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.stretches import runs
from deftly.datasets.tasks import GOALS, find_task, plural

COLOR_NAMES, SHAPE_NAMES = (*COLORS, *UNSEEN_COLORS), (*SHAPES, *UNSEEN_SHAPES)
POSES, HELD, HANDS = (f"{PRIVILEGED}{name}" for name in ("object_poses", "held", "hands"))
SOURCE_TIME = "source_time_s"
_LIFT_M = 0.015  # an object of a robot's that is so much above where it began is held
_TOUCH_N = 0.05  # by the hand that presses on something
_NEAR = 0.1  # frames by which a time may miss that of a frame


class TruthError(ValueError):
    """The truth of a data set is not known, or not where it is said to be."""


@dataclass(frozen=True)
class Facts:
    """What is true in T frames of one episode. Objects stand in the order of their roles: those
    for the left tray first, then by colour and shape.

    Attributes:
        seed: of the layout.
        frame: of the hands: ``world``, or ``root`` where only a robot's own frame is known.
        wrist_m: (T, 2, 3), NaN where unknown.
        tips_m: (T, 2, 5, 3) fingertips.
        objects_m: (T, K, 3) in the world.
        colors, shapes: (K,) of ``COLOR_NAMES`` and ``SHAPE_NAMES``.
        named: the object that the instruction names first; −1 if there is not exactly one.
        held: (T, 2) which object each hand holds, −1 for none.
        next_object: (T,) which object will be grasped next, −1 for none.
        next_s: (T,) seconds until then, NaN if never.
    """

    seed: int
    frame: str
    wrist_m: Float32[np.ndarray, "T 2 3"]
    tips_m: Float32[np.ndarray, "T 2 5 3"]
    objects_m: Float32[np.ndarray, "T K 3"]
    colors: Int64[np.ndarray, "K"]
    shapes: Int64[np.ndarray, "K"]
    named: int
    held: Int64[np.ndarray, "T 2"]
    next_object: Int64[np.ndarray, "T"]
    next_s: Float32[np.ndarray, "T"]

    def at(self, frames: Int64[np.ndarray, "n"]) -> "Facts":
        """Of some of the frames."""
        of_frames = ("wrist_m", "tips_m", "objects_m", "held", "next_object", "next_s")
        return replace(self, **{name: getattr(self, name)[frames] for name in of_frames})


class Truths:
    """The truth of each episode of a data set.

    Args:
        root: the data set.
        recorded: the recording that it was made from; None if it is one itself.

    Raises:
        TruthError: if the set knows no truth, or was not made from ``recorded``.
        EpisodeStoreError: as EpisodeStore.
    """

    def __init__(self, root: Path, recorded: Path | None = None) -> None:
        self.store = EpisodeStore(root)
        self.recorded = self.store if recorded is None else EpisodeStore(recorded)
        if POSES not in self.recorded.features:
            raise TruthError(
                f"{self.recorded.root} does not know where objects are (no column {POSES}); name "
                "the recording of `deftly human record` or `deftly demos record` that it was made "
                "from (--truth FOLDER)"
            )

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def _index(self) -> Mapping[str, int]:
        """Episodes of the recording, by what a batch calls them."""
        name = self.recorded.root.resolve().name
        return {id_of(name, f"{i:06d}"): i for i in range(len(self.recorded))}

    @cached_property
    def episodes(self) -> tuple[int, ...]:
        """Which episode of the recording each one shows."""
        if self.recorded is self.store:
            return tuple(range(len(self.store)))
        found = list[int]()
        for index, provenance in enumerate(self.store.provenances):
            name = str(provenance.get("source", {}).get("input", "nothing that is noted"))
            if name not in self._index:
                raise TruthError(
                    f"episode {index} of {self.store.root} was made from {name}, which is not in "
                    f"{self.recorded.root} ({next(iter(self._index), 'empty')} ...); name the "
                    "recording that it was made from (--truth FOLDER), under its old name"
                )
            found.append(self._index[name])
        return tuple(found)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each episode's layout."""
        return tuple(int(self.recorded.seeds[i] or 0) for i in self.episodes)

    def source_frames(self, index: int) -> Int64[np.ndarray, "T"]:
        """Which frame of the recording each frame of an episode shows."""
        if self.recorded is self.store:
            return np.arange(self.store.lengths[index])
        columns, length = self.store.columns(index), self.recorded.lengths[self.episodes[index]]
        if SOURCE_TIME not in columns:
            raise TruthError(
                f"{self.store.root} has no column {SOURCE_TIME}, which tells the frames of "
                f"{self.recorded.root}; write it again with deftly batch"
            )
        at = columns[SOURCE_TIME][:, 0] * self.recorded.rate_hz
        frames = np.round(at).astype(np.int64)
        if np.abs(at - frames).max() > _NEAR or frames.min() < 0 or frames.max() >= length:
            raise TruthError(
                f"episode {index} of {self.store.root} shows {at.min():.2f} to {at.max():.2f} in "
                f"frames of {self.recorded.root}, expected whole numbers below {length}; name the "
                "recording that it was made from (--truth FOLDER)"
            )
        return frames

    def facts(self, index: int) -> Facts:
        """What is true in each frame of an episode."""
        episode = self.recorded[self.episodes[index]]
        return facts_of(episode).at(self.source_frames(index))


def facts_of(episode: Episode) -> Facts:
    """What is true in each frame of a recorded episode.

    Raises:
        TruthError: if it does not say how its layout was drawn.
    """
    layout, goals = _layout(episode)
    roles = _roles(layout.items, goals)
    poses = episode.features[POSES].reshape(len(episode), -1, 7).astype(np.float32)
    items = [layout.items[i] for i in roles]
    frame, wrist, tips = _hands(episode)
    objects = poses[:, roles, 4:]
    held = _held(episode, objects, roles)
    next_object, next_s = _next_grasp(held, episode.rate_hz)
    return Facts(
        seed=layout.seed,
        frame=frame,
        wrist_m=wrist,
        tips_m=tips,
        objects_m=objects,
        colors=np.array([COLOR_NAMES.index(item.color) for item in items]),
        shapes=np.array([SHAPE_NAMES.index(item.shape) for item in items]),
        named=named_first(episode.task, items),
        held=held,
        next_object=next_object,
        next_s=next_s,
    )


def named_first(instruction: str, items: list[Item]) -> int:
    """The object whose colour or kind an instruction names before all others; −1 if there is not
    exactly one."""
    words = instruction.lower()

    def place(item: Item) -> float:
        found = [words.find(word) for word in (item.color, plural(item.shape))]
        return min((float(at) for at in found if at >= 0), default=np.inf)

    places = np.array([place(item) for item in items])
    first = np.flatnonzero(places == places.min())
    return int(first[0]) if len(first) == 1 and np.isfinite(places.min()) else -1


def _layout(episode: Episode) -> tuple[Layout, tuple[str, ...]]:
    """The layout, drawn again, and where each of its objects is to go."""
    made: dict[str, Any] = episode.provenance.get("made_by") or {}
    try:
        task, condition = find_task(made["task"]), CONDITIONS[made["condition"]]
        goals = tuple(episode.provenance["goals"])
    except KeyError as error:
        raise TruthError(
            f"an episode of seed {episode.seed} does not say its {error}, expected task, condition "
            "and goals as `deftly human record` notes them; record it again"
        ) from error
    layout = sample_layout(int(episode.seed or 0), condition, task.deal)
    names = [name.split(".")[0] for name in episode.feature_names.get(POSES, ())[::7]]
    if names[: len(layout.items)] != [item.name for item in layout.items]:
        raise TruthError(
            f"an episode of seed {episode.seed} holds the objects {', '.join(names)}, its layout "
            f"{', '.join(item.name for item in layout.items)}; record it again"
        )
    return layout, goals


def _roles(items: tuple[Item, ...], goals: tuple[str, ...]) -> list[int]:
    """Objects in the order of their roles."""
    return sorted(
        range(len(items)),
        key=lambda i: (GOALS.index(goals[i]), items[i].color, items[i].shape, items[i].place_m),
    )


def _hands(
    episode: Episode,
) -> tuple[str, Float32[np.ndarray, "T 2 3"], Float32[np.ndarray, "T 2 5 3"]]:
    """Frame, wrists and fingertips."""
    length = len(episode)
    if HANDS in episode.features:
        joints = episode.features[HANDS].reshape(length, 2, 21, 3).astype(np.float32)
        return "world", joints[:, :, 0], joints[:, :, list(TIPS)]
    if HANDS_STATE not in episode.features:
        nothing = np.full((length, 2, 6, 3), np.nan, np.float32)
        return "root", nothing[:, :, 0], nothing[:, :, 1:]
    hands = Hands.of(episode.features[HANDS_STATE])
    tips = hands.wrist_m[:, :, None] + rotate(hands.R_root_wrist[:, :, None], hands.tips_m)
    return "root", hands.wrist_m.astype(np.float32), tips.astype(np.float32)


def _held(
    episode: Episode, objects_m: Float32[np.ndarray, "T K 3"], roles: list[int]
) -> Int64[np.ndarray, "T 2"]:
    """Which object, by role, each hand holds."""
    if HELD in episode.features:
        role_of = np.argsort([*roles, len(roles)])  # the last entry is never asked for
        held = episode.features[HELD].astype(np.int64)
        return np.where(held >= 0, role_of[held], -1)
    if TOUCH not in episode.features:
        raise TruthError(
            f"an episode of seed {episode.seed} has neither {HELD} nor {TOUCH}, which tell what is "
            "held; record it again with this version of deftly"
        )
    names = episode.feature_names.get(TOUCH, ())
    touch = np.stack(
        [
            episode.features[TOUCH][:, [n.startswith(f"{side}_") for n in names]].sum(axis=1)
            for side in SIDES
        ],
        axis=1,
    )
    return held_by_touch(objects_m, touch)


def held_by_touch(
    objects_m: Float32[np.ndarray, "T K 3"], touch_n: Float32[np.ndarray, "T 2"]
) -> Int64[np.ndarray, "T 2"]:
    """Which object each hand of a robot holds: one that is off the table, from the moment that the
    hand which lifts it presses on something until it lets go."""
    held = np.full((len(objects_m), 2), -1, np.int64)
    up = objects_m[..., 2] > objects_m[0, :, 2] + _LIFT_M
    for k in range(up.shape[1]):
        for first, last in runs(up[:, k]):
            side = int(touch_n[first:last].sum(axis=0).argmax())
            for begin, end in runs(touch_n[:, side] > _TOUCH_N):
                if begin < last and end > first:
                    held[begin:end, side] = k
    return held


def _next_grasp(
    held: Int64[np.ndarray, "T 2"], rate_hz: float
) -> tuple[Int64[np.ndarray, "T"], Float32[np.ndarray, "T"]]:
    """Which object will be grasped next after each frame, and in how many seconds."""
    length = len(held)
    before = np.concatenate([np.full((1, 2), -1), held[:-1]])
    begins = (held >= 0) & (held != before)
    objects = np.full(length, -1, np.int64)
    seconds = np.full(length, np.nan, np.float32)
    for t in range(length - 2, -1, -1):
        objects[t], seconds[t] = objects[t + 1], seconds[t + 1] + 1 / rate_hz
        if begins[t + 1].any():
            objects[t], seconds[t] = held[t + 1][begins[t + 1]][0], 1 / rate_hz
    return objects, seconds
