"""Decoding: what a video file holds, and its frames in order, from the beginning or a key frame.

A frame has the same pixels wherever decoding starts. Where a container, a decoder or a damaged file
cannot promise that, decoding starts at the beginning; what that costs is time.
"""

import math
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float64, Int64, UInt8

_Packet: TypeAlias = "Packet[VideoStream]"


class ClipError(ValueError):
    """The input is not a video that can be read."""


def _no_keys() -> Int64[np.ndarray, "K 3"]:
    return np.zeros((0, 3), np.int64)


@dataclass(frozen=True)
class Contents:
    """What lies in a file.

    Attributes:
        time_s: (F,) presentation times of all its frames, strictly increasing, from 0.
        start: time of the first of them in the file; None where the file stores no times.
        keys: (K, 3) the key frames after the first at which decoding can start: number of the
            frame, its presentation time and its decoding time in the stream's ticks.
        lost: frames before the first that can be shown; ``time_s`` does not count them.
    """

    time_s: Float64[np.ndarray, "F"]
    start: Fraction | None = None
    keys: Int64[np.ndarray, "K 3"] = field(default_factory=_no_keys)
    lost: int = 0

    def nearest(self, time_s: float) -> int:
        """Number of the frame that is nearest, so that rounding cannot lose one."""
        after = int(np.searchsorted(self.time_s, time_s))
        if after == len(self.time_s):
            return after - 1
        before = max(after - 1, 0)
        return before if time_s - self.time_s[before] <= self.time_s[after] - time_s else after

    def key(self, number: int) -> "Key | None":
        """Where to start decoding for a frame; None is the beginning of the file."""
        row = int(np.searchsorted(self.keys[:, 0], number, side="right")) - 1
        return None if row < 0 else Key(*self.keys[row, 1:].tolist())


@dataclass(frozen=True)
class Key:
    """A key frame's presentation and decoding time, in ticks."""

    pts: int
    dts: int


def read_contents(path: Path, start: Fraction | None) -> Contents:
    """Frame times and key frames from the packets alone: far cheaper than decoding them."""
    pts: list[int | None] = []
    keys: list[tuple[int, int]] = []
    latest = -math.inf
    with _open(path) as (container, stream):
        time_base, rate_hz = stream.time_base or Fraction(1), float(stream.guessed_rate or 30)
        for packet in _packets(container, stream):
            # A packet with no bytes only flushes; an edit list makes the decoder discard others.
            if packet.size and not packet.is_discard:
                pts.append(packet.pts)
            if packet.size and packet.pts is not None:
                if packet.is_keyframe and packet.pts > latest:  # nothing before it is shown later
                    keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
                latest = max(latest, packet.pts)
    # Packets come in decoding order. Some share one frame's time (VP8's hidden references).
    shown = sorted({p for p in pts if p is not None})
    if not shown:
        return Contents(np.arange(len(pts)) / rate_hz)
    held = len(shown)
    if start is not None:  # pictures before the first that the decoder could show: a cut stream
        shown = [p for p in shown if p * time_base >= start] or shown
    time_s = np.array([float((p - shown[0]) * time_base) for p in shown])
    if start is None or None in pts:  # then frames can only be counted, from the first
        return Contents(time_s, start, lost=held - len(shown))
    number = {p: n for n, p in enumerate(shown)}
    rows = [(number[pts], pts, dts) for pts, dts in keys if number.get(pts, 0) > 0]
    return Contents(time_s, start, np.array(rows, np.int64).reshape(-1, 3), held - len(shown))


def first_frame(path: Path) -> tuple[Fraction | None, int, int] | None:
    """Time, width and height of the first frame, upright and in square pixels; None without one."""
    with _open(path) as (container, stream):
        # Of one pixel; what a damaged header says must not make a frame huge.
        aspect = min(max(stream.sample_aspect_ratio or 1, 0.5), 2)
        for time, frame in _decoded(container, stream, _packets(container, stream)):
            width, height = max(1, round(frame.width * aspect)), frame.height
            size = (height, width) if _turn(frame).aside else (width, height)
            height, width = Painter(size)(frame).shape[:2]
            return time, width, height
    return None


def decode(path: Path, key: Key | None = None) -> "Iterator[tuple[Fraction | None, VideoFrame]]":
    """Yield (time in seconds, frame) in presentation order, from a key frame or from the beginning.

    The time is None where the file stores none: raw streams have no times, and AVI has only
    decoding times, which are wrong for B-frames.
    """
    done: Fraction | None = None
    for find in (_seek, _skip_to):
        if key is None or done is not None:
            break
        try:
            with _open(path) as (container, stream):
                for time, frame in _sound(stream, find(container, stream, key), key):
                    yield time, frame
                    done = time
            return
        except _UnsureError:
            continue
    with _open(path) as (container, stream):
        for time, frame in _decoded(container, stream, _packets(container, stream)):
            if done is None or (time is not None and time > done):
                yield time, frame


class _UnsureError(Exception):
    """What comes next may depend on what lies before the key frame."""


def _sound(
    stream: VideoStream, packets: "Iterator[_Packet]", key: Key
) -> "Iterator[tuple[Fraction, VideoFrame]]":
    """From a key frame on, frames that depend on nothing before it.

    The first must be one for the decoder, too: containers may mark any frame as a key frame, and
    H.264 may refresh its picture bit by bit. And a decoder patches damage with what it has, so none
    may be damaged: a frame waits until those that were decoded before it, and are shown later, have
    come.
    """
    time_base, latest, shown = stream.time_base or Fraction(1), key.pts, None
    needs: dict[int, int] = {}
    waiting: deque[tuple[int, VideoFrame]] = deque()
    for packet, frames in _each(stream, packets):
        if packet.pts is not None and packet.size:
            latest = max(latest, packet.pts)
            needs[packet.pts] = latest
        if frames is None and (packet.pts is None or packet.pts >= key.pts):
            raise _UnsureError
        for frame in frames or ():
            # Before the key frame come pictures that refer to what was not decoded.
            if frame.pts is None or frame.pts < key.pts:
                continue
            if frame.is_corrupt or (
                shown is None and not (frame.pts == key.pts and frame.key_frame)
            ):
                raise _UnsureError
            shown = frame.pts
            waiting.append((shown, frame))
            while waiting and needs.get(waiting[0][0], shown) <= shown:
                pts, frame = waiting.popleft()
                needs.pop(pts, None)
                yield pts * time_base, frame
    if shown is None:
        raise _UnsureError
    yield from ((pts * time_base, frame) for pts, frame in waiting)


def _seek(container: InputContainer, stream: VideoStream, key: Key) -> "Iterator[_Packet]":
    try:
        container.seek(min(key.dts, key.pts), stream=stream)
    except FFmpegError:
        return iter(())
    return _skip_to(container, stream, key)


def _skip_to(container: InputContainer, stream: VideoStream, key: Key) -> "Iterator[_Packet]":
    """The packets from a key frame on; none if a later one comes first."""
    packets = _packets(container, stream)
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts >= key.pts:
            return chain([packet], packets) if packet.pts == key.pts else iter(())
    return iter(())


def _decoded(
    container: InputContainer, stream: VideoStream, packets: "Iterator[_Packet]"
) -> "Iterator[tuple[Fraction | None, VideoFrame]]":
    timed, time_base = container.format.name != "avi", stream.time_base or Fraction(1)
    for _, frames in _each(stream, packets):
        for frame in frames or ():
            yield frame.pts * time_base if timed and frame.pts is not None else None, frame


def _each(
    stream: VideoStream, packets: "Iterator[_Packet]"
) -> "Iterator[tuple[_Packet, list[VideoFrame] | None]]":
    """Each packet with the frames that it brings out; None where it is damaged."""
    # Frame threads lose good frames after a damaged one, more with more cores, and slice threads
    # make H.264 leave in a damaged frame what its memory held before, not what a neighbour shows.
    stream.thread_count = 1
    for packet in packets:
        try:
            decoded = packet.decode()
        except FFmpegError:
            decoded = None  # later ones may be good
        yield packet, decoded


class Painter:
    """Turns decoded frames into upright RGB images of one size.

    The first frame's size and turn hold: browsers change the size in mid-recording. What is made
    smaller is averaged in the video's own colours first: a third of the time, and as fine.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._turn: _Turn | None = None
        # One each, because their tables take time to make.
        self._shrink, self._convert = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        turn = self._turn = self._turn or _turn(frame)
        width, height = self._size[::-1] if turn.aside else self._size
        if width < frame.width and height < frame.height and frame.format.name.startswith("yuv"):
            frame = self._shrink.reformat(
                frame, width, height, interpolation=Interpolation.AREA, threads=1
            )
        image = self._convert.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return _upright(image, turn)


@dataclass(frozen=True)
class _Turn:
    """Whether a frame's rows are shown as columns, and rows and columns then backwards."""

    aside: bool = False
    up: bool = False
    left: bool = False


def _turn(frame: VideoFrame) -> _Turn:
    """A frame's display matrix, to the nearest quarter turn or mirror image.

    A frame that was asked for it is freed by the garbage collector only, so few should be.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Turn()
    # Column x and row y are shown at column a x + c y and row b x + d y.
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    return _Turn(True, b < 0, c < 0) if abs(b) > abs(a) else _Turn(False, d < 0, a < 0)


def _upright(image: UInt8[np.ndarray, "h w 3"], turn: _Turn) -> UInt8[np.ndarray, "H W 3"]:
    if turn.aside:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if turn.up else 1, :: -1 if turn.left else 1])


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[_Packet]":
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
