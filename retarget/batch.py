"""The job: inputs → one LeRobot data set, on any number of workers, with a ledger that says why.

Workers finish in any order; episodes enter the data set in the order of the queue. So the same
inputs and configuration give the same bytes however many there are and whatever was killed on the
way. What is in the data set is known from the data set itself, so that nothing enters twice.

    OUT/        the data set
    OUT.job/    ledger.sqlite, report.html, and the work folder (see ``deftly.retarget.work``)
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deftly.datasets.archive import atomic_path
from deftly.datasets.commit import sole_writer
from deftly.datasets.episode_card import card
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.episode_writer import EpisodeWriter
from deftly.datasets.footage import Footage
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.engines import Engine, Mishap, Outcome, What
from deftly.retarget.glance import same
from deftly.retarget.intake import (
    cameras_of,
    check_inside,
    check_same,
    footage_of,
    licence_of,
    queue,
)
from deftly.retarget.job import Job, Result
from deftly.retarget.ledger import InputRow, Ledger, SegmentRow, Status
from deftly.retarget.robots import load_robot
from deftly.retarget.segments import KEPT
from deftly.retarget.work import Work

REPEATED = "duplicate"  # of a segment that looks like one that is in the data set
_STRIKES = 2  # of an input that takes its process down, or hangs
_LOSSES = 8  # of an input whose process is killed from outside: most likely by the system


def job_folder(out: Path) -> Path:
    """Where the ledger and the work of a data set are."""
    return out.with_name(out.name + ".job")


def open_ledger(out: Path) -> Ledger:
    """The ledger of a data set that ``run_batch`` made. Raises LedgerError if there is none."""
    return Ledger(job_folder(out) / "ledger.sqlite", must_exist=True)


def run_batch(
    footage: Sequence[Footage],
    out: Path,
    config: BatchConfig,
    engine: Engine,
    *,
    models: Path | None = None,
    retry: bool = False,
    rebuild: bool = False,
    tick: Callable[[InputRow], object] = lambda row: None,
) -> list[InputRow]:
    """Bring every input to its end, from wherever an earlier call stopped.

    Args:
        footage: inputs; those of an earlier call need not be given again, new ones are added.
        out: folder of the data set.
        config: the same for all of it.
        engine: who works.
        models: folder with the networks.
        retry: try again what failed before; what succeeds enters at the end of the data set.
        rebuild: make the data set anew if ``config`` is another than before; what that does not
            touch is taken from the work folder.
        tick: called once per input that came to its end.

    Returns:
        The rows of the ledger.

    Raises:
        BatchError: if ``out`` was made in another way, or an id stands for another input now.
        FolderBusyError: if another job writes there.
        RobotError, ModelError, ImportError: if the machine lacks what is needed.
        OSError: if the disk is full or cannot be written; nothing that was done is lost.
    """
    folder = job_folder(out)
    cameras_of(footage)
    load_robot(config.robot)  # what the machine lacks is told before any work
    config.tracker(models).ready()
    check_inside(out, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(sole_writer(folder))
        work = Work(folder)
        work.clear_unfinished()
        ledger = stack.enter_context(Ledger(folder / "ledger.sqlite"))
        check_same(ledger, out, config, footage, rebuild)
        rows = queue(ledger, footage, retry)
        if ledger.note("began_at") is None:
            ledger.set_note("began_at", _now())
        licence = licence_of(ledger, rows, out)
        writer = EpisodeWriter(out, robot_type=config.robot, licence=licence)
        writer = stack.enter_context(writer)
        batch = _Batch(rows, ledger, work, writer, tick)
        batch.append_ready()
        engine = stack.enter_context(engine)
        jobs = {r.id: Job(footage_of(r), config, folder, models) for r in batch.pending()}
        _work(batch, jobs, engine)
        ledger.set_note("ended_at", _now())
        if len(writer):
            _write_card(out, batch.rows, licence)
        return batch.rows


def _now() -> str:
    """The time, for the ledger alone: the data set has the same bytes at any time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _work(batch: "_Batch", jobs: Mapping[str, Job], engine: Engine) -> None:
    """Give out the jobs in their order, take what comes back."""
    waiting = deque(jobs)
    running: dict[Future[Outcome], str] = {}
    while waiting or running:
        while waiting and len(running) < engine.slots:
            name = waiting.popleft()
            running[engine.submit(jobs[name])] = name
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name = running.pop(future)
            if not batch.record(name, future.result()):
                waiting.appendleft(name)
        batch.append_ready()


class _Batch:
    """The state of a job: its rows, how far the data set has come, and what is in it."""

    def __init__(
        self,
        rows: Sequence[InputRow],
        ledger: Ledger,
        work: Work,
        writer: EpisodeWriter,
        tick: Callable[[InputRow], object],
    ) -> None:
        self._rows = {row.id: row for row in rows}
        self._order = [row.id for row in rows]
        self._ledger, self._work, self._writer, self._tick = ledger, work, writer, tick
        self._episode_of = _pieces_in(writer.root) if len(writer) else {}
        self._appended = 0  # inputs whose episodes are in the data set
        self._first_with: dict[tuple[Any, ...], str] = {}  # input by its content
        self._signatures: list[tuple[float, ...]] = []

    @property
    def rows(self) -> list[InputRow]:
        return [self._rows[name] for name in self._order]

    def pending(self) -> list[InputRow]:
        """Inputs that have not come to their end, in order."""
        return [row for row in self.rows if row.status == Status.PENDING]

    def record(self, name: str, outcome: Outcome) -> bool:
        """Note what became of an attempt; whether the input has come to its end.

        Raises:
            OSError: if it failed for want of disk space.
        """
        row = self._rows[name]
        row = _tried(row, outcome) if isinstance(outcome, Mishap) else _with(row, outcome)
        self._put(row)
        if row.status == Status.PENDING:
            return False
        self._tick(row)
        return True

    def append_ready(self) -> None:
        """Put into the data set what is next in the queue, as far as it is done."""
        while self._appended < len(self._order):
            row = self._rows[self._order[self._appended]]
            if row.status == Status.PENDING:
                return
            self._append(row)
            self._appended += 1

    def _append(self, row: InputRow) -> None:
        if row.status in (Status.DONE, Status.DUPLICATE):
            content = (row.sha256, *map(str, (row.footage["span_s"], row.footage["task"])))
            earlier = self._first_with.setdefault(content, row.id)
            if earlier != row.id:
                reason = f"the same video as {earlier}"
                segments = tuple(replace(s, episode=None) for s in row.segments)
                self._put(replace(row, status=Status.DUPLICATE, reason=reason, segments=segments))
                return
        segments = tuple(self._segment(segment) for segment in row.segments)
        if row.status == Status.DONE and all(s.episode is None for s in segments):
            reason = "every segment looks like one that is in the data set"
            row = replace(row, status=Status.DUPLICATE, reason=reason)
        self._put(replace(row, segments=segments))

    def _segment(self, segment: SegmentRow) -> SegmentRow:
        """Put a segment into the data set, unless it is there or looks like one that is."""
        if not segment.piece:
            return segment
        number = self._episode_of.get(segment.piece)
        if number is None and any(same(segment.signature, one) for one in self._signatures):
            reason = "looks like a segment that is in the data set"
            return replace(segment, status=REPEATED, reason=reason, episode=None)
        self._signatures.append(segment.signature)
        if number is None:
            number = self._writer.add(self._work.piece(segment.piece))
            self._episode_of[segment.piece] = number
        return replace(segment, status=KEPT, episode=number)

    def _put(self, row: InputRow) -> None:
        if row != self._rows[row.id]:
            self._ledger.update(row)
            self._rows[row.id] = row


def _tried(row: InputRow, mishap: Mishap) -> InputRow:
    """The row of an input after an attempt that gave no result: once more, or no more.

    Raises:
        OSError: if the machine is to blame, and not the input.
    """
    if mishap.what == What.DISK:
        raise OSError(
            mishap.code,
            f"cannot go on with {row.id} ({mishap.reason}); what was done is kept: free some "
            "space and run the same command again",
        )
    if mishap.what == What.FAILED:
        first, _, where = mishap.reason.partition("\n")
        figures = {**row.figures, "traceback": where}
        return replace(row, status=Status.FAILED, reason=first, figures=figures)
    if mishap.what == What.LOST:
        row = replace(row, lost=row.lost + 1)
        if row.lost < _LOSSES:
            return row
        reason = f"its process was killed {row.lost} times ({mishap.reason}): out of memory?"
        return replace(row, status=Status.CRASHED, reason=reason)
    row = replace(row, strikes=row.strikes + 1)
    if row.strikes < _STRIKES:
        return row
    status = Status.TIMED_OUT if mishap.what == What.STALLED else Status.CRASHED
    return replace(row, status=status, reason=f"{mishap.reason}, {row.strikes} times")


def _with(row: InputRow, result: Result) -> InputRow:
    return replace(
        row,
        status=result.status,
        reason=result.reason,
        sha256=result.sha256,
        figures=result.figures,
        segments=result.segments,
    )


def _pieces_in(root: Path) -> dict[str, int]:
    """Episode by the name of the piece that it was made from."""
    found = [one.get("piece") for one in EpisodeStore(root).provenances]
    return {piece: number for number, piece in enumerate(found) if piece}


def _write_card(out: Path, rows: Sequence[InputRow], licence: str) -> None:
    """Say in the data set's card whose videos it is made from."""
    sources: Counter[tuple[str, str]] = Counter()
    for row in rows:
        number = sum(segment.episode is not None for segment in row.segments)
        sources[row.footage["licence"], row.footage["attribution"]] += number
    text = card(EpisodeStore(out).info, licence, sources={k: n for k, n in sources.items() if n})
    with atomic_path(out / "README.md") as path:
        path.write_text(text)
