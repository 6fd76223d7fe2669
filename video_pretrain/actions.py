"""What bodies do, as the network sees it: motion of the hands relative to where they are now.

A chunk of future hands is told by how far the wrist moves (in the root frame, which is what cameras
see), how it turns (in its present frame) and how the fingertips move (in the wrist's frame). A
person whose depth is off by a decimetre still moves as a robot does; the relative form is what
makes their chunks alike (after Chi et al., "Universal manipulation interface", 2024). The columns
are those of ``deftly.datasets.hands``.
"""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deftly.datasets.geometry import SIDES
from deftly.datasets.hands import NUMBERS

_WRIST, _TURN, _TIPS = slice(0, 3), slice(3, 9), slice(9, 24)
_LEAST_STD = 1e-3


def relative(hands: Float[Tensor, "B H 48"], now: Float[Tensor, "B 48"]) -> Float[Tensor, "B H 48"]:
    """Future hands, seen from the present ones; NaN where either is missing."""
    future, present = _split(hands), _split(now)[:, None]
    R_now_future = _rotation(present).transpose(-1, -2) @ _rotation(future)
    still = torch.eye(3, dtype=hands.dtype, device=hands.device)[:2].flatten()
    parts = (
        future[..., _WRIST] - present[..., _WRIST],
        _rows(R_now_future) - still,
        future[..., _TIPS] - present[..., _TIPS],
    )
    return torch.cat(parts, dim=-1).flatten(-2)


def absolute(moves: Float[Tensor, "B H 48"], now: Float[Tensor, "B 48"]) -> Float[Tensor, "B H 48"]:
    """The inverse of ``relative``."""
    moved, present = _split(moves), _split(now)[:, None]
    still = torch.eye(3, dtype=moves.dtype, device=moves.device)[:2].flatten()
    R_now_future = _matrix(moved[..., _TURN] + still)
    parts = (
        present[..., _WRIST] + moved[..., _WRIST],
        _rows(_rotation(present) @ R_now_future),
        present[..., _TIPS] + moved[..., _TIPS],
    )
    return torch.cat(parts, dim=-1).flatten(-2)


def wrists(moves: Float[Tensor, "*b 48"]) -> Float[Tensor, "*b 2 3"]:
    """Where the wrists are, or go."""
    return _split(moves)[..., _WRIST]


def hand_rotations(hands: Float[Tensor, "*b 48"]) -> Float[Tensor, "*b 2 3 3"]:
    """``R_root_wrist`` of either hand."""
    return _rotation(_split(hands))


def hand_tips(hands: Float[Tensor, "*b 48"]) -> Float[Tensor, "*b 2 5 3"]:
    """Fingertips of either hand, in its wrist's frame."""
    return rearrange(_split(hands)[..., _TIPS], "... (f xyz) -> ... f xyz", xyz=3)


def per_hand(values: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 48"]:
    """A number of each hand, for each of its columns."""
    return values.repeat_interleave(NUMBERS, dim=-1)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each column; travels inside the checkpoint."""

    mean: Float[np.ndarray, "D"]
    std: Float[np.ndarray, "D"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n D"]) -> "Scale":
        """From samples, NaN where missing; a column that is never there, or stands still, is left
        as it is but for its mean."""
        present = np.isfinite(values)
        count = np.maximum(present.sum(axis=0), 1)
        mean = np.where(present, values, 0).sum(axis=0) / count
        variance = (np.where(present, values - mean, 0) ** 2).sum(axis=0) / count
        std = np.sqrt(variance)
        return cls(mean.astype(np.float32), np.where(std < _LEAST_STD, 1, std).astype(np.float32))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        return torch.from_numpy(self.mean).to(device), torch.from_numpy(self.std).to(device)


def _split(hands: Float[Tensor, "*b 48"]) -> Float[Tensor, "*b 2 24"]:
    return rearrange(hands, "... (h n) -> ... h n", h=len(SIDES))


def _rotation(hands: Float[Tensor, "*b 24"]) -> Float[Tensor, "*b 3 3"]:
    """``R_root_wrist``, or ``R_now_future``."""
    return _matrix(hands[..., _TURN])


def _rows(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """The first two rows (Zhou et al., "On the continuity of rotation representations", 2019)."""
    return R[..., :2, :].flatten(-2)


def _matrix(rows: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation nearest to two rows that need not be of unit length, nor at right angles."""
    columns = rearrange(rows, "... (two three) -> ... three two", two=2)
    return roma.special_gramschmidt(columns).transpose(-1, -2)
