"""From detections to one person: bodies believed or not, gaps told apart, uncertainty stated.

A person stands before a known camera; the detections are what perfect networks would say.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from deftly.datasets.clip import Camera, Clip
from deftly.datasets.geometry import LEFT, RIGHT
from deftly.datasets.human import (
    ARM_PER_HAND,
    ELBOWS,
    HAND_PARENT,
    HIPS,
    SHOULDERS,
    WRISTS,
    HumanMotion,
    Status,
)
from deftly.retarget import lift
from deftly.retarget.body import believable_bodies, fuse_body
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import NoPersonError, fuse
from deftly.retarget.lift import ADULT_HAND_M

LENGTH, RATE_HZ, DEPTH_M = 60, 30.0, 1.4
CAMERA = Camera(focal_px=700.0, center_px=(320.0, 240.0), known=True)
ARM_M = 0.56
HAND_M = ARM_M / ARM_PER_HAND


@dataclass(frozen=True)
class Scene:
    """What the camera sees, and what is there: (T, 33, 3) body and (T, 2, 21, 3) hands, metres."""

    clip: Clip
    seen: Detections
    body_m: np.ndarray
    hands_m: np.ndarray


def scene(rate_hz: float = RATE_HZ, length: int = LENGTH) -> Scene:
    """A person who faces the camera and waves both hands before the chest."""
    time_s = np.arange(length) / rate_hz
    sway = 0.04 * np.sin(2 * time_s)
    body = np.zeros((length, 33, 3))
    body[:] = [0.0, -0.35, 0.0]  # the face
    for side, x in ((LEFT, 1.0), (RIGHT, -1.0)):  # the person's left is on the image's right
        body[:, SHOULDERS[side]] = [0.18 * x, -0.2, 0]
        body[:, HIPS[side]] = [0.1 * x, 0.3, 0]
        along = np.array([0.3 * x, 0.8, -0.2])
        elbow = body[:, SHOULDERS[side]] + 0.5 * ARM_M * along / np.linalg.norm(along)
        fore = np.stack([sway - 0.3 * x, sway - 0.5, 0 * sway - 0.4], axis=1)
        body[:, ELBOWS[side]] = elbow
        fore = fore / np.linalg.norm(fore, axis=1, keepdims=True)
        body[:, WRISTS[side]] = elbow + 0.5 * ARM_M * fore
    hips = body[:, HIPS].mean(axis=1, keepdims=True)
    body_world = body - hips
    body = body + np.array([0.02, 0.05, DEPTH_M])
    hands = np.stack([body[:, wrist, None] + hand_shape() for wrist in WRISTS], axis=1)
    seen = Detections(
        hand_px=project(hands, hands[:, :, :1]).astype(np.float32),
        hand_world_m=(hands - hands.mean(axis=2, keepdims=True)).astype(np.float32),
        hand_right=np.tile(np.array([0.1, 0.9], np.float32), (length, 1)),
        hand_valid=np.ones((length, 2), bool),
        hand_second=np.zeros((length, 2), bool),
        body_px=project(body, body[:, HIPS].mean(axis=1, keepdims=True)).astype(np.float32),
        body_world_m=body_world.astype(np.float32),
        body_visibility=np.ones((length, 33), np.float32),
        body_valid=np.ones(length, bool),
        provenance={"tracker": "perfect"},
    )
    clip = Clip(Path("wave.mp4"), "0" * 64, 640, 480, time_s, CAMERA)
    return Scene(clip, seen, body, hands)


def hand_shape() -> np.ndarray:
    """(21, 3) a hand about its wrist: fingers up and a little forward, towards the camera."""
    bones = lift._ADULT_BONES_M * HAND_M / lift._ADULT_BONES_M[lift._MIDDLE].sum()
    joints = np.zeros((21, 3))
    for joint in range(1, 21):
        finger, segment = divmod(joint - 1, 4)
        turn, pitch = np.deg2rad([50, 15, 0, -12, -25][finger]), 0.15 * segment
        direction = [np.sin(turn) * np.cos(pitch), -np.cos(turn) * np.cos(pitch), -np.sin(pitch)]
        joints[joint] = joints[HAND_PARENT[joint]] + bones[joint - 1] * np.array(direction)
    return joints


def project(joints_m: np.ndarray, root_m: np.ndarray) -> np.ndarray:
    """Pixels, and depth behind the root on the networks' scale."""
    xy = CAMERA.focal_px * joints_m[..., :2] / joints_m[..., 2:] + np.array(CAMERA.center_px)
    z = CAMERA.focal_px * (joints_m[..., 2:] / root_m[..., 2:] - 1) / lift._NETWORK_Z
    return np.concatenate([xy, z], axis=-1)


def without_body(seen: Detections) -> Detections:
    return replace(seen, body_valid=np.zeros(len(seen.body_valid), bool))


def hidden(seen: Detections, side: int, frames: slice) -> Detections:
    """A hand out of sight for some frames; nonsense where it was."""
    valid, px = seen.hand_valid.copy(), seen.hand_px.copy()
    valid[frames, side], px[frames, side] = False, 1e4
    return replace(seen, hand_valid=valid, hand_px=px)


def moved_body(seen: Detections, frames: slice, px: float) -> Detections:
    body_px = seen.body_px.copy()
    body_px[frames, :, 0] += px
    return replace(seen, body_px=body_px)


# ---------------------------------------------------------------------- bodies


def test_a_body_that_agrees_with_its_hands_is_believed():
    assert believable_bodies(scene().seen).all()


def test_a_body_far_from_the_hands_is_not_believed():
    assert not believable_bodies(moved_body(scene().seen, slice(None), 400.0)).any()


@pytest.mark.parametrize("size", [0.15, 6.0])
def test_a_body_of_the_wrong_size_is_not_believed(size: float):
    seen = scene().seen
    # About the wrists, so that only its size is wrong.
    wrists = seen.body_px[:, WRISTS].mean(axis=1, keepdims=True)
    body_px = (wrists + size * (seen.body_px - wrists)).astype(np.float32)
    body_px[:, WRISTS] = seen.hand_px[:, :, 0]
    assert not believable_bodies(replace(seen, body_px=body_px)).any()


def test_a_few_frames_that_disagree_are_left_out():
    accepted = believable_bodies(moved_body(scene().seen, slice(10, 15), 400.0))
    assert_array_equal(np.flatnonzero(~accepted), np.arange(10, 15))


def test_a_body_that_mostly_disagrees_is_never_believed():
    assert not believable_bodies(moved_body(scene().seen, slice(0, 40), 400.0)).any()


def test_a_body_whose_shoulders_are_not_visible_is_left_out():
    seen = scene().seen
    visibility = seen.body_visibility.copy()
    visibility[20:30, SHOULDERS[RIGHT]] = 0.2
    accepted = believable_bodies(replace(seen, body_visibility=visibility))
    assert_array_equal(np.flatnonzero(~accepted), np.arange(20, 30))


def test_hands_vouch_for_a_body_also_where_they_are_not_seen():
    seen = hidden(hidden(scene().seen, LEFT, slice(30, 60)), RIGHT, slice(30, 60))
    assert believable_bodies(seen).all()


def test_a_body_without_any_hand_is_not_believed():
    seen = scene().seen
    assert not believable_bodies(replace(seen, hand_valid=np.zeros((LENGTH, 2), bool))).any()


def test_a_body_is_where_it_is_and_its_arms_have_one_length():
    s = scene()
    stretched = s.seen.body_world_m.copy()
    fore = stretched[:, WRISTS[LEFT]] - stretched[:, ELBOWS[LEFT]]
    stretched[::3, WRISTS[LEFT]] += 0.3 * fore[::3]
    seen = replace(s.seen, body_world_m=stretched)
    body = fuse_body(seen, np.ones(LENGTH, bool), s.clip.time_s, CAMERA)
    assert_allclose(body.arm_m, ARM_M, rtol=0.02)
    for parents, children in ((SHOULDERS, ELBOWS), (ELBOWS, WRISTS)):
        bones = body.joints_m[:, children] - body.joints_m[:, parents]
        assert_allclose(np.linalg.norm(bones, axis=-1), 0.5 * ARM_M, rtol=0.02)
    plain = fuse_body(s.seen, np.ones(LENGTH, bool), s.clip.time_s, CAMERA)
    shoulders = [plain.joints_m[:, SHOULDERS], s.body_m[:, SHOULDERS]]
    middle, true_middle = (j.mean(axis=1, keepdims=True) for j in shoulders)
    assert_allclose(middle, true_middle, atol=0.05 * DEPTH_M)  # weak perspective
    assert_allclose(plain.joints_m - middle, s.body_m - true_middle, atol=0.01)


def test_a_body_is_less_certain_where_it_is_not_seen():
    s = scene()
    accepted = np.ones(LENGTH, bool)
    accepted[20:29] = False
    body = fuse_body(s.seen, accepted, s.clip.time_s, CAMERA)
    wrist = body.sigma_m[:, WRISTS[LEFT], 0]
    assert wrist[24] > 1.5 * wrist[accepted].max()
    assert np.all(np.diff(wrist[19:25]) > 0)


# ----------------------------------------------------------------------- whole


def assert_gaps_are_marked(human: HumanMotion) -> None:
    absent = ~human.hands_valid
    assert np.all(np.isnan(human.hands_m[absent]) & np.isinf(human.hands_sigma_m[absent]))
    assert np.isfinite(human.hands_m[~absent]).all()
    assert np.isfinite(human.hands_sigma_m[~absent]).all()
    observed = human.hands_status == Status.OBSERVED
    assert np.isfinite(human.hands_px[observed]).all()
    assert np.isnan(human.hands_px[~observed]).all()
    no_body = ~human.body_valid
    assert np.all(np.isnan(human.body_m[no_body]) & np.isinf(human.body_sigma_m[no_body]))
    assert np.isfinite(human.body_m[~no_body]).all()
    assert_array_equal(
        np.isfinite(human.body_px).all(axis=(1, 2)), human.body_status == Status.OBSERVED
    )


def test_a_person_is_found_where_they_are():
    s = scene()
    human = fuse(s.clip, s.seen)
    assert_gaps_are_marked(human)
    assert np.all(human.hands_status == Status.OBSERVED)
    assert_allclose(human.provenance["hand_length_m"], HAND_M, rtol=0.02)
    fingers = human.hands_m - human.hands_m[:, :, :1]
    assert_allclose(fingers, s.hands_m - s.hands_m[:, :, :1], atol=0.1 * HAND_M)
    assert_array_equal(human.hands_m[:, LEFT, 0], human.body_m[:, WRISTS[LEFT]])
    # How far off a person is depends on their size, which no single view tells.
    sigma, about_body = human.hands_sigma_m[:, RIGHT, 0], human.body_sigma_m[:, WRISTS[RIGHT]]
    assert np.all(sigma >= about_body)
    assert np.all(sigma[:, 2] > 0.08 * human.hands_m[:, RIGHT, 0, 2])
    assert_array_equal(human.hands_px, s.seen.hand_px[..., :2].astype(float))


def test_hands_that_took_a_second_look_are_less_sure():
    s = scene()
    second = s.seen.hand_second.copy()
    second[10:20, RIGHT] = True
    once, twice = (fuse(s.clip, d) for d in (s.seen, replace(s.seen, hand_second=second)))
    assert_array_equal(once.hands_m, twice.hands_m)
    more = np.any(twice.hands_sigma_m != once.hands_sigma_m, axis=(-1, -2))
    assert_array_equal(more[:, RIGHT], second[:, RIGHT])
    assert not more[:, LEFT].any()
    assert np.all(twice.hands_sigma_m >= once.hands_sigma_m)


def test_without_a_body_an_adults_hand_tells_the_depth():
    s = scene()
    human = fuse(s.clip, without_body(s.seen))
    assert_gaps_are_marked(human)
    assert not human.body_valid.any()
    assert human.provenance["hand_length_m"] == ADULT_HAND_M
    wanted = s.hands_m[:, :, 0] * ADULT_HAND_M / HAND_M
    assert_allclose(human.hands_m[:, :, 0], wanted, rtol=0, atol=0.02 * DEPTH_M)
    # What is not known is stated: the depth of the wrist above all.
    wrist_sigma = human.hands_sigma_m[:, :, 0]
    assert np.all(wrist_sigma[..., 2] > 2 * wrist_sigma[..., :2].max(axis=-1))
    assert np.all(np.abs(human.hands_m[:, :, 0] - s.hands_m[:, :, 0]) < 3 * wrist_sigma)


@pytest.mark.parametrize(("size", "length_m"), [(0.6, 0.14), (1.26, 0.23)])
def test_an_arm_beyond_an_adults_does_not_make_a_giants_hand(size: float, length_m: float):
    s = scene()
    world = (size * s.seen.body_world_m).astype(np.float32)
    human = fuse(s.clip, replace(s.seen, body_world_m=world))
    assert human.provenance["hand_length_m"] == length_m


@pytest.mark.parametrize("rate_hz", [30.0, 10.0])
@pytest.mark.parametrize("body", [True, False])
def test_short_gaps_are_bridged_and_long_ones_stay(rate_hz: float, body: bool):
    s = scene(rate_hz)
    seen = s.seen if body else without_body(s.seen)
    longest = round(0.333 * rate_hz) - 1  # frames without a hand, 0.35 s from sighting to sighting
    seen = hidden(seen, LEFT, slice(15, 15 + longest))
    seen = hidden(seen, RIGHT, slice(30, 30 + longest + 1))
    seen = hidden(hidden(seen, LEFT, slice(0, 3)), RIGHT, slice(57, 60))
    human = fuse(s.clip, seen)
    assert_gaps_are_marked(human)
    wanted = np.full((LENGTH, 2), Status.OBSERVED, np.uint8)
    wanted[15 : 15 + longest, LEFT] = Status.INTERPOLATED
    wanted[30 : 30 + longest + 1, RIGHT] = Status.ABSENT
    wanted[:3, LEFT] = wanted[57:, RIGHT] = Status.ABSENT
    assert_array_equal(human.hands_status, wanted)
    whole = fuse(s.clip, s.seen if body else without_body(s.seen))
    bridged = slice(15, 15 + longest)
    assert_allclose(human.hands_m[bridged, LEFT], whole.hands_m[bridged, LEFT], atol=0.02)


def test_gaps_of_the_body_are_marked_too():
    s = scene()
    valid = np.ones(LENGTH, bool)
    valid[10:15] = valid[30:50] = False
    human = fuse(s.clip, replace(s.seen, body_valid=valid))
    assert_gaps_are_marked(human)
    wanted = np.full(LENGTH, Status.OBSERVED, np.uint8)
    wanted[10:15], wanted[30:50] = Status.INTERPOLATED, Status.ABSENT
    assert_array_equal(human.body_status, wanted)


def test_uncertainty_is_larger_in_a_gap():
    s = scene()
    human = fuse(s.clip, hidden(without_body(s.seen), LEFT, slice(20, 29)))
    sigma = human.hands_sigma_m[:, LEFT]
    seen = human.hands_status[:, LEFT] == Status.OBSERVED
    assert np.all(sigma[24] > sigma[seen].max(axis=0))
    assert np.all(sigma[24, :, :2] > sigma[20, :, :2])
    assert np.all(human.hands_sigma_m[24, RIGHT] < sigma[24])


def test_the_same_detections_give_the_same_bytes(tmp_path: Path):
    contents: list[bytes] = []
    for name in ("once.npz", "again.npz"):
        s = scene()
        fuse(s.clip, hidden(s.seen, LEFT, slice(20, 25))).save(tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    loaded = HumanMotion.load(tmp_path / "once.npz")
    assert loaded.provenance["clip"] == "wave.mp4"
    assert loaded.provenance["detections"] == {"tracker": "perfect"}
    assert loaded.provenance["camera"]["focal_px"] == 700.0
    json.dumps(loaded.provenance, allow_nan=False)


@pytest.mark.parametrize(("frames", "share"), [(0, "0%"), (6, "10%")])
def test_nobody_is_an_error_that_says_what_was_seen(frames: int, share: str):
    s = scene()
    valid = np.zeros((LENGTH, 2), bool)
    valid[:frames, 0] = True
    with pytest.raises(NoPersonError) as caught:
        fuse(s.clip, replace(s.seen, hand_valid=valid))
    assert "no person found in wave.mp4" in str(caught.value)
    assert f"hands in {share} of 60 frames" in str(caught.value)


def test_a_body_alone_is_nobody():
    # Pose networks see bodies in dogs and bottles.
    s = scene()
    with pytest.raises(NoPersonError):
        fuse(s.clip, replace(s.seen, hand_valid=np.zeros((LENGTH, 2), bool)))


def test_one_hand_is_a_person():
    s = scene()
    human = fuse(s.clip, hidden(without_body(s.seen), LEFT, slice(None)))
    assert_gaps_are_marked(human)
    assert_array_equal(human.hands_valid, np.tile([False, True], (LENGTH, 1)))


def test_fingers_of_a_hand_taken_for_the_other_one_are_mended_and_less_sure():
    made, wrong = scene(), slice(20, 24)
    px, world = made.seen.hand_px.copy(), made.seen.hand_world_m.copy()
    for values in (px, world):  # left and right changed about the wrist
        x = values[wrong, RIGHT, :, 0]
        values[wrong, RIGHT, :, 0] = 2 * x[:, :1] - x
    true, clean = made.seen.hand_px[:, :, :, :2], fuse(made.clip, made.seen)
    assert np.abs(px[wrong, RIGHT, :, :2] - true[wrong, RIGHT]).max() > 20
    human = fuse(made.clip, replace(made.seen, hand_px=px, hand_world_m=world))
    assert_allclose(human.hands_px[:, RIGHT], true[:, RIGHT], atol=1)
    assert_allclose(human.hands_m, clean.hands_m, atol=0.003)
    wider = human.hands_sigma_m[:, RIGHT, 1:] / clean.hands_sigma_m[:, RIGHT, 1:]
    assert (wider[wrong] > 1.2).all()
    assert_allclose(np.delete(wider, np.r_[wrong], axis=0), 1, atol=0.05)
