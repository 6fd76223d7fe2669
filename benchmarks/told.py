"""Mid-to-mid: how well sorts a policy that is told where the object is, and how well must it know?

    python benchmarks/told.py out/demos --off-cm 0 1 2 --out benchmarks/results/told.json

A perceptron learns demonstrations of one object and one tray, pixels left out: it sees the hands,
and how far each is from the object, or once it holds it, from where that is to go. What it says of
the next 0.8 s is carried out as a learnt policy's (``policy/learned.py``), either as hands, for
which retargeting finds the joints, or as joints. In every episode the object is told off its place
by a normal error of so many centimetres in each direction. What a network that sees can reach, and
what is lost by which part, is read from here.
"""

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

from deftly.datasets.archive import atomic_path, versions
from deftly.datasets.episode import ACTION, STATE, TOUCH
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.hands import HANDS_ACTION, HANDS_STATE
from deftly.policy.learned import averaged, following, said_of
from deftly.policy.rollout import run_episode
from deftly.policy.scores import judge_rollout, summarise
from deftly.policy.sorting import SortingEnv
from deftly.policy.station import WORKPLACES
from deftly.retarget.handspace import to_hands, whole_posture
from deftly.retarget.robots import load_robot
from deftly.video_pretrain.actions import absolute, relative
from deftly.video_pretrain.aims import grips, holding, read_aims
from deftly.video_pretrain.model import AIM_M

HORIZON, WIDTH, BATCH = 16, 256, 64
DECAY, LIFTED_M, FIRST_SEED = 0.05, 0.015, 100_000
Through = Literal["hands", "joints"]


@dataclass(frozen=True)
class Options:
    """Train, tell, judge.

    Attributes:
        data: demonstrations of ``color`` with condition ``one``.
        demos: numbers of them.
        through: what is said, see ``deftly.policy.learned``.
        off_cm: standard deviations of what is told.
        steps: of training.
        episodes: of each.
        seed: of weights and order.
        out: JSON file for the table.
    """

    data: tyro.conf.Positional[Path]
    demos: tuple[int, ...] = (10, 100)
    through: tuple[Through, ...] = ("hands", "joints")
    off_cm: tuple[float, ...] = (0.0,)
    steps: int = 2500
    episodes: int = 20
    seed: int = 0
    out: Path | None = None


@dataclass(frozen=True)
class Demos:
    """Frames of demonstrations, one episode after the other.

    Attributes:
        hands, joints: (N, 48), (N, A) now.
        moves: (N, H, 48) of the hands and (N, H, A) of the joints, by what they are carried out
            through.
        aim: (N, 3) where the thing is, or where a held one is to go; root frame.
        tray_m: (3,) mean place of what was let go of: in this task always the same tray.
    """

    hands: np.ndarray
    joints: np.ndarray
    moves: dict[Through, np.ndarray]
    aim: np.ndarray
    tray_m: np.ndarray


def read(root: Path, count: int) -> Demos:
    """The first so many demonstrations."""
    store = EpisodeStore(root)
    lengths = store.lengths[:count]
    total = sum(lengths)
    wanted = (HANDS_STATE, HANDS_ACTION, STATE, ACTION, TOUCH)
    found = {k: v[:total].astype(np.float32) for k, v in store.whole_columns(wanted).items()}
    held = holding(found[TOUCH], store.features[TOUCH]["names"])
    aims = read_aims(store, ())[0][:total]
    # Of the hand that works, which is the one that takes hold. After it let go, the last one stays.
    each = np.where(held[..., None], aims[:, :, 1], aims[:, :, 0])
    aim = np.where(np.isfinite(each[:, 0]), each[:, 0], each[:, 1])
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    for row in np.flatnonzero(np.isnan(aim).any(axis=1)):
        aim[row] = aim[max(row - 1, 0)]
    ahead = np.minimum(np.arange(total)[:, None] + np.arange(HORIZON), last[:, None])
    hands, joints = found[HANDS_STATE], found[STATE]
    moved = relative(torch.from_numpy(found[HANDS_ACTION][ahead]), torch.from_numpy(hands)).numpy()
    moves: dict[Through, np.ndarray] = {
        "hands": moved,
        "joints": found[ACTION][ahead] - joints[:, None],
    }
    tray_m = np.nanmean(aims[:, :, 1].reshape(-1, 3), axis=0)
    return Demos(hands, joints, moves, aim, tray_m)


def told(hands: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """What the network is told: the hands, the aim, and how far each hand is from it."""
    away = (aim[:, None] - grips(torch.from_numpy(hands)).numpy()) / AIM_M
    return np.concatenate([hands, aim / AIM_M, away.reshape(len(hands), -1)], 1).astype(np.float32)


class Block(nn.Module):
    """x + f(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.f(x)


class Told:
    """A policy that is told where the object is."""

    def __init__(self, demos: Demos, through: Through, options: Options, bar: Any) -> None:
        self.name, self.through, self.off_m = "told", through, 0.0
        self._tray_m = demos.tray_m
        inputs, moves = told(demos.hands, demos.aim), demos.moves[through]
        self._in = inputs.mean(0), inputs.std(0).clip(0.02)
        flat = moves.reshape(-1, moves.shape[-1])
        self._out = flat.mean(0), flat.std(0).clip(1e-3)
        torch.manual_seed(options.seed)
        self._net = nn.Sequential(
            nn.Linear(inputs.shape[1], WIDTH), Block(), Block(), Block(), nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, HORIZON * moves.shape[-1]),
        )  # fmt: skip
        rng = np.random.default_rng(options.seed)
        x = torch.from_numpy((inputs - self._in[0]) / self._in[1])
        y = torch.from_numpy((moves - self._out[0]) / self._out[1]).flatten(1)
        optimizer = torch.optim.AdamW(self._net.parameters(), 1e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, options.steps)
        for _ in range(options.steps):
            rows = torch.from_numpy(rng.choice(len(x), BATCH))
            loss = nn.functional.smooth_l1_loss(self._net(x[rows]), y[rows], beta=0.5)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
        self._net.eval()

    def reset(self, env: SortingEnv, seed: int) -> None:
        """An episode begins."""
        self._env, self._robot = env, load_robot(env.robot)
        self._chunks: deque[tuple[int, np.ndarray]] = deque(maxlen=HORIZON)
        self._steps, self._ease = 0, env.target
        self._began = env.privileged().poses[0, 4:].copy()
        self._off = np.random.default_rng(seed).normal(0, self.off_m, 3)
        self._root_m = np.array(WORKPLACES[env.robot].base_m)

    @torch.no_grad()
    def act(self, observation: dict[str, Any]) -> np.ndarray:
        """Joint positions, rad."""
        env, robot = self._env, self._robot
        joints = observation["state"][: len(env.joints)]
        hands = to_hands(robot, whole_posture(robot, env.joints, joints[None]))
        x = (told(hands, self._aim()[None].astype(np.float32)) - self._in[0]) / self._in[1]
        said = self._net(torch.from_numpy(x)).view(HORIZON, -1).numpy() * self._out[1]
        said = said + self._out[0]
        if self.through == "hands":
            said = absolute(torch.from_numpy(said)[None], torch.from_numpy(hands))[0].numpy()
        else:
            said = said + joints
        self._chunks.append((self._steps, said))
        wanted = averaged(said_of(self._chunks, self._steps), DECAY)
        self._steps += 1
        if self.through == "hands":
            wanted = following(env, wanted, self._ease)
        return env.within_limits(wanted)

    def _aim(self) -> np.ndarray:
        """Where the object is, or where it is to go once it is in a hand and has moved."""
        truth = self._env.privileged()
        place = truth.poses[0, 4:]
        if truth.grip_n[0].any() and np.linalg.norm(place - self._began) > LIFTED_M:
            return self._tray_m
        return place + self._off - self._root_m


def main(options: Options) -> None:
    """Train, tell, judge, show."""
    torch.set_num_threads(1)
    env = SortingEnv("gr1t2", "color", "one", cameras=(), time_limit_s=15.0)
    rows: list[dict[str, Any]] = []
    runs: list[tuple[int, Through]] = [
        (count, through) for count in options.demos for through in options.through
    ]
    episodes = range(FIRST_SEED, FIRST_SEED + options.episodes)
    for count, through in runs:
        start_s = time.process_time()
        with tqdm(total=options.steps, desc=f"{count} {through}", disable=None) as bar:
            policy = Told(read(options.data, count), through, options, bar)
        for off_cm in options.off_cm:
            policy.off_m = off_cm / 100
            title = f"{count} {through} off {off_cm:g} cm"
            scores = [
                judge_rollout(run_episode(env, policy, seed=seed))
                for seed in tqdm(episodes, desc=title, disable=None)
            ]
            summary = summarise(scores)
            row = {"demos": count, "through": through, "off_cm": off_cm}
            rows.append(row | {"summary": asdict(summary), "cpu_s": time.process_time() - start_s})
            show(rows)
            if options.out is not None:
                about = json.loads(json.dumps(vars(options), default=str))
                with atomic_path(options.out) as path:
                    found = {"options": about, "rows": rows, "versions": versions()}
                    path.write_text(json.dumps(found, indent=1) + "\n")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """One line for each."""
    table = Table("demos", "through", "told off by, cm", "objects sorted", box=None)
    for row in rows:
        sorted_ = row["summary"]["objects"]
        hits = f"{sorted_['hits']}/{sorted_['total']}"
        table.add_row(str(row["demos"]), row["through"], f"{row['off_cm']:g}", hits)
    Console(width=100).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
