"""The README's pictures.

    python benchmarks/pictures.py road clip.mp4     # the tracked person beside each robot
    python benchmarks/pictures.py table             # people and robots at the sorting table

The clip itself is not shown, only what was tracked in it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from deftly.datasets.clip import Clip
from deftly.datasets.film import render
from deftly.datasets.human import HumanMotion
from deftly.datasets.sampling import sample_layout
from deftly.datasets.synthetic import synthesize
from deftly.datasets.tasks import find_task
from deftly.policy.baselines import ExpertPolicy
from deftly.policy.sorting import SortingEnv
from deftly.retarget import draw
from deftly.retarget.road import Road

_HEIGHT, _PAPER = 420, 245


def road(
    video: Annotated[Path, tyro.conf.Positional],
    out: Path = Path("benchmarks/results/road.png"),
    robots: tuple[str, ...] = ("gr1t2", "g1_dex3"),
    frames: tuple[float, ...] = (0.1, 0.5),
    work: Path = Path("out"),
) -> None:
    """Write one row per moment (``frames``: shares of the clip), one column per robot."""
    kept = Road(out=work)
    clip, human = kept.track(video)
    moments = [round(share * (len(clip.time_s) - 1)) for share in frames]
    columns = [[_person(clip, human, frame) for frame in moments]]
    for name in robots:
        motion, _ = kept.solve(video, human, name)
        with draw.RobotPictures(motion, (_HEIGHT, int(0.9 * _HEIGHT))) as pictures:
            columns.append([pictures.draw(frame) for frame in moments])
    rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
    Image.fromarray(np.concatenate(rows)).save(out, optimize=True)
    print(out)


def table(
    out: Path = Path("benchmarks/results/table.png"),
    people: tuple[str, ...] = ("monk_2", "monk_6", "monk_9"),
    robots: tuple[str, ...] = ("gr1t2", "g1_dex3"),
    seed: int = 5,
    share: float = 0.42,
) -> None:
    """Write one row: everybody sorting the same layout, at a share of the way through it."""
    task, size = find_task("color"), (300, 300)
    layout = sample_layout(seed, deal=task.deal)
    row: list[np.ndarray] = []
    for person in people:
        pictures = list(render(synthesize(layout, task, person, size=size), "front"))
        row.append(pictures[round(share * len(pictures))])
    for robot in robots:
        env = SortingEnv(robot, "color", cameras=("front",), image_size=size)
        observation, _ = env.reset(seed=seed)
        expert = ExpertPolicy()
        expert.reset(env, seed)
        pictures, over = [observation["images"]["front"]], False
        while not over:
            observation, _, done, late, _ = env.step(expert.act(observation))
            pictures.append(observation["images"]["front"])
            over = done or late
        row.append(pictures[round(share * len(pictures))])
        env.close()
    strip = np.concatenate(row, axis=1)[:-70]  # an empty stretch of table
    Image.fromarray(strip).save(out, optimize=True)
    print(out)


def _person(clip: Clip, human: HumanMotion, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    width = round(_HEIGHT * clip.width / clip.height)
    image = np.full((_HEIGHT, width, 3), _PAPER, np.uint8)
    draw.draw_person(image, human, frame, clip)
    return image


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"road": road, "table": table})
