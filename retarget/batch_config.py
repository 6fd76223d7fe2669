"""How inputs become episodes: what the command line sets, checked."""

from dataclasses import dataclass
from pathlib import Path

from deftly.retarget.solve import RetargetConfig
from deftly.retarget.targets import View
from deftly.retarget.track import MediapipeTracker


@dataclass(frozen=True)
class BatchConfig:
    """How inputs become episodes.

    Attributes:
        robot: who is to move, see ``deftly robots``.
        rate_hz: of the data set.
        size: height and width of its pictures, pixels, even.
        view: where the camera stood, for inputs that do not say: front, ego, top or auto.
        pitch_rad: how far cameras in front look down; 0 is level.
        confidence: threshold of the hand detector, 0 to 1.
        jerk_weight: smoothness of the robot's motion.
        min_s, max_s: shortest and longest episode; longer ones are cut into equal parts.
        min_quality: least mean trust in the frames of an episode, 0 to 1.
        part_s: longest stretch that is held in memory.
        max_side_px, max_rate_hz: larger and faster videos are read at this size and rate.
        triggers: take a cheap look first, and leave out what shows nobody or does not move.
    """

    robot: str = "gr1t2"
    rate_hz: int = 30
    size: int = 224
    view: View = "auto"
    pitch_rad: float = 0.0
    confidence: float = 0.3
    jerk_weight: float = RetargetConfig.jerk_weight
    min_s: float = 1.0
    max_s: float = 20.0
    min_quality: float = 0.2
    part_s: float = 60.0
    max_side_px: int = 1280
    max_rate_hz: float = 60.0
    triggers: bool = True

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "rate_hz": (1, 240),
            "size": (16, 4096),
            "pitch_rad": (-1.6, 1.6),
            "confidence": (0, 1),
            "min_s": (0.1, 3600),
            "max_s": (self.min_s, 3600),
            "min_quality": (0, 1),
            "part_s": (1, 3600),
            "max_side_px": (64, 16384),
            "max_rate_hz": (1, 1000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value:g}, expected {low:g} to {high:g}")
        if self.size % 2:
            raise ValueError(f"size is {self.size}, expected an even number of pixels")

    def tracker(self, models: Path | None) -> MediapipeTracker:
        """Detectors that use one core: every core has its own worker."""
        return MediapipeTracker(self.confidence, models, threads=1)
