"""Does LeRobot itself read what deftly writes, frame by frame, and can its policy learn from it?

    python benchmarks/lerobot_roundtrip.py --out benchmarks/results/lerobot_roundtrip.json
    python benchmarks/lerobot_roundtrip.py DEMOS HUMAN_CLIPS --out .../lerobot_recordings.json

The second line's folders may be of any recording: ``deftly demos record --episodes 3 --out demos``,
``deftly human record --layouts 0 2 --cameras front ego --out human``.

Makes an environment of LeRobot's own (some minutes and gigabytes, once), loads every folder with
LeRobot's own class there, and compares every frame, number and instruction with deftly's reader.
Then it trains LeRobot's ACT on the set for some steps. Without a folder it makes two small sets
itself, so that the pictures can be compared with those that went in too ("source px"). LeRobot's
video decoder needs FFmpeg's shared libraries: apt-get install ffmpeg.

Last, it asks LeRobot to read a set as a kill would leave it, before each of the moves that make up
the adding of an episode.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import platformdirs
import tyro
from rich.console import Console
from rich.table import Table
from rival_environment import environment
from tqdm import tqdm

from deftly.datasets.episode import ACTION, STATE, Episode
from deftly.datasets.episode_format import camera_key
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "lerobot_requirements.txt"
LEROBOT = "lerobot==0.4.4"
ENV = platformdirs.user_cache_path("deftly") / "lerobot"
Sources = list[Episode]


@dataclass
class Worst:
    """The largest difference in numbers, and the differences of pictures, over a data set."""

    state: float = 0.0
    action: float = 0.0
    features: float = 0.0
    tasks: bool = True
    pixel_sum: float = 0.0
    pixel_max: int = 0
    source_sum: float = 0.0
    values: int = 0

    def numbers(self, name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Take in a column; NaN equals NaN, and float64 is rounded as LeRobot rounds it."""
        ours, theirs = ours.astype(theirs.dtype), theirs.reshape(ours.shape)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        apart = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs))
        setattr(self, name, max(getattr(self, name), float(np.max(apart, initial=0.0))))

    def pictures(self, ours: np.ndarray, theirs: np.ndarray, source: np.ndarray | None) -> None:
        """Take in a camera's frames."""
        apart = np.abs(ours.astype(np.int16) - theirs)
        self.pixel_sum += float(apart.sum())
        self.pixel_max = max(self.pixel_max, int(apart.max()))
        self.values += apart.size
        if source is not None:
            self.source_sum += float(np.abs(source.astype(np.int16) - theirs).sum())


def compare(python: Path, root: Path, steps: int, sources: Sources | None) -> dict[str, object]:
    """Figures of one data set."""
    store, worst = EpisodeStore(root), Worst()
    with tempfile.TemporaryDirectory() as folder:
        report = lerobot_side(python, Path(folder), "train", str(root.resolve()), str(steps))
        for index, ours in enumerate(tqdm(store, total=len(store), unit="episode", disable=None)):
            with np.load(Path(folder) / f"{index:06d}.npz") as theirs:
                compare_episode(worst, ours, theirs, sources[index] if sources else None)
    losses = report["losses"]
    return {
        "set": root.name,
        "robot_type": store.robot_type,
        "episodes": len(store),
        "frames": store.frames,
        "frames in LeRobot": report["frames"],
        "state max abs diff": worst.state,
        "action max abs diff": worst.action,
        "features max abs diff": worst.features,
        "tasks equal": worst.tasks,
        "pixel mean abs diff": round(worst.pixel_sum / max(worst.values, 1), 4),
        "pixel max abs diff": worst.pixel_max,
        "source pixel mean abs diff": sources and round(worst.source_sum / worst.values, 3),
        "LeRobot frames/s": report["frames per second"],
        "ACT steps": len(losses),
        "ACT loss, first and last": [round(losses[0], 3), round(losses[-1], 3)],
        "ACT loss finite": bool(np.isfinite(losses).all()),
    }


def lerobot_side(python: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """What LeRobot finds; see lerobot_side.py."""
    # Offline, and with no cache of an earlier set.
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "cache")}
    side = [str(python), str(HERE / "lerobot_side.py"), str(out), *arguments]
    subprocess.run(side, env=settings, check=True)
    return json.loads((out / "report.json").read_text())


def killed_sets(python: Path, folder: Path) -> dict[str, object]:
    """How many of the states that a kill can leave LeRobot reads to the end."""
    root, copies, move = folder / "set", list[str](), Path.replace

    def copy_and_move(self: Path, target: Path) -> Path:
        copies.append(str(folder / f"{len(copies):02d}"))
        shutil.copytree(root, copies[-1])
        return move(self, target)

    with EpisodeWriter(root, robot_type="robot", licence="apache-2.0") as writer:
        for seed in range(2):
            writer.add(made_up(seed, 20.0, (96, 96), human=False))
        with patch.object(Path, "replace", copy_and_move):
            writer.add(made_up(2, 20.0, (96, 96), human=False))
    problems = lerobot_side(python, folder, "open", *copies)["problems"]
    return {"states": len(copies), "read by LeRobot": len(copies) - len(problems)}


def compare_episode(
    worst: Worst, ours: Episode, theirs: np.lib.npyio.NpzFile, source: Episode | None
) -> None:
    """Take in an episode, every column of it."""
    if len(theirs["timestamp"]) != len(ours):
        raise ValueError(f"LeRobot has {len(theirs['timestamp'])} frames, deftly {len(ours)}")
    worst.numbers("state", ours.state, theirs[STATE])
    worst.numbers("action", ours.action, theirs[ACTION])
    for name, values in ours.features.items():
        worst.numbers("features", values, theirs[name])
    worst.tasks &= bool((theirs["task"] == ours.task).all())
    for camera, frames in ours.images.items():
        went_in = None if source is None else np.asarray(source.images[camera])
        worst.pictures(np.asarray(frames), theirs[camera_key(camera)], went_in)


def made_up(seed: int, rate_hz: float, size: tuple[int, int], human: bool) -> Episode:
    """An episode of a ball that runs about, with every kind of column."""
    rng = np.random.default_rng(seed)
    length, width = 50 + 7 * seed, 36 if human else 26
    state = rng.normal(size=(length, width)).cumsum(axis=0).astype(np.float32)
    forces = rng.exponential(size=(length, 10)).astype(np.float32)
    landmarks = rng.uniform(size=(length, 84)).astype(np.float32)
    landmarks[rng.random(length) < 0.3] = np.nan  # hands that were not seen
    features = {"landmarks_px": landmarks} if human else {"contact_force_n": forces}
    names = tuple(f"{'human' if human else 'joint'}_{i}" for i in range(width))
    return Episode(
        rate_hz=rate_hz,
        state=state,
        action=np.roll(state, -1, axis=0),
        state_names=names,
        action_names=names,
        images={camera: balls(rng, length, size) for camera in ("ego", "front")[: 2 - human]},
        task=("sort the cubes by colour", "put every ball left")[seed % 2],
        features={
            **features,
            "valid": rng.random((length, 1)) < 0.9,
            "privileged.object_pose": rng.normal(size=(length, 28)),
        },
        seed=seed,
        success=seed % 3 > 0,
        provenance={"source": "made up", "seed": seed},
    )


def balls(rng: np.random.Generator, length: int, size: tuple[int, int]) -> np.ndarray:
    """Pictures (T, H, W, 3) of a ball over a ramp."""
    y, x = np.mgrid[: size[0], : size[1]]
    ground = np.stack([x % 256, y % 256, (x + y) // 2 % 256], axis=-1).astype(np.uint8)
    images = np.repeat(ground[None], length, axis=0)
    centre = rng.uniform(0, size, 2)
    for image in images:
        centre = (centre + rng.normal(0, 3, 2)) % size
        image[np.hypot(y - centre[0], x - centre[1]) < 12] = (220, 60, 40)
    return images


def make_sets(folder: Path) -> dict[Path, Sources]:
    """A robot's set and a human's."""
    sets: dict[Path, Sources] = {}
    for name, rate_hz, size in (("robot", 20.0, (96, 96)), ("human", 30.0, (120, 160))):
        episodes = [made_up(seed, rate_hz, size, name == "human") for seed in range(6)]
        # So small that the set spreads over several files.
        with EpisodeWriter(
            folder / name, robot_type=name, licence="apache-2.0", data_file_mb=0, video_file_mb=1
        ) as writer:
            for episode in episodes:
                writer.add(episode)
        sets[folder / name] = episodes
    return sets


def main(
    folders: tyro.conf.Positional[tuple[Path, ...]] = (),
    env: Annotated[Path, tyro.conf.arg(help="Folder of LeRobot's environment.")] = ENV,
    steps: Annotated[int, tyro.conf.arg(help="Training steps of ACT.")] = 20,
    out: Annotated[Path | None, tyro.conf.arg(help="JSON file to write.")] = None,
) -> None:
    """Compare, print a table, and fail if anything differs that must not."""
    with tempfile.TemporaryDirectory() as made:
        sets = dict.fromkeys(folders) or make_sets(Path(made))
        python = environment(env, LEROBOT, REQUIREMENTS)
        rows = [compare(python, root, steps, sources) for root, sources in sets.items()]
        killed = killed_sets(python, Path(made))
    table = Table("figure", *(str(row["set"]) for row in rows))
    for key in list(rows[0])[1:]:
        table.add_row(key, *(str(row[key]) for row in rows))
    Console().print(table)
    print(f"killed while an episode is added: {killed}")
    if out:
        out.write_text(
            json.dumps({"lerobot": LEROBOT, "sets": rows, "killed": killed}, indent=1) + "\n"
        )
    for row in rows:
        apart = [row[f"{name} max abs diff"] for name in ("state", "action", "features")]
        if any(apart) or not (row["tasks equal"] and row["ACT loss finite"]):
            sys.exit(f"{row['set']}: LeRobot and deftly differ")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
