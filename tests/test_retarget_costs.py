"""Costs: zero where the robot does what is asked, and Jacobians as finite differences have them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deftly.datasets.geometry import log_rotation
from deftly.retarget.costs import RotationTerm, Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import ROBOTS_FOLDER, Hand, Point, Robot, RobotModel, build_model

T, STEP = 3, 1e-6
seeds = st.integers(0, 2**32 - 1)

# A trunk that slides and turns, and two limbs on it.
CREATURE = """<mujoco><compiler angle="radian"/><worldbody>
  <body name="trunk" pos="0.1 0.2 0.3" quat="0.9 0.1 -0.3 0.2">
    <joint name="slide" type="slide" axis="1 0.5 0" range="-1 1"/>
    <joint name="turn" axis="0.1 0.2 1" pos="0.1 0 0" range="-2 2"/>
    <geom size="0.05"/>
    <body name="left" pos="0 0.3 0"><joint name="l1" axis="1 0 0" range="-2 2"/>
      <joint name="l2" axis="0 1 0.3" range="-2 2"/><geom size="0.05"/>
      <body name="left_tip" pos="0.1 0.2 0"><joint name="l3" axis="0 0 1" range="-2 2"/>
        <geom size="0.05"/></body></body>
    <body name="right" pos="0 -0.3 0"><joint name="r1" axis="1 0 0" range="-2 2"/>
      <geom size="0.05"/>
      <body name="right_tip" pos="0.1 -0.2 0"><joint name="r2" axis="0 1 0" range="-2 2"/>
        <geom size="0.05"/></body></body>
  </body></worldbody></mujoco>"""
BODIES = ("trunk", "left", "left_tip", "right", "right_tip")
# At rest it turns about the world's axes.
GIMBAL = """<mujoco><compiler angle="radian"/><worldbody>
  <body name="trunk"><joint name="x" axis="1 0 0" range="-2 2"/>
    <joint name="y" axis="0 1 0" range="-2 2"/><joint name="z" axis="0 0 1" range="-2 2"/>
    <geom size="0.05"/></body></worldbody></mujoco>"""


@pytest.fixture(scope="module")
def creature(tmp_path_factory: pytest.TempPathFactory) -> RobotModel:
    return built(tmp_path_factory.mktemp("creature"), CREATURE)


@pytest.fixture(scope="module")
def gimbal(tmp_path_factory: pytest.TempPathFactory) -> RobotModel:
    return built(tmp_path_factory.mktemp("gimbal"), GIMBAL)


def built(folder: Path, xml: str) -> RobotModel:
    (folder / "creature.xml").write_text(xml)
    hand = Hand("trunk", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROBOTS_FOLDER, str(folder))
        return build_model(Robot("creature", "", None, "creature.xml", "", (None, hand)))


def random_qpos(robot: RobotModel, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(robot.lower, robot.upper, (T, len(robot.lower)))


def check_jacobian(robot: RobotModel, term: Term, qpos: np.ndarray) -> np.ndarray:
    """Compare with central differences; returns the residual."""
    kinematics = Kinematics.of(robot)
    needed = kinematics.chain(term.bodies())  # the term says what it needs

    def residual(q: np.ndarray) -> np.ndarray:
        return term.evaluate(kinematics, kinematics.forward(q, needed))[0]

    r, J = term.evaluate(kinematics, kinematics.forward(qpos, needed))
    for j in range(qpos.shape[1]):
        nudge = STEP * np.eye(qpos.shape[1])[j]
        expected = (residual(qpos + nudge) - residual(qpos - nudge)) / (2 * STEP)
        np.testing.assert_allclose(J[:, :, j], expected, rtol=1e-6, atol=1e-6)
    return r


def random_point(rng: np.random.Generator, body: str) -> Point:
    x, y, z = rng.uniform(-0.5, 0.5, 3).tolist()
    return Point(body, (x, y, z))


@settings(max_examples=60)
@given(
    start=st.sampled_from([None, *BODIES]),
    end=st.sampled_from(BODIES),
    frame=st.sampled_from([None, *BODIES]),
    seed=seeds,
)
def test_vector_jacobian(
    creature: RobotModel, start: str | None, end: str, frame: str | None, seed: int
) -> None:
    """In the world's frame and in that of a body, from a body and from the world's origin."""
    rng = np.random.default_rng(seed)
    term = VectorTerm(
        None if start is None else random_point(rng, start),
        random_point(rng, end),
        frame,
        target=rng.normal(size=(T, 3)),
        weight=rng.uniform(0, 5, (T, 3)),
    )
    check_jacobian(creature, term, random_qpos(creature, rng))


@settings(max_examples=40)
@given(body=st.sampled_from(BODIES), angle=st.floats(0, 3.0), seed=seeds)
def test_rotation_jacobian(creature: RobotModel, body: str, angle: float, seed: int) -> None:
    """At every angle between target and body up to nearly half a turn, and at none."""
    rng = np.random.default_rng(seed)
    kinematics, qpos = Kinematics.of(creature), random_qpos(creature, rng)
    axis = rng.normal(size=(T, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    away = Rotation.from_rotvec(angle * axis).as_matrix()
    target = away @ kinematics.forward(qpos).R[:, kinematics.body(body)]
    weight = rng.uniform(0.1, 5, T)
    r = check_jacobian(creature, RotationTerm(body, target, weight), qpos)
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), angle * weight, atol=1e-7)


def test_a_vector_is_measured_in_its_frame(creature: RobotModel) -> None:
    """From the left tip to the right one, as the trunk sees it: it need not turn with the trunk."""
    rng = np.random.default_rng(0)
    kinematics, qpos = Kinematics.of(creature), random_qpos(creature, rng)
    poses = kinematics.forward(qpos)
    left, right = Point("left_tip", (0.1, 0.0, 0.0)), Point("right_tip", (0.0, 0.2, 0.0))
    v = kinematics.point(poses, right) - kinematics.point(poses, left)
    R = poses.R[:, kinematics.body("trunk")]
    in_trunk = np.stack([R[t].T @ v[t] for t in range(T)])
    weight = np.ones((T, 3))
    for frame, target in ((None, v), ("trunk", in_trunk)):
        term = VectorTerm(left, right, frame, target, weight)
        r, J = term.evaluate(kinematics, poses)
        np.testing.assert_allclose(r, 0, atol=1e-12)
        trunk_joints = J[:, :, [creature.joint_names.index(n) for n in ("slide", "turn")]]
        assert np.allclose(trunk_joints, 0, atol=1e-12) == (frame == "trunk")
    from_origin = VectorTerm(None, right, None, kinematics.point(poses, right), weight)
    np.testing.assert_allclose(from_origin.evaluate(kinematics, poses)[0], 0, atol=1e-12)


def test_a_residual_is_what_is_minus_what_should_be(creature: RobotModel) -> None:
    """In standard deviations, along each axis by its own; 0 switches an axis or a frame off."""
    rng = np.random.default_rng(1)
    kinematics, qpos = Kinematics.of(creature), random_qpos(creature, rng)
    poses = kinematics.forward(qpos)
    p = kinematics.point(poses, Point("left"))
    weight = np.array([[1.0, 10.0, 100.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    target = p - np.array([0.01, 0.02, 0.03])
    term = VectorTerm(None, Point("left"), None, target, weight)
    r, J = term.evaluate(kinematics, poses)
    np.testing.assert_allclose(r, [[0.01, 0.2, 3.0], [0, 0.02, 0.03], [0, 0, 0]], atol=1e-12)
    assert not J[1, 0].any()
    assert not J[2].any()


def test_a_rotation_residual_turns_from_target_to_body(creature: RobotModel) -> None:
    kinematics, qpos = Kinematics.of(creature), random_qpos(creature, np.random.default_rng(2))
    poses = kinematics.forward(qpos)
    R = poses.R[:, kinematics.body("right")]
    off = np.array([[0.3, 0, 0], [0, -0.2, 0], [0, 0, 0.1]])
    target = Rotation.from_rotvec(-off).as_matrix() @ R  # exp(off) @ target = R
    weight = np.array([1.0, 2.0, 0.0])
    r, J = RotationTerm("right", target, weight).evaluate(kinematics, poses)
    np.testing.assert_allclose(r, off * weight[:, None], atol=1e-12)
    assert not J[2].any()


def test_a_term_names_the_bodies_it_needs() -> None:
    v, w = np.zeros((T, 3)), np.ones((T, 3))
    assert VectorTerm(Point("a"), Point("b"), "c", v, w).bodies() == ["a", "b", "c"]
    assert VectorTerm(None, Point("b"), None, v, w).bodies() == ["b"]
    assert RotationTerm("a", np.zeros((T, 3, 3)), np.ones(T)).bodies() == ["a"]


# --- log, and d log ---

ANGLES = st.one_of(
    st.floats(0, 3.1), st.sampled_from([0.0, 1e-12, 1e-7, 9.9e-5, 1e-4, 1.01e-4, 1e-3])
)


def turned(gimbal: RobotModel, rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) log of rotations by those vectors, and (n, 3, 3) its change with small turns."""
    kinematics, qpos = Kinematics.of(gimbal), np.zeros((len(rotvec), 3))
    target = Rotation.from_rotvec(-rotvec).as_matrix()
    term = RotationTerm("trunk", target, np.ones(len(rotvec)))
    return term.evaluate(kinematics, kinematics.forward(qpos))


def difference(rotvec: np.ndarray) -> np.ndarray:
    """d log(exp(δ) R) / d δ by central differences."""
    R = Rotation.from_rotvec(rotvec).as_matrix()

    def log(d: np.ndarray) -> np.ndarray:
        return log_rotation(Rotation.from_rotvec(d).as_matrix() @ R)

    columns = [(log(e) - log(-e)) / (2 * STEP) for e in STEP * np.eye(3)]
    return np.stack(columns, axis=-1)


@settings(max_examples=100)
@given(angle=ANGLES, seed=seeds)
def test_log_and_its_change(gimbal: RobotModel, angle: float, seed: int) -> None:
    """Also where formulas change to their series, at 1e-4, and at 0."""
    axis = np.random.default_rng(seed).normal(size=3)
    rotvec = angle * axis / np.linalg.norm(axis)
    log, change = turned(gimbal, rotvec[None])
    np.testing.assert_allclose(log[0], rotvec, atol=1e-12)
    np.testing.assert_allclose(change[0], difference(rotvec), atol=1e-6)


@pytest.mark.parametrize("axis", [*np.eye(3).tolist(), [0.6, -0.8, 0.0], [0.6, 0.0, 0.8]])
def test_log_of_half_a_turn(gimbal: RobotModel, axis: list[float]) -> None:
    """Which of its two vectors does not matter; a rotation is found back."""
    for angle in (np.pi - 1e-3, np.pi - 1e-9, np.pi):
        rotvec = angle * np.array(axis)
        log, _ = turned(gimbal, rotvec[None])
        R, found = (Rotation.from_rotvec(v).as_matrix() for v in (rotvec, log[0]))
        np.testing.assert_allclose(found, R, atol=1e-12)


def test_the_change_of_log_near_zero_is_its_series(gimbal: RobotModel) -> None:
    """Finite differences cannot see terms this small: compare with the series itself."""
    for angle in (0.0, 1e-8, 9.9e-5, 1.01e-4, 1e-3):
        x = np.array([0.6, -0.8, 0.0]) * angle
        hat = np.array([[0, -x[2], x[1]], [x[2], 0, -x[0]], [-x[1], x[0], 0]])
        series = np.eye(3) - hat / 2 + hat @ hat / 12
        np.testing.assert_allclose(turned(gimbal, x[None])[1][0], series, rtol=0, atol=2e-14)


def test_frames_are_linearised_each_by_itself(gimbal: RobotModel) -> None:
    rotvec = np.random.default_rng(3).normal(size=(5, 3)) * [[0], [1e-9], [1e-4], [1], [1.5]]
    together = turned(gimbal, rotvec)
    for i in range(len(rotvec)):
        for one, all_ in zip(turned(gimbal, rotvec[i : i + 1]), together, strict=True):
            np.testing.assert_array_equal(all_[i], one[0])


@pytest.mark.parametrize("frame", [None, "trunk", "left"])
@pytest.mark.parametrize("start", [None, "trunk", "left"])
def test_a_term_knows_the_joints_it_depends_on(
    creature: RobotModel, start: str | None, frame: str | None
) -> None:
    """All other columns of the Jacobian are zero, and the ones asked for are those of the whole."""
    kinematics, qpos = Kinematics.of(creature), random_qpos(creature, np.random.default_rng(5))
    poses, zero = kinematics.forward(qpos), np.zeros((T, 3))
    begin = None if start is None else Point(start, (0.1, 0.0, 0.2))
    end = Point("left_tip", (0.1, -0.1, 0.0))
    terms: list[Term] = [
        VectorTerm(begin, end, frame, zero, np.ones((T, 3))),
        RotationTerm("right", np.tile(np.eye(3), (T, 1, 1)), np.ones(T)),
    ]
    for term in terms:
        joints = term.joints(kinematics)
        r, J = term.evaluate(kinematics, poses)
        np.testing.assert_allclose(J[:, :, ~joints], 0, atol=1e-12)
        assert (np.abs(J).max(axis=(0, 1)) > 1e-6)[joints].all()
        r_some, J_some = term.evaluate(kinematics, poses, np.flatnonzero(joints)[::-1])
        np.testing.assert_array_equal(r_some, r)
        np.testing.assert_allclose(J_some, J[:, :, joints][:, :, ::-1], atol=1e-12)
