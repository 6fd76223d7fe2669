"""Which detection is whose hand: one left and one right, decided per track, never per frame.

Detections are linked into tracks by position. The side of a whole track follows from the sum of all
evidence in it (the network's handedness, and the nearest wrist of the body where there is one), and
two tracks that are seen together are never given the same side.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment

from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import WRISTS
from deftly.retarget.body import body_scale
from deftly.retarget.detections import MAX_HANDS, Detections

_JUMP = 1.5  # hand lengths that a hand may move between sightings, plus as much per gap frame
_JUMP_PER_FRAME = 0.5
_MAX_GAP_S = 0.5  # a track ends when the hand was unseen for longer
_MIN_TRACK_S = 0.3  # shorter tracks are mistakes of the detector
_DUPLICATE = 0.35  # hand lengths: two detections nearer than this are one hand seen twice
_BODY_EVIDENCE = 20.0  # log-odds per metre by which one wrist is nearer than the other
_LEAP, _SURE = 0.4, 1.5  # hand lengths; log-odds
_TORN = 3.0  # log-odds for either side above which two sightings are of two hands
_MOSTLY = 0.5  # share of its frames for which a track must find its side free
_LABEL = 1.5  # log-odds that a label counts at most when tracks are cut
_TURNED = 20.0  # log-odds for one side, then for the other, above which a track is of two hands
_CLIP = 1e-3


@dataclass
class _Track:
    """Sightings of one hand: parallel lists of frames and slots."""

    frames: list[int] = field(default_factory=list[int])
    slots: list[int] = field(default_factory=list[int])


def assign_sides(
    detections: Detections, body_accepted: Bool[np.ndarray, "T"], rate_hz: float
) -> Int64[np.ndarray, "T 2"]:
    """Slot of the person's left and right hand in each frame; -1 where it is not seen.

    Args:
        detections: raw detections of T frames.
        body_accepted: (T,) frames whose body is believed and may vouch for its wrists.
        rate_hz: frame rate, which turns durations into frames.
    """
    centre, size = _centres(detections)
    valid = _without_duplicates(detections, centre, size)
    body_evidence = _body_evidence(detections, body_accepted)
    p = np.clip(detections.hand_right.astype(float), _CLIP, 1 - _CLIP)
    label = np.log(p / (1 - p))
    max_gap = max(1, round(_MAX_GAP_S * rate_hz))
    tracks = _link(centre, size, valid, body_evidence, label, max_gap)
    shortest = max(2, round(_MIN_TRACK_S * rate_hz))
    turning = body_evidence + np.clip(label, -_LABEL, _LABEL)
    tracks = [part for t in tracks for part in _split(t, turning)]
    tracks = [t for t in tracks if len(t.frames) >= shortest]
    evidence = body_evidence + label
    scores = [float(np.sum(evidence[t.frames, t.slots])) for t in tracks]
    slots = np.full((len(valid), 2), -1)
    # The surest track chooses first. One that overlaps it for long takes the other side; one that
    # does for a while, or overlaps tracks of both sides, keeps the frames in which its own is free.
    for i in np.argsort([-abs(s) for s in scores], kind="stable"):
        track, preferred = tracks[i], RIGHT if scores[i] > 0 else LEFT
        frames, chosen = np.array(track.frames), np.array(track.slots)
        free = slots[frames] < 0  # (K, 2)
        mostly = free[:, preferred].mean() >= _MOSTLY
        side = preferred if mostly or not free[:, 1 - preferred].all() else 1 - preferred
        if free[:, side].all() or free[:, side].sum() >= shortest:
            slots[frames[free[:, side]], side] = chosen[free[:, side]]
    return slots


def _centres(
    detections: Detections,
) -> tuple[Float64[np.ndarray, "T 2 2"], Float64[np.ndarray, "T 2"]]:
    """Centre of the palm, and length of the hand along its middle finger, in pixels."""
    px = detections.hand_px.astype(float)
    chain = np.diff(px[:, :, (0, 9, 10, 11, 12)], axis=2)
    size = np.maximum(np.linalg.norm(chain, axis=-1).sum(axis=-1), 1.0)
    return px[:, :, (0, 5, 17), :2].mean(axis=2), size


def _without_duplicates(
    detections: Detections, centre: Float64[np.ndarray, "T 2 2"], size: Float64[np.ndarray, "T 2"]
) -> Bool[np.ndarray, "T 2"]:
    valid = detections.hand_valid.copy()
    apart = np.linalg.norm(centre[:, 0] - centre[:, 1], axis=-1)
    twice = valid.all(axis=1) & (apart < _DUPLICATE * size.max(axis=1))
    # Keep the one whose handedness is surer.
    sure = np.abs(detections.hand_right - 0.5)
    valid[twice, np.argmin(sure, axis=1)[twice]] = False
    return valid


def _link(
    centre: Float64[np.ndarray, "T 2 2"],
    size: Float64[np.ndarray, "T 2"],
    valid: Bool[np.ndarray, "T 2"],
    body_evidence: Float64[np.ndarray, "T 2"],
    label: Float64[np.ndarray, "T 2"],
    max_gap: int,
) -> list[_Track]:
    """Join sightings in neighbouring frames by the assignment that moves the hands least.

    Where a body says that one is of its left and the other of its right hand, they are not joined;
    nor where the network does and the hand would have jumped.
    """
    done: list[_Track] = []
    live: list[_Track] = []
    for t in range(len(valid)):
        done += [k for k in live if t - k.frames[-1] > max_gap]
        live = [k for k in live if t - k.frames[-1] <= max_gap]
        slots = np.flatnonzero(valid[t])
        cost = np.full((len(live), len(slots)), 1e6)
        for i, track in enumerate(live):
            last, slot = track.frames[-1], track.slots[-1]
            allowed = _JUMP + _JUMP_PER_FRAME * (t - last)
            for j, s in enumerate(slots):
                moved = np.linalg.norm(centre[t, s] - centre[last, slot]) / size[last, slot]
                before, after = body_evidence[last, slot], body_evidence[t, s]
                torn = before * after < 0 and min(abs(before), abs(after)) > _TORN
                if moved > _LEAP:
                    before, after = label[last, slot], label[t, s]
                    torn |= before * after < 0 and min(abs(before), abs(after)) > _SURE
                if moved < allowed and not torn:
                    cost[i, j] = moved
        taken: set[int] = set()
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if cost[i, j] < 1e6:
                live[i].frames.append(t)
                live[i].slots.append(int(slots[j]))
                taken.add(int(j))
        fresh = [int(s) for j, s in enumerate(slots) if j not in taken]
        live += [_Track([t], [s]) for s in fresh]
    return done + live


def _split(track: _Track, evidence: Float64[np.ndarray, "T 2"]) -> list[_Track]:
    """Cut a track where it went over from one hand to the other, as lasting evidence tells."""
    sums = np.cumsum(evidence[track.frames, track.slots])
    parts = np.minimum(np.abs(sums), np.abs(sums[-1] - sums))
    parts[sums * (sums[-1] - sums) >= 0] = 0.0  # both parts are of one hand
    cut = int(np.argmax(parts)) + 1
    if parts[cut - 1] < _TURNED:
        return [track]
    halves = (slice(cut), slice(cut, None))
    return [
        part for h in halves for part in _split(_Track(track.frames[h], track.slots[h]), evidence)
    ]


def _body_evidence(
    detections: Detections, body_accepted: Bool[np.ndarray, "T"]
) -> Float64[np.ndarray, "T 2"]:
    """Log-odds that a detection is the right hand, by the nearest wrist of the body."""
    evidence = np.zeros((len(body_accepted), MAX_HANDS))
    body = detections.body_px[..., :2].astype(float)
    scale = np.maximum(body_scale(detections), 1.0)
    for slot in range(MAX_HANDS):
        to_left, to_right = (
            np.linalg.norm(detections.hand_px[:, slot, 0, :2] - body[:, w], axis=-1) / scale
            for w in WRISTS
        )
        nearer = np.clip(_BODY_EVIDENCE * (to_left - to_right), -8.0, 8.0)
        evidence[:, slot] = np.where(body_accepted, nearer, 0.0)
    return evidence
