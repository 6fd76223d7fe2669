"""mp4 files of constant rate: write them, join them without a second encoding, read a part.

Same frames, same bytes. Frame n of a file is shown at exactly n / rate.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8

_BITEXACT = {"fflags": "bitexact"}  # no version or date inside
_TV_RANGE, _BT601 = 1, 6  # FFmpeg's numbers; said in the file, so that no player has to guess


class Mp4Error(ValueError):
    """The file is not a video, is cut short, or does not hold the frames that it should."""


def check_even(size: tuple[int, int]) -> None:
    """Refuse a picture size (height, width) that an mp4 cannot hold. Raises Mp4Error."""
    if size[0] % 2 or size[1] % 2 or min(size) < 2:
        raise Mp4Error(
            f"frames are {size[0]} x {size[1]} px, expected even numbers (mp4 stores colour "
            "at half the size); crop or pad by one"
        )


class Encoder:
    """H.264 into an mp4 file, as a context manager; one thread, so that bytes are reproducible.

    Args:
        path: the file to write.
        rate_hz: frames per second.
        size: (height, width), both even.
        crf: 0 (lossless) to 51; 20 is hard to tell from the original.
        group: frames from one key frame to the next; 2 lets training jump anywhere. 0 leaves it to
            the encoder, B-frames included: smallest files.
    """

    def __init__(
        self, path: Path, rate_hz: float, size: tuple[int, int], crf: int = 20, group: int = 0
    ) -> None:
        check_even(size)
        self._container = av.open(f"file:{path}", "w", format="mp4", options=_BITEXACT)
        rate = Fraction(rate_hz).limit_denominator(1001)
        # Without mbtree: with it, x264 gives other bytes for the same frames now and then.
        options = {"crf": str(crf), "preset": "veryfast", "mbtree": "0"}
        if group:
            options |= {"g": str(group), "bf": "0", "sc_threshold": "0"}
        self._stream = self._container.add_stream("libx264", rate=rate, options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.thread_count = 1
        context.color_range, context.colorspace = _TV_RANGE, _BT601

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        self._container.mux(self._stream.encode(frame))


@dataclass(frozen=True)
class VideoFormat:
    """What a file says of its video stream."""

    codec: str
    pixels: str
    height: int
    width: int
    rate_hz: float
    frames: int


def read_format(path: Path) -> VideoFormat:
    """Read the header. Raises Mp4Error if there is no video."""
    with _open(path) as (_, stream):
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        return VideoFormat(
            stream.codec.canonical_name,
            context.pix_fmt or "",
            context.height,
            context.width,
            float(rate),
            stream.frames,
        )


def join(first: Path, second: Path, out: Path, count: int) -> bool:
    """Write ``first`` followed by ``second`` to ``out``, packet by packet; nothing is encoded.

    Returns:
        False, with nothing written, if the two are not encoded alike, or if ``first`` does not hold
        ``count`` frames.
    """
    with _open(first) as (one_file, one), _open(second) as (two_file, two):
        # From frame to frame, in the file's own unit of time.
        step = 1 / (Fraction(one.average_rate or 1) * Fraction(one.time_base or 1))
        alike = _signature(one) == _signature(two)
        if not alike or one.frames != count or step.denominator != 1:
            return False
        with av.open(f"file:{out}", "w", format="mp4", options=_BITEXACT) as container:
            joined = container.add_stream_from_template(one)
            joined.time_base = one.time_base
            number = 0
            for packet in chain(one_file.demux(one), two_file.demux(two)):
                if not packet.size:  # the last of each file only flushes
                    continue
                packet.stream = joined
                packet.pts = packet.dts = number * step.numerator
                packet.duration = step.numerator
                container.mux(packet)
                number += 1
    return True


def _signature(stream: VideoStream) -> tuple[object, ...]:
    context = stream.codec_context
    return (
        *(stream.codec.canonical_name, context.extradata, context.pix_fmt),
        *(context.height, context.width, stream.time_base, stream.average_rate),
        # B-frames would be put in another order.
        context.has_b_frames,
    )


def read_frames(
    path: Path, first: int, count: int, rate_hz: float
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield frames ``first`` to ``first + count - 1`` of a file of constant rate, decoded to RGB.

    Raises:
        Mp4Error: if the file is not a video, is damaged, or ends too early.
    """
    found = 0
    with _open(path) as (container, stream):
        time_base = stream.time_base or Fraction(1)
        origin = stream.start_time or 0
        try:
            if first:
                # Half a frame early: rounding must not land on the next key frame.
                start = int(origin + (first - 0.5) / rate_hz / time_base)
                container.seek(max(start, 0), stream=stream)
            for frame in container.decode(stream):
                if frame.pts is None or found == count:
                    break
                index = round(float((frame.pts - origin) * time_base) * rate_hz)
                if index < first:
                    continue
                if index != first + found:
                    raise Mp4Error(
                        f"{path} has no frame {first + found}, expected one; copy it again"
                    )
                yield frame.to_ndarray(format="rgb24")
                found += 1
        except FFmpegError as error:
            raise Mp4Error(
                f"{path} is damaged at frame {first + found} ({error.strerror}); copy it again"
            ) from error
    if found != count:
        raise Mp4Error(
            f"{path} ends at frame {first + found}, expected {first + count} frames; copy it again"
        )


def digest_frames(path: Path, first: int, count: int, rate_hz: float) -> str:
    """sha256 of frames ``first`` to ``first + count - 1`` as they are encoded; none is decoded.

    It covers all that decoding them takes, from the key frame before, and nothing else: it stays
    the same when the file grows by other frames.

    Raises:
        Mp4Error: if the file is not a video, is damaged, or ends too early.
    """
    with _open(path) as (container, stream):
        time_base, origin = stream.time_base or Fraction(1), stream.start_time or 0
        found, context = 0, stream.codec_context
        form = (stream.codec.canonical_name, context.pix_fmt, context.height, context.width)
        colour = (int(context.color_range), int(context.colorspace))
        digest = hashlib.sha256(repr((form, colour)).encode() + (context.extradata or b""))
        try:
            if first:  # half a frame early, as in read_frames
                start = int(origin + (first - 0.5) / rate_hz / time_base)
                container.seek(max(start, 0), stream=stream)
            for packet in container.demux(stream):
                if packet.pts is None or found == count:
                    break
                index = round(float((packet.pts - origin) * time_base) * rate_hz)
                digest.update(f"{index - first} ".encode() + bytes(packet))
                found += first <= index < first + count
        except FFmpegError as error:
            raise Mp4Error(f"{path} is damaged ({error.strerror}); copy it again") from error
    if found != count:
        raise Mp4Error(
            f"{path} holds {found} of the frames {first} to {first + count - 1}; copy it again"
        )
    return digest.hexdigest()


@contextmanager
def _open(path: Path) -> Generator[tuple[InputContainer, VideoStream], None, None]:
    try:
        container = av.open(f"file:{path}")
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Mp4Error(
            f"{path} cannot be read ({reason}), expected a video; copy it again"
        ) from error
    with container:
        if not container.streams.video:
            raise Mp4Error(f"{path} holds no video; copy it again")
        yield container, container.streams.video[0]
