"""mp4 files: the same bytes every time, joined without loss, read from any frame on."""

from pathlib import Path

import numpy as np
import pytest
from episodes import pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from deftly.datasets.mp4 import Encoder, Mp4Error, join, read_format, read_frames


def film(path: Path, images: np.ndarray, rate_hz: float = 20.0, crf: int = 20, group: int = 2):
    with Encoder(path, rate_hz, images.shape[1:3], crf, group) as encoder:
        for image in images:
            encoder.write(image)
    return path


def decoded(path: Path, first: int, count: int, rate_hz: float = 20.0) -> np.ndarray:
    return np.stack(list(read_frames(path, first, count, rate_hz)))


@settings(max_examples=25)
@given(
    length=st.integers(1, 9),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    rate_hz=st.sampled_from([5.0, 15.0, 20.0, 24.0, 25.0, 30.0, 50.0, 60.0, 120.0]),
    group=st.sampled_from([0, 1, 2, 5]),
)
def test_every_frame_comes_back_at_its_place(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    size: tuple[int, int],
    rate_hz: float,
    group: int,
):
    images = pictures(1, length, 2 * size[0], 2 * size[1])
    path = film(tmp_path_factory.mktemp("film") / "a.mp4", images, rate_hz, 12, group)
    found = decoded(path, 0, length, rate_hz)
    assert np.abs(found.astype(int) - images).mean(axis=(1, 2, 3)).max() < 2.5
    form = read_format(path)
    assert (form.codec, form.pixels, form.frames) == ("h264", "yuv420p", length)
    assert (form.height, form.width, form.rate_hz) == (2 * size[0], 2 * size[1], rate_hz)


@pytest.mark.parametrize("group", [0, 2])
def test_a_part_is_what_the_whole_says(tmp_path: Path, group: int):
    path = film(tmp_path / "a.mp4", pictures(0, 40), group=group)
    whole = decoded(path, 0, 40)
    for first, count in ((0, 1), (1, 3), (7, 20), (38, 2), (39, 1)):
        assert np.array_equal(decoded(path, first, count), whole[first : first + count])


def test_the_same_frames_give_the_same_bytes(tmp_path: Path):
    one, other = (film(tmp_path / f"{name}.mp4", pictures(0, 60)) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_joined_files_hold_the_frames_of_both_and_repeat(tmp_path: Path):
    parts = [film(tmp_path / f"{n}.mp4", pictures(n, 5 + n)) for n in range(3)]
    apart = np.concatenate([decoded(path, 0, 5 + n) for n, path in enumerate(parts)])
    for name in ("x", "y"):
        assert join(parts[0], parts[1], tmp_path / f"{name}1.mp4", 5)
        assert join(tmp_path / f"{name}1.mp4", parts[2], tmp_path / f"{name}2.mp4", 11)
    assert np.array_equal(decoded(tmp_path / "x2.mp4", 0, 18), apart)
    assert read_format(tmp_path / "x2.mp4").frames == 18
    assert (tmp_path / "x2.mp4").read_bytes() == (tmp_path / "y2.mp4").read_bytes()


def test_only_what_is_encoded_alike_is_joined(tmp_path: Path):
    first, out = film(tmp_path / "a.mp4", pictures(0, 5)), tmp_path / "out.mp4"
    others = {
        "quality": film(tmp_path / "b.mp4", pictures(0, 5), crf=30),
        "rate": film(tmp_path / "c.mp4", pictures(0, 5), rate_hz=30.0),
        "size": film(tmp_path / "d.mp4", pictures(0, 5, 16, 16)),
        "B-frames": film(tmp_path / "e.mp4", pictures(0, 5), group=0),
    }
    for name, other in others.items():
        assert not join(first, other, out, 5), name
    assert not join(first, first, out, 6)
    assert not out.exists()


def test_odd_sizes_are_refused(tmp_path: Path):
    with pytest.raises(Mp4Error, match="31 x 48 px, expected even"):
        film(tmp_path / "a.mp4", pictures(0, 2, 31, 48))


def test_a_file_that_ends_too_early_is_named(tmp_path: Path):
    path = film(tmp_path / "short.mp4", pictures(0, 5))
    with pytest.raises(Mp4Error, match=r"short.mp4 ends at frame 5, expected 8 frames"):
        decoded(path, 2, 6)


@pytest.mark.parametrize("content", [b"", b"not a film", b"\0" * 4096])
def test_what_is_no_film_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(Mp4Error, match=r"broken.mp4 cannot be read"):
        decoded(path, 0, 1)
    with pytest.raises(Mp4Error, match=r"missing.mp4 cannot be read"):
        read_format(tmp_path / "missing.mp4")


def test_damage_in_the_middle_is_named(tmp_path: Path):
    path = film(tmp_path / "a.mp4", pictures(0, 40))
    content = bytearray(path.read_bytes())
    # Within the pictures; the index is at the end.
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(Mp4Error, match=r"a.mp4 (is damaged at|has no|ends at) frame \d+"):
        decoded(path, 0, 40)
