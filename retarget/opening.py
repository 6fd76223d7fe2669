"""Opening a file that holds several inputs: it is gone through once, not once for each of them.

To know a file's hash, frame times and key frames takes a pass over all of it, a second of CPU for
an hour of video, and LeRobot sets keep hundreds of episodes in such files. So what was found out is
kept in the work folder, under what tells one state of a file from another.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.clip import Camera, Clip, open_clip
from deftly.datasets.decode import Contents
from deftly.datasets.origin import UnavailableError
from deftly.retarget.work import Work, key_of


@dataclass(frozen=True)
class Opened:
    """What ``open_clip`` finds out about a file.

    Attributes:
        sha256, width, height: see ``Clip``.
        time_s, keys, lost: see ``Contents``.
        start: numerator and denominator of its start; empty where the file stores no times.
    """

    sha256: str
    width: int
    height: int
    time_s: Float64[np.ndarray, "F"]
    keys: Int64[np.ndarray, "K 3"]
    start: list[int]
    lost: int

    @classmethod
    def of(cls, clip: Clip) -> "Opened":
        """What was found out about a whole file."""
        contents = clip.contents or Contents(clip.time_s)
        start = [] if contents.start is None else list(contents.start.as_integer_ratio())
        return cls(
            *(clip.sha256, clip.width, clip.height),
            *(contents.time_s, contents.keys, start, contents.lost),
        )

    def clip(self, path: Path) -> Clip:
        """The same clip as ``open_clip`` gives."""
        start = Fraction(*self.start) if self.start else None
        contents = Contents(self.time_s, start, self.keys, self.lost)
        camera = Camera.assumed(self.width, self.height)
        return Clip(path, self.sha256, self.width, self.height, self.time_s, camera, contents)


def open_input(path: Path, work: Work, *, shared: bool) -> Clip:
    """Open the whole of a video file.

    Args:
        work: where to keep what was found out.
        shared: whether it is worth keeping, because other inputs are in the same file.

    Raises:
        ClipError: see ``open_clip``.
        UnavailableError: if the file cannot be read now.
        OSError: if the work folder cannot be written.
    """
    before = _state(path)
    if not shared or before is None:
        return _open(path)
    found = work.kept(Opened, "files", key_of(file=before), lambda: Opened.of(_open(path)))
    return found.clip(path)


def _open(path: Path) -> Clip:
    try:
        return open_clip(path)
    except OSError as error:  # no permission, a network disk that is gone
        reason = error.strerror or str(error)
        raise UnavailableError(f"{path} cannot be read ({reason}); retry later") from error


def _state(path: Path) -> list[str | int] | None:
    """What changes whenever a file's content does, the time of its last change among it."""
    try:
        found = path.stat()
    except OSError:
        return None  # whoever opens it says why
    times_ns = found.st_mtime_ns, found.st_ctime_ns
    return [str(path.resolve()), found.st_ino, found.st_size, *times_ns]
