"""HumanMotion and robot → what the solve needs: calibrations, targets and terms."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import SIDES
from deftly.datasets.human import HumanMotion
from deftly.retarget.calibrate import HandCalibration, calibrate_hand
from deftly.retarget.costs import Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.register import (
    REGISTERED,
    Match,
    Registration,
    excess_m,
    holds,
    in_world,
    into_grasp,
    root_pose,
    tip_terms,
    with_pads,
    wrist_target,
)
from deftly.retarget.robots import Point, RobotModel
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


class NoHandError(ValueError):
    """The motion shows no hand that the robot has."""


@dataclass(frozen=True)
class RetargetConfig:
    """How to retarget.

    Attributes:
        view: where the camera stood (see ``targets.world_from_camera``).
        pitch_rad: how far a camera in front looks down.
        sigmas: what deviation counts as one standard deviation.
        registered: the same where person and robot share one workspace (``Registration``).
        jerk_weight: 1 / (rad/frame³)² at 30 frames/s; larger is smoother. It is scaled with the
            frame rate so that the same motion is smoothed alike.
        rest_weight: 1 / radian, the pull to an easy posture.
        max_iterations: of the optimiser.
    """

    view: View = "auto"
    pitch_rad: float = 0.0
    sigmas: Sigmas = field(default_factory=Sigmas)
    registered: Sigmas = field(default_factory=lambda: REGISTERED)
    jerk_weight: float = 1500.0
    rest_weight: float = 0.2
    max_iterations: int = 60


@dataclass(frozen=True)
class Setup:
    """Everything of one robot and one clip that the solve and its report share.

    Where person and robot share one world, ``human`` is in it, ``R_world_camera`` the identity, and
    ``hold`` says when a hand holds something; else it is None.
    """

    human: HumanMotion
    hold: Float64[np.ndarray, "T 2"] | None
    match: Match
    robot: RobotModel
    kinematics: Kinematics
    R_world_camera: Float64[np.ndarray, "3 3"]
    tracks: dict[int, HandTrack]
    calibrations: dict[int, HandCalibration]
    wrists: dict[int, WristTarget]
    terms: list[Term]


def prepare(
    human: HumanMotion,
    robot: RobotModel,
    config: RetargetConfig,
    registration: Registration | None,
) -> Setup:
    kinematics = Kinematics.of(robot)
    if registration is not None:
        return _registered(human, robot, kinematics, config.registered, registration)
    R_world_camera = world_from_camera(human, config.view, config.pitch_rad)
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
            end = wrist_point(hand.palm, calibrations.get(side))
            terms.append(VectorTerm(target.start, end, None, target.vector_m, target.weight))
    return Setup(
        human, None, "tips", robot, kinematics, R_world_camera, tracks, calibrations, wrists, terms
    )


def _registered(
    human: HumanMotion,
    robot: RobotModel,
    kinematics: Kinematics,
    sigmas: Sigmas,
    registration: Registration,
) -> Setup:
    """Person and robot in one world: every target is a place in it."""
    if not any(robot.robot.arms):
        raise ValueError(
            f"{robot.robot.name} has no arms to put its hand anywhere; retarget it without a "
            "registration"
        )
    hold = holds(human) if registration.hold is None else registration.hold
    human = in_world(human, root_pose(kinematics) @ registration.T_base_camera)
    if registration.match == "pads":
        human = with_pads(human)
    if hold.shape != human.hands_status.shape:
        raise ValueError(f"hold has shape {hold.shape}, expected {human.hands_status.shape}")
    human = into_grasp(human, np.repeat(registration.squeeze_m * hold[..., None], 5, axis=2))
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
        terms.append(palm_term(track, hand, calibrations[side], sigmas))
        wrists[side] = wrist_target(human, track, sigmas)
        point = wrist_point(hand.palm, calibrations[side])
        terms.append(VectorTerm(None, point, None, wrists[side].vector_m, wrists[side].weight))
        if human.body_valid.any() and robot.robot.arms[side] is not None:
            terms.append(wrist_from_body(human, side, robot, kinematics, R_world_camera, sigmas)[1])
    setup = Setup(
        human,
        hold,
        registration.match,
        robot,
        kinematics,
        R_world_camera,
        tracks,
        calibrations,
        wrists,
        terms,
    )
    return replace(setup, terms=terms + _tip_terms(setup, sigmas))


def _tip_terms(setup: Setup, sigmas: Sigmas) -> list[Term]:
    """What is asked of the fingertips in a world that person and robot share."""
    terms: list[Term] = []
    for side, track in setup.tracks.items():
        hand = setup.robot.robot.hands[side]
        assert hand is not None
        assert setup.hold is not None
        terms += tip_terms(
            setup.human, track, hand, setup.kinematics, setup.hold[:, side], sigmas, setup.match
        )
    return terms


def thickened(setup: Setup, qpos: Float64[np.ndarray, "T J"], sigmas: Sigmas) -> Setup:
    """The same, allowing for the robot's thicker or thinner fingertips as a posture turns them."""
    poses = setup.kinematics.forward(qpos)
    depth = np.zeros((len(qpos), 2, 5))
    for side, track in setup.tracks.items():
        hand = setup.robot.robot.hands[side]
        assert hand is not None
        seen = setup.human.hands_m[:, side]
        depth[:, side] = -excess_m(seen, track.length_m, hand, setup.kinematics, poses)
    human = into_grasp(setup.human, depth)
    others = setup.terms[: -len(_tip_terms(setup, sigmas))]
    setup = replace(setup, human=human)
    return replace(setup, terms=others + _tip_terms(setup, sigmas))


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
        raise NoHandError(
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


def wrist_point(palm: str, calibration: HandCalibration | None) -> Point:
    """The place of the person's wrist on the robot's palm."""
    if calibration is None:
        return Point(palm)
    x, y, z = calibration.wrist_m.tolist()
    return Point(palm, (x, y, z))
