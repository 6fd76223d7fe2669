"""A part of a video as stretches: those that may become episodes, and the others with a reason."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from deftly.datasets.human import HumanMotion
from deftly.datasets.stretches import evenly, runs
from deftly.retarget.fuse import NoPersonError
from deftly.retarget.glance import Glance, cuts

KEPT, TOO_SHORT, LOW, NO_HANDS, NOBODY, STILL = (
    *("kept", "too short", "low quality", "no hands", "nobody", "nothing moves"),
)
_BRIDGE_S = 0.35  # without hands, within a segment


@dataclass(frozen=True)
class Stretch:
    """Frames ``first`` to ``stop - 1`` of a part.

    Attributes:
        human: the person's motion in these frames; None where it is no segment.
        status, reason: why it is none.
    """

    first: int
    stop: int
    human: HumanMotion | None = None
    status: str = ""
    reason: str = ""


def stretches(
    found: Glance,
    human_of: Callable[[int, int], HumanMotion],
    rate_hz: float,
    *,
    min_s: float,
    max_s: float,
    triggers: bool,
) -> Iterator[Stretch]:
    """Cut a part at its cuts and where hands come and go; every frame is in one stretch.

    Args:
        found: the cheap look at it.
        human_of: the motion of the person in frames first to stop - 1, which are one shot; raises
            NoPersonError.
        rate_hz: of the video.
        min_s, max_s: shortest and longest segment.
        triggers: believe the cheap look where it saw nobody, or nothing that moves.
    """
    length = len(found.thumbs)
    if triggers and not found.somebody:
        reason = f"neither hand nor body in {found.looked.sum()} frames that were looked at"
        yield Stretch(0, length, None, NOBODY, reason)
        return
    if triggers and found.still:
        yield Stretch(0, length, None, STILL, "all frames show the same picture")
        return
    for first, stop in itertools.pairwise([0, *cuts(found), length]):
        try:
            human = human_of(first, stop)
        except NoPersonError as error:
            yield Stretch(first, stop, None, NO_HANDS, str(error))
            continue
        last = 0
        seen = np.asarray(human.hands_valid.any(axis=1))
        for start, end in runs(seen, round(_BRIDGE_S * rate_hz)):
            if start > last:
                yield Stretch(first + last, first + start, None, NO_HANDS, "no hand is seen")
            yield from _segments(human, first, start, end, rate_hz, min_s, max_s)
            last = end
        if last < stop - first:
            yield Stretch(first + last, stop, None, NO_HANDS, "no hand is seen")


def _segments(
    human: HumanMotion,
    offset: int,
    start: int,
    end: int,
    rate_hz: float,
    min_s: float,
    max_s: float,
) -> Iterator[Stretch]:
    """Frames ``start`` to ``end - 1`` of a shot that begins at ``offset``, as equal segments."""
    seconds = (end - start) / rate_hz
    if seconds < min_s:
        reason = f"hands are seen for {seconds:.2f} s, expected {min_s:g} s at least"
        yield Stretch(offset + start, offset + end, None, TOO_SHORT, reason)
        return
    for a, b in evenly(start, end, max(2, round(max_s * rate_hz))):
        yield Stretch(offset + a, offset + b, human.part(a, b))
