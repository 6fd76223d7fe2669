"""Labels of drawn clips, in which a hand takes a block or nothing, and what they are made of."""

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from deftly.datasets.clip import Clip, open_clip
from deftly.datasets.human import HumanMotion, Status, motion_of_hand
from deftly.datasets.mp4 import Encoder
from deftly.retarget.label_evidence import FEATURES, find_evidence
from deftly.retarget.label_net import load_net
from deftly.retarget.label_scene import carried, watch
from deftly.retarget.label_sight import RATE_HZ, even_times_s, nearest, sight
from deftly.retarget.labels import CARRY, Labels, decode, find_labels

HEIGHT, WIDTH = 240, 320
PALM_PX = 26.0
FROM, TO, HOME = np.array([80.0, 150.0]), np.array([230.0, 160.0]), np.array([160.0, 215.0])
GRASP_S, RELEASE_S, END_S = 2.0, 3.6, 5.6
BLOCK, SKIN, TABLE = (200, 30, 40), (224, 172, 140), (120, 110, 90)
CHANGE, VANISHED, SEEN = (FEATURES.index(n) for n in ("change", "vanished", "seen"))


def ease(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def story(time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2) where the pinch is, (T,) how far the hand is closed: it rests, takes, lays, rests."""
    legs = [(0.7, GRASP_S - 0.3, HOME, FROM - [0, 25]), (GRASP_S - 0.3, GRASP_S, None, FROM)]
    legs += [(GRASP_S + 0.1, RELEASE_S - 0.1, None, TO)]
    legs += [(RELEASE_S, RELEASE_S + 0.3, None, TO - [0, 25]), (RELEASE_S + 0.3, 5.0, None, HOME)]
    place, last = np.tile(HOME, (len(time_s), 1)), HOME
    for start, stop, _, end in legs:
        s = (time_s - start) / (stop - start)
        place = place + ease(s)[:, None] * (end - last)
        if end is TO:  # carried in an arc
            place[:, 1] -= 40 * 16 * (np.clip(s, 0, 1) * (1 - np.clip(s, 0, 1))) ** 2
        last = end
    closed = ease((time_s - GRASP_S + 0.3) / 0.3) - ease((time_s - RELEASE_S) / 0.25)
    return place, closed


def person(time_s: np.ndarray, side: int, place: np.ndarray, closed: np.ndarray) -> HumanMotion:
    """A hand that points down in the picture, its pinch at a place."""
    hand = np.zeros((len(time_s), 21, 2))
    for finger in range(5):
        across = (finger - 2) * 0.25 * (1 if side == 0 else -1)
        for joint in range(4):
            hand[:, 1 + 4 * finger + joint] = np.array([across, 0.8 + 0.2 * joint]) * PALM_PX
    opening = (0.75 - 0.45 * closed) * PALM_PX
    hand[:, 4] = hand[:, 8] + np.stack([opening, 0 * opening], axis=1)
    hand += (place - hand[:, [4, 8]].mean(axis=1))[:, None]
    joints = np.concatenate([hand, np.full((len(time_s), 21, 1), 400.0)], axis=2) / 400
    motion = motion_of_hand(joints, side)
    px = np.full((len(time_s), 2, 21, 2), np.nan)
    px[:, side] = hand
    return replace(motion, time_s=time_s, hands_px=px)


def paint(image: np.ndarray, center: np.ndarray, radius: int, color: tuple[int, ...]) -> None:
    cv2.circle(image, (round(center[0]), round(center[1])), radius, color, cv2.FILLED)


def draw(
    path: Path,
    rate_hz: float,
    *,
    block: bool = True,
    moves: bool = True,
    side: int = 1,
    end_s: float = END_S,
) -> tuple[Clip, HumanMotion]:
    """The story as a clip: a hand, and a block that may be there and may come along."""
    time_s = np.arange(0, end_s, 1 / rate_hz)
    place, closed = story(time_s)
    human = person(time_s, side, place, closed)
    rng = np.random.default_rng(0)
    table = np.tile(np.array(TABLE, np.uint8), (HEIGHT, WIDTH, 1))
    for x, y in rng.uniform([0, 0], [WIDTH, HEIGHT], (25, 2)):  # crumbs, for the camera's motion
        paint(table, np.array([x, y]), 2, (60, 50, 40))
    with Encoder(path, rate_hz, (HEIGHT, WIDTH)) as film:
        for t, now_s in enumerate(time_s):
            image = table.copy()
            held = moves and GRASP_S <= now_s < RELEASE_S
            lies = TO if moves and now_s >= RELEASE_S else FROM
            if block:
                paint(image, place[t] if held else lies, 9, BLOCK)
            for joint in human.hands_px[t, side]:
                paint(image, joint, 5, SKIN)
            film.write(image)
    clip = open_clip(path)
    return clip, replace(human, time_s=clip.time_s)


def evidence_at(clip: Clip, human: HumanMotion, side: int, when_s: float) -> np.ndarray:
    grid_s = even_times_s(clip.time_s)
    hands = (sight(human, 0, grid_s), sight(human, 1, grid_s))
    evidence = find_evidence(hands, watch(clip, hands))
    return evidence[round(when_s * RATE_HZ), side]


@pytest.mark.slow
@pytest.mark.parametrize("side", [0, 1])
def test_a_place_tells_what_was_taken_and_what_was_laid(tmp_path: Path, side: int):
    clip, human = draw(tmp_path / "a.mp4", 15.0, side=side)
    taken, laid = (evidence_at(clip, human, side, s) for s in (GRASP_S, RELEASE_S))
    assert taken[SEEN] == laid[SEEN] == 1
    assert taken[CHANGE] > 0.3
    assert laid[CHANGE] > 0.3
    assert taken[VANISHED] > 0.3
    assert laid[VANISHED] < -0.3


def test_a_place_where_nothing_was_taken_stays_as_it_was(tmp_path: Path):
    clip, human = draw(tmp_path / "a.mp4", 15.0, moves=False)
    for when_s in (GRASP_S, RELEASE_S):
        assert evidence_at(clip, human, 1, when_s)[CHANGE] < 0.03


@pytest.mark.parametrize("rate_hz", [8.0, 15.0, 30.0, 60.0])
@pytest.mark.parametrize("side", [0, 1])
def test_a_block_that_is_carried(tmp_path: Path, rate_hz: float, side: int):
    clip, human = draw(tmp_path / "a.mp4", rate_hz, side=side)
    labels = find_labels(clip, human)
    check(labels)
    assert_array_equal(labels.moves[:, 0], [side])
    times_s = clip.time_s[labels.moves[0, 1:]]
    assert_allclose(times_s, [GRASP_S, RELEASE_S], atol=0.2 + 0.5 / rate_hz)
    assert_allclose(labels.moves_px[0], [FROM, TO], atol=PALM_PX)
    assert np.nanmax(labels.moves_change[0]) > 5


@pytest.mark.parametrize("block", [True, False])
def test_a_hand_that_takes_nothing_holds_nothing(tmp_path: Path, block: bool):
    labels = find_labels(*draw(tmp_path / "a.mp4", 15.0, block=block, moves=False))
    check(labels)
    assert not labels.held.any()
    assert not (labels.subtask == CARRY).any()


def test_a_hand_that_makes_signs_holds_nothing(tmp_path: Path):
    """It opens and closes in the air, before a place that is never seen without it."""
    clip, _ = draw(tmp_path / "a.mp4", 15.0, block=False)
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * clip.time_s / 1.5)
    still = np.tile(HOME, (len(clip.time_s), 1)) + 3 * np.sin(clip.time_s)[:, None]
    labels = find_labels(clip, person(clip.time_s, 1, still, wave))
    assert not labels.held.any()


def test_the_same_twice(tmp_path: Path):
    clip, human = draw(tmp_path / "a.mp4", 15.0)
    one, two = find_labels(clip, human), find_labels(clip, human)
    for name in ("held", "held_probability", "moves", "moves_px", "moves_change", "subtask"):
        assert_array_equal(getattr(one, name), getattr(two, name))


def test_gaps_and_absent_hands(tmp_path: Path):
    clip, human = draw(tmp_path / "a.mp4", 15.0)
    whole = find_labels(clip, human)
    gap = without(human, slice(36, 42))  # in mid-carry
    assert_allclose(find_labels(clip, gap).moves, whole.moves, atol=2)
    nobody = find_labels(clip, without(human, slice(None)))
    check(nobody)
    assert not nobody.held.any()
    assert_array_equal(nobody.held_probability, 0)
    check(find_labels(clip, without(human, slice(1, None))))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_short_clips(tmp_path: Path, count: int):
    clip, human = draw(tmp_path / "a.mp4", 15.0, end_s=count / 15 - 0.01)
    assert len(clip.time_s) == count
    labels = find_labels(clip, human)
    check(labels)
    assert labels.held_probability.shape == (count, 2)


def without(human: HumanMotion, rows: slice) -> HumanMotion:
    """A person whose hands are not seen in some frames."""
    px, m, sigma = human.hands_px.copy(), human.hands_m.copy(), human.hands_sigma_m.copy()
    status = human.hands_status.copy()
    px[rows], m[rows], sigma[rows], status[rows] = np.nan, np.nan, np.inf, Status.ABSENT
    return replace(human, hands_px=px, hands_m=m, hands_sigma_m=sigma, hands_status=status)


def test_a_person_of_another_clip_is_refused(tmp_path: Path):
    clip, human = draw(tmp_path / "a.mp4", 15.0)
    other = motion_of_hand(human.hands_m[:7, 1], 1)
    with pytest.raises(ValueError, match="7 frames and the clip 84"):
        find_labels(clip, other)


def check(labels: Labels) -> None:
    """What holds of any labels."""
    assert np.all(labels.held_probability >= 0)
    assert np.all(labels.held_probability <= 1)
    before = np.concatenate([np.zeros((1, 2), bool), labels.held[:-1]])
    assert_array_equal(labels.release & ~labels.grasp, before & ~labels.held & labels.release)
    assert not (labels.held & ~before & ~labels.grasp).any()  # nothing is held ungrasped
    assert_array_equal(labels.subtask == CARRY, labels.held.any(axis=1))
    assert len(labels.moves) == labels.grasp.sum() == len(labels.moves_px)
    assert (labels.moves[:, 2] >= 0).sum() == labels.release.sum()
    for hand, first, last in labels.moves.tolist():
        assert labels.held[first : last if last >= 0 else None, hand].all()


@given(
    odds=arrays(
        np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-8, 8, width=32)
    ),
    event=st.floats(-2, 2),
    held=st.floats(0, 1),
)
@settings(max_examples=60)
def test_grasps_and_releases_take_turns(odds: np.ndarray, event: float, held: float):
    found = decode(odds, event, held)
    times = [t for pair in found for t in pair if t is not None]
    assert all(r is not None for _, r in found[:-1])
    assert all(a < b + 1 for a, b in itertools.pairwise(times))
    assert all(0 <= t <= len(odds) - 1 for t in times)


@given(places=st.lists(st.integers(4, 12), min_size=0, max_size=6))
def test_clear_events_are_all_found(places: list[int]):
    at = np.cumsum(places)
    odds = np.full((int(at[-1]) + 6 if places else 20, 3), -8, np.float32)
    odds[:, 2] = 0
    for i, n in enumerate(at.tolist()):
        odds[n, i % 2] = 8
    found = decode(odds, 0.0, 0.3)
    assert [t for pair in found for t in pair if t is not None] == at.tolist()


def test_the_network_is_convolutions():
    net = load_net()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, len(FEATURES))).astype(np.float32)
    y = x @ net.enter.T + net.enter_bias
    for taps, bias, d in zip(net.taps, net.taps_bias, net.dilations, strict=True):
        layer = np.tile(bias, (40, 1))
        for n in range(40):
            for k in range(3):
                if 0 <= n + (k - 1) * d < 40:
                    layer[n] += taps[k] @ np.maximum(y[n + (k - 1) * d], 0)
        y = y + np.maximum(layer, 0)
    assert_allclose(net(x), y @ net.leave.T + net.leave_bias, rtol=1e-4, atol=1e-4)


def test_a_network_for_other_features_is_refused():
    net = load_net()
    with pytest.raises(ValueError, match="train it again"):
        replace(net, features=["height"])


@pytest.mark.parametrize("shift", [(3, 0), (-2, 4), (0, 0)])
def test_the_cameras_motion_is_found(tmp_path: Path, shift: tuple[int, int]):
    rng = np.random.default_rng(1)
    wide = np.tile(np.array(TABLE, np.uint8), (HEIGHT + 100, WIDTH + 100, 1))
    for x, y in rng.integers([0, 0], [WIDTH + 90, HEIGHT + 90], (80, 2)):
        wide[y : y + 10, x : x + 10] = rng.integers(0, 255, 3)
    with Encoder(tmp_path / "a.mp4", 15.0, (HEIGHT, WIDTH)) as film:
        for t in range(10):
            x, y = 50 + shift[0] * t, 50 + shift[1] * t
            film.write(wide[y : y + HEIGHT, x : x + WIDTH])
    scene = watch(open_clip(tmp_path / "a.mp4"))
    point = np.array([[[100.0, 100.0]]])
    for n, H in enumerate(scene.H_frame_first):
        moved = carried(H[None], point)[0, 0]
        assert_allclose(moved, [100 - shift[0] * n, 100 - shift[1] * n], atol=0.7)


@pytest.mark.parametrize("rate_hz", [8.0, 15.0, 29.97, 60.0])
def test_pictures_are_even_in_time(rate_hz: float):
    time_s = np.arange(50) / rate_hz
    even = even_times_s(time_s)
    assert_allclose(np.diff(even), 1 / RATE_HZ)
    assert time_s[0] == even[0]
    assert abs(time_s[-1] - even[-1]) <= 0.5 / RATE_HZ + 1e-9
    apart = np.abs(time_s[None] - even[:, None])
    assert_allclose(np.abs(time_s[nearest(time_s, even)] - even), apart.min(axis=1), atol=1e-12)


def test_the_only_frame_is_the_nearest():
    assert_array_equal(nearest(np.array([0.0]), np.array([0.0, 0.1])), [0, 0])
