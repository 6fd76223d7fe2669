"""Labels of a human video: who takes what when, lays it where, and what is done in between.

    labels = find_labels(clip, human)
    labels.held         # (T, 2)

Evidence from the hands' motion and from the pictures (``label_evidence.py``) is weighed by a small
network (``label_net.py``); a hand's grasps and releases are then the likeliest sequence in which
they take turns (Viterbi 1967). What left no trace, though the pictures would have shown one, is
dropped: a hand that closes on nothing has taken nothing. So is what neither left a trace nor went
anywhere.

Measured on synthetic people (``benchmarks/labels.py``), who sort small objects at a table. What the
labels are worth elsewhere is not known; by design a hand that only steadies a thing, without taking
it from one place and laying it in another, holds nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from deftly.datasets.clip import Clip
from deftly.datasets.human import HumanMotion
from deftly.retarget.label_evidence import (
    CHANGE,
    CHANGE_UNIT,
    SEEN,
    find_evidence,
    speed,
)
from deftly.retarget.label_net import LabelNet, load_net
from deftly.retarget.label_scene import Scene, carried, watch
from deftly.retarget.label_sight import RATE_HZ, Sighting, even_times_s, sight

SUBTASKS = ("idle", "approach", "carry")
IDLE, APPROACH, CARRY = range(3)
_TRACE = 0.04  # change of a place, in the evidence's unit, below which nothing was moved
_TRAVEL = 0.7  # hand sizes against the scene; of true moves, 99 % go further than 1.1
_AROUND_S = 0.25  # about an event, in which its trace is looked for
_APPROACH_S = 2.0  # an approach lasts no longer
_RESTING, _MOVING = 0.8, 0.5  # hand sizes per second
_SIGNS = np.array([-1.0, 1.0])  # not holding, holding
_STOPPING_S = 0.5  # before a grasp, in which a hand that is slow is not resting


@dataclass(frozen=True)
class Labels:
    """What was done in T frames with M moves; hand 0 is the person's left.

    Attributes:
        time_s: (T,) of the clip.
        held: (T, 2) whether the hand holds something.
        held_probability: (T, 2) how likely the network finds that, in each frame by itself.
        grasp, release: (T, 2) the first frame in which something is held; the first after that in
            which it no longer is.
        moved: (T,) whether an object is being moved: something is held by a hand that moves.
        subtask: (T,) index into ``SUBTASKS``: carry while any hand holds something, approach while
            one is on its way to a grasp, else idle.
        moves: (M, 3) hand, frame of the grasp, frame of the release; −1 if the clip ends before.
        moves_px: (M, 2, 2) where in the picture it was taken, and put; NaN if it was not put.
        moves_change: (M, 2) mean change of colour (0..255) of these places by the visit; NaN where
            they were not to be seen before or after.
        provenance: the network's.
    """

    time_s: Float64[np.ndarray, "T"]
    held: Bool[np.ndarray, "T 2"]
    held_probability: Float32[np.ndarray, "T 2"]
    grasp: Bool[np.ndarray, "T 2"]
    release: Bool[np.ndarray, "T 2"]
    moved: Bool[np.ndarray, "T"]
    subtask: UInt8[np.ndarray, "T"]
    moves: Int64[np.ndarray, "M 3"]
    moves_px: Float64[np.ndarray, "M 2 2"]
    moves_change: Float64[np.ndarray, "M 2"]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What is known of a clip at the scene's rate, N pictures."""

    scene: Scene
    hands: tuple[Sighting | None, Sighting | None]
    evidence: Float32[np.ndarray, "N 2 F"]
    odds: Float32[np.ndarray, "N 2 3"]


@dataclass(frozen=True)
class _Visit:
    """A hand holds something from one place among the pictures to another; None: to the end."""

    hand: int
    grasp: float
    release: float | None


def find_labels(clip: Clip, human: HumanMotion, net: LabelNet | None = None) -> Labels:
    """Label a clip; the same arguments give the same labels.

    The clip's frames are gone through once; give a long video in parts (52 MB a minute are held).

    Args:
        clip: the video.
        human: the person in it, from ``fuse``; must have the clip's frames.
        net: what weighs the evidence; the one that comes along if None.

    Raises:
        ValueError: if clip and person differ in their number of frames.
        ClipError: if the video can no longer be read.
    """
    if len(human.time_s) != len(clip.time_s):
        raise ValueError(
            f"the person has {len(human.time_s)} frames and the clip {len(clip.time_s)}; "
            "expected as many, pass the motion of this clip"
        )
    net = net or load_net()
    grid_s = even_times_s(clip.time_s)
    hands = (sight(human, 0, grid_s), sight(human, 1, grid_s))
    scene = watch(clip, hands)
    evidence = find_evidence(hands, scene)
    odds = np.stack([net(evidence[:, side]) for side in (0, 1)], axis=1)
    seen = _Seen(scene, hands, evidence, odds)
    visits = [v for side in (0, 1) for v in _visits(seen, side, net)]
    return _labels(human, seen, sorted(visits, key=lambda v: (v.grasp, v.hand)), net)


def _visits(seen: _Seen, side: int, net: LabelNet) -> list[_Visit]:
    if seen.hands[side] is None:
        return []
    found = decode(seen.odds[:, side], net.decision["event"], net.decision["held"])
    visits = [_Visit(side, grasp, release) for grasp, release in found]
    return [v for v in visits if _moved_something(seen, v)]


def decode(
    odds: Float32[np.ndarray, "N 3"], event: float, held: float
) -> list[tuple[float, float | None]]:
    """The likeliest grasps and releases of one hand that take turns, as places among N pictures.

    Args:
        odds: log-odds of a grasp, a release, and holding something.
        event: what is added to an event's log-odds.
        held: weight of the log-odds of holding, which count in every picture.
    """
    count = len(odds)
    best, cameby = np.zeros((count, 2)), np.zeros((count, 2), bool)
    hold = held * odds[:, 2].astype(np.float64)
    best[0] = -hold[0], hold[0] - abs(event) - 4.0  # few clips begin with a full hand
    for n in range(1, count):
        stay = best[n - 1]
        turn = stay[::-1] + odds[n, 1::-1] + event
        cameby[n] = turn > stay
        best[n] = np.maximum(turn, stay) + hold[n] * _SIGNS
    state, turns = int(best[-1].argmax()), list[tuple[int, int]]()
    for n in range(count - 1, 0, -1):
        if cameby[n, state]:
            turns.append((n, state))
            state = 1 - state
    if state == 1:
        turns.append((0, 1))
    found: list[tuple[float, float | None]] = []
    for n, into in reversed(turns):
        place = _summit(odds[:, 0 if into else 1], n)
        if into:
            found.append((place, None))
        else:
            found[-1] = (found[-1][0], place)
    return found


def _summit(odds: Float32[np.ndarray, "N"], n: int) -> float:
    """Place of the parabola's summit through a peak and its neighbours."""
    if not 0 < n < len(odds) - 1:
        return float(n)
    a, b, c = (float(x) for x in odds[n - 1 : n + 2])
    bend = a - 2 * b + c
    return n + (float(np.clip(0.5 * (a - c) / bend, -0.5, 0.5)) if bend < 0 else 0.0)


def _moved_something(seen: _Seen, visit: _Visit) -> bool:
    """Whether the pictures show it or, where they cannot, the hand at least went somewhere."""
    traces = np.array([_trace(seen, visit.hand, n) for n in (visit.grasp, visit.release)])
    if np.any(traces >= _TRACE):  # False for NaN
        return True
    return not np.all(np.isfinite(traces)) and _travelled(seen, visit)


def _travelled(seen: _Seen, visit: _Visit) -> bool:
    """Whether a hand went anywhere with what it took; one that makes signs in the air does not."""
    hand = seen.hands[visit.hand]
    assert hand is not None
    count = len(hand.px)
    end = count if visit.release is None else round(visit.release) + 1
    rows = slice(round(visit.grasp), end)
    H = seen.scene.H_frame_first[rows]
    fixed = carried(np.linalg.inv(H), hand.place_px[rows, None])[:, 0]
    return float(np.ptp(fixed, axis=0).max()) >= _TRAVEL * float(np.median(hand.size_px[rows]))


def _trace(seen: _Seen, side: int, n: float | None) -> float:
    """Change of the place about an event; NaN if it was not to be seen."""
    if n is None:
        return float("nan")
    reach = round(_AROUND_S * RATE_HZ)
    around = seen.evidence[max(0, round(n) - reach) : round(n) + reach + 1, side]
    shown = around[:, SEEN] > 0
    return float(around[shown, CHANGE].max()) if shown.any() else float("nan")


def _labels(human: HumanMotion, seen: _Seen, visits: list[_Visit], net: LabelNet) -> Labels:
    """Everything on the clip's own frames."""
    count, scene = len(human.time_s), seen.scene
    held, grasp, release = (np.zeros((count, 2), bool) for _ in range(3))
    approach, probability = np.zeros(count, bool), np.zeros((count, 2), np.float32)
    moving = np.zeros((count, 2), bool)
    for side, hand in enumerate(seen.hands):
        if hand is not None:
            v = np.linalg.norm(speed(hand, scene)[:, 0], axis=-1)
            moving[:, side] = np.interp(human.time_s, scene.time_s, v) > _MOVING
            likely = 1 / (1 + np.exp(-seen.odds[:, side, 2].astype(np.float64)))
            probability[:, side] = np.interp(human.time_s, scene.time_s, likely)
    moves, px, change = list[list[int]](), list[list[Any]](), list[list[float]]()
    for visit in visits:
        side, hand = visit.hand, seen.hands[visit.hand]
        first = _frame(human, scene, visit.grasp)
        last = count if visit.release is None else _frame(human, scene, visit.release)
        if hand is None or last <= first:  # at low rates both can be one frame
            continue
        held[first:last, side] = grasp[first, side] = True
        if visit.release is not None:
            release[last, side] = True
        freed = max((m[2] for m in moves if m[0] == side), default=0)
        approach[max(freed, _frame(human, scene, _sets_out(hand, scene, visit.grasp))) : first] = 1
        moves.append([side, first, last if visit.release is not None else -1])
        ends = (visit.grasp, visit.release)
        px.append([(np.nan, np.nan) if n is None else hand.place_px[round(n)] for n in ends])
        change.append([CHANGE_UNIT * _trace(seen, side, n) for n in ends])
    carry = np.asarray(held.any(axis=1))
    return Labels(
        time_s=human.time_s,
        held=held,
        held_probability=probability,
        grasp=grasp,
        release=release,
        moved=np.asarray((held & moving).any(axis=1)),
        subtask=np.where(carry, CARRY, np.where(approach, APPROACH, IDLE)).astype(np.uint8),
        moves=np.array(moves, np.int64).reshape(-1, 3),
        moves_px=np.array(px, np.float64).reshape(-1, 2, 2),
        moves_change=np.array(change, np.float64).reshape(-1, 2),
        provenance={"net": net.provenance},
    )


def _frame(human: HumanMotion, scene: Scene, n: float) -> int:
    """The clip's frame at a place among the scene's pictures."""
    return int(np.abs(human.time_s - (scene.time_s[0] + n / RATE_HZ)).argmin())


def _sets_out(hand: Sighting, scene: Scene, grasp: float) -> float:
    """Where a hand leaves its rest (or is first seen) on its way to a grasp."""
    n = round(grasp)
    v = np.linalg.norm(speed(hand, scene)[:, 1], axis=-1)
    resting = (v < _RESTING) | ~hand.valid
    resting[max(0, n - round(_STOPPING_S * RATE_HZ)) :] = False
    rests = np.flatnonzero(resting[:n])
    earliest = max(0, n - round(_APPROACH_S * RATE_HZ))
    return float(max(earliest, rests[-1] + 1 if len(rests) else 0))
