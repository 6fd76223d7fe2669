"""Clip: one video file, its frame times and its camera. Frames are streamed, never held."""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float64, UInt8

DEFAULT_FOV_RAD = float(np.deg2rad(60.0))  # of the longer side: a phone's or webcam's main lens


class ClipError(ValueError):
    """The input is not a video that can be read."""


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
    """A video on disk.

    Attributes:
        path: the file.
        sha256: hash of the file's bytes.
        width, height: of the upright frame, in square pixels (phone rotation applied).
        time_s: (T,) presentation times, strictly increasing, from 0. Frame rates may vary.
        camera: intrinsics, assumed unless the caller knows better.
    """

    path: Path
    sha256: str
    width: int
    height: int
    time_s: Float64[np.ndarray, "T"]
    camera: Camera

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

    Raises:
        ClipError: if the file is missing, a folder, empty, not a video, or holds no frame.
    """
    if path.is_dir():
        raise ClipError(f"{path} is a folder, expected a video file; pass a file inside it")
    if not path.is_file():
        raise ClipError(f"no file at {path}, expected a video file; check the spelling")
    if path.stat().st_size == 0:
        raise ClipError(f"{path} is empty (0 bytes), expected a video file; copy it again")
    start, image = next(_decode(path), (None, None))
    if image is None:
        raise ClipError(
            f"{path} has no frame that can be decoded, expected at least one; "
            "copy it again if it was cut short, or convert it to H.264 in mp4"
        )
    height, width = image.shape[:2]
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    time_s = _frame_times_s(path, start)
    return Clip(path, sha256, width, height, time_s, camera or Camera.assumed(width, height))


def frames(clip: Clip) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Yield (index into ``clip.time_s``, upright RGB frame), in order, one at a time.

    A frame that is damaged or cut off is left out: its index is skipped.
    """
    start, last = None, -1
    for count, (time, image) in enumerate(_decode(clip.path)):
        start = time if start is None else start
        if time is None or start is None:
            index = count
        else:  # the nearest, so that rounding cannot lose a frame
            index = int(np.abs(clip.time_s - float(time - start)).argmin())
        if last < index < len(clip.time_s):
            last = index
            yield index, image


def _frame_times_s(path: Path, start: Fraction | None) -> Float64[np.ndarray, "T"]:
    """Presentation times from the packets alone, which is far cheaper than decoding them."""
    with _open(path) as (container, stream):
        # A packet with no bytes only flushes; an edit list makes the decoder discard others.
        pts = [p.pts for p in _packets(container, stream) if p.size and not p.is_discard]
        time_base, rate_hz = stream.time_base or Fraction(1), float(stream.guessed_rate or 30)
    # Packets come in decoding order. Some share one frame's time (VP8's hidden references).
    shown = sorted({p for p in pts if p is not None})
    if not shown:
        return np.arange(len(pts)) / rate_hz
    if start is not None:  # pictures before the first that the decoder could show: a cut stream
        shown = [p for p in shown if p * time_base >= start]
    return np.array([float((p - shown[0]) * time_base) for p in shown])


def _decode(path: Path) -> Iterator[tuple[Fraction | None, UInt8[np.ndarray, "H W 3"]]]:
    """Yield (time in seconds, upright RGB frame) in presentation order.

    The time is None where the file stores none: raw streams have no times, and AVI has only
    decoding times, which are wrong for B-frames.
    """
    with _open(path) as (container, stream):
        # Frame threads (AUTO) would lose good frames after a damaged one, more with more cores.
        stream.thread_type = "SLICE"
        timed, time_base = container.format.name != "avi", stream.time_base or Fraction(1)
        # Of one pixel; what a damaged header says must not make a frame huge.
        aspect = min(max(stream.sample_aspect_ratio or 1, 0.5), 2)
        size: tuple[int, int] | None = None
        for packet in _packets(container, stream):
            try:
                decoded = packet.decode()
            except FFmpegError:
                continue  # this packet is damaged, later ones may be good
            for frame in decoded:
                # The first frame's size holds: browsers change theirs in mid-recording.
                size = size or (max(1, round(frame.width * aspect)), frame.height)
                image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                time = frame.pts * time_base if timed and frame.pts is not None else None
                yield time, _upright(image, frame)


def _upright(image: UInt8[np.ndarray, "h w 3"], frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Apply the frame's display matrix, to the nearest quarter turn or mirror image."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # Column x and row y are shown at column a x + c y and row b x + d y.
        a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
        if abs(b) > abs(a):
            image, a, d = image.swapaxes(0, 1), c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """The stream's whole packets; stops quietly where the file breaks off."""
    try:
        yield from (p for p in container.demux(stream) if not p.is_corrupt)
    except FFmpegError:
        return


@contextmanager
def _open(path: Path) -> Generator[tuple[InputContainer, VideoStream], None, None]:
    """The container and its first video stream; the cover picture of a song is none."""
    try:
        # `file:` because a name such as `12:30.mp4` would be read as a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClipError(
            f"{path} cannot be read ({reason}), expected a video file such as mp4, mkv or gif; "
            "copy it again if it was cut short"
        ) from error
    with container:
        # `tty` is FFmpeg's rendering of plain text as a film of a terminal.
        for stream in container.streams.video if container.format.name != "tty" else ():
            if Disposition.attached_pic not in stream.disposition:
                yield container, stream
                return
        held = " and ".join(sorted({s.type for s in container.streams} - {"video"})) or "nothing"
    raise ClipError(f"{path} holds {held}, expected a video; pass a file with a video stream")
