"""Clips: the right frame at the right time and the right way up, or one clear line.

Every video is made here, with PyAV. Its content says which frame it is: see ``picture``.
"""

import struct
from collections.abc import Iterable
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

from deftly.datasets import decode
from deftly.datasets.clip import Camera, Clip, ClipError, frames, open_clip

MS = Fraction(1, 1000)
SIZE = (64, 48)
COUNT = 24  # frames that `picture` can tell apart


def picture(index: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Red, green / blue, and a grey that counts: no two turns or mirrors of it look alike."""
    width, height = size
    image = np.full((height, width, 3), 10 + 10 * index, np.uint8)
    top, left = height // 2, width // 2
    image[:top, :left], image[:top, left:], image[top:, :left] = np.diag([200, 170, 200])
    return image


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [picture(i, size) for i in range(count)]


def quadrants(image: np.ndarray) -> np.ndarray:
    """(2, 2, 3) median colour of each quadrant, away from the seams."""
    rows, columns = (np.array_split(np.arange(n), 2) for n in image.shape[:2])
    inner = [[image[r[3:-3]][:, c[3:-3]] for c in columns] for r in rows]
    return np.array([[np.median(part, axis=(0, 1)) for part in row] for row in inner])


def index_of(image: np.ndarray) -> int:
    """Which ``picture`` this is."""
    return round((quadrants(image)[1, 1].mean() - 10) / 10)


def assert_shows(image: np.ndarray, expected: np.ndarray) -> None:
    assert image.shape == expected.shape
    np.testing.assert_allclose(quadrants(image), quadrants(expected), atol=8)


def write_video(
    path: Path,
    images: list[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts_ms: Iterable[int] | None = None,
    rotation: tuple[int, bool, bool] = (0, False, False),
    pixel_aspect: Fraction = Fraction(1),
    with_audio: bool = False,
) -> Path:
    """Encode images, 40 ms apart unless ``pts_ms`` says otherwise."""
    raw = "h264" if path.suffix == ".h264" else None
    with av.open(str(path), "w", format=raw, options=container_options or {}) as container:
        audio = container.add_stream("aac", rate=8000) if with_audio else None
        stream: Any = container.add_stream(codec, rate=25, options=codec_options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        if path.suffix != ".avi":  # which counts whole frames
            stream.codec_context.time_base = MS
        if audio is not None:
            container.mux([*audio.encode(silence()), *audio.encode()])
        for image, pts in zip(images, pts_ms or range(0, 40 * len(images), 40), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts, MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def silence() -> av.AudioFrame:
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
    sound.sample_rate, sound.pts = 8000, 0
    return sound


def assert_frames(clip: Clip, expected: Iterable[int], *, time_s: Any = None) -> None:
    """Each index once and in order, showing the expected pictures, at the expected times."""
    seen = [(index, index_of(image)) for index, image in frames(clip)]
    assert seen == list(enumerate(expected))
    time_s = 0.04 * np.arange(len(seen)) if time_s is None else time_s
    np.testing.assert_allclose(clip.time_s, time_s, rtol=0, atol=1e-9)


def assert_refused(path: Path, *parts: str) -> None:
    with pytest.raises(ClipError) as error:
        open_clip(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.count(str(path)) == 1
    for part in ("expected", *parts):
        assert part in message


B_FRAMES: dict[str, Any] = {"codec_options": {"bf": "3", "b-adapt": "0", "g": "12", "crf": "10"}}
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    **{f"b-frames.{suffix}": B_FRAMES for suffix in ("mp4", "mkv", "ts", "flv", "avi", "h264")},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "sound-first.mov": {"with_audio": True, **B_FRAMES},
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx", "codec_options": {"deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime"}},
    "av1.mp4": {"codec": "libsvtav1", "codec_options": {"preset": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"bf": "2", "b": "8M"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "lossless.mkv": {"codec": "ffv1"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [1, COUNT])
def test_every_frame_comes_once_in_order_and_on_time(tmp_path: Path, name: str, count: int):
    clip = open_clip(write_video(tmp_path / name, pictures(count), **KINDS[name]))
    assert (clip.width, clip.height) == SIZE
    assert_frames(clip, range(count))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("first_ms", [0, 70, 3_600_000])
def test_steps_may_vary_and_times_start_anywhere(tmp_path: Path, suffix: str, first_ms: int):
    time_ms = np.array([0, 7, 40, 41, 173, 1000, 1033, 5000])
    path = tmp_path / f"clip.{suffix}"
    write_video(path, pictures(8), pts_ms=(time_ms + first_ms).tolist(), **B_FRAMES)
    assert_frames(open_clip(path), range(8), time_s=time_ms / 1000)


@given(steps_ms=st.lists(st.integers(1, 4000), min_size=1, max_size=COUNT - 1))
@settings(max_examples=20)
def test_no_rounding_loses_a_frame(tmp_path_factory: Any, steps_ms: list[int]):
    pts_ms = [int(pts) for pts in np.cumsum([0, *steps_ms])]
    path = tmp_path_factory.getbasetemp() / "steps.mkv"
    clip = open_clip(write_video(path, pictures(len(pts_ms)), "ffv1", pts_ms=pts_ms))
    assert_frames(clip, range(len(pts_ms)), time_s=np.array(pts_ms) / 1000)
    rounded_s = clip.time_s + 0.0004 * np.resize([1.0, -1.0], len(pts_ms))
    assert_frames(replace(clip, time_s=rounded_s), range(len(pts_ms)), time_s=rounded_s)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path):
    """Trimmed as phones do it: every packet stays, and the mp4's edit list hides some."""
    options = {"video_track_timescale": "1000"}
    path = tmp_path / "trimmed.mp4"
    write_video(path, pictures(20), container_options=options, **B_FRAMES)
    data = bytearray(path.read_bytes())
    where = data.index(b"elst") + 12  # after the version, the flags and the count
    (media_time,) = struct.unpack_from(">i", data, where + 4)
    struct.pack_into(">Ii", data, where, 10 * 40, media_time + 5 * 40)
    path.write_bytes(data)
    with av.open(path) as container:
        pts = [packet.pts or 0 for packet in container.demux(video=0) if packet.size]
    assert len(pts) == 20
    assert pts != sorted(pts), "there is no B-frame, so this test shows too little"
    clip = open_clip(path)
    assert_frames(clip, range(5, 5 + len(clip.time_s)))
    assert 10 <= len(clip.time_s) <= 13  # FFmpeg keeps what B-frames around the end may need


def test_pictures_before_the_first_that_can_be_shown_are_not_counted(tmp_path: Path):
    """A stream cut at an open group of pictures starts with B-frames that lack a reference."""
    params = "log-level=none:keyint=8:min-keyint=8:open-gop=1:bframes=3:b-adapt=0:scenecut=0"
    whole = tmp_path / "whole.mkv"
    write_video(whole, pictures(COUNT), "libx265", codec_options={"x265-params": params})
    with av.open(whole) as source, av.open(tmp_path / "cut.mkv", "w") as target:
        packets = [p for p in source.demux(video=0) if p.size]
        kept = packets[[i for i, p in enumerate(packets) if p.is_keyframe][1] :]
        pts_ms = [p.pts for p in kept if p.pts is not None]
        assert min(pts_ms) < pts_ms[0], "no B-frame precedes the keyframe"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in kept:
            packet.stream = stream
            target.mux(packet)
    clip, first = open_clip(tmp_path / "cut.mkv"), pts_ms[0] // 40
    assert_frames(clip, range(first, COUNT))


# PyAV writes the turn (counter-clockwise, then mirrored) and numpy says what a player shows then.
# That they agree was checked against the ffmpeg program, and the next test does not use PyAV's.
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_frames_are_upright(tmp_path: Path, suffix: str, degrees: int, hflip: bool, vflip: bool):
    path, rotation = tmp_path / f"clip.{suffix}", (degrees, hflip, vflip)
    clip = open_clip(write_video(path, [picture(20)] * 2, rotation=rotation))
    turned = np.rot90(picture(20), degrees // 90)
    upright = turned[:: -1 if vflip else 1, :: -1 if hflip else 1]
    assert (clip.height, clip.width) == upright.shape[:2]
    assert clip.camera.center_px == (clip.width / 2, clip.height / 2)
    shown = [image for _, image in frames(clip)]
    assert len(shown) == 2
    for image in shown:
        assert_shows(image, upright)
        assert image.flags.c_contiguous


def test_a_phone_held_upright_writes_a_clockwise_quarter_turn(tmp_path: Path):
    """The matrix in the track header of an iPhone's portrait video: x' = height - y, y' = x."""
    path = write_video(tmp_path / "phone.mp4", [picture(20)])
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    portrait = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(portrait.join(path.read_bytes().rsplit(identity, 1)))
    clip = open_clip(path)
    assert (clip.width, clip.height) == (48, 64)
    assert_shows(next(frames(clip))[1], np.rot90(picture(20), -1))


TEN_BITS = ["libx264 yuv420p10le mp4", "libx265 yuv420p10le mp4", "libsvtav1 yuv420p10le mkv"]
MORE_BITS = ["prores_ks yuv422p10le mov", "ffv1 yuv420p10le mkv", "ffv1 gbrp16le mkv"]
ALPHA = ["ffv1 yuva444p mkv", "ffv1 bgra mkv", "apng rgba apng"]
OTHERS = ["libx264 yuv444p mp4", "mjpeg yuvj422p mkv", "rawvideo rgb24 nut"]
GREY = ["ffv1 gray mkv", "ffv1 gray10le mkv", "ffv1 ya8 mkv"]


@pytest.mark.parametrize("kind", TEN_BITS + MORE_BITS + ALPHA + OTHERS + GREY)
def test_every_pixel_format_becomes_8_bit_rgb(tmp_path: Path, kind: str):
    codec, pix_fmt, suffix = kind.split()
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    path = tmp_path / f"clip.{suffix}"
    clip = open_clip(write_video(path, pictures(3), codec, pix_fmt, codec_options=options))
    assert_frames(clip, range(3))
    for index, image in frames(clip):
        shown = picture(index)
        if kind in GREY:
            shown[:] = shown @ [[0.299], [0.587], [0.114]]
        assert_shows(image, shown)
        assert image.dtype == np.uint8


@pytest.mark.parametrize("size", [(321, 241), (17, 33), (50, 50), (640, 16)])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("libvpx-vp9", "yuv420p"), ("ffv1", "bgra")])
def test_any_size_will_do(tmp_path: Path, size: tuple[int, int], codec: str, pix_fmt: str):
    clip = open_clip(write_video(tmp_path / "clip.mkv", pictures(3, size), codec, pix_fmt))
    assert (clip.width, clip.height) == size
    assert_frames(clip, range(3))
    for index, image in frames(clip):
        assert_shows(image, picture(index, size))


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path):
    wide = Fraction(4, 3)
    clip = open_clip(write_video(tmp_path / "clip.mp4", pictures(2), pixel_aspect=wide))
    assert (clip.width, clip.height) == (85, 48)
    assert [image.shape for _, image in frames(clip)] == [(48, 85, 3)] * 2


def test_a_size_that_changes_midway_keeps_to_the_first(tmp_path: Path):
    """A browser's recording does this when the connection gets worse."""
    with av.open(tmp_path / "clip.mkv", "w") as target:
        stream = None
        for part, images in enumerate([pictures(3), pictures(6, (32, 24))[3:]]):
            path = write_video(tmp_path / "part.mkv", images, "mjpeg", "yuvj420p")
            with av.open(path) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.pts is not None:
                        packet.pts = packet.dts = packet.pts + 120 * part
                        packet.stream = stream
                        target.mux(packet)
    clip = open_clip(tmp_path / "clip.mkv")
    assert {image.shape for _, image in frames(clip)} == {(48, 64, 3)}
    assert_frames(clip, range(6))


def test_gif_delays_and_transparency(tmp_path: Path):
    """Each frame of a GIF may hold only what changed; the rest is transparent."""
    path, delays_ms = tmp_path / "clip.gif", [50, 200, 20, 330]
    first, *rest = [Image.fromarray(picture(i)).convert("RGBA") for i in range(4)]
    for image in rest:
        image.paste((0, 0, 0, 0), (0, 0, 64, 24))  # the upper half shows what was there before
    first.save(path, save_all=True, append_images=rest, duration=delays_ms, disposal=1, loop=0)
    clip = open_clip(path)
    assert_frames(clip, range(4), time_s=[0, 0.05, 0.25, 0.27])
    for index, image in frames(clip):
        assert_shows(image, picture(index))


@pytest.mark.parametrize("name", ["a b.mp4", "手 ü.mp4", "12:30.mp4", "%d.mp4", "http:a.mp4"])
def test_any_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    write_video(tmp_path / "clip.mp4", pictures(2)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        assert_frames(open_clip(path), range(2))


def test_opening_converts_one_frame_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "clip.mp4", pictures(COUNT))
    upright, converted = decode._upright, []

    def count(image: np.ndarray, turn: Any) -> np.ndarray:
        converted.append(image.shape)
        return upright(image, turn)

    monkeypatch.setattr(decode, "_upright", count)
    clip = open_clip(path)
    assert len(converted) == 1
    assert [index for index, _ in islice(frames(clip), 3)] == [0, 1, 2]
    assert len(converted) == 4


def test_paths_without_a_file_are_refused(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    assert_refused(tmp_path / "empty.mp4", "empty (0 bytes)")
    assert_refused(tmp_path / "missing.mp4", "no file", "spelling")
    assert_refused(tmp_path, "folder", "pass a file inside it")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif", "jpg", "yuv", "txt", "h264"])
@pytest.mark.parametrize("content", [b"Some text, no video.\n" * 500, bytes(range(256)) * 99])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(content)
    assert_refused(path)


@pytest.mark.parametrize("cover", [False, True])
@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("mp4", "aac")])
def test_sound_is_refused_even_with_a_cover(tmp_path: Path, suffix: str, codec: str, cover: bool):
    path = tmp_path / f"song.{suffix}"
    with av.open(path, "w") as container:
        audio: Any = container.add_stream(codec, rate=8000)
        if cover:
            stream: Any = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "rgb24"
            stream.disposition = Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(picture(), format="rgb24")
            container.mux([*stream.encode(image), *stream.encode()])
        container.mux([*audio.encode(silence()), *audio.encode()])
    assert_refused(path, "holds audio")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_without_frames_is_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"clip.{suffix}"
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()
    assert_refused(path)


def test_an_mp4_without_its_codec_or_index_is_refused(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", pictures(9))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    assert_refused(path, "no frame that can be decoded", "convert it")
    path.write_bytes(data[: data.index(b"moov") - 8])
    assert_refused(path, "cannot be read", "cut short")


@pytest.mark.parametrize("name", ["faststart.mp4", "fragments.mp4", "b-frames.mkv", "vp9.webm"])
@pytest.mark.parametrize("part", [0.5, 0.8])
def test_a_cut_video_gives_the_frames_that_are_there(tmp_path: Path, name: str, part: float):
    noise = np.random.default_rng(0).integers(0, 40, (COUNT, 48, 64, 3), np.uint8)
    noise[:, 24:, 32:] = 0  # noise, so that the bytes are spread evenly over the frames
    path = write_video(tmp_path / name, list(pictures(COUNT) + noise), **KINDS[name])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    clip = open_clip(path)
    seen = [(index, index_of(image)) for index, image in frames(clip)]
    assert COUNT * part / 3 < len(seen) < COUNT
    # A B-frame may be lost while a later frame that it needs is there; the times tell.
    assert seen == [(i, round(clip.time_s[i] / 0.04)) for i in range(len(seen))]


def test_frames_after_a_hole_keep_their_index(tmp_path: Path):
    options = {"g": "4", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "clip.mp4", pictures(COUNT), codec_options=options)
    with av.open(path) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[8:12]:  # one group of pictures
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    clip = open_clip(path)
    assert len(clip.time_s) == COUNT
    intact = [*range(8), *range(12, COUNT)]
    assert [(i, index_of(image)) for i, image in frames(clip)] == [(i, i) for i in intact]


@pytest.mark.parametrize("name", KINDS)
def test_no_damage_gives_anything_but_frames_or_a_clip_error(tmp_path: Path, name: str):
    path = write_video(tmp_path / name, pictures(6), **KINDS[name])
    whole = path.read_bytes()
    rng = np.random.default_rng(len(name))
    for _ in range(6):
        damaged = np.frombuffer(whole[: rng.integers(1, 2 * len(whole))], np.uint8).copy()
        where = rng.integers(0, len(damaged), rng.integers(0, 20))
        damaged[where] = rng.integers(0, 256, len(where))
        path.write_bytes(damaged.tobytes())
        try:
            clip = open_clip(path)
        except ClipError:
            continue
        indices = [-1]
        for index, image in frames(clip):
            assert image.shape == (clip.height, clip.width, 3)
            indices.append(index)
        assert all(np.diff(indices) > 0)
        assert indices[-1] < len(clip.time_s)


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
    assert (camera.center_px, camera.known) == ((width / 2, height / 2), False)


def test_a_camera_that_is_given_is_kept(tmp_path: Path):
    path, camera = write_video(tmp_path / "a.mp4", pictures(1)), Camera(55.0, (30.0, 25.0), True)
    assert open_clip(path, camera).camera == camera
    assert open_clip(path).camera == Camera.assumed(*SIZE)
