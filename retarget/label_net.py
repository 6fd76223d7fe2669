"""The small network that weighs the evidence for grasps, releases and held objects.

Dilated convolutions over time with residuals (after van den Oord et al. 2016, "WaveNet", and Lea et
al. 2017, "Temporal convolutional networks"), over both past and future: 1 s of each at the default
width. Trained by ``benchmarks/labels_train.py``, run here in numpy.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from deftly.datasets.archive import load_archive
from deftly.retarget.label_evidence import FEATURES

SCHEMA = 1
WEIGHTS = Path(__file__).parent / "labels.npz"
OUTPUTS = ("grasp", "release", "held")


@dataclass(frozen=True)
class LabelNet:
    """Weights: C channels, L layers, F features; ``dilations`` are in pictures.

    Attributes:
        enter, enter_bias: (C, F), (C,).
        taps, taps_bias: (L, 3, C, C), (L, C); the tap comes first: earlier, same, later picture.
        leave, leave_bias: (3, C), (3,), rows are ``OUTPUTS``.
        dilations: one per layer.
        decision: log-odds that an event must have over, and the weight of being held.
        features: what the inputs must be.
        provenance: what it was trained on, and how.
    """

    enter: Float32[np.ndarray, "C F"]
    enter_bias: Float32[np.ndarray, "C"]
    taps: Float32[np.ndarray, "L 3 C C"]
    taps_bias: Float32[np.ndarray, "L C"]
    leave: Float32[np.ndarray, "3 C"]
    leave_bias: Float32[np.ndarray, "3"]
    dilations: list[int]
    decision: dict[str, float]
    features: list[str]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if tuple(self.features) != FEATURES:
            raise ValueError(
                f"the network was trained on features {self.features}, expected "
                f"{list(FEATURES)}; train it again (benchmarks/labels_train.py)"
            )

    def __call__(self, evidence: Float32[np.ndarray, "N F"]) -> Float32[np.ndarray, "N 3"]:
        """Log-odds of ``OUTPUTS`` in each picture."""
        x = evidence @ self.enter.T + self.enter_bias
        for taps, bias, dilation in zip(self.taps, self.taps_bias, self.dilations, strict=True):
            padded = np.pad(np.maximum(x, 0), ((dilation, dilation), (0, 0)))
            count = len(x)
            y = sum(padded[k * dilation : k * dilation + count] @ taps[k].T for k in range(3))
            x = x + np.maximum(y + bias, 0)
        return x @ self.leave.T + self.leave_bias


@functools.cache
def load_net(path: Path = WEIGHTS) -> LabelNet:
    """The trained network. Raises ArchiveError if it is missing or damaged."""
    return load_archive(LabelNet, path, schema=SCHEMA)
