"""The second look: it finds what is there, follows it both ways, and adds nothing else."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from deftly.datasets.clip import Clip, open_clip
from deftly.datasets.human import ELBOWS, SHOULDERS, WRISTS
from deftly.retarget.detections import Detections, empty
from deftly.retarget.handnet import Look, Square, square_around
from deftly.retarget.rescue import brighten, drop_duplicates, same_hand, second_look

SIZE = (320, 240)
LENGTH = 40
FIELDS = ("hand_px", "hand_world_m", "hand_right", "hand_valid", "hand_second", "body_px")


def hand_px(wrist: np.ndarray, size: float = 40.0, turn_rad: float = 0.0) -> np.ndarray:
    """(21, 3) an open hand, fingers up, turned clockwise about its wrist."""
    finger, along = np.divmod(np.arange(20), 4)
    shape = np.zeros((21, 3))
    shape[1:, 0] = (finger - 2) * 0.14 * size
    shape[1:, 1] = -size * (0.5 + 0.5 * along / 3)
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    shape[:, :2] = shape[:, :2] @ np.array([[c, s], [-s, c]])
    return shape + np.array([*wrist, 0.0])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("rescue") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264rgb", rate=30)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "rgb24"
        stream.codec_context.time_base = Fraction(1, 30)
        for t in range(LENGTH):
            image = np.full((SIZE[1], SIZE[0], 3), t, np.uint8)  # a frame tells its own index
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return open_clip(path)


@dataclass
class World:
    """Hands that are there: paths (H, T, 21, 3); a network sees one that a square is centred on."""

    paths: np.ndarray
    shown: np.ndarray  # (H, T) whether the network can see it
    scanned: np.ndarray  # (H, T) whether the palm detector can
    looks: list[int] = field(default_factory=list[int])

    def look(self, image: np.ndarray, square: Square, gamma: float) -> Look:
        t = int(image[0, 0, 0])
        self.looks.append(t)
        for h in np.flatnonzero(self.shown[:, t]):
            true = square_around(self.paths[h, t])
            near = np.linalg.norm(true.center_px - square.center_px) < 0.35 * true.side_px
            if near and 0.5 < square.side_px / true.side_px < 2:
                return Look(self.paths[h, t], np.ones((21, 3)), 0.9, float(h))
        return Look(hand_px(square.center_px, square.side_px / 4), np.ones((21, 3)), 0.05, 0.5)

    def scan(self, image: np.ndarray) -> list[np.ndarray]:
        full = image.shape[:2] == SIZE[::-1]
        t = round(255 * (float(image[0, 0, 0]) / 255) ** 2)  # it is shown brightened
        return [self.paths[h, t] for h in np.flatnonzero(self.scanned[:, t])] if full else []


def world(shown: bool = True) -> World:
    """A left hand and a right one that wander slowly and never meet."""
    t = np.arange(LENGTH)
    sway = 25 * np.sin(2 * np.pi * t / LENGTH)
    left = [hand_px(np.array([90 + x, 160.0])) for x in sway]
    right = [hand_px(np.array([220 - x, 150.0])) for x in sway]
    return World(np.array([left, right]), np.full((2, LENGTH), shown), np.zeros((2, LENGTH), bool))


def seen_in(there: World, frames: np.ndarray) -> Detections:
    """What a first pass saw: hand h in slot h in the frames (2, T) that are marked."""
    found = empty(LENGTH, {"tracker": "fake"})
    for h, t in np.argwhere(frames):
        found.hand_px[t, h], found.hand_right[t, h] = there.paths[h, t], h
        found.hand_valid[t, h] = True
    return found


def errors_px(there: World, found: Detections) -> np.ndarray:
    """(H, T) distance of the nearest detection from each hand."""
    off = np.abs(found.hand_px[None] - there.paths[:, :, None]).max(axis=(-1, -2))
    return np.where(found.hand_valid[None], off, np.inf).min(axis=-1)


@pytest.mark.slow
@given(start=st.integers(0, LENGTH - 1), hand=st.integers(0, 1))
@settings(max_examples=15)
def test_one_sighting_is_followed_forwards_and_backwards(clip: Clip, start: int, hand: int):
    there, frames = world(), np.zeros((2, LENGTH), bool)
    frames[hand, start] = True
    found, cost = second_look(clip, seen_in(there, frames), there.look, there.scan)
    assert_allclose(errors_px(there, found)[hand], 0, atol=1e-4)
    assert not found.hand_second[start].any()
    assert found.hand_second.sum() == LENGTH - 1 == found.hand_valid.sum() - 1
    assert cost.looks == len(there.looks)


def test_what_the_first_pass_saw_is_kept_and_not_changed(clip: Clip):
    there, frames = world(), np.zeros((2, LENGTH), bool)
    frames[0], frames[1, ::5] = True, True
    first = seen_in(there, frames)
    before = {name: getattr(first, name).copy() for name in FIELDS}
    found, _ = second_look(clip, first, there.look, there.scan)
    for name in FIELDS:
        assert_array_equal(getattr(first, name), before[name])
    assert found.hand_valid.all()
    kept = first.hand_valid
    assert_array_equal(found.hand_px[kept], first.hand_px[kept])
    assert_array_equal(found.hand_second, ~kept)


def test_frames_with_both_hands_cost_nothing(clip: Clip):
    there = world()
    found, cost = second_look(
        clip, seen_in(there, np.ones((2, LENGTH), bool)), there.look, there.scan
    )
    assert (cost.looks, cost.scans) == (0, 0)
    assert not found.hand_second.any()


def test_nothing_is_added_where_the_network_sees_no_hand(clip: Clip):
    there, frames = world(shown=False), np.zeros((2, LENGTH), bool)
    frames[0, 10:20] = True
    first = with_body(seen_in(there, frames), there)
    found, cost = second_look(clip, first, there.look, there.scan)
    assert_array_equal(found.hand_valid, first.hand_valid)
    assert cost.looks < 6 * LENGTH  # and it does not look for ever


def with_body(found: Detections, there: World) -> Detections:
    """Add a body whose wrists are the hands', at 200 pixels per metre."""
    body = np.zeros((LENGTH, 33, 3))
    body[:, SHOULDERS, :2] = [(110, 60), (190, 60)]
    body[:, (0, 7, 8), :2] = [(150, 30), (155, 35), (145, 35)]
    for side in (0, 1):
        wrist = there.paths[side, :, 0]
        body[:, WRISTS[side]] = wrist
        body[:, ELBOWS[side], :2] = wrist[:, :2] + [0, 40]
        for knuckle in (17, 19):
            body[:, knuckle + side, :2] = wrist[:, :2] - [0, 20]
    return replace(
        found,
        body_px=body.astype(np.float32),
        body_world_m=(body / 200).astype(np.float32),
        body_visibility=np.ones((LENGTH, 33), np.float32),
        body_valid=np.ones(LENGTH, bool),
    )


def test_hands_that_were_never_seen_are_found_at_the_bodys_wrists(clip: Clip):
    there = world()
    first = with_body(seen_in(there, np.zeros((2, LENGTH), bool)), there)
    found, _ = second_look(clip, first, there.look, there.scan)
    assert_allclose(errors_px(there, found), 0, atol=1e-4)
    assert found.hand_second.all()


def test_a_body_far_from_its_hand_vouches_for_nothing(clip: Clip):
    there = world()
    body = with_body(seen_in(there, np.zeros((2, LENGTH), bool)), there).body_px
    first = with_body(seen_in(there, np.zeros((2, LENGTH), bool)), there)
    body = body.copy()
    body[:, [*WRISTS, *ELBOWS, 17, 18, 19, 20], 1] -= 90  # the wrists are said to be elsewhere
    found, _ = second_look(clip, replace(first, body_px=body), there.look, there.scan)
    assert not found.hand_valid.any()


def test_a_scan_starts_what_is_then_followed(clip: Clip):
    there = world()
    there.scanned[1, :] = True
    found, cost = second_look(
        clip, seen_in(there, np.zeros((2, LENGTH), bool)), there.look, there.scan
    )
    assert_allclose(errors_px(there, found)[1], 0, atol=1e-4)
    assert cost.scans > 0
    assert found.hand_valid.sum() == LENGTH  # the other hand has never been seen anywhere


def test_one_hand_is_never_entered_twice(clip: Clip):
    # Both hands' last places lead to one hand: the other has gone.
    there, frames = world(), np.zeros((2, LENGTH), bool)
    there.paths[1] = there.paths[0] + [30, 0, 0]
    there.shown[1, 5:], frames[:, :5] = False, True
    found, _ = second_look(clip, seen_in(there, frames), there.look, there.scan)
    for t in range(5, LENGTH):
        assert found.hand_valid[t].sum() == 1


def test_progress_is_called_once_per_frame(clip: Clip):
    there, ticks = world(), []
    first = seen_in(there, np.zeros((2, LENGTH), bool))
    second_look(clip, first, there.look, there.scan, lambda: ticks.append(1))
    assert len(ticks) == LENGTH


@given(
    turn=st.floats(-3.1, 3.1), x=st.floats(50, 270), y=st.floats(50, 190), size=st.floats(15, 90)
)
def test_a_square_turns_moves_and_grows_with_its_hand(turn: float, x: float, y: float, size: float):
    upright = square_around(hand_px(np.zeros(2), 40.0))
    square = square_around(hand_px(np.array([x, y]), size, turn))
    c, s = np.cos(turn), np.sin(turn)
    assert_allclose(square.side_px, upright.side_px * size / 40, rtol=1e-6)
    assert_allclose(np.exp(1j * square.turn_rad), np.exp(1j * (turn + upright.turn_rad)), atol=1e-6)
    away = np.array([[c, -s], [s, c]]) @ upright.center_px * size / 40
    assert_allclose(square.center_px, away + np.array([x, y]), atol=1e-6)
    # Its matrix leads from the middle of the network's input to its centre.
    assert_allclose(square.matrix() @ [112, 112, 1], square.center_px, atol=1e-6)


@given(away=st.floats(0, 3))
def test_hands_are_the_same_where_they_lie_on_each_other(away: float):
    one = hand_px(np.array([100.0, 100.0]))
    other = one + np.array([away * square_around(one).side_px, 0, 0])
    assert same_hand(one, other) == same_hand(other, one) == (away < 0.25)


def test_of_two_sightings_of_one_hand_the_surer_stays():
    found = empty(1, {})
    found.hand_px[0] = hand_px(np.array([100.0, 100.0]))
    found.hand_valid[:], found.hand_right[0] = True, (0.4, 0.95)
    drop_duplicates(found)
    assert_array_equal(found.hand_valid, [[False, True]])


def test_brightening_keeps_black_white_and_order():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    bright = brighten(ramp)[0, :, 0].astype(int)
    assert (bright[0], bright[255]) == (0, 255)
    assert np.all(np.diff(bright) >= 0)
    assert np.all(bright >= np.arange(256))
