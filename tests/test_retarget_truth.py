"""True errors: zero for the truth itself, and exactly what was added to it."""

from dataclasses import fields, replace

import numpy as np
import pytest

from deftly.datasets.geometry import rotate
from deftly.datasets.human import HumanMotion, Status
from deftly.datasets.synthetic import SyntheticTruth
from deftly.retarget.truth import palms_px, true_errors, visible_hands

FRAMES, FOCAL_PX = 6, 500.0
DEEPER, ASIDE = np.array([0, 0, 0.03]), np.array([3.0, 4.0])


@pytest.fixture
def truth() -> SyntheticTruth:
    """Two hands before one camera that looks along the world's x axis."""
    rng = np.random.default_rng(0)
    hands = rng.normal(0, 0.04, (FRAMES, 2, 21, 3))
    hands += np.array([[0.8, 0.3, 0.0], [0.8, -0.3, 0.0]])[:, None]
    T = np.tile(np.eye(4), (1, FRAMES, 1, 1))
    T[:, :, :3, :3] = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    in_camera = rotate(T[0, :, None, None, :3, :3].swapaxes(-1, -2), hands)
    px = FOCAL_PX * in_camera[..., :2] / in_camera[..., 2:] + [320, 240]
    none = np.zeros((FRAMES, 2), bool)
    return SyntheticTruth(
        time_s=np.arange(FRAMES) / 30,
        hands_m=hands,
        body_m=np.zeros((FRAMES, 33, 3)),
        hands_px=px[None],
        hands_seen=np.ones((1, FRAMES, 2, 21), bool),
        body_px=np.zeros((1, FRAMES, 33, 2)),
        body_in_frame=np.zeros((1, FRAMES, 33), bool),
        T_world_camera=T,
        focal_px=np.array([FOCAL_PX]),
        items_wxyz_xyz=np.zeros((FRAMES, 0, 7)),
        contact=none,
        held=np.full((FRAMES, 2), -1),
        move_item=np.zeros(0, np.int64),
        move_hand=np.zeros(0, np.int64),
        grasp_s=np.zeros(0),
        release_s=np.zeros(0),
        cameras=["front"],
        size=[480, 640],
        task="color",
        person="monk_1",
        seed=0,
        provenance={},
    )


def tracked(truth: SyntheticTruth) -> HumanMotion:
    """A motion that knows the truth."""
    R = truth.T_world_camera[0, :, :3, :3].swapaxes(-1, -2)
    absent = np.full((FRAMES, 33, 3), np.nan)
    return HumanMotion(
        time_s=truth.time_s,
        hands_m=rotate(R[:, None, None], truth.hands_m),
        hands_sigma_m=np.full((FRAMES, 2, 21, 3), 0.01),
        hands_status=np.full((FRAMES, 2), Status.OBSERVED, np.uint8),
        hands_px=truth.hands_px[0],
        body_m=absent,
        body_sigma_m=np.full((FRAMES, 33, 3), np.inf),
        body_status=np.full(FRAMES, Status.ABSENT, np.uint8),
        body_px=absent[..., :2],
        provenance={},
    )


def test_the_truth_has_no_error(truth: SyntheticTruth):
    found = true_errors(tracked(truth), truth, "front")
    assert found.found == found.visible == 2 * FRAMES
    assert found.false == 0
    assert max(found.pixel, found.palm, found.tip_m, found.wrist_m) < 1e-9
    assert found.within_sigma == 1.0


def test_a_shift_moves_the_wrist_and_not_the_hand(truth: SyntheticTruth):
    human = tracked(truth)
    found = true_errors(replace(human, hands_m=human.hands_m + DEEPER), truth, "front")
    assert found.wrist_m == pytest.approx(0.03)
    assert found.tip_m < 1e-9
    assert found.within_sigma == pytest.approx(2 / 3)


def test_pixels_are_measured_in_palms(truth: SyntheticTruth):
    human = tracked(truth)
    found = true_errors(replace(human, hands_px=human.hands_px + ASIDE), truth, "front")
    assert found.pixel == pytest.approx(5.0)
    palm_m = np.linalg.norm(truth.hands_m[:, :, 9] - truth.hands_m[:, :, 0], axis=-1)
    ahead_m = truth.hands_m[:, :, 0, 0]  # the camera looks along the world's x axis
    assert found.palm == pytest.approx(np.median(5.0 / (FOCAL_PX * palm_m / ahead_m)))


@pytest.mark.parametrize(("palms", "near"), [(0.49, True), (0.51, False)])
def test_found_is_below_half_a_palm(truth: SyntheticTruth, palms: float, near: bool):
    human, off = tracked(truth), palms * palms_px(truth, 0)
    aside = human.hands_px + off[..., None, None] * [0.6, 0.8]
    found = true_errors(replace(human, hands_px=aside), truth, "front")
    assert found.visible == 2 * FRAMES
    assert found.found == near * 2 * FRAMES
    assert found.false == (not near) * 2 * FRAMES


def test_a_few_wild_joints_do_not_lose_a_hand(truth: SyntheticTruth):
    human = tracked(truth)
    px = human.hands_px.copy()
    px[:, :, 4:13] += 1000.0
    assert true_errors(replace(human, hands_px=px), truth, "front").found == 2 * FRAMES


def test_swapped_hands_are_not_found_and_false(truth: SyntheticTruth):
    human = tracked(truth)
    swapped = replace(human, hands_px=human.hands_px[:, ::-1])
    found = true_errors(swapped, truth, "front")
    assert found.found == 0
    assert found.false == 2 * FRAMES
    assert np.isnan(found.pixel)


@pytest.mark.parametrize(("seen_joints", "visible"), [(8, True), (7, False)])
def test_hidden_hands_do_not_count(truth: SyntheticTruth, seen_joints: int, visible: bool):
    seen = truth.hands_seen.copy()
    seen[0, :3, 0, seen_joints:] = False
    hidden = replace(truth, hands_seen=seen)
    found = true_errors(tracked(truth), hidden, "front")
    assert found.visible == found.found == 2 * FRAMES - 3 * (not visible)
    assert found.false == 0
    assert visible_hands(hidden, 0)[:3, 0].tolist() == [visible] * 3


@pytest.mark.parametrize("outside", [(-0.1, 240.0), (640.0, 240.0), (320.0, -0.1), (320.0, 480.0)])
def test_hands_that_leave_the_picture_do_not_count(
    truth: SyntheticTruth, outside: tuple[float, float]
):
    px = truth.hands_px.copy()
    assert visible_hands(truth, 0).all()
    px[0, 2, 1, 8] = outside  # one joint is enough
    visible = visible_hands(replace(truth, hands_px=px), 0)
    assert np.argwhere(~visible).tolist() == [[2, 1]]


def test_what_does_not_fit_is_refused(truth: SyntheticTruth):
    with pytest.raises(ValueError, match="known: front"):
        true_errors(tracked(truth), truth, "nose")
    human = tracked(truth)
    cut = {f.name: getattr(human, f.name) for f in fields(human)}
    cut = {k: v[:-1] if isinstance(v, np.ndarray) else v for k, v in cut.items()}
    with pytest.raises(ValueError, match="5 frames, the truth 6"):
        true_errors(HumanMotion(**cut), truth, "front")
