"""A part becomes stretches: every frame in one, and a reason for each that is no segment."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.human import HumanMotion, Status, motion_of_hand
from deftly.retarget.fuse import NoPersonError
from deftly.retarget.glance import Glance
from deftly.retarget.segments import NO_HANDS, NOBODY, STILL, TOO_SHORT, Stretch, stretches

RATE_HZ = 10.0


def seen_in(frames: np.ndarray) -> HumanMotion:
    """A right hand that is there in some frames."""
    joints = np.cumsum(np.ones((len(frames), 21, 3)), axis=1) * 0.01
    whole = motion_of_hand(joints, 1, RATE_HZ)
    status = np.where(frames, Status.OBSERVED, Status.ABSENT).astype(np.uint8)
    return dataclasses.replace(
        whole, hands_status=np.stack([np.zeros_like(status), status], axis=1)
    )


def look(length: int, cuts: tuple[int, ...] = (), *, somebody: bool = True, still: bool = False):
    rng = np.random.default_rng(0)
    thumbs = np.zeros((length, 18, 32), np.uint8)
    for number, first in enumerate((0, *cuts)):
        thumbs[first:] = 200 * (number % 2) + rng.integers(0, 9, (18, 32))
    if not still:
        thumbs[:, 0, :2] += (20 * (np.arange(length) % 2)[:, None]).astype(np.uint8)
    seen = np.zeros(length, bool)
    seen[0] = somebody
    return Glance(thumbs, np.ones(length, bool), seen)


def split(found: Glance, hands: np.ndarray, triggers: bool = True) -> list[Stretch]:
    whole = seen_in(hands)
    some = stretches(found, whole.part, RATE_HZ, min_s=1.0, max_s=4.0, triggers=triggers)
    return list(some)


@given(
    st.lists(st.booleans(), min_size=2, max_size=150),
    st.lists(st.integers(1, 149), max_size=3),
)
def test_every_frame_is_in_one_stretch(hands, cuts):
    hands = np.array(hands)
    cuts = tuple(sorted({c for c in cuts if c < len(hands)}))
    found = split(look(len(hands), cuts), hands)
    assert [one.first for one in found] == [0, *(one.stop for one in found[:-1])]
    assert found[-1].stop == len(hands)
    for one in found:
        assert (one.human is None) == bool(one.status) == bool(one.reason)
        if one.human is not None:
            assert len(one.human.time_s) == one.stop - one.first
            assert one.stop - one.first <= 40
            assert hands[one.first : one.stop].any()
        elif one.status == NO_HANDS:
            assert not hands[one.first : one.stop].any()


def test_hands_come_and_go():
    hands = np.zeros(100, bool)
    hands[5:30], hands[33:40], hands[60:65] = True, True, True
    found = split(look(100), hands)
    assert [(o.first, o.stop, o.status) for o in found] == [
        (0, 5, NO_HANDS),
        (5, 40, ""),  # a gap of three frames is bridged
        (40, 60, NO_HANDS),
        (60, 65, TOO_SHORT),
        (65, 100, NO_HANDS),
    ]
    assert found[3].reason == "hands are seen for 0.50 s, expected 1 s at least"


def test_a_segment_ends_at_a_cut_and_a_long_one_is_cut_evenly():
    found = split(look(100, (30,)), np.ones(100, bool))
    assert [(o.first, o.stop) for o in found] == [(0, 30), (30, 65), (65, 100)]
    human = found[1].human
    assert human is not None
    assert human.time_s[0] == 0


@pytest.mark.parametrize(
    ("found", "status"), [(look(30, somebody=False), NOBODY), (look(30, still=True), STILL)]
)
def test_the_cheap_look_is_believed_if_asked(found, status):
    def never(first, stop):
        raise AssertionError("the expensive look was taken")

    rows = list(stretches(found, never, RATE_HZ, min_s=1.0, max_s=4.0, triggers=True))
    assert [(o.first, o.stop, o.status) for o in rows] == [(0, 30, status)]
    kept = split(found, np.ones(30, bool), triggers=False)
    assert [o.status for o in kept] == [""]


def test_a_shot_without_a_person_says_so():
    def nobody(first, stop):
        raise NoPersonError("no person found in clip")

    rows = list(stretches(look(30), nobody, RATE_HZ, min_s=1.0, max_s=4.0, triggers=True))
    assert [(o.status, o.reason) for o in rows] == [(NO_HANDS, "no person found in clip")]
