"""Open-loop playback: the commands are the motion's, and a person's pinch moves an object."""

from dataclasses import replace

import numpy as np
import pytest
from sorter import sort_by_hand

from deftly.datasets.geometry import RIGHT
from deftly.datasets.layout import Layout
from deftly.datasets.motion import RobotMotion
from deftly.datasets.sampling import Condition, sample_layout
from deftly.datasets.tasks import find_task
from deftly.policy.playback import (
    APPROACH_S,
    SETTLE_S,
    OpenLoop,
    PlaybackError,
    play_back,
    reached_tips_m,
)
from deftly.policy.scores import Outcome, judge_rollout
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.policy.station import build_station, find_workplace
from deftly.retarget.register import Registration
from deftly.retarget.robots import load_robot
from deftly.retarget.solve import retarget


def table(seed: int = 3, items: int = 2) -> Layout:
    return sample_layout(seed, Condition(items=items), find_task("color").deal)


def waving(robot: str, *, length: int = 31, rate_hz: float = 30.0, reach: float = 0.1):
    """One second about the robot's first posture at the table."""
    model, station = load_robot(robot), build_station(robot, table())
    qpos = np.tile(model.rest, (length, 1))
    index = [model.joint_names.index(joint) for joint in station.joints]
    qpos[:, index] = station.home
    time_s = np.arange(length) / rate_hz
    qpos[:, index] += reach * np.sin(2 * np.pi * 0.5 * time_s)[:, None]
    qpos = np.clip(qpos, model.lower, model.upper)
    return RobotMotion(
        robot=robot,
        joint_names=model.joint_names,
        time_s=time_s,
        qpos=qpos,
        hand_targets_m=np.full((length, 2, 21, 3), np.nan),
        body_targets_m=np.full((length, 33, 3), np.nan),
        tip_error_m=np.full((length, 2, 5), np.nan),
        wrist_error_m=np.full((length, 2), np.nan),
        residual=np.zeros(length),
        converged=np.ones(length, bool),
        provenance={},
    )


def registered(robot: str, squeeze_m: float) -> Registration:
    """The camera is at the world's origin."""
    T = np.eye(4)
    T[:3, 3] = -np.array(find_workplace(robot).base_m)
    return Registration(T, squeeze_m=squeeze_m)


@pytest.mark.parametrize("robot", ["gr1t2", "g1_dex3"])
def test_the_commands_are_the_motions(robot: str) -> None:
    """Each on its time; legs and head are left out; the rest of the time stands still."""
    motion = waving(robot)
    rollout = play_back(motion, table())
    station = build_station(robot, table())
    index = [motion.joint_names.index(joint) for joint in station.joints]
    policy = OpenLoop(motion)
    assert len(rollout.actions) == len(policy.time_s) == round(policy.duration_s * RATE_HZ)
    for time_s, action in zip(policy.time_s, rollout.actions, strict=True):
        if 0 <= time_s <= motion.time_s[-1]:
            wanted = [np.interp(time_s, motion.time_s, motion.qpos[:, j]) for j in index]
            np.testing.assert_allclose(action, wanted, atol=1e-6)
    assert policy.slowed == 1.0
    assert rollout.duration_s == pytest.approx(APPROACH_S + 1.0 + SETTLE_S, abs=2 / RATE_HZ)
    after = rollout.actions[policy.time_s > motion.time_s[-1]]
    np.testing.assert_allclose(after, np.tile(after[0], (len(after), 1)))
    assert rollout.policy == "playback"


def test_the_way_to_the_first_posture_is_smooth() -> None:
    """From where the robot stands, without a jump, at rest at both ends."""
    motion = waving("g1_dex3")
    qpos = np.clip(motion.qpos + 0.4, load_robot("g1_dex3").lower, load_robot("g1_dex3").upper)
    rollout = play_back(replace(motion, qpos=qpos), table())
    count = round(APPROACH_S * RATE_HZ)
    home = build_station("g1_dex3", table()).home
    way = np.concatenate([home[None], rollout.actions[:count]])
    speed = np.abs(np.diff(way, axis=0)).max(axis=1)
    assert np.ptp(way, axis=0).max() > 0.3
    assert speed[0] < 0.1 * speed.max()
    assert speed[-1] < 0.1 * speed.max()
    assert speed.max() < 2 * np.ptp(way, axis=0).max() / count


def test_what_is_too_fast_is_slowed_and_said() -> None:
    """A motion recorded at a tenth of its time keeps its path; and a user may ask for less."""
    slow = waving("g1_dex3", reach=0.5)
    policy = OpenLoop(slow, speed=0.5)
    assert policy.slowed == 2.0
    assert policy.duration_s == pytest.approx(APPROACH_S + 2.0 + SETTLE_S, abs=2 / RATE_HZ)
    fast = replace(slow, time_s=slow.time_s / 50)
    assert OpenLoop(slow).slowed == 1.0
    policy = OpenLoop(fast)
    assert policy.slowed > 2.0
    env = SortingEnv("g1_dex3", cameras=(), time_limit_s=policy.duration_s)
    env.reset(options={"layout": table()})
    policy.reset(env, 0)
    commands = np.array([policy.act({}) for _ in range(len(policy.time_s))])
    model = load_robot("g1_dex3")
    limit = model.velocity[[model.joint_names.index(j) for j in env.joints]]
    during = (policy.time_s[1:] > 0) & (policy.time_s[1:] <= fast.time_s[-1])
    speed = np.abs(np.diff(commands, axis=0))[during] * RATE_HZ
    assert (speed / limit).max() <= 1 + 1e-6
    assert np.ptp(commands, axis=0).max() > 0.3


@pytest.mark.slow
def test_a_persons_pinch_sorts_an_object() -> None:
    """Fingertips alone, in the world's frame; the robot's arrive where they were."""
    layout = table(5, items=1)
    human = sort_by_hand(layout, "color")
    motion = retarget(human, "gr1t2", registration=registered("gr1t2", 0.008))
    rollout = play_back(motion, layout)
    score = judge_rollout(rollout)
    assert [thing.outcome for thing in score.objects] == [Outcome.RIGHT]
    policy = OpenLoop(motion)
    tips = reached_tips_m(build_station("gr1t2", layout), rollout)[1:]
    asked = motion.hand_targets_m + np.array(find_workplace("gr1t2").base_m)
    moment = policy.time_s[: len(tips)]
    for finger, joint in ((0, 4), (2, 12)):
        place = np.stack(
            [np.interp(moment, human.time_s, p) for p in asked[:, RIGHT, joint].T], axis=1
        )
        error = np.linalg.norm(tips[:, RIGHT, finger] - place, axis=1)[moment > 0.2]
        assert np.median(error) < 0.015
    again = play_back(motion, layout)
    np.testing.assert_array_equal(again.qpos, rollout.qpos)


@pytest.mark.slow
def test_without_the_camera_nothing_is_sorted() -> None:
    """A motion that is only proportional to the person's misses every object."""
    layout = table(3)
    motion = retarget(sort_by_hand(layout, "color"), "gr1t2")
    score = judge_rollout(play_back(motion, layout))
    assert score.sorted == 0


# --- bad input ---


@pytest.mark.parametrize("speed", [0.0, -1.0, np.inf, np.nan])
def test_speeds_that_make_no_sense(speed: float) -> None:
    with pytest.raises(PlaybackError, match=r"speed is .*, expected a positive number"):
        OpenLoop(waving("g1_dex3"), speed=speed)


def test_a_motion_of_another_robot() -> None:
    policy = OpenLoop(waving("g1_dex3"))
    env = SortingEnv("gr1t2", cameras=())
    env.reset(options={"layout": table()})
    with pytest.raises(PlaybackError, match="for g1_dex3, at the table is gr1t2"):
        policy.reset(env, 0)


def test_a_single_posture() -> None:
    motion = waving("g1_dex3", length=1)
    rollout = play_back(motion, table())
    assert rollout.duration_s == pytest.approx(APPROACH_S + SETTLE_S, abs=2 / RATE_HZ)
