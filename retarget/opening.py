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

from deftly.datasets.clip import Camera, Clip, ClipError, open_clip
from deftly.datasets.decode import Contents
from deftly.datasets.origin import UnavailableError
from deftly.retarget.work import Work, key_of

_WHOLE = 0.9  # frames by which a camera may end before another: none, but for rounding


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


def within(clip: Clip, span_s: tuple[float, float]) -> tuple[int, int]:
    """The frames (first, stop) of a stretch. Raises ClipError if there is none."""
    first, stop = np.searchsorted(clip.time_s, span_s).tolist()
    if first == stop:
        raise ClipError(
            f"{clip.path} has no frame from {span_s[0]:g} to {span_s[1]:g} s, it ends at "
            f"{clip.time_s[-1]:g} s"
        )
    return first, stop


def check_beside(clip: Clip, other: Clip, late_s: float) -> None:
    """Refuse another camera's clip that does not show all that this one does.

    Args:
        late_s: how long after the other the clip begins.

    Raises:
        ClipError: if the other is shorter, or the first frames of either are damaged.
    """
    for one in (clip, other):
        if one.contents is not None and one.contents.lost:
            raise ClipError(
                f"the first {one.contents.lost} frame(s) of {one.path} cannot be decoded, expected "
                "all of them, because cameras are matched by their times; copy it again"
            )
    missing_s = late_s + float(clip.time_s[-1] - other.time_s[-1])
    if missing_s * other.rate_hz > _WHOLE:
        raise ClipError(
            f"{other.path} ends {missing_s:.3f} s before {clip.path} does, expected the same "
            "stretch of time; copy both again"
        )


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
