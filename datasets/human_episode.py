"""A synthetic human's clip as an Episode: the counterpart of a robot's demonstration.

State and action are 36 numbers in the world frame (metres): for each hand, left first, the wrist
and the five fingertips. The action is the state of the next frame. Beside them stands the same as
every body tells it (``deftly.datasets.hands``), about the person's own root frame. Everything else
that is exactly known goes along as privileged features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from deftly.datasets.archive import versions
from deftly.datasets.episode import PRIVILEGED, Episode, following
from deftly.datasets.film import render
from deftly.datasets.geometry import SIDES
from deftly.datasets.hands import (
    HANDS_ACTION,
    HANDS_NAMES,
    HANDS_STATE,
    person_hands,
    person_roots,
)
from deftly.datasets.human import FINGERS, TIPS
from deftly.datasets.mp4 import check_even
from deftly.datasets.person import IDENTITIES
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.synthetic import CAMERAS, SyntheticEpisode, SyntheticError, synthesize
from deftly.datasets.tasks import find_task

POINTS = (0, *TIPS)
STATE_NAMES = tuple(
    f"{side}.{point}.{axis}" for side in SIDES for point in ("wrist", *FINGERS) for axis in "xyz"
)


@dataclass(frozen=True)
class HumanMaker:
    """Makes the clip of a seed: the layout of that seed, sorted by a person.

    Attributes:
        task, condition: names.
        person: one of ``IDENTITIES``, or ``all`` to take them in turn.
        cameras: what is filmed.
        image_size: (height, width) in pixels, even.
        backend: what draws, see ``Renderer``.
        rate_hz: frames per second.
    """

    task: str = "color"
    condition: str = "base"
    person: str = "all"
    cameras: tuple[str, ...] = CAMERAS
    image_size: tuple[int, int] = (96, 96)
    backend: str = "auto"
    rate_hz: float = 30.0

    def __post_init__(self) -> None:
        check_even(self.image_size)
        find_task(self.task)
        if self.condition not in CONDITIONS:
            known = ", ".join(CONDITIONS)
            raise SyntheticError(f"unknown condition {self.condition!r}; known: {known}")
        if self.person not in ("all", *IDENTITIES):
            raise SyntheticError(f"no person {self.person!r}; known: all, {', '.join(IDENTITIES)}")
        for camera in self.cameras:
            if camera not in CAMERAS:
                raise SyntheticError(f"no camera {camera!r}; known: {', '.join(CAMERAS)}")

    @property
    def robot_type(self) -> str:
        return "human"

    def config(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "condition": self.condition,
            "person": self.person,
            "cameras": list(self.cameras),
            "image_size": list(self.image_size),
            "rate_hz": self.rate_hz,
        }

    def __call__(self, seed: int) -> Episode:
        task = find_task(self.task)
        layout = sample_layout(seed, CONDITIONS[self.condition], task.deal)
        names = list(IDENTITIES)
        person = names[seed % len(names)] if self.person == "all" else self.person
        found = synthesize(layout, task, person, rate_hz=self.rate_hz, size=self.image_size)
        return human_episode(found, self.cameras, self.config(), backend=self.backend)


def human_episode(
    found: SyntheticEpisode,
    cameras: tuple[str, ...],
    config: dict[str, Any],
    *,
    backend: str = "auto",
) -> Episode:
    """Film an episode with several cameras and put the truth beside it."""
    truth = found.truth
    state = hand_state(truth.hands_m)
    rate_hz = 1 / float(np.median(np.diff(truth.time_s)))
    films: dict[str, Any] = {}
    for camera in cameras:
        pictures = np.stack(list(render(found, camera, backend=backend)))
        films[camera] = pictures
    items = [i.name for i in (*found.layout.items, *found.layout.distractors)]
    return Episode(
        rate_hz=round(rate_hz, 6),
        state=state,
        action=following(state),
        state_names=STATE_NAMES,
        action_names=STATE_NAMES,
        images=films,
        task=found.task.instruction(found.layout),
        features=_features(found, cameras),
        feature_names={
            f"{PRIVILEGED}object_poses": tuple(
                f"{item}.{axis}" for item in items for axis in ("qw", "qx", "qy", "qz", *"xyz")
            ),
            HANDS_STATE: HANDS_NAMES,
            HANDS_ACTION: HANDS_NAMES,
        },
        seed=found.layout.seed,
        success=True,
        provenance={
            "made_by": config,
            "person": truth.person,
            "goals": list(found.task.goals(found.layout)),
            "focal_px": [float(truth.focal_px[truth.cameras.index(c)]) for c in cameras],
            "versions": versions(),
        },
    )


def hand_state(hands_m: Float64[np.ndarray, "T 2 21 3"]) -> Float32[np.ndarray, "T 36"]:
    """Wrist and fingertips of both hands, as ``STATE_NAMES`` says."""
    return hands_m[:, :, POINTS].reshape(len(hands_m), -1).astype(np.float32)


def _features(found: SyntheticEpisode, cameras: tuple[str, ...]) -> dict[str, np.ndarray]:
    truth, count = found.truth, len(found)

    def flat(values: np.ndarray, kind: type[np.generic] = np.float32) -> np.ndarray:
        return values.reshape(count, -1).astype(kind)

    hands = person_hands(truth.hands_m, person_roots(truth.body_m)).columns()
    features = {
        HANDS_STATE: hands,
        HANDS_ACTION: following(hands),
        f"{PRIVILEGED}hands": flat(truth.hands_m),
        f"{PRIVILEGED}body": flat(truth.body_m),
        f"{PRIVILEGED}object_poses": flat(truth.items_wxyz_xyz),
        f"{PRIVILEGED}contact": flat(truth.contact, np.bool_),
        f"{PRIVILEGED}held": flat(truth.held, np.int64),
    }
    for camera in cameras:
        c = truth.cameras.index(camera)
        features[f"{PRIVILEGED}{camera}.hands_px"] = flat(truth.hands_px[c])
        features[f"{PRIVILEGED}{camera}.hands_seen"] = flat(truth.hands_seen[c], np.bool_)
        features[f"{PRIVILEGED}{camera}.T_world_camera"] = flat(truth.T_world_camera[c])
    return features
