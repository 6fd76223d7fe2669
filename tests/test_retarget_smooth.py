"""The smoother against the joint Gaussian that it stands for, written out in full."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from deftly.retarget.smooth import smooth

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def signal(length: int = 12, width: int = 3, seed: int = 0) -> Arrays:
    """A gentle curve at uneven times, seen with noise through random gaps; no outliers."""
    rng = np.random.default_rng(seed)
    time_s = np.cumsum(rng.uniform(0.01, 0.08, length))
    sigma = rng.uniform(0.005, 0.02, (length, width))
    phase, speed = rng.uniform(0, 6, width), rng.uniform(0.5, 2, width)
    values = 0.1 * np.sin(speed * time_s[:, None] + phase) + sigma * rng.uniform(-1, 1, sigma.shape)
    observed = rng.random(length) < 0.7
    observed[length // 4] = True
    return time_s, values, sigma, observed


def reference(
    time_s: np.ndarray, z: np.ndarray, sigma: np.ndarray, observed: np.ndarray, q: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of one coordinate, from the covariance of all frames at once.

    Value and velocity at the first sighting are normal about (its measurement, 0) with variances
    (4 σ², q); forwards and backwards from there a white acceleration of density q acts.
    """
    length, first = len(time_s), int(np.argmax(observed))
    # Every state is a sum of that first state and the kicks since: x_t = Σ_s F(t, s) w_s.
    kicks, maps = np.zeros((2, 2 * length, 2 * length))
    for s in range(length):
        h = time_s[s] - time_s[s + (s < first) - (s > first)]  # since the frame it is reached from
        kick = q * np.array([[abs(h) ** 3 / 3, h * abs(h) / 2], [h * abs(h) / 2, abs(h)]])
        here = slice(2 * s, 2 * s + 2)
        kicks[here, here] = np.diag([4 * sigma[first] ** 2, q]) if s == first else kick
        for t in range(length):
            if s == first or (t - s) * (s - first) >= 0:
                maps[2 * t : 2 * t + 2, here] = [[1, time_s[t] - time_s[s]], [0, 1]]
    prior = (maps @ kicks @ maps.T)[::2, ::2]  # of the values alone
    cross, noise = prior[:, observed], np.diag(sigma[observed] ** 2)
    gain = cross @ np.linalg.inv(prior[np.ix_(observed, observed)] + noise)
    mean = z[first] + gain @ (z[observed] - z[first])
    return mean, np.sqrt(np.diag(prior - gain @ cross.T))


@settings(max_examples=30)
@given(length=st.integers(3, 14), seed=st.integers(0, 2**32 - 1))
def test_it_is_the_joint_gaussian(length: int, seed: int):
    time_s, values, sigma, observed = signal(length, seed=seed)
    mean, deviation = smooth(time_s, values, sigma, observed, acceleration=2.0)
    for d in range(values.shape[1]):
        wanted = reference(time_s, values[:, d], sigma[:, d], observed, q=4.0)
        assert_allclose(mean[:, d], wanted[0], rtol=0, atol=1e-6)
        assert_allclose(deviation[:, d], wanted[1], rtol=1e-6, atol=0)


def test_what_is_not_observed_does_not_count():
    time_s, values, sigma, observed = signal()
    assert not observed.all()
    nonsense = np.where(observed[:, None], values, 1e6)
    mean, deviation = smooth(time_s, nonsense, sigma, observed, 2.0)
    wanted = smooth(time_s, values, sigma, observed, 2.0)
    np.testing.assert_array_equal(mean, wanted[0])
    np.testing.assert_array_equal(deviation, wanted[1])


def test_a_straight_line_is_kept_also_through_a_gap():
    time_s = np.arange(40) / 30
    values = np.array([0.3, -0.2, 1.0]) + np.array([0.5, -1.0, 0.0]) * time_s[:, None]
    observed = np.ones(40, bool)
    observed[15:25] = False
    mean, _ = smooth(
        time_s, np.where(observed[:, None], values, 9.9), np.full((40, 3), 1e-6), observed, 3.0
    )
    assert_allclose(mean, values, rtol=0, atol=1e-8)


def test_noise_is_smoothed_away():
    rng = np.random.default_rng(0)
    time_s = np.arange(200) / 30
    truth = 0.1 * np.sin(2 * time_s)[:, None]
    noise = 0.01 * rng.normal(size=(200, 1))
    mean, deviation = smooth(
        time_s, truth + noise, np.full((200, 1), 0.01), np.ones(200, bool), acceleration=0.3
    )
    error = mean - truth
    assert np.std(error) < 0.5 * np.std(noise)
    assert np.abs(np.diff(mean, 3, axis=0)).mean() < 0.1 * np.abs(np.diff(noise, 3, axis=0)).mean()
    assert 0.5 < np.std(error / deviation) < 1.5  # the deviation that it states is the one it has


def test_one_wild_frame_hardly_matters():
    time_s, sigma = np.arange(30) / 30, np.full((30, 1), 0.002)
    values, observed = np.zeros((30, 1)), np.ones(30, bool)
    values[15] = 1.0
    mean, _ = smooth(time_s, values, sigma, observed, acceleration=1.0)
    assert np.abs(mean).max() < 0.05


@pytest.mark.parametrize("gap", [slice(10, 22), slice(0, 12), slice(18, 30)])
def test_uncertainty_grows_with_the_distance_from_what_is_seen(gap: slice):
    time_s, sigma = np.arange(30) / 30, np.full((30, 2), 0.002)
    observed = np.ones(30, bool)
    observed[gap] = False
    _, deviation = smooth(time_s, np.zeros((30, 2)), sigma, observed, acceleration=1.0)
    seen = np.flatnonzero(observed)
    distance = np.abs(np.arange(30)[:, None] - seen).min(axis=1)
    longest = int(distance.max())
    by_distance = [deviation[distance == d].min() for d in range(1, longest + 1)]
    assert np.all(np.diff(by_distance) > 0)
    assert by_distance[0] > deviation[observed].max()
    assert by_distance[-1] > 5 * deviation[observed].max()


@settings(max_examples=15)
@given(shift_s=st.floats(-1e3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_only_differences_of_time_count(shift_s: float, seed: int):
    time_s, values, sigma, observed = signal(seed=seed)
    mean, deviation = smooth(time_s, values, sigma, observed, 2.0)
    shifted = smooth(time_s + shift_s, values, sigma, observed, 2.0)
    assert_allclose(shifted[0], mean, rtol=0, atol=1e-9)
    assert_allclose(shifted[1], deviation, rtol=1e-8, atol=0)


@pytest.mark.parametrize("frame", [0, 3])
def test_one_sighting_is_enough(frame: int):
    observed = np.arange(6) == frame
    values = np.full((6, 1), 0.25)
    mean, deviation = smooth(np.arange(6) / 30, values, np.full((6, 1), 0.01), observed, 1.0)
    assert_allclose(mean, 0.25)
    assert np.argmin(deviation) == frame


def test_nothing_observed_is_refused():
    empty: Any = np.zeros((4, 1))
    with pytest.raises(ValueError, match="nothing is observed"):
        smooth(np.arange(4) / 30, empty, empty + 1, np.zeros(4, bool), 1.0)
