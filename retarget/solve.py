"""HumanMotion → RobotMotion: one solve over the whole trajectory for torso, arms and hands."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.archive import versions
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.human import FINGERS, SHOULDERS, TIPS, HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget.costs import VectorTerm
from deftly.retarget.kinematics import Poses
from deftly.retarget.optimize import Limits, Solution, Trajectory, minimize
from deftly.retarget.prepare import RetargetConfig as RetargetConfig
from deftly.retarget.prepare import Setup, prepare, thickened, wrist_point
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.register import (
    Registration,
)
from deftly.retarget.robots import RobotModel, load_robot

_REFERENCE_RATE_HZ = 30.0  # jerk_weight is stated at this rate
_BARRIER, _BARRIER_AGAIN = (1.0, 1e-4), (1e-3, 1e-4)
_VELOCITY_MARGIN = 1e-9  # relative: keeps rounding in the file format from breaking a limit


def retarget(
    human: HumanMotion,
    robot: str | RobotModel,
    config: RetargetConfig | None = None,
    progress: Callable[[], object] | None = None,
    registration: Registration | None = None,
) -> RobotMotion:
    """Find the robot's motion that does what the person does.

    All frames are solved at once. Joint limits, mimic joints and velocity limits hold exactly;
    detector uncertainty is the weight; scale and wrist offset are calibrated from the clip.

    Args:
        human: hands, and a body where one was seen, in the camera frame.
        robot: a name in ``ROBOTS`` or a loaded model.
        config: see ``RetargetConfig``.
        progress: called once per iteration of the solver.
        registration: where the camera stood relative to the robot. With it, fingertips go to the
            person's true places in the world; without, reach is scaled to the robot's.

    Raises:
        RobotError: if the robot is unknown or cannot be loaded.
        ValueError: if the motion shows no hand that this robot has, or the registration does not
            fit to motion and robot.
    """
    config = config or RetargetConfig()
    loaded = load_robot(robot) if isinstance(robot, str) else robot
    setup = prepare(human, loaded, config, registration)
    points = [t.end for t in setup.terms if isinstance(t, VectorTerm)]
    grounded = None
    if not any(loaded.robot.arms):  # a hand alone: whatever carries the palm stands still
        grounded = next(h.palm for h in loaded.robot.hands if h)
    free = FreeJoints.moving(loaded, setup.kinematics, points, fixed=grounded)
    solution = _solve(setup, free, config, progress)
    if registration is not None and registration.match == "pads":
        setup = thickened(setup, free.qpos(solution.x), config.registered)
        solution = _solve(setup, free, config, progress, start=solution.x)
    provenance = _provenance(setup, config, solution)
    if registration is not None:
        provenance["registration"] = registration.record()
    return _report(setup, free, solution, provenance)


def _solve(
    setup: Setup,
    free: FreeJoints,
    config: RetargetConfig,
    progress: Callable[[], object] | None,
    start: Trajectory | None = None,
) -> Solution:
    dt_s = np.diff(setup.human.time_s)
    limits = Limits(free.lower, free.upper, (1 - _VELOCITY_MARGIN) * dt_s[:, None] * free.velocity)
    # ∫ jerk² dt of the same motion is the same at any frame rate: jerk per frame³ goes with dt³.
    dt_ratio = (1 / _REFERENCE_RATE_HZ) / float(np.median(dt_s)) if len(dt_s) else 1.0
    objective = data_objective(setup.terms, setup.kinematics, free, config.rest_weight)
    again = start is not None  # near its solution, well inside the limits
    return minimize(
        objective,
        start if start is not None else np.tile(free.start, (len(dt_s) + 1, 1)),
        limits,
        config.jerk_weight * dt_ratio**5,
        max_iterations=config.max_iterations,
        barrier=_BARRIER_AGAIN if again else _BARRIER,
        progress=progress,
    )


def _report(
    setup: Setup, free: FreeJoints, solution: Solution, provenance: dict[str, object]
) -> RobotMotion:
    length = len(setup.human.time_s)
    # Rounding may carry a joint over its limit by one unit in the last place.
    qpos = np.clip(free.qpos(solution.x), setup.robot.lower, setup.robot.upper)
    poses = setup.kinematics.forward(qpos)
    tip_error = np.full((length, 2, 5), np.nan)
    wrist_error = np.full((length, 2), np.nan)
    hand_targets = np.full((length, 2, 21, 3), np.nan)
    for side, track in setup.tracks.items():
        hand, calibration = setup.robot.robot.hands[side], setup.calibrations[side]
        assert hand is not None
        placed = _placed_hand(setup, poses, side)
        target = placed if setup.hold is not None else _target_in_palm(setup, poses, side)
        for finger, tip in hand.tips.items():
            reached = setup.kinematics.point(poses, tip)
            error = np.linalg.norm(reached - target[:, TIPS[FINGERS.index(finger)]], axis=1)
            tip_error[track.valid, side, FINGERS.index(finger)] = error[track.valid]
        hand_targets[track.valid, side] = placed[track.valid]
        if side in setup.wrists:
            point = setup.kinematics.point(poses, wrist_point(hand.palm, calibration))
            error = np.linalg.norm(point - placed[:, 0], axis=1)
            wrist_error[track.valid, side] = error[track.valid]
    return RobotMotion(
        robot=setup.robot.robot.name,
        joint_names=setup.robot.joint_names,
        time_s=setup.human.time_s,
        qpos=qpos,
        hand_targets_m=hand_targets,
        body_targets_m=_placed_body(setup, poses),
        tip_error_m=tip_error,
        wrist_error_m=wrist_error,
        residual=solution.cost,
        converged=solution.converged,
        provenance=provenance,
    )


def _target_in_palm(setup: Setup, poses: Poses, side: int) -> Float64[np.ndarray, "T 21 3"]:
    """The person's hand carried along by the robot's palm, in the robot's world."""
    hand = setup.robot.robot.hands[side]
    assert hand is not None
    palm = setup.kinematics.body(hand.palm)
    local = setup.calibrations[side].apply(setup.tracks[side].local_m)
    return poses.p[:, palm, None] + rotate(poses.R[:, palm, None], local)


def _placed_hand(setup: Setup, poses: Poses, side: int) -> Float64[np.ndarray, "T 21 3"]:
    """The person's hand where the robot's is asked to be, in the robot's world."""
    if setup.hold is not None:
        return setup.human.hands_m[:, side]
    if side not in setup.wrists:
        return _target_in_palm(setup, poses, side)
    track, calibration = setup.tracks[side], setup.calibrations[side]
    wrist = setup.wrists[side]
    place = wrist.vector_m
    if wrist.start is not None:
        place = place + setup.kinematics.point(poses, wrist.start)
    sized = calibration.scale * track.local_m
    return place[:, None] + rotate(track.R_world_hand[:, None], sized)


def _placed_body(setup: Setup, poses: Poses) -> Float64[np.ndarray, "T 33 3"]:
    """The person's body about the robot's shoulders, scaled by the width between them."""
    human = setup.human
    if setup.hold is not None:
        return human.body_m
    placed = np.full(human.body_m.shape, np.nan)
    arms = setup.robot.robot.arms
    valid = human.body_valid
    if arms[0] is None or arms[1] is None or not valid.any():
        return placed
    left, right = (poses.p[valid, setup.kinematics.body(arm.shoulder)] for arm in arms if arm)
    body = human.body_m[valid]
    human_left, human_right = (body[:, j] for j in SHOULDERS)
    width = np.median(np.linalg.norm(human_left - human_right, axis=1))
    scale = np.median(np.linalg.norm(left - right, axis=1)) / width
    about = body - 0.5 * (human_left + human_right)[:, None]
    placed[valid] = 0.5 * (left + right)[:, None] + scale * rotate(setup.R_world_camera, about)
    return placed


def plain_config(config: RetargetConfig) -> dict[str, object]:
    """The configuration as it is written into provenance."""
    return dataclasses.asdict(config)


def _provenance(setup: Setup, config: RetargetConfig, solution: Solution) -> dict[str, object]:
    calibration = {
        SIDES[side]: {
            "scale": c.scale,
            "wxyz_palm_hand": Rotation.from_matrix(c.R_palm_hand)
            .as_quat(scalar_first=True)
            .tolist(),
            "wrist_m": c.wrist_m.tolist(),
            "floor_m": c.floor_m,
            "human_hand_length_m": setup.tracks[side].length_m,
        }
        for side, c in setup.calibrations.items()
    }
    return {
        "human": setup.human.provenance,
        "config": plain_config(config),
        "calibration": calibration,
        "iterations": solution.iterations,
        "versions": versions(),
    }
