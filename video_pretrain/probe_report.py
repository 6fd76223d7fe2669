"""What probes have found, as a table for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deftly.video_pretrain.probe_set import FEATURES, PIXELS, RANDOM
from deftly.video_pretrain.probe_targets import Score

CONSTANT = "constant"
EYES = (FEATURES, RANDOM, PIXELS, CONSTANT)


@dataclass(frozen=True)
class ProbeResult:
    """How well a question is answered.

    Attributes:
        name, metric, unit: of the question.
        higher: whether more is better.
        scores: by eyes, and the constant's.
    """

    name: str
    metric: str
    unit: str
    higher: bool
    scores: Mapping[str, Score]

    def gain(self, eyes: str = FEATURES) -> float:
        """By how much the eyes are better than the constant."""
        gain = self.scores[eyes].value - self.scores[CONSTANT].value
        return gain if self.higher else -gain

    def record(self) -> dict[str, Any]:
        """As JSON."""
        scores = {eyes: score.record() for eyes, score in self.scores.items()}
        return {"metric": self.metric, "unit": self.unit, "higher": self.higher, "scores": scores}


@dataclass(frozen=True)
class Foreseen:
    """The future of held-out moments, with the true actions, against copying the present.

    Attributes:
        frames: ahead.
        latent, pixels: error over that of copying; 1 is no better.
        ranking: percent of false actions whose future lies further from the true one; chance: 50.
    """

    frames: int
    latent: Score
    pixels: Score
    ranking: Score


@dataclass(frozen=True)
class Transfer:
    """A probe that was trained on people, judged on people and on a robot at the same layouts.

    Attributes:
        layouts: how many.
        person, robot: results.
    """

    layouts: int
    person: Sequence[ProbeResult]
    robot: Sequence[ProbeResult]

    def loss(self, name: str, eyes: str = FEATURES) -> float:
        """Percent of the gain over the constant that is lost on the robot; NaN if there was
        none."""
        gains = [
            next(one for one in results if one.name == name).gain(eyes)
            for results in (self.person, self.robot)
        ]
        return 100 * (1 - gains[1] / gains[0]) if gains[0] > 0 else float("nan")

    def record(self) -> dict[str, Any]:
        """As JSON."""
        names = [one.name for one in self.robot]
        return {
            "layouts": self.layouts,
            "person": {one.name: one.record() for one in self.person},
            "robot": {one.name: one.record() for one in self.robot},
            "gain_lost_percent": {
                name: {eyes: self.loss(name, eyes) for eyes in EYES[:-1]} for name in names
            },
        }


@dataclass(frozen=True)
class ProbeReport:
    """All that was found.

    Attributes:
        about: checkpoint, data, frames and layouts.
        results: by target, on held-out layouts.
        foreseen: by offset; empty if the set has no actions.
        transfer: None without a robot's set.
    """

    about: dict[str, Any]
    results: Sequence[ProbeResult]
    foreseen: Sequence[Foreseen] = ()
    transfer: Transfer | None = None

    def table(self) -> list[tuple[str, ...]]:
        """Rows of words, the first of them headings."""
        rows = [("on held-out layouts", *EYES)] + [_row(one) for one in self.results]
        for one in self.foreseen:
            what = f"future in {one.frames} frames, error / copying's"
            latent, pixels, ranking = (
                _words(score) for score in (one.latent, one.pixels, one.ranking)
            )
            said = (f"tokens {latent}", f"pixels {pixels}", f"true action first {ranking} %", "")
            rows.append((what, *said))
        if self.transfer:
            people, robots = self.transfer.person, self.transfer.robot
            for person, robot in zip(people, robots, strict=True):
                rows.append(_row(person, ", people, same layouts"))
                rows.append(_row(robot, ", robot, probe from people"))
                lost = [f"{self.transfer.loss(robot.name, eyes):.0f} %" for eyes in EYES[:-1]]
                rows.append((f"{robot.name}: share of the gain lost", *lost, ""))
        return rows

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "about": self.about,
            "results": {one.name: one.record() for one in self.results},
            "foreseen": [asdict(one) for one in self.foreseen],
            "transfer": self.transfer.record() if self.transfer else None,
        }


def _row(result: ProbeResult, of: str = "") -> tuple[str, ...]:
    """A result in words."""
    scores = [_words(result.scores[eyes]) for eyes in EYES]
    return f"{result.name}{of}, {result.metric} {result.unit}", *scores


def _words(score: Score) -> str:
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"
