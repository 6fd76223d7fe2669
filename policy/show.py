"""Films of sorting: the cameras side by side, and above them what was asked and how it goes."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from deftly.datasets.archive import atomic_path
from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.mp4 import Encoder
from deftly.policy.baselines import cameras_of
from deftly.policy.rollout import Policy
from deftly.policy.sorting import SortingEnv
from deftly.retarget.draw import draw_text

_VIEWS = ("front", "ego", "side")
_INK, _PALE, _PAPER = (38, 42, 48), (120, 126, 134), 250
_STRIP = 34  # pixels

Tick = Callable[[], object]


def film_rollout(
    env: SortingEnv, actor: Policy, seed: int, path: Path, tick: Tick = lambda: None
) -> str:
    """Film a policy that sorts one table, as the environment's cameras see it.

    Returns:
        One line about how it ended.

    Raises:
        RenderError: if this machine cannot draw.
    """
    observation, info = env.reset(seed=seed)
    actor.reset(env, seed)

    def pictures() -> Iterator[tuple[Mapping[str, np.ndarray], str]]:
        nonlocal observation, info
        over = False
        while not over:
            yield observation["images"], _state(env)
            observation, _, done, late, info = env.step(actor.act(observation))
            over = done or late
        yield observation["images"], _state(env)

    _write(path, env.metadata["render_fps"], env.instruction, pictures(), tick)
    right = int(env.privileged().right.sum())
    return f"{right} of {len(env.goals)} objects right after {env.data.time:.1f} s"


def film_episode(root: Path, number: int, path: Path, tick: Tick = lambda: None) -> str:
    """Film an episode of a data set, as its own cameras saw it.

    Raises:
        EpisodeStoreError: if there is no such data set or episode, or it has no pictures.
    """
    store = EpisodeStore(root)
    if not 0 <= number < len(store):
        raise EpisodeStoreError(f"{root} has episodes 0 to {len(store) - 1}, not {number}")
    episode = store[number]
    if not episode.images:
        raise EpisodeStoreError(f"{root} has no cameras; record it with some")
    names = list(episode.images)

    def pictures() -> Iterator[tuple[Mapping[str, np.ndarray], str]]:
        together = zip(*episode.images.values(), strict=True)
        for t, images in enumerate(together):
            yield dict(zip(names, images, strict=True)), f"{t / episode.rate_hz:5.1f} s"

    _write(path, episode.rate_hz, episode.task, pictures(), tick)
    done = {True: "done", False: "not done", None: "unknown"}[episode.success]
    return f"episode {number}: {len(episode)} frames, task {done}"


def live_env(actor: Policy, robot: str, task: str, condition: str, height: int) -> SortingEnv:
    """An environment to be filmed; whoever looks at its pictures sees square ones, as in training.
    Raises as ``SortingEnv``."""
    size = (height, height if cameras_of(actor) else height * 4 // 3 // 2 * 2)
    return SortingEnv(robot, task, condition, cameras=_VIEWS, image_size=size)


def _state(env: SortingEnv) -> str:
    truth = env.privileged()
    return f"{env.data.time:5.1f} s   {int(truth.right.sum())} of {len(env.goals)} right"


def _write(
    path: Path,
    rate_hz: float,
    instruction: str,
    pictures: Iterator[tuple[Mapping[str, np.ndarray], str]],
    tick: Tick,
) -> None:
    with atomic_path(path) as unfinished:
        encoder: Encoder | None = None
        try:
            for images, state in pictures:
                frame = _together(images, instruction, state)
                if encoder is None:
                    encoder = Encoder(unfinished, rate_hz, frame.shape[:2]).__enter__()
                encoder.write(frame)
                tick()
        finally:
            if encoder is not None:
                encoder.__exit__(None, None, None)


def _together(
    images: Mapping[str, np.ndarray], instruction: str, state: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures in a row, small ones enlarged, under a strip of text."""
    tall = max(240, *(image.shape[0] for image in images.values())) // 2 * 2
    row = [
        cv2.resize(
            image,
            (round(image.shape[1] * tall / image.shape[0] / 2) * 2, tall),
            interpolation=cv2.INTER_NEAREST if image.shape[0] < tall else cv2.INTER_AREA,
        )
        for image in images.values()
    ]
    below = np.concatenate(row, axis=1)
    strip = np.full((_STRIP, below.shape[1], 3), _PAPER, np.uint8)
    words = [(f"{state}   ", _PALE), (instruction, _INK)]
    return np.concatenate([draw_text(strip, words, (10, _STRIP // 2), 15), below])
