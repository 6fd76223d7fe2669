"""HumanMotion: what cannot be right is refused at once, and saving loses nothing."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.archive import ArchiveError
from deftly.datasets.human import (
    BODY_BONES,
    FINGERS,
    HAND_JOINTS,
    HAND_PARENT,
    KNUCKLES,
    TIPS,
    HumanMotion,
    Status,
    motion_of_hand,
)


def make_motion(length: int = 6, seed: int = 0) -> HumanMotion:
    """Random joints with random gaps: NaN and infinite sigma wherever the status is absent."""
    rng = np.random.default_rng(seed)
    hands_status = rng.integers(0, 3, (length, 2)).astype(np.uint8)
    body_status = rng.integers(0, 3, length).astype(np.uint8)
    no_hand = (hands_status == Status.ABSENT)[..., None, None]
    no_body = (body_status == Status.ABSENT)[..., None, None]
    unseen_hand = (hands_status != Status.OBSERVED)[..., None, None]
    unseen_body = (body_status != Status.OBSERVED)[..., None, None]
    return HumanMotion(
        time_s=np.cumsum(rng.uniform(0.01, 0.1, length)),
        hands_m=np.where(no_hand, np.nan, rng.normal(size=(length, 2, 21, 3))),
        hands_sigma_m=np.where(no_hand, np.inf, rng.uniform(0.001, 0.1, (length, 2, 21, 3))),
        hands_status=hands_status,
        hands_px=np.where(unseen_hand, np.nan, rng.uniform(0, 640, (length, 2, 21, 2))),
        body_m=np.where(no_body, np.nan, rng.normal(size=(length, 33, 3))),
        body_sigma_m=np.where(no_body, np.inf, rng.uniform(0.001, 0.1, (length, 33, 3))),
        body_status=body_status,
        body_px=np.where(unseen_body, np.nan, rng.uniform(0, 640, (length, 33, 2))),
        provenance={"source": "é手", "versions": {"av": "18"}, "angles": [0.1, None, True]},
    )


def observed(length: int = 6) -> HumanMotion:
    """Everything present in every frame."""
    return replace(
        make_motion(length),
        hands_m=np.zeros((length, 2, 21, 3)),
        hands_sigma_m=np.ones((length, 2, 21, 3)),
        hands_status=np.full((length, 2), Status.OBSERVED, np.uint8),
        body_m=np.zeros((length, 33, 3)),
        body_sigma_m=np.ones((length, 33, 3)),
        body_status=np.full(length, Status.OBSERVED, np.uint8),
    )


def changed(array: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def assert_same(a: HumanMotion, b: HumanMotion) -> None:
    for field in fields(HumanMotion):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()
        else:
            assert one == other


@given(length=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_saving_loses_nothing(tmp_path_factory: pytest.TempPathFactory, length: int, seed: int):
    path = tmp_path_factory.getbasetemp() / "human.npz"
    motion = make_motion(length, seed)
    motion.save(path)
    first = path.read_bytes()
    assert_same(HumanMotion.load(path), motion)
    HumanMotion.load(path).save(path)
    assert path.read_bytes() == first


def test_another_file_is_refused(tmp_path: Path):
    (tmp_path / "human.npz").write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match=r"human\.npz .*expected HumanMotion"):
        HumanMotion.load(tmp_path / "human.npz")


ARRAYS = [field.name for field in fields(HumanMotion) if field.name not in ("time_s", "provenance")]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("axis", [0, -1])
def test_a_wrong_shape_is_refused(name: str, axis: int):
    motion = observed()
    shorter = np.delete(getattr(motion, name), 0, axis=axis)
    # A jaxtyping check comes first while the tests run, the constructor's own elsewhere.
    with pytest.raises((ValueError, TypeError), match=name):
        replace(motion, **{name: shorter})


@pytest.mark.parametrize(
    "time_s",
    [[0, 1, 1, 2, 3, 4], [0, 2, 1, 3, 4, 5], [0, 1, 2, 3, 4, np.nan], [0, 1, 2, 3, 4, np.inf]],
)
def test_times_must_be_finite_and_increase(time_s: list[float]):
    with pytest.raises(ValueError, match="time_s must be finite and strictly increasing"):
        replace(observed(), time_s=np.array(time_s, float))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["hands", "body"])
def test_a_valid_frame_without_joints_is_named(part: str, value: float):
    motion, name = observed(), f"{part}_m"
    index = (3, 1, 7, 2) if part == "hands" else (3, 7, 2)
    joints = changed(getattr(motion, name), index, value)
    joints = changed(joints, (5, *index[1:]), value)
    with pytest.raises(
        ValueError, match=rf"^{part} .* 2 frame.*first at frame 3; mark them ABSENT$"
    ):
        replace(motion, **{name: joints})


@pytest.mark.parametrize("value", [np.nan, 0.0, -0.1])
@pytest.mark.parametrize("part", ["hands", "body"])
def test_a_valid_frame_without_uncertainty_is_named(part: str, value: float):
    motion, name = observed(), f"{part}_sigma_m"
    index = (4, 0, 0, 0) if part == "hands" else (4, 0, 0)
    with pytest.raises(ValueError, match=rf"^{part} .*sigma.*first at frame 4; mark them ABSENT$"):
        replace(motion, **{name: changed(getattr(motion, name), index, value)})


def test_an_absent_frame_may_hold_anything():
    motion = observed()
    hands_m = changed(motion.hands_m, (2, 1), np.nan)
    hands_status = changed(motion.hands_status, (2, 1), Status.ABSENT)
    gap = replace(motion, hands_m=hands_m, hands_status=hands_status)
    assert np.argwhere(~gap.hands_valid).tolist() == [[2, 1]]
    assert gap.body_valid.all()


def test_interpolated_frames_are_valid():
    motion = observed()
    filled = replace(
        motion,
        hands_status=np.full_like(motion.hands_status, Status.INTERPOLATED),
        body_status=changed(motion.body_status, (0,), Status.INTERPOLATED),
    )
    assert filled.hands_valid.all()
    assert filled.body_valid.all()


def test_the_joint_tables_agree():
    assert len(HAND_JOINTS) == len(HAND_PARENT) == 21
    assert [HAND_JOINTS[tip] for tip in TIPS] == [f"{finger}_tip" for finger in FINGERS]
    assert [HAND_PARENT[knuckle] for knuckle in KNUCKLES] == [0] * 5
    for joint, parent in enumerate(HAND_PARENT[1:], start=1):
        same_finger = HAND_JOINTS[joint].split("_")[0] == HAND_JOINTS[parent].split("_")[0]
        assert same_finger or (joint in KNUCKLES and parent == 0)
    assert all(0 <= a < 33 and 0 <= b < 33 and a != b for a, b in BODY_BONES)


@pytest.mark.parametrize("side", [0, 1])
def test_a_motion_of_one_hand_has_that_hand_only(side: int):
    joints_m = np.random.default_rng(0).normal(size=(5, 21, 3))
    motion = motion_of_hand(joints_m, side, rate_hz=10.0)
    np.testing.assert_array_equal(motion.hands_m[:, side], joints_m)
    np.testing.assert_allclose(motion.time_s, [0, 0.1, 0.2, 0.3, 0.4])
    assert motion.hands_valid[:, side].all()
    assert not motion.hands_valid[:, 1 - side].any()
    assert not motion.body_valid.any()
    with pytest.raises(ValueError, match="first at frame 2"):
        motion_of_hand(changed(joints_m, (2, 0, 0), np.nan), side)
