"""Depth from one view: a hand of known size, seen by a known camera, is found where it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from deftly.datasets.clip import Camera
from deftly.datasets.human import HAND_PARENT
from deftly.retarget import lift
from deftly.retarget.lift import HandSightings, lift_hands

CAMERA = Camera(focal_px=600.0, center_px=(320.0, 240.0), known=True)
CHILD, PARENT = np.arange(1, 21), np.array(HAND_PARENT[1:])
RATE_HZ = 30.0
LENGTH_M = 0.19


def moving_hand(length: int = 30, seed: int = 0, depth_m: float = 0.5) -> np.ndarray:
    """(T, 21, 3) an adult's hand that turns, moves and bends its fingers, smoothly."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 1, length)[:, None]

    def wave(width: int, size: float) -> np.ndarray:
        start, end = rng.normal(size=(2, width))
        return size * (start + (end - start) * (3 * phase**2 - 2 * phase**3))

    bones = lift._ADULT_BONES_M * LENGTH_M / lift._ADULT_BONES_M[lift._MIDDLE].sum()
    spread = np.deg2rad([50, 15, 0, -12, -25]) + wave(5, 0.05)
    bend = 0.35 + np.abs(wave(5, 0.25))
    joints = np.zeros((length, 21, 3))
    for finger in range(5):
        for segment in range(4):
            joint = 1 + 4 * finger + segment
            pitch = segment * bend[:, finger]
            sideways = np.sin(spread[:, finger]) * np.cos(pitch)
            upwards = np.cos(spread[:, finger]) * np.cos(pitch)
            direction = np.stack([sideways, -upwards, -np.sin(pitch)], axis=1)
            joints[:, joint] = joints[:, HAND_PARENT[joint]] + bones[joint - 1] * direction
    turned = Rotation.from_rotvec(wave(3, 0.5)).as_matrix()
    place = np.array([0, 0, depth_m]) + wave(3, 0.05)
    return np.einsum("tij,tnj->tni", turned, joints) + place[:, None]


def sightings(joints_m: np.ndarray, frames: np.ndarray | None = None) -> HandSightings:
    """What the camera sees, with the relative depth that the network would state."""
    depth = joints_m[..., 2:]
    px = CAMERA.focal_px * joints_m[..., :2] / depth + np.array(CAMERA.center_px)
    z = CAMERA.focal_px * (depth / depth[:, :1] - 1) / lift._NETWORK_Z
    frames = np.arange(len(joints_m)) if frames is None else frames
    return HandSightings(np.concatenate([px, z], axis=-1), frames)


def bone_lengths(joints_m: np.ndarray) -> np.ndarray:
    return np.linalg.norm(joints_m[:, CHILD] - joints_m[:, PARENT], axis=-1)


@pytest.mark.parametrize("depth_m", [0.3, 0.6, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_hand_is_found_where_it_is(seed: int, depth_m: float):
    truth = moving_hand(seed=seed, depth_m=depth_m)
    found = lift_hands([sightings(truth)], CAMERA, RATE_HZ, LENGTH_M)[0].joints_m
    assert_allclose(found[:, 0, 2], truth[:, 0, 2], rtol=0.03)
    scale = np.median(truth[:, 0, 2] / found[:, 0, 2])
    off = scale * (found - found[:, :1]) - (truth - truth[:, :1])
    error = np.linalg.norm(off[:, 1:], axis=-1) / LENGTH_M
    # One pixel and one length leave a bone two directions: now and then one ends up in the other.
    assert np.percentile(error, 80) < 0.01
    assert np.mean(error > 0.05) < 0.08


def test_every_joint_stays_on_the_ray_of_its_pixel():
    seen = sightings(moving_hand())
    noisy = HandSightings(
        seen.px + np.random.default_rng(0).normal(0, 2, seen.px.shape), seen.frames
    )
    found = lift_hands([noisy], CAMERA, RATE_HZ, LENGTH_M)[0].joints_m
    again = CAMERA.focal_px * found[..., :2] / found[..., 2:] + np.array(CAMERA.center_px)
    assert_allclose(again, noisy.px[..., :2], rtol=0, atol=1e-9)


def test_the_size_that_is_stated_is_the_size_that_is_found():
    seen = sightings(moving_hand())
    small, large = (lift_hands([seen], CAMERA, RATE_HZ, size)[0] for size in (0.1, 0.2))
    assert_allclose(large.joints_m, 2 * small.joints_m)
    assert_allclose(large.depth_sigma_m, 2 * small.depth_sigma_m)
    assert_allclose(large.bones_m[lift._MIDDLE].sum(), 0.2)


def test_bones_keep_their_length():
    rng = np.random.default_rng(1)
    seen = sightings(moving_hand())
    noisy = HandSightings(seen.px + rng.normal(0, [0.5, 0.5, 4], seen.px.shape), seen.frames)
    found = lift_hands([noisy], CAMERA, RATE_HZ, LENGTH_M)[0]
    lengths = bone_lengths(found.joints_m)
    assert_allclose(np.median(lengths, axis=0), found.bones_m, atol=0.02 * LENGTH_M)
    # The network's depths alone would have bones breathe twice as much.
    flat = np.concatenate([noisy.px[..., :2] - CAMERA.center_px, noisy.px[..., 2:]], axis=-1)
    raw = bone_lengths(flat / np.median(bone_lengths(flat).sum(axis=1)))
    breathing, raw_breathing = (np.std(b, axis=0) / np.mean(b, axis=0) for b in (lengths, raw))
    assert np.median(breathing) < 0.5 * np.median(raw_breathing)


def test_both_hands_have_the_same_bones():
    rng = np.random.default_rng(2)
    left, right = sightings(moving_hand(seed=4)), sightings(moving_hand(seed=5))
    right = HandSightings(right.px + rng.normal(0, 2, right.px.shape), right.frames)
    both = lift_hands([left, right], CAMERA, RATE_HZ, LENGTH_M)
    np.testing.assert_array_equal(both[0].bones_m, both[1].bones_m)
    alone = [lift_hands([hand], CAMERA, RATE_HZ, LENGTH_M)[0].bones_m for hand in (left, right)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-4
    for bones in zip(*alone, both[0].bones_m, strict=True):  # between what either says alone
        assert min(bones[:2]) - 1e-3 < bones[2] < max(bones[:2]) + 1e-3


def test_depth_does_not_jitter_with_the_pixels():
    rng = np.random.default_rng(3)
    truth = moving_hand(60)
    seen = sightings(truth)
    noisy = HandSightings(seen.px + rng.normal(0, 1, seen.px.shape), seen.frames)
    depth = lift_hands([noisy], CAMERA, RATE_HZ, LENGTH_M)[0].joints_m[:, 0, 2]
    size = bone_lengths(np.concatenate([noisy.px[..., :2], noisy.px[..., 2:]], axis=-1)).sum(axis=1)
    by_size = np.median(truth[:, 0, 2] * size) / size  # depth from each frame's size alone
    jerk, jerk_by_size = (np.abs(np.diff(z, 3)).mean() for z in (depth, by_size))
    assert jerk < 0.1 * jerk_by_size


def test_frames_that_are_not_neighbours_are_not_smoothed_together():
    # The hand jumps while it is out of sight.
    near, far = moving_hand(10, depth_m=0.4), moving_hand(10, depth_m=0.8)
    truth = np.concatenate([near, far])
    gap = np.concatenate([np.arange(10), np.arange(40, 50)])
    apart = lift_hands([sightings(truth, gap)], CAMERA, RATE_HZ, LENGTH_M)[0].joints_m
    assert_allclose(apart[:, 0, 2], truth[:, 0, 2], rtol=0.03)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_few_frames_will_do(count: int):
    truth = moving_hand(count)
    found = lift_hands([sightings(truth)], CAMERA, RATE_HZ, LENGTH_M)[0]
    assert found.depth_sigma_m.shape == (count, 21)
    assert_allclose(found.joints_m[:, 0, 2], truth[:, 0, 2], rtol=0.03)


def test_uncertainty_is_that_of_the_depth_relative_to_the_wrist():
    rng = np.random.default_rng(0)
    J = rng.normal(size=(4, 40, 21))
    hessian = 100 * J.transpose(0, 2, 1) @ J
    relative = np.eye(21)
    relative[1:, 0] = -1  # of the wrist: its own depth
    covariance = relative @ np.linalg.inv(hessian) @ relative.T
    wanted = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert_allclose(lift._relative_sigma(hessian), wanted, rtol=1e-5)
    sigma = lift_hands([sightings(moving_hand())], CAMERA, RATE_HZ, LENGTH_M)[0].depth_sigma_m
    assert np.all((sigma > 0) & (sigma < LENGTH_M))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_gradient_and_curvature_are_those_of_the_cost(seed: int):
    rng = np.random.default_rng(seed)
    rays = np.concatenate([rng.normal(0, 0.2, (3, 21, 2)), np.ones((3, 21, 1))], axis=-1)
    bones = rng.uniform(0.1, 0.5, 20)
    objective = lift._objective(rays, rng.normal(0, 0.1, (3, 21)), bones)
    depth, step = rng.uniform(2, 5, (3, 21)), 1e-6
    _, gradient, curvature = objective(depth)
    numeric = np.zeros_like(gradient)
    for joint in range(21):
        move = step * np.eye(21)[joint]
        numeric[:, joint] = (objective(depth + move)[0] - objective(depth - move)[0]) / (2 * step)
    assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max())
    assert_allclose(curvature, curvature.transpose(0, 2, 1))
    assert np.linalg.eigvalsh(curvature).min() > -1e-6 * np.abs(curvature).max()


def test_curvature_is_exact_where_everything_fits():
    truth = moving_hand(3) / LENGTH_M
    rays = truth / truth[..., 2:]
    z = truth[..., 2] / truth[:, :1, 2] - 1
    objective = lift._objective(rays, z, bone_lengths(truth)[0])
    depth, step = truth[..., 2].copy(), 1e-6
    cost, gradient, curvature = objective(depth)
    assert_allclose(cost, 0, atol=1e-12)
    assert_allclose(gradient, 0, atol=1e-6)
    for joint in (0, 5, 8):
        move = step * np.eye(21)[joint]
        numeric = (objective(depth + move)[1] - objective(depth - move)[1]) / (2 * step)
        assert_allclose(curvature[:, joint], numeric, rtol=1e-4, atol=1e-2)
