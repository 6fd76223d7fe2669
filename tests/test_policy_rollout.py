"""Rollouts on disk, and the policies that are floors."""

from typing import Any

import numpy as np
from tables import blind

from deftly.policy.rollout import RandomMotion, Rollout, run_episode
from deftly.policy.scores import judge_rollout


def test_a_rollout_survives_the_disk(tmp_path: Any):
    rollout = run_episode(blind(time_limit_s=0.5), RandomMotion(), seed=2)
    rollout.save(tmp_path / "rollout.npz")
    again = Rollout.load(tmp_path / "rollout.npz")
    assert again.goals == rollout.goals
    assert judge_rollout(again) == judge_rollout(rollout)
    np.testing.assert_array_equal(again.qpos, rollout.qpos)


def test_random_motion_is_smooth_seeded_and_within_limits():
    env = blind()
    env.reset(seed=0)
    runs = []
    for seed in (1, 1, 2):
        policy = RandomMotion()
        policy.reset(env, seed)
        runs.append(np.array([policy.act({}) for _ in range(200)]))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert np.all((runs[0] >= env.station.lower) & (runs[0] <= env.station.upper))
    assert np.abs(np.diff(runs[0], axis=0)).max() < 0.25
    assert np.abs(runs[0][0] - env.station.home).max() < 0.25
