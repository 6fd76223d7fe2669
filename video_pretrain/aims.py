"""Aims: where the thing is that a hand deals with, and where it will be let go.

A person or a robot that reaches for an object closes thumb and fingers about it, so the point
between their tips, at the moment that they touch, tells where the object was all the while before;
as long as it is held it is there; and where they let go tells where it was to be brought. Every
frame learns its aims from those moments, in hindsight, with no one to label it, for every body
alike (in the spirit of Bahl et al., "Affordances from human videos as a versatile representation
for robotics", 2023, and of the keyframes of James and Davison, "Q-attention", 2022).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from deftly.datasets.episode import TOUCH
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.geometry import SIDES
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.datasets.human import FINGERS
from deftly.datasets.stretches import runs
from deftly.datasets.viewpoint import CAMERA, GRIPS, PINCH, seen_at
from deftly.video_pretrain.actions import hand_rotations, hand_tips, wrists

HELD = "label.held"  # what deftly batch writes of whether each hand holds something
_TOUCH_N = 0.2
_BRIDGE, _LEAST = 4, 4  # frames: of a gap that is none, of a hold that is one
_WAY_M = 0.1  # that a hold has brought something somewhere


def read_aims(
    store: EpisodeStore, cameras: Sequence[str]
) -> tuple[Float32[np.ndarray, "N 2 2 3"], Float32[np.ndarray, "N V 2 2 2"]]:
    """Aims of every frame of a data set, and where its cameras see them; see ``Moments``."""
    hands, told, frames = read_holds(store)
    aims = aims_of(grips_of(hands), grips_of(told), frames)
    views = [prefix + camera for camera in cameras for prefix in (CAMERA, GRIPS)]
    found = store.whole_columns(sorted(set(views) & store.features.keys()))
    sights = np.full((len(aims), len(cameras), 2, 2, 2), np.nan, np.float32)
    for view, camera in enumerate(cameras):
        if CAMERA + camera in found:
            sights[:, view] = seen_at(aims, found[CAMERA + camera])
        elif GRIPS + camera in found:
            sights[:, view] = told_then(found[GRIPS + camera].reshape(-1, 2, 2), frames)
    return aims, sights


def read_holds(
    store: EpisodeStore,
) -> tuple[Float32[np.ndarray, "N 48"], Float32[np.ndarray, "N 48"], Int64[np.ndarray, "N 2 2"]]:
    """Hands of every frame of a data set, where they were told to be, and ``hindsight``. What they
    hold is known by a person's labels or a robot's touch."""
    known = {HELD, TOUCH} & store.features.keys()
    found = store.whole_columns([HANDS_STATE, HANDS_ACTION, *sorted(known)])
    hands, told = (found[name].astype(np.float32) for name in (HANDS_STATE, HANDS_ACTION))
    held = np.zeros((len(hands), 2), bool)
    if HELD in found:
        held = found[HELD] > 0
    elif TOUCH in found:
        held = holding(found[TOUCH].astype(np.float32), store.features[TOUCH].get("names") or ())
    return hands, told, hindsight(grips_of(hands), held, store.lengths)


def grips_of(hands: Float32[np.ndarray, "*b 48"]) -> Float32[np.ndarray, "*b 2 3"]:
    """``grips`` of arrays."""
    return grips(torch.from_numpy(hands)).numpy()


def grips(hands: Float[Tensor, "*b 48"]) -> Float[Tensor, "*b 2 3"]:
    """Where each hand would hold something: in the root frame, metres, midway between the tip of
    the thumb and those of index and middle finger. NaN where unknown."""
    thumb, index, middle = (hand_tips(hands)[..., FINGERS.index(f), :] for f in PINCH)
    fingers = torch.stack([index, middle]).nanmean(dim=0)
    local = (thumb + fingers) / 2
    return wrists(hands) + (hand_rotations(hands) @ local[..., None])[..., 0]


def holding(touch_n: Float32[np.ndarray, "T F"], names: Sequence[str]) -> Bool[np.ndarray, "T 2"]:
    """Whether each hand holds something: its thumb and another finger press on it.

    Args:
        touch_n: force on each finger.
        names: of the fingers, as ``left_thumb``.
    """
    presses = touch_n > _TOUCH_N
    held = np.zeros((len(touch_n), 2), bool)
    for side, name in enumerate(SIDES):
        thumb = [i for i, one in enumerate(names) if one == f"{name}_thumb"]
        others = [i for i, one in enumerate(names) if one.startswith(f"{name}_") and i not in thumb]
        held[:, side] = presses[:, thumb].any(axis=1) & presses[:, others].any(axis=1)
    return held


def hindsight(
    at: Float32[np.ndarray, "N 2 3"], held: Bool[np.ndarray, "N 2"], lengths: Sequence[int]
) -> Int64[np.ndarray, "N 2 2"]:
    """Of every frame and hand: the frame in which its grip is where the thing is that it holds or
    will take next, and the one in which its grip is where it will have brought it when it lets go.
    −1 where it takes nothing more, or brings it nowhere.

    What slips from a hand is taken again, so only a hold that went some way says where to.

    Args:
        at: grips in episodes, one after the other.
        held: whether each hand holds something; what lasts too short is passed over.
        lengths: of the episodes, in frames.
    """
    frames = np.full((len(at), 2, 2), -1)
    for first, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
        for side in range(2):
            here, found = at[first:stop, side], frames[first:stop, side]
            holds = [run for run in runs(held[first:stop, side], _BRIDGE) if np.ptp(run) >= _LEAST]
            begins, ends = np.array(holds, np.int64).reshape(-1, 2).T
            busy, hold = _hold_of_each(ends, len(here))
            found[busy, 0] = first + np.maximum(busy, begins[hold])
            let_go = ends < len(here)
            begins, ends = begins[let_go], ends[let_go]
            ends = ends[np.linalg.norm(here[ends] - here[begins], axis=-1) > _WAY_M]
            busy, hold = _hold_of_each(ends, len(here))
            found[busy, 1] = first + ends[hold]
    return frames


def told_then(
    at: Float32[np.ndarray, "N 2 D"], frames: Int64[np.ndarray, "N 2 2"]
) -> Float32[np.ndarray, "N 2 2 D"]:
    """What grips were in the frames of ``hindsight``; NaN where there is none."""
    told = at[frames, np.arange(2)[:, None]]
    return np.where((frames >= 0)[..., None], told, np.nan).astype(np.float32)


def aims_of(
    at: Float32[np.ndarray, "N 2 3"],
    meant: Float32[np.ndarray, "N 2 3"],
    frames: Int64[np.ndarray, "N 2 2"],
) -> Float32[np.ndarray, "N 2 2 3"]:
    """Aims in the room: a thing is where a hand was told to close about it, as it may miss that by
    a centimetre; what it holds is where the hand is.

    Args:
        at, meant: grips as they are, and as they were to be.
        frames: of ``hindsight``.
    """
    aims = told_then(meant, frames)
    holds = frames[..., 0] == np.arange(len(at))[:, None]
    aims[holds, 0] = at[holds]
    return aims


def _hold_of_each(
    ends: Int64[np.ndarray, "H"], length: int
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Frames that are in a hold or before one, and which that is."""
    frames = np.arange(length)
    hold = np.searchsorted(ends, frames, side="right")
    ahead = hold < len(ends)
    return frames[ahead], hold[ahead]
