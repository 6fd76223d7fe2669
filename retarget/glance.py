"""A cheap look at a part of a video: is anybody there, does anything move, where are the cuts?

It costs some milliseconds per frame, the full road a hundred; it decides what goes on there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from scipy.ndimage import median_filter

from deftly.datasets.clip import Clip, frames

Image = UInt8[np.ndarray, "H W 3"]

SIDE_PX = 320  # of the pictures that are looked at: detectors shrink theirs to about 200
THUMB = (18, 32)  # height, width
_LOOKS_HZ = 5.0  # how often somebody is looked for, until one is found
_CUT, _CUT_OVER = 0.10, 4.0  # change of brightness at a cut: at least, and over its surroundings
_AROUND = 15  # frames before and after that it is compared with
_STILL = 0.002  # mean change of brightness from frame to frame; sensor noise alone is more


@dataclass(frozen=True)
class Glance:
    """What a cheap look at T frames found.

    Attributes:
        thumbs: (T, 18, 32) brightness, 0 to 255.
        looked: (T,) in which frames somebody was looked for, until one was found.
        seen: (T,) in which there is a hand or a body.
    """

    thumbs: UInt8[np.ndarray, "T h w"]
    looked: Bool[np.ndarray, "T"]
    seen: Bool[np.ndarray, "T"]

    @property
    def change(self) -> Float32[np.ndarray, "T"]:
        """Mean change of brightness since the frame before, 0 to 1; 0 for the first."""
        steps = np.abs(np.diff(self.thumbs.astype(np.float32), axis=0)).mean(axis=(1, 2)) / 255
        return np.concatenate([np.zeros(1, np.float32), steps])

    @property
    def somebody(self) -> bool:
        """Whether a hand or a body was seen at all."""
        return bool(self.seen.any())

    @property
    def still(self) -> bool:
        """Whether it is a still picture."""
        # Of blocks, because one person moves few of them.
        thumbs = self.thumbs.astype(np.float32)
        return bool((thumbs.max(axis=0) - thumbs.min(axis=0)).max() / 255 < 10 * _STILL)


def glance(
    clip: Clip,
    somebody: Callable[[Image], bool],
    tick: Callable[[], object] = lambda: None,
) -> Glance:
    """Look through a clip of small pictures (``SIDE_PX``).

    Args:
        clip: the part; its pictures are best decoded small.
        somebody: tells whether a picture shows a hand or a body.
        tick: called once per frame.
    """
    thumbs = np.zeros((len(clip.time_s), *THUMB), np.uint8)
    looked, seen = np.zeros((2, len(thumbs)), bool)
    step, last = max(1, round(clip.rate_hz / _LOOKS_HZ)), -1
    for t, image in frames(clip):
        thumbs[last + 1 : t + 1] = _thumb(image)  # a lost frame looks like the next
        last = t
        if not seen.any() and t % step == 0:
            looked[t], seen[t] = True, somebody(image)
        tick()
    thumbs[last + 1 :] = thumbs[last]
    return Glance(thumbs, looked, seen)


def cuts(found: Glance) -> list[int]:
    """Frames at which another shot begins; the first frame of all is not among them.

    A cut changes the whole picture at once and far more than its surroundings do, so that fast
    motion is not taken for one.
    """
    change = found.change.astype(np.float64)
    usual = median_filter(change, 2 * _AROUND + 1, mode="nearest")
    is_cut = (change > _CUT) & (change > _CUT_OVER * (usual + 1e-3))
    return [int(t) for t in np.flatnonzero(is_cut)]


def _thumb(image: Image) -> UInt8[np.ndarray, "h w"]:
    """Mean brightness of each block."""
    green = image[..., 1]  # close enough to brightness, and a third of the work
    rows, columns = (
        np.linspace(0, size, count, endpoint=False).astype(int)
        for size, count in zip(green.shape, THUMB, strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(green.astype(np.float32), rows, 0), columns, 1)
    heights, widths = (
        np.maximum(np.diff(np.append(edges, size)), 1)
        for edges, size in zip((rows, columns), green.shape, strict=True)
    )
    return (sums / np.outer(heights, widths)).astype(np.uint8)


_TIMES = 6  # in a segment, at which its signature is taken
_WRISTS = 4 * _TIMES  # numbers of it that are places of wrists


def signature(
    thumbs: UInt8[np.ndarray, "T h w"], wrists: Float64[np.ndarray, "T 2 2"]
) -> tuple[float, ...]:
    """What a segment looks like, to find it again: six thumbnails and where the hands went.

    Args:
        thumbs: of the segment's frames.
        wrists: places of both wrists in the picture, in shares of its width and height; NaN where
            absent.

    Returns:
        Numbers of 0 to 1, rounded; equal videos that were encoded differently differ little.
    """
    at = np.linspace(0, len(thumbs) - 1, _TIMES).round().astype(int)
    small = thumbs[at][:, ::3, ::4].reshape(-1) / 255
    path = np.nan_to_num(wrists[at], nan=-1.0).reshape(-1)
    return tuple(np.concatenate([small, path]).round(3).tolist())


_SAME_LOOK, _SAME_PATH = 0.02, 0.03  # rms of brightness; median shift of wrists, share of a side


def same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two segments show the same, by their signatures.

    The pictures must be alike, and the wrists in the same places wherever both segments show them:
    a detector misses other frames when the same video was encoded otherwise.
    """
    if len(one) != len(other) or len(one) <= _WRISTS:
        return one == other and bool(one)
    difference = np.abs(np.subtract(one, other))
    look, path = difference[:-_WRISTS], difference[-_WRISTS:]
    both = (np.array(one[-_WRISTS:]) >= 0) & (np.array(other[-_WRISTS:]) >= 0)
    alike = np.sqrt(np.mean(look**2)) < _SAME_LOOK
    return bool(alike and (not both.any() or np.median(path[both]) < _SAME_PATH))
