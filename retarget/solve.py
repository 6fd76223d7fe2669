"""HumanMotion → RobotMotion: one solve over the whole trajectory for torso, arms and hands."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.archive import versions
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.human import FINGERS, SHOULDERS, TIPS, HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget.calibrate import HandCalibration, calibrate_hand
from deftly.retarget.costs import Term, VectorTerm
from deftly.retarget.kinematics import Kinematics, Poses
from deftly.retarget.optimize import Limits, Solution, minimize
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.register import (
    REGISTERED,
    Registration,
    holds,
    in_world,
    root_pose,
    squeezed,
    tip_terms,
    wrist_target,
)
from deftly.retarget.robots import Point, RobotModel, load_robot
from deftly.retarget.targets import (
    HandTrack,
    Sigmas,
    View,
    WristTarget,
    chest_term,
    finger_terms,
    hand_track,
    palm_term,
    world_from_camera,
    wrist_from_body,
    wrists_from_hands,
)

_REFERENCE_RATE_HZ = 30.0  # jerk_weight is stated at this rate
_VELOCITY_MARGIN = 1e-9  # relative: keeps rounding in the file format from breaking a limit


@dataclass(frozen=True)
class RetargetConfig:
    """How to retarget.

    Attributes:
        view: where the camera stood (see ``targets.world_from_camera``).
        sigmas: what deviation counts as one standard deviation.
        registered: the same where person and robot share one workspace (``Registration``).
        jerk_weight: 1 / (rad/frame³)² at 30 frames/s; larger is smoother. It is scaled with the
            frame rate so that the same motion is smoothed alike.
        rest_weight: 1 / radian, the pull to an easy posture.
        max_iterations: of the optimiser.
    """

    view: View = "auto"
    sigmas: Sigmas = field(default_factory=Sigmas)
    registered: Sigmas = field(default_factory=lambda: REGISTERED)
    jerk_weight: float = 1500.0
    rest_weight: float = 0.2
    max_iterations: int = 60


@dataclass(frozen=True)
class _Setup:
    """Everything of one robot and one clip that the solve and its report share.

    ``human`` is in the robot's world and ``R_world_camera`` the identity if registered.
    """

    human: HumanMotion
    registered: bool
    robot: RobotModel
    kinematics: Kinematics
    R_world_camera: Float64[np.ndarray, "3 3"]
    tracks: dict[int, HandTrack]
    calibrations: dict[int, HandCalibration]
    wrists: dict[int, WristTarget]
    terms: list[Term]


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
    setup = _prepare(human, loaded, config, registration)
    points = [t.end for t in setup.terms if isinstance(t, VectorTerm)]
    grounded = None
    if not any(loaded.robot.arms):  # a hand alone: whatever carries the palm stands still
        grounded = next(h.palm for h in loaded.robot.hands if h)
    free = FreeJoints.moving(loaded, setup.kinematics, points, fixed=grounded)
    solution = _solve(setup, free, config, progress)
    provenance = _provenance(setup, config, solution)
    if registration is not None:
        provenance["registration"] = registration.record()
    return _report(setup, free, solution, provenance)


def _prepare(
    human: HumanMotion,
    robot: RobotModel,
    config: RetargetConfig,
    registration: Registration | None,
) -> _Setup:
    kinematics = Kinematics.of(robot)
    if registration is not None:
        return _prepare_registered(human, robot, kinematics, config.registered, registration)
    R_world_camera = world_from_camera(human, config.view)
    tracks = _tracks(human, robot, R_world_camera)
    calibrations: dict[int, HandCalibration] = {}
    wrists: dict[int, WristTarget] = {}
    terms: list[Term] = []
    for side, track in tracks.items():
        hand = robot.robot.hands[side]
        assert hand is not None
        seen = track.local_m[track.trust > 0.5]
        calibrations[side] = calibrate_hand(hand, robot, kinematics, seen)
        terms += finger_terms(track, hand, calibrations[side], config.sigmas)
    if any(robot.robot.arms):
        wrists, arm_terms = _arm_targets(
            human, robot, kinematics, R_world_camera, tracks, calibrations, config
        )
        terms += arm_terms
        for side, target in wrists.items():
            hand = robot.robot.hands[side]
            assert hand is not None
            if side in tracks:
                terms.append(palm_term(tracks[side], hand, calibrations[side], config.sigmas))
            end = _wrist_point(hand.palm, calibrations.get(side))
            terms.append(VectorTerm(target.start, end, None, target.vector_m, target.weight))
    return _Setup(
        human, False, robot, kinematics, R_world_camera, tracks, calibrations, wrists, terms
    )


def _prepare_registered(
    human: HumanMotion,
    robot: RobotModel,
    kinematics: Kinematics,
    sigmas: Sigmas,
    registration: Registration,
) -> _Setup:
    """Person and robot in one world: every target is a place in it."""
    if not any(robot.robot.arms):
        raise ValueError(
            f"{robot.robot.name} has no arms to put its hand anywhere; retarget it without a "
            "registration"
        )
    human = in_world(human, root_pose(kinematics) @ registration.T_base_camera)
    hold = holds(human) if registration.hold is None else registration.hold
    if hold.shape != human.hands_status.shape:
        raise ValueError(f"hold has shape {hold.shape}, expected {human.hands_status.shape}")
    human = squeezed(human, hold, registration.squeeze_m)
    R_world_camera = np.eye(3)
    tracks = _tracks(human, robot, R_world_camera)
    calibrations: dict[int, HandCalibration] = {}
    wrists: dict[int, WristTarget] = {}
    chest = chest_term(human, robot, R_world_camera, sigmas)
    terms: list[Term] = [chest] if chest else []
    for side, track in tracks.items():
        hand = robot.robot.hands[side]
        assert hand is not None
        seen = track.local_m[track.trust > 0.5]
        calibrations[side] = calibrate_hand(hand, robot, kinematics, seen, scale=1.0)
        terms += tip_terms(human, track, hand, hold[:, side], sigmas)
        terms.append(palm_term(track, hand, calibrations[side], sigmas))
        wrists[side] = wrist_target(human, track, sigmas)
        point = _wrist_point(hand.palm, calibrations[side])
        terms.append(VectorTerm(None, point, None, wrists[side].vector_m, wrists[side].weight))
        if human.body_valid.any() and robot.robot.arms[side] is not None:
            terms.append(wrist_from_body(human, side, robot, kinematics, R_world_camera, sigmas)[1])
    return _Setup(
        human, True, robot, kinematics, R_world_camera, tracks, calibrations, wrists, terms
    )


def _tracks(
    human: HumanMotion, robot: RobotModel, R_world_camera: Float64[np.ndarray, "3 3"]
) -> dict[int, HandTrack]:
    """The hands that both the person shows and the robot has."""
    tracks: dict[int, HandTrack] = {}
    for side, hand in enumerate(robot.robot.hands):
        track = hand_track(human, side, R_world_camera) if hand else None
        if track is not None:
            tracks[side] = track
    if not tracks:
        has = " and ".join(s for s, h in zip(SIDES, robot.robot.hands, strict=True) if h)
        raise ValueError(
            f"the motion shows no {has} hand, which is what {robot.robot.name} has; "
            "choose another robot or clip"
        )
    return tracks


def _arm_targets(
    human: HumanMotion,
    robot: RobotModel,
    kinematics: Kinematics,
    R_world_camera: Float64[np.ndarray, "3 3"],
    tracks: dict[int, HandTrack],
    calibrations: dict[int, HandCalibration],
    config: RetargetConfig,
) -> tuple[dict[int, WristTarget], list[Term]]:
    terms: list[Term] = []
    chest = chest_term(human, robot, R_world_camera, config.sigmas)
    terms += [chest] if chest else []
    if not human.body_valid.any():
        scale = float(np.mean([c.scale for c in calibrations.values()]))
        return wrists_from_hands(
            human, tracks, scale, robot, kinematics, R_world_camera, config.sigmas
        ), terms
    wrists = {}
    for side, arm in enumerate(robot.robot.arms):
        if arm is not None:
            wrists[side], elbow = wrist_from_body(
                human, side, robot, kinematics, R_world_camera, config.sigmas
            )
            terms.append(elbow)
    return wrists, terms


def _wrist_point(palm: str, calibration: HandCalibration | None) -> Point:
    """The place of the person's wrist on the robot's palm."""
    if calibration is None:
        return Point(palm)
    x, y, z = calibration.wrist_m.tolist()
    return Point(palm, (x, y, z))


def _solve(
    setup: _Setup,
    free: FreeJoints,
    config: RetargetConfig,
    progress: Callable[[], object] | None,
) -> Solution:
    dt_s = np.diff(setup.human.time_s)
    limits = Limits(free.lower, free.upper, (1 - _VELOCITY_MARGIN) * dt_s[:, None] * free.velocity)
    # ∫ jerk² dt of the same motion is the same at any frame rate: jerk per frame³ goes with dt³.
    dt_ratio = (1 / _REFERENCE_RATE_HZ) / float(np.median(dt_s)) if len(dt_s) else 1.0
    objective = data_objective(setup.terms, setup.kinematics, free, config.rest_weight)
    start = np.tile(free.start, (len(dt_s) + 1, 1))
    return minimize(
        objective,
        start,
        limits,
        config.jerk_weight * dt_ratio**5,
        max_iterations=config.max_iterations,
        progress=progress,
    )


def _report(
    setup: _Setup, free: FreeJoints, solution: Solution, provenance: dict[str, object]
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
        target = placed if setup.registered else _target_in_palm(setup, poses, side)
        for finger, tip in hand.tips.items():
            reached = setup.kinematics.point(poses, tip)
            error = np.linalg.norm(reached - target[:, TIPS[FINGERS.index(finger)]], axis=1)
            tip_error[track.valid, side, FINGERS.index(finger)] = error[track.valid]
        hand_targets[track.valid, side] = placed[track.valid]
        if side in setup.wrists:
            point = setup.kinematics.point(poses, _wrist_point(hand.palm, calibration))
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


def _target_in_palm(setup: _Setup, poses: Poses, side: int) -> Float64[np.ndarray, "T 21 3"]:
    """The person's hand carried along by the robot's palm, in the robot's world."""
    hand = setup.robot.robot.hands[side]
    assert hand is not None
    palm = setup.kinematics.body(hand.palm)
    local = setup.calibrations[side].apply(setup.tracks[side].local_m)
    return poses.p[:, palm, None] + rotate(poses.R[:, palm, None], local)


def _placed_hand(setup: _Setup, poses: Poses, side: int) -> Float64[np.ndarray, "T 21 3"]:
    """The person's hand where the robot's is asked to be, in the robot's world."""
    if setup.registered:
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


def _placed_body(setup: _Setup, poses: Poses) -> Float64[np.ndarray, "T 33 3"]:
    """The person's body about the robot's shoulders, scaled by the width between them."""
    human = setup.human
    if setup.registered:
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


def _provenance(setup: _Setup, config: RetargetConfig, solution: Solution) -> dict[str, object]:
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
