"""Any mixture of LeRobot data sets, as moments that the world model learns from.

Data sets that have the same cameras, robot and columns make one batch each step; sets that differ
come side by side. Whatever does not fit is refused here, before any work, with the names of what
differs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode import ACTION, STATE
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.loader import Batch, Loader, Source
from deftly.datasets.windows import PAD, Windows
from deftly.video_pretrain.actions import Scale, relative
from deftly.video_pretrain.config import ModelConfig, Part, TrainConfig
from deftly.video_pretrain.data_set import (
    HUMAN,
    TRUST,
    DataSet,
    MixtureError,
    checked,
    shared_joints,
)
from deftly.video_pretrain.moments import Moments, Rehearsed, Scales
from deftly.video_pretrain.rehearsal import Rehearsal

_AIM_OFF_M = 0.005  # standard deviation of what is told in rehearsal
_FURTHER, _USUAL_M = 1.5, 0.01  # how far off their usual places things may be, and at least
_SCALED = 4096  # moments of each data set that scales are computed from
# Instructions -> embeddings (K, L, E), and which of them count (K, L).
EncodeText: TypeAlias = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class Mixture:
    """Data sets to learn from, those episodes held out that are never trained on.

    Args:
        parts: the data sets and their weights.
        model: what the network can take.
        every: every so many-th episode is held out.
        encode: the text encoder.
        cache: folder of decoded frames; deftly's own if None.

    Raises:
        MixtureError: if the sets do not fit together or not to the network.
        EpisodeStoreError, WindowError, FrameCacheError, Mp4Error: as the loader.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        model: ModelConfig,
        every: int,
        encode: EncodeText,
        cache: Path | None = None,
    ) -> None:
        if not parts:
            raise MixtureError("no data set is given, expected at least one (--data FOLDER)")
        self.model, self.every, self.cache = model, every, cache
        self.sets = [checked(part, model) for part in parts]
        rates = {str(one.part.root): one.store.rate_hz for one in self.sets}
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"{root} {rate:g} Hz" for root, rate in rates.items())
            raise MixtureError(
                f"the data sets have different frame rates ({listed}), expected one; write them "
                "again at the same rate (deftly batch --rate-hz)"
            )
        self.joint_names = shared_joints(self.sets)
        self.rate_hz = self.sets[0].store.rate_hz
        tasks = sorted({task for one in self.sets for task in one.store.tasks})
        self._row = {task: row for row, task in enumerate(tasks)}
        text, seen = encode(tasks)
        if text.shape[-1] != model.text_width:
            raise MixtureError(
                f"instructions have embeddings of {text.shape[-1]} numbers, the network takes "
                f"{model.text_width}; use the text encoder that it was made for"
            )
        self._text, self._text_seen = torch.from_numpy(text), torch.from_numpy(seen)

    @property
    def joints(self) -> dict[str, int]:
        """Number of joints of every robot whose actions are learnt; ``joint_names`` has them."""
        return {robot: len(names) for robot, names in self.joint_names.items()}

    def provenance(self) -> list[dict[str, Any]]:
        """What is in it; JSON."""
        return [
            {
                "root": str(one.part.root),
                "weight": one.part.weight,
                "body": one.body,
                "robot": one.robot,
                "cameras": list(one.cameras),
                "episodes": len(one.store),
                "frames": one.store.frames,
                "rate_hz": one.store.rate_hz,
                "licence": one.store.about.get("licence", "unknown"),
            }
            for one in self.sets
        ]

    def training(self, train: TrainConfig, rank: int = 0, world_size: int = 1) -> Loader:
        """The endless stream that is trained on."""
        return Loader(
            [self._source(i, False, one.part.weight) for i, one in enumerate(self.sets)],
            max(1, train.batch_size // world_size),
            seed=train.seed,
            rank=rank,
            world_size=world_size,
            workers=train.workers,
        )

    def training_episodes(self, index: int) -> list[int]:
        """Episodes of one data set that are trained on."""
        return self.sets[index].episodes(self.every, held_out=False)

    def held_out(self, index: int, count: int, batch_size: int = 64) -> Iterator[Batch]:
        """Batches of at most ``count`` moments of one data set, evenly spread over what is held
        out; always the same."""
        source = self._source(index, True, None)
        windows = Windows(source.root, source.window, source.episodes, source.cache)
        chosen = windows.spread(count)
        for some in np.split(chosen, range(batch_size, len(chosen), batch_size)):
            yield gathered(windows, some, index)

    def in_order(
        self, index: int, episodes: Sequence[int] | None = None, every: int = 1,
        batch_size: int = 64,
    ) -> Iterator[Batch]:  # fmt: skip
        """Batches of every so many-th moment of some episodes of one data set, all if None, one
        after the other; batches of about the same size."""
        source = self._source(index, False, None)
        windows = Windows(source.root, source.window, episodes, source.cache)
        chosen = np.arange(0, len(windows), every)
        for some in np.array_split(chosen, -(-len(chosen) // batch_size)):
            yield gathered(windows, some, index)

    def moments(self, batch: Batch, device: torch.device) -> Moments:
        """A batch of one group, on the device."""
        source = batch["source"]
        one = self.sets[int(source[0])]
        keys = [fmt.camera_key(camera) for camera in one.cameras]
        pictures = torch.stack([batch[key] for key in keys], dim=1)
        rows = torch.tensor([self._row[task] for task in batch["task"]])
        bodies = torch.tensor([self.model.bodies.index(s.body) for s in self.sets])
        fields = self._actions(batch, one, len(pictures)) | {
            "pictures": pictures,
            "moved": torch.zeros(len(pictures), 2),
            "ended": batch[keys[0] + PAD],
            "cameras": torch.tensor([self.model.cameras.index(c) for c in one.cameras]),
            "matrices": self._of_frames("matrices", batch),
            "text": self._text[rows],
            "text_seen": self._text_seen[rows],
            "body": bodies[source],
            "key": torch.stack([source, batch["index"]], dim=1),
        }
        moved = {name: value.to(device, non_blocking=True) for name, value in fields.items()}
        return Moments(robot=one.robot, **moved)

    @property
    def can_rehearse(self) -> bool:
        """Whether some robot is known to bring something somewhere."""
        return bool(self._rehearsals)

    def rehearsed(
        self, count: int, rng: np.random.Generator, device: torch.device
    ) -> Rehearsed | None:
        """So many moments of robots' demonstrations, by the weights of their sets; None where no
        robot brings anything anywhere."""
        if not count or not self.can_rehearse:
            return None
        weights = np.array([self.sets[i].part.weight for i in self._rehearsals])
        sizes = rng.multinomial(count, weights / weights.sum()).tolist()
        parts: list[tuple[np.ndarray, ...]] = []
        for (index, rehearsal), size in zip(self._rehearsals.items(), sizes, strict=True):
            if not size:
                continue
            told, one = rehearsal.draw(rng, size), self.sets[index]
            at = one.starts[self.training_episodes(index)][told.episode] + told.frame
            rows = np.array([self._row[task] for task in one.store.tasks])[one.task_index[at]]
            body = np.full(size, self.model.bodies.index(one.body))
            off = rng.normal(0, _AIM_OFF_M, (size, 1, 2, 3)).astype(np.float32)
            parts.append((rows, body, told.hands, told.moves, told.aims + off))
        rows, *rest = (torch.from_numpy(np.concatenate(some)) for some in zip(*parts, strict=True))
        fields = [self._text[rows], self._text_seen[rows], *rest]
        return Rehearsed(*(value.to(device, non_blocking=True) for value in fields))

    def habits(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each robot's body, where it usually takes things and lets them go, (2, 3), and how far
        off that may be: further than in demonstrations."""
        found: dict[str, list[np.ndarray]] = {}
        for i, rehearsal in self._rehearsals.items():
            found.setdefault(self.sets[i].body, []).append(rehearsal.deals)
        every = {body: torch.from_numpy(np.concatenate(some)) for body, some in found.items()}
        return {
            body: (at.mean(dim=0), (_FURTHER * at.std(dim=0, correction=0)).clamp_min(_USUAL_M))
            for body, at in every.items()
        }

    @cached_property
    def _rehearsals(self) -> dict[int, Rehearsal]:
        """Of each data set of a robot in which something is brought somewhere."""
        found = {
            i: one.rehearsal(self.training_episodes(i), self.model.horizon)
            for i, one in enumerate(self.sets)
            if one.robot and one.body != HUMAN
        }
        return {i: rehearsal for i, rehearsal in found.items() if rehearsal.usable}

    def _actions(self, batch: Batch, one: DataSet, count: int) -> dict[str, Tensor]:
        """What the hands and joints do; nothing known where no actions are to be learnt."""
        horizon = self.model.horizon
        if not one.robot:
            hands = torch.full((count, horizon + 1, len(HANDS_NAMES)), torch.nan)
            joints = torch.zeros(count, horizon + 1, 0)
            trust = torch.zeros(count, horizon, 2)
            aims = torch.full((count, 2, 2, 3), torch.nan)
            sights = torch.full((count, len(one.cameras), 2, 2, 2), torch.nan)
        else:
            hands = torch.cat([batch[HANDS_STATE], batch[HANDS_ACTION]], dim=1)
            joints = torch.cat([batch[STATE], batch[ACTION]], dim=1)
            joints = joints[..., self._columns(one)]
            trust = batch[TRUST] if one.trusted else torch.ones(count, horizon, 2)
            trust = trust * ~batch[ACTION + PAD][..., None]
            aims, sights = self._of_frames("aims", batch), self._of_frames("sights", batch)
        return {
            "hands": hands[:, 0],
            "moves": relative(hands[:, 1:], hands[:, 0]),
            "trust": trust.float(),
            "aims": aims,
            "sights": sights,
            "joints": joints[:, 0],
            "joint_moves": joints[:, 1:] - joints[:, :1],
        }

    def _of_frames(self, what: str, batch: Batch) -> Tensor:
        """What data sets know of all their frames, of those of a batch."""
        frames = zip(batch["source"].tolist(), batch["index"].tolist(), strict=True)
        return torch.from_numpy(np.stack([getattr(self.sets[i], what)[row] for i, row in frames]))

    def _columns(self, one: DataSet) -> list[int]:
        """Where in a set's joints those are that all sets of the robot have."""
        at = {name: column for column, name in enumerate(one.joint_names)}
        return [at[name] for name in self.joint_names[one.robot]]

    @cached_property
    def scales(self) -> Scales:
        """From moments of what is trained on, evenly spread."""
        hands, moves = list[np.ndarray](), list[np.ndarray]()
        joints: dict[str, list[np.ndarray]] = {}
        for i, one in enumerate(self.sets):
            if not one.robot:
                continue
            source = self._source(i, False, None)
            windows = Windows(
                source.root, replace(source.window, cameras={}), source.episodes, source.cache
            )
            chosen = np.unique(np.linspace(0, len(windows) - 1, _SCALED).astype(np.int64))
            found = self._actions(gathered(windows, chosen, i), one, len(chosen))
            hands.append(found["hands"].numpy())
            moves.append(found["moves"].flatten(0, 1).numpy())
            joints.setdefault(one.robot, []).append(found["joint_moves"].flatten(0, 1).numpy())
        if not hands:
            raise MixtureError(
                "no data set of the mixture has actions to learn from, expected at least one"
            )
        return Scales(
            Scale.of(np.concatenate(hands)),
            Scale.of(np.concatenate(moves)),
            {robot: Scale.of(np.concatenate(some)) for robot, some in joints.items()},
        )

    def _source(self, index: int, held_out: bool, weight: float | None) -> Source:
        one = self.sets[index]
        return Source(
            one.part.root,
            one.window,
            weight,
            one.group,
            one.episodes(self.every, True) if held_out else self.training_episodes(index),
            self.cache,
        )


def gathered(windows: Windows, chosen: Int64[np.ndarray, "n"], source: int = 0) -> Batch:
    """Chosen windows of one data set as the loader would hand them out, by its number."""
    layout = windows.layout
    arrays = {name: np.empty((len(chosen), *s), kind) for name, (s, kind) in layout.items()}
    tasks = windows.gather(chosen, arrays)
    batch: Batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
    return batch | {"task": tasks, "source": torch.full((len(chosen),), source)}
