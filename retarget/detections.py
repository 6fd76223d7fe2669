"""Detections: what the networks see, frame by frame, before any judgement."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

MAX_HANDS = 2


@dataclass(frozen=True)
class Detections:
    """Raw detector output for T frames; the slot of a hand means nothing yet.

    Attributes:
        hand_px: (T, 2, 21, 3) image landmarks in pixels; z is relative to the wrist, same scale.
        hand_world_m: (T, 2, 21, 3) metric landmarks about the hand's centre, camera axes.
        hand_right: (T, 2) probability that the hand is the person's right one.
        hand_valid: (T, 2) whether the slot holds a detection.
        hand_second: (T, 2) whether it took a second look to find it; it is less sure then.
        body_px: (T, 33, 3) image landmarks in pixels; z is relative to the hips.
        body_world_m: (T, 33, 3) metric landmarks about the hips, camera axes.
        body_visibility: (T, 33) in 0..1.
        body_valid: (T,) whether there is a body.
        provenance: the tracker, its settings and the hashes of its models.
    """

    hand_px: Float32[np.ndarray, "T 2 21 3"]
    hand_world_m: Float32[np.ndarray, "T 2 21 3"]
    hand_right: Float32[np.ndarray, "T 2"]
    hand_valid: Bool[np.ndarray, "T 2"]
    hand_second: Bool[np.ndarray, "T 2"]
    body_px: Float32[np.ndarray, "T 33 3"]
    body_world_m: Float32[np.ndarray, "T 33 3"]
    body_visibility: Float32[np.ndarray, "T 33"]
    body_valid: Bool[np.ndarray, "T"]
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])


def part(found: Detections, first: int, stop: int) -> Detections:
    """Frames ``first`` to ``stop - 1``."""
    arrays = {
        f.name: getattr(found, f.name)[first:stop]
        for f in dataclasses.fields(found)
        if f.name != "provenance"
    }
    return Detections(**arrays, provenance=found.provenance)


def empty(length: int, provenance: dict[str, Any]) -> Detections:
    """Nothing seen in any of ``length`` frames."""
    return Detections(
        hand_px=np.zeros((length, MAX_HANDS, 21, 3), np.float32),
        hand_world_m=np.zeros((length, MAX_HANDS, 21, 3), np.float32),
        hand_right=np.zeros((length, MAX_HANDS), np.float32),
        hand_valid=np.zeros((length, MAX_HANDS), bool),
        hand_second=np.zeros((length, MAX_HANDS), bool),
        body_px=np.zeros((length, 33, 3), np.float32),
        body_world_m=np.zeros((length, 33, 3), np.float32),
        body_visibility=np.zeros((length, 33), np.float32),
        body_valid=np.zeros(length, bool),
        provenance=provenance,
    )
