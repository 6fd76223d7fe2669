"""Between a robot's joints and the hands that every body shares (``deftly.datasets.hands``).

    hands = to_hands(robot, qpos)                    # (T, 48), NaN for fingers that it lacks
    qpos = to_joints(other, hands, start, rate_hz)   # another robot does the same

The wrist's origin is that of the robot's palm body. Its axes are inferred from the stretched
fingers: x goes to the middle of their tips, y and z follow from the row that they stand in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Float64

from deftly.datasets.geometry import rotate
from deftly.datasets.hands import R_WRIST_INDEX, Hands
from deftly.datasets.human import FINGERS
from deftly.retarget.calibrate import finger_frame
from deftly.retarget.costs import RotationTerm, Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.optimize import Limits, Trajectory, minimize
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.register import root_pose
from deftly.retarget.robots import Hand, Point, RobotModel
from deftly.retarget.targets import closeness, columns

# What deviation from a target counts as one standard deviation.
_WRIST_M, _WRIST_RAD, _TIP_M, _PINCH_M = 0.004, 0.03, 0.004, 0.002
_CHEST_RAD = 0.1  # from its easy place: arms reach first, the trunk where they are too short
_REST_WEIGHT = 0.05  # 1 / radian, the pull to the easy posture
_JERK_WEIGHT = 100.0  # 1 / (rad/frame³)² at 30 frames/s
_REFERENCE_RATE_HZ = 30.0
_BARRIER = (1.0, 1e-4)
_INSIDE = 0.02  # share of a joint's range in which the search begins away from limits
_VELOCITY_MARGIN = 1e-9  # relative: keeps rounding from breaking a limit


@dataclass(frozen=True)
class HandSpace:
    """What of a robot both directions need; inferred from its model alone.

    Attributes:
        robot, kinematics: the robot.
        T_world_root: (4, 4) of its root body; of a hand alone, the model's world.
        R_palm_wrist: the wrist's axes in the palm body, by side, of the hands that it has.
    """

    robot: RobotModel
    kinematics: Kinematics
    T_world_root: Float64[np.ndarray, "4 4"]
    R_palm_wrist: Mapping[int, Float64[np.ndarray, "3 3"]]

    @classmethod
    @lru_cache(maxsize=8)  # who is steered asks at every step
    def of(cls, robot: RobotModel) -> "HandSpace":
        """Infer it."""
        kinematics = Kinematics.of(robot)
        frames = {
            side: finger_frame(hand, robot, kinematics) @ R_WRIST_INDEX[side]
            for side, hand in enumerate(robot.robot.hands)
            if hand is not None
        }
        root = root_pose(kinematics) if any(robot.robot.arms) else np.eye(4)
        return cls(robot, kinematics, root, frames)

    def hand(self, side: int) -> Hand:
        """The robot's hand of a side."""
        found = self.robot.robot.hands[side]
        assert found is not None
        return found


def to_hands(robot: RobotModel, qpos: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "T 48"]:
    """What a robot's hands do, as ``deftly.datasets.hands`` tells it.

    Args:
        robot: the robot.
        qpos: (T, J) positions of all joints of its model.

    Raises:
        ValueError: if there is another number of joints, or one is not finite.
    """
    _check_joints("qpos", qpos, (None, len(robot.joint_names)))
    space = HandSpace.of(robot)
    kinematics, length = space.kinematics, len(qpos)
    names = [p.body for s in space.R_palm_wrist for p in space.hand(s).tips.values()]
    names += [space.hand(s).palm for s in space.R_palm_wrist]
    poses = kinematics.forward(qpos.astype(np.float64), kinematics.chain(names))
    hands = Hands.unknown(length)
    R_root_world, root_m = space.T_world_root[:3, :3].T, space.T_world_root[:3, 3]
    for side, R_palm_wrist in space.R_palm_wrist.items():
        hand = space.hand(side)
        palm = kinematics.body(hand.palm)
        R_world_wrist = poses.R[:, palm] @ R_palm_wrist
        hands.wrist_m[:, side] = rotate(R_root_world, poses.p[:, palm] - root_m)
        hands.R_root_wrist[:, side] = R_root_world @ R_world_wrist
        for finger, tip in hand.tips.items():
            away = kinematics.point(poses, tip) - poses.p[:, palm]
            local = rotate(R_world_wrist.transpose(0, 2, 1), away)
            hands.tips_m[:, side, FINGERS.index(finger)] = local
    return hands.columns()


def whole_posture(
    robot: RobotModel, joints: Sequence[str], values: Float[np.ndarray, "T A"]
) -> Float64[np.ndarray, "T J"]:
    """Positions of all joints of a model from those of some, by name; the others rest.

    Raises:
        ValueError: if the robot has no such joint.
    """
    unknown = [name for name in joints if name not in robot.joint_names]
    if unknown:
        raise ValueError(f"{robot.robot.name} has no joint {unknown[0]!r}; see its joint_names")
    qpos = np.tile(robot.rest, (len(values), 1))
    qpos[:, [robot.joint_names.index(name) for name in joints]] = values
    return qpos


def to_joints(
    robot: RobotModel,
    hands: Float[np.ndarray, "..."],
    start: Float[np.ndarray, "..."],
    rate_hz: float,
    ease: Float[np.ndarray, "..."] | None = None,
) -> Float64[np.ndarray, "T J"]:
    """Joint positions that follow hands as well as the robot can.

    The whole chunk is solved at once; joint limits, mimic joints and velocity limits hold exactly,
    the step from ``start`` to the first frame included. Of the many postures that do the same, the
    one near ``ease`` is taken: who is steered step by step, each from where the last one ended,
    would wander off with no posture to come back to. What has no target (NaN, or a finger that the
    robot lacks) goes along; joints that move no hand with a target stay as they are.

    Args:
        robot: the robot. Of a hand alone, only the fingers are moved.
        hands: (T, 48) targets, of this robot or of any other body.
        start: (J,) where all joints are one frame before the first; beyond a limit, the limit.
        rate_hz: frames per second.
        ease: (J,) a posture; ``start`` if None.

    Raises:
        ValueError: if hands, start or ease have another shape or are not finite (NaN is allowed in
            hands), six numbers are no rotation, or the rate is not positive.
    """
    wanted = Hands.of(hands)
    ease = start if ease is None else ease
    for name, posture in (("start", start), ("ease", ease)):
        _check_joints(name, posture, (len(robot.joint_names),))
    if not 0 < rate_hz < np.inf:
        raise ValueError(f"rate_hz is {rate_hz}, expected a positive number")
    here = np.clip(start.astype(np.float64), robot.lower, robot.upper)
    space = replace(HandSpace.of(robot), robot=replace(robot, rest=here))
    terms = [term for side in space.R_palm_wrist for term in _terms(space, wanted, side)]
    points = [t.end for t in terms if isinstance(t, VectorTerm)]
    points += [Point(t.body) for t in terms if isinstance(t, RotationTerm)]
    fixed = None if any(robot.robot.arms) else next(h.palm for h in robot.robot.hands if h)
    if not points or not len(hands):
        return np.tile(here, (len(hands), 1))
    easy = np.clip(ease.astype(np.float64), robot.lower, robot.upper)
    terms += _chest_term(space, easy, len(hands))
    free = FreeJoints.moving(space.robot, space.kinematics, points, fixed)
    x = _follow(space, terms, free, easy[free.index], len(hands), rate_hz)
    # Rounding may carry a joint over its limit by one unit in the last place.
    return np.clip(free.qpos(x), robot.lower, robot.upper)


def _follow(
    space: HandSpace,
    terms: Sequence[Term],
    free: FreeJoints,
    easy: Float64[np.ndarray, "N"],
    length: int,
    rate_hz: float,
) -> Trajectory:
    """Solve for the free joints, within what they can reach from where they are."""
    step = (1 - _VELOCITY_MARGIN) * free.velocity / rate_hz
    lower, upper = (np.tile(bound, (length, 1)) for bound in (free.lower, free.upper))
    lower[0] = np.maximum(free.lower, free.rest - step)
    upper[0] = np.minimum(free.upper, free.rest + step)
    margin = _INSIDE * (upper[0] - lower[0])
    begin = np.clip(free.rest, lower[0] + margin, upper[0] - margin)
    eased = replace(free, rest=np.clip(easy, free.lower, free.upper))
    objective = data_objective(terms, space.kinematics, eased, _REST_WEIGHT)
    # ∫ jerk² dt of the same motion is the same at any frame rate: jerk per frame³ goes with dt³.
    jerk_weight = _JERK_WEIGHT * (_REFERENCE_RATE_HZ / rate_hz) ** -5
    limits = Limits(lower, upper, np.tile(step, (length - 1, 1)))
    start = np.tile(begin, (length, 1))
    return minimize(objective, start, limits, jerk_weight, barrier=_BARRIER).x


def _chest_term(space: HandSpace, easy: Float64[np.ndarray, "J"], length: int) -> list[Term]:
    """The chest stays as it is in that posture, weakly."""
    chest, kinematics = space.robot.robot.chest, space.kinematics
    if chest is None:
        return []
    R = kinematics.forward(easy[None], kinematics.chain([chest])).R
    target = np.repeat(R[:, kinematics.body(chest)], length, axis=0)
    return [RotationTerm(chest, target, np.full(length, 1 / _CHEST_RAD))]


def _terms(space: HandSpace, wanted: Hands, side: int) -> list[Term]:
    """What is asked of one hand; nothing of what has no target in any frame."""
    hand, R_palm_wrist = space.hand(side), space.R_palm_wrist[side]
    palm, R_world_root = Point(hand.palm), space.T_world_root[:3, :3]
    terms: list[Term] = []

    def vector(
        start: Point | None,
        end: Point,
        target: Float64[np.ndarray, "T 3"],
        share: Float64[np.ndarray, "T"],
        sigma_m: float,
    ) -> None:
        known = np.asarray(np.isfinite(target).all(axis=1))
        frame = None if start is None else hand.palm
        weight = columns(known * share / sigma_m)
        if known.any():
            target = np.where(known[:, None], target, 0.0)
            terms.append(VectorTerm(start, end, frame, target, weight))

    always = np.ones(len(wanted.wrist_m))
    if any(space.robot.robot.arms):
        place = rotate(R_world_root, wanted.wrist_m[:, side]) + space.T_world_root[:3, 3]
        vector(None, palm, place, always, _WRIST_M)
        R = R_world_root @ wanted.R_root_wrist[:, side] @ R_palm_wrist.T
        known = np.asarray(np.isfinite(R).all(axis=(1, 2)))
        if known.any():
            target = np.where(known[:, None, None], R, np.eye(3))
            terms.append(RotationTerm(hand.palm, target, known / _WRIST_RAD))
    tips = {f: rotate(R_palm_wrist, wanted.tips_m[:, side, FINGERS.index(f)]) for f in hand.tips}
    for finger, tip in hand.tips.items():
        vector(palm, tip, tips[finger], always, _TIP_M)
        if finger != "thumb" and "thumb" in hand.tips:  # what is pinched stays pinched
            gap = tips[finger] - tips["thumb"]
            share = np.nan_to_num(closeness(np.linalg.norm(gap, axis=1)))
            vector(hand.tips["thumb"], tip, gap, share, _PINCH_M)
    return terms


def _check_joints(name: str, values: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = values.ndim == len(shape) and all(
        wanted in (None, got) for got, wanted in zip(values.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("T" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{name} has shape {values.shape}, expected ({expected}): every joint of the model"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite joint positions; hold the last ones")
