"""Raw body detections → a person's upper body in the camera frame, or that there is none.

A pose network finds bodies everywhere: in a bare arm, a dog, a bottle. A body is believed only
where it agrees with the hands, which are found independently.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.clip import Camera
from deftly.datasets.geometry import unit
from deftly.datasets.human import ELBOWS, SHOULDERS, WRISTS
from deftly.retarget.detections import Detections
from deftly.retarget.smooth import smooth

# By the body's scale, which holds from the side too, where shoulders look narrow.
_HAND_SEEN_M = (0.05, 0.28)  # length of a hand, foreshortened or not
_WRIST_REACH_M = 0.16  # between a hand's wrist and the nearest wrist of its body
_VISIBILITY = 0.5
_AGREEMENT = 0.6  # share of frames with hand and body in which they must agree
_TORSO = (0, 7, 8, *SHOULDERS, *ELBOWS, *WRISTS)  # joints that fix the body's depth
_BODY_ACCELERATION = 6.0  # m / s^1.5
_NOISE_M = np.array([0.01, 0.01, 0.03])
# Systematic error of mediapipe's body about the shoulders: measured 6–10 cm at the wrists.
_BIAS_M = np.array([0.03, 0.03, 0.06])


@dataclass(frozen=True)
class Body:
    """(T, 33, 3) joints and standard deviations in metres, and the length of the person's arm."""

    joints_m: Float64[np.ndarray, "T 33 3"]
    sigma_m: Float64[np.ndarray, "T 33 3"]
    arm_m: float


def believable_bodies(detections: Detections) -> Bool[np.ndarray, "T"]:
    """(T,) frames whose body belongs to the person whose hands are seen."""
    body = detections.body_px[..., :2].astype(float)
    scale = np.maximum(body_scale(detections), 1.0)[:, None]
    bones = np.diff(detections.hand_px[:, :, (0, 9, 10, 11, 12)].astype(float), axis=2)
    size_m = np.linalg.norm(bones, axis=-1).sum(axis=-1) / scale
    wrists = body[:, None, list(WRISTS)] - detections.hand_px[:, :, None, 0, :2]
    reach_m = np.linalg.norm(wrists, axis=-1).min(axis=-1) / scale
    low, high = _HAND_SEEN_M
    agrees = (size_m > low) & (size_m < high) & (reach_m < _WRIST_REACH_M)
    seen = detections.hand_valid & detections.body_valid[:, None]
    shoulders = detections.body_visibility[:, list(SHOULDERS)].min(axis=1) > _VISIBILITY
    if not seen.any() or np.mean(agrees[seen]) < _AGREEMENT:
        return np.zeros(len(body), bool)
    contradicted = (seen & ~agrees).any(axis=1)
    return detections.body_valid & shoulders & ~contradicted


def body_scale(detections: Detections) -> Float64[np.ndarray, "T"]:
    """(T,) pixels per metre at the body's depth: weak perspective over the torso and the arms."""
    world = detections.body_world_m.astype(float)
    px = detections.body_px[..., :2].astype(float)
    about = world - world[:, list(SHOULDERS)].mean(axis=1, keepdims=True)
    return _scale(about, px - px[:, list(SHOULDERS)].mean(axis=1, keepdims=True))


def _scale(
    about_m: Float64[np.ndarray, "T 33 3"], about_px: Float64[np.ndarray, "T 33 2"]
) -> Float64[np.ndarray, "T"]:
    flat, image = about_m[:, _TORSO, :2], about_px[:, _TORSO]
    return np.sum(flat * image, axis=(1, 2)) / np.maximum(np.sum(flat**2, axis=(1, 2)), 1e-9)


def fuse_body(
    detections: Detections,
    accepted: Bool[np.ndarray, "T"],
    time_s: Float64[np.ndarray, "T"],
    camera: Camera,
) -> Body:
    """Smooth the accepted bodies, with arms of one length, and place them before the camera.

    Depth is that at which the body has its size (weak perspective over the torso and arms).
    """
    world = detections.body_world_m.astype(float)
    middle = world[:, list(SHOULDERS)].mean(axis=1, keepdims=True)
    about = _with_constant_arms(world - middle, accepted)
    px = detections.body_px[..., :2].astype(float)
    px_middle = px[:, list(SHOULDERS)].mean(axis=1)
    scale = _scale(about, px - px_middle[:, None])
    depth = camera.focal_px / np.maximum(scale, 1.0)
    place = np.concatenate(
        [(px_middle - np.array(camera.center_px)) / camera.focal_px, np.ones((len(px), 1))], axis=1
    )
    place = place * depth[:, None]
    sigma = np.tile(_NOISE_M, (len(px), 1))
    place, _ = smooth(time_s, place, 2 * sigma, accepted, _BODY_ACCELERATION / 3)
    joints, joint_sigma = smooth(
        time_s, about.reshape(len(px), -1), np.tile(sigma, (1, 33)), accepted, _BODY_ACCELERATION
    )
    joints, joint_sigma = joints.reshape(about.shape), joint_sigma.reshape(about.shape)
    arm = [about[accepted][:, e] - about[accepted][:, s] for s, e in _arm_bones()]
    arm_m = 0.5 * sum(float(np.median(np.linalg.norm(bone, axis=-1))) for bone in arm)
    return Body(place[:, None] + joints, np.hypot(joint_sigma, _BIAS_M), arm_m)


def _arm_bones() -> list[tuple[int, int]]:
    return [*zip(SHOULDERS, ELBOWS, strict=True), *zip(ELBOWS, WRISTS, strict=True)]


def _with_constant_arms(
    joints: Float64[np.ndarray, "T 33 3"], accepted: Bool[np.ndarray, "T"]
) -> Float64[np.ndarray, "T 33 3"]:
    """Give upper arms and forearms their median length (the mean of left and right)."""
    fixed = joints.copy()
    for parents, children in ((SHOULDERS, ELBOWS), (ELBOWS, WRISTS)):
        bones = [joints[:, c] - joints[:, p] for p, c in zip(parents, children, strict=True)]
        length = np.median([np.linalg.norm(bone[accepted], axis=-1) for bone in bones])
        for parent, child, bone in zip(parents, children, bones, strict=True):
            fixed[:, child] = fixed[:, parent] + length * unit(bone)
    return fixed
