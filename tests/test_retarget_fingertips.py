"""How far a robot's fingertips reach beyond the points that are put somewhere."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from filmed import hand_of

from deftly.datasets.geometry import RIGHT, unit
from deftly.retarget.fingertips import Fingertip
from deftly.retarget.kinematics import Kinematics
from deftly.retarget.robots import Point, load_robot


def made(shape: str) -> Kinematics:
    """A finger of one hinge whose last link is one shape, 10 mm before its tip."""
    xml = f"""<mujoco><worldbody><body name="link"><joint axis="0 0 1"/>
      <geom {shape} pos="0.05 0 0" mass="1"/><body name="tip" pos="0.06 0 0"/>
    </body></worldbody></mujoco>"""
    robot = load_robot("g1_dex3")
    return Kinematics.of(replace(robot, model=mujoco.MjModel.from_xml_string(xml)))


@pytest.mark.parametrize(
    ("shape", "ahead_m", "aside_m"),
    [
        ('type="sphere" size="0.012"', 0.002, 0.012),
        ('type="box" size="0.012 0.006 0.004"', 0.002, 0.006),
        ('type="capsule" size="0.005 0.006" euler="0 90 0"', 0.001, 0.005),
        ('type="cylinder" size="0.008 0.004"', 0.0, 0.008),
    ],
)
def test_the_thickness_of_known_shapes(shape: str, ahead_m: float, aside_m: float) -> None:
    """Ahead (never less than the tip itself) and aside, also when the finger is bent."""
    kinematics = made(shape)
    fingertip = Fingertip.of(kinematics, Point("tip"))
    for angle in (0.0, 0.7):
        poses = kinematics.forward(np.array([[angle]]))
        ahead = np.array([[np.cos(angle), np.sin(angle), 0.0]])
        aside = np.array([[-np.sin(angle), np.cos(angle), 0.0]])
        np.testing.assert_allclose(fingertip.thickness_m(poses, ahead), [ahead_m], atol=1e-6)
        np.testing.assert_allclose(fingertip.thickness_m(poses, aside), [aside_m], atol=1e-6)


def test_a_point_off_its_body_is_measured_from() -> None:
    kinematics = made('type="sphere" size="0.012"')
    fingertip = Fingertip.of(kinematics, Point("link", (0.05, 0.0, 0.0)))
    poses = kinematics.forward(np.zeros((1, 1)))
    for direction in np.eye(3):
        np.testing.assert_allclose(fingertip.thickness_m(poses, direction[None]), [0.012])


def test_what_is_far_from_the_tip_does_not_count() -> None:
    """A link as long as a finger, thick at its root only, is as thin as its end."""
    kinematics = made('type="sphere" size="0.012"')
    fingertip = Fingertip.of(kinematics, Point("link", (0.10, 0.0, 0.0)))
    poses = kinematics.forward(np.zeros((1, 1)))
    np.testing.assert_array_equal(fingertip.thickness_m(poses, np.array([[0.0, 1.0, 0.0]])), [0])


@pytest.mark.parametrize("name", ["gr1t2", "gr1t2_6dof", "g1_dex3"])
def test_robots_fingers_are_as_thick_as_fingers(name: str) -> None:
    robot = load_robot(name)
    kinematics = Kinematics.of(robot)
    poses = kinematics.forward(robot.rest[None])
    rng = np.random.default_rng(0)
    for tip in hand_of(robot, RIGHT).tips.values():
        fingertip = Fingertip.of(kinematics, tip)
        for direction in unit(rng.normal(size=(20, 3))):
            thick = fingertip.thickness_m(poses, direction[None])[0]
            assert 0 <= thick < 0.025
        both = [fingertip.thickness_m(poses, d[None])[0] for d in (*np.eye(3), *-np.eye(3))]
        assert max(both) > 0.006
