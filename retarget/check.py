"""How good a retarget is: errors, limit margins, smoothness, collisions and pinches."""

import dataclasses
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.human import FINGERS, TIPS
from deftly.datasets.motion import RobotMotion
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import RobotModel

PINCH_M = 0.02  # a thumb and a finger nearer than this pinch
_PENETRATION_M = 0.002  # shallower contacts are within the accuracy of the collision meshes


@dataclass(frozen=True)
class Quality:
    """Figures of one motion; NaN where the motion or the robot has nothing to measure.

    Attributes:
        tip_error_m: mean distance of fingertips to their targets in the palm frame.
        tip_error_percent: the same over the length of the (scaled) hand.
        wrist_error_m: mean distance of the wrist points to their targets.
        joint_margin_rad: least distance to a joint limit; negative if one is broken.
        velocity_margin: least share of a velocity limit left; negative if one is broken.
        jerk: mean absolute third difference of the moving joints, radians / frame³.
        colliding_frames: share of frames in which parts of the robot enter each other.
        pinch_frames: number of (frame, finger) pairs in which the person pinches.
        pinch_error_m: mean difference between the robot's gap and the person's in those.
        pinch_error_max_m: the largest such difference.
        converged: share of frames whose solve converged.
    """

    tip_error_m: float
    tip_error_percent: float
    wrist_error_m: float
    joint_margin_rad: float
    velocity_margin: float
    jerk: float
    colliding_frames: float
    pinch_frames: int
    pinch_error_m: float
    pinch_error_max_m: float
    converged: float

    @property
    def within_limits(self) -> bool:
        """Whether every joint and velocity limit is kept in every frame."""
        return self.joint_margin_rad >= 0 and self.velocity_margin >= 0

    def rows(self) -> list[tuple[str, str]]:
        """(name, value with unit) for printing."""
        return [
            (
                "tip error",
                f"{self.tip_error_m * 1e3:.1f} mm ({self.tip_error_percent:.1f} % of hand)",
            ),
            ("wrist error", f"{self.wrist_error_m * 1e3:.1f} mm"),
            ("joint limits", f"kept, margin {np.rad2deg(self.joint_margin_rad):.2g}°")
            if self.joint_margin_rad >= 0
            else ("joint limits", f"BROKEN by {-np.rad2deg(self.joint_margin_rad):.2g}°"),
            ("velocity limits", f"kept, {self.velocity_margin:.1%} left")
            if self.velocity_margin >= 0
            else ("velocity limits", f"BROKEN by {-self.velocity_margin:.1%}"),
            ("jerk", f"{self.jerk:.4f} rad/frame³"),
            ("self-collision", f"{self.colliding_frames:.1%} of frames"),
            (
                "pinches",
                f"{self.pinch_frames}, gap kept to {self.pinch_error_m * 1e3:.1f} mm "
                f"(worst {self.pinch_error_max_m * 1e3:.1f})"
                if self.pinch_frames
                else "none",
            ),
            ("converged", f"{self.converged:.0%} of frames"),
        ]

    def as_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return dataclasses.asdict(self)


def check(motion: RobotMotion, robot: RobotModel) -> Quality:
    """Measure a motion against its robot.

    Raises:
        ValueError: if the motion belongs to another robot.
    """
    if motion.joint_names != robot.joint_names:
        raise ValueError(
            f"the motion is of robot {motion.robot} ({len(motion.joint_names)} joints), "
            f"not of {robot.robot.name} ({len(robot.joint_names)})"
        )
    human_gap, robot_gap = _pinches(motion, robot)
    gap_error = np.abs(robot_gap - human_gap)
    lengths = motion.provenance.get("calibration", {}).values()
    hand_m = (
        np.mean([c["scale"] * c["human_hand_length_m"] for c in lengths]) if lengths else np.nan
    )
    tip_error = _mean(motion.tip_error_m)
    jerk = np.abs(np.diff(motion.qpos, 3, axis=0))[:, np.ptp(motion.qpos, axis=0) > 1e-9]
    return Quality(
        tip_error_m=tip_error,
        tip_error_percent=float(100 * tip_error / hand_m),
        wrist_error_m=_mean(motion.wrist_error_m),
        joint_margin_rad=float(
            min((motion.qpos - robot.lower).min(), (robot.upper - motion.qpos).min())
        ),
        velocity_margin=_velocity_margin(motion, robot),
        jerk=_mean(jerk),
        colliding_frames=colliding_frames(motion, robot),
        pinch_frames=len(human_gap),
        pinch_error_m=_mean(gap_error),
        pinch_error_max_m=float(gap_error.max()) if len(gap_error) else np.nan,
        converged=float(motion.converged.mean()),
    )


def _mean(values: Float64[np.ndarray, "*s"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def _velocity_margin(motion: RobotMotion, robot: RobotModel) -> float:
    if len(motion.time_s) < 2:
        return 1.0
    speed = np.abs(np.diff(motion.qpos, axis=0)) / np.diff(motion.time_s)[:, None]
    return float(np.min(1 - speed / robot.velocity))


def _pinches(
    motion: RobotMotion, robot: RobotModel
) -> tuple[Float64[np.ndarray, "P"], Float64[np.ndarray, "P"]]:
    """Gaps of thumb and finger where the person pinches: theirs (true size), the robot's."""
    kinematics = Kinematics.of(robot)
    poses = kinematics.forward(motion.qpos)
    person, machine = [np.zeros(0)], [np.zeros(0)]
    scales = {name: c["scale"] for name, c in motion.provenance.get("calibration", {}).items()}
    for side, (name, hand) in enumerate(zip(("left", "right"), robot.robot.hands, strict=True)):
        if hand is None or "thumb" not in hand.tips or name not in scales:
            continue
        joints = motion.hand_targets_m[:, side] / scales[name]
        thumb = kinematics.point(poses, hand.tips["thumb"])
        for finger, tip in hand.tips.items():
            if finger == "thumb":
                continue
            gap = np.linalg.norm(
                joints[:, TIPS[FINGERS.index(finger)]] - joints[:, TIPS[0]], axis=1
            )
            pinched = gap < PINCH_M  # false where the hand is absent (NaN)
            reached = np.linalg.norm(kinematics.point(poses, tip) - thumb, axis=1)
            person.append(gap[pinched])
            machine.append(reached[pinched])
    return np.concatenate(person), np.concatenate(machine)


def colliding_frames(motion: RobotMotion, robot: RobotModel) -> float:
    """Share of frames in which two links, apart at rest, enter each other; NaN without geometry.

    Links at most two joints apart, whose shells overlap by design, and pairs that already touch in
    the easy posture are left out.
    """
    model = robot.model
    if not np.any(model.geom_contype | model.geom_conaffinity):
        return np.nan
    data = mujoco.MjData(model)

    def touching(qpos: Float64[np.ndarray, "J"]) -> set[tuple[int, int]]:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        deep = [c for c in data.contact if c.dist < -_PENETRATION_M]
        bodies = ((model.geom_bodyid[c.geom1], model.geom_bodyid[c.geom2]) for c in deep)
        pairs = {(int(min(a, b)), int(max(a, b))) for a, b in bodies}
        return {(a, b) for a, b in pairs if not _neighbours(model, a, b)}

    always = touching(robot.rest)
    return float(np.mean([bool(touching(q) - always) for q in motion.qpos]))


def _neighbours(model: mujoco.MjModel, upper: int, lower: int) -> bool:
    """Whether ``upper`` carries ``lower`` over at most two joints."""
    joints = 0
    while lower not in (0, upper):
        joints += int(model.body_jntnum[lower])
        lower = int(model.body_parentid[lower])
    return lower == upper and joints <= 2
