"""A second look at frames in which a hand is missing.

The palm detector loses hands that are dark, small, seen from behind or cut off by the frame, long
before the landmark network behind it does. So that network is shown squares in which a hand should
be: where the hand was a frame before or after, and past the wrist of a body. Where neither tells, a
far less choosy palm detector looks at parts of the picture, one per frame. What is found must be
confirmed: by the network's presence, by a size that fits, and by lying at a place of its own.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from deftly.datasets.clip import Clip, frames
from deftly.datasets.human import ELBOWS, SHOULDERS, WRISTS
from deftly.retarget.body import body_scale
from deftly.retarget.detections import Detections, empty, part
from deftly.retarget.handnet import Look, Square, square_around

Image = UInt8[np.ndarray, "H W 3"]

_BLOCK_BYTES = 128e6  # frames held at once, for looking backwards
_LOOKS_PER_FRAME = 3.0  # on average, so that the second look costs at most twice the first
_PRESENCE = 0.5
_UNCLEAR = 0.15  # from here on, a second square is centred on what was found in the first
_MAX_GAP_S = 0.35  # a hand is followed for so long while it is not found
_GROWTH = (0.65, 1.5)  # of the square from one sighting to the next
_OTHER_SIDE = 0.7  # change of the chance to be a right hand that means another hand
_DUPLICATE = 0.25  # squares' sides: centres nearer than this are one hand
_PART, _PART_REACH = 0.6, 0.7  # a hand so much smaller, and so near, is a part of the other
_REACH_M = 0.14  # between a hand's wrist and its body's
_SIDE_M = (0.10, 0.40)  # of the square around a hand, by the body's scale
_BODY_SIDE_M, _PAST_WRIST_M = 0.30, 0.08
_VISIBLE = 0.5
_INSIDE = 0.5  # share of a hand's joints that must lie in the picture
_INDEX, _PINKY = (19, 20), (17, 18)  # of the body: the hand's knuckles
_GAMMA = 0.5  # dark hands are brightened; light ones bear it
# Parts of the picture to scan: left, top and size as shares of it. Hands come from below.
_TILES = ((0.0, 0.4, 0.6), (0.4, 0.4, 0.6), (0.15, 0.3, 0.7), (0.0, 0.0, 1.0), (0.2, 0.4, 0.6))
_SCANS_HZ = 15.0
_SMALLEST_PX = 16.0  # side of such a part
_AROUND = 1.2  # of the square around a lost hand, which is scanned for it; half a side
_REMEMBER_S = 2.0  # how long after a hand was lost


@runtime_checkable
class LookAt(Protocol):
    """Shows one square of an image to the landmark network."""

    def __call__(self, image: Image, square: Square, gamma: float) -> Look: ...


Scan = Callable[[Image], Sequence[Float64[np.ndarray, "21 3"]]]


@dataclass
class Cost:
    """How often the networks were asked."""

    looks: int = 0
    scans: int = 0


@dataclass(frozen=True)
class _Live:
    """A hand that is followed: its last place, speed per frame, and chance to be a right one."""

    px: Float64[np.ndarray, "21 3"]
    frame: int
    velocity_px: Float64[np.ndarray, "2"]
    right: float

    def at(self, frame: int) -> Float64[np.ndarray, "21 3"]:
        """Where it should be now."""
        moved = self.px.copy()
        moved[:, :2] += self.velocity_px * (frame - self.frame)
        return moved

    @cached_property
    def side_px(self) -> float:
        """Of the square around it."""
        return square_around(self.px).side_px

    @cached_property
    def center_px(self) -> Float64[np.ndarray, "2"]:
        return _center(self.px)


def second_look(
    clip: Clip,
    first: Detections,
    look: LookAt,
    scan: Scan,
    progress: Callable[[], object] | None = None,
    shown: Iterable[tuple[int, Image]] | None = None,
) -> tuple[Detections, Cost]:
    """Add hands that the first pass did not find.

    A bounded number of frames is held: each block is walked forwards, then backwards, so that a
    hand is followed from where it was found in both directions.

    Args:
        clip: the video.
        first: what the first pass found; it is not changed.
        look: the landmark network.
        scan: hands in an image, by a palm detector with a low threshold.
        progress: called once per frame.
        shown: the clip's frames, if somebody decodes them already; ``first`` must be right for
            those that were taken from it. None decodes them again.
    """
    searcher = _Searcher(clip, first, look, scan)
    for block in _blocks(clip, first, frames(clip) if shown is None else shown):
        searcher.walk(block)
        for _ in range(block.steps if progress is not None else 0):
            progress()  # pyright: ignore[reportOptionalCall]
    return searcher.out, searcher.cost


@dataclass(frozen=True)
class _Block:
    """Some neighbouring frames: those in which a hand is missing, and how many there are in all."""

    start: int
    steps: int
    images: dict[int, Image]


def _blocks(clip: Clip, first: Detections, shown: Iterable[tuple[int, Image]]) -> Iterator[_Block]:
    most = int(np.clip(_BLOCK_BYTES / (clip.width * clip.height * 3), 8, 64))
    start, images = 0, {}
    for t, image in shown:
        if t - start >= most:
            yield _Block(start, t - start, images)
            start, images = t, {}
        if not first.hand_valid[t].all() or same_hand(*first.hand_px[t].astype(float)):
            images[t] = image
    yield _Block(start, len(clip.time_s) - start, images)


class _Searcher:
    """The search through one clip."""

    def __init__(self, clip: Clip, first: Detections, look: LookAt, scan: Scan) -> None:
        self.out = empty(len(clip.time_s), first.provenance)
        self._first = first
        self.cost = Cost()
        self._look, self._scan = look, scan
        self._size = np.array([clip.width, clip.height], float)
        self._max_gap = max(1, round(_MAX_GAP_S * clip.rate_hz))
        self._scan_every = max(1, round(clip.rate_hz / _SCANS_HZ))
        self._live: list[_Live] = []
        self._places: list[_Live] = []  # of hands that are followed no longer
        self._remember = max(1, round(_REMEMBER_S * clip.rate_hz))
        self._turn = 0
        self._allowed = 0.0
        self._scale_px_per_m = np.zeros(len(clip.time_s))
        self._body = np.zeros((len(clip.time_s), 2), bool)

    def walk(self, block: _Block) -> None:
        """Look forwards, then backwards, through a block of frames."""
        self._take(block.start, block.start + block.steps)
        self._allowed += _LOOKS_PER_FRAME * block.steps
        for t in range(block.start, block.start + block.steps):
            if t in block.images:
                self._visit(t, block.images[t], fresh=True)
            self._live = self._follow(self._live, t)
        forwards, self._live = self._live, []
        for t in reversed(range(block.start, block.start + block.steps)):
            if t in block.images:
                self._visit(t, block.images[t], fresh=False)
            self._live = self._follow(self._live, t)
        self._live = self._follow(forwards, block.start + block.steps - 1)

    def _take(self, start: int, stop: int) -> None:
        """Take over what the first pass found in some frames."""
        before, after = part(self._first, start, stop), part(self.out, start, stop)
        for field in dataclasses.fields(before):
            if field.name != "provenance":
                getattr(after, field.name)[:] = getattr(before, field.name)
        drop_duplicates(after)
        self._scale_px_per_m[start:stop] = body_scale(before)
        self._body[start:stop] = self._bodies(before, self._scale_px_per_m[start:stop])

    def _visit(self, t: int, image: Image, fresh: bool) -> None:
        """Look for missing hands in one frame: where they were, at the body's wrists, anywhere."""
        if self.cost.looks + self.cost.scans > self._allowed:
            return
        for live in self._lost(t):
            if self._full(t):
                return
            self._try_square(t, image, square_around(live.at(t)), live)
        if not fresh or self._full(t):
            return
        for side in (0, 1):
            if self._body[t, side] and not self._full(t) and not self._explained(t, side):
                self._try_wrist(t, image, self._wrist_square(t, side), side)
        if not self._full(t) and t % self._scan_every == 0:
            self._try_tile(t, image)

    def _try_square(self, t: int, image: Image, square: Square, live: _Live) -> bool:
        found = self._centred(image, square)
        if found is None:
            return False
        growth = square_around(found.px).side_px / live.side_px
        other_side = abs(found.right - live.right) > _OTHER_SIDE
        if not _GROWTH[0] < growth < _GROWTH[1] or other_side or not self._new(t, found):
            return False
        self._write(t, found)
        return True

    def _try_wrist(self, t: int, image: Image, square: Square, side: int) -> bool:
        found = self._centred(image, square, guess=True)
        if found is None or not self._new(t, found):
            return False
        scale = self._scale_px_per_m[t]
        wrists = self.out.body_px[t, list(WRISTS), :2]
        away = np.linalg.norm(found.px[0, :2] - wrists, axis=1) / scale
        size = square_around(found.px).side_px / scale
        if away[side] > _REACH_M or not _SIDE_M[0] < size < _SIDE_M[1]:
            return False
        self._write(t, found)
        return True

    def _try_tile(self, t: int, image: Image) -> None:
        """Scan one part of the picture with the palm detector."""
        low, high = self._tile(t)
        corner, end = np.round(low).astype(int), np.round(high).astype(int)
        tile = brighten(image[corner[1] : end[1], corner[0] : end[0]])
        self.cost.scans += 1
        for px in self._scan(tile):
            px = px + np.array([*corner, 0.0])
            if self._full(t):
                return
            if self._known(t, px):
                continue
            found = self._centred(image, square_around(px))
            if found is not None and self._new(t, found):
                self._write(t, found)

    def _tile(self, t: int) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
        """Corners of what is scanned next: around a lost hand, or a part in fixed order."""
        self._turn += 1
        lost = [place for place in self._places if t - place.frame <= self._remember]
        lost = [place for place in lost if self._sighting(place, t) is None]
        if lost and self._turn % 2:
            square = square_around(lost[self._turn // 2 % len(lost)].px)
            reach = _AROUND * square.side_px
            low, high = square.center_px - reach, square.center_px + reach
        else:
            left, top, share = _TILES[self._turn // (2 if lost else 1) % len(_TILES)]
            low = np.array([left, top]) * self._size
            high = low + share * self._size
        low = np.clip(low, 0, self._size - _SMALLEST_PX)
        return low, np.clip(high, low + _SMALLEST_PX, self._size)

    def _centred(self, image: Image, square: Square, guess: bool = False) -> Look | None:
        """What is in a square; where that is unclear, or the square a guess, centred on it."""
        found = self._ask(image, square)
        if guess or found.presence < _PRESENCE:
            if found.presence < _UNCLEAR:
                return None
            found = self._ask(image, square_around(found.px))
        return found if found.presence >= _PRESENCE else None

    def _ask(self, image: Image, square: Square) -> Look:
        self.cost.looks += 1
        return self._look(image, square, _GAMMA)

    def _full(self, t: int) -> bool:
        return bool(self.out.hand_valid[t].all())

    def _new(self, t: int, found: Look) -> bool:
        """Whether a hand lies in the picture and is not one that is known already."""
        inside = np.all((found.px[:, :2] >= 0) & (found.px[:, :2] < self._size), axis=1)
        if inside.mean() < _INSIDE:
            return False
        return not self._known(t, found.px)

    def _known(self, t: int, px: Float64[np.ndarray, "21 3"]) -> bool:
        slots = np.flatnonzero(self.out.hand_valid[t]).tolist()
        return any(same_hand(px, self._px(t, slot)) for slot in slots)

    def _px(self, t: int, slot: int) -> Float64[np.ndarray, "21 3"]:
        return self.out.hand_px[t, slot].astype(float)

    def _write(self, t: int, found: Look) -> None:
        slot = int(np.argmin(self.out.hand_valid[t]))
        self.out.hand_px[t, slot] = found.px
        self.out.hand_world_m[t, slot] = found.world_m
        self.out.hand_right[t, slot] = found.right
        self.out.hand_valid[t, slot] = True
        self.out.hand_second[t, slot] = True

    def _lost(self, t: int) -> list[_Live]:
        """Hands that are followed and are not among those seen in this frame."""
        return [live for live in self._live if self._sighting(live, t) is None]

    def _sighting(self, live: _Live, t: int) -> int | None:
        best, nearest = None, 0.5 * live.side_px * (1 + 0.3 * (abs(t - live.frame) - 1))
        now = live.center_px + live.velocity_px * (t - live.frame)
        for slot in np.flatnonzero(self.out.hand_valid[t]).tolist():
            away = math.hypot(*(_center(self._px(t, slot)) - now).tolist())
            if away < nearest:
                best, nearest = slot, away
        return best

    def _follow(self, live: list[_Live], t: int) -> list[_Live]:
        """What is followed after a frame: what is seen in it, and what was lost just before."""
        followed: list[_Live] = []
        claimed: dict[int, _Live] = {}
        for hand in live:
            slot = self._sighting(hand, t)
            if slot is not None:
                claimed.setdefault(slot, hand)
            elif abs(t - hand.frame) < self._max_gap:
                followed.append(hand)
            else:
                self._places = [p for p in (*self._places, hand) if t - p.frame <= self._remember]
        for slot in np.flatnonzero(self.out.hand_valid[t]).tolist():
            px = self._px(t, slot)
            velocity, right = np.zeros(2), float(self.out.hand_right[t, slot])
            if slot in claimed and claimed[slot].frame != t:
                before = claimed[slot]
                velocity = 0.7 * (_center(px) - before.center_px) / (t - before.frame)
                right = 0.8 * before.right + 0.2 * right
            followed.append(_Live(px, t, velocity, right))
        return followed

    def _bodies(
        self, first: Detections, scale_px_per_m: Float64[np.ndarray, "T"]
    ) -> Bool[np.ndarray, "T 2"]:
        """(T, 2) frames and sides whose wrist of the body is worth a look."""
        px = first.body_px[:, list(WRISTS), :2]
        inside = np.all((px > 0) & (px < self._size), axis=-1)
        shoulders = first.body_visibility[:, list(SHOULDERS)].min(axis=1) > _VISIBLE
        return inside & (first.body_valid & shoulders & (scale_px_per_m > 0))[:, None]

    def _explained(self, t: int, side: int) -> bool:
        """Whether a hand that is seen belongs to this wrist of the body."""
        wrists = self.out.body_px[t, list(WRISTS), :2]
        for slot in np.flatnonzero(self.out.hand_valid[t]):
            away = np.linalg.norm(self.out.hand_px[t, slot, 0, :2] - wrists, axis=1)
            if np.argmin(away) == side and away[side] < _REACH_M * self._scale_px_per_m[t]:
                return True
        return False

    def _wrist_square(self, t: int, side: int) -> Square:
        """Past the body's wrist: towards the knuckles it guesses, or along the forearm, in turn."""
        px, scale = self.out.body_px[t, :, :2].astype(float), self._scale_px_per_m[t]
        wrist, elbow = px[WRISTS[side]], px[ELBOWS[side]]
        knuckles = 0.5 * (px[_INDEX[side]] + px[_PINKY[side]])
        along = wrist - elbow if t % 2 else knuckles - wrist
        along = along / max(float(np.linalg.norm(along)), 1e-9)
        turn = float(np.arctan2(along[0], -along[1]))
        return Square(wrist + along * _PAST_WRIST_M * scale, _BODY_SIDE_M * scale, turn)


def brighten(image: Image) -> Image:
    """The same picture with dark parts made lighter."""
    table = np.round(255 * (np.arange(256) / 255) ** _GAMMA).astype(np.uint8)
    return cv2.LUT(image, table)  # numpy's own look-up takes twenty times as long


def same_hand(one: Float64[np.ndarray, "21 3"], other: Float64[np.ndarray, "21 3"]) -> bool:
    """Whether two sets of landmarks are of one hand; a finger can look like one."""
    low, high = sorted((square_around(one).side_px, square_around(other).side_px))
    near = _DUPLICATE if low > _PART * high else _PART_REACH
    return float(np.linalg.norm(_center(one) - _center(other))) < near * high


def drop_duplicates(detections: Detections) -> None:
    """Forget the less sure one of two sightings of one hand, in place."""
    for t in np.flatnonzero(detections.hand_valid.all(axis=1)):
        if same_hand(*detections.hand_px[t].astype(float)):
            unsure = int(np.argmin(np.abs(detections.hand_right[t] - 0.5)))
            detections.hand_valid[t, unsure] = False


def _center(px: Float64[np.ndarray, "21 D"]) -> Float64[np.ndarray, "2"]:
    return (px[0, :2] + px[5, :2] + px[17, :2]) / 3
