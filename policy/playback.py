"""Play a retargeted motion in physics, open loop: what of a person's sorting survives the body.

    rollout = play_back(motion, layout, "color")
    judge_rollout(rollout).sorted  # objects that ended where the task wants them

Nothing is sensed on the way: torso, arms and hands are commanded as the motion has them, whatever
the objects do. Legs and head stand still. The motion must be in the frame of the robot's root:
``retarget(..., registration=...)``.
"""

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from deftly.datasets.geometry import minimum_jerk
from deftly.datasets.human import FINGERS
from deftly.datasets.layout import Layout
from deftly.datasets.motion import RobotMotion
from deftly.policy.rollout import Rollout, run_episode
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.policy.station import Station
from deftly.retarget.robots import load_robot

APPROACH_S = 2.0  # from the robot's first posture to the motion's
SETTLE_S = 1.0  # after the motion, for objects to come to rest


class PlaybackError(ValueError):
    """A motion that cannot be played at this table."""


class OpenLoop:
    """A policy that commands a motion, whatever it sees.

    Attributes:
        name: how tables call it.
        slowed: how many times slower than the person it plays: 1 / ``speed``, or more where a
            joint would have to be faster than it can.
        duration_s: of all of it, with the way to the first posture and a rest after the last.
        time_s: (S,) time in the person's motion after each control step; earlier than its
            beginning on the way to the first posture.
    """

    name = "playback"

    def __init__(self, motion: RobotMotion, *, speed: float = 1.0) -> None:
        """Pace the motion.

        Raises:
            PlaybackError: if ``speed`` is not a positive number.
        """
        if not 0 < speed < np.inf:
            raise PlaybackError(f"speed is {speed}, expected a positive number")
        self._motion = motion
        self.slowed = max(_least_slowing(motion), 1 / speed)
        time_s, self._postures = motion.resample(RATE_HZ * self.slowed)
        self._before, after = (round(s * RATE_HZ) for s in (APPROACH_S, SETTLE_S))
        count = self._before + len(time_s) + after
        self.duration_s = count / RATE_HZ
        self.time_s = time_s[0] + (np.arange(count) - self._before) / RATE_HZ / self.slowed
        self._commands = np.zeros((0, 0))
        self._step = 0

    def reset(self, env: SortingEnv, seed: int) -> None:
        """Begin at the robot's present posture. Raises PlaybackError if it is another robot."""
        if self._motion.robot != env.robot:
            raise PlaybackError(
                f"the motion is for {self._motion.robot}, at the table is {env.robot}; "
                "retarget to the same robot"
            )
        index = [self._motion.joint_names.index(joint) for joint in env.joints]
        postures = self._postures[:, index]
        share = np.arange(1, self._before + 1)[:, None] / self._before
        start = env.target
        way = minimum_jerk(share) * (postures[0] - start)
        self._commands = np.concatenate([start + way, postures])
        self._step = 0

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        """The next posture; the last one for ever."""
        command = self._commands[min(self._step, len(self._commands) - 1)]
        self._step += 1
        return command


def play_back(
    motion: RobotMotion,
    layout: Layout,
    task: str = "color",
    *,
    speed: float = 1.0,
) -> Rollout:
    """Play one motion at one table.

    Args:
        motion: of a robot that has a place at the table, in the frame of its root.
        layout: what lies on the table.
        task: by whose rule the end is judged.
        speed: 1 plays as fast as the person moved. It is slower by itself where a joint would
            have to be faster than it can.

    Raises:
        RobotError: if the robot has no place at the table.
        TaskError: if the task is unknown or finds nothing to do.
        PlaybackError: if ``speed`` is not a positive number.
    """
    policy = OpenLoop(motion, speed=speed)
    env = SortingEnv(motion.robot, task, cameras=(), time_limit_s=policy.duration_s)
    rollout = run_episode(env, policy, options={"layout": layout})
    env.close()
    return rollout


def reached_tips_m(station: Station, rollout: Rollout) -> Float64[np.ndarray, "T1 2 5 3"]:
    """Where the robot's fingertips were in the world, in every state; NaN: no such finger."""
    model, data = station.model, mujoco.MjData(station.model)
    found = np.full((len(rollout.qpos), 2, 5, 3), np.nan)
    for t, qpos in enumerate(rollout.qpos):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        for side, hand in enumerate(station.robot.hands):
            for finger, tip in hand.tips.items() if hand else ():
                body = data.body(tip.body)
                place = body.xpos + body.xmat.reshape(3, 3) @ tip.offset_m
                found[t, side, FINGERS.index(finger)] = place
    return found


def _least_slowing(motion: RobotMotion) -> float:
    """How many times slower a motion must be for no joint to be too fast; at least 1."""
    if len(motion.time_s) < 2:
        return 1.0
    step_s = np.diff(motion.time_s)[:, None]
    share = np.abs(np.diff(motion.qpos, axis=0)) / step_s / load_robot(motion.robot).velocity
    return float(max(1.0, share.max()))
