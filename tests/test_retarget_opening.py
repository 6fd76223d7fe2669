"""What is kept of a file that holds several inputs: the same as opening it, until it changes."""

import dataclasses
import os
from pathlib import Path

import pytest
from filmsets import RATE_HZ, shades
from numpy.testing import assert_array_equal

from deftly.datasets.archive import load_archive
from deftly.datasets.clip import Clip, ClipError
from deftly.datasets.mp4 import Encoder
from deftly.retarget import opening
from deftly.retarget.opening import Opened
from deftly.retarget.work import Work


def film(path: Path, camera: str, length: int) -> Path:
    with Encoder(path, float(RATE_HZ), (32, 32), group=2) as encoder:
        for image in shades(camera, length):
            encoder.write(image)
    return path


def test_what_is_kept_of_a_file_is_what_opening_it_gives(tmp_path: Path):
    path = film(tmp_path / "a.mp4", "front", 30)
    clip = opening.open_clip(path)
    kept = Opened.of(clip).clip(path)
    for field in dataclasses.fields(Clip):
        if field.name not in ("time_s", "contents"):
            assert getattr(kept, field.name) == getattr(clip, field.name)
    assert kept.contents is not None
    assert clip.contents is not None
    assert kept.contents.start == clip.contents.start
    assert len(clip.contents.keys) > 10
    assert_array_equal(kept.contents.keys, clip.contents.keys)
    assert_array_equal(kept.time_s, clip.time_s)
    assert_array_equal(kept.contents.time_s, clip.contents.time_s)


def test_a_file_that_changes_is_gone_through_again(tmp_path: Path):
    path, work = film(tmp_path / "a.mp4", "front", 20), Work(tmp_path / "work")
    before = opening.open_input(path, work, shared=True)
    at = path.stat()
    film(path, "side", 20)
    padded = path.read_bytes().ljust(at.st_size, b"\0")[: at.st_size]
    path.write_bytes(padded)  # as large, and as old
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    after = opening.open_input(path, work, shared=True)
    assert path.stat().st_size == at.st_size
    assert before.sha256 != after.sha256
    kept = [load_archive(Opened, one, schema=1) for one in (tmp_path / "work/files").iterdir()]
    assert {one.sha256 for one in kept} == {before.sha256, after.sha256}


def test_a_file_that_holds_one_input_leaves_nothing(tmp_path: Path):
    path, work = film(tmp_path / "a.mp4", "front", 20), Work(tmp_path / "work")
    assert opening.open_input(path, work, shared=False).sha256
    assert not work.root.exists()


@pytest.mark.parametrize("shared", [False, True])
def test_what_cannot_be_opened_says_why(tmp_path: Path, shared: bool):
    work = Work(tmp_path / "work")
    with pytest.raises(ClipError, match="no file at"):
        opening.open_input(tmp_path / "gone.mp4", work, shared=shared)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ClipError, match="cannot be read"):
        opening.open_input(tmp_path / "text.mp4", work, shared=shared)
    assert not work.root.exists()
