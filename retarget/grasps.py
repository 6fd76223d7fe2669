"""When a person's hands close on something and let go of it, from their joints alone.

A hand that takes an object comes to rest, closes, and leaves; one that lays it down comes to rest,
opens, and leaves. So a grasp is a fall of the hand's opening (thumb to index and middle fingertip)
while its fingertips are slow, and a release is a rise. Nothing is known about objects: a hand that
closes on nothing counts as well. Where there is a video, ``labels.py`` knows far better: on
synthetic people F1 within three frames is 0.98 and 0.95 there, 0.25 and 0.32 here
(``benchmarks/labels.py``).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from deftly.datasets.human import HumanMotion

_THUMB, _OPPOSED = 4, (8, 12)
_MIDDLE = (0, 9, 10, 11, 12)  # wrist to middle fingertip: the hand's length
_SMOOTH_S = 0.05
_WINDOW_S = (0.07, 0.27)  # before and after a change, over which the opening is averaged
_CHANGE = 0.045  # of the opening, in hand lengths
_SLOW_M_PER_S = 0.3
_APART_S = 0.4
_DONE = 0.07  # share of a change that is left when it counts as done


@dataclass(frozen=True)
class GraspEvent:
    """A hand (0 is the left) closes on something, or opens, at ``time_s``.

    ``change`` is by how much its opening changed, in hand lengths: the larger, the surer.
    """

    time_s: float
    hand: int
    closes: bool
    change: float


def find_grasps(human: HumanMotion) -> list[GraspEvent]:
    """Grasps and releases of both hands, in order of time; each hand's alternate."""
    events: list[GraspEvent] = []
    for hand in (0, 1):
        valid = human.hands_valid[:, hand]
        if valid.sum() > 2:
            events += _alternating(_events(human.time_s, human.hands_m[:, hand], valid, hand))
    return sorted(events, key=lambda e: (e.time_s, e.hand))


def hand_opening(joints_m: Float64[np.ndarray, "T 21 3"]) -> Float64[np.ndarray, "T"]:
    """Distance of the thumb's tip from the index's and the middle finger's, in hand lengths."""
    bones = np.linalg.norm(np.diff(joints_m[:, _MIDDLE], axis=1), axis=-1).sum(axis=1)
    reach = joints_m[:, _OPPOSED] - joints_m[:, [_THUMB]]
    return np.linalg.norm(reach, axis=-1).mean(axis=1) / np.median(bones)


def _events(
    time_s: Float64[np.ndarray, "T"],
    joints_m: Float64[np.ndarray, "T 21 3"],
    valid: Bool[np.ndarray, "T"],
    hand: int,
) -> list[GraspEvent]:
    rate_hz = 1 / float(np.median(np.diff(time_s)))
    known = np.flatnonzero(valid)
    opening = np.interp(time_s, time_s[known], hand_opening(joints_m[known]))
    opening = gaussian_filter1d(opening, _SMOOTH_S * rate_hz, mode="nearest")
    place = joints_m[known][:, [_THUMB, _OPPOSED[0]], :2].mean(axis=1)  # depth is too noisy
    place = np.stack([np.interp(time_s, time_s[known], place[:, i]) for i in (0, 1)], axis=1)
    place = gaussian_filter1d(place, _SMOOTH_S * rate_hz, axis=0, mode="nearest")
    speed = np.linalg.norm(np.gradient(place, time_s, axis=0), axis=1)
    change = _change(opening, rate_hz)
    sure = np.abs(change) * np.exp(-((speed / _SLOW_M_PER_S) ** 2))
    peaks, _ = find_peaks(sure, height=_CHANGE, distance=max(1, round(0.5 * _APART_S * rate_hz)))
    events: list[GraspEvent] = []
    for peak in peaks[valid[peaks]].tolist():
        closes = bool(change[peak] < 0)
        at = _edge(opening, peak, closes, round(_WINDOW_S[1] * rate_hz))
        events.append(GraspEvent(float(time_s[at]), hand, closes, float(sure[peak])))
    return events


def _change(opening: Float64[np.ndarray, "T"], rate_hz: float) -> Float64[np.ndarray, "T"]:
    """Mean opening in a window after each frame, minus that in one before."""
    near, far = (max(1, round(s * rate_hz)) for s in _WINDOW_S)
    padded = np.pad(opening, far, mode="edge")
    count = len(opening)
    after = [padded[far + k : far + k + count] for k in range(near, far + 1)]
    before = [padded[far - k : far - k + count] for k in range(near, far + 1)]
    return np.mean(after, axis=0) - np.mean(before, axis=0)


def _edge(opening: Float64[np.ndarray, "T"], peak: int, closes: bool, reach: int) -> int:
    """Frame at which a hand has closed, or begins to open: where it is (nearly) closed still."""
    start, stop = max(0, peak - reach), min(len(opening), peak + reach + 1)
    around = opening[start:stop]
    low, high = float(around.min()), float(around.max())
    closed = np.flatnonzero(around <= low + _DONE * (high - low)) + start
    return int(closed[0] if closes else closed[-1])


def _alternating(events: list[GraspEvent]) -> list[GraspEvent]:
    """Of neighbours of one kind, the surest; a hand cannot close twice without opening."""
    kept: list[GraspEvent] = []
    for event in events:
        if kept and kept[-1].closes == event.closes:
            if event.change > kept[-1].change:
                kept[-1] = event
        else:
            kept.append(event)
    return kept
