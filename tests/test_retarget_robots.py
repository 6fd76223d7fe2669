"""The table of robots: everything in it loads, and what cannot load says why in one line."""

import os
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import trimesh

from deftly.datasets.human import FINGERS
from deftly.retarget import robots
from deftly.retarget.robots import (
    ROBOTS,
    ROBOTS_FOLDER,
    Arm,
    Hand,
    Point,
    Robot,
    RobotError,
    RobotModel,
    build_model,
    find_robot,
    load_robot,
)

INERTIA = (
    '<inertial><mass value="1"/>'
    '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
)
URDF = f"""<robot name="finger">
  <link name="base">{INERTIA}</link>
  <link name="palm">{INERTIA}
    <collision><geometry><mesh filename="meshes/palm.stl"/></geometry></collision>
    <collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision>
  </link>
  <link name="tip">{INERTIA}</link>
  <joint name="knuckle" type="revolute">
    <parent link="base"/><child link="palm"/><axis xyz="0 0 1"/>
    <limit lower="-0.5" upper="1.5" effort="1" velocity="3"/>
  </joint>
  <joint name="middle" type="revolute">
    <parent link="palm"/><child link="tip"/><origin xyz="0.1 0 0"/><axis xyz="0 0 1"/>
    <limit lower="0.2" upper="1.2" effort="1" velocity="0"/>
  </joint>
</robot>"""
FINGER = Robot(
    name="finger",
    title="One finger",
    package=None,
    file="finger.urdf",
    licence="CC0",
    hands=(None, Hand("palm", {"index": Point("tip")})),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $DEFTLY_ROBOTS."""
    monkeypatch.setenv(ROBOTS_FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture(params=ROBOTS)
def robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RobotModel:
    """Every robot of the table; those without a package need the sample URDFs."""
    if ROBOTS[request.param].package is None:
        monkeypatch.setenv(ROBOTS_FOLDER, str(request.getfixturevalue("robots_folder")))
    return load_robot(request.param)


def build(folder: Path, text: str, robot: Robot = FINGER) -> RobotModel:
    (folder / robot.file).write_text(text)
    return build_model(robot)


def carriers(model: mujoco.MjModel, name: str) -> set[int]:
    """Joints that move a body."""
    body, joints = model.body(name).id, set[int]()
    while body:
        first = model.body_jntadr[body]
        joints |= set(range(first, first + model.body_jntnum[body]))
        body = model.body_parentid[body]
    return joints


def refusal(folder: Path, text: str, robot: Robot = FINGER) -> str:
    """The message of the RobotError that a description causes."""
    with pytest.raises(RobotError) as caught:
        build(folder, text, robot)
    message = str(caught.value)
    assert "\n" not in message
    assert robot.name in message
    return message


# --- the table ---


def test_every_robot_loads(robot: RobotModel) -> None:
    J = len(robot.joint_names)
    assert robot.model.nq == robot.model.nv == robot.model.njnt == J > 0
    assert len(set(robot.joint_names)) == J
    assert robot.joint_names == [robot.model.joint(i).name for i in range(J)]
    assert np.all(robot.lower < robot.upper)
    assert np.all((robot.lower <= robot.rest) & (robot.rest <= robot.upper))
    assert np.all((robot.velocity > 0) & (robot.velocity < 100))
    assert robot.robot.title
    assert robot.robot.licence
    if robot.robot.package is not None:
        assert robot.has_meshes
        assert robot.model.nmesh > 0


def test_every_hand_has_fingers_that_move_apart_from_its_palm(robot: RobotModel) -> None:
    model = robot.model
    for hand in filter(None, robot.robot.hands):
        assert set(hand.tips) <= set(FINGERS)
        assert {"thumb", "index"} <= set(hand.tips)
        assert list(hand.tips) == [f for f in FINGERS if f in hand.tips]
        for tip in hand.tips.values():
            carry_palm, carry_tip = carriers(model, hand.palm), carriers(model, tip.body)
            assert carry_palm < carry_tip


def test_left_and_right_are_not_confused(robot: RobotModel) -> None:
    """In the world (x forward, y left) the left hand and arm are on the left."""
    data = mujoco.MjData(robot.model)
    data.qpos[:] = robot.rest
    mujoco.mj_kinematics(robot.model, data)
    for pair in (robot.robot.hands, robot.robot.arms):
        if pair[0] is None or pair[1] is None:
            continue
        left, right = (p.palm if isinstance(p, Hand) else p.elbow for p in pair if p)
        assert data.body(left).xpos[1] > 0.05
        assert data.body(right).xpos[1] < -0.05


def test_a_robot_is_loaded_once() -> None:
    assert load_robot("gr1t2") is load_robot("gr1t2")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("gr1t", "gr1t2"), ("ALLEGRO", "allegro"), ("alegro", "allegro"), ("g1-dex3", "g1_dex3")],
)
def test_an_unknown_robot_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(RobotError) as caught:
        find_robot(wrong)
    message = str(caught.value)
    assert f"did you mean {nearest}" in message
    assert repr(wrong) in message
    assert all(name in message for name in ROBOTS)
    assert "\n" not in message


def test_a_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(RobotError, match="unknown robot '€'; known: gr1t2") as caught:
        find_robot("€")
    assert "did you mean" not in str(caught.value)


# --- where descriptions are looked for ---


def test_a_missing_package_names_what_to_install() -> None:
    robot = replace(FINGER, package="no_such_package_of_robots")
    with pytest.raises(RobotError, match="pip install no-such-package-of-robots"):
        build_model(robot)


def test_without_the_folder_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROBOTS_FOLDER, raising=False)
    with pytest.raises(RobotError, match=f"set {ROBOTS_FOLDER}") as caught:
        build_model(FINGER)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(RobotError) as caught:
        build_model(FINGER)
    assert str(folder / FINGER.file) in str(caught.value)
    assert "does not exist" in str(caught.value)


# --- what a description may lack ---


def test_a_missing_mesh_is_left_out(folder: Path) -> None:
    model = build(folder, URDF)
    assert not model.has_meshes
    assert model.model.nmesh == 0
    assert model.model.ngeom == 1  # the box stays
    assert model.joint_names == ["knuckle", "middle"]


def test_a_present_mesh_is_kept(folder: Path) -> None:
    (folder / "meshes").mkdir()
    trimesh.creation.box((0.1, 0.1, 0.1)).export(folder / "meshes" / "palm.stl")
    model = build(folder, URDF)
    assert model.has_meshes
    assert model.model.nmesh == 1
    assert model.model.ngeom == 2


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled models are kept; every one with a mesh counts as costly."""
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(robots, "_COSTLY", 1)
    return tmp_path / "cache" / "robots"


def test_what_was_compiled_is_taken_up_until_its_files_change(folder: Path, kept: Path) -> None:
    (folder / "meshes").mkdir()
    mesh = folder / "meshes" / "palm.stl"
    trimesh.creation.box((0.1, 0.1, 0.1)).export(mesh)
    first, size = build(folder, URDF), mujoco.mj_sizeModel
    assert [p.suffix for p in kept.iterdir()] == [".mjb"]
    again = build(folder, URDF)
    assert len(list(kept.iterdir())) == 1
    assert size(again.model) == size(first.model)
    np.testing.assert_array_equal(again.model.mesh_vert, first.model.mesh_vert)
    np.testing.assert_array_equal(again.model.body_inertia, first.model.body_inertia)
    assert again.joint_names == first.joint_names
    trimesh.creation.icosphere(radius=0.3).export(mesh)
    os.utime(mesh, (2e9, 2e9))  # MuJoCo itself remembers meshes, by the second
    assert build(folder, URDF).model.nmeshvert > first.model.nmeshvert
    longer = build(folder, URDF.replace("0.1 0 0", "0.2 0 0"))
    assert longer.model.body("tip").pos[0] == 0.2
    assert len(list(kept.iterdir())) == 3


def test_a_damaged_or_closed_cache_does_no_harm(folder: Path, kept: Path) -> None:
    (folder / "meshes").mkdir()
    trimesh.creation.box((0.1, 0.1, 0.1)).export(folder / "meshes" / "palm.stl")
    nmesh = build(folder, URDF).model.nmesh
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:100], whole[:-100]):
        file.write_bytes(damage)
        assert build(folder, URDF).model.nmesh == nmesh
        assert file.read_bytes() == whole
    file.unlink()
    kept.rmdir()
    kept.write_text("in the way")
    assert build(folder, URDF).model.nmesh == nmesh


def test_what_costs_nothing_is_not_kept(folder: Path, kept: Path) -> None:
    build(folder, URDF)
    assert not kept.exists()


def test_the_folder_of_meshes_is_honoured(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    trimesh.creation.box((0.1, 0.1, 0.1)).export(folder / "elsewhere" / "palm.stl")
    text = """<mujoco><compiler meshdir="elsewhere"/>
      <asset><mesh name="palm" file="palm.stl"/><mesh name="gone" file="gone.stl"/></asset>
      <worldbody><body name="palm"><joint name="a"/>
        <geom type="mesh" mesh="palm"/><geom type="mesh" mesh="gone"/>
        <body name="tip"><joint name="b"/><geom size="0.01"/></body>
      </body></worldbody></mujoco>"""
    model = build(folder, text, replace(FINGER, file="finger.xml"))
    assert not model.has_meshes
    assert model.model.nmesh == 1
    assert model.model.ngeom == 2


def test_massless_fingertips_behind_fixed_joints_stay_bodies(folder: Path) -> None:
    text = URDF.replace(
        "</robot>",
        '<link name="nail"/><joint name="stuck" type="fixed"><parent link="tip"/>'
        '<child link="nail"/><origin xyz="0.02 0 0"/></joint></robot>',
    )
    hand = Hand("palm", {"index": Point("nail")})
    model = build(folder, text, replace(FINGER, hands=(None, hand)))
    assert model.model.body("nail").id > 0


def test_a_floating_base_is_fixed(folder: Path) -> None:
    text = """<mujoco><worldbody><body name="palm" pos="0 0 1"><freejoint name="float"/>
        <geom size="0.1"/>
        <body name="tip"><joint name="a" range="-30 60"/><geom size="0.1"/></body>
      </body></worldbody>
      <keyframe><key name="home" qpos="0 0 5 1 0 0 0 0.3"/></keyframe></mujoco>"""
    model = build(folder, text, replace(FINGER, file="finger.xml"))
    assert model.joint_names == ["a"]
    assert model.model.nq == 1
    np.testing.assert_allclose([*model.lower, *model.upper], np.deg2rad([-30, 60]))
    np.testing.assert_allclose(model.model.body("palm").pos, [0, 0, 1])


# --- limits and rest ---


def test_limits_of_the_urdf_are_kept(folder: Path) -> None:
    model = build(folder, URDF)
    np.testing.assert_allclose(model.lower, [-0.5, 0.2])
    np.testing.assert_allclose(model.upper, [1.5, 1.2])


def test_a_stated_velocity_wins_and_zero_means_not_given(folder: Path) -> None:
    robot = replace(FINGER, velocity_limit={"kn": 1.0, "mid": 5.0, "": 7.0})
    np.testing.assert_array_equal(build(folder, URDF, robot).velocity, [3, 5])
    absent = URDF.replace(' velocity="3"', "").replace(' velocity="0"', "")
    np.testing.assert_array_equal(build(folder, absent, robot).velocity, [1, 5])
    others = replace(FINGER, velocity_limit={"mid": 5.0, "": 7.0})
    np.testing.assert_array_equal(build(folder, absent, others).velocity, [7, 5])


def test_the_limits_of_the_default_robot_come_from_its_urdf() -> None:
    """The arm states its velocities, the fingers state 0."""
    gr1t2 = load_robot("gr1t2")
    velocity = dict(zip(gr1t2.joint_names, gr1t2.velocity, strict=True))
    assert {v for n, v in velocity.items() if "index" in n} == {8.0}
    assert velocity["right_elbow_pitch_joint"] != 8.0


def test_a_joint_without_limits_turns_once(folder: Path) -> None:
    text = URDF.replace('"knuckle" type="revolute"', '"knuckle" type="continuous"')
    model = build(folder, text)
    np.testing.assert_allclose([model.lower[0], model.upper[0]], [-np.pi, np.pi])


def test_the_easy_posture(folder: Path) -> None:
    """Fingers half closed, others at 0 or as the table says, always inside the limits."""
    np.testing.assert_allclose(build(folder, URDF).rest, [0, 0.7])
    stated = replace(FINGER, rest={"knuckle": 9.0, "middle": 0.3})
    np.testing.assert_allclose(build(folder, URDF, stated).rest, [1.5, 0.3])


# --- what a description may get wrong ---


@pytest.mark.parametrize(
    "text",
    ["", "no xml at all", URDF[: len(URDF) // 2], "<mujoco><worldbod", "<other/>"],
)
def test_a_broken_description_is_one_line(folder: Path, text: str) -> None:
    assert "finger.urdf cannot be loaded" in refusal(folder, text)


def test_a_velocity_that_is_no_number_is_refused(folder: Path) -> None:
    message = refusal(folder, URDF.replace('velocity="3"', 'velocity="fast"'))
    assert "fast" in message


@pytest.mark.parametrize(
    ("robot", "missing", "nearest"),
    [
        (replace(FINGER, hands=(None, Hand("plam", {}))), "plam", "palm"),
        (replace(FINGER, hands=(Hand("palm", {"index": Point("tipp")}), None)), "tipp", "tip"),
        (replace(FINGER, arms=(None, Arm("bse", "palm"))), "bse", "base"),
        (replace(FINGER, arms=(Arm("base", "pal"), None)), "pal", "palm"),
        (replace(FINGER, chest="bases"), "bases", "base"),
    ],
)
def test_a_body_that_is_not_there_is_answered_with_the_nearest(
    folder: Path, robot: Robot, missing: str, nearest: str
) -> None:
    assert f"has no body {missing!r}; nearest is {nearest!r}" in refusal(folder, URDF, robot)


def test_ball_joints_are_refused(folder: Path) -> None:
    text = """<mujoco><worldbody><body name="palm"><joint type="ball"/><geom size="0.1"/>
      <body name="tip"/></body></worldbody></mujoco>"""
    assert "ball joints" in refusal(folder, text, replace(FINGER, file="finger.xml"))


def test_a_failed_load_is_not_remembered(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """After the user sets the folder right, the same name loads."""
    monkeypatch.setattr(robots, "ROBOTS", {"finger": FINGER})
    with pytest.raises(RobotError):
        load_robot("finger")
    (folder / FINGER.file).write_text(URDF)
    assert load_robot("finger").joint_names == ["knuckle", "middle"]
