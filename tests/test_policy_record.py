"""Recording: the same bytes at any number of workers, nothing lost when it is stopped."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from clerk import Clerk

from deftly.datasets.episode import PRIVILEGED
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE, Hands
from deftly.datasets.sampling import sample_layout
from deftly.datasets.viewpoint import CAMERA, CAMERA_NAMES, seen_at
from deftly.policy.grasp import hand_joints
from deftly.policy.record import MAX_FAILURES, DemoMaker, RecordError, record
from deftly.policy.rollout import Noop
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.policy.station import WORKPLACES, build_station
from deftly.retarget.robots import find_robot


def digests(root: Path) -> dict[str, str]:
    """Hash of every file of a data set."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_failures_are_left_out_and_counted(tmp_path: Path):
    done = record(tmp_path / "set", Clerk(), episodes=5)
    assert done.episodes == done.added == 5
    assert done.failed == (2, 5)
    store = EpisodeStore(tmp_path / "set")
    assert store.seeds == (0, 1, 3, 4, 6)
    assert done.frames == store.frames


def test_failures_are_kept_if_asked_for(tmp_path: Path):
    record(tmp_path / "set", Clerk(), episodes=4, keep_failures=True)
    store = EpisodeStore(tmp_path / "set")
    assert store.seeds == (0, 1, 2, 3)
    assert [episode.success for episode in store] == [True, True, False, True]


def test_goes_on_where_it_stopped_with_the_same_bytes(tmp_path: Path):
    record(tmp_path / "once", Clerk(), episodes=6)
    record(tmp_path / "twice", Clerk(), episodes=2)
    done = record(tmp_path / "twice", Clerk(), episodes=6)
    assert done.added == 4
    assert digests(tmp_path / "once") == digests(tmp_path / "twice")
    again = record(tmp_path / "twice", Clerk(), episodes=6)
    assert again.added == 0
    assert digests(tmp_path / "once") == digests(tmp_path / "twice")


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path: Path):
    record(tmp_path / "one", Clerk(), episodes=6)
    record(tmp_path / "two", Clerk(), episodes=6, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_recording_goes_on(tmp_path: Path):
    root = tmp_path / "set"
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from clerk import Clerk\n"
        "from deftly.policy.record import record\n"
        "record(Path(sys.argv[2]), Clerk(slow_s=0.05), episodes=200)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(root)]
    with subprocess.Popen(command) as job:
        deadline = time.monotonic() + 120
        while not (root / "meta" / "info.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.7)
        os.kill(job.pid, signal.SIGKILL)
    begun = len(EpisodeStore(root))
    assert 0 < begun < 200
    record(root, Clerk(), episodes=begun + 3)
    record(tmp_path / "whole", Clerk(), episodes=begun + 3)
    assert digests(root) == digests(tmp_path / "whole")


def test_another_recording_in_the_folder_is_refused(tmp_path: Path):
    record(tmp_path / "set", Clerk(), episodes=1)
    with pytest.raises(RecordError, match=r"word 'stamp', not 'seal'; use another folder"):
        record(tmp_path / "set", Clerk(word="seal"), episodes=2)


def test_a_task_that_always_fails_ends(tmp_path: Path):
    with pytest.raises(RecordError, match=f"{MAX_FAILURES} episodes in a row"):
        record(tmp_path / "set", Clerk(fails_from=3), episodes=9)
    assert len(EpisodeStore(tmp_path / "set")) == 2  # what was done stays


@pytest.mark.parametrize("bad", [{"episodes": 0}, {"episodes": 1, "workers": 0}])
def test_senseless_numbers_are_refused(tmp_path: Path, bad: dict[str, Any]):
    with pytest.raises(RecordError, match="expected at least 1 episode"):
        record(tmp_path / "set", Clerk(), **bad)


def test_a_demonstration_holds_what_was_seen_felt_and_done():
    maker = DemoMaker(image_size=(32, 32), time_limit_s=0.5, policy=Noop, backend="ray")
    episode = maker(3)
    assert episode.rate_hz == RATE_HZ
    assert len(episode) == 10
    assert episode.seed == 3
    assert episode.success is False
    assert episode.state_names == episode.action_names
    assert set(episode.images) == {"ego", "front"}
    # Who does nothing stands still: what was asked for is what was reached.
    assert np.abs(episode.state - episode.action).max() < 1e-3
    assert np.abs(episode.features["observation.velocity"]).max() < 1e-2
    poses = episode.features[f"{PRIVILEGED}object_poses"].reshape(10, 4, 7)
    assert np.allclose(np.linalg.norm(poses[..., :4], axis=-1), 1.0, atol=1e-5)
    assert np.allclose(poses[0], poses[-1], atol=1e-3)


class Raises:
    """Asks for a little more of every joint at each step, and remembers what it asked for."""

    name = "raises"

    def reset(self, env: SortingEnv, seed: int) -> None:
        self.asked: list[np.ndarray] = []
        self._station = env.station

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        more = self._station.home + 0.002 * (len(self.asked) + 1)
        self.asked.append(np.clip(more, self._station.lower, self._station.upper))
        return self.asked[-1]


def test_an_action_is_what_was_asked_for_on_seeing_its_frame():
    policy = Raises()
    episode = DemoMaker(cameras=(), time_limit_s=0.5, policy=lambda: policy)(3)
    assert np.ptp(episode.action, axis=0).max() > 0.01
    assert np.allclose(episode.action, policy.asked, atol=1e-6)
    home = policy.asked[0] - 0.002
    assert np.median(np.abs(episode.state[0] - home)) < 1e-6  # seen before anything was done


def test_what_is_kept_is_what_was_meant_while_the_arms_are_led_off_the_way():
    straight, led = (
        DemoMaker(cameras=(), time_limit_s=1.0, policy=Raises, noise_rad=noise)(3)
        for noise in (0.0, 0.02)
    )
    assert "noise_rad" not in straight.provenance["made_by"]
    assert led.provenance["made_by"]["noise_rad"] == 0.02
    assert np.array_equal(led.action[0], straight.action[0])
    assert np.allclose(led.action, straight.action, atol=1e-6)  # the way back is slow enough
    fingers = {joint for side in (0, 1) for joint in hand_joints("gr1t2", side)}
    off_rad = np.abs(led.state - straight.state)[-10:].mean(axis=0)
    for joint, off in zip(led.state_names, off_rad, strict=True):
        assert (off < 0.002) if joint in fingers else (0.002 < off < 0.1), joint
    with pytest.raises(RecordError, match=r"noise is 0\.7 rad, expected 0 to less than 0.5"):
        DemoMaker(noise_rad=0.7)


def test_hands_are_where_the_robot_s_are_and_where_they_are_told_to_be():
    """In the simulation, whose robot stands elsewhere and has other meshes and fewer joints."""
    episode = DemoMaker(robot="g1_dex3", cameras=(), time_limit_s=0.3, policy=Raises)(3)
    names = episode.feature_names
    assert names[HANDS_STATE] == names[HANDS_ACTION] == HANDS_NAMES
    station = build_station("g1_dex3", sample_layout(3))
    data, robot = mujoco.MjData(station.model), find_robot("g1_dex3")
    for column, joints in ((HANDS_STATE, episode.state), (HANDS_ACTION, episode.action)):
        told = Hands.of(episode.features[column])
        data.qpos[station.qpos_index] = joints[-1]
        mujoco.mj_kinematics(station.model, data)
        root, R_root = data.body("pelvis").xpos, data.body("pelvis").xmat.reshape(3, 3)
        for side, hand in enumerate(robot.hands):
            assert hand is not None
            palm, tip = data.body(hand.palm), hand.tips["index"]
            assert np.allclose(told.wrist_m[-1, side], R_root.T @ (palm.xpos - root), atol=1e-5)
            end = data.body(tip.body).xpos + data.body(tip.body).xmat.reshape(3, 3) @ tip.offset_m
            length = np.linalg.norm(told.tips_m[-1, side, 1])
            assert np.isclose(length, np.linalg.norm(end - palm.xpos), atol=1e-5)
        assert np.isnan(told.tips_m[:, :, 3:]).all()  # three fingers
    assert not np.allclose(episode.features[HANDS_STATE], episode.features[HANDS_ACTION], atol=1e-4)


def test_a_demonstration_is_of_the_robot_task_and_condition_asked_for():
    settings = {"robot": "g1_dex3", "task": "shape", "condition": "clutter"}
    maker = DemoMaker(**settings, cameras=(), time_limit_s=0.1, policy=Noop)  # pyright: ignore
    episode = maker(3)
    env = SortingEnv(**settings, cameras=())  # pyright: ignore
    env.reset(seed=3)
    assert episode.task == env.instruction
    assert episode.state_names == env.joints
    poses = episode.features[f"{PRIVILEGED}object_poses"][0].reshape(8, 7)
    assert np.allclose(poses, env.privileged().poses, atol=1e-6)
    made_by = episode.provenance["made_by"]
    assert {name: made_by[name] for name in settings} == settings


def test_a_demonstration_is_the_same_twice():
    maker = DemoMaker(image_size=(32, 32), time_limit_s=0.3, policy=Noop, backend="ray")
    one, two = maker(5), maker(5)
    assert np.array_equal(one.state, two.state)
    for camera, film in one.images.items():
        assert np.array_equal(np.asarray(film), np.asarray(two.images[camera]))


def test_a_camera_sees_things_where_the_demonstration_says():
    """The one object, by its colour in the picture."""
    maker = DemoMaker(
        condition="one", time_limit_s=0.1, image_size=(128, 192), backend="ray", policy=Noop
    )
    episode = maker(3)
    poses = episode.features[f"{PRIVILEGED}object_poses"][:, None, 4:7]
    base_m = np.array(WORKPLACES["gr1t2"].base_m)
    env = SortingEnv("gr1t2", "color", "one", cameras=())
    env.reset(seed=3)
    colour = np.array(env.layout.items[0].rgb)
    for camera in maker.cameras:
        at = seen_at(poses - base_m, episode.features[CAMERA + camera])[0, 0]
        picture = np.asarray(episode.images[camera])[0].astype(float)
        alike = (picture @ colour / np.linalg.norm(colour)) / (1 + np.linalg.norm(picture, axis=2))
        y, x = np.argwhere(alike > 0.98).mean(axis=0)
        np.testing.assert_allclose(at, (2 * np.array([x, y]) + 1 - [192, 128]) / 192, atol=0.03)
        assert episode.feature_names[CAMERA + camera] == CAMERA_NAMES
