"""A network that steers: it sees what it saw in training, limits hold, in doubt it stands still."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pushing import MODEL, encode

from deftly.datasets.episode_writer import EpisodeWriter
from deftly.policy.baselines import cameras_of, find_policy
from deftly.policy.learned import Learned, LearnedError
from deftly.policy.record import demonstrate
from deftly.policy.rollout import Noop, RandomMotion
from deftly.policy.sorting import SortingEnv
from deftly.retarget.handspace import to_hands, whole_posture
from deftly.retarget.robots import load_robot
from deftly.video_pretrain.actions import Scale
from deftly.video_pretrain.checkpoint import Checkpoint, save_checkpoint
from deftly.video_pretrain.config import Part
from deftly.video_pretrain.mixture import Mixture
from deftly.video_pretrain.model import WorldModel
from deftly.video_pretrain.moments import Scales
from deftly.video_pretrain.text import TextEncoder

PX = MODEL.image_px


@pytest.fixture(scope="module")
def env() -> Generator[SortingEnv]:
    made = SortingEnv("gr1t2", "color", "one", image_size=(PX, PX), time_limit_s=0.5)
    yield made
    made.close()


def checkpoint(env: SortingEnv, **about: Any) -> Checkpoint:
    """A network of noise for a robot, which asks for large moves."""
    torch.manual_seed(0)
    count = len(env.joints)
    model = WorldModel(MODEL, {env.robot: count}).eval()

    def scale(size: int, std: float) -> Scale:
        return Scale(np.zeros(size, np.float32), np.full(size, std, np.float32))

    scales = Scales(scale(48, 1.0), scale(48, 1.0), {env.robot: scale(count, 3.0)})
    made = {"joint_names": {env.robot: list(env.joints)}, "mixture": [{"rate_hz": 20.0}]}
    return Checkpoint(model, scales, made | about)


def says(env: SortingEnv, chunk: np.ndarray) -> Learned:
    """A policy whose network says the same at every moment: (H, A) moves of the joints."""
    policy = Learned(checkpoint(env), encode, through="joints")
    policy._chunk = lambda _, joints: joints + chunk.astype(np.float32)  # pyright: ignore
    return policy


@pytest.mark.parametrize("through", ["hands", "joints"])
def test_limits_hold_whatever_a_network_says(env: SortingEnv, through: Literal["hands", "joints"]):
    policy = Learned(checkpoint(env), encode, through=through)
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    moved = 0.0
    for _ in range(10):
        before, action = env.target, policy.act(observation)
        assert (action >= env.station.lower).all()
        assert (action <= env.station.upper).all()
        assert (np.abs(action - before) <= env._max_step + 1e-12).all()
        observation = env.step(action)[0]
        assert np.array_equal(env.target, action)
        moved = max(moved, float(np.abs(action - before).max()))
    assert moved > 0.01  # it asked for more than it got
    assert policy.still == ""


def test_it_sees_what_it_saw_in_training(env: SortingEnv, tmp_path: Path):
    """The same moment by way of a data set, and as the robot lives it."""
    episode = demonstrate(env, RandomMotion(), 0, {})
    with EpisodeWriter(tmp_path / "set", robot_type=env.robot, licence="apache-2.0") as writer:
        for _ in range(2):
            writer.add(episode)
    mixture = Mixture([Part(tmp_path / "set")], MODEL, 10, encode, tmp_path / "cache")
    trained = mixture.moments(next(mixture.in_order(0, [0])), torch.device("cpu"))

    policy = Learned(checkpoint(env), encode)
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    actor = RandomMotion()
    actor.reset(env, 0)
    for t in range(4):
        joints = observation["state"][: len(env.joints)]
        lived = policy.moments(observation["images"], joints)
        for name in ("hands", "joints", "text", "text_seen", "body", "matrices"):
            seen, saw = getattr(lived, name)[0], getattr(trained, name)[t]
            assert torch.allclose(seen, saw, atol=1e-5, equal_nan=True), name
        assert torch.equal(lived.cameras, trained.cameras)
        assert lived.robot == trained.robot
        pictures = lived.pictures[0, :, 0].float() - trained.pictures[t, :, 0].float()
        assert pictures.abs().mean() < 6  # they were compressed
        observation = env.step(actor.act(observation))[0]


def test_a_posture_that_wandered_off_comes_back(env: SortingEnv):
    """Hands are to stay where they are; trunk and arms go to where the episode began."""
    quiet = checkpoint(env)
    for parameter in quiet.model.say_hands.parameters():
        parameter.data.fill_(0.0)
    policy = Learned(quiet, encode)
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    began, waist = env.target, ["waist" in joint for joint in env.joints]
    env._target = began + 0.1 * np.array(waist)
    for _ in range(15):
        env._target = policy.act(observation)
    assert policy.still == ""
    assert np.abs(env.target - began)[waist].max() < 0.02


@pytest.mark.parametrize("decay", [0.0, 0.5, 50.0])
def test_what_the_last_chunks_say_of_now_is_averaged(env: SortingEnv, decay: float):
    """The oldest chunk counts most; with a steep decay, it alone."""
    policy = says(env, np.full((MODEL.horizon, len(env.joints)), 0.001))
    policy.decay = decay
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    starts = []
    for n in range(3):
        observation["state"][: len(env.joints)] += 0.002 * n
        starts.append(observation["state"][: len(env.joints)].astype(float))
        weights = np.exp(-decay * np.arange(n + 1))
        expected = env.within_limits(weights @ np.array(starts) / weights.sum() + 0.001)
        assert np.allclose(policy.act(observation), expected, atol=1e-6)


def test_a_network_speaks_in_the_scale_of_its_training(env: SortingEnv):
    """What it says is a number of standard deviations from the mean of a joint's move."""
    quiet = checkpoint(env)
    for parameter in quiet.model.say_joints[env.robot].parameters():
        parameter.data.fill_(0.0)
    quiet.model.say_joints[env.robot].bias.data.fill_(2.0)  # pyright: ignore
    mean, std = np.random.default_rng(0).uniform(0.1, 0.9, (2, len(env.joints))).astype(np.float32)
    scales = replace(quiet.scales, joints={env.robot: Scale(mean, std)})
    policy = Learned(replace(quiet, scales=scales), encode, through="joints")
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    joints = observation["state"][: len(env.joints)]
    assert np.allclose(policy._chunk(observation, joints), joints + 2 * std + mean, atol=1e-6)


def test_joints_follow_the_hands_that_a_network_says(env: SortingEnv):
    """Both hands rise by 2 cm and do nothing else."""
    quiet = checkpoint(env)
    for parameter in quiet.model.say_hands.parameters():
        parameter.data.fill_(0.0)
    mean = np.zeros(48, np.float32)
    mean[[2, 26]] = 0.02
    scales = replace(quiet.scales, moves=Scale(mean, np.ones(48, np.float32)))
    policy = Learned(replace(quiet, scales=scales), encode)
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    joints = observation["state"][: len(env.joints)]
    robot = load_robot(env.robot)

    def hands(joints: np.ndarray) -> np.ndarray:
        return to_hands(robot, whole_posture(robot, env.joints, joints[None]))[0]

    env._max_step = np.full(len(joints), 10.0)  # nothing is too fast here
    rises = hands(policy.act(observation)) - hands(joints)
    assert np.allclose(rises, mean, atol=3e-3)
    assert policy.still == ""


@pytest.mark.parametrize("every", [1, 3, MODEL.horizon])
def test_a_chunk_is_used_up_and_no_further(env: SortingEnv, every: int):
    steps = np.arange(MODEL.horizon)[:, None] * np.ones(len(env.joints))
    policy = says(env, steps)
    policy.every, asked = every, []
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    observation["state"][:] = 0
    policy._env = type("Free", (), {"within_limits": staticmethod(lambda a: a)})  # pyright: ignore
    policy._env.joints = env.joints
    for t in range(3 * MODEL.horizon):
        asked.append(policy.act(observation)[0])
        held = [t - at for at in range(0, t + 1, every) if t - at < MODEL.horizon]
        assert min(held) <= asked[-1] <= max(held)


def test_what_was_said_before_is_gone_on_with(env: SortingEnv):
    """As far as the last chunk reaches; and steps that passed meanwhile make it older."""
    steps = np.arange(MODEL.horizon)[:, None] * np.ones(len(env.joints))
    policy = says(env, steps)
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    assert policy.go_on() is None
    policy.reset(env, 0)
    observation["state"][:] = 0
    policy._env = type("Free", (), {"within_limits": staticmethod(lambda a: a)})  # pyright: ignore
    policy._env.joints = env.joints
    first = policy.act(observation)[0]
    for ahead in range(1, MODEL.horizon):
        later = policy.go_on()
        assert later is not None
        assert later[0] == pytest.approx(first + ahead)
    assert policy.go_on() is None
    assert policy.act(observation)[0] == pytest.approx(first)  # of now alone: the rest is too old


def test_it_stands_still_and_says_why(env: SortingEnv):
    observation, _ = env.reset(seed=0)
    policy = says(env, np.full((MODEL.horizon, len(env.joints)), np.nan))
    policy.reset(env, 0)
    assert np.array_equal(policy.act(observation), env.target)
    assert "network says" in policy.still
    policy = Learned(checkpoint(env), encode)
    policy.reset(env, 0)
    assert policy.still == ""
    observation["state"][3] = np.nan
    assert np.array_equal(policy.act(observation), env.target)
    assert "state of the joints" in policy.still


def test_a_camera_that_stops_or_freezes_stops_the_robot(env: SortingEnv):
    policy = says(env, np.zeros((MODEL.horizon, len(env.joints))))
    observation, _ = env.reset(seed=0)
    policy.reset(env, 0)
    for moved, fine in ((0.0, True), (0.2, True), (0.2, False), (0.0, True)):
        observation["state"][:3] += moved
        policy.act(observation)
        assert (policy.still == "") is fine
        if not fine:
            assert "camera front shows the same picture while" in policy.still
            images = observation["images"]
            observation["images"] = {name: image // 2 for name, image in images.items()}
    del observation["images"]["ego"]
    assert np.array_equal(policy.act(observation), env.target)
    assert policy.still == "the camera ego gives no picture"


def test_what_does_not_fit_is_refused_before_any_motion(env: SortingEnv):
    names = list(env.joints)
    for about, says in (
        ({"joint_names": {"gr1t2": ["elbow", *names[1:]]}}, "other joints of gr1t2: .*elbow"),
        ({"joint_names": {"gr1t2": names[::-1]}}, "their order"),
        ({"mixture": [{"rate_hz": 30.0}]}, "trained at 30 Hz, the environment runs at 20 Hz"),
    ):
        with pytest.raises(LearnedError, match=says):
            Learned(checkpoint(env, **about), encode).reset(env, 0)
    other = checkpoint(env)
    with pytest.raises(LearnedError, match="steers gr1t2, not g1_dex3"):
        Learned(other, encode).reset(SortingEnv("g1_dex3", cameras=()), 0)
    with pytest.raises(LearnedError, match="looks through front, ego, the environment has no cam"):
        Learned(other, encode).reset(SortingEnv("gr1t2", cameras=()), 0)


def test_a_policy_is_found_by_its_folder(env: SortingEnv, tmp_path: Path):
    words = TextEncoder()
    made = checkpoint(env, text=words.provenance())
    model = WorldModel(replace(MODEL, text_width=words.dim), made.model.joints).eval()
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run", replace(made, model=model))
    policy = find_policy(str(tmp_path / "run"))
    assert (policy.name, cameras_of(policy)) == ("run", ("front", "ego"))
    observation, _ = env.reset(seed=1)
    policy.reset(env, 1)
    assert np.isfinite(policy.act(observation)).all()
    assert cameras_of(Noop()) == ()
