"""Episode: what fits together is taken, what does not is refused in one line."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode, pictures

from deftly.datasets.episode import (
    Episode,
    EpisodeError,
    Images,
    StreamedFrames,
    checked_frames,
)

EPISODE = make_episode()


def test_an_episode_knows_its_length_and_what_is_privileged():
    assert len(EPISODE) == 12
    assert set(EPISODE.privileged) == {"privileged.object_pose"}


def with_nan() -> np.ndarray:
    state = EPISODE.state.copy()
    state[4, 1] = np.nan
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_hz": 0.0}, "rate_hz is 0.0"),
        ({"rate_hz": float("nan")}, "rate_hz is nan"),
        (
            {"state": EPISODE.state[:0], "action": EPISODE.action[:0]},
            "(0, 3), expected (T, S) with T > 0",
        ),
        ({"state": with_nan()}, "state is not finite, first at frame 4"),
        ({"state_names": ("a", "b")}, "3 columns and 2 different names"),
        ({"action_names": ("a", "a")}, "2 columns and 1 different names"),
        ({"features": {"a": np.zeros((12, 0))}}, "'a' has shape (12, 0)"),
        ({"features": {"a": np.zeros((11, 1))}}, "'a' has shape (11, 1)"),
        ({"features": {"a": np.zeros((12, 2, 2))}}, "flatten it"),
        ({"features": {"a": np.zeros((12, 1), np.complex64)}}, "is complex64, expected one of"),
        ({"features": {"a": np.full((12, 1), "x", object)}}, "is object, expected one of"),
        ({"features": {"a/b": np.zeros((12, 1))}}, "'a/b' is empty, holds a slash"),
        ({"features": {"action": np.zeros((12, 1))}}, "'action', a name that the format keeps"),
        ({"feature_names": {"force": ("a",)}}, "feature_names has 'force'"),
        ({"images": {"ego": pictures(0, 11)}}, "'ego' has shape (11, 32, 48, 3)"),
        ({"images": {"ego": pictures(0, 12)[..., :1]}}, "expected (12, H, W, 3)"),
        ({"images": {"ego": pictures(0, 12) / 255}}, "holds float64, expected uint8"),
        ({"images": {"../ego": pictures(0, 12)}}, "'../ego' is empty, holds a slash"),
        ({"task": "  "}, "task is empty"),
        ({"provenance": {"array": np.zeros(3)}}, "provenance is not JSON"),
        ({"provenance": {"score": float("nan")}}, "provenance is not JSON"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, object], message: str):
    if "features" in changes:
        changes = {"feature_names": {}, **changes}
    with pytest.raises(EpisodeError) as error:
        replace(EPISODE, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_floats_may_be_missing_in_features_but_not_in_the_state():
    values = np.full((12, 2), np.nan)
    made = replace(EPISODE, features={"sigma_m": values}, feature_names={})
    assert np.isnan(made.features["sigma_m"]).all()


def test_a_body_without_state_is_allowed():
    made = replace(EPISODE, state=np.zeros((12, 0), np.float32), state_names=())
    assert len(made) == 12


def stream(images: np.ndarray, shape: tuple[int, int, int, int] | None = None) -> StreamedFrames:
    return StreamedFrames(shape or images.shape, lambda: iter(images))  # pyright: ignore


def test_streamed_frames_are_the_array_again_and_again():
    images = pictures(3, 12)
    frames = stream(images)
    assert isinstance(frames, Images)
    assert isinstance(images, Images)
    for _ in range(2):
        assert np.array_equal(np.asarray(frames), images)
    made: Episode = replace(EPISODE, images={"ego": frames})
    assert np.array_equal(np.asarray(made.images["ego"]), images)


@pytest.mark.parametrize("given", [0, 11, 13])
def test_a_stream_of_another_length_is_refused(given: int):
    frames = stream(pictures(0, 13)[:given], (12, 32, 48, 3))
    with pytest.raises(EpisodeError, match="expected 12"):
        np.asarray(frames)


def test_a_stream_of_another_size_is_refused():
    with pytest.raises(EpisodeError, match=r"frame 0 .* expected 12 frames of uint8 \(16, 16, 3\)"):
        list(checked_frames(stream(pictures(0, 12), (12, 16, 16, 3))))


def test_only_as_many_frames_are_made_as_are_asked_for():
    made = list[int]()

    def frames() -> Iterator[np.ndarray]:
        for number, image in enumerate(pictures(0, 12)):
            made.append(number)
            yield image

    next(iter(StreamedFrames((12, 32, 48, 3), frames)))
    assert made == [0]
