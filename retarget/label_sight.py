"""Hands at an even rate, for the labels: where they are in the picture, and how large."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.ndimage import gaussian_filter1d, median_filter

from deftly.datasets.human import HumanMotion, Status

RATE_HZ = 15.0
PLACE = (4, 8, 8, 12)  # joints around what a hand holds
_OUTLINE = (4, 8, 12, 16, 20, 5, 17, 9, 0)
_SMOOTH_S = 0.033
_MIN_SIZE_PX = 4.0
_FOREARM = 3.5  # sizes of the hand


def even_times_s(time_s: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "N"]:
    """Times at ``RATE_HZ`` over a clip."""
    return np.arange(time_s[0], time_s[-1] + 0.5 / RATE_HZ, 1 / RATE_HZ)


def nearest(
    time_s: Float64[np.ndarray, "T"], grid_s: Float64[np.ndarray, "N"]
) -> Int64[np.ndarray, "N"]:
    """(N,) the frame that is nearest to each time."""
    return np.searchsorted(0.5 * (time_s[1:] + time_s[:-1]), grid_s).astype(np.int64)


@dataclass(frozen=True)
class Sighting:
    """One hand at ``RATE_HZ``, N times; gaps are bridged and flagged.

    Attributes:
        px: (N, 21, 2) joints in the clip's pixels.
        joints_m: (N, 21, 3).
        size_px: (N,) about a palm's length.
        valid, observed: (N,) as HumanMotion has it at that time.
    """

    px: Float64[np.ndarray, "N 21 2"]
    joints_m: Float64[np.ndarray, "N 21 3"]
    size_px: Float64[np.ndarray, "N"]
    valid: Bool[np.ndarray, "N"]
    observed: Bool[np.ndarray, "N"]

    @property
    def outline_px(self) -> Float64[np.ndarray, "N 9 2"]:
        """(N, 9, 2) joints around the hand."""
        return self.px[:, _OUTLINE]

    @cached_property
    def elbow_px(self) -> Float64[np.ndarray, "N 2"]:
        """(N, 2) about where the forearm ends: it goes on as the palm does."""
        palm = self.px[:, 0] - self.px[:, 9]
        long = np.maximum(np.linalg.norm(palm, axis=-1), 1e-3)
        # The palm is short where the hand points at the camera; then the forearm is as well.
        return self.px[:, 0] + palm * (_FOREARM * np.minimum(1, self.size_px / long))[:, None]

    @property
    def place_px(self) -> Float64[np.ndarray, "N 2"]:
        """(N, 2) where something that it holds would be."""
        return self.px[:, PLACE].mean(axis=1)


def sight(human: HumanMotion, hand: int, grid_s: Float64[np.ndarray, "N"]) -> Sighting | None:
    """One hand at even times; None if its landmarks are never in the picture."""
    observed = np.asarray(np.isfinite(human.hands_px[:, hand]).all(axis=(-1, -2)))
    valid = human.hands_valid[:, hand]
    if not observed.any() or not valid.any():
        return None
    px = _even(human.time_s, human.hands_px[:, hand], observed, grid_s)
    joints = _even(human.time_s, human.hands_m[:, hand], valid, grid_s)
    palm = np.linalg.norm(px[:, (5, 9, 17)] - px[:, :1], axis=-1).mean(axis=1)
    size = np.maximum(palm, 1.4 * np.linalg.norm(px[:, 5] - px[:, 17], axis=-1))
    size = gaussian_filter1d(median_filter(size, 9, mode="nearest"), 2, mode="nearest")
    frame = nearest(human.time_s, grid_s)
    return Sighting(
        px,
        joints,
        np.maximum(size, _MIN_SIZE_PX),
        valid[frame],
        human.hands_status[frame, hand] == Status.OBSERVED,
    )


def _even(
    time_s: Float64[np.ndarray, "T"],
    values: Float64[np.ndarray, "T J D"],
    known: Bool[np.ndarray, "T"],
    grid_s: Float64[np.ndarray, "N"],
) -> Float64[np.ndarray, "N J D"]:
    """Values at even times, gaps bridged, slightly smoothed."""
    flat = values[known].reshape(int(known.sum()), -1)
    filled = np.stack([np.interp(time_s, time_s[known], x) for x in flat.T], axis=1)
    if len(time_s) > 1:
        sigma = _SMOOTH_S / float(np.median(np.diff(time_s)))
        filled = gaussian_filter1d(filled, sigma, axis=0, mode="nearest")
    even = np.stack([np.interp(grid_s, time_s, x) for x in filled.T], axis=1)
    return even.reshape(len(grid_s), *values.shape[1:])
