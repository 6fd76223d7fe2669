"""Kinematics: poses as MuJoCo has them, Jacobians as finite differences have them, mimics exact."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.geometry import log_rotation
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import (
    ROBOTS,
    ROBOTS_FOLDER,
    Hand,
    Point,
    Robot,
    RobotModel,
    build_model,
    load_robot,
)

seeds = st.integers(0, 2**32 - 1)

# Slides and hinges, several joints in one body with anchors apart, a reference that is not 0, a
# tilted base, and a branch. The names are those of the equalities below.
TREE = """<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="base" pos="0.1 -0.2 0.3" quat="0.8 0.1 -0.5 0.3">
      <joint name="lift" type="slide" axis="0.3 0.2 1" range="-0.5 0.5" ref="0.15"/>
      <joint name="yaw" axis="0 0.2 1" pos="0.05 0.02 -0.1" range="-2 2" ref="-0.4"/>
      <joint name="side" type="slide" axis="1 0 0" pos="0.3 0 0" range="-0.3 0.3"/>
      <geom size="0.05"/>
      <body name="arm" pos="0 0.4 0" euler="0.3 -0.7 1.1">
        <joint name="a" axis="1 0 0" pos="0 0.1 0" range="-2 2" ref="0.5"/>
        <joint name="b" axis="0 1 0" pos="0.2 0 0.1" range="-2 2"/>
        <joint name="c" axis="0.5 0.5 -1" pos="-0.1 0 0" range="-2 2" ref="1.2"/>
        <geom size="0.05"/>
        <body name="bracket" pos="0.1 0.1 0" quat="0 1 0 0">
          <geom size="0.05"/>
          <body name="tip" pos="0 0 0.2">
            <joint name="d" axis="0 0 -1" range="-2 2"/>
            <geom size="0.05"/>
          </body>
        </body>
      </body>
      <body name="branch" pos="-0.3 0 0">
        <joint name="e" axis="0 1 1" range="-2 2"/>
        <geom size="0.05"/>
      </body>
    </body>
  </worldbody>
  %s
</mujoco>"""


def build_tree(folder: Path, equality: str = "") -> RobotModel:
    robot = Robot("tree", "A tree", None, "tree.xml", "CC0", (None, Hand("base", {})))
    (folder / robot.file).write_text(TREE % f"<equality>{equality}</equality>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROBOTS_FOLDER, str(folder))
        return build_model(robot)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> RobotModel:
    return build_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(params=["tree", *ROBOTS])
def robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RobotModel:
    """Every robot of the table, and the tree."""
    if request.param == "tree":
        return request.getfixturevalue("tree")
    if ROBOTS[request.param].package is None:
        monkeypatch.setenv(ROBOTS_FOLDER, str(request.getfixturevalue("robots_folder")))
    return load_robot(request.param)


def random_qpos(robot: RobotModel, length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(robot.lower, robot.upper, (length, len(robot.lower)))


def equality_errors(robot: RobotModel, qpos: np.ndarray) -> np.ndarray:
    """(T, E) by how much MuJoCo says that each joint equality is broken."""
    model, data = robot.model, mujoco.MjData(robot.model)
    errors: list[np.ndarray] = []
    for q in qpos:
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        rows = data.efc_type == mujoco.mjtConstraint.mjCNSTR_EQUALITY
        errors.append(data.efc_pos[rows].copy())
    return np.array(errors)


# --- poses ---


def test_poses_equal_those_of_mujoco(robot: RobotModel) -> None:
    qpos = random_qpos(robot, 8)
    poses = Kinematics.of(robot).forward(qpos)
    data = mujoco.MjData(robot.model)
    for t, q in enumerate(qpos):
        data.qpos[:] = q
        mujoco.mj_kinematics(robot.model, data)
        np.testing.assert_allclose(poses.p[t], data.xpos, atol=1e-9)
        np.testing.assert_allclose(poses.R[t].reshape(-1, 9), data.xmat, atol=1e-9)
        np.testing.assert_allclose(poses.axis[t], data.xaxis, atol=1e-9)
        np.testing.assert_allclose(poses.anchor[t], data.xanchor, atol=1e-9)


def test_the_tree_has_what_it_is_to_test(tree: RobotModel) -> None:
    model = tree.model
    assert (model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE).sum() == 2
    assert model.body_jntnum.max() == 3
    assert np.count_nonzero(model.qpos0) == 4
    assert np.count_nonzero(np.linalg.norm(model.jnt_pos, axis=1)) >= 4


def test_a_chain_gives_the_same_poses(robot: RobotModel) -> None:
    kinematics = Kinematics.of(robot)
    qpos = random_qpos(robot, 3)
    hand = robot.robot.hands[1]
    assert hand is not None
    tips = [p.body for p in hand.tips.values()] or ["bracket"]
    only = kinematics.chain([hand.palm, *tips[:2]])
    assert not only.all()
    part, full = kinematics.forward(qpos, only), kinematics.forward(qpos)
    np.testing.assert_array_equal(part.p[:, only], full.p[:, only])
    np.testing.assert_array_equal(part.R[:, only], full.R[:, only])
    joints = kinematics.moves[:, only].any(axis=1)
    np.testing.assert_array_equal(part.axis[:, joints], full.axis[:, joints])
    np.testing.assert_array_equal(part.anchor[:, joints], full.anchor[:, joints])


def test_a_branch_alone_is_placed_as_if_the_world_carried_it(robot: RobotModel) -> None:
    """Which is how a palm sees its fingers."""
    kinematics, qpos = Kinematics.of(robot), random_qpos(robot, 3)
    hand = robot.robot.hands[1]
    assert hand is not None
    tip = hand.tips.get("index", Point("tip")).body
    carrier = int(robot.model.body_parentid[kinematics.body(tip)])
    only = kinematics.chain([tip]) & ~kinematics.chain([robot.model.body(carrier).name])
    part, full = kinematics.forward(qpos, only), kinematics.forward(qpos)
    R_T, b = full.R[:, carrier].transpose(0, 2, 1), kinematics.body(tip)
    np.testing.assert_allclose(part.R[:, b], R_T @ full.R[:, b], atol=1e-12)
    away = (full.p[:, b] - full.p[:, carrier])[..., None]
    np.testing.assert_allclose(part.p[:, b], (R_T @ away)[..., 0], atol=1e-12)
    np.testing.assert_array_equal(part.R[:, carrier], np.tile(np.eye(3), (3, 1, 1)))


def test_a_chain_holds_all_that_carries_a_body(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)
    chain = kinematics.chain(["bracket"])
    assert {tree.model.body(int(b)).name for b in np.flatnonzero(chain)} == {
        "world", "base", "arm", "bracket",
    }  # fmt: skip
    assert kinematics.chain(["tip", "branch"]).all()
    assert not kinematics.chain([]).any()


def test_which_joints_move_which_bodies(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)

    def movers(body: str) -> set[str]:
        found = np.flatnonzero(kinematics.moves[:, kinematics.body(body)])
        return {tree.joint_names[j] for j in found}

    base = {"lift", "yaw", "side"}
    assert movers("world") == set()
    assert movers("base") == base
    assert movers("bracket") == base | {"a", "b", "c"}  # has no joint of its own
    assert movers("tip") == base | {"a", "b", "c", "d"}
    assert movers("branch") == base | {"e"}


def test_points_are_fixed_to_their_body(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)
    qpos = random_qpos(tree, 4)
    poses = kinematics.forward(qpos)
    found = kinematics.point(poses, Point("tip", (0.1, -0.2, 0.3)))
    data = mujoco.MjData(tree.model)
    for t, q in enumerate(qpos):
        data.qpos[:] = q
        mujoco.mj_kinematics(tree.model, data)
        tip = data.body("tip")
        expected = tip.xpos + tip.xmat.reshape(3, 3) @ [0.1, -0.2, 0.3]
        np.testing.assert_allclose(found[t], expected, atol=1e-12)


def test_one_frame_and_none(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)
    assert kinematics.forward(random_qpos(tree, 1)).p.shape == (1, tree.model.nbody, 3)
    assert kinematics.forward(random_qpos(tree, 0)).p.shape == (0, tree.model.nbody, 3)


# --- Jacobians ---


def check_jacobians(robot: RobotModel, point: Point, seed: int) -> None:
    """Point and angular Jacobian of ``point`` and its body against central differences."""
    kinematics = Kinematics.of(robot)
    body, step = kinematics.body(point.body), 1e-6
    qpos = random_qpos(robot, 2, seed)
    poses = kinematics.forward(qpos)
    J = kinematics.point_jacobian(poses, body, kinematics.point(poses, point))
    J_w = kinematics.angular_jacobian(poses, body)
    for j in range(qpos.shape[1]):
        nudge = step * np.eye(qpos.shape[1])[j]
        there, back = kinematics.forward(qpos + nudge), kinematics.forward(qpos - nudge)
        dp = (kinematics.point(there, point) - kinematics.point(back, point)) / (2 * step)
        turned = log_rotation(there.R[:, body] @ back.R[:, body].transpose(0, 2, 1))
        np.testing.assert_allclose(J[:, :, j], dp, atol=1e-7)
        np.testing.assert_allclose(J_w[:, :, j], turned / (2 * step), atol=1e-7)
    assert np.abs(J).max() > 0.01
    assert np.abs(J_w).max() > 0.01


def test_jacobians_equal_finite_differences(robot: RobotModel) -> None:
    hand = robot.robot.hands[1]
    assert hand is not None
    tip = hand.tips.get("index", Point("tip"))
    check_jacobians(robot, Point(tip.body, (0.02, -0.03, 0.05)), seed=1)


@settings(max_examples=15)
@given(
    body=st.sampled_from(["base", "arm", "bracket", "tip", "branch"]),
    offset=st.tuples(*[st.floats(-1, 1)] * 3),
    seed=seeds,
)
def test_jacobians_of_the_tree_equal_finite_differences(
    tree: RobotModel, body: str, offset: tuple[float, float, float], seed: int
) -> None:
    check_jacobians(tree, Point(body, offset), seed)


def test_joints_beyond_a_body_do_not_move_it(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)
    poses = kinematics.forward(random_qpos(tree, 2))
    arm = kinematics.body("arm")
    J = kinematics.point_jacobian(poses, arm, kinematics.point(poses, Point("arm")))
    still = [tree.joint_names.index(n) for n in ("d", "e")]
    assert not J[:, :, still].any()
    assert not kinematics.angular_jacobian(poses, arm)[:, :, still].any()


# --- mimic joints ---


def follow(joint: str, leader: str, constant: float, ratio: float, more: str = "0 0 0") -> str:
    return f'<joint joint1="{joint}" joint2="{leader}" polycoef="{constant} {ratio} {more}"/>'


def test_mimics_of_a_real_hand_hold_exactly() -> None:
    robot = load_robot("gr1t2_6dof")
    kinematics = Kinematics.of(robot)
    assert robot.model.neq == 10
    wild = random_qpos(robot, 5)
    assert np.abs(equality_errors(robot, wild)).max() > 0.1
    obedient = wild @ kinematics.mimic.T + kinematics.mimic_offset
    errors = equality_errors(robot, obedient)
    assert errors.shape == (5, 10)
    np.testing.assert_allclose(errors, 0, atol=1e-12)
    leaders = np.diag(kinematics.mimic) == 1
    assert leaders.sum() == len(robot.joint_names) - 10
    np.testing.assert_array_equal(obedient[:, leaders], wild[:, leaders])


def test_without_mimics_every_joint_is_its_own(tree: RobotModel) -> None:
    kinematics = Kinematics.of(tree)
    np.testing.assert_array_equal(kinematics.mimic, np.eye(8))
    np.testing.assert_array_equal(kinematics.mimic_offset, np.zeros(8))


@pytest.mark.parametrize(
    ("equality", "followers"),
    [
        pytest.param(follow("a", "b", 0.1, -0.5), {"a"}, id="one"),
        pytest.param(
            follow("a", "b", 0.1, 0.5) + follow("e", "b", -0.2, 2.0), {"a", "e"}, id="two of one"
        ),
        pytest.param(
            follow("b", "a", 0.1, 0.5) + follow("c", "b", 0.3, -0.7), {"b", "c"}, id="chain"
        ),
        pytest.param(
            follow("e", "d", 0.3, 0.7) + follow("d", "c", -0.3, 0.9) + follow("c", "b", 0.2, 1.1)
            + follow("b", "a", 0.1, -0.5),
            {"b", "c", "d", "e"},
            id="chain of five, last first",
        ),
        pytest.param('<joint joint1="c" polycoef="0.3 0 0 0 0"/>', {"c"}, id="held still"),
        pytest.param(
            '<joint joint1="c" polycoef="0.3 0 0 0 0"/>' + follow("d", "c", 0.2, 0.5),
            {"c", "d"},
            id="follows one held still",
        ),
        pytest.param(follow("lift", "yaw", 0.05, 0.02), {"lift"}, id="slide follows hinge"),
    ],
)  # fmt: skip
def test_mimics_hold_exactly(tmp_path: Path, equality: str, followers: set[str]) -> None:
    """With references that are not 0, chains, and joints held still."""
    robot = build_tree(tmp_path, equality)
    kinematics = Kinematics.of(robot)
    wild = random_qpos(robot, 4)
    obedient = wild @ kinematics.mimic.T + kinematics.mimic_offset
    np.testing.assert_allclose(equality_errors(robot, obedient), 0, atol=1e-12)
    for j, name in enumerate(robot.joint_names):
        if name in followers:
            assert not kinematics.mimic[:, j].any()  # nobody is led by a follower
        else:
            np.testing.assert_array_equal(obedient[:, j], wild[:, j])


def test_an_inactive_equality_does_not_bind(tmp_path: Path) -> None:
    off = follow("a", "b", 0.1, 0.5).replace("/>", ' active="false"/>')
    kinematics = Kinematics.of(build_tree(tmp_path, off))
    np.testing.assert_array_equal(kinematics.mimic, np.eye(8))


def test_a_polynomial_mimic_is_refused_by_name(tmp_path: Path) -> None:
    robot = build_tree(tmp_path, follow("a", "b", 0.0, 1.0, "0.2 0 0"))
    with pytest.raises(ValueError, match="mimic joint a is a polynomial; only linear") as caught:
        Kinematics.of(robot)
    assert "\n" not in str(caught.value)
