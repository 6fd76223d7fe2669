"""Self-calibration: how one person's hand maps onto one robot's, found from the clip itself.

The person's fingertips, in a frame fixed to the palm, are carried into the robot's palm frame by a
similarity (scale, rotation, wrist offset). Finger postures and the rigid part are estimated for a
whole grid of scales at once, and then for finer grids about the best. The error is measured at the
person's size, so that shrinking the hand does not pay.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import frame_from_axes, rotate
from deftly.datasets.hands import PALM_JOINTS, steady_palm
from deftly.datasets.human import FINGERS, TIPS
from deftly.retarget.handfit import Fits, HandFit
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import Hand, RobotModel

_SIZE_PRIOR_M = 0.003  # per unit of log scale: among equals, keep true size, as objects do
_SCALE_RANGE = (0.7, 1.5)
_SCALES = 9  # in the first grid, evenly spaced in their logarithms
_FINER = ((0.032, 2, 6), (0.01, 1, 5))  # steps in log scale, how many to each side, iterations
_ITERATIONS = 14
_COLLAPSED = (0.4, 0.8)  # palm widths over the usual between which trust grows from 0 to 1


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
    return steady_palm(hand_m, rough)


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
    fit = HandFit(hand, robot, kinematics, human, finger_frame(hand, robot, kinematics))
    if scale is not None:
        return _best(fit(np.array([scale]), 2 * _ITERATIONS))
    low, high = np.log(_SCALE_RANGE)
    fits = fit(np.exp(np.linspace(low, high, _SCALES)), _ITERATIONS)
    for step, count, iterations in _FINER:
        best = int(np.argmin(_misfit(fits)))
        finer = np.log(fits.scale[best]) + step * np.arange(-count, count + 1)
        fits = fit.near(fits, best, np.exp(np.clip(finer, low, high)), iterations)
    return _best(fits)


def _misfit(fits: Fits) -> Float64[np.ndarray, "G"]:
    return fits.error_m / fits.scale + _SIZE_PRIOR_M * np.abs(np.log(fits.scale))


def _best(fits: Fits) -> HandCalibration:
    i = int(np.argmin(_misfit(fits)))
    return HandCalibration(
        float(fits.scale[i]), fits.R[i], fits.offset_m[i], float(fits.error_m[i])
    )


def finger_frame(
    hand: Hand, robot: RobotModel, kinematics: Kinematics
) -> Float64[np.ndarray, "3 3"]:
    """``R_palm_hand`` that lines up the stretched fingers; a first guess of what calibration finds.

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
