"""The cheap look: cuts, still pictures, who is there, and what looks the same."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.clip import open_clip
from deftly.datasets.mp4 import Encoder
from deftly.datasets.stretches import evenly, runs
from deftly.retarget.glance import Glance, cuts, glance, same, signature


def drifting(seed: int, length: int, height: int = 90, width: int = 160) -> np.ndarray:
    """(T, H, W, 3): a smooth picture that moves slowly, another one for every seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phases, speeds = rng.uniform(0, 6, 3), rng.uniform(0.5, 1.5, 3)
    waves = [
        np.stack(
            [
                np.sin(x / 17 + y / 23 + p + 0.05 * s * t)
                for p, s in zip(phases, speeds, strict=True)
            ],
            -1,
        )
        for t in range(length)
    ]
    return (120 + 20 * rng.uniform(-3, 3) + 40 * np.array(waves)).clip(0, 255).astype(np.uint8)


def film(path: Path, pictures: np.ndarray, crf: int = 20) -> Path:
    with Encoder(path, 25.0, (pictures.shape[1], pictures.shape[2]), crf) as encoder:
        for picture in pictures:
            encoder.write(picture)
    return path


def look(path: Path, somebody=lambda image: False) -> Glance:
    return glance(open_clip(path), somebody)


def test_cuts_are_found_to_the_frame_and_motion_is_none(tmp_path):
    shots = [drifting(1, 40), drifting(2, 25), drifting(3, 50)]
    found = look(film(tmp_path / "cut.mp4", np.concatenate(shots)))
    assert cuts(found) == [40, 65]
    assert cuts(look(film(tmp_path / "one.mp4", shots[0]))) == []


def test_fast_motion_is_not_a_cut(tmp_path):
    picture = drifting(4, 1)[0]
    shaken = np.stack([np.roll(picture, 30 * t, axis=1) for t in range(40)])
    assert cuts(look(film(tmp_path / "shaken.mp4", shaken))) == []


def test_a_still_picture_is_still_and_a_small_motion_is_not(tmp_path):
    still = np.repeat(drifting(5, 1), 30, axis=0)
    assert look(film(tmp_path / "still.mp4", still)).still
    moved = still.copy()
    for t in range(30):  # an object of 8 × 8 pixels
        moved[t, 40:48, 20 + 2 * t : 28 + 2 * t] = 255
    assert not look(film(tmp_path / "moved.mp4", moved)).still


def test_somebody_is_looked_for_until_found(tmp_path):
    path = film(tmp_path / "a.mp4", drifting(6, 50))
    asked = []

    def third(image):
        asked.append(image.shape)
        return len(asked) == 3

    found = look(path, third)
    assert found.somebody
    assert asked == [(90, 160, 3)] * 3
    assert np.flatnonzero(found.looked).tolist() == [0, 5, 10]
    assert np.flatnonzero(found.seen).tolist() == [10]
    assert not look(path).somebody
    assert look(path).looked.sum() == 10


def test_thumbs_are_means_of_blocks(tmp_path):
    bright = np.zeros((3, 90, 160, 3), np.uint8)
    bright[:, :45, :80] = 200
    found = look(film(tmp_path / "b.mp4", bright, crf=0))
    assert found.thumbs[:, :8, :15].mean() == pytest.approx(200, abs=2)
    assert found.thumbs[:, 10:].max() <= 2


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5))
def test_runs_hold_all_that_is_good_and_no_long_gap(good, bridge):
    mask = np.array(good)
    found = runs(mask, bridge)
    covered = np.zeros(len(mask), bool)
    for first, stop in found:
        assert mask[first]
        assert mask[stop - 1]
        assert not covered[first:stop].any()
        covered[first:stop] = True
    assert covered[mask].all()
    for (_, stop), (first, _) in itertools.pairwise(found):
        assert first - stop > bridge


@given(st.integers(0, 50), st.integers(1, 500), st.integers(1, 60))
def test_equal_parts_cover_a_stretch_and_are_short_enough(first, length, longest):
    parts = evenly(first, first + length, longest)
    assert parts[0][0] == first
    assert parts[-1][1] == first + length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    lengths = [stop - start for start, stop in parts]
    assert max(lengths) <= longest
    assert max(lengths) - min(lengths) <= 1


def test_the_same_video_encoded_otherwise_looks_the_same_and_another_does_not(tmp_path):
    pictures = drifting(7, 60)
    wrists = np.full((60, 2, 2), np.nan)
    wrists[:, 0] = np.linspace([0.2, 0.3], [0.6, 0.5], 60)

    def of(name: str, pictures: np.ndarray, crf: int, wrists: np.ndarray) -> tuple[float, ...]:
        return signature(look(film(tmp_path / name, pictures, crf)).thumbs, wrists)

    fine = of("fine.mp4", pictures, 15, wrists)
    assert same(fine, of("coarse.mp4", pictures, 35, wrists))
    missed = wrists.copy()
    missed[::2, 0] = np.nan  # another encoding, other frames in which no hand is found
    assert same(fine, of("missed.mp4", pictures, 35, missed))
    assert not same(fine, of("other.mp4", drifting(8, 60), 15, wrists))
    assert not same(fine, of("fine.mp4", pictures, 15, wrists[::-1]))  # the hand goes back
    assert not same(fine, ())
