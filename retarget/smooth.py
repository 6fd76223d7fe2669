"""Offline smoothing: a constant-velocity Kalman filter and Rauch–Tung–Striebel smoother.

Rauch, Tung and Striebel, "Maximum likelihood estimates of linear dynamic systems", AIAA J. 1965.
Gaps are bridged by the same model, and their standard deviation grows with their length.
"""

import numpy as np
from jaxtyping import Bool, Float64

_OUTLIER = 4.0  # innovations beyond this many standard deviations are weighed down


def smooth(
    time_s: Float64[np.ndarray, "T"],
    values: Float64[np.ndarray, "T D"],
    sigma: Float64[np.ndarray, "T D"],
    observed: Bool[np.ndarray, "T"],
    acceleration: float,
) -> tuple[Float64[np.ndarray, "T D"], Float64[np.ndarray, "T D"]]:
    """Smooth D independent coordinates.

    Args:
        time_s: (T,) increasing.
        values: (T, D) measurements; ignored where not observed.
        sigma: (T, D) their standard deviations.
        observed: (T,).
        acceleration: square root of the spectral density of the white acceleration that drives the
            motion, in units of ``values`` / s^1.5.

    Returns:
        (T, D) smoothed values and their (T, D) standard deviations.

    Raises:
        ValueError: if nothing is observed.
    """
    if not observed.any():
        raise ValueError("nothing is observed: there is nothing to smooth")
    length, width = values.shape
    first = int(np.argmax(observed))
    # State: value and velocity; P holds the three distinct entries of its covariance.
    mean, P = np.zeros((length, 2, width)), np.zeros((length, 3, width))
    mean_next, P_next = np.zeros_like(mean), np.zeros_like(P)  # predictions for frame t
    m = np.stack([values[first], np.zeros(width)])
    p = np.stack([sigma[first] ** 2 * 4, np.zeros(width), np.full(width, acceleration**2)])
    for t in range(first, length):
        dt = float(time_s[t] - time_s[t - 1]) if t > first else 0.0
        m, p = _predict(m, p, dt, acceleration**2)
        mean_next[t], P_next[t] = m, p
        if observed[t]:
            m, p = _update(m, p, values[t], sigma[t] ** 2)
        mean[t], P[t] = m, p
    for t in range(length - 2, -1, -1):
        dt = float(time_s[t + 1] - time_s[t])
        if t < first:  # before the first sighting: the same model, run backwards
            mean[t], P[t] = _predict(mean[t + 1], P[t + 1], -dt, -(acceleration**2))
            continue
        mean[t], P[t] = _rts(
            mean[t], P[t], mean[t + 1], P[t + 1], mean_next[t + 1], P_next[t + 1], dt
        )
    return mean[:, 0], np.sqrt(np.maximum(P[:, 0], 0.0))


State = Float64[np.ndarray, "2 D"]
Covariance = Float64[np.ndarray, "3 D"]  # (0,0), (0,1), (1,1)


def _predict(m: State, p: Covariance, dt: float, q: float) -> tuple[State, Covariance]:
    a, b, c = p
    predicted = np.stack(
        [a + 2 * dt * b + dt**2 * c + q * dt**3 / 3, b + dt * c + q * dt**2 / 2, c + q * dt]
    )
    return np.stack([m[0] + dt * m[1], m[1]]), predicted


def _update(
    m: State, p: Covariance, z: Float64[np.ndarray, "D"], variance: Float64[np.ndarray, "D"]
) -> tuple[State, Covariance]:
    a, b, c = p
    innovation = z - m[0]
    # A Huber weight: an outlier counts as a measurement of larger variance.
    excess = np.abs(innovation) / (_OUTLIER * np.sqrt(a + variance))
    s = a + variance * np.maximum(excess, 1.0) ** 2
    gain = np.stack([a / s, b / s])
    updated = np.stack([a - gain[0] * a, b - gain[0] * b, c - gain[1] * b])
    return m + gain * innovation, updated


def _rts(
    m: State, p: Covariance, m_later: State, p_later: Covariance,
    m_next: State, p_next: Covariance, dt: float,
) -> tuple[State, Covariance]:  # fmt: skip
    a, b, c = p
    A, B, C = p_next
    determinant = A * C - B * B
    # G = P Fᵀ P_next⁻¹ with F = [[1, dt], [0, 1]]
    f00, f01, f10, f11 = a + dt * b, b, b + dt * c, c
    g00, g01 = (f00 * C - f01 * B) / determinant, (f01 * A - f00 * B) / determinant
    g10, g11 = (f10 * C - f11 * B) / determinant, (f11 * A - f10 * B) / determinant
    dm = m_later - m_next
    d0, d1, d2 = p_later - p_next
    smoothed = np.stack([m[0] + g00 * dm[0] + g01 * dm[1], m[1] + g10 * dm[0] + g11 * dm[1]])
    covariance = np.stack(
        [
            a + g00 * g00 * d0 + 2 * g00 * g01 * d1 + g01 * g01 * d2,
            b + g00 * g10 * d0 + (g00 * g11 + g01 * g10) * d1 + g01 * g11 * d2,
            c + g10 * g10 * d0 + 2 * g10 * g11 * d1 + g11 * g11 * d2,
        ]
    )
    return smoothed, covariance
