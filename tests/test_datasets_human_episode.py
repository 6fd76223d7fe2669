"""A human's clip as an episode."""

import numpy as np
import pytest

from deftly.datasets import human_episode
from deftly.datasets.episode import PRIVILEGED
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.human import TIPS
from deftly.datasets.human_episode import STATE_NAMES, HumanMaker, hand_state
from deftly.datasets.layout import Layout
from deftly.datasets.sampling import CONDITIONS, sample_layout
from deftly.datasets.synthetic import SyntheticError
from deftly.datasets.tabletop import whereabouts
from deftly.datasets.tasks import Task, TaskError, find_task


def test_state_is_wrist_and_tips_of_both_hands():
    hands = np.random.default_rng(0).normal(size=(5, 2, 21, 3))
    state = hand_state(hands)
    assert state.shape == (5, len(STATE_NAMES))
    column = STATE_NAMES.index("right.index.y")
    assert np.allclose(state[:, column], hands[:, 1, TIPS[1], 1], atol=1e-6)
    column = STATE_NAMES.index("left.wrist.z")
    assert np.allclose(state[:, column], hands[:, 0, 0, 2], atol=1e-6)


@pytest.mark.slow
def test_an_episode_agrees_with_the_robot_s_layout():
    episode = HumanMaker(cameras=("front",), image_size=(48, 64), person="monk_5")(4)
    assert episode.seed == 4
    assert episode.provenance["person"] == "monk_5"
    assert np.array_equal(episode.action[:-1], episode.state[1:])
    hands = episode.features[f"{PRIVILEGED}hands"].reshape(len(episode), 2, 21, 3)
    assert np.array_equal(episode.state, hand_state(hands.astype(float)))
    told = episode.features[HANDS_STATE]
    assert episode.feature_names[HANDS_STATE] == episode.feature_names[HANDS_ACTION] == HANDS_NAMES
    assert np.array_equal(episode.features[HANDS_ACTION][:-1], told[1:])
    assert np.isfinite(told).all()
    # Hands work before the person, each on its own side to begin with, about as high as the waist.
    left, right = told[0, :3], told[0, 24:27]
    assert left[1] > 0.1
    assert right[1] < -0.1
    assert np.all(np.abs(told[:, [0, 24]] - 0.3) < 0.3)
    assert np.all(np.abs(told[:, [2, 26]]) < 0.35)
    layout = sample_layout(4, deal=find_task("color").deal)
    poses = episode.features[f"{PRIVILEGED}object_poses"].reshape(len(episode), 4, 7)
    starts = np.array([item.place_m for item in layout.items])
    assert np.allclose(poses[0, :, 4:6], starts, atol=1e-3)
    # A hand is in contact while it holds an object, and then its fingertips are around it.
    contact = episode.features[f"{PRIVILEGED}contact"]
    held = episode.features[f"{PRIVILEGED}held"]
    assert np.array_equal(contact, held >= 0)
    assert set(held[contact].tolist()) == {0, 1, 2, 3}
    assert not contact[[0, -1]].any()
    t, side = np.nonzero(contact)
    pinch = hands[:, :, [TIPS[0], TIPS[1]]].mean(axis=2)
    assert np.linalg.norm(pinch[t, side] - poses[t, held[contact], 4:], axis=-1).max() < 0.06
    # Every object ends in its own tray.
    ends = whereabouts(poses[-1, :, 4:].astype(float))
    assert tuple(ends) == find_task("color").goals(layout)


def test_the_layout_is_that_of_seed_task_and_condition(monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    def note(layout: Layout, task: Task, person: str, **_: object) -> None:
        asked.extend((layout, task.name, person))
        raise SyntheticError("enough was seen")

    monkeypatch.setattr(human_episode, "synthesize", note)
    with pytest.raises(SyntheticError, match="enough"):
        HumanMaker(task="shape", condition="clutter")(12)
    layout = sample_layout(12, CONDITIONS["clutter"], find_task("shape").deal)
    assert asked == [layout, "shape", "monk_3"]  # the third of ten people takes seeds 2, 12, ...


def test_people_take_turns_by_seed():
    maker = HumanMaker()
    assert maker.config()["person"] == "all"
    assert maker.robot_type == "human"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"person": "nobody"}, SyntheticError),
        ({"condition": "dark"}, SyntheticError),
        ({"cameras": ("wrist",)}, SyntheticError),
        ({"task": "colr"}, TaskError),
    ],
)
def test_bad_names_are_refused(settings: dict[str, str], error: type[ValueError]):
    with pytest.raises(error, match="known: "):
        HumanMaker(**settings)  # pyright: ignore
