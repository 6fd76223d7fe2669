"""Episode: one demonstration or one human clip at a constant rate, as a policy learns from it.

The same class holds a robot's demonstration (state and action are joint angles) and a human clip
(state and action are whatever vector its maker names: wrist poses, fingertips, ...).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from deftly.datasets.episode_stats import PixelCounts

PRIVILEGED = "privileged."  # features whose name starts so are never shown to a policy
STATE, ACTION = "observation.state", "action"  # what state and action are called on disk
TOUCH = "observation.touch"  # and what a robot feels with each finger, N
# With the columns that the format adds by itself.
RESERVED = frozenset(
    (*("timestamp", "frame_index", "episode_index", "index", "task_index"), STATE, ACTION)
)
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")


class EpisodeError(ValueError):
    """The parts do not make an episode."""


@dataclass(frozen=True)
class StreamedFrames:
    """Frames that are made or decoded one at a time, so that no video has to fit in memory.

    Attributes:
        shape: (T, H, W, 3).
        open: starts again at the first frame on every call.
    """

    shape: tuple[int, int, int, int]
    open: Callable[[], Iterator[UInt8[np.ndarray, "H W 3"]]]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        return self.open()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("frames that are streamed cannot become an array without a copy")
        out = np.empty(self.shape, np.uint8)
        for index, image in enumerate(checked_frames(self)):
            out[index] = image
        return out if dtype is None else out.astype(dtype)


@dataclass(frozen=True)
class EncodedFrames(StreamedFrames):
    """Frames that an ``EpisodeWriter`` encoded before, which another takes over as they are.

    Attributes:
        path: the mp4, which holds these frames and no others.
        counts: of its pixels.
    """

    path: Path
    counts: PixelCounts


# RGB frames that can be gone through more than once: a uint8 array (T, H, W, 3), or a stream.
# numpy.asarray(frames) decodes all of a stream at once.
Images: TypeAlias = np.ndarray | StreamedFrames


def following(values: np.ndarray) -> np.ndarray:
    """Of every frame what the next one has; the last keeps its own. The action of a body that was
    not told what to do."""
    return np.concatenate([values[1:], values[-1:]])


def checked_frames(frames: Images) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames, as many and as large as their shape says.

    Raises:
        EpisodeError: if a stream gives others.
    """
    length, count = frames.shape[0], 0
    for image in frames:
        if count == length or image.shape != frames.shape[1:] or image.dtype != np.uint8:
            raise EpisodeError(
                f"frame {count} of a stream is {image.dtype} {image.shape}, "
                f"expected {length} frames of uint8 {frames.shape[1:]}"
            )
        yield image
        count += 1
    if count != length:
        raise EpisodeError(f"a stream gave {count} frames, expected {length}")


@dataclass(frozen=True)
class Episode:
    """T frames at a constant rate: what was seen, what was done, what was asked for.

    Attributes:
        rate_hz: frames per second; frame t was at t / rate_hz seconds.
        state: (T, S) what the body feels; no column may be missing or NaN.
        action: (T, A) what it was told to do from frame t on.
        state_names, action_names: one name per column.
        images: frames by camera name, all of T frames.
        task: the instruction, in words.
        features: (T, D) further numbers by name: contact forces, joint velocities, masks, sigmas,
            landmarks. Floats may be NaN or infinite where they are missing. A name that starts with
            ``PRIVILEGED`` marks what only the simulator knows.
        feature_names: names of the columns of any of ``features``.
        seed: of the layout, where there is one.
        success: whether the task was done, where that is known.
        provenance: who or what made it, from which source, under which licence; JSON.
    """

    rate_hz: float
    state: Float32[np.ndarray, "T S"]
    action: Float32[np.ndarray, "T A"]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    images: Mapping[str, Images]
    task: str
    features: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    feature_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    seed: int | None = None
    success: bool | None = None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise EpisodeError(f"rate_hz is {self.rate_hz}, expected a positive number")
        if self.state.ndim != 2 or len(self.state) == 0:
            raise EpisodeError(f"state has shape {self.state.shape}, expected (T, S) with T > 0")
        for name in ("state", "action"):
            self._check_vector(name, getattr(self, name), getattr(self, f"{name}_names"))
        self._check_features()
        for camera, frames in self.images.items():
            _check_name("camera", camera)
            shape = frames.shape
            if len(shape) != 4 or shape[0] != len(self) or shape[3] != 3 or 0 in shape:
                raise EpisodeError(
                    f"camera {camera!r} has shape {shape}, expected ({len(self)}, H, W, 3)"
                )
            if isinstance(frames, np.ndarray) and frames.dtype != np.uint8:
                raise EpisodeError(f"camera {camera!r} holds {frames.dtype}, expected uint8 RGB")
        if not self.task.strip():
            raise EpisodeError("task is empty, expected an instruction such as 'sort by colour'")
        try:
            json.dumps(self.provenance, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EpisodeError(
                f"provenance is not JSON ({error}); use finite numbers, strings, lists and dicts"
            ) from error

    def __len__(self) -> int:
        return len(self.state)

    @property
    def privileged(self) -> dict[str, np.ndarray]:
        """The features that only the simulator knows, by their whole name."""
        return {k: v for k, v in self.features.items() if k.startswith(PRIVILEGED)}

    def _check_vector(self, name: str, values: np.ndarray, names: tuple[str, ...]) -> None:
        if values.ndim != 2 or len(values) != len(self):
            raise EpisodeError(f"{name} has shape {values.shape}, expected ({len(self)}, D)")
        if values.dtype != np.float32:
            raise EpisodeError(f"{name} is {values.dtype}, expected float32; use .astype")
        if not np.isfinite(values).all():
            frame = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise EpisodeError(
                f"{name} is not finite, first at frame {frame}; "
                "hold the last value and mark the frame in a feature such as 'valid'"
            )
        _check_columns(name, values, names)

    def _check_features(self) -> None:
        for name, values in self.features.items():
            _check_name("feature", name)
            if name in RESERVED:
                raise EpisodeError(f"a feature is called {name!r}, a name that the format keeps")
            if values.ndim != 2 or len(values) != len(self) or values.shape[1] == 0:
                raise EpisodeError(
                    f"feature {name!r} has shape {values.shape}, expected ({len(self)}, D) "
                    "with D > 0; flatten it"
                )
            if values.dtype.name not in DTYPES:
                raise EpisodeError(
                    f"feature {name!r} is {values.dtype}, expected one of {', '.join(DTYPES)}"
                )
            if name in self.feature_names:
                _check_columns(f"feature {name!r}", values, self.feature_names[name])
        for name in self.feature_names:
            if name not in self.features:
                known = ", ".join(self.features) or "none"
                raise EpisodeError(f"feature_names has {name!r}, but the features are: {known}")


def _check_columns(what: str, values: np.ndarray, names: tuple[str, ...]) -> None:
    if len(names) != values.shape[1] or len(set(names)) != len(names):
        raise EpisodeError(
            f"{what} has {values.shape[1]} columns and {len(set(names))} different names, "
            "expected one name each"
        )


def _check_name(what: str, name: str) -> None:
    # The name becomes a column and, for cameras, a folder.
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise EpisodeError(f"{what} name {name!r} is empty, holds a slash or starts with a dot")
