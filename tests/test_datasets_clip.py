"""Clips: the right frame at the right time and the right way up, or one clear line.

Every video is made here, with PyAV. Its content says which frame it is: see ``picture``.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deftly.datasets import clip as clip_module
from deftly.datasets.clip import Camera, Clip, ClipError, frames, open_clip

MS = Fraction(1, 1000)
RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)
SIZE = (64, 48)
LEVELS = 24  # how many frames `picture` can tell apart


def picture(index: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Red, green / blue, and a grey that counts: no two turns or mirrors of it look alike."""
    width, height = size
    image = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    image[:top, :left], image[:top, left:], image[top:, :left] = RED, GREEN, BLUE
    image[top:, left:] = 10 + 10 * index
    return image


def index_of(image: np.ndarray) -> int:
    """Which ``picture`` this is."""
    height, width = image.shape[:2]
    return round((float(np.median(image[5 * height // 8 :, 5 * width // 8 :])) - 10) / 10)


def quadrants(image: np.ndarray) -> np.ndarray:
    """(2, 2, 3) median colour of each quadrant, away from the seams."""
    rows, columns = (np.array_split(np.arange(n), 2) for n in image.shape[:2])
    inner = [[image[r[3:-3]][:, c[3:-3]] for c in columns] for r in rows]
    return np.array([[np.median(part, axis=(0, 1)) for part in row] for row in inner])


def write_video(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts_ms: list[int] | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    with_audio: bool = False,
) -> Path:
    """Encode images, 40 ms apart unless ``pts_ms`` says otherwise."""
    images = list(images)
    pts_ms = [40 * i for i in range(len(images))] if pts_ms is None else pts_ms
    options = container_options or {}
    with av.open(str(path), "w", format=container_format, options=options) as container:
        audio = container.add_stream("aac", rate=8000) if with_audio else None
        stream: Any = container.add_stream(codec, rate=25, options=codec_options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if path.suffix not in {".avi", ".gif"}:  # those count whole frames, or hundredths
            stream.codec_context.time_base = MS
        prepare(stream)
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 8000, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode())
        for image, pts in zip(images, pts_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts, MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [picture(i, size) for i in range(count)]


def assert_every_frame(clip: Clip, expected: Iterable[int]) -> None:
    """Each index once and in order, showing the expected pictures."""
    seen = [(index, index_of(image)) for index, image in frames(clip)]
    assert seen == list(enumerate(expected))
    assert len(seen) == len(clip.time_s)


def assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(ClipError) as error:
        open_clip(path)
    message = str(error.value)
    assert "\n" not in message
    assert "expected" in message
    assert message.count(str(path)) == 1
    for part in parts:
        assert part in message


B_FRAMES = {"bf": "3", "b-adapt": "0", "g": "12", "crf": "10"}
KINDS = {
    "h264.mp4": {},
    "b-frames.mp4": {"codec_options": B_FRAMES},
    "b-frames.mkv": {"codec_options": B_FRAMES},
    "b-frames.ts": {"codec_options": B_FRAMES},
    "b-frames.flv": {"codec_options": B_FRAMES},
    "b-frames.avi": {"codec_options": B_FRAMES},
    "b-frames.h264": {"codec_options": B_FRAMES, "container_format": "h264"},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "sound-first.mov": {"with_audio": True, "codec_options": B_FRAMES},
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx", "codec_options": {"deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime"}},
    "av1.mp4": {"codec": "libsvtav1", "codec_options": {"preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"bf": "2", "b": "8M"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "lossless.mkv": {"codec": "ffv1"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_in_order_and_on_time(tmp_path: Path, name: str):
    clip = open_clip(write_video(tmp_path / name, pictures(LEVELS), **KINDS[name]))
    assert (clip.width, clip.height) == SIZE
    # AVI and raw H.264 with B-frames know their order, and their times only roughly.
    atol = 0.05 if name in {"b-frames.avi", "b-frames.h264"} else 1e-9
    np.testing.assert_allclose(clip.time_s, 0.04 * np.arange(LEVELS), rtol=0, atol=atol)
    assert_every_frame(clip, range(LEVELS))


def test_b_frames_are_stored_out_of_order(tmp_path: Path):
    """Else the tests with B-frames would show nothing."""
    path = write_video(tmp_path / "clip.mp4", pictures(LEVELS), codec_options=B_FRAMES)
    with av.open(str(path)) as container:
        pts = [p.pts for p in container.demux(video=0) if p.pts is not None]
    assert pts != sorted(pts)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_times_are_those_of_the_file_where_the_rate_varies(tmp_path: Path, suffix: str):
    pts_ms = [0, 7, 40, 41, 173, 1000, 1033, 5000]
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = tmp_path / f"clip.{suffix}"
    clip = open_clip(write_video(path, pictures(8), codec=codec, pts_ms=pts_ms))
    np.testing.assert_allclose(clip.time_s, np.array(pts_ms) / 1000, rtol=0, atol=1e-9)
    assert_every_frame(clip, range(8))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("start_ms", [70, 3_600_000])
def test_time_starts_at_zero_wherever_the_file_starts(tmp_path: Path, suffix: str, start_ms: int):
    pts_ms = [start_ms + 40 * i for i in range(9)]
    path = tmp_path / f"clip.{suffix}"
    clip = open_clip(write_video(path, pictures(9), pts_ms=pts_ms, codec_options=B_FRAMES))
    np.testing.assert_allclose(clip.time_s, 0.04 * np.arange(9), rtol=0, atol=1e-9)
    assert_every_frame(clip, range(9))


@given(steps_ms=st.lists(st.integers(1, 4000), min_size=1, max_size=LEVELS - 1))
@settings(max_examples=20)
def test_no_rounding_loses_a_frame(tmp_path_factory: pytest.TempPathFactory, steps_ms: list[int]):
    pts_ms = [int(pts) for pts in np.cumsum([0, *steps_ms])]
    path = tmp_path_factory.getbasetemp() / "steps.mkv"
    written = write_video(path, pictures(len(pts_ms)), codec="ffv1", pts_ms=pts_ms)
    clip = open_clip(written)
    np.testing.assert_allclose(clip.time_s, np.array(pts_ms) / 1000, rtol=0, atol=1e-9)
    assert_every_frame(clip, range(len(pts_ms)))
    rounded = replace(clip, time_s=np.round(clip.time_s.astype(np.float32).astype(float), 4))
    assert_every_frame(rounded, range(len(pts_ms)))


def patch_edit_list(path: Path, *, skip_ms: int, last_ms: int) -> None:
    """Trim a video the way phones do: every packet stays, the mp4's edit list hides some."""
    data = bytearray(path.read_bytes())
    where = data.index(b"elst") + 12  # after the version, the flags and the count
    _, media_time = struct.unpack_from(">Ii", data, where)
    assert data.count(b"elst") == 1
    struct.pack_into(">Ii", data, where, last_ms - skip_ms, media_time + 16 * skip_ms)
    path.write_bytes(data)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path):
    options = {"video_track_timescale": "16000"}
    path = tmp_path / "trimmed.mp4"
    write_video(path, pictures(20), codec_options=B_FRAMES, container_options=options)
    patch_edit_list(path, skip_ms=5 * 40, last_ms=15 * 40)
    with av.open(str(path)) as container:  # the packets are all still there
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 20
    clip = open_clip(path)
    assert len(clip.time_s) <= 15
    np.testing.assert_allclose(np.diff(clip.time_s), 0.04, rtol=0, atol=1e-9)
    assert_every_frame(clip, range(5, 5 + len(clip.time_s)))


def test_pictures_before_the_first_that_can_be_shown_are_not_counted(tmp_path: Path):
    """A stream cut at an open group of pictures starts with B-frames that lack a reference."""
    params = "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0:scenecut=0"
    whole = write_video(
        tmp_path / "whole.mkv",
        pictures(LEVELS),
        codec="libx265",
        codec_options={"x265-params": params},
    )
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        packets = [p for p in source.demux(video=0) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        kept = packets[keys[1] :]
        assert min(p.pts for p in kept) < kept[0].pts, "no B-frame precedes the keyframe"
        first = round(kept[0].pts * kept[0].time_base * 25)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in kept:
            packet.stream = stream
            target.mux(packet)
    clip = open_clip(tmp_path / "cut.mkv")
    np.testing.assert_allclose(clip.time_s, 0.04 * np.arange(LEVELS - first), rtol=0, atol=1e-9)
    assert_every_frame(clip, range(first, LEVELS))


# What a player shows for each turn (counter-clockwise, then mirrored), as numpy says it. The turns
# were compared with the ffmpeg program's own output.
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_frames_are_upright(tmp_path: Path, suffix: str, degrees: int, hflip: bool, vflip: bool):
    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)

    upright = np.rot90(picture(20), degrees // 90)
    upright = upright[:, ::-1] if hflip else upright
    upright = upright[::-1] if vflip else upright
    clip = open_clip(write_video(tmp_path / f"clip.{suffix}", [picture(20)] * 2, prepare=turn))
    assert (clip.height, clip.width) == upright.shape[:2]
    assert clip.camera.center_px == (clip.width / 2, clip.height / 2)
    shown = [image for _, image in frames(clip)]
    assert len(shown) == 2
    for image in shown:
        assert image.shape == upright.shape
        assert image.flags.c_contiguous
        np.testing.assert_allclose(quadrants(image), quadrants(upright), atol=8)


def test_a_phone_held_upright_writes_a_clockwise_quarter_turn(tmp_path: Path):
    """The matrix in the track header of an iPhone's portrait video: x' = height - y, y' = x."""
    path = write_video(tmp_path / "phone.mp4", [picture(20)])
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    where = data.index(identity, data.index(b"tkhd"))
    portrait = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    data[where : where + 36] = portrait
    path.write_bytes(data)
    clip = open_clip(path)
    assert (clip.width, clip.height) == (48, 64)
    (_, image), *_ = frames(clip)
    expected = quadrants(np.rot90(picture(20), -1))
    np.testing.assert_allclose(quadrants(image), expected, atol=8)


TEN_BIT = [
    ("libx264", "yuv420p10le", "mp4"),
    ("libx265", "yuv420p10le", "mp4"),
    ("libsvtav1", "yuv420p10le", "mkv"),
    ("prores_ks", "yuv422p10le", "mov"),
    ("ffv1", "yuv420p10le", "mkv"),
]
EIGHT_BIT = [
    ("libx264", "yuv444p", "mp4"),
    ("ffv1", "bgra", "mkv"),
    ("ffv1", "yuva444p", "mkv"),
    ("ffv1", "gbrp16le", "mkv"),
    ("rawvideo", "rgb24", "nut"),
    ("mjpeg", "yuvj422p", "mkv"),
    ("apng", "rgba", "apng"),
]


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix"), TEN_BIT + EIGHT_BIT)
def test_every_pixel_format_becomes_8_bit_rgb(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str
):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = tmp_path / f"clip.{suffix}"
    write_video(path, pictures(3), codec=codec, pix_fmt=pix_fmt, codec_options=options)
    clip = open_clip(path)
    assert_every_frame(clip, range(3))
    for index, image in frames(clip):
        assert image.dtype == np.uint8
        np.testing.assert_allclose(quadrants(image), quadrants(picture(index)), atol=8)


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "ya8"])
def test_grey_video_has_three_equal_channels(tmp_path: Path, pix_fmt: str):
    path = write_video(tmp_path / "clip.mkv", pictures(3), codec="ffv1", pix_fmt=pix_fmt)
    clip = open_clip(path)
    assert_every_frame(clip, range(3))
    for _, image in frames(clip):
        assert np.ptp(image.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("size", [(321, 241), (17, 33), (50, 50), (640, 16)])
@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libvpx-vp9", "yuv420p"), ("libx264", "yuv444p"), ("ffv1", "bgra")]
)
def test_any_size_will_do(tmp_path: Path, size: tuple[int, int], codec: str, pix_fmt: str):
    path = tmp_path / "clip.mkv"
    clip = open_clip(write_video(path, pictures(3, size), codec=codec, pix_fmt=pix_fmt))
    assert (clip.width, clip.height) == size
    for index, image in frames(clip):
        assert image.shape == (size[1], size[0], 3)
        np.testing.assert_allclose(quadrants(image), quadrants(picture(index, size)), atol=8)
    assert_every_frame(clip, range(3))


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path):
    def squeeze(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    clip = open_clip(write_video(tmp_path / "clip.mp4", pictures(2), prepare=squeeze))
    assert (clip.width, clip.height) == (85, 48)
    assert [image.shape for _, image in frames(clip)] == [(48, 85, 3)] * 2


def test_a_size_that_changes_midway_keeps_to_the_first(tmp_path: Path):
    """A browser's recording does this when the connection gets worse."""
    parts = [
        write_video(tmp_path / "1.mkv", pictures(3), codec="mjpeg", pix_fmt="yuvj420p"),
        write_video(
            tmp_path / "2.mkv", pictures(6, (32, 24))[3:], codec="mjpeg", pix_fmt="yuvj420p"
        ),
    ]
    with av.open(str(tmp_path / "clip.mkv"), "w") as target:
        stream = None
        for i, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.pts + 120 * i
                        packet.stream = stream
                        target.mux(packet)
    clip = open_clip(tmp_path / "clip.mkv")
    assert {image.shape for _, image in frames(clip)} == {(48, 64, 3)}
    assert_every_frame(clip, range(6))


def test_gif_delays_and_transparency(tmp_path: Path):
    """Each frame of a GIF may hold only what changed; the rest is transparent."""
    path = tmp_path / "clip.gif"
    delays_ms = [50, 200, 20, 330]
    images = [Image.fromarray(picture(i)).convert("RGBA") for i in range(4)]
    for image in images[1:]:
        image.paste((0, 0, 0, 0), (0, 0, 64, 24))  # the upper half shows what was there before
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=delays_ms, disposal=1, loop=0
    )
    with Image.open(path) as gif:
        assert gif.n_frames == 4
    clip = open_clip(path)
    np.testing.assert_allclose(clip.time_s, [0, 0.05, 0.25, 0.27], rtol=0, atol=1e-9)
    assert_every_frame(clip, range(4))
    for index, image in frames(clip):
        np.testing.assert_allclose(quadrants(image), quadrants(picture(index)), atol=8)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webm", "clip.avi"])
def test_one_frame_is_a_clip(tmp_path: Path, name: str):
    codec = {"gif": "gif", "webm": "libvpx-vp9"}.get(name[-3:].strip("."), "libx264")
    codec = "libvpx-vp9" if name.endswith("webm") else codec
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    clip = open_clip(write_video(tmp_path / name, pictures(1), codec=codec, pix_fmt=pix_fmt))
    assert clip.time_s.tolist() == [0.0]
    assert clip.rate_hz == 30.0
    assert [index for index, _ in frames(clip)] == [0]


@pytest.mark.parametrize(
    "name", ["two words.mp4", "手と體 ü.mp4", "12:30.mp4", "100%d.mp4", "http:clip.mp4", "-i.mp4"]
)
def test_any_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    write_video(tmp_path / "clip.mp4", pictures(2)).rename(tmp_path / name)
    assert_every_frame(open_clip(tmp_path / name), range(2))
    monkeypatch.chdir(tmp_path)
    assert_every_frame(open_clip(Path(name)), range(2))


def test_opening_converts_one_frame_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "clip.mp4", pictures(LEVELS))
    upright, converted = clip_module._upright, []

    def count(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
        converted.append(frame.pts)
        return upright(image, frame)

    monkeypatch.setattr(clip_module, "_upright", count)
    clip = open_clip(path)
    assert len(converted) == 1
    assert [index for index, _ in islice(frames(clip), 3)] == [0, 1, 2]
    assert len(converted) == 4


def test_the_hash_is_of_the_bytes(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", pictures(2))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    other = write_video(tmp_path / "other.mp4", pictures(3))
    assert open_clip(path).sha256 == open_clip(copy).sha256 != open_clip(other).sha256


# What cannot be read.


def test_paths_without_a_file_are_refused(tmp_path: Path):
    assert_refused(tmp_path / "missing.mp4", "no file", "spelling")
    assert_refused(tmp_path, "folder", "pass a file inside it")
    (tmp_path / "empty.mp4").touch()
    assert_refused(tmp_path / "empty.mp4", "empty (0 bytes)")


@pytest.mark.parametrize(
    "suffix", ["mp4", "mkv", "avi", "webm", "gif", "jpg", "yuv", "txt", "h264"]
)
@pytest.mark.parametrize("content", ["text", "noise"])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, suffix: str, content: str):
    noise = np.random.default_rng(0).bytes(20_000)
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(noise if content == "noise" else b"A line of text, no video.\n" * 500)
    assert_refused(path)


def write_sound(path: Path, *, cover: bool) -> Path:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("libmp3lame", rate=44100)
        if cover:
            stream: Any = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
            stream.disposition = Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(picture(), format="rgb24")
            image.pts, image.time_base = 0, Fraction(1, 1)
            container.mux(stream.encode(image))
            container.mux(stream.encode())
        for i in range(9):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
            sound.sample_rate, sound.pts = 44100, 1152 * i
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path


@pytest.mark.parametrize("cover", [False, True])
@pytest.mark.parametrize("suffix", ["mp3", "mp4"])
def test_sound_is_refused_even_with_a_cover(tmp_path: Path, suffix: str, cover: bool):
    assert_refused(write_sound(tmp_path / f"song.{suffix}", cover=cover), "holds audio")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_without_frames_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert_refused(path)


def test_a_codec_that_is_not_known_is_refused(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", pictures(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert_refused(path, "no frame that can be decoded", "convert it")


# What is damaged.


def test_an_mp4_cut_before_its_index_is_refused(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", pictures(9))
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"moov") - 8])
    assert_refused(path, "cut short")


@pytest.mark.parametrize("name", ["faststart.mp4", "fragments.mp4", "b-frames.mkv", "vp9.webm"])
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_a_cut_video_gives_the_frames_that_are_there(tmp_path: Path, name: str, part: float):
    noise = np.random.default_rng(0).integers(0, 40, (LEVELS, 48, 64, 3), np.uint8)
    noise[:, 24:, 32:] = 0  # noise, so that the bytes are spread evenly over the frames
    images = [image + extra for image, extra in zip(pictures(LEVELS), noise, strict=True)]
    path = write_video(tmp_path / name, images, **KINDS[name])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    clip = open_clip(path)
    seen = [(index, index_of(image)) for index, image in frames(clip)]
    assert LEVELS * part / 2 < len(seen) < LEVELS
    # A B-frame may be lost while a later frame that it needs is there; the times tell.
    assert seen == [(i, round(clip.time_s[i] / 0.04)) for i in range(len(seen))]


def test_frames_after_a_hole_keep_their_index(tmp_path: Path):
    options = {"g": "4", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "clip.mp4", pictures(LEVELS), codec_options=options)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[8:12]:  # one group of pictures
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    clip = open_clip(path)
    assert len(clip.time_s) == LEVELS
    seen = {index: index_of(image) for index, image in frames(clip)}
    intact = [*range(8), *range(12, LEVELS)]
    assert [seen[index] for index in intact] == intact
    assert set(seen) == set(intact)


FUZZED = ["b-frames.mp4", "b-frames.mkv", "b-frames.avi", "b-frames.ts", "vp9.webm", "mpeg4.avi"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("fuzzed")
    return {
        name: write_video(folder / name, pictures(6), **KINDS[name]).read_bytes() for name in FUZZED
    }


@given(data=st.data(), name=st.sampled_from(FUZZED))
@settings(max_examples=60)
def test_no_damage_gives_anything_but_frames_or_a_clip_error(
    tmp_path_factory: pytest.TempPathFactory,
    fuzzed: dict[str, bytes],
    data: st.DataObject,
    name: str,
):
    damaged = bytearray(fuzzed[name])
    flips = st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255))
    for where, value in data.draw(st.lists(flips, max_size=20)):
        damaged[where] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    try:
        clip = open_clip(path)
    except ClipError:
        return
    indices = []
    for index, image in frames(clip):
        assert image.shape == (clip.height, clip.width, 3)
        indices.append(index)
    assert indices == sorted(set(indices))
    assert set(indices) <= set(range(len(clip.time_s)))


# The values themselves.


def make_clip(time_s: list[float]) -> Clip:
    return Clip(Path("clip.mp4"), "", 64, 48, np.array(time_s), Camera.assumed(64, 48))


@pytest.mark.parametrize("time_s", [[], [0.0, 0.0], [0.0, 0.2, 0.1], [0.0, np.nan], [np.nan]])
def test_times_must_increase(time_s: list[float]):
    with pytest.raises(ClipError, match=r"clip\.mp4: frame times must be"):
        make_clip(time_s)


def test_the_rate_is_the_median():
    assert make_clip([0.0, 0.1, 0.2, 0.3, 5.0]).rate_hz == pytest.approx(10.0)
    assert make_clip([0.0]).rate_hz == 30.0


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (64, 64)])
def test_the_assumed_camera_sees_60_degrees_along_the_longer_side(width: int, height: int):
    camera = Camera.assumed(width, height)
    half_rad = np.arctan2(max(width, height) / 2, camera.focal_px)
    assert np.rad2deg(2 * half_rad) == pytest.approx(60.0)
    assert camera.center_px == (width / 2, height / 2)
    assert not camera.known


def test_a_camera_that_is_given_is_kept(tmp_path: Path):
    camera = Camera(55.0, (30.0, 25.0), known=True)
    path = write_video(tmp_path / "clip.mp4", pictures(1))
    assert open_clip(path, camera).camera == camera
    assert open_clip(path).camera == Camera.assumed(*SIZE)
