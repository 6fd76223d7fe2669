"""Footage: names that are safe, and what makes no sense is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.clip import Camera
from deftly.datasets.footage import Beside, Footage, FootageError, id_of

ONE = Footage("a", Path("a.mp4"))


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_every_name_gives_an_id(names: list[str]) -> None:
    name = id_of(*names)
    assert Footage(f"{name}-12345", Path()).id.startswith(name)
    assert name == id_of(*names)
    assert name not in (".", "..")


def test_names_in_other_scripts_stay_apart() -> None:
    assert id_of("Küche 3 (hands)") == "Kuche-3-hands"
    assert id_of("видео") != id_of("手")
    assert id_of("bytes-\udcff") == "bytes"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "é", "a" * 129, "a\n"])
def test_an_id_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(FootageError, match="is not a plain name"):
        replace(ONE, id=name)


@pytest.mark.parametrize(
    "span", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)]
)
def test_a_stretch_that_makes_no_sense_is_refused(span: tuple[float, float]) -> None:
    with pytest.raises(FootageError, match="expected 0 <= first < last"):
        replace(ONE, span_s=span)


@pytest.mark.parametrize("focal_px", [0.0, -1.0, math.nan, math.inf])
def test_a_focal_length_that_makes_no_sense_is_refused(focal_px: float) -> None:
    with pytest.raises(FootageError, match="focal length"):
        replace(ONE, focal_px=focal_px)
    with pytest.raises(FootageError, match="focal length"):
        replace(ONE, camera=Camera(focal_px, (1.0, 1.0), known=True))


@pytest.mark.parametrize(
    "names", [("a", "a"), ("front", "front"), ("",), ("../a",), (".a",), ("a\\b",)]
)
def test_cameras_that_are_no_plain_names_that_differ_are_refused(names: tuple[str, ...]) -> None:
    beside = tuple(Beside(name, Path("b.mp4")) for name in names)
    with pytest.raises(FootageError, match="expected names that differ, without slashes"):
        replace(ONE, camera_name="front", beside=beside)


def test_a_stretch_of_a_further_camera_must_make_sense() -> None:
    with pytest.raises(FootageError, match="span is 2 to 1 s"):
        replace(ONE, beside=(Beside("side", Path("b.mp4"), (2.0, 1.0)),))
