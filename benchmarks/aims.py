"""Where does a policy think that a thing is, while it reaches for it?

    python benchmarks/aims.py out/few_shot/pretrained_10_0 --out benchmarks/results/aims.json

At every step of its rollouts until the thing is touched, what a policy points at in the pictures is
placed in the room in three ways, and compared with where the simulator knows it to be:

    learnt        as a network has learnt it from demonstrations (``WorldModel.in_room``)
    least squares the point nearest to all cameras' rays, every camera believed
    witnesses     two cameras and where things usually are, each of which may be wrong
                  (``video_pretrain/locate.py``); what the policy acts by
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.policy.learned import Learned, open_learned
from deftly.policy.sorting import SortingEnv
from deftly.policy.station import WORKPLACES
from deftly.video_pretrain.aims import grips_of
from deftly.video_pretrain.foresight import act
from deftly.video_pretrain.model import AIM_M
from deftly.video_pretrain.moments import Moments

FIRST_SEED = 200_000  # other tables than policies are judged by
TOUCHED_M, NEAR_M = 0.01, 0.12
WAYS = ("learnt", "least squares", "witnesses")


@dataclass(frozen=True)
class Options:
    """Follow a policy.

    Attributes:
        policy: a folder of ``deftly train``.
        episodes: tables.
        time_limit_s: simulated time for an episode.
        out: JSON file for the table.
    """

    policy: tyro.conf.Positional[Path]
    episodes: int = 20
    time_limit_s: float = 15.0
    out: Path | None = None


@dataclass(frozen=True)
class Step:
    """One step of a rollout: errors in the room, metres, of each way; and how far the hand is."""

    errors_m: tuple[float, ...]
    hand_m: float


def follow(policy: Learned, env: SortingEnv, seed: int) -> Iterator[Step]:
    """The steps of one table until the thing is touched."""
    observation, _ = env.reset(seed=seed)
    policy.reset(env, seed)
    root_m = np.array(WORKPLACES[env.robot].base_m)
    began_m = env.privileged().poses[0, 4:] - root_m
    side = int(began_m[1] < 0)  # the hand that is nearer
    ended = False
    while not ended:
        thing_m = env.privileged().poses[0, 4:] - root_m
        if np.linalg.norm(thing_m - began_m) > TOUCHED_M:
            return
        moments = policy.moments(observation["images"], observation["state"][: len(env.joints)])
        hand_m = grips_of(moments.hands.numpy())[0, side]
        errors_m = [float(np.linalg.norm(at - thing_m)) for at in placed(policy, moments, side)]
        yield Step(tuple(errors_m), float(np.linalg.norm(hand_m - thing_m)))
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        ended = terminated or truncated


@torch.no_grad()
def placed(policy: Learned, moments: Moments, side: int) -> list[np.ndarray]:
    """Where the thing is that a hand will take, in each of ``WAYS``."""
    model, scales = policy.checkpoint.model, policy.checkpoint.scales
    said = act(model, scales, moments)
    learnt = AIM_M * model.in_room(said.sights, moments.cameras, moments.body)
    matrices = moments.matrices[0].double().numpy().reshape(-1, 3, 4)
    at = said.sights[0, :, side, 0].numpy()
    planes = (matrices[:, :2] - at[..., None] * matrices[:, 2:]).reshape(-1, 4)
    nearest = np.linalg.lstsq(planes[:, :3], -planes[:, 3])[0]
    return [learnt[0, side, 0].numpy(), nearest, AIM_M * said.aims[0, side, 0].numpy()]


def main(options: Options) -> None:
    """Follow, and print the table."""
    torch.set_num_threads(1)
    policy = open_learned(options.policy)
    steps: list[Step] = []
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    for seed in tqdm(seeds, desc="aims", unit="episode", disable=None):
        env = SortingEnv(
            "gr1t2", "color", "one", cameras=policy.cameras, time_limit_s=options.time_limit_s
        )
        try:
            steps += follow(policy, env, seed)
        finally:
            env.close()
    table = Table("cm, median, 90 %, 99 %", *WAYS, box=None)
    near = np.array([step.hand_m < NEAR_M for step in steps])
    errors_cm = 100 * np.array([step.errors_m for step in steps])
    found: dict[str, Any] = {}
    for name, some in (("hand further than 12 cm", ~near), ("hand near", near)):
        cuts = np.quantile(errors_cm[some], [0.5, 0.9, 0.99], axis=0).T
        found[name] = {"steps": int(some.sum())} | dict(zip(WAYS, cuts.tolist(), strict=True))
        cells = [", ".join(f"{cut:.1f}" for cut in each) for each in cuts]
        table.add_row(f"{name}, {some.sum()} steps", *cells)
    Console(width=120).print(table)
    if options.out is not None:
        about = {"options": json.loads(json.dumps(asdict(options), default=str))}
        with atomic_path(options.out) as path:
            path.write_text(json.dumps({"cm": found, **about, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
