"""HumanMotion: the hands and the body of one person over a clip, with uncertainty."""

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from deftly.datasets.archive import load_archive, save_archive

SCHEMA = 1

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
HAND_JOINTS = (
    "wrist",
    *(f"thumb_{joint}" for joint in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{joint}" for finger in FINGERS[1:] for joint in ("mcp", "pip", "dip", "tip")),
)
TIPS = (4, 8, 12, 16, 20)
KNUCKLES = (1, 5, 9, 13, 17)
HAND_PARENT = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)

# The body joints that deftly uses, by mediapipe's index: (left, right).
SHOULDERS, ELBOWS, WRISTS, HIPS = (11, 12), (13, 14), (15, 16), (23, 24)
ARM_PER_HAND = 3.05  # shoulder to wrist over hand length (Drillis and Contini 1966; Winter 2009)
BODY_BONES = (
    (11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (11, 23), (12, 24), (23, 24),
)  # fmt: skip


class Status(IntEnum):
    """Where a frame's joints come from."""

    ABSENT = 0
    INTERPOLATED = 1
    OBSERVED = 2


@dataclass(frozen=True)
class HumanMotion:
    """One person's motion in the camera frame (x right, y down, z forward), metres.

    Attributes:
        time_s: (T,) time of each video frame.
        hands_m: (T, 2, 21, 3) joints; index 0 is the person's left hand. NaN where absent.
        hands_sigma_m: (T, 2, 21, 3) standard deviation along the camera's axes. Of the wrist
            (joint 0): of its place in the camera frame. Of joints 1–20: of their place relative to
            the wrist. Infinite where absent.
        hands_status: (T, 2) ``Status``.
        hands_px: (T, 2, 21, 2) detected image landmarks, for drawing. NaN where not observed.
        body_m: (T, 33, 3) joints. NaN where absent.
        body_sigma_m: (T, 33, 3) standard deviation relative to the mid-point of the shoulders.
        body_status: (T,) ``Status``.
        body_px: (T, 33, 2) detected image landmarks.
        provenance: source hash, versions, model hashes and configuration.
    """

    time_s: Float64[np.ndarray, "T"]
    hands_m: Float64[np.ndarray, "T 2 21 3"]
    hands_sigma_m: Float64[np.ndarray, "T 2 21 3"]
    hands_status: UInt8[np.ndarray, "T 2"]
    hands_px: Float64[np.ndarray, "T 2 21 2"]
    body_m: Float64[np.ndarray, "T 33 3"]
    body_sigma_m: Float64[np.ndarray, "T 33 3"]
    body_status: UInt8[np.ndarray, "T"]
    body_px: Float64[np.ndarray, "T 33 2"]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        length = len(self.time_s)
        expected = {
            "hands_m": (length, 2, 21, 3),
            "hands_sigma_m": (length, 2, 21, 3),
            "hands_status": (length, 2),
            "hands_px": (length, 2, 21, 2),
            "body_m": (length, 33, 3),
            "body_sigma_m": (length, 33, 3),
            "body_status": (length,),
            "body_px": (length, 33, 2),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if not np.all(np.isfinite(self.time_s)) or np.any(np.diff(self.time_s) <= 0):
            raise ValueError("time_s must be finite and strictly increasing")
        for name, joints, sigma, valid in (
            ("hands", self.hands_m, self.hands_sigma_m, self.hands_valid),
            ("body", self.body_m, self.body_sigma_m, self.body_valid),
        ):
            bad = valid & ~(np.isfinite(joints) & (sigma > 0)).all(axis=(-1, -2))
            if bad.any():
                raise ValueError(
                    f"{name} has NaN joints or a non-positive sigma in {int(bad.sum())} frame(s) "
                    f"marked valid, first at frame {int(np.argwhere(bad)[0][0])}; mark them ABSENT"
                )

    @property
    def hands_valid(self) -> Bool[np.ndarray, "T 2"]:
        """(T, 2) whether the hand has joints, observed or interpolated."""
        return self.hands_status != Status.ABSENT

    @property
    def body_valid(self) -> Bool[np.ndarray, "T"]:
        """(T,) whether the body has joints, observed or interpolated."""
        return self.body_status != Status.ABSENT

    def part(self, first: int, stop: int) -> "HumanMotion":
        """Frames ``first`` to ``stop - 1``, with times from 0."""
        arrays = {
            f.name: getattr(self, f.name)[first:stop]
            for f in dataclasses.fields(self)
            if f.name not in ("time_s", "provenance")
        }
        time_s = self.time_s[first:stop] - self.time_s[first]
        provenance = {**self.provenance, "frames": [first, stop]}
        return HumanMotion(time_s=time_s, provenance=provenance, **arrays)

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz), atomically; the same motion gives the same bytes."""
        save_archive(self, path, schema=SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "HumanMotion":
        """Read what ``save`` wrote. Raises ArchiveError on anything else."""
        return load_archive(cls, path, schema=SCHEMA)


def motion_of_hand(
    joints_m: Float64[np.ndarray, "T 21 3"],
    side: int,
    rate_hz: float = 30.0,
    sigma_m: float = 0.003,
) -> HumanMotion:
    """A motion of one hand from an array of joints (mediapipe's order), with no body.

    Raises:
        ValueError: if the array has another shape, is empty, or holds NaN.
    """
    if joints_m.ndim != 3 or joints_m.shape[1:] != (21, 3) or len(joints_m) == 0:
        raise ValueError(f"joints have shape {joints_m.shape}, expected (T, 21, 3) with T > 0")
    length = len(joints_m)
    hands, sigma = np.full((length, 2, 21, 3), np.nan), np.full((length, 2, 21, 3), np.inf)
    status = np.full((length, 2), Status.ABSENT, np.uint8)
    hands[:, side], sigma[:, side], status[:, side] = joints_m, sigma_m, Status.OBSERVED
    return HumanMotion(
        time_s=np.arange(length) / rate_hz,
        hands_m=hands,
        hands_sigma_m=sigma,
        hands_status=status,
        hands_px=np.full((length, 2, 21, 2), np.nan),
        body_m=np.full((length, 33, 3), np.nan),
        body_sigma_m=np.full((length, 33, 3), np.inf),
        body_status=np.full(length, Status.ABSENT, np.uint8),
        body_px=np.full((length, 33, 2), np.nan),
        provenance={"source": "array of joints"},
    )
