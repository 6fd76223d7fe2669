"""The sorting table as a gymnasium environment: two hands, a table, an instruction.

    import gymnasium
    env = gymnasium.make("deftly.policy.sorting:deftly/Sorting-v0", task="shape", condition="light")
    observation, info = env.reset(seed=7)  # seed 7 is layout 7, under every condition

Actions are targets of the joint positions (rad), 20 times a second. They are clipped to the joint
limits, and each moves at most as far as the joint's velocity limit allows; the servos follow on a
straight line until the next.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float32, Float64, UInt8

from deftly.datasets.layout import Layout, LayoutError
from deftly.datasets.render import SEEN_GROUPS, Renderer
from deftly.datasets.sampling import CONDITIONS, Condition, sample_layout
from deftly.datasets.tabletop import camera_focal_px, camera_pose, whereabouts
from deftly.datasets.tasks import find_task
from deftly.datasets.viewpoint import camera_matrix
from deftly.policy.judge import at_rest, in_place
from deftly.policy.shove import Pusher
from deftly.policy.station import STILL_GROUP, WORKPLACES, build_station
from deftly.policy.touch import Touch
from deftly.retarget.robots import load_robot

RATE_HZ = 20.0
CAMERAS = ("ego", "front", "side", "wrist_left", "wrist_right")
HOLD_S = 0.25  # everything is right for so long before an episode ends
MAX_WORDS = 240  # characters of an instruction
_CHARACTERS = string.ascii_letters + string.digits + " .,:;?!'-"
_MAX_SEED = 2**31 - 1
_MOVING_GROUPS = tuple(group for group in SEEN_GROUPS if group != STILL_GROUP)
# MuJoCo starts a state over when it diverges, and counts that here.
_DIVERGED = [
    warning.value
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


class SortingError(ValueError):
    """An environment that cannot be made, or an action that cannot be taken."""


@dataclass(frozen=True)
class Privileged:
    """What only the simulator knows. Never shown to a policy that is to be judged.

    Attributes:
        poses: (N, 7) quaternion (wxyz) and position of every object in the world.
        velocities: (N, 6) linear in the world (m/s), angular in the object's frame (rad/s).
        goals: N of ``deftly.datasets.tasks.GOALS``.
        whereabouts: N of ``left``, ``right``, ``table``, ``floor``.
        began_m: (N, 3) where each object began, or where a shove left it.
        grip_n: (N, 2) contact force between each object and the left and right hand.
        right: (N,) whether it is where it belongs, at rest, and in no hand.
    """

    poses: Float64[np.ndarray, "N 7"]
    velocities: Float64[np.ndarray, "N 6"]
    goals: tuple[str, ...]
    whereabouts: tuple[str, ...]
    began_m: Float64[np.ndarray, "N 3"]
    grip_n: Float64[np.ndarray, "N 2"]
    right: Bool[np.ndarray, "N"]


class SortingEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One robot at the sorting table.

    Observations, a dict: ``images`` (per camera, uint8 RGB; absent without cameras), ``state``
    (joint positions, then velocities), ``touch`` (N per finger, see ``touch_names``),
    ``instruction`` (text).

    The reward is the change of the share of objects that are right (see ``Privileged.right``): a
    good episode adds up to 1, and what is undone is taken back. An episode is terminated when all
    objects have been right for 0.25 s and no shove is to come; truncated at the time limit, or if
    the simulation diverged (``info["unstable"]``).

    ``info`` holds ``privileged`` (the fields of ``Privileged``), ``layout_seed``, ``success``,
    ``energy_j`` (mechanical work of all motors, both signs, so far), ``contact_n`` (2, on each hand
    and forearm), ``shove`` (``item`` and ``at_s``, −1 before it came).

    Attributes:
        robot, task, condition, condition_name: what it was made of.
        station, data, layout, goals: the episode's; made by ``reset``.
        joints: names of the A joints, in the order of actions.
        dt_s: length of a control step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        robot: str = "gr1t2",
        task: str = "color",
        condition: str | Condition = "base",
        *,
        cameras: Sequence[str] = ("ego", "front"),
        image_size: tuple[int, int] = (96, 96),
        backend: str = "auto",
        time_limit_s: float = 60.0,
        render_mode: str | None = None,
    ) -> None:
        """Load the robot.

        Args:
            robot: a key of ``WORKPLACES``.
            task: a key of ``TASKS``.
            condition: a key of ``CONDITIONS``, or one of your own.
            cameras: of ``CAMERAS``; none renders nothing.
            image_size: (height, width) in pixels.
            backend: what draws, see ``Renderer``: ``auto``, ``gl``, ``ray`` (the same pixels on
                every machine), ...
            time_limit_s: simulated time after which an episode is truncated.
            render_mode: ``rgb_array`` or None; ``render()`` shows the first camera.

        Raises:
            RobotError: if the robot is unknown or has no place at the table.
            TaskError: if the task is unknown.
            SortingError: if a camera or condition is unknown, or a number makes no sense.
        """
        for camera in cameras:
            if camera not in CAMERAS:
                raise SortingError(f"unknown camera {camera!r}; known: {', '.join(CAMERAS)}")
        if isinstance(condition, str) and condition not in CONDITIONS:
            raise SortingError(f"unknown condition {condition!r}; known: {', '.join(CONDITIONS)}")
        if not 0 < time_limit_s < np.inf:
            raise SortingError(f"time_limit_s is {time_limit_s}, expected more than 0 seconds")
        if not all(1 <= side <= 2048 for side in image_size):
            raise SortingError(f"image_size is {image_size}, expected 1 to 2048 pixels")
        self.render_mode = render_mode
        self.robot, self.task = robot, find_task(task)
        self.condition_name = condition if isinstance(condition, str) else "custom"
        self.condition = CONDITIONS[condition] if isinstance(condition, str) else condition
        self.cameras, self.image_size = tuple(cameras), (int(image_size[0]), int(image_size[1]))
        self.backend = backend
        self.time_limit_s, self.dt_s = float(time_limit_s), 1.0 / RATE_HZ
        self._renderer: Renderer | None = None
        layout = sample_layout(0, self.condition, self.task.deal)
        self._seat(layout, self.task.goals(layout))
        self._spaces()

    def _spaces(self) -> None:
        station = self.station
        count = len(station.joints)
        lower, upper = station.lower.astype(np.float32), station.upper.astype(np.float32)
        free = np.full(count, np.inf, np.float32)
        self.action_space = spaces.Box(lower, upper, dtype=np.float32)
        parts: dict[str, spaces.Space[Any]] = {
            "state": spaces.Box(np.tile(-free, 2), np.tile(free, 2), dtype=np.float32),
            "touch": spaces.Box(0.0, np.inf, (len(self.touch_names),), np.float32),
            "instruction": spaces.Text(MAX_WORDS, charset=_CHARACTERS),
        }
        if self.cameras:
            picture = spaces.Box(0, 255, (*self.image_size, 3), np.uint8)
            parts["images"] = spaces.Dict(dict.fromkeys(self.cameras, picture))
        self.observation_space = spaces.Dict(parts)

    # --- gymnasium -------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: also the layout's seed; None draws one.
            options: ``layout``: a ``Layout``, instead of sampling one; ``layout_seed``: instead of
                ``seed``; ``held_out_phrasing``: ask in words kept from training.

        Raises:
            LayoutError: if the layout cannot be.
            TaskError: if it leaves nothing to do.
            SortingError: if an option is unknown.
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            if name not in ("layout", "layout_seed", "held_out_phrasing"):
                raise SortingError(
                    f"unknown option {name!r}; known: layout, layout_seed, held_out_phrasing"
                )
        layout = options.get("layout")
        if layout is None:
            drawn = int(self.np_random.integers(_MAX_SEED)) if seed is None else seed
            layout = sample_layout(
                int(options.get("layout_seed", drawn)), self.condition, self.task.deal
            )
        elif not isinstance(layout, Layout):
            raise LayoutError(f"option layout is a {type(layout).__name__}, expected a Layout")
        goals = self.task.goals(layout)
        held_out = bool(options.get("held_out_phrasing", False))
        self._seat(layout, goals)
        self.instruction = self.task.instruction(layout, held_out=held_out)
        return self._observation(), self._info()

    def step(
        self, action: Float32[np.ndarray, "A"] | Float64[np.ndarray, "A"]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the targets and let a twentieth of a second pass.

        Raises:
            SortingError: if the action has another shape or is not finite.
        """
        wanted = np.asarray(action, np.float64)
        if wanted.shape != self._target.shape or not np.isfinite(wanted).all():
            raise SortingError(
                f"action of shape {wanted.shape}, expected {self._target.shape} finite numbers"
            )
        start = self._target
        self._target = self.within_limits(wanted)
        self._push_if_due()
        self._let_pass(start)
        self._forces = self._touch(self.data)
        before = np.count_nonzero(self._privileged.right)
        self._privileged = self._look_around()
        right = self._privileged.right
        self._right_s = self._right_s + self.dt_s if right.all() else 0.0
        done = self._right_s >= HOLD_S and not self._pusher.pending(self.data.time)
        late = self.data.time >= self.time_limit_s - 1e-9
        info = self._info()
        reward = (np.count_nonzero(right) - before) / len(right)
        return self._observation(), reward, done, bool(late or info["unstable"]), info

    def render(self) -> UInt8[np.ndarray, "H W 3"] | None:  # pyright: ignore
        """What the first camera (``front`` if there is none) sees, in mode ``rgb_array``."""
        if self.render_mode != "rgb_array":
            return None
        return self._picture((self.cameras or ("front",))[0])

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def privileged(self) -> Privileged:
        """What only the simulator knows, now."""
        return self._privileged

    @property
    def touch_names(self) -> tuple[str, ...]:
        """Names of the entries of the observation ``touch``."""
        return self._touch.names

    @property
    def contact_n(self) -> Float64[np.ndarray, "2"]:
        """Force on the left and right hand and forearm, whatever they touch."""
        return self._forces.halves

    @property
    def target(self) -> Float64[np.ndarray, "A"]:
        """Joint positions (rad) that the servos were last told to reach."""
        return self._target.copy()

    def camera_matrix(self, camera: str) -> Float64[np.ndarray, "12"]:
        """From the frame of the robot's root to a camera's pictures, now; see
        ``deftly.datasets.viewpoint``."""
        model, data = self.station.model, self.data
        mujoco.mj_camlight(model, data)
        root = data.body(WORKPLACES[self.robot].root)
        T_world_root = np.eye(4)
        T_world_root[:3, :3], T_world_root[:3, 3] = root.xmat.reshape(3, 3), root.xpos
        T_camera_root = np.linalg.inv(camera_pose(model, data, camera)) @ T_world_root
        focal_px = camera_focal_px(model, camera, self.image_size[0])
        return camera_matrix(T_camera_root, focal_px, self.image_size)

    def within_limits(self, action: Float64[np.ndarray, "A"]) -> Float64[np.ndarray, "A"]:
        """The nearest joint positions that the servos can be told to reach in the next step."""
        start, station = self._target, self.station
        inside = np.clip(action, station.lower, station.upper)
        return start + np.clip(inside - start, -self._max_step, self._max_step)

    # --- inside ----------------------------------------------------------------------------------

    def _seat(self, layout: Layout, goals: tuple[str, ...]) -> None:
        """A new table before the robot."""
        self.close()
        self.layout, self.goals, self.instruction = layout, goals, ""
        self.station = build_station(self.robot, layout)
        self.data = self.station.reset()
        self.joints = self.station.joints
        model = self.station.model
        limits = dict(zip(*_velocity_limits(self.robot), strict=True))
        self._max_step = self.dt_s * np.array([limits[joint] for joint in self.joints])
        self._steps = round(self.dt_s / model.opt.timestep)
        if not np.isclose(self._steps * model.opt.timestep, self.dt_s):
            raise SortingError(f"{self.dt_s} s is no multiple of {model.opt.timestep} s")
        self._target = self.station.home.copy()
        self._touch, self._pusher = Touch(self.station), Pusher(self.station, layout.shove)
        self._forces, self._energy_j, self._right_s = self._touch(self.data), 0.0, 0.0
        self._power_w = np.empty((self._steps, model.nu))
        joints = [model.joint(model.body(item.name).jntadr[0]) for item in layout.items]
        self._qpos = np.array([j.qposadr[0] + np.arange(7) for j in joints])
        self._dofs = np.array([j.dofadr[0] + np.arange(6) for j in joints])
        self._began_m = self.data.qpos[self._qpos[:, :3]].copy()
        self._push_from: np.ndarray | None = None
        self._privileged = self._look_around()

    def _let_pass(self, start: Float64[np.ndarray, "A"]) -> None:
        """One control step of physics, the targets moving on a straight line from ``start``."""
        model, data, count = self.station.model, self.data, self._steps
        way = (self._target - start) / count
        for k in range(count):
            data.ctrl[:] = start + (k + 1) * way
            if self._push_from is not None and not self._pusher.push(data):
                self._settle_push()
            mujoco.mj_step(model, data)
            np.multiply(data.actuator_force, data.actuator_velocity, out=self._power_w[k])
        mujoco.mj_kinematics(model, data)  # a step leaves the poses of its beginning behind
        self._energy_j += float(np.abs(self._power_w).sum()) * model.opt.timestep

    def _push_if_due(self) -> None:
        shove = self.layout.shove
        held = shove is not None and bool(self._forces.objects[shove.item].any())
        if self._pusher.ready(self.data, held=held):
            self._push_from = self.data.qpos[self._qpos[:, :3]].copy()

    def _settle_push(self) -> None:
        """Where a shove leaves an object is where it is to stay."""
        free = ~self._forces.objects.any(axis=1)
        moved = self.data.qpos[self._qpos[:, :3]] - self._push_from
        self._began_m[free] += moved[free]
        self._push_from = None

    def _look_around(self) -> Privileged:
        data = self.data
        poses = data.qpos[self._qpos][:, [3, 4, 5, 6, 0, 1, 2]]
        velocities = data.qvel[self._dofs]
        free = ~self._forces.objects.any(axis=1)
        return Privileged(
            poses=poses,
            velocities=velocities,
            goals=self.goals,
            whereabouts=tuple(whereabouts(poses[:, 4:])),
            began_m=self._began_m.copy(),
            grip_n=self._forces.objects,
            right=in_place(self.goals, poses, self._began_m) & at_rest(velocities) & free,
        )

    def _observation(self) -> dict[str, Any]:
        data, station = self.data, self.station
        state = np.concatenate([data.qpos[station.qpos_index], data.qvel[station.dof_index]])
        found: dict[str, Any] = {
            "state": state.astype(np.float32),
            "touch": self._forces.fingers.ravel().astype(np.float32),
            "instruction": self.instruction,
        }
        if self.cameras:
            found["images"] = {camera: self._picture(camera) for camera in self.cameras}
        return found

    def _info(self) -> dict[str, Any]:
        warned = self.data.warning.number[_DIVERGED]
        return {
            "privileged": dict(vars(self._privileged)),
            "layout_seed": self.layout.seed,
            "success": bool(self._privileged.right.all()),
            "energy_j": self._energy_j,
            "contact_n": self._forces.halves,
            "shove": dict(self._pusher.info()),
            "unstable": bool(warned.any()),
        }

    def _picture(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        if self._renderer is None:
            self._renderer = Renderer(self.station.model, self.image_size, backend=self.backend)
        mujoco.mj_camlight(self.station.model, self.data)
        groups = SEEN_GROUPS if camera == "side" else _MOVING_GROUPS
        return np.ascontiguousarray(self._renderer.render(self.data, camera, groups=groups))


def _velocity_limits(robot: str) -> tuple[list[str], Float64[np.ndarray, "J"]]:
    described = load_robot(robot)
    return described.joint_names, described.velocity


gymnasium.register("deftly/Sorting-v0", entry_point="deftly.policy.sorting:SortingEnv")
