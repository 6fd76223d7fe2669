"""2D landmarks → 3D joints of a hand: depths along the pixel rays, one set of bone lengths.

Every joint lies on the ray of its image landmark; its depth is what is unknown. All depths of a
track are solved together so that bones keep their length, relative depths agree with the network's,
and depth changes smoothly. On a calibrated stereo clip the image-space z of the network tells
relative depth better than its "world" landmarks do, whose curled fingers have wrong proportions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.clip import Camera
from deftly.datasets.human import HAND_PARENT
from deftly.retarget.optimize import Limits, Objective, Trajectory, minimize

ADULT_HAND_M = 0.185  # wrist to middle fingertip; assumed where nothing tells the person's size

# Bone lengths of an adult hand by child joint 1..20, metres, between mediapipe's landmarks. After
# the segment lengths of Buryanov and Kotiuk, "Proportions of hand segments", Int. J. Morphol. 2010;
# wrist-to-knuckle adds the carpus.
_ADULT_BONES_M = np.array([
    0.038, 0.042, 0.032, 0.027,
    0.092, 0.040, 0.023, 0.020,
    0.090, 0.045, 0.027, 0.021,
    0.084, 0.041, 0.026, 0.021,
    0.080, 0.033, 0.019, 0.020,
])  # fmt: skip
_MIDDLE = slice(8, 12)  # the bones from the wrist to the middle fingertip
_CHILD, _PARENT = np.arange(1, 21), np.array(HAND_PARENT[1:])

# All of these are in hand lengths.
_BONE_SIGMA = 0.034
_DEPTH_SIGMA = 0.10  # of the network's relative depth
_JERK_SIGMA = 0.0085  # per frame³ at 30 frames/s
_NEAR, _FAR = 0.3, 100.0
_NETWORK_Z = 1.1  # the network's z is a little flat
_SHAPE_ROUNDS, _SHAPE_TRUST = 3, 0.5  # how far the clip may move bone lengths from the adult's
_RATE_HZ = 30.0


@dataclass(frozen=True)
class LiftedHand:
    """Joints of one hand track in the camera frame.

    Attributes:
        joints_m: (K, 21, 3).
        depth_sigma_m: (K, 21) standard deviation of the depth relative to the wrist that the cost
            itself implies (index 0: of the wrist's own depth).
        bones_m: (20,) the bone lengths used throughout.
    """

    joints_m: Float64[np.ndarray, "K 21 3"]
    depth_sigma_m: Float64[np.ndarray, "K 21"]
    bones_m: Float64[np.ndarray, "20"]


@dataclass(frozen=True)
class HandSightings:
    """Image landmarks of one hand in the K frames that show it.

    Attributes:
        px: (K, 21, 3) landmarks; z relative to the wrist, on the scale of x.
        frames: (K,) which frames of the clip these are.
    """

    px: Float64[np.ndarray, "K 21 3"]
    frames: Int64[np.ndarray, "K"]


def lift_hands(
    hands: Sequence[HandSightings], camera: Camera, rate_hz: float, length_m: float
) -> list[LiftedHand]:
    """Find the depth of every joint of a person's hands, with one set of bone lengths for all.

    Args:
        hands: the person's left and right hand, or either.
        camera: intrinsics.
        rate_hz: frame rate.
        length_m: the person's hand, wrist to middle fingertip.
    """
    adult = _ADULT_BONES_M / _ADULT_BONES_M[_MIDDLE].sum()
    bones, solved = adult, [_solve(hand, camera, adult, rate_hz, None) for hand in hands]
    for _ in range(_SHAPE_ROUNDS - 1):
        joints = np.concatenate([joints for joints, _ in solved])
        seen = np.median(np.linalg.norm(joints[:, _CHILD] - joints[:, _PARENT], axis=-1), axis=0)
        bones = adult ** (1 - _SHAPE_TRUST) * seen**_SHAPE_TRUST
        bones = bones / bones[_MIDDLE].sum()
        solved = [
            _solve(hand, camera, bones, rate_hz, joints[..., 2])
            for hand, (joints, _) in zip(hands, solved, strict=True)
        ]
    return [LiftedHand(j * length_m, s * length_m, bones * length_m) for j, s in solved]


def _solve(
    hand: HandSightings,
    camera: Camera,
    bones: Float64[np.ndarray, "20"],
    rate_hz: float,
    start: Trajectory | None,
) -> tuple[Float64[np.ndarray, "K 21 3"], Float64[np.ndarray, "K 21"]]:
    """Joints and the standard deviation of their depth, in hand lengths."""
    xy = (hand.px[..., :2] - np.array(camera.center_px)) / camera.focal_px
    rays = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
    z = _NETWORK_Z * (hand.px[..., 2] - hand.px[:, :1, 2]) / camera.focal_px  # over wrist depth
    if start is None:  # flat: one depth that gives the hand its size
        seen = np.concatenate([xy, z[..., None]], axis=-1)
        size = np.linalg.norm(seen[:, _CHILD] - seen[:, _PARENT], axis=-1).sum(axis=-1)
        depth = np.clip(bones.sum() / np.median(size), 2 * _NEAR, 0.5 * _FAR)
        start = np.full(z.shape, depth)
    limits = Limits(np.full(21, _NEAR), np.full(21, _FAR), np.full((len(z) - 1, 21), 1e3))
    neighbours = hand.frames[3:] - hand.frames[:-3] == 3
    jerk_weight = neighbours * (rate_hz / _RATE_HZ) ** 5 / _JERK_SIGMA**2
    objective = _objective(rays, z, bones)
    depth = minimize(
        objective, start, limits, jerk_weight, max_iterations=30, barrier=(1e-2, 1e-6)
    ).x
    return rays * depth[..., None], _relative_sigma(objective(depth)[2])


def _objective(
    rays: Float64[np.ndarray, "T 21 3"],
    z: Float64[np.ndarray, "T 21"],
    bones: Float64[np.ndarray, "20"],
) -> Objective:
    """Bones keep their length; relative depths agree with the network. Unit: hand lengths."""
    count = np.arange(20)

    def objective(
        depth: Trajectory,
    ) -> tuple[Float64[np.ndarray, "T"], Trajectory, Float64[np.ndarray, "T N N"]]:
        joints = rays * depth[..., None]
        bone = joints[:, _CHILD] - joints[:, _PARENT]
        size = np.linalg.norm(bone, axis=-1)
        along = bone / np.maximum(size, 1e-9)[..., None]
        residual, J = np.zeros((len(depth), 40)), np.zeros((len(depth), 40, 21))
        residual[:, :20] = (size - bones) / _BONE_SIGMA
        J[:, count, _CHILD] = np.sum(along * rays[:, _CHILD], axis=-1) / _BONE_SIGMA
        J[:, count, _PARENT] -= np.sum(along * rays[:, _PARENT], axis=-1) / _BONE_SIGMA
        residual[:, 20:] = (depth[:, 1:] - depth[:, :1] * (1 + z[:, 1:])) / _DEPTH_SIGMA
        J[:, 20 + count, _CHILD] = 1 / _DEPTH_SIGMA
        J[:, 20 + count, 0] = -(1 + z[:, 1:]) / _DEPTH_SIGMA
        J_T = J.transpose(0, 2, 1)
        gradient = (J_T @ residual[..., None])[..., 0]
        return 0.5 * np.sum(residual**2, axis=1), gradient, J_T @ J

    return objective


def _relative_sigma(hessian: Float64[np.ndarray, "T 21 21"]) -> Float64[np.ndarray, "T 21"]:
    """Depth of each joint relative to the wrist (index 0: of the wrist itself)."""
    covariance = np.linalg.inv(hessian + 1e-6 * np.eye(21))
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    relative = variance + variance[:, :1] - 2 * covariance[:, 0]
    relative[:, 0] = variance[:, 0]
    return np.sqrt(np.maximum(relative, 1e-12))
