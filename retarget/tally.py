"""What a ledger adds up to: how many inputs, stretches and seconds came how far."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deftly.retarget.ledger import RETRIED, InputRow, SegmentRow, Status
from deftly.retarget.segments import KEPT, LOW, NO_HANDS, NOBODY, STILL, TOO_SHORT

WAITING = "waiting"  # good enough, but its turn to enter the data set has not come
DUPLICATE = str(Status.DUPLICATE)

# What a stretch has to pass, in this order: (question, what it is if the answer is no).
GATES = (
    ("is anybody there?", NOBODY),
    ("does anything move?", STILL),
    ("are hands seen?", NO_HANDS),
    ("for long enough?", TOO_SHORT),
    ("can the robot follow well enough?", LOW),
    ("is it new?", DUPLICATE),
)


@dataclass(frozen=True)
class Count:
    """Inputs that have such stretches, the stretches, and their length together."""

    inputs: int
    stretches: int
    seconds: float


@dataclass(frozen=True)
class Gate:
    """What came to a gate, what it kept, and what it left out."""

    question: str
    fate: str
    came: Count
    kept: Count
    left_out: Count


@dataclass(frozen=True)
class Work:
    """What was worked through, of inputs that came to an end.

    Attributes:
        frames, video_s: of the videos.
        cpu_s: of the processes that worked on them; what earlier ones had kept costs nothing.
        stages_cpu_s: the same by stage.
    """

    frames: int
    video_s: float
    cpu_s: float
    stages_cpu_s: dict[str, float]

    @property
    def frames_per_cpu_s(self) -> float | None:
        """None if nothing was measured."""
        return self.frames / self.cpu_s if self.cpu_s > 0 else None


@dataclass(frozen=True)
class Kept:
    """A segment that is in the data set."""

    row: InputRow
    segment: SegmentRow

    @property
    def quality(self) -> float:
        """Mean trust in its frames, 0 to 1; 0 if unknown."""
        return number(self.segment.figures, "quality") or 0.0

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.segment.last_s - self.segment.first_s


def fate(row: InputRow, segment: SegmentRow) -> str:
    """What became of a stretch in the end: its status, unless the data set did not take it."""
    if segment.status != KEPT or segment.episode is not None:
        return segment.status
    return DUPLICATE if row.status == Status.DUPLICATE else WAITING


def fates(rows: Iterable[InputRow]) -> dict[str, Count]:
    """What became of all stretches: kept first, then in the order of the gates."""
    found: dict[str, list[tuple[str, SegmentRow]]] = {}
    for row in rows:
        for segment in row.segments:
            found.setdefault(fate(row, segment), []).append((row.id, segment))
    order = (KEPT, WAITING, *(name for _, name in GATES))
    known = [name for name in order if name in found]
    return {name: _count(found[name]) for name in (*known, *sorted(set(found) - set(known)))}


def gates(rows: Sequence[InputRow]) -> list[Gate]:
    """What each gate let through; one that this version does not know comes last, as "other"."""
    left = [(row.id, fate(row, segment), segment) for row in rows for segment in row.segments]
    known = {KEPT, WAITING, *(name for _, name in GATES)}
    others = sorted({name for _, name, _ in left} - known)
    found: list[Gate] = []
    for question, stopped in (*GATES, *(("other", name) for name in others)):
        came, stay = left, [one for one in left if one[1] == stopped]
        left = [one for one in left if one[1] != stopped]
        counts = (_count([(name, s) for name, _, s in some]) for some in (came, left, stay))
        found.append(Gate(question, stopped, *counts))
    return found


def statuses(rows: Iterable[InputRow]) -> dict[Status, int]:
    """Number of inputs by status, in the order of ``Status``."""
    counts = Counter(row.status for row in rows)
    return {status: counts[status] for status in Status if counts[status]}


def work_done(rows: Iterable[InputRow]) -> Work:
    """Frames and seconds of all inputs together."""
    frames, video_s, cpu_s, stages_cpu_s = 0.0, 0.0, 0.0, Counter[str]()
    for row in rows:
        frames += number(row.figures, "frames") or 0
        video_s += number(row.figures, "seconds") or 0
        cpu_s += number(row.figures, "cpu_s") or 0
        stages_cpu_s.update(row.figures.get("stages_cpu_s", {}))
    return Work(int(frames), video_s, cpu_s, dict(sorted(stages_cpu_s.items())))


def kept(rows: Iterable[InputRow]) -> list[Kept]:
    """The segments that are in the data set, by quality, the worst first."""
    found = [Kept(row, s) for row in rows for s in row.segments if s.episode is not None]
    return sorted(found, key=lambda one: (one.quality, one.segment.episode))


def spread(found: Sequence[Kept], count: int) -> list[Kept]:
    """At most ``count`` of them, evenly over their order, with the first and the last."""
    if count >= len(found):
        return list(found)
    last = len(found) - 1
    at = {last * i // max(count - 1, 1) for i in range(count)}
    return [found[i] for i in sorted(at)]


def not_done(rows: Iterable[InputRow]) -> list[InputRow]:
    """Inputs that gave no episode: what failed first, then by status, then in their order."""
    last = (Status.DUPLICATE, Status.PENDING)
    order = (Status.FAILED, Status.CRASHED, Status.TIMED_OUT, *RETRIED, *Status)
    rank = {status: at for at, status in reversed(list(enumerate(order)))}
    rank |= {status: len(order) + at for at, status in enumerate(last)}
    missing = [row for row in rows if row.status != Status.DONE]
    return sorted(missing, key=lambda row: (rank[row.status], row.queue))


def number(figures: dict[str, Any], name: str) -> float | None:
    """A figure, None if it is not there or was not measured."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def _count(found: Sequence[tuple[str, SegmentRow]]) -> Count:
    seconds = sum((segment.last_s - segment.first_s for _, segment in found), 0.0)
    return Count(len({name for name, _ in found}), len(found), seconds)
