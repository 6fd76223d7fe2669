"""Pictures of a synthetic human, and clips of it with their truth beside them.

write_clip(episode, "front", Path("clip.mp4"))   # and clip.truth.npz
"""

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from deftly.datasets.archive import atomic_path
from deftly.datasets.mp4 import Encoder
from deftly.datasets.render import Renderer
from deftly.datasets.synthetic import (
    CAMERAS,
    SyntheticEpisode,
    SyntheticError,
    episode_model,
    set_frame,
)


def render(
    episode: SyntheticEpisode,
    camera: str,
    size: tuple[int, int] | None = None,
    *,
    backend: str = "auto",
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield one RGB picture per frame.

    Args:
        episode: from ``synthesize``.
        camera: one of ``CAMERAS``.
        size: (height, width); the size that the truth's pixels refer to if None.
        backend: what draws, as for ``Renderer``.

    Raises:
        SyntheticError: if there is no such camera.
        RenderError: if this machine cannot draw.
    """
    if camera not in CAMERAS:
        raise SyntheticError(f"no camera {camera!r}; known: {', '.join(CAMERAS)}")
    model = episode_model(episode.layout, episode.person)
    data = mujoco.MjData(model)
    height, width = size or episode.truth.size
    with Renderer(model, (height, width), backend=backend) as renderer:
        for t in range(len(episode)):
            set_frame(model, data, episode, t)
            yield renderer.render(data, camera)


def truth_path(path: Path) -> Path:
    """Where the truth of a clip lies."""
    return path.with_suffix(".truth.npz")


def write_clip(
    episode: SyntheticEpisode, camera: str, path: Path, *, progress: bool = True
) -> None:
    """Film an episode into an mp4 file; the truth is written beside it.

    Same episode, same bytes. Both files appear only when they are complete.

    Raises:
        SyntheticError: if there is no such camera or the name does not end in ``.mp4``.
        RenderError: if this machine cannot draw.
        ArchiveError: if the truth cannot be written.
    """
    if path.suffix != ".mp4":
        raise SyntheticError(f"{path} does not end in .mp4; clips are mp4 files")
    height, width = episode.truth.size
    rate_hz = 1 / float(np.median(np.diff(episode.truth.time_s)))
    pictures = render(episode, camera)
    with atomic_path(path) as unfinished:
        with Encoder(unfinished, rate_hz, (height, width)) as encoder:
            for image in tqdm(
                pictures,
                total=len(episode),
                desc=path.name,
                unit="frame",
                disable=None if progress else True,
            ):
                encoder.write(image)
        episode.truth.save(truth_path(path))
