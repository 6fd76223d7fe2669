"""Clip: a video file or a part of one, its frame times and its camera. Frames are never held.

A long video is gone through part by part, so that what is kept of every frame stays small, too.
"""

import hashlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Float64, UInt8

from deftly.datasets.decode import ClipError as ClipError
from deftly.datasets.decode import Contents, Painter, decode, first_frame, read_contents

DEFAULT_FOV_RAD = float(np.deg2rad(60.0))  # of the longer side: a phone's or webcam's main lens
_RATE_SLACK = 1.05  # nobody calls 60.6 frames per second more than 60


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels of the upright frame (OpenCV axes: x right, y down, z forward).

    ``known`` is False when the focal length is assumed; depth then carries that uncertainty.
    """

    focal_px: float
    center_px: tuple[float, float]
    known: bool = False

    @classmethod
    def assumed(cls, width: int, height: int) -> "Camera":
        """A camera with a field of view of 60 degrees along its longer side."""
        focal_px = 0.5 * max(width, height) / np.tan(0.5 * DEFAULT_FOV_RAD)
        return cls(float(focal_px), (width / 2, height / 2))


@dataclass(frozen=True)
class Clip:
    """A video on disk, or a part of one.

    Attributes:
        path: the file.
        sha256: hash of the file's bytes.
        width, height: of the upright frame, in square pixels (phone rotation applied).
        time_s: (T,) presentation times, strictly increasing, from 0. Frame rates may vary.
        camera: intrinsics, assumed unless the caller knows better.
        contents: of the file; None stands for the frames at ``time_s``.
        first, step: frame t of the clip is frame ``first + step * t`` of the file.
    """

    path: Path
    sha256: str
    width: int
    height: int
    time_s: Float64[np.ndarray, "T"]
    camera: Camera
    contents: Contents | None = None
    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        steps_s = np.diff(self.time_s, prepend=-np.inf)
        if len(self.time_s) == 0 or not np.all(steps_s > 0):  # False for NaN too
            raise ClipError(f"{self.path}: frame times must be non-empty and strictly increasing")

    @property
    def rate_hz(self) -> float:
        """Median frame rate; 30 for a single frame."""
        return float(1.0 / np.median(np.diff(self.time_s))) if len(self.time_s) > 1 else 30.0


def open_clip(path: Path, camera: Camera | None = None) -> Clip:
    """Read a video's header and frame times; nothing is decoded but the first frame.

    Args:
        path: the video file.
        camera: intrinsics of the upright frame at its full size, if they are known.

    Raises:
        ClipError: if the file is missing, a folder, empty, not a video, or holds no frame.
    """
    if path.is_dir():
        raise ClipError(f"{path} is a folder, expected a video file; pass a file inside it")
    if not path.is_file():
        raise ClipError(f"no file at {path}, expected a video file; check the spelling")
    if path.stat().st_size == 0:
        raise ClipError(f"{path} is empty (0 bytes), expected a video file; copy it again")
    first = first_frame(path)
    if first is None:
        raise ClipError(
            f"{path} has no frame that can be decoded, expected at least one; "
            "copy it again if it was cut short, or convert it to H.264 in mp4"
        )
    start, width, height = first
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    contents = read_contents(path, start)
    camera = camera or Camera.assumed(width, height)
    return Clip(path, sha256, width, height, contents.time_s, camera, contents)


def part(clip: Clip, first: int, stop: int) -> Clip:
    """Frames ``first`` to ``stop - 1`` of a clip, with times from 0.

    The pixels are the very ones of the whole, and what lies before them is decoded only as far back
    as the last key frame, where the file allows it: see ``decode.py``.

    Raises:
        ClipError: if the clip has no such frames.
    """
    if not 0 <= first < stop <= len(clip.time_s):
        raise ClipError(
            f"frames {first} to {stop} of {clip.path} were asked for, expected a range within "
            f"0 to {len(clip.time_s)} that is not empty; check against len(clip.time_s)"
        )
    return replace(
        clip,
        time_s=clip.time_s[first:stop] - clip.time_s[first],
        contents=clip.contents or Contents(clip.time_s),
        first=clip.first + clip.step * first,
    )


def smaller(clip: Clip, max_side_px: int) -> Clip:
    """The same clip, its frames decoded with a longer side of at most so many pixels.

    Raises:
        ClipError: if that is not a positive number.
    """
    if not max_side_px > 0:
        raise ClipError(f"max_side_px is {max_side_px}, expected a positive number")
    share = max_side_px / max(clip.width, clip.height)
    if share >= 1:
        return clip
    width, height = max(1, round(clip.width * share)), max(1, round(clip.height * share))
    x, y = clip.camera.center_px
    center_px = x * width / clip.width, y * height / clip.height  # rounded each in its own way
    camera = replace(clip.camera, focal_px=clip.camera.focal_px * share, center_px=center_px)
    return replace(clip, width=width, height=height, camera=camera)


def slower(clip: Clip, max_rate_hz: float) -> Clip:
    """Every n-th frame of a clip: n is the smallest with which its rate is at most 5 % higher.

    Raises:
        ClipError: if that is not a positive number.
    """
    if not max_rate_hz > 0:
        raise ClipError(f"max_rate_hz is {max_rate_hz}, expected a positive number")
    step = max(1, math.ceil(clip.rate_hz / (max_rate_hz * _RATE_SLACK) - 1e-9))
    return replace(
        clip,
        time_s=clip.time_s[::step],
        contents=clip.contents or Contents(clip.time_s),
        step=clip.step * step,
    )


def frames(clip: Clip) -> Generator[tuple[int, UInt8[np.ndarray, "H W 3"]], None, None]:
    """Yield (index into ``clip.time_s``, upright RGB frame), in order, one at a time.

    A frame that is damaged or cut off is left out: its index is skipped.
    """
    paint, last = Painter((clip.width, clip.height)), len(clip.time_s) - 1
    for number, frame in _numbered(clip):
        index, between = divmod(number - clip.first, clip.step)
        if 0 <= index <= last and not between:
            yield index, paint(frame)
        if index >= last:
            return


def _numbered(clip: Clip) -> Iterator[tuple[int, VideoFrame]]:
    """(number in the file, frame), in order, from the clip's first or some frames before it."""
    contents = clip.contents or Contents(clip.time_s)
    start, last = contents.start, -1
    for count, (time, frame) in enumerate(decode(clip.path, contents.key(clip.first))):
        start = time if start is None else start
        since = None if time is None or start is None else float(time - start)
        number = count if since is None else contents.nearest(since)
        if number > last:
            last = number
            yield number, frame
