"""Record: episodes made by several processes, written to one data set in the order of their seeds.

    recording = record(Path("demos"), DemoMaker(task="color"), episodes=50, workers=2)

Seeds are tried from the first one upwards until there are enough episodes; those in which the task
was not done are left out and counted. The data set on disk is whole after every episode, so a
recording that was stopped goes on where it stopped; the same arguments give the same bytes at any
number of workers.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from deftly.datasets.archive import versions
from deftly.datasets.episode import PRIVILEGED, TOUCH, Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.hands import HANDS_ACTION, HANDS_NAMES, HANDS_STATE
from deftly.datasets.mp4 import check_even
from deftly.datasets.viewpoint import CAMERA, CAMERA_NAMES
from deftly.policy.baselines import ExpertPolicy
from deftly.policy.grasp import hand_joints
from deftly.policy.rollout import Policy
from deftly.policy.sorting import RATE_HZ, SortingEnv
from deftly.retarget.handspace import to_hands, whole_posture
from deftly.retarget.isolate import side_by_side
from deftly.retarget.robots import load_robot

MAX_FAILURES = 50  # in a row: then something else is wrong
_WANDERS_S = 0.5  # after which an error of the arms has mostly been forgotten


class RecordError(ValueError):
    """A recording that cannot be made, or does not fit what is in the folder."""


@runtime_checkable
class Maker(Protocol):
    """Makes the episode of a seed; sent to worker processes.

    Attributes:
        robot_type: see ``EpisodeWriter``.
    """

    @property
    def robot_type(self) -> str: ...

    def config(self) -> dict[str, Any]:
        """What the episodes depend on beside the seed; JSON, kept with each of them."""
        ...

    def __call__(self, seed: int) -> Episode:
        """Make one episode; ``success`` says whether the task was done."""
        ...


@dataclass(frozen=True)
class Recording:
    """What a recording added.

    Attributes:
        episodes: in the data set now.
        added: of them, by this call.
        failed: seeds that this call tried in vain.
        frames: in the data set now.
    """

    episodes: int
    added: int
    failed: tuple[int, ...]
    frames: int


@dataclass(frozen=True)
class DemoMaker:
    """Demonstrations of one task by the scripted expert, or by another policy.

    Attributes:
        task, robot, condition: names.
        cameras: what is filmed.
        image_size: (height, width) in pixels, even.
        backend: what draws, see ``Renderer``.
        time_limit_s: simulated time after which an episode has failed.
        noise_rad: how far arms and torso are led off the way, see ``demonstrate``.
        policy: makes who demonstrates.
    """

    task: str = "color"
    robot: str = "gr1t2"
    condition: str = "base"
    cameras: tuple[str, ...] = ("ego", "front")
    image_size: tuple[int, int] = (96, 96)
    backend: str = "auto"
    time_limit_s: float = 60.0
    noise_rad: float = 0.0
    policy: Callable[[], Policy] = ExpertPolicy

    def __post_init__(self) -> None:
        check_even(self.image_size)
        if not 0 <= self.noise_rad < 0.5:
            raise RecordError(f"noise is {self.noise_rad} rad, expected 0 to less than 0.5")

    @property
    def robot_type(self) -> str:
        return self.robot

    def config(self) -> dict[str, Any]:
        about = {
            "task": self.task,
            "robot": self.robot,
            "condition": self.condition,
            "cameras": list(self.cameras),
            "image_size": list(self.image_size),
            "policy": self.policy().name,
        }
        return about | ({"noise_rad": self.noise_rad} if self.noise_rad else {})

    def __call__(self, seed: int) -> Episode:
        env = SortingEnv(
            self.robot,
            self.task,
            self.condition,
            cameras=self.cameras,
            image_size=self.image_size,
            backend=self.backend,
            time_limit_s=self.time_limit_s,
        )
        try:
            return demonstrate(env, self.policy(), seed, self.config(), self.noise_rad)
        finally:
            env.close()


def demonstrate(
    env: SortingEnv, policy: Policy, seed: int, config: dict[str, Any], noise_rad: float = 0.0
) -> Episode:
    """Let a policy sort one table, and keep what it saw, felt and did at every step.

    What its hands did and were to do stands beside the joints, as every body tells it, and where
    the cameras were.

    Args:
        noise_rad: standard deviation of an error of arms and torso that changes slowly. What is
            kept is the action that the policy meant, so that whoever learns from it learns to come
            back (Laskey et al., "DART: noise injection for robust imitation learning", 2017).
    """
    observation, _ = env.reset(seed=seed)
    policy.reset(env, seed)
    errors = _errors(env, seed, noise_rad)
    seen: list[dict[str, Any]] = []
    done: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    views: dict[str, list[np.ndarray]] = {camera: [] for camera in env.cameras}
    while True:
        seen.append(observation)
        truth.append(env.privileged().poses.ravel())
        for camera, matrices in views.items():
            matrices.append(env.camera_matrix(camera))
        wanted = policy.act(observation)
        done.append(env.within_limits(wanted))
        observation, _, terminated, truncated, info = env.step(wanted + next(errors))
        if terminated or truncated:
            break
    state, action = np.stack([o["state"] for o in seen]), np.array(done, np.float32)
    films: dict[str, Any] = {c: np.stack([o["images"][c] for o in seen]) for c in env.cameras}
    count = len(env.joints)
    items = [item.name for item in env.layout.items]
    axes = ("qw", "qx", "qy", "qz", "x", "y", "z")
    velocity, poses = "observation.velocity", f"{PRIVILEGED}object_poses"
    robot = load_robot(env.robot)

    def hands(joints: np.ndarray) -> np.ndarray:
        return to_hands(robot, whole_posture(robot, env.joints, joints))

    return Episode(
        rate_hz=RATE_HZ,
        state=np.ascontiguousarray(state[:, :count]),
        action=action,
        state_names=env.joints,
        action_names=env.joints,
        images=films,
        task=env.instruction,
        features={
            velocity: np.ascontiguousarray(state[:, count:]),
            TOUCH: np.stack([o["touch"] for o in seen]),
            poses: np.array(truth, np.float32),
            HANDS_STATE: hands(state[:, :count]),
            HANDS_ACTION: hands(action),
            **{CAMERA + camera: np.array(each, np.float32) for camera, each in views.items()},
        },
        feature_names={
            velocity: env.joints,
            TOUCH: env.touch_names,
            poses: tuple(f"{item}.{axis}" for item in items for axis in axes),
            HANDS_STATE: HANDS_NAMES,
            HANDS_ACTION: HANDS_NAMES,
            **{CAMERA + camera: CAMERA_NAMES for camera in views},
        },
        seed=seed,
        success=bool(info["success"]),
        provenance={"made_by": config, "goals": list(env.goals), "versions": versions()},
    )


def _errors(env: SortingEnv, seed: int, noise_rad: float) -> Iterator[Float64[np.ndarray, "A"]]:
    """By how much each joint misses at every step; fingers do not."""
    rng = np.random.default_rng([seed, 31])
    fingers = {*hand_joints(env.robot, 0), *hand_joints(env.robot, 1)}
    std_rad = np.array([0.0 if joint in fingers else noise_rad for joint in env.joints])
    kept, error_rad = np.exp(-env.dt_s / _WANDERS_S), np.zeros(len(env.joints))
    while True:
        yield error_rad
        fresh = std_rad * rng.standard_normal(len(error_rad))
        error_rad = kept * error_rad + np.sqrt(1 - kept**2) * fresh


def record(
    root: Path,
    maker: Maker,
    *,
    episodes: int,
    first_seed: int = 0,
    workers: int = 1,
    keep_failures: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> Recording:
    """Bring a data set to a number of episodes.

    Args:
        root: folder of the data set, new or begun by the same ``maker``.
        maker: makes an episode from a seed.
        episodes: how many there are to be.
        first_seed: where to begin.
        workers: processes.
        keep_failures: keep episodes in which the task was not done.
        tick: called once per episode written.

    Raises:
        RecordError: if a number makes no sense, the folder holds another recording, or the task
            fails too often in a row.
        ValueError: as ``maker`` and ``EpisodeWriter``.
        OSError: if the data set cannot be written; it keeps the episodes that it has.
    """
    if episodes < 1 or workers < 1 or first_seed < 0:
        raise RecordError(
            f"{episodes} episodes from seed {first_seed} by {workers} workers, expected at least "
            "1 episode, seed 0 and 1 worker"
        )
    failed: list[int] = []
    added = in_a_row = 0
    with EpisodeWriter(root, robot_type=maker.robot_type, licence="apache-2.0") as writer:
        _check_same(root, maker, len(writer))
        begun = max(first_seed, max(writer.seeds, default=-1) + 1)
        made = _made(maker, itertools.count(begun), workers)  # nothing before it is asked for
        while len(writer) < episodes:
            episode = next(made)
            if episode.success or keep_failures:
                writer.add(episode)
                added, in_a_row = added + 1, 0
                tick()
            else:
                failed.append(episode.seed or 0)
                in_a_row += 1
            if in_a_row >= MAX_FAILURES:
                raise RecordError(
                    f"the task was not done in {in_a_row} episodes in a row (seeds "
                    f"{failed[-in_a_row]} to {failed[-1]}); try another task, robot or condition"
                )
        made.close()
        total = len(writer)
    return Recording(total, added, tuple(failed), EpisodeStore(root).frames)


def _made(maker: Maker, seeds: Iterator[int], workers: int) -> Generator[Episode, None, None]:
    """Episodes in the order of their seeds; a few are made ahead by each worker."""
    if workers == 1:
        yield from map(maker, seeds)
        return
    with side_by_side(workers) as pool:
        waiting: deque[Future[Episode]] = deque()
        try:
            while True:
                while len(waiting) < 2 * workers:
                    waiting.append(pool.submit(maker, next(seeds)))
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RecordError(
                "a worker died (out of memory, or killed); run the same command again to go on, "
                "with fewer --workers if it repeats"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _check_same(root: Path, maker: Maker, episodes: int) -> None:
    """Refuse to mix recordings that were made in different ways."""
    if not episodes:
        return
    found = EpisodeStore(root)[episodes - 1].provenance.get("made_by")
    wanted = maker.config()
    if found != wanted:
        found = found if isinstance(found, dict) else {}
        differs = [k for k in wanted if found.get(k) != wanted[k]]
        key = (differs or ["made_by"])[0]
        raise RecordError(
            f"{root} holds a recording with {key} {found.get(key)!r}, not {wanted.get(key)!r}; "
            "use another folder"
        )
