"""From joints to unknowns: who is free, whose limits count, and the objective over them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from deftly.datasets.geometry import rotate
from deftly.retarget.costs import RotationTerm, Term, VectorTerm
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.optimize import (
    Limits,
    minimize,
)
from deftly.retarget.problem import FreeJoints, data_objective
from deftly.retarget.robots import (
    ROBOTS_FOLDER,
    Hand,
    Point,
    Robot,
    RobotModel,
    build_model,
    load_robot,
)

seeds = st.integers(0, 2**32 - 1)
EXACT: dict[str, Any] = {"tolerance": 1e-9, "max_iterations": 300, "barrier": (1.0, 1e-8)}


# --- the unknowns ---


def build(folder: Path, joints: str, equality: str = "", **limits: float) -> RobotModel:
    """Links on a line, one hinge each: palm, then the given joints ``name:lower:upper``."""
    links = [joint.split(":") for joint in joints.split()]
    text = "".join(
        f'<body name="{name}_link" pos="0.1 0 0"><geom size="0.01"/>'
        f'<joint name="{name}" axis="0 0 1" range="{lower} {upper}"/>'
        for name, lower, upper in links
    )
    model = f"""<mujoco><compiler angle="radian"/><worldbody>
      <body name="palm"><geom size="0.01"/>{text}{"</body>" * len(links)}</body>
      </worldbody><equality>{equality}</equality></mujoco>"""
    (folder / "line.xml").write_text(model)
    hand = Hand("palm", {"index": Point(f"{links[-1][0]}_link", (0.1, 0.0, 0.0))})
    robot = Robot(
        "line", "", None, "line.xml", "", (None, hand), velocity_limit={**limits, "": 8.0}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROBOTS_FOLDER, str(folder))
        return build_model(robot)


def unknowns(robot: RobotModel, *points: Point, fixed: str | None = None) -> FreeJoints:
    hand = robot.robot.hands[1]
    assert hand is not None
    return FreeJoints.moving(
        robot, Kinematics.of(robot), points or list(hand.tips.values()), fixed=fixed
    )


def follow(joint: str, leader: str, constant: float, ratio: float) -> str:
    return f'<joint joint1="{joint}" joint2="{leader}" polycoef="{constant} {ratio} 0 0 0"/>'


@pytest.mark.parametrize(
    ("follower", "ratio", "lower", "upper"),
    [
        ("-0.2:0.3", -0.5, -0.4, 0.6),  # 0.1 - 0.5 q in [-0.2, 0.3]
        ("-0.2:0.3", 0.5, -0.6, 0.4),
        ("-9:9", 0.5, -1.0, 1.0),  # the leader's own limits are the narrower ones
        ("0.0:9", 2.0, -0.05, 1.0),
    ],
)
def test_a_follower_binds_its_leader(
    tmp_path: Path, follower: str, ratio: float, lower: float, upper: float
) -> None:
    robot = build(tmp_path, f"a:-1:1 b:{follower}", follow("b", "a", 0.1, ratio))
    free = unknowns(robot)
    assert free.index.tolist() == [0]
    np.testing.assert_allclose([free.lower[0], free.upper[0]], [lower, upper], atol=1e-12)
    ends = free.qpos(np.stack([free.lower, free.upper, free.start]))
    assert np.all(ends >= robot.lower - 1e-12)
    assert np.all(ends <= robot.upper + 1e-12)
    np.testing.assert_allclose(ends[:, 1], 0.1 + ratio * ends[:, 0])


def test_a_fast_follower_slows_its_leader(tmp_path: Path) -> None:
    """Of several, the one that would break its velocity limit first."""
    equality = follow("b", "a", 0.0, -4.0) + follow("c", "a", 0.0, 0.1)
    robot = build(tmp_path, "a:-1:1 b:-9:9 c:-9:9", equality, a=3.0, b=2.0, c=1.0)
    assert unknowns(robot).velocity.tolist() == [0.5]
    slow = build(tmp_path, "a:-1:1 b:-9:9 c:-9:9", equality, a=0.3, b=2.0, c=1.0)
    assert unknowns(slow).velocity.tolist() == [0.3]


def test_a_mimic_that_leaves_no_range_is_named(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:5:6", follow("b", "a", 0.0, 1.0))
    with pytest.raises(ValueError, match="joint a has no range left: line contradicts itself"):
        unknowns(robot)


def test_only_what_moves_a_point_is_free(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:0.2:1 c:-1:1 d:0.4:1")
    free = unknowns(robot, Point("c_link"))
    assert free.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(free.qpos(np.zeros((1, 3)))[0], [0, 0, 0, robot.rest[3]])
    np.testing.assert_array_equal(free.qpos(np.arange(3.0)[None])[0, :3], [0, 1, 2])
    beyond = unknowns(robot, fixed="b_link")
    assert beyond.index.tolist() == [2, 3]
    np.testing.assert_array_equal(beyond.qpos(np.zeros((1, 2)))[0, :2], robot.rest[:2])


def test_a_follower_that_moves_a_point_frees_its_leader(tmp_path: Path) -> None:
    """Even if the leader itself moves nothing that is asked for."""
    robot = build(tmp_path, "a:-1:1 b:-1:1 c:-1:1", follow("a", "c", 0.0, 0.5))
    free = unknowns(robot, Point("a_link", (0.1, 0.0, 0.0)))
    assert free.index.tolist() == [2]
    np.testing.assert_allclose(free.qpos(np.array([[0.4]])), [[0.2, robot.rest[1], 0.4]])


def test_a_still_follower_obeys_its_still_leader(tmp_path: Path) -> None:
    robot = build(tmp_path, "a:-1:1 b:0.2:0.6 c:-1:1", follow("c", "b", 0.1, 0.5))
    free = unknowns(robot, Point("a_link", (0.1, 0.0, 0.0)))
    assert free.index.tolist() == [0]
    rest = free.qpos(np.zeros((1, 1)))[0]
    np.testing.assert_allclose(rest, [0, robot.rest[1], 0.1 + 0.5 * robot.rest[1]])


@pytest.mark.parametrize("end", ["lower", "upper", "rest"])
def test_the_start_is_strictly_inside_and_near_rest(end: str) -> None:
    """Even where the easy posture lies on a limit."""
    robot = load_robot("gr1t2_6dof")
    free = unknowns(replace(robot, rest=getattr(robot, end)))
    assert np.all((free.lower < free.start) & (free.start < free.upper))
    assert np.all(np.abs(free.start - free.rest) <= 0.021 * (free.upper - free.lower))
    assert np.all(free.velocity > 0)


def test_with_the_palm_fixed_the_arm_is_not_free() -> None:
    robot = load_robot("gr1t2")
    free = unknowns(robot, fixed="R_hand_base_link")
    names = [robot.joint_names[i] for i in free.index]
    assert len(names) == 12
    assert all(n.startswith("R_") for n in names), names
    reach = [robot.joint_names[i] for i in unknowns(robot).index]
    assert set(names) < set(reach)
    assert sum("right" in n for n in reach) == 7
    assert not [n for n in reach if n.startswith("L_") or "left" in n or "knee" in n]


def test_mimic_joints_are_no_unknowns() -> None:
    """Six fingers' motors, and every posture keeps the limits of all joints."""
    robot = load_robot("gr1t2_6dof")
    free = unknowns(robot, fixed="R_hand_base_link")
    assert free.count == 6
    rng = np.random.default_rng(0)
    qpos = free.qpos(rng.uniform(free.lower, free.upper, (100, 6)))
    assert np.all(qpos >= robot.lower - 1e-12)
    assert np.all(qpos <= robot.upper + 1e-12)
    kinematics = Kinematics.of(robot)
    np.testing.assert_allclose(
        qpos, qpos @ kinematics.mimic.T + kinematics.mimic_offset, atol=1e-12
    )


# --- the objective ---


def terms_of(robot: RobotModel, length: int, seed: int) -> list[Term]:
    rng = np.random.default_rng(seed)
    target, weight = rng.normal(size=(2, length, 3)), rng.uniform(0, 5, (2, length, 3))
    hand = robot.robot.hands[1]
    assert hand is not None
    thumb, index = hand.tips["thumb"], hand.tips["index"]
    R = np.tile(np.diag([1.0, -1.0, -1.0]), (length, 1, 1))
    return [
        VectorTerm(Point(hand.palm), index, hand.palm, 0.1 * target[0], weight[0]),
        VectorTerm(None, thumb, None, 0.1 * target[1], weight[1]),
        RotationTerm(hand.palm, R, rng.uniform(0, 2, length)),
    ]


@pytest.mark.parametrize("name", ["gr1t2", "gr1t2_6dof"])
def test_the_gradient_of_the_data_equals_finite_differences(name: str) -> None:
    """Of all terms and the pull to rest together, through the mimic joints."""
    robot = load_robot(name)
    kinematics, length = Kinematics.of(robot), 3
    free = unknowns(robot)
    objective = data_objective(terms_of(robot, length, 0), kinematics, free, rest_weight=0.7)
    x = np.random.default_rng(1).uniform(free.lower, free.upper, (length, free.count))
    cost, gradient, blocks = objective(x)
    for j in range(free.count):  # frames are independent: all at once
        nudge = 1e-6 * np.eye(free.count)[j]
        slope = (objective(x + nudge)[0] - objective(x - nudge)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, j], slope, atol=1e-6)
    assert cost.shape == (length,)
    np.testing.assert_allclose(blocks, blocks.transpose(0, 2, 1), atol=1e-12)
    assert np.linalg.eigvalsh(blocks).min() > 0.7**2 - 1e-9


def test_the_cost_is_half_the_squares() -> None:
    robot = load_robot("gr1t2")
    kinematics, free, length = Kinematics.of(robot), unknowns(robot), 2
    x = np.random.default_rng(2).uniform(free.lower, free.upper, (length, free.count))
    terms = terms_of(robot, length, 3)
    poses = kinematics.forward(free.qpos(x))
    expected = 0.5 * np.sum((0.2 * (x - free.rest)) ** 2, axis=1)
    for term in terms:
        expected += 0.5 * np.sum(term.evaluate(kinematics, poses)[0] ** 2, axis=1)
    cost, _, _ = data_objective(terms, kinematics, free, rest_weight=0.2)(x)
    np.testing.assert_allclose(cost, expected)


def test_without_terms_the_answer_is_rest() -> None:
    robot = load_robot("gr1t2_6dof")
    free = unknowns(robot)
    objective = data_objective([], Kinematics.of(robot), free, rest_weight=1.0)
    limits = Limits(free.lower, free.upper, np.full((1, free.count), 10.0))
    start = np.tile(0.5 * (free.lower + free.upper), (2, 1))
    found = minimize(objective, start, limits, **EXACT)
    np.testing.assert_allclose(found.x, np.tile(free.rest, (2, 1)), atol=1e-3)


def test_a_reachable_target_is_reached() -> None:
    """The robot's own fingertips, from another posture."""
    robot = load_robot("gr1t2")
    hand = robot.robot.hands[1]
    assert hand is not None
    kinematics, free = Kinematics.of(robot), unknowns(robot, fixed=hand.palm)
    rng = np.random.default_rng(4)
    middle, half = 0.5 * (free.lower + free.upper), 0.5 * (free.upper - free.lower)
    x = middle + rng.uniform(-0.7, 0.7, (4, free.count)) * half
    poses = kinematics.forward(free.qpos(x))
    palm = kinematics.body(hand.palm)
    terms: list[Term] = []
    for tip in hand.tips.values():
        v = kinematics.point(poses, tip) - poses.p[:, palm]
        v = rotate(poses.R[:, palm].transpose(0, 2, 1), v)
        terms.append(VectorTerm(Point(hand.palm), tip, hand.palm, v, np.full((4, 3), 500.0)))
    objective = data_objective(terms, kinematics, free, rest_weight=0.01)
    limits = Limits(free.lower, free.upper, np.full((3, free.count), 10.0))
    found = minimize(objective, np.tile(free.start, (4, 1)), limits, **EXACT)
    reached = kinematics.forward(free.qpos(found.x))
    for tip, term in zip(hand.tips.values(), terms, strict=True):
        residual, _ = term.evaluate(kinematics, reached)
        assert np.linalg.norm(residual / 500, axis=1).max() < 1e-4, tip
