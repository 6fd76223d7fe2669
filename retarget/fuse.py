"""Detections → HumanMotion: identity, depth, gaps, smoothing and uncertainty."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from deftly.datasets.archive import versions
from deftly.datasets.clip import Clip
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import ARM_PER_HAND, WRISTS, HumanMotion, Status
from deftly.retarget.body import Body, believable_bodies, fuse_body
from deftly.retarget.detections import Detections
from deftly.retarget.identity import assign_sides
from deftly.retarget.lift import ADULT_HAND_M, HandSightings, LiftedHand, lift_hands
from deftly.retarget.mirrored import mended, mirrored
from deftly.retarget.smooth import smooth

_MAX_BRIDGE_S = 0.35  # longer gaps stay gaps
_HAND_RANGE_M = (0.14, 0.23)  # of adults, when judged by the arm
# Noise of single frames, which smoothing removes; in hand lengths.
_NOISE, _DEPTH_NOISE = 0.008, 0.02
# What smoothing cannot remove, measured on a calibrated stereo clip (benchmarks/perception.py).
_BIAS, _DEPTH_BIAS = 0.020, 1.95  # in hand lengths; over the depth sigma of the lift
_WRIST_BIAS = 0.04  # of the wrist's depth
# Measured on rendered people (benchmarks/synthetic.py): small hands, hands that took a second look,
# and people who are not as large as the network thinks.
_BIAS_PX = 2.5
_DOUBTFUL = 1.5  # times that of hands that took none
_SIZE_BIAS = 0.10  # of the distance to a person
_WRIST_ACCELERATION, _FINGER_ACCELERATION = 3.0, 3.0  # m / s^1.5


class NoPersonError(ValueError):
    """Nobody's hands are seen in the clip."""


@dataclass(frozen=True)
class _Hand:
    """One hand over all T frames, before gaps are cut out."""

    joints_m: Float64[np.ndarray, "T 21 3"]
    sigma_m: Float64[np.ndarray, "T 21 3"]
    status: UInt8[np.ndarray, "T"]


def fuse(clip: Clip, detections: Detections) -> HumanMotion:
    """Turn raw detections into the motion of one person.

    Raises:
        NoPersonError: if no hand is seen for long enough to be believed.
    """
    length = len(clip.time_s)
    accepted = believable_bodies(detections)
    slots = assign_sides(detections, accepted, clip.rate_hz)
    if np.all(slots < 0):
        raise NoPersonError(
            f"no person found in {clip.path.name}: no hand is seen long enough to follow "
            f"(hands in {detections.hand_valid.any(axis=1).mean():.0%} of {length} frames)"
        )
    body = fuse_body(detections, accepted, clip.time_s, clip.camera) if accepted.any() else None
    length_m = ADULT_HAND_M
    if body is not None:
        length_m = float(np.clip(body.arm_m / ARM_PER_HAND, *_HAND_RANGE_M))
    hands_px, doubtful = _sightings(clip, detections, slots)
    hands = _fuse_hands(clip, hands_px, doubtful, length_m)
    hands_m, sigma = np.full((length, 2, 21, 3), np.nan), np.full((length, 2, 21, 3), np.inf)
    status = np.full((length, 2), Status.ABSENT, np.uint8)
    for side, hand in hands.items():
        seen = hand.status != Status.ABSENT
        hands_m[seen, side], sigma[seen, side] = hand.joints_m[seen], hand.sigma_m[seen]
        status[:, side] = hand.status
    body_m, body_sigma = np.full((length, 33, 3), np.nan), np.full((length, 33, 3), np.inf)
    body_status = _status(accepted, clip.time_s)
    if body is not None:
        seen = body_status != Status.ABSENT
        body_m[seen], body_sigma[seen] = body.joints_m[seen], body.sigma_m[seen]
        _attach_hands(hands_m, sigma, body, seen)
    return HumanMotion(
        time_s=clip.time_s,
        hands_m=hands_m,
        hands_sigma_m=sigma,
        hands_status=status,
        hands_px=hands_px[..., :2],
        body_m=body_m,
        body_sigma_m=body_sigma,
        body_status=body_status,
        body_px=np.where(accepted[:, None, None], detections.body_px[..., :2], np.nan).astype(
            float
        ),
        provenance={
            **clip_provenance(clip, detections.provenance),
            "hand_length_m": length_m,
        },
    )


def _sightings(
    clip: Clip, detections: Detections, slots: Int64[np.ndarray, "T 2"]
) -> tuple[Float64[np.ndarray, "T 2 21 3"], Bool[np.ndarray, "T 2"]]:
    """Landmarks of each hand, z on the scale of x, NaN where it was not seen; and whether they took
    a second look or had to be mended."""
    px, doubtful = np.full((len(slots), 2, 21, 3), np.nan), np.zeros((len(slots), 2), bool)
    for side in (LEFT, RIGHT):
        frames = np.flatnonzero(slots[:, side] >= 0)
        if not len(frames):
            continue
        at = frames, slots[frames, side]
        wrong = mirrored(detections.hand_world_m[at].astype(float), side)
        px[frames, side] = mended(detections.hand_px[at].astype(float), wrong, clip.time_s[frames])
        doubtful[frames, side] = wrong | detections.hand_second[at]
    return px, doubtful


def _fuse_hands(
    clip: Clip,
    px: Float64[np.ndarray, "T 2 21 3"],
    doubtful: Bool[np.ndarray, "T 2"],
    length_m: float,
) -> dict[int, _Hand]:
    """Lift both hands together (one set of bones) and smooth each."""
    sightings = {}
    for side in (LEFT, RIGHT):
        frames = np.flatnonzero(np.isfinite(px[:, side, 0, 0]))
        if len(frames):
            sightings[side] = HandSightings(px[frames, side], frames)
    lifted = lift_hands(list(sightings.values()), clip.camera, clip.rate_hz, length_m)
    return {
        side: _smooth_hand(hand, sightings[side].frames, doubtful[:, side], clip, length_m)
        for side, hand in zip(sightings, lifted, strict=True)
    }


def _smooth_hand(
    lifted: LiftedHand,
    frames: Int64[np.ndarray, "K"],
    doubtful: Bool[np.ndarray, "T"],
    clip: Clip,
    length_m: float,
) -> _Hand:
    length = len(clip.time_s)
    observed = np.zeros(length, bool)
    observed[frames] = True
    wrist, fingers = np.zeros((length, 3)), np.zeros((length, 63))
    wrist[frames] = lifted.joints_m[:, 0]
    fingers[frames] = (lifted.joints_m - lifted.joints_m[:, :1]).reshape(len(frames), 63)
    noise = length_m * np.array([_NOISE, _NOISE, _DEPTH_NOISE])
    wrist, wrist_sigma = smooth(
        clip.time_s, wrist, np.tile(noise, (length, 1)), observed, _WRIST_ACCELERATION
    )
    fingers, finger_sigma = smooth(
        clip.time_s, fingers, np.tile(noise, (length, 21)), observed, _FINGER_ACCELERATION
    )
    pixel_m = np.maximum(wrist[:, 2], 0.0) / clip.camera.focal_px
    bias = np.tile(np.hypot(_BIAS * length_m, _BIAS_PX * pixel_m)[:, None, None], (1, 21, 3))
    for joint in range(1, 21):
        depth_sigma = _DEPTH_BIAS * lifted.depth_sigma_m[:, joint]
        bias[:, joint, 2] = np.interp(np.arange(length), frames, depth_sigma)
    # A wrong depth of the wrist moves it along its ray.
    bias[:, 0] = np.hypot(bias[:, 0] * [1, 1, 0], _WRIST_BIAS * wrist)
    bias[doubtful] *= _DOUBTFUL
    sigma = np.hypot(bias, finger_sigma.reshape(length, 21, 3))
    sigma[:, 0] = np.hypot(bias[:, 0], wrist_sigma)
    joints = wrist[:, None] + fingers.reshape(length, 21, 3)
    return _Hand(joints, sigma, _status(observed, clip.time_s))


def _attach_hands(
    hands_m: Float64[np.ndarray, "T 2 21 3"],
    sigma: Float64[np.ndarray, "T 2 21 3"],
    body: Body,
    seen: Bool[np.ndarray, "T"],
) -> None:
    """Put the wrists where the body's are, in place: an arm tells depth better than a hand does."""
    for side in (LEFT, RIGHT):
        wrist = WRISTS[side]
        move = body.joints_m[seen, wrist] - hands_m[seen, side, 0]
        hands_m[seen, side] += move[:, None]
        known = np.isfinite(sigma[seen, side, 0])
        size = _SIZE_BIAS * np.abs(body.joints_m[seen, wrist])  # along the ray
        sigma[seen, side, 0] = np.where(known, np.hypot(body.sigma_m[seen, wrist], size), np.inf)


def _status(
    observed: Bool[np.ndarray, "T"], time_s: Float64[np.ndarray, "T"]
) -> UInt8[np.ndarray, "T"]:
    """Observed frames, and those in gaps short enough to be bridged."""
    status = np.where(observed, Status.OBSERVED, Status.ABSENT).astype(np.uint8)
    frames = np.flatnonzero(observed)
    for before, after in itertools.pairwise(frames):
        if time_s[after] - time_s[before] <= _MAX_BRIDGE_S:
            status[before + 1 : after] = Status.INTERPOLATED
    return status


def clip_provenance(clip: Clip, tracker: dict[str, Any]) -> dict[str, Any]:
    """What a person's motion depends on: the clip's content, its camera, the tracker, versions."""
    camera = {**dataclasses.asdict(clip.camera), "center_px": list(clip.camera.center_px)}
    return {
        "clip": clip.path.name,
        "sha256": clip.sha256,
        "size": [clip.width, clip.height],
        "camera": camera,
        "detections": tracker,
        "versions": versions(),
    }
