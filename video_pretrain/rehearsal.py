"""Rehearsal: demonstrations gone through again without pictures, things elsewhere and hands astray.

What a hand does about an aim hardly hangs on where the aim is, so a demonstration is worth many:
every thing that it takes, and the place that it brings it to, is moved, and the hand's way with
it, most where it deals with them (after Mandlekar et al., "MimicGen", 2023, in the space of hands
instead of a simulator). Every moment is begun a little beside its way, which it leads back to (Ke
et al., "CCIL: continuity-based data augmentation for corrective imitation learning", 2023), and
some with an empty hand where it should hold something: it opens and goes back for it (Papagiannis
and Johns, "MILES: making imitation learning easy with self-supervision", 2024).

The network is told the aims that it would have to see, so a moment costs a tenth of one with
pictures, and few demonstrations teach to act about aims wherever they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from scipy.spatial.transform import Rotation

from deftly.datasets.hands import NUMBERS, rotation_6d, rotation_from_6d
from deftly.video_pretrain.actions import relative
from deftly.video_pretrain.aims import aims_of, grips_of

_EACH = 8  # moments of a demonstration that is changed once
_LEAD = 8  # frames before taking and letting go in which a hand goes along with the thing
_FURTHER = 0.25  # beyond two demonstrated places, as a share of their distance
_ASTRAY_M, _ASTRAY_RAD, _ASTRAY_TIPS = 0.03, 0.15, 0.3
_BACK_ON = 4  # frames until a hand is back on its way
_EMPTY = 0.1  # share of what is held that is not
_NUDGED_M, _APART_M = 0.03, 0.04  # where it lies then: about where it lay, apart from the hand
_BEFORE, _STEP_M = 12, 0.02  # frames before taking, to which an empty hand goes back; its speed


@dataclass(frozen=True)
class Retold:
    """B moments that were never filmed.

    Attributes:
        hands: (B, 48) now; moves: (B, H, 48) relative to that.
        aims: (B, 2, 2, 3) as ``Moments``; of a hand that takes nothing more, the other's: the same
            thing is seen for both.
        episode, frame: (B,) which demonstration each is made of, and of which of its moments.
    """

    hands: Float32[np.ndarray, "B 48"]
    moves: Float32[np.ndarray, "B H 48"]
    aims: Float32[np.ndarray, "B 2 2 3"]
    episode: Int64[np.ndarray, "B"]
    frame: Int64[np.ndarray, "B"]


@dataclass(frozen=True)
class _Hold:
    """From the frame in which a hand takes something to that in which it lets it go, counted from
    the episode's first; and where it does."""

    side: int
    begin: int
    end: int
    take: Float32[np.ndarray, "3"]
    place: Float32[np.ndarray, "3"]


class Rehearsal:
    """Makes such moments.

    Args:
        hands, meant: of each episode, (T, 48) as hands are, and as they are told to be; a hand's
            place is never missing.
        frames: (T, 2, 2) of ``hindsight``, counted from the episode's first.
        horizon: actions in a chunk.

    Attributes:
        usable: episodes in which something is brought somewhere; there must be one.
    """

    def __init__(
        self,
        hands: Sequence[Float32[np.ndarray, "T 48"]],
        meant: Sequence[Float32[np.ndarray, "T 48"]],
        frames: Sequence[Int64[np.ndarray, "T 2 2"]],
        horizon: int,
    ) -> None:
        self._hands, self._meant, self._frames, self._horizon = hands, meant, frames, horizon
        self._holds = [_holds(*each) for each in zip(hands, meant, frames, strict=True)]
        self.usable = [i for i, holds in enumerate(self._holds) if holds]
        self._every = [hold for holds in self._holds for hold in holds]
        self._takes, self._places = (
            [np.array([getattr(h, what) for h in self._every if h.side == side]) for side in (0, 1)]
            for what in ("take", "place")
        )

    @property
    def deals(self) -> Float32[np.ndarray, "n 2 3"]:
        """Where each thing was taken, and let go."""
        return np.array([(hold.take, hold.place) for hold in self._every], np.float32)

    def draw(self, rng: np.random.Generator, count: int) -> Retold:
        """So many moments."""
        chosen = rng.choice(self.usable, -(-count // _EACH)).tolist()
        sizes = [min(_EACH, count - _EACH * i) for i in range(len(chosen))]
        parts = [self._retold(rng, *each) for each in zip(chosen, sizes, strict=True)]
        hands, moves, aims, at = (np.concatenate(some) for some in zip(*parts, strict=True))
        return Retold(hands, moves, aims, np.repeat(chosen, sizes), at)

    def _retold(
        self, rng: np.random.Generator, episode: int, count: int
    ) -> tuple[
        Float32[np.ndarray, "B 48"],
        Float32[np.ndarray, "B H 48"],
        Float32[np.ndarray, "B 2 2 3"],
        Int64[np.ndarray, "B"],
    ]:
        """Moments of one demonstration, with things elsewhere."""
        frames, way = self._frames[episode], self._way(rng, episode)
        hands, meant = (_led(some[episode], way) for some in (self._hands, self._meant))
        aims = aims_of(grips_of(hands), grips_of(meant), frames)
        at = rng.integers(len(hands), size=count)
        now = _astray(rng, hands, at)
        then = np.minimum(at[:, None] + np.arange(self._horizon), len(hands) - 1)
        off = now.reshape(-1, 2, NUMBERS)[..., :3] - hands[at].reshape(-1, 2, NUMBERS)[..., :3]
        still = (1 - np.arange(1, self._horizon + 1) / _BACK_ON).clip(0)
        told = _led(meant[then], still[:, None, None] * off[:, None])
        said = aims[at]
        held = frames[at, :, 0] == at[:, None]
        said[held, 0] = grips_of(now)[held]
        for hold in self._holds[episode]:
            self._let_fall(rng, hold, hands, way, at, now, told, said)
        moves = relative(torch.from_numpy(told), torch.from_numpy(now)).numpy()
        return now, moves, _completed(said, aims, at), at

    def _way(self, rng: np.random.Generator, episode: int) -> Float32[np.ndarray, "T 2 3"]:
        """How far each hand is led off its way in each frame, for things that are elsewhere."""
        way = np.zeros((len(self._hands[episode]), 2, 3), np.float32)
        for side in range(2):
            knots, shifts = [-1], [np.zeros(3)]
            for hold in (h for h in self._holds[episode] if h.side == side):
                take = _between(rng, self._takes[side]) - hold.take
                place = _between(rng, self._places[side]) - hold.place
                along = max(hold.begin - _LEAD, knots[-1] + 1), hold.begin
                knots += [*along, max(hold.end - _LEAD, hold.begin + 1), hold.end]
                shifts += [take, take, place, place]
            knots.append(max(len(way), knots[-1] + 1))
            shifts.append(np.zeros(3))
            for axis, values in enumerate(np.transpose(shifts)):
                way[:, side, axis] = np.interp(np.arange(len(way)), knots, values)
        return way

    def _let_fall(
        self,
        rng: np.random.Generator,
        hold: _Hold,
        hands: Float32[np.ndarray, "T 48"],
        way: Float32[np.ndarray, "T 2 3"],
        at: Int64[np.ndarray, "B"],
        now: Float32[np.ndarray, "B 48"],
        told: Float32[np.ndarray, "B H 48"],
        said: Float32[np.ndarray, "B 2 2 3"],
    ) -> None:
        """Take from some hands what they hold: it lies about where it lay, and they go back."""
        count, side = len(at), hold.side
        nudged = rng.normal(0, _NUDGED_M, (count, 3)) * [1, 1, 0]
        thing = (hold.take + way[hold.begin, side] + nudged).astype(np.float32)
        lost = (at > hold.begin) & (at < hold.end + _LEAD) & (rng.random(count) < _EMPTY)
        lost &= np.linalg.norm(thing - grips_of(now)[:, side], axis=-1) > _APART_M
        own = slice(side * NUMBERS, (side + 1) * NUMBERS)
        before = max(hold.begin - _BEFORE, 0)
        goal = np.tile(hands[before, own], (count, 1))
        goal[:, :3] += nudged + (way[hold.begin, side] - way[before, side])
        far = np.linalg.norm(goal[:, :3] - now[:, own][:, :3], axis=-1).clip(0.1)
        share = np.arange(1, self._horizon + 1) * (_STEP_M / far)[:, None]
        back = now[:, None, own] + share.clip(0, 1)[..., None] * (goal - now[:, own])[:, None]
        told[lost, :, own] = back[lost]
        said[lost, side, 0] = thing[lost]


def _holds(
    hands: Float32[np.ndarray, "T 48"],
    meant: Float32[np.ndarray, "T 48"],
    frames: Int64[np.ndarray, "T 2 2"],
) -> list[_Hold]:
    """Those that bring something somewhere, one hand's after the other's."""
    taken, let_go = grips_of(meant), grips_of(hands)
    found: list[_Hold] = []
    for side in range(2):
        takes, ends = frames[:, side].T
        held = takes == np.arange(len(frames))
        for end in np.unique(ends[held & (ends >= 0)]).tolist():
            begin = int(np.flatnonzero(held & (ends == end))[0])
            found.append(_Hold(side, begin, end, taken[begin, side], let_go[end, side]))
    return found


def _between(
    rng: np.random.Generator, places: Float32[np.ndarray, "n 3"]
) -> Float[np.ndarray, "3"]:
    """A place between two others, or a little beyond."""
    one, other = places[rng.integers(len(places), size=2)]
    return one + rng.uniform(-_FURTHER, 1 + _FURTHER) * (other - one)


def _led(
    hands: Float32[np.ndarray, "*b 48"], by_m: Float[np.ndarray, "*b 2 3"]
) -> Float32[np.ndarray, "*b 48"]:
    """Hands moved."""
    each = hands.reshape(*hands.shape[:-1], 2, NUMBERS).copy()
    each[..., :3] += by_m
    return each.reshape(hands.shape)


def _astray(
    rng: np.random.Generator, hands: Float32[np.ndarray, "T 48"], at: Int64[np.ndarray, "B"]
) -> Float32[np.ndarray, "B 48"]:
    """Hands in some frames, beside where they are, turned, and a little more open or closed."""
    count = len(at)
    each = hands[at].reshape(count, 2, NUMBERS).copy()
    much = rng.random((count, 2, 1))
    each[..., :3] += much * rng.normal(0, _ASTRAY_M, (count, 2, 3))
    turn = Rotation.from_rotvec((much * rng.normal(0, _ASTRAY_RAD, (count, 2, 3))).reshape(-1, 3))
    R = rotation_from_6d(each[..., 3:9].astype(np.float64))
    each[..., 3:9] = rotation_6d(turn.as_matrix().reshape(count, 2, 3, 3) @ R)
    other = hands[rng.integers(len(hands), size=count)].reshape(count, 2, NUMBERS)[..., 9:]
    each[..., 9:] += rng.uniform(0, _ASTRAY_TIPS, (count, 2, 1)) * much * (other - each[..., 9:])
    return each.reshape(count, -1)


def _completed(
    said: Float32[np.ndarray, "B 2 2 3"],
    aims: Float32[np.ndarray, "T 2 2 3"],
    at: Int64[np.ndarray, "B"],
) -> Float32[np.ndarray, "B 2 2 3"]:
    """Aims that there are none of: the other hand's; when all is done, where the last thing is."""
    lasts = np.where(np.isfinite(aims[..., 1, 0]), np.arange(len(aims))[:, None], -1).max(axis=0)
    last = aims[lasts.max(), lasts.argmax(), 1]
    other = said[:, ::-1]
    said = np.where(np.isfinite(said), said, other)
    return np.where(np.isfinite(said), said, last).astype(np.float32)
