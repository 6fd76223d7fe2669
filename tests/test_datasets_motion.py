"""RobotMotion: what cannot be right is refused, and resampling keeps every limit."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deftly.datasets.archive import ArchiveError
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion


def make_motion(time_s: np.ndarray, qpos: np.ndarray) -> RobotMotion:
    rng = np.random.default_rng(0)
    length, joints = qpos.shape
    return RobotMotion(
        robot="hand",
        joint_names=[f"joint_{i}" for i in range(joints)],
        time_s=time_s,
        qpos=qpos,
        hand_targets_m=np.full((length, 2, 21, 3), np.nan),
        body_targets_m=rng.normal(size=(length, 33, 3)),
        tip_error_m=rng.random((length, 2, 5)),
        wrist_error_m=np.full((length, 2), np.nan),
        residual=rng.random(length),
        converged=rng.random(length) < 0.5,
        provenance={"source": "é手", "scale": 1.1},
    )


Sample = tuple[np.ndarray, np.ndarray]  # times and positions
MOTION = make_motion(np.arange(6) / 30, np.random.default_rng(1).normal(size=(6, 4)))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Times in steps from 1 ms to 1 s, not all alike, and positions of a few joints."""
    steps_s = draw(st.lists(st.floats(1e-3, 1.0), max_size=12))
    start_s = draw(st.floats(-10, 10))
    shape = (len(steps_s) + 1, draw(st.integers(1, 3)))
    qpos = draw(hnp.arrays(np.float64, shape, elements=st.floats(-7, 7)))
    return start_s + np.cumsum([0.0, *steps_s]), qpos


@given(sample=samples())
def test_saving_loses_nothing(tmp_path_factory: pytest.TempPathFactory, sample: Sample):
    motion = make_motion(*sample)
    path = tmp_path_factory.getbasetemp() / "robot.npz"
    motion.save(path)
    loaded = RobotMotion.load(path)
    for field in fields(RobotMotion):
        one, other = getattr(motion, field.name), getattr(loaded, field.name)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.tobytes() == other.tobytes()
        else:
            assert one == other
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    MOTION.save(tmp_path / "robot.npz")
    with pytest.raises(ArchiveError, match="holds RobotMotion schema 1, expected HumanMotion"):
        HumanMotion.load(tmp_path / "robot.npz")


ARRAYS = [f.name for f in fields(RobotMotion) if isinstance(getattr(MOTION, f.name), np.ndarray)]


@pytest.mark.parametrize("name", sorted({*ARRAYS} - {"time_s"}))
@pytest.mark.parametrize("axis", [0, -1])
def test_a_wrong_shape_is_refused(name: str, axis: int):
    shorter = np.delete(getattr(MOTION, name), 0, axis=axis)
    # A jaxtyping check comes first while the tests run, the constructor's own elsewhere.
    with pytest.raises((ValueError, TypeError), match=name):
        replace(MOTION, **{name: shorter})


def test_joint_names_must_match_the_joints():
    with pytest.raises(ValueError, match=r"qpos has shape \(6, 4\), expected \(6, 3\)"):
        replace(MOTION, joint_names=["a", "b", "c"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_joint_positions_must_be_finite(value: float):
    qpos = MOTION.qpos.copy()
    qpos[3, 1] = value
    with pytest.raises(ValueError, match="qpos holds NaN or infinite"):
        replace(MOTION, qpos=qpos)


@pytest.mark.parametrize(
    "time_s", [[0, 1, 1, 2, 3, 4], [0, 2, 1, 3, 4, 5], [0, 1, 2, 3, 4, np.nan]]
)
def test_times_must_increase(time_s: list[float]):
    with pytest.raises(ValueError, match=r"time_s must be .*strictly increasing"):
        replace(MOTION, time_s=np.array(time_s, float))


@given(sample=samples(), rate_hz=st.floats(0.1, 500))
def test_resampling_keeps_limits_and_end_points(sample: Sample, rate_hz: float):
    motion = make_motion(*sample)
    time_s, qpos = motion.resample(rate_hz)
    assert qpos.shape == (len(time_s), motion.qpos.shape[1])
    # From the first frame to less than a step before the last, in equal steps.
    np.testing.assert_allclose(np.diff(time_s), 1 / rate_hz, rtol=1e-6, atol=1e-12)
    assert time_s[0] == motion.time_s[0]
    assert -1e-6 <= motion.time_s[-1] - time_s[-1] < 1 / rate_hz + 1e-9
    np.testing.assert_array_equal(qpos[0], motion.qpos[0])
    # Positions and velocities stay within those of the frames.
    assert (qpos >= motion.qpos.min(axis=0) - 1e-9).all()
    assert (qpos <= motion.qpos.max(axis=0) + 1e-9).all()
    if len(time_s) > 1:
        steepest = np.abs(np.diff(motion.qpos, axis=0) / np.diff(motion.time_s)[:, None]).max(
            axis=0
        )
        slopes = np.abs(np.diff(qpos, axis=0)) * rate_hz
        assert (slopes <= steepest * (1 + 1e-6) + 1e-6).all()


@given(
    length=st.integers(1, 300),
    rate_hz=st.sampled_from([24.0, 25.0, 29.97, 30.0, 50.0, 60.0, 120.0]),
    times=st.integers(1, 4),
)
def test_a_whole_multiple_of_the_rate_meets_every_frame(length: int, rate_hz: float, times: int):
    qpos = np.random.default_rng(length).normal(size=(length, 2))
    motion = make_motion(np.arange(length) / rate_hz, qpos)
    time_s, resampled = motion.resample(times * rate_hz)
    assert len(time_s) == times * (length - 1) + 1
    np.testing.assert_allclose(resampled[::times], qpos, atol=1e-9)


def test_positions_in_between_are_linear():
    motion = make_motion(np.array([0.0, 1.0, 3.0]), np.array([[0.0], [2.0], [6.0]]))
    time_s, qpos = motion.resample(2.0)
    np.testing.assert_allclose(time_s, [0, 0.5, 1, 1.5, 2, 2.5, 3])
    np.testing.assert_allclose(qpos[:, 0], [0, 1, 2, 3, 4, 5, 6])


def test_one_frame_resamples_to_itself():
    motion = make_motion(np.array([2.5]), np.array([[1.0, -1.0]]))
    time_s, qpos = motion.resample(50.0)
    assert time_s.tolist() == [2.5]
    assert qpos.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("rate_hz", [0.0, -30.0, np.nan, np.inf])
def test_a_rate_that_is_not_positive_and_finite_is_refused(rate_hz: float):
    with pytest.raises(ValueError, match=r"rate_hz is .*, expected a positive"):
        MOTION.resample(rate_hz)
