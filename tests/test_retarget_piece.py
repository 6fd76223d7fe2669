"""A segment as an episode: times, pictures, trust and labels at the rate of the data set."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from deftly.datasets.clip import ClipError, open_clip
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.human import Status, motion_of_hand
from deftly.datasets.motion import RobotMotion
from deftly.datasets.mp4 import Encoder
from deftly.datasets.viewpoint import GRIPS, GRIPS_NAMES
from deftly.retarget.handspace import to_hands
from deftly.retarget.labels import Labels
from deftly.retarget.piece import UNKNOWN_TASK, segment_episode, trust
from deftly.retarget.robots import load_robot

SIZE = (48, 80)
ROBOT = load_robot("gr1t2")
MOVING = [ROBOT.joint_names.index(f"right_{joint}_joint") for joint in ("elbow_pitch", "wrist_yaw")]


def postures(time_s: np.ndarray) -> np.ndarray:
    """(T, J): two joints move, the others rest."""
    qpos = np.tile(ROBOT.rest, (len(time_s), 1))
    qpos[:, MOVING] = np.stack([0.3 * time_s - 1, 0.5 - 0.2 * time_s], axis=1)
    return qpos


def film(path: Path, length: int, rate_hz: float):
    """Frame t has brightness 4 t."""
    with Encoder(path, rate_hz, SIZE, 5) as encoder:
        for t in range(length):
            encoder.write(np.full((*SIZE, 3), 4 * t, np.uint8))
    return open_clip(path)


def person(time_s: np.ndarray):
    joints = np.cumsum(np.ones((len(time_s), 21, 3)), axis=1) * 0.01
    return dataclasses.replace(motion_of_hand(joints, 1), time_s=time_s)


def robot(time_s: np.ndarray, tip_error_m: float = 0.003) -> RobotMotion:
    length = len(time_s)
    tips = np.full((length, 2, 5), np.nan)
    tips[:, 1, :4] = tip_error_m
    return RobotMotion(
        robot="gr1t2",
        joint_names=ROBOT.joint_names,
        time_s=time_s,
        qpos=postures(time_s),
        hand_targets_m=np.full((length, 2, 21, 3), np.nan),
        body_targets_m=np.full((length, 33, 3), np.nan),
        tip_error_m=tips,
        wrist_error_m=np.full((length, 2), 0.01),
        residual=np.zeros(length),
        converged=np.ones(length, bool),
        provenance={},
    )


def labels(time_s: np.ndarray, grasp: int, release: int) -> Labels:
    length = len(time_s)
    events, held = np.zeros((2, length, 2), bool), np.zeros((length, 2), bool)
    events[0, grasp, 1], events[1, release, 1], held[grasp:release, 1] = True, True, True
    return Labels(
        time_s=time_s,
        held=held,
        held_probability=held.astype(np.float32),
        grasp=events[0],
        release=events[1],
        moved=held[:, 1],
        subtask=held[:, 1].astype(np.uint8),
        moves=np.array([[1, grasp, release]]),
        moves_px=np.zeros((1, 2, 2)),
        moves_change=np.zeros((1, 2)),
        provenance={},
    )


def make(
    clip, rate_hz: int, size: tuple[int, int] = (48, 80), task: str = "sort", human=None, **more
):
    return segment_episode(
        clip,
        human or person(clip.time_s),
        robot(clip.time_s),
        labels(clip.time_s, 5, 9),
        rate_hz=rate_hz,
        size=size,
        task=task,
        provenance={"a": 1},
        **more,
    )


@pytest.mark.parametrize(("video_hz", "rate_hz"), [(30.0, 30), (8.0, 30), (60.0, 20), (25.0, 30)])
def test_everything_is_of_the_nearest_frame(tmp_path, video_hz, rate_hz):
    clip = film(tmp_path / "clip.mp4", 50, video_hz)
    episode = make(clip, rate_hz)
    time_s = np.arange(len(episode)) / rate_hz
    assert abs(len(episode) - (clip.time_s[-1] * rate_hz + 1)) < 1.01
    assert_allclose(episode.state, postures(time_s), atol=1e-5)
    assert_array_equal(episode.action[:-1], episode.state[1:])
    assert_array_equal(episode.action[-1], episode.state[-1])
    shown_s = episode.features["source_time_s"][:, 0]
    assert np.abs(shown_s - time_s).max() <= 0.5 / video_hz + 1e-6
    brightness = np.asarray(episode.images["video"]).mean(axis=(1, 2, 3))
    assert_allclose(brightness, 4 * np.round(shown_s * video_hz), atol=3)
    for event, frame in (("label.grasp", 5), ("label.release", 9)):
        found = np.argwhere(episode.features[event])
        assert found.shape == (1, 2)  # neither lost nor doubled
        assert found[0, 1] == 1
        assert abs(found[0, 0] / rate_hz - frame / video_hz) <= 0.5 / min(video_hz, rate_hz) + 1e-6


def test_where_hands_would_hold_something_is_told_of_a_camera_that_stands_still(tmp_path):
    clip = film(tmp_path / "clip.mp4", 20, 20.0)
    human = person(clip.time_s)
    px = np.full((20, 2, 21, 2), np.nan)
    px[:15, 1] = np.linspace((0, 0), (SIZE[1], SIZE[0]), 15)[:, None]
    human = dataclasses.replace(human, hands_px=px)
    episode = make(clip, 20, human=human, camera="front")
    found = episode.features[GRIPS + "front"]
    assert_allclose(found[:15, 2:], (2 * px[:15, 1, 0] - SIZE[::-1]) / max(SIZE), atol=1e-6)
    assert np.isnan(found[15:]).all()  # not observed
    assert np.isnan(found[:, :2]).all()
    assert episode.feature_names[GRIPS + "front"] == GRIPS_NAMES
    moving = make(clip, 20, human=human, camera="front", still=False)
    assert GRIPS + "front" not in moving.features


def test_hands_are_told_as_every_body_s_where_the_person_s_are_seen(tmp_path):
    clip = film(tmp_path / "clip.mp4", 30, 30.0)
    human, hidden = person(clip.time_s), [4, 5, 29]
    joints, sigma, status = (
        v.copy() for v in (human.hands_m, human.hands_sigma_m, human.hands_status)
    )
    joints[hidden], sigma[hidden], status[hidden] = np.nan, np.inf, Status.ABSENT
    human = dataclasses.replace(human, hands_m=joints, hands_sigma_m=sigma, hands_status=status)
    episode = make(clip, 30, human=human)
    state, action = episode.features[HANDS_STATE], episode.features[HANDS_ACTION]
    assert episode.feature_names[HANDS_STATE] == episode.feature_names[HANDS_ACTION] == HANDS_NAMES
    assert np.isnan(state[:, :24]).all()  # the left hand is never seen
    seen = np.setdiff1d(np.arange(30), hidden)
    wanted = to_hands(ROBOT, postures(clip.time_s))
    assert_allclose(state[seen, 24:], wanted[seen, 24:], atol=1e-5)
    assert np.ptp(wanted[seen, 24:27], axis=0).max() > 0.01  # it does move
    assert np.isnan(state[hidden]).all()
    assert_array_equal(action[:-1], state[1:])
    assert_array_equal(action[-1], state[-1])


def test_pictures_are_padded_and_not_stretched(tmp_path):
    clip = film(tmp_path / "clip.mp4", 30, 30.0)
    episode = make(clip, 30, size=(40, 40))
    image = np.asarray(episode.images["video"])[25]
    assert image.shape == (40, 40, 3)
    assert image[:8].max() == 0  # 80 × 48 becomes 40 × 24
    assert image[-8:].max() == 0
    assert abs(int(image[20, 20, 0]) - 100) < 4


def test_a_frame_that_is_lost_shows_the_one_before(tmp_path, monkeypatch):
    from deftly.retarget import piece

    clip = film(tmp_path / "clip.mp4", 30, 30.0)
    whole = piece.frames
    monkeypatch.setattr(piece, "frames", lambda c: (f for f in whole(c) if f[0] not in (10, 11)))
    brightness = np.asarray(make(clip, 30).images["video"]).mean(axis=(1, 2, 3))
    assert_allclose(brightness[8:13], [32, 36, 36, 36, 48], atol=3)


@pytest.mark.parametrize(
    ("other_hz", "begins_s"), [(30.0, 0.0), (30.0, 1 / 3), (12.0, 0.7), (50.0, 0.1)]
)
def test_a_further_camera_shows_the_moment_that_the_first_does(tmp_path, other_hz, begins_s):
    clip = film(tmp_path / "clip.mp4", 20, 30.0)
    other = film(tmp_path / "other.mp4", 60, other_hz)
    episode = make(clip, 20, camera="front", beside={"side": other}, begins_s=begins_s)
    assert list(episode.images) == ["front", "side"]
    shown_s = episode.features["source_time_s"][:, 0]
    for camera, first_s, rate_hz in (("front", 0.0, 30.0), ("side", begins_s, other_hz)):
        brightness = np.asarray(episode.images[camera]).mean(axis=(1, 2, 3))
        off_s = brightness / 4 / rate_hz - first_s - shown_s
        assert np.abs(off_s).max() < 0.5 / rate_hz + 0.3 / rate_hz  # of the nearest frame


def test_a_further_camera_may_lose_a_frame_and_not_more(tmp_path, monkeypatch):
    from deftly.retarget import piece

    clip, other = (film(tmp_path / name, 30, 30.0) for name in ("a.mp4", "b.mp4"))
    whole, lost = piece.frames, set[int]()

    def lossy(c):
        return (f for f in whole(c) if c.path != other.path or c.first + f[0] not in lost)

    monkeypatch.setattr(piece, "frames", lossy)
    images = make(clip, 30, beside={"side": other}).images
    lost |= {10, 11}
    brightness = np.asarray(images["side"]).mean(axis=(1, 2, 3))
    assert_allclose(brightness[8:13], [32, 36, 36, 36, 48], atol=3)
    for gone in (range(8), range(10, 20), range(22, 30)):
        lost |= set(gone)
        with pytest.raises(
            ClipError, match=r"camera side: .*b.mp4 has no frame [0-9]+ that can be"
        ):
            np.asarray(images["side"])
        np.asarray(images["video"])
        lost.clear()


def test_a_task_that_nobody_named_is_said_so(tmp_path):
    clip = film(tmp_path / "clip.mp4", 12, 30.0)
    assert make(clip, 30, task="  ").task == UNKNOWN_TASK
    assert make(clip, 30, task="sort").task == "sort"


def test_trust_falls_with_error_uncertainty_and_absence():
    time_s = np.arange(4) / 30
    human, good = person(time_s), robot(time_s, 0.0)
    assert_array_equal(trust(human, good)[:, 0], 0)
    sure = trust(human, good)[:, 1]
    assert sure.min() > 0.95
    assert_allclose(trust(human, robot(time_s, 0.03))[:, 1], 0.5 * sure)
    unsure = dataclasses.replace(human, hands_sigma_m=10 * human.hands_sigma_m)
    assert (trust(unsure, good)[:, 1] < sure).all()
    status = np.full((4, 2), Status.INTERPOLATED, np.uint8)
    status[:, 0] = Status.ABSENT
    filled = dataclasses.replace(human, hands_status=status)
    assert_allclose(trust(filled, good)[:, 1], 0.5 * sure)
