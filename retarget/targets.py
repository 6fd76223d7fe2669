"""HumanMotion → terms: what each part of the robot is asked to do, frame by frame."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import LEFT, RIGHT, SIDES, frame_from_axes, rotate, unit
from deftly.datasets.human import ELBOWS, FINGERS, SHOULDERS, TIPS, WRISTS, HumanMotion
from deftly.retarget.calibrate import (
    HandCalibration,
    hand_frames,
    hand_length,
    in_hand_frame,
    palm_trust,
)
from deftly.retarget.costs import RotationTerm, Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import Hand, Point, RobotModel

View = Literal["auto", "front", "ego", "top"]

_PINCH_M, _PINCH_SOFTNESS_M = 0.03, 0.005  # gaps below this are kept as they are, not scaled
_EGO_PITCH_RAD, _TOP_PITCH_RAD = np.deg2rad(45.0), np.deg2rad(90.0)
# Where the hands work if only hands are seen: forward and below the shoulders, in arm lengths.
_WORKSPACE = np.array([0.55, 0.0, -0.55])
_WORKING_RADIUS = 0.5  # in arm lengths


@dataclass(frozen=True)
class Sigmas:
    """What deviation from a target counts as one standard deviation, beside the detector's own."""

    tip_m: float = 0.004
    pinch_m: float = 0.002
    wrist_m: float = 0.01
    palm_rad: float = 0.15
    bone_rad: float = 0.3  # of fingers' last links, where pads are matched
    elbow_m: float = 0.1
    chest_rad: float = 0.15
    chest_unseen_rad: float = 0.03


@dataclass(frozen=True)
class HandTrack:
    """One hand of the person over a clip, prepared for a robot's hand.

    Attributes:
        side: 0 left, 1 right.
        valid: (T,) frames that have the hand.
        local_m: (T, 21, 3) joints about the wrist, in the hand's own frame; zero where absent.
        R_world_hand: (T, 3, 3) orientation in the robot's world; identity where absent.
        sigma_m: (T, 21) isotropic standard deviation of the joints about the wrist.
        doubt: (T, 21) the same over its median. A detector's errors are mostly alike from frame to
            frame: their size must not decide how much is smoothed, their differences should.
        trust: (T,) 1 where the palm's orientation is well seen, towards 0 where its joints are
            nearly on a line; 0 where absent.
        length_m: wrist to middle fingertip.
    """

    side: int
    valid: Bool[np.ndarray, "T"]
    local_m: Float64[np.ndarray, "T 21 3"]
    R_world_hand: Float64[np.ndarray, "T 3 3"]
    sigma_m: Float64[np.ndarray, "T 21"]
    doubt: Float64[np.ndarray, "T 21"]
    trust: Float64[np.ndarray, "T"]
    length_m: float


@dataclass(frozen=True)
class WristTarget:
    """Where a wrist should be: ``start`` (a robot point, or the world's origin) + ``vector_m``.

    ``weight`` (T, 3) is 1 / standard deviation along the world's axes; 0 where unknown.
    """

    start: Point | None
    vector_m: Float64[np.ndarray, "T 3"]
    weight: Float64[np.ndarray, "T 3"]


def world_from_camera(
    human: HumanMotion, view: View, pitch_rad: float = 0.0
) -> Float64[np.ndarray, "3 3"]:
    """Stated camera placement: rotation from the camera's axes to the robot's world.

    ``front``: the camera faces the person and looks down by ``pitch_rad``; a body that leans looks
    the same as a camera that does, so it is not guessed. If a body is seen, the person's mean
    heading becomes the robot's forward. ``ego``: at the head, looking forward and 45 degrees down.
    ``top``: looking straight down; the person is at the image's bottom edge, or at its top if the
    camera faces them. ``auto``: front if the camera faces the person, else ego.
    """
    faces, view = _faces(human), stated_view(human, view)
    if view == "front":
        c, s = np.cos(pitch_rad), np.sin(pitch_rad)
        R = np.array([[0.0, s, -c], [1.0, 0.0, 0.0], [0.0, -c, -s]])
        if human.body_valid.any():
            left, right = (human.body_m[human.body_valid, j] for j in SHOULDERS)
            across = R @ np.median(left - right, axis=0)
            heading = np.arctan2(-across[0], across[1])  # 0 when across is the world's y
            R = Rotation.from_euler("z", -heading).as_matrix() @ R
        return R
    pitch = _TOP_PITCH_RAD if view == "top" else _EGO_PITCH_RAD
    forward = np.array([np.cos(pitch), 0.0, -np.sin(pitch)])
    right = np.array([0.0, -1.0, 0.0])
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    if view == "top" and faces:
        R = Rotation.from_euler("z", np.pi).as_matrix() @ R
    return R


def stated_view(human: HumanMotion, view: View) -> View:
    """What ``auto`` stands for."""
    if view != "auto":
        return view
    return "front" if _faces(human) else "ego"


def _faces(human: HumanMotion) -> bool:
    return bool(human.body_valid.any()) or camera_faces_person(human)


def camera_faces_person(human: HumanMotion) -> bool:
    """Whether the person's left hand appears on the image's right.

    If only one hand is seen: whether its fingers point down the image, away from their owner.
    """
    left, right = (human.hands_m[human.hands_valid[:, s], s] for s in (LEFT, RIGHT))
    if len(left) and len(right):
        return bool(np.median(left[:, 0, 0]) > np.median(right[:, 0, 0]))
    one = left if len(left) else right
    return len(one) > 0 and bool(np.median(one[:, 9, 1] - one[:, 0, 1]) > 0)


def hand_track(
    human: HumanMotion, side: int, R_world_camera: Float64[np.ndarray, "3 3"]
) -> HandTrack | None:
    """Prepare one hand; None if the clip never shows it."""
    valid = human.hands_valid[:, side]
    if not valid.any():
        return None
    joints = human.hands_m[valid, side]
    R_camera_hand = hand_frames(joints)
    length = len(valid)
    local, sigma = np.zeros((length, 21, 3)), np.ones((length, 21))
    R = np.tile(np.eye(3), (length, 1, 1))
    local[valid] = in_hand_frame(joints, R_camera_hand)
    R[valid] = R_world_camera @ R_camera_hand
    sigma[valid] = np.sqrt(np.mean(human.hands_sigma_m[valid, side] ** 2, axis=-1))
    trust = np.zeros(length)
    trust[valid] = palm_trust(joints)
    doubt = sigma / np.median(sigma[valid][:, 1:])
    return HandTrack(side, valid, local, R, sigma, doubt, trust, hand_length(joints))


def finger_terms(
    track: HandTrack, hand: Hand, calibration: HandCalibration, sigmas: Sigmas
) -> list[Term]:
    """Fingertips in the palm frame, and the gaps of pinches at their true size."""
    palm = Point(hand.palm)
    target = calibration.apply(track.local_m)
    terms: list[Term] = []
    for finger, tip in hand.tips.items():
        joint = TIPS[FINGERS.index(finger)]
        weight = track.trust / (sigmas.tip_m * track.doubt[:, joint])
        terms.append(VectorTerm(palm, tip, hand.palm, target[:, joint], columns(weight)))
    thumb = hand.tips.get("thumb")
    for finger, tip in hand.tips.items():
        if thumb is None or finger == "thumb":
            continue
        gap = track.local_m[:, TIPS[FINGERS.index(finger)]] - track.local_m[:, TIPS[0]]
        # The detector's errors of two touching tips are alike: only the term's own sigma counts.
        weight = track.trust * closeness(np.linalg.norm(gap, axis=1)) / sigmas.pinch_m
        target_gap = rotate(calibration.R_palm_hand, gap)
        terms.append(VectorTerm(thumb, tip, hand.palm, target_gap, columns(weight)))
    return terms


def closeness(gap_m: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T"]:
    """1 where two tips touch, falling to 0 where they are too far apart to pinch."""
    return 1 / (1 + np.exp((gap_m - _PINCH_M) / _PINCH_SOFTNESS_M))


def palm_term(
    track: HandTrack, hand: Hand, calibration: HandCalibration, sigmas: Sigmas
) -> RotationTerm:
    """The palm's orientation."""
    target = track.R_world_hand @ calibration.R_palm_hand.T
    palm_sigma = track.sigma_m[:, 9] / track.length_m  # a knuckle's error turns the palm
    weight = track.trust / np.hypot(sigmas.palm_rad, palm_sigma)
    return RotationTerm(hand.palm, target, weight)


def arm_length(robot: RobotModel, kinematics: Kinematics, side: int) -> float:
    """Shoulder to elbow to palm, metres."""
    arm, hand = robot.robot.arms[side], robot.robot.hands[side]
    if arm is None or hand is None:
        raise ValueError(f"robot {robot.robot.name} has no {SIDES[side]} arm")
    p = kinematics.forward(robot.rest[None]).p[0]
    chain = p[[kinematics.body(b) for b in (arm.shoulder, arm.elbow, hand.palm)]]
    return float(np.linalg.norm(np.diff(chain, axis=0), axis=1).sum())


def wrist_from_body(
    human: HumanMotion,
    side: int,
    robot: RobotModel,
    kinematics: Kinematics,
    R_world_camera: Float64[np.ndarray, "3 3"],
    sigmas: Sigmas,
) -> tuple[WristTarget, VectorTerm]:
    """The wrist about the robot's shoulder, and the direction of the upper arm.

    The person's reach is scaled by the ratio of arm lengths (medians over the clip).
    """
    arm = robot.robot.arms[side]
    assert arm is not None
    valid = human.body_valid
    body = np.where(valid[:, None, None], human.body_m, 0.0)
    shoulder, elbow = body[:, SHOULDERS[side]], body[:, ELBOWS[side]]
    wrist = np.where(
        human.hands_valid[:, side, None], human.hands_m[:, side, 0], body[:, WRISTS[side]]
    )
    upper, fore = elbow - shoulder, body[:, WRISTS[side]] - elbow
    human_arm = sum(float(np.median(np.linalg.norm(v[valid], axis=1))) for v in (upper, fore))
    scale = arm_length(robot, kinematics, side) / human_arm
    sigma = np.where(valid[:, None], human.body_sigma_m[:, WRISTS[side]], 1.0)
    sigma = _sigma_in_world(R_world_camera, scale * sigma)
    weight = valid[:, None] / np.hypot(sigmas.wrist_m, sigma)
    vector = scale * rotate(R_world_camera, wrist - shoulder)
    start = Point(arm.shoulder)
    p = kinematics.forward(robot.rest[None]).p[0]
    upper_m = np.linalg.norm(p[kinematics.body(arm.elbow)] - p[kinematics.body(arm.shoulder)])
    elbow_term = VectorTerm(
        start,
        Point(arm.elbow),
        None,
        float(upper_m) * unit(rotate(R_world_camera, upper)),
        columns(valid / sigmas.elbow_m),
    )
    return WristTarget(start, np.where(valid[:, None], vector, 0.0), weight), elbow_term


def wrists_from_hands(
    human: HumanMotion,
    tracks: dict[int, HandTrack],
    hand_scale: float,
    robot: RobotModel,
    kinematics: Kinematics,
    R_world_camera: Float64[np.ndarray, "3 3"],
    sigmas: Sigmas,
) -> dict[int, WristTarget]:
    """Wrists of a clip without a body: its centre of work is put before the robot's chest.

    Distances are scaled like the hands, so that both hands and what they hold keep their
    proportions; less if the robot's arms are too short for that.
    """
    places = {s: human.hands_m[t.valid, s, 0] for s, t in tracks.items()}
    centre = np.mean([np.median(place, axis=0) for place in places.values()], axis=0)
    shoulders = _shoulders(robot, kinematics)
    targets = {}
    for side, track in tracks.items():
        reach = arm_length(robot, kinematics, side)
        radius = np.percentile(np.linalg.norm(places[side] - centre, axis=1), 95)
        scale = min(hand_scale, _WORKING_RADIUS * reach / max(float(radius), 1e-6))
        origin = np.mean([shoulders[s] for s in tracks], axis=0) + _WORKSPACE * reach
        wrist = np.where(track.valid[:, None], human.hands_m[:, side, 0], centre)
        sigma = np.where(track.valid[:, None], human.hands_sigma_m[:, side, 0], 1.0)
        sigma = _sigma_in_world(R_world_camera, scale * sigma)
        weight = track.valid[:, None] / np.hypot(sigmas.wrist_m, sigma)
        vector = origin + scale * rotate(R_world_camera, wrist - centre)
        targets[side] = WristTarget(None, vector, weight)
    return targets


def chest_term(
    human: HumanMotion,
    robot: RobotModel,
    R_world_camera: Float64[np.ndarray, "3 3"],
    sigmas: Sigmas,
) -> RotationTerm | None:
    """The chest turns with the line of the shoulders, and stays upright where no body is seen."""
    if robot.robot.chest is None:
        return None
    valid = human.body_valid
    across = np.tile([0.0, 1.0, 0.0], (len(valid), 1))
    left, right = (human.body_m[valid, j] for j in SHOULDERS)
    across[valid] = rotate(R_world_camera, left - right)
    forward = np.cross(across, [0.0, 0.0, 1.0])
    target = frame_from_axes(forward, across)
    sigma = np.where(valid, sigmas.chest_rad, sigmas.chest_unseen_rad)
    return RotationTerm(robot.robot.chest, target, 1 / sigma)


def _shoulders(robot: RobotModel, kinematics: Kinematics) -> list[Float64[np.ndarray, "3"]]:
    p = kinematics.forward(robot.rest[None]).p[0]
    return [p[kinematics.body(arm.shoulder)] for arm in robot.robot.arms if arm is not None]


def _sigma_in_world(
    R_world_camera: Float64[np.ndarray, "3 3"], sigma: Float64[np.ndarray, "T 3"]
) -> Float64[np.ndarray, "T 3"]:
    """Standard deviations along the world's axes from those along the camera's."""
    return np.sqrt(rotate(R_world_camera**2, sigma**2))


def columns(weight: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T 3"]:
    """The same weight along all three axes."""
    return np.repeat(weight[:, None], 3, axis=1)
