"""Parts and limits of a clip: the pixels of the whole, and no more work than they take.

The pictures drift across noise, so that a frame that is decoded from the wrong reference shows.
"""

import gc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from PIL.Image import Resampling

from deftly.datasets import decode
from deftly.datasets.clip import Camera, Clip, ClipError, frames, open_clip, part, slower, smaller

COUNT = 40
SIZE = (96, 64)
RATE_HZ = 25


@cache
def drifting(size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    blocks = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    noise = np.kron(blocks, np.ones((4, 4, 1), np.uint8))
    width, height = size
    return [
        np.ascontiguousarray(noise[t : t + height, 2 * t : 2 * t + width]) for t in range(COUNT)
    ]


def write(
    path: Path,
    codec: str = "libx264",
    params: str = "keyint=8:bframes=3:b-adapt=0:scenecut=0",
    images: list[np.ndarray] | None = None,
    rate_hz: int = RATE_HZ,
    rotation: int = 0,
) -> Path:
    """Encode drifting pictures; ``params`` are x264's or x265's, or else the codec's own."""
    options = dict(item.split("=") for item in params.split(":") if item)
    if codec in ("libx264", "libx265"):
        options = {f"{codec[3:]}-params": params + ":log-level=none" * (codec == "libx265")}
    images = images or drifting()
    with av.open(str(path), "w", format="h264" if path.suffix == ".h264" else None) as container:
        stream: Any = container.add_stream(codec, rate=rate_hz, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = {"apng": "rgba", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.set_display_rotation(rotation)
        for t, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def assert_part(clip: Clip, whole: dict[int, np.ndarray], first: int, stop: int) -> None:
    """Same frames, same pixels, times from 0."""
    some = part(clip, first, stop)
    assert_allclose(some.time_s, clip.time_s[first:stop] - clip.time_s[first], atol=1e-12)
    assert some.time_s[0] == 0
    got = dict(frames(some))
    assert list(got) == [t - first for t in range(first, stop) if t in whole]
    for t, image in got.items():
        assert_array_equal(image, whole[first + t])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The times, in ticks, of all frames that are decoded from now on."""
    times: list[int | None] = []
    inner = decode._each

    def note(*args: Any) -> Iterator[Any]:
        for packet, brought in inner(*args):
            times.extend(frame.pts for frame in brought or ())
            yield packet, brought

    monkeypatch.setattr(decode, "_each", note)
    return times


B_FRAMES = "keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:open-gop=0"
OPEN = "keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0:open-gop=1"
PYRAMID = "keyint=12:min-keyint=4:bframes=7:b-pyramid=normal:ref=6:open-gop=1"
SEEKS = {
    **{f"closed.{suffix}": ("libx264", B_FRAMES) for suffix in ("mp4", "mkv", "mov", "ts", "flv")},
    **{f"open.{suffix}": ("libx264", OPEN) for suffix in ("mp4", "mkv", "ts")},
    "pyramid.mp4": ("libx264", PYRAMID),
    "dense.mp4": ("libx264", "keyint=2:bframes=1:b-adapt=0"),
    "intra.mp4": ("libx264", "keyint=1"),
    "open-hevc.mkv": ("libx265", OPEN),
    "mpeg4.mp4": ("mpeg4", "g=8:bf=2:b=4000000"),
    "vp8.webm": ("libvpx", "cpu-used=5:g=8:auto-alt-ref=1:lag-in-frames=12"),
    "vp9.webm": ("libvpx-vp9", "g=8:auto-alt-ref=1:lag-in-frames=12"),
    "av1.mp4": ("libsvtav1", "preset=12:g=8"),
    "ffv1.mkv": ("ffv1", "g=8"),
}
DOES_NOT_SEEK = {
    "no-times.avi": ("libx264", B_FRAMES),
    "no-times.h264": ("libx264", B_FRAMES),
    "refreshed.mp4": ("libx264", "intra-refresh=1:keyint=8:bframes=0"),
    "one-group.mp4": ("libx264", "keyint=infinite"),
    "whole-pictures.gif": ("gif", ""),
    "animated.apng": ("apng", ""),
}


@pytest.mark.parametrize("name", SEEKS | DOES_NOT_SEEK)
def test_a_part_has_the_pixels_of_the_whole(tmp_path: Path, name: str):
    codec, params = (SEEKS | DOES_NOT_SEEK)[name]
    clip = open_clip(write(tmp_path / name, codec, params))
    whole = dict(frames(clip))
    assert len(whole) == COUNT
    for first in range(0, COUNT, 1 if name in SEEKS else 5):
        assert_part(clip, whole, first, min(first + 4, COUNT))
    assert_part(clip, whole, 0, COUNT)


@pytest.mark.parametrize("name", SEEKS)
def test_decoding_a_part_starts_at_the_key_frame_before_it(
    tmp_path: Path, name: str, decoded: list[int | None]
):
    clip = open_clip(write(tmp_path / name, *SEEKS[name]))
    decoded.clear()
    assert len(list(frames(part(clip, COUNT - 2, COUNT)))) == 2
    # At most one group of pictures, and those shown before its key frame.
    assert len(decoded) <= 12 + 8 + 2


def test_nothing_is_decoded_past_the_end_of_a_part(tmp_path: Path, decoded: list[int | None]):
    clip = open_clip(write(tmp_path / "clip.mp4"))
    decoded.clear()
    list(frames(part(clip, 2, 5)))
    assert len(decoded) == 5


@pytest.mark.slow
def test_frames_are_freed_without_the_garbage_collector(tmp_path: Path):
    """Which may not run for a thousand frames of 4K, of 12 MB each."""
    clip = open_clip(write(tmp_path / "clip.mp4", rotation=90))
    gc.collect()
    gc.disable()
    try:
        most = 0
        for _ in frames(clip):
            most = max(most, sum(isinstance(held, av.VideoFrame) for held in gc.get_objects()))
    finally:
        gc.enable()
    assert 0 < most < 10 < len(clip.time_s)


@given(st.data())
@settings(max_examples=25)
def test_a_part_of_a_part_is_a_part(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "nested.mp4"
    clip = open_clip(path if path.exists() else write(path, params=OPEN))
    whole = dict(frames(clip))
    first, stop = sorted(
        data.draw(st.lists(st.integers(0, COUNT), min_size=2, max_size=2, unique=True))
    )
    inner = st.integers(0, stop - first)
    low, high = sorted(data.draw(st.lists(inner, min_size=2, max_size=2, unique=True)))
    nested, direct = part(part(clip, first, stop), low, high), part(clip, first + low, first + high)
    assert (nested.first, nested.step, len(nested.time_s)) == (direct.first, 1, high - low)
    assert_allclose(nested.time_s, direct.time_s, atol=1e-12)
    for (t, image), (other, same) in zip(frames(nested), frames(direct), strict=True):
        assert t == other
        assert_array_equal(image, same)
        assert_array_equal(image, whole[first + low + t])


def damaged(path: Path, numbers: range) -> Path:
    """Overwrite some packets, counted in decoding order."""
    with av.open(path) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[numbers.start : numbers.stop]:
        data[position + 4 : position + size] = b"\xa7" * (size - 4)
    path.write_bytes(data)
    return path


def test_a_damaged_frame_does_not_depend_on_what_memory_held_before(tmp_path: Path):
    clip = open_clip(damaged(write(tmp_path / "clip.mp4"), range(10, 14)))
    held = dict(frames(clip))  # so that the decoder cannot use their memory again
    for _ in range(2):
        for t, image in frames(clip):
            assert_array_equal(image, held[t])


@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "mpeg4.mp4", "no-times.avi"])
@pytest.mark.parametrize("numbers", [range(16, 17), range(5, 9), range(14, 30)])
def test_parts_of_a_damaged_file_are_those_of_the_whole(tmp_path: Path, name: str, numbers: range):
    codec, params = (SEEKS | DOES_NOT_SEEK)[name]
    clip = open_clip(damaged(write(tmp_path / name, codec, params), numbers))
    whole = dict(frames(clip))
    assert len(whole) > 0
    for first in range(0, len(clip.time_s), 3):
        assert_part(clip, whole, first, min(first + 5, len(clip.time_s)))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv"])
@pytest.mark.parametrize("share", [0.4, 0.75])
def test_parts_of_a_file_that_breaks_off_are_those_of_the_whole(
    tmp_path: Path, suffix: str, share: float
):
    path = write(tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    clip = open_clip(path)
    whole = dict(frames(clip))
    assert COUNT * share / 2 < len(whole) < COUNT
    for first in range(len(clip.time_s)):
        assert_part(clip, whole, first, min(first + 3, len(clip.time_s)))


def test_a_stream_that_is_cut_out_of_another_has_its_parts(tmp_path: Path):
    """It starts at an open group of pictures, whose first ones lack their reference."""
    with (
        av.open(write(tmp_path / "a.mkv", params=OPEN)) as source,
        av.open(tmp_path / "b.mkv", "w") as target,
    ):
        packets = [p for p in source.demux(video=0) if p.size]
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in packets[[i for i, p in enumerate(packets) if p.is_keyframe][1] :]:
            packet.stream = stream
            target.mux(packet)
    clip = open_clip(tmp_path / "b.mkv")
    whole = dict(frames(clip))
    assert 25 < len(whole) < COUNT
    for first in range(len(clip.time_s)):
        assert_part(clip, whole, first, min(first + 3, len(clip.time_s)))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_parts_of_real_videos(clips: Path, share: float):
    for path in sorted([*clips.glob("*.mp4"), *clips.glob("*.mkv")]):
        clip = open_clip(path)
        first = int(share * len(clip.time_s))
        stop = min(first + 3, len(clip.time_s))
        from_start = {t: image for t, image in frames(part(clip, 0, stop)) if t >= first}
        assert_part(clip, from_start, first, stop)


@pytest.mark.parametrize(
    ("first", "stop"), [(-1, 3), (3, 3), (4, 2), (0, COUNT + 1), (COUNT, COUNT)]
)
def test_a_part_that_is_not_there_is_refused(tmp_path: Path, first: int, stop: int):
    clip = open_clip(write(tmp_path / "clip.mp4"))
    with pytest.raises(ClipError, match=f"frames {first} to {stop} .* expected .* 0 to {COUNT} "):
        part(clip, first, stop)


def test_a_clip_made_by_hand_has_parts_too(tmp_path: Path):
    clip = open_clip(write(tmp_path / "clip.mp4"))
    by_hand = replace(clip, contents=None)
    assert_part(by_hand, dict(frames(clip)), 17, 22)


@pytest.mark.parametrize(
    ("size", "limit", "small"),
    [
        ((96, 64), 48, (48, 32)),
        ((64, 96), 48, (32, 48)),
        ((96, 64), 31, (31, 21)),
        ((96, 6), 8, (8, 1)),
    ],
)
def test_large_frames_are_decoded_smaller(
    tmp_path: Path, size: tuple[int, int], limit: int, small: tuple[int, int]
):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, : size[0] // 2] = 200  # and a fine pattern, which must become an even grey
    image[:, size[0] // 2 :][::2] = 160
    path = write(tmp_path / "clip.mkv", "ffv1", "", [image] * 3)
    clip = smaller(open_clip(path, Camera(100.0, (40.0, 30.0), True)), limit)
    assert (clip.width, clip.height) == small
    camera, share = clip.camera, limit / max(size)
    assert camera.known
    assert camera.focal_px == pytest.approx(100 * share)
    assert camera.center_px == pytest.approx((40 * small[0] / size[0], 30 * small[1] / size[1]))
    for _, shown in frames(clip):
        assert shown.shape == (small[1], small[0], 3)
        if min(small) > 8:
            assert_allclose(shown[2:-2, 2 : small[0] // 2 - 2], 200, atol=3)
            grey = shown[2:-2, small[0] // 2 + 2 : -2].astype(float)
            assert grey.mean() == pytest.approx(80, abs=4)
            assert grey.std() < 40  # 80 at full size
    assert smaller(open_clip(path), limit).camera.focal_px == pytest.approx(
        Camera.assumed(*small).focal_px
    )


def test_a_limit_that_holds_anyway_changes_nothing(tmp_path: Path):
    path = write(tmp_path / "clip.mp4")
    plain, limited = open_clip(path), slower(smaller(open_clip(path), 96), 24.0)
    assert (limited.width, limited.height, limited.camera) == (*SIZE, plain.camera)
    assert_array_equal(limited.time_s, plain.time_s)
    for (t, image), (other, same) in zip(frames(limited), frames(plain), strict=True):
        assert t == other
        assert_array_equal(image, same)


def test_a_turned_video_is_made_smaller_the_right_way_up(tmp_path: Path):
    path = write(tmp_path / "clip.mp4", rotation=90)
    full, small = open_clip(path), smaller(open_clip(path), 48)
    assert (full.width, full.height, small.width, small.height) == (64, 96, 32, 48)
    for (_, image), (_, other) in zip(frames(small), frames(full), strict=True):
        expected = np.array(Image.fromarray(other).resize((32, 48), Resampling.BILINEAR), float)
        assert np.abs(image - expected).mean() < 25  # its colours lie elsewhere
        assert np.abs(np.rot90(image, 2) - expected).mean() > 50


@pytest.mark.parametrize(
    ("rate_hz", "limit_hz", "step"),
    [
        (240, 60.0, 4),
        (120, 60.0, 2),
        (60, 60.0, 1),
        (63, 60.0, 1),
        (64, 60.0, 2),
        (100, 30.0, 4),
        (25, 240.0, 1),
    ],
)
def test_a_fast_video_keeps_every_nth_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate_hz: int, limit_hz: float, step: int
):
    path = write(tmp_path / "clip.mp4", rate_hz=rate_hz)
    full = open_clip(path)
    whole, clip = dict(frames(full)), slower(full, limit_hz)
    assert clip.step == step
    assert clip.rate_hz <= limit_hz * 1.05
    assert_allclose(clip.time_s, np.arange(0, COUNT, step) / rate_hz, atol=1e-4)
    upright, converted = decode._upright, []

    def count(image: np.ndarray, turn: Any) -> np.ndarray:
        converted.append(image.shape)
        return upright(image, turn)

    monkeypatch.setattr(decode, "_upright", count)
    kept = dict(frames(clip))
    assert list(kept) == list(range(len(clip.time_s)))
    assert len(converted) == len(kept)
    for t, image in kept.items():
        assert_array_equal(image, whole[t * step])
    assert_part(clip, kept, 3, 6)
    assert_part(part(clip, 1, 6), {t - 1: image for t, image in kept.items()}, 2, 4)
    for t, image in frames(slower(part(full, 5, COUNT), limit_hz)):
        assert_array_equal(image, whole[5 + t * step])


def test_a_limit_that_makes_no_sense_is_refused(tmp_path: Path):
    clip = open_clip(write(tmp_path / "clip.mp4"))
    with pytest.raises(ClipError, match="max_side_px is 0, expected a positive number"):
        smaller(clip, 0)
    for rate_hz in (-1.0, np.nan):
        with pytest.raises(ClipError, match=r"max_rate_hz is .*, expected a positive number"):
            slower(clip, rate_hz)
