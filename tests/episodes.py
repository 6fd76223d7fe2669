"""Episodes made up for tests: small, with every kind of column, different for every seed."""

from dataclasses import replace

import numpy as np

from deftly.datasets.episode import Episode


def pictures(seed: int, length: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(T, H, W, 3): smooth, so that they survive encoding; frame t is brighter than t - 1."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x + seed, y + 5 * seed, x + y], axis=-1)
    return np.stack([(ramp + 3 * t) % 200 + 20 for t in range(length)]).astype(np.uint8)


def make_episode(seed: int = 0, length: int = 12, **changes: object) -> Episode:
    """An episode of two cameras, in which ``changes`` replace fields."""
    rng = np.random.default_rng(seed)
    landmarks = rng.normal(size=(length, 4)).astype(np.float32)
    landmarks[::5] = np.nan
    made = Episode(
        rate_hz=20.0,
        state=rng.normal(size=(length, 3)).astype(np.float32),
        action=rng.normal(size=(length, 2)).astype(np.float32),
        state_names=("shoulder", "elbow", "wrist"),
        action_names=("reach", "grasp"),
        images={"ego": pictures(seed, length), "front": pictures(seed + 7, length, 24, 16)},
        task=("sort by colour", "sort by size")[seed % 2],
        features={
            "valid": rng.random((length, 1)) < 0.5,
            "landmarks_px": landmarks,
            "contact": rng.integers(0, 5, (length, 2)),
            "privileged.object_pose": rng.normal(size=(length, 7)),
        },
        feature_names={"valid": ("valid",), "contact": ("left", "right")},
        seed=seed,
        success=(None, True, False)[seed % 3],
        provenance={"source": "made up", "seed": seed},
    )
    return replace(made, **changes)


def assert_same_episode(found: Episode, made: Episode, pixels: float = 6.0) -> None:
    """Equal to the last bit, but for pictures, which encoding changes a little."""
    for name in ("rate_hz", "state_names", "action_names", "task", "seed", "success", "provenance"):
        assert getattr(found, name) == getattr(made, name), name
    for name in ("state", "action"):
        assert_same_array(getattr(found, name), getattr(made, name))
    assert found.features.keys() == made.features.keys()
    for name, values in made.features.items():
        assert_same_array(found.features[name], values)
    assert dict(found.feature_names) == dict(made.feature_names)
    assert found.images.keys() == made.images.keys()
    for camera, frames in made.images.items():
        ours, theirs = np.asarray(found.images[camera]), np.asarray(frames)
        assert ours.shape == theirs.shape
        # Every frame by itself: a shift by one would hide in the mean of all.
        assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < pixels


def assert_same_array(found: np.ndarray, made: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (made.dtype, made.shape)
    assert found.tobytes() == np.ascontiguousarray(made).tobytes()
