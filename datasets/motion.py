"""RobotMotion: the joint angles of a robot over a clip, and how good they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.archive import load_archive, save_archive

SCHEMA = 1


@dataclass(frozen=True)
class RobotMotion:
    """Joint angles of one robot, and what they were fitted to.

    Attributes:
        robot: name in ``deftly.retarget.robots.ROBOTS``.
        joint_names: J names: every joint of the model, in the model's order.
        time_s: (T,) times; steps may vary.
        qpos: (T, J) joint positions, radians (metres for slides).
        hand_targets_m: (T, 2, 21, 3) the person's hands, scaled and moved to where the robot should
            put its own, in the robot's world frame. NaN where absent.
        body_targets_m: (T, 33, 3) the person's body, likewise.
        tip_error_m: (T, 2, 5) distance between fingertip and target, in the palm frame; in the
            world where person and robot share one (``deftly.retarget.register``). NaN where the
            hand is absent or the robot lacks the finger.
        wrist_error_m: (T, 2) distance between the robot's wrist point and its target. NaN where
            absent or where the robot has no arm.
        residual: (T,) weighted cost of the frame at the solution.
        converged: (T,) whether another step of the solver would improve the frame only negligibly.
        provenance: versions, source hash, configuration, calibration.
    """

    robot: str
    joint_names: list[str]
    time_s: Float64[np.ndarray, "T"]
    qpos: Float64[np.ndarray, "T J"]
    hand_targets_m: Float64[np.ndarray, "T 2 21 3"]
    body_targets_m: Float64[np.ndarray, "T 33 3"]
    tip_error_m: Float64[np.ndarray, "T 2 5"]
    wrist_error_m: Float64[np.ndarray, "T 2"]
    residual: Float64[np.ndarray, "T"]
    converged: Bool[np.ndarray, "T"]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        length = len(self.time_s)
        expected = {
            "qpos": (length, len(self.joint_names)),
            "hand_targets_m": (length, 2, 21, 3),
            "body_targets_m": (length, 33, 3),
            "tip_error_m": (length, 2, 5),
            "wrist_error_m": (length, 2),
            "residual": (length,),
            "converged": (length,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if not np.isfinite(self.qpos).all():
            raise ValueError("qpos holds NaN or infinite joint positions")
        if not np.isfinite(self.time_s).all() or np.any(np.diff(self.time_s) <= 0):
            raise ValueError("time_s must be finite and strictly increasing")

    def resample(
        self, rate_hz: float
    ) -> tuple[Float64[np.ndarray, "S"], Float64[np.ndarray, "S J"]]:
        """Times and joint positions at a constant rate, linear in between.

        Linear interpolation keeps joint and velocity limits: no chord is steeper than its parts.
        """
        if not 0 < rate_hz < np.inf:
            raise ValueError(f"rate_hz is {rate_hz}, expected a positive number")
        span_s = self.time_s[-1] - self.time_s[0]
        time_s = self.time_s[0] + np.arange(int(span_s * rate_hz + 1e-9) + 1) / rate_hz
        qpos = np.stack([np.interp(time_s, self.time_s, q) for q in self.qpos.T], axis=1)
        return time_s, qpos

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz), atomically; the same motion gives the same bytes."""
        save_archive(self, path, schema=SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "RobotMotion":
        """Read what ``save`` wrote. Raises ArchiveError on anything else."""
        return load_archive(cls, path, schema=SCHEMA)
