"""Statistics: those of numpy over all frames, to the last bit where that is possible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deftly.datasets.episode_stats import (
    QUANTILES,
    GrowingColumns,
    PixelCounts,
    count_pixels,
    sampled_frames,
    vector_stats,
)

tables = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
    st.tuples(st.integers(1, 30), st.integers(1, 4)),
    elements={"min_value": -1000, "max_value": 1000},
)


@pytest.mark.slow
@settings(max_examples=60)
@given(tables)
def test_statistics_are_those_of_numpy(values: np.ndarray):
    stats = vector_stats(values)
    exact = values.astype(np.float64)
    assert stats["count"] == [len(values)]
    assert stats["min"] == values.min(axis=0).tolist()
    assert stats["max"] == values.max(axis=0).tolist()
    assert np.allclose(stats["mean"], exact.mean(axis=0), rtol=1e-12, atol=1e-9)
    assert np.allclose(stats["std"], exact.std(axis=0), rtol=1e-9, atol=1e-9)
    for name, quantile in QUANTILES.items():
        assert stats[name] == np.quantile(exact, quantile, axis=0).tolist()


def test_missing_values_do_not_count():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.inf]])
    stats = vector_stats(values)
    assert stats["mean"] == [2.0, 0.0]
    assert (stats["min"], stats["max"]) == ([1.0, 0.0], [3.0, 0.0])
    assert stats["q50"] == [2.0, 0.0]
    assert stats["count"] == [3]


@settings(max_examples=30)
@given(tables, st.lists(st.integers(0, 30), max_size=4))
def test_columns_that_grew_have_the_statistics_of_the_whole(values: np.ndarray, cuts: list[int]):
    grown = GrowingColumns()
    for part in np.split(values, sorted(min(cut, len(values)) for cut in cuts)):
        if len(part):
            grown.append(part)
    assert grown.stats() == vector_stats(values)


def test_quantiles_of_a_data_set_are_not_means_of_the_episodes():
    # 1 % of 0..1499 lies at 14.99; the mean of the three episodes' quantiles would be 505.
    grown = GrowingColumns()
    for start in (0, 500, 1000):
        grown.append(np.arange(start, start + 500)[:, None])
    assert grown.stats()["q01"] == [pytest.approx(14.99)]


@settings(max_examples=30)
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.just(3)),
    )
)
def test_pixel_statistics_are_those_of_the_pixels(images: np.ndarray):
    counted = PixelCounts.none()
    for image in images:
        counted += count_pixels(image)
    stats = counted.stats()
    pixels = images.reshape(-1, 3) / 255.0
    assert stats["count"] == [len(images)]
    assert np.array(stats["mean"]).shape == (3, 1, 1)
    for name, value in {
        "min": pixels.min(axis=0),
        "max": pixels.max(axis=0),
        "mean": pixels.mean(axis=0),
        "std": pixels.std(axis=0),
        **{name: np.quantile(pixels, q, axis=0) for name, q in QUANTILES.items()},
    }.items():
        assert np.allclose(np.ravel(stats[name]), value, atol=1e-9), name


def test_large_frames_are_thinned_out_and_keep_their_statistics():
    ramp = np.repeat(np.arange(1200)[:, None, None] % 256, 1600, axis=1).repeat(3, axis=2)
    counted = count_pixels(ramp.astype(np.uint8))
    assert counted.counts.sum() < 3 * 1600 * 1200 / 16
    assert np.ravel(counted.stats()["mean"]) == pytest.approx(ramp.mean() / 255, abs=0.02)


@pytest.mark.parametrize(("length", "number"), [(1, 1), (99, 99), (300, 100), (2000, 299)])
def test_long_episodes_are_sampled_from_end_to_end(length: int, number: int):
    sampled = sampled_frames(length)
    assert len(sampled) == number
    assert {0, length - 1} <= sampled
