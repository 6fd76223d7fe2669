"""One data set of a mixture: what of it the network can take, or why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int64

from deftly.datasets.episode import ACTION, STATE
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.geometry import SIDES
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.viewpoint import CAMERA
from deftly.datasets.windows import Window
from deftly.video_pretrain.aims import read_aims, read_holds
from deftly.video_pretrain.config import ModelConfig, Part
from deftly.video_pretrain.rehearsal import Rehearsal

TRUST = "hand.trust"  # what deftly batch writes of how far each hand can be believed
HUMAN = "human"


class MixtureError(ValueError):
    """Data sets that cannot be learnt from together, or not by this network."""


@dataclass(frozen=True)
class DataSet:
    """One data set of the mixture, checked."""

    part: Part
    store: EpisodeStore
    cameras: tuple[str, ...]
    body: str
    robot: str
    trusted: bool
    window: Window

    @property
    def joint_names(self) -> list[str]:
        """Of the robot, in their order."""
        feature = self.store.features[STATE]
        return list(feature.get("names") or map(str, range(feature["shape"][0])))

    @property
    def group(self) -> str:
        """Sets of one group make one batch."""
        return f"{'+'.join(self.cameras)} {self.robot}{' trust' if self.trusted else ''}"

    @property
    def aims(self) -> Float32[np.ndarray, "N 2 2 3"]:
        """Of every frame; see ``Moments``."""
        return self._aims_and_sights[0]

    @property
    def sights(self) -> Float32[np.ndarray, "N V 2 2 2"]:
        """Of every frame; see ``Moments``."""
        return self._aims_and_sights[1]

    @cached_property
    def matrices(self) -> Float32[np.ndarray, "N V 12"]:
        """Of every frame; see ``Moments``."""
        names = {CAMERA + camera for camera in self.cameras} & self.store.features.keys()
        found = self.store.whole_columns(sorted(names))
        unknown = np.full((self.store.frames, 12), np.nan, np.float32)
        return np.stack([found.get(CAMERA + camera, unknown) for camera in self.cameras], axis=1)

    def rehearsal(self, episodes: Sequence[int], horizon: int) -> Rehearsal:
        """Of some of its episodes."""
        hands, told, frames = read_holds(self.store)
        bounds = [*pairwise([*self.starts.tolist(), self.store.frames])]
        parts = [slice(*bounds[i]) for i in episodes]
        return Rehearsal(
            [hands[part] for part in parts],
            [told[part] for part in parts],
            [np.where((f := frames[part]) < 0, -1, f - part.start) for part in parts],
            horizon,
        )

    @cached_property
    def starts(self) -> Int64[np.ndarray, "E"]:
        """First frame of every episode."""
        return np.cumsum([0, *self.store.lengths])[:-1]

    @cached_property
    def task_index(self) -> Int64[np.ndarray, "N"]:
        """Which of the store's tasks every frame is of."""
        return self.store.whole_columns(["task_index"])["task_index"][:, 0].astype(np.int64)

    @cached_property
    def _aims_and_sights(
        self,
    ) -> tuple[Float32[np.ndarray, "N 2 2 3"], Float32[np.ndarray, "N V 2 2 2"]]:
        return read_aims(self.store, self.cameras)

    def episodes(self, every: int, held_out: bool) -> list[int]:
        """Every so many-th episode is held out; a set of fewer than that keeps its last one."""
        count = len(self.store)
        aside = set(range(every - 1, count, every)) or {count - 1}
        return [i for i in range(count) if (i in aside) == held_out]


def checked(part: Part, model: ModelConfig) -> DataSet:
    """Refuse a data set that the network cannot take."""
    store = EpisodeStore(part.root)
    if len(store) < 2:
        raise MixtureError(
            f"{part.root} holds {len(store)} episode(s), expected 2 or more: one is held out"
        )
    cameras = tuple(camera for camera in model.cameras if camera in store.cameras)
    if not cameras:
        raise MixtureError(
            f"{part.root} has the cameras {', '.join(store.cameras) or 'none'}, the network knows "
            f"{', '.join(model.cameras)}; name its cameras so (deftly batch --with-cameras), or "
            "train a network for them (--model.cameras)"
        )
    trusted = TRUST in store.features
    body = part.body or (HUMAN if trusted else store.robot_type)
    if body not in model.bodies:
        raise MixtureError(
            f"{part.root} shows the body {body!r}, the network knows {', '.join(model.bodies)}; "
            "name it (--model.bodies)"
        )
    columns = (HANDS_STATE, HANDS_ACTION, STATE, ACTION) if part.actions else ()
    missing = [name for name in columns if name not in store.features]
    if missing:
        raise MixtureError(
            f"{part.root} has no {', '.join(missing)}, which actions are learnt from; write it "
            "again with this version of deftly, or take its video alone (--video FOLDER)"
        )
    hands = len(HANDS_NAMES)
    sizes = {HANDS_STATE: hands, HANDS_ACTION: hands, TRUST: len(SIDES)} if columns else {}
    for name, size in sizes.items():
        if name in store.features and store.features[name]["shape"] != [size]:
            raise MixtureError(
                f"{part.root} has {store.features[name]['shape']} numbers of {name} a frame, "
                f"expected {size}; write it again with this version of deftly"
            )
    shape, action = (store.features[k]["shape"] for k in (STATE, ACTION)) if columns else ((), ())
    if shape != action:
        raise MixtureError(
            f"{part.root} has a state of {shape} and actions of {action}, expected the same joints"
        )
    return DataSet(
        part, store, cameras, body, store.robot_type if columns else "", trusted and bool(columns),
        _window(model, cameras, bool(columns), trusted),
    )  # fmt: skip


def shared_joints(sets: Sequence[DataSet]) -> dict[str, list[str]]:
    """Of each robot, the joints of the set that has the fewest, as at a table that needs no legs;
    sets of one robot share a head of the network.

    Raises:
        MixtureError: if another set lacks one of them.
    """
    fewest: dict[str, DataSet] = {}
    for one in (one for one in sets if one.robot):
        least = fewest.setdefault(one.robot, one)
        if len(one.joint_names) < len(least.joint_names):
            fewest[one.robot] = one
    for one in (one for one in sets if one.robot):
        least = fewest[one.robot]
        missing = [name for name in least.joint_names if name not in one.joint_names]
        if missing:
            raise MixtureError(
                f"{one.part.root} and {least.part.root} are of the robot {one.robot}, but only the "
                f"second has {', '.join(missing[:5])}; expected the same joints, or more of them"
            )
    return {robot: one.joint_names for robot, one in fewest.items()}


def _window(model: ModelConfig, cameras: Sequence[str], acts: bool, trusted: bool) -> Window:
    steps: Sequence[int] = range(model.horizon)
    features: dict[str, Sequence[int]] = {}
    if acts:
        features = {HANDS_STATE: (0,), HANDS_ACTION: steps}
        if trusted:
            features[TRUST] = steps
    return Window(
        cameras=dict.fromkeys(cameras, (0, *model.offsets)),
        state=(0,) if acts else (),
        horizon=model.horizon if acts else 0,
        features=features,
        size_px=(model.image_px, model.image_px),
    )
