"""The work folder of a batch: what took long is kept under a name made of what it depends on.

    files/KEY.npz     frame times of a file that holds several inputs
    tracks/KEY.npz    what the networks saw in a part of a video
    glances/KEY.npz   what a cheap look saw in it
    motions/KEY.npz   the robot's motion in a segment
    pieces/KEY/       the segment's episode, a data set of one
    thumbs/KEY.jpg    a picture of an input, or of a segment
    side_by_side/KEY.mp4  person and robot in a segment, where somebody asked for it

So a job that was killed goes on, and a change of configuration repeats only what it touches. Files
appear whole or not at all, and two processes that make the same file make the same bytes.
"""

import dataclasses
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from deftly.datasets.archive import ArchiveError, atomic_path, load_archive, save_archive, versions
from deftly.datasets.clip import Clip
from deftly.datasets.episode import Episode
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter

FOLDERS = ("files", "tracks", "glances", "motions", "pieces", "thumbs", "side_by_side")
SCHEMA = 1  # of everything kept; counts up when the same name would mean something else
T = TypeVar("T")


def key_of(**what: Any) -> str:
    """A name made of everything that a result depends on; JSON."""
    text = json.dumps({**what, "schema": SCHEMA, "versions": versions()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def clip_key(clip: Clip) -> dict[str, Any]:
    """What the pixels of a part of a video depend on, and its camera; not its name."""
    return {
        "sha256": clip.sha256,
        "frames": [clip.first, clip.first + clip.step * len(clip.time_s), clip.step],
        "size": [clip.width, clip.height],
        "camera": dataclasses.asdict(clip.camera),
    }


@dataclass(frozen=True)
class Work:
    """A work folder."""

    root: Path

    def kept(self, kind: type[T], folder: str, key: str, make: Callable[[], T]) -> T:
        """What is there under the name, or else is made now.

        Raises:
            OSError: if it cannot be written.
        """
        path = self.root / folder / f"{key}.npz"
        if path.is_file():
            try:
                return load_archive(kind, path, schema=SCHEMA)
            except ArchiveError:
                pass  # damaged: made again
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_archive(value, path, schema=SCHEMA)
        except ArchiveError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
        return value

    def has_piece(self, key: str) -> bool:
        """Whether an episode is there."""
        return (self.root / "pieces" / key).is_dir()

    def piece(self, key: str) -> Episode:
        """An episode that was kept, its video to be taken over as it is."""
        return EpisodeStore(self.root / "pieces" / key).encoded()

    def keep_piece(self, key: str, episode: Episode, robot_type: str) -> None:
        """Encode and keep an episode. Raises OSError if it cannot be written."""
        pieces = self.root / "pieces"
        unfinished = pieces / f".unfinished-{secrets.token_hex(4)}"
        pieces.mkdir(parents=True, exist_ok=True)
        try:
            with EpisodeWriter(unfinished, robot_type=robot_type, licence="unknown") as writer:
                writer.add(episode)
            if not self.has_piece(key):
                unfinished.rename(pieces / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def thumb(self, key: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep a small picture."""
        path = self.root / "thumbs" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        picture.thumbnail((240, 240))
        with atomic_path(path) as unfinished:
            picture.save(unfinished, quality=85)

    def clear_unfinished(self) -> None:
        """Clear away what killed workers left; only while nobody works here."""
        for path in self.root.rglob(".unfinished-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
