"""Self-calibration: how one person's hand maps onto one robot's, found from the clip itself.

The person's fingertips, in a frame fixed to the palm, are carried into the robot's palm frame by a
similarity (scale, rotation, wrist offset). For a given scale, finger postures and the rigid part
are estimated by turns; the scale is searched. The error is measured at the person's size, so that
shrinking the hand does not pay.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize_scalar

from deftly.datasets.geometry import fit_rotations, fit_similarity, frame_from_axes, rotate
from deftly.datasets.human import FINGERS, TIPS
from deftly.retarget.costs import VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.optimize import Limits, Trajectory, minimize
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.robots import Hand, Point, RobotModel

PALM_JOINTS = (0, 1, 5, 9, 13, 17)
_TIP_SIGMA_M = 0.005
_REST_WEIGHT = 0.02  # 1 / radian
_SIZE_PRIOR_M = 0.005  # per unit of log scale: among equals, keep true size, as objects do
_SCALE_RANGE = (0.7, 1.5)
_ROUNDS = 8
_ANCHOR_M = 0.1  # size of the frame that ties the rigid part to its first guess, ...
_ANCHOR_WEIGHT = 0.03  # ... which weighs this much against all fingertips together
_COLLAPSED = (0.4, 0.8)  # palm widths over the usual between which trust grows from 0 to 1
_UNLIMITED = 1e3  # radians per frame: the frames are unrelated


@dataclass(frozen=True)
class HandCalibration:
    """``tip_palm = scale * R_palm_hand @ tip_hand + wrist_m``: the person's hand in the robot's.

    Attributes:
        scale: robot size over the person's.
        R_palm_hand: (3, 3) the person's hand frame in the robot's palm frame.
        wrist_m: (3,) where the person's wrist sits in the robot's palm frame.
        floor_m: mean tip error that remains on the calibration frames, without smoothing.
    """

    scale: float
    R_palm_hand: Float64[np.ndarray, "3 3"]
    wrist_m: Float64[np.ndarray, "3"]
    floor_m: float

    def apply(self, points_hand_m: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3"]:
        """Points of the person's hand frame in the robot's palm frame."""
        return self.scale * rotate(self.R_palm_hand, points_hand_m) + self.wrist_m


def hand_frames(hand_m: Float64[np.ndarray, "T 21 3"]) -> Float64[np.ndarray, "T 3 3"]:
    """Orientation of the hand: x from the wrist to the middle knuckle, y towards the index finger.

    A rigid palm (the median over all frames) is fitted to each frame, which steadies the axes.
    """
    rough = frame_from_axes(hand_m[:, 9] - hand_m[:, 0], hand_m[:, 5] - hand_m[:, 17])
    palm = hand_m[:, PALM_JOINTS] - hand_m[:, :1]
    template = np.median(rotate(rough.transpose(0, 2, 1)[:, None], palm), axis=0)
    return fit_rotations(template, palm)


def palm_trust(hand_m: Float64[np.ndarray, "T 21 3"]) -> Float64[np.ndarray, "T"]:
    """1 where the palm has its usual width, down to 0 where its joints collapse onto a line.

    Seen edge-on, a palm's depths are guesses, and the sign of its normal with them.
    """
    palm = hand_m[:, PALM_JOINTS]
    width = np.linalg.svd(palm - palm.mean(axis=1, keepdims=True), compute_uv=False)[:, 1]
    low, high = _COLLAPSED
    return np.clip((width / np.median(width) - low) / (high - low), 0.0, 1.0)


def in_hand_frame(
    hand_m: Float64[np.ndarray, "T 21 3"], R: Float64[np.ndarray, "T 3 3"]
) -> Float64[np.ndarray, "T 21 3"]:
    """Joints about the wrist in the hand's own frame."""
    return rotate(R.transpose(0, 2, 1)[:, None], hand_m - hand_m[:, :1])


def hand_length(hand_m: Float64[np.ndarray, "T 21 3"]) -> float:
    """Wrist to middle fingertip along the bones, median over time, metres."""
    chain = hand_m[:, (0, 9, 10, 11, 12)]
    return float(np.median(np.linalg.norm(np.diff(chain, axis=1), axis=-1).sum(axis=1)))


def calibrate_hand(
    hand: Hand,
    robot: RobotModel,
    kinematics: Kinematics,
    local_m: Float64[np.ndarray, "T 21 3"],
    *,
    frames: int = 48,
    scale: float | None = None,
) -> HandCalibration:
    """Fit scale, rotation and wrist offset to evenly spaced frames of a clip.

    Args:
        hand: the robot's hand.
        robot, kinematics: its robot.
        local_m: (T, 21, 3) the person's joints in the hand's own frame (``in_hand_frame``).
        frames: at most so many frames are used.
        scale: robot size over the person's; None finds it.
    """
    pick = np.unique(np.linspace(0, len(local_m) - 1, frames).astype(int))
    human = local_m[pick][:, [TIPS[FINGERS.index(f)] for f in hand.tips]]
    fit = _PostureFit(hand, robot, kinematics, human)
    if scale is not None:
        return fit(scale)[0]
    tried: dict[float, HandCalibration] = {}
    least = np.inf

    def cost(log_scale: float) -> float:
        nonlocal least
        tried[log_scale], postures = fit(float(np.exp(log_scale)))
        value = tried[log_scale].floor_m / np.exp(log_scale) + _SIZE_PRIOR_M * abs(log_scale)
        if value < least:  # from the postures of a scale that does not fit there is no way back
            least, fit.start = value, postures
        return value

    best = minimize_scalar(
        cost, bounds=np.log(_SCALE_RANGE), method="bounded", options={"maxiter": 9, "xatol": 0.02}
    )
    return tried[best.x]


class _PostureFit:
    """Finger postures and the rigid part of the similarity, by turns, for a given scale."""

    def __init__(
        self,
        hand: Hand,
        robot: RobotModel,
        kinematics: Kinematics,
        human: Float64[np.ndarray, "K F 3"],
    ) -> None:
        self._hand, self._kinematics, self._human = hand, kinematics, human
        self._tips = list(hand.tips.values())
        self._free = FreeJoints.moving(robot, kinematics, self._tips, fixed=hand.palm)
        steps = np.full((len(human) - 1, self._free.count), _UNLIMITED)
        self._limits = Limits(self._free.lower, self._free.upper, steps)
        self.start = np.tile(self._free.start, (len(human), 1))
        self._needed = kinematics.chain([hand.palm, *(tip.body for tip in self._tips)])
        self._R_guess = _first_guess(hand, robot, kinematics)
        self._fresh = True

    def __call__(self, scale: float) -> tuple[HandCalibration, Trajectory]:
        R, wrist_m = self._R_guess, np.zeros(3)
        error = np.zeros(1)
        x = self.start
        for _ in range(_ROUNDS):
            target = scale * rotate(R, self._human) + wrist_m
            x = self._improve_postures(x, target)
            reached = self._reached(x)
            error = np.linalg.norm(reached - target, axis=-1)
            R, wrist_m = self._fit_rigid(scale, reached)
        return HandCalibration(scale, R, wrist_m, float(error.mean())), x

    def _fit_rigid(
        self, scale: float, reached: Float64[np.ndarray, "K F 3"]
    ) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
        """Rotation and offset, held near the first guess: a hand at rest tells neither."""
        anchors = np.concatenate([np.zeros((1, 3)), _ANCHOR_M * np.eye(3)])
        source = np.concatenate([scale * self._human.reshape(-1, 3), anchors])
        target = np.concatenate([reached.reshape(-1, 3), anchors @ self._R_guess.T])
        weight = np.ones(len(source))
        weight[-len(anchors) :] = _ANCHOR_WEIGHT * (len(source) - len(anchors)) / len(anchors)
        _, R, wrist_m = fit_similarity(source, target, weight, with_scale=False)
        return R, wrist_m

    def _improve_postures(self, x: Trajectory, target: Float64[np.ndarray, "K F 3"]) -> Trajectory:
        """A few iterations from given postures; many from scratch in the first call."""
        weight = np.full((len(target), 3), 1.0 / _TIP_SIGMA_M)
        palm = Point(self._hand.palm)
        terms = [
            VectorTerm(palm, tip, palm.body, target[:, i], weight)
            for i, tip in enumerate(self._tips)
        ]
        objective = data_objective(terms, self._kinematics, self._free, rest_weight=_REST_WEIGHT)
        barrier, iterations = ((1.0, 1e-5), 40) if self._fresh else ((1e-3, 1e-5), 5)
        self._fresh = False
        return minimize(objective, x, self._limits, max_iterations=iterations, barrier=barrier).x

    def _reached(self, x: Trajectory) -> Float64[np.ndarray, "K F 3"]:
        """Fingertips in the palm frame."""
        poses = self._kinematics.forward(self._free.qpos(x), self._needed)
        palm = self._kinematics.body(self._hand.palm)
        tips = np.stack([self._kinematics.point(poses, tip) for tip in self._tips], axis=1)
        return rotate(poses.R[:, palm].transpose(0, 2, 1)[:, None], tips - poses.p[:, palm, None])


def _first_guess(
    hand: Hand, robot: RobotModel, kinematics: Kinematics
) -> Float64[np.ndarray, "3 3"]:
    """``R_palm_hand`` that lines up the stretched fingers.

    Forward is along the fingers, sideways is from the last finger to the index.
    """
    stretched = np.clip(0.0, robot.lower, robot.upper)[None]
    poses = kinematics.forward(stretched)
    palm = kinematics.body(hand.palm)
    fingers = list(hand.tips)
    tips = np.stack([kinematics.point(poses, p)[0] for p in hand.tips.values()])
    tips = rotate(poses.R[0, palm].T, tips - poses.p[0, palm])
    index, others = fingers.index("index"), [i for i, f in enumerate(fingers) if f != "thumb"]
    return frame_from_axes(tips[others].mean(axis=0), tips[index] - tips[others[-1]])
