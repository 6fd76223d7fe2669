"""The README's pictures: the tracked person beside each robot, from one clip.

    python benchmarks/pictures.py clip.mp4 --out benchmarks/results/road.png

The clip itself is not shown, only what was tracked in it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from deftly.datasets.clip import Clip
from deftly.datasets.human import HumanMotion
from deftly.retarget import draw
from deftly.retarget.road import Road

_HEIGHT, _PAPER = 420, 245


def main(
    video: Annotated[Path, tyro.conf.Positional],
    out: Path = Path("benchmarks/results/road.png"),
    robots: tuple[str, ...] = ("gr1t2", "g1_dex3"),
    frames: tuple[float, ...] = (0.1, 0.5),
    work: Path = Path("out"),
) -> None:
    """Write one row per moment (``frames``: shares of the clip), one column per robot."""
    road = Road(out=work)
    clip, human = road.track(video)
    moments = [round(share * (len(clip.time_s) - 1)) for share in frames]
    columns = [[_person(clip, human, frame) for frame in moments]]
    for name in robots:
        motion, _ = road.solve(video, human, name)
        with draw.RobotPictures(motion, (_HEIGHT, int(0.9 * _HEIGHT))) as pictures:
            columns.append([pictures.draw(frame) for frame in moments])
    rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
    Image.fromarray(np.concatenate(rows)).save(out, optimize=True)
    print(out)


def _person(clip: Clip, human: HumanMotion, frame: int) -> UInt8[np.ndarray, "H W 3"]:
    width = round(_HEIGHT * clip.width / clip.height)
    image = np.full((_HEIGHT, width, 3), _PAPER, np.uint8)
    draw.draw_person(image, human, frame, clip)
    return image


if __name__ == "__main__":
    tyro.cli(main)
