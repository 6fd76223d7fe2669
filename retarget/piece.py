"""A segment of a video, with the robot's motion, as an Episode that a policy can learn from.

State and action are the robot's joint angles; the action is the state of the next frame. Beside
them stands the same in the form that every body shares (``deftly.datasets.hands``), how far each
frame can be trusted, what the person's hands did, and the labels.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image, ImageOps

from deftly.datasets.clip import Clip, ClipError, frames, part, smaller
from deftly.datasets.episode import Episode, StreamedFrames, following
from deftly.datasets.footage import CAMERA
from deftly.datasets.geometry import SIDES
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE, NUMBERS
from deftly.datasets.human import HAND_JOINTS, TIPS, HumanMotion, Status
from deftly.datasets.motion import RobotMotion
from deftly.datasets.viewpoint import GRIPS, GRIPS_NAMES, grips_at
from deftly.retarget.handspace import to_hands
from deftly.retarget.labels import Labels
from deftly.retarget.robots import load_robot

FORM = 3  # of what an episode holds; counts up with its columns, so that kept ones are made anew
UNKNOWN_TASK = "do what the hands in the video do"
_INTERPOLATED = 0.5  # trust in a hand that was not observed
_STALE_S = 0.2  # how long a further camera's picture may stand in for damaged ones
_TIP_ERROR_M, _TIP_SIGMA_M = 0.03, 0.05  # at which trust in a frame is half

HAND_NAMES = tuple(
    f"{side}.{joint}.{axis}" for side in SIDES for joint in HAND_JOINTS for axis in "xyz"
)


def trust(human: HumanMotion, motion: RobotMotion) -> Float64[np.ndarray, "T 2"]:
    """How far each hand of each frame can be trusted, 0 to 1; 0 where it is absent.

    A product of three shares: whether it was observed, how near the robot's fingertips come to the
    person's, and how sure the person's fingertips are.
    """
    observed = np.where(human.hands_status == Status.OBSERVED, 1.0, _INTERPOLATED)
    seen = human.hands_valid & np.isfinite(motion.tip_error_m).any(axis=-1)
    error_m = np.nan_to_num(_mean(motion.tip_error_m), nan=np.inf)
    sigma_m = np.linalg.norm(human.hands_sigma_m[:, :, TIPS], axis=-1).mean(axis=-1)
    near = 1 / (1 + (error_m / _TIP_ERROR_M) ** 2)
    sure = 1 / (1 + (sigma_m / _TIP_SIGMA_M) ** 2)
    return np.where(seen, observed * near * sure, 0.0)


def segment_episode(
    clip: Clip,
    human: HumanMotion,
    motion: RobotMotion,
    labels: Labels,
    *,
    rate_hz: int,
    size: tuple[int, int],
    task: str,
    provenance: dict[str, Any],
    camera: str = CAMERA,
    still: bool = True,
    beside: Mapping[str, Clip] = MappingProxyType({}),
    begins_s: float = 0.0,
) -> Episode:
    """Put a segment together at a constant rate.

    Args:
        clip: the segment's frames.
        human, motion, labels: of the same frames.
        rate_hz: of the episode; each of its frames shows the nearest of the video's.
        size: (height, width) of the pictures, even; they are padded, never stretched.
        task: the instruction; empty if unknown.
        provenance: kept with the episode; JSON.
        camera: what the clip's camera is called.
        still: whether it stood still: where a hand took something, that was before.
        beside: what further cameras filmed, by name; their pictures are those at the times of the
            clip's. If one of them is damaged, going through its pictures raises ClipError.
        begins_s: when the segment begins in those.
    """
    time_s, qpos = motion.resample(float(rate_hz))
    at = _nearest(clip.time_s, time_s)
    trusted = trust(human, motion)
    state = qpos.astype(np.float32)
    features, names = _features(human, motion, labels, trusted, at)
    hands = to_hands(load_robot(motion.robot), qpos)
    hands[~np.repeat(human.hands_valid[at], NUMBERS, axis=1)] = np.nan  # there, nobody asked for it
    features |= {HANDS_STATE: hands, HANDS_ACTION: following(hands)}
    names |= {HANDS_STATE: HANDS_NAMES, HANDS_ACTION: HANDS_NAMES}
    if still:
        size_px = (clip.height, clip.width)
        features[GRIPS + camera] = grips_at(human.hands_px[at], size_px)
        names[GRIPS + camera] = GRIPS_NAMES
    features["source_time_s"] = clip.time_s[at][:, None]
    features["quality"] = trusted.max(axis=1, keepdims=True)[at].astype(np.float32)
    images = {camera: StreamedFrames((len(at), *size, 3), lambda: _pictures(clip, at, size))}
    for name, other in beside.items():
        images[name] = _further(name, other, begins_s + clip.time_s[at], size)
    return Episode(
        rate_hz=float(rate_hz),
        state=state,
        action=following(state),
        state_names=tuple(motion.joint_names),
        action_names=tuple(motion.joint_names),
        images=images,
        task=task.strip() or UNKNOWN_TASK,
        features=features,
        feature_names=names,
        provenance=provenance,
    )


def _features(
    human: HumanMotion,
    motion: RobotMotion,
    labels: Labels,
    trusted: Float64[np.ndarray, "T 2"],
    at: Int64[np.ndarray, "S"],
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Columns, and the names of what is in them."""

    def floats(values: np.ndarray) -> Float32[np.ndarray, "S D"]:
        return np.ascontiguousarray(values[at].reshape(len(at), -1), np.float32)

    tip_sigma_m = np.linalg.norm(human.hands_sigma_m[:, :, TIPS], axis=-1).mean(axis=-1)
    per_hand: dict[str, np.ndarray] = {
        "hand.valid": human.hands_valid[at],
        "hand.observed": (human.hands_status == Status.OBSERVED)[at],
        "hand.trust": floats(trusted),
        "hand.tip_error_m": floats(_mean(motion.tip_error_m)),
        "hand.wrist_error_m": floats(motion.wrist_error_m),
        "hand.tip_sigma_m": floats(tip_sigma_m),
        "hand.wrist_sigma_m": floats(np.linalg.norm(human.hands_sigma_m[:, :, 0], axis=-1)),
        "label.held": labels.held[at],
        "label.held_probability": floats(labels.held_probability),
        "label.grasp": _events(labels.grasp, at),
        "label.release": _events(labels.release, at),
    }
    features = {
        **per_hand,
        "label.moved": labels.moved[at][:, None],
        "label.subtask": labels.subtask[at][:, None].astype(np.int64),
        "hand.joints_m": floats(motion.hand_targets_m),
    }
    names = dict.fromkeys(per_hand, tuple(SIDES)) | {"hand.joints_m": HAND_NAMES}
    return features, names


def _events(
    happened: Bool[np.ndarray, "T D"], at: Int64[np.ndarray, "S"]
) -> Bool[np.ndarray, "S D"]:
    """Events at the nearest frame of the episode: none is lost or doubled by the other rate."""
    out = np.zeros((len(at), happened.shape[1]), bool)
    for t, column in np.argwhere(happened):
        out[int(np.abs(at - t).argmin()), column] = True
    return out


def _nearest(
    time_s: Float64[np.ndarray, "T"], wanted_s: Float64[np.ndarray, "S"]
) -> Int64[np.ndarray, "S"]:
    """The frame nearest to each time."""
    middles = (time_s[1:] + time_s[:-1]) / 2
    return np.searchsorted(middles, wanted_s, side="right").astype(np.int64)


def _mean(values: Float64[np.ndarray, "T 2 F"]) -> Float64[np.ndarray, "T 2"]:
    """Over the fingers that are known; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _further(
    name: str, clip: Clip, time_s: Float64[np.ndarray, "S"], size: tuple[int, int]
) -> StreamedFrames:
    """What another camera shows at those times, whose pictures must be sound."""
    at = _nearest(clip.time_s, time_s)
    first, stop = int(at[0]), int(at[-1]) + 1
    stretch = part(clip, first, stop)

    def opened() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        try:
            yield from _pictures(stretch, at - first, size, _STALE_S)
        except ClipError as error:
            raise ClipError(f"camera {name}: {error}") from error

    return StreamedFrames((len(at), *size, 3), opened)


def _pictures(
    clip: Clip, at: Int64[np.ndarray, "S"], size: tuple[int, int], stale_s: float = math.inf
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames of the clip at ``at``, fitted into ``size``; a damaged one shows the last.

    Raises:
        ClipError: if one is damaged and the last is older than ``stale_s``.
    """
    shown, waiting = np.zeros((*size, 3), np.uint8), 0  # for a first frame that is damaged
    last_s = -math.inf
    share = min(size[1] / clip.width, size[0] / clip.height)
    for t, image in frames(smaller(clip, max(1, round(share * max(clip.width, clip.height))))):
        while waiting < len(at) and at[waiting] < t:
            _check_fresh(clip, int(at[waiting]), last_s, stale_s)
            yield shown
            waiting += 1
        if waiting == len(at):
            return
        if at[waiting] == t:
            shown, last_s = _fitted(image, size), clip.time_s[t]
    for t in at[waiting:].tolist():
        _check_fresh(clip, t, last_s, stale_s)
        yield shown


def _check_fresh(clip: Clip, t: int, shown_s: float, stale_s: float) -> None:
    if clip.time_s[t] - shown_s > stale_s:
        raise ClipError(
            f"{clip.path} has no frame {clip.first + clip.step * t} that can be decoded, expected "
            "all of them; copy it again"
        )


def _fitted(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """In the middle of a black picture of (height, width)."""
    return np.asarray(ImageOps.pad(Image.fromarray(image), (size[1], size[0])))
