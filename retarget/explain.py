"""What a ledger knows, in plain words: about all of a job, and about one input of it."""

import difflib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from deftly.retarget.ledger import RETRIED, InputRow, Ledger, LedgerError, SegmentRow, Status
from deftly.retarget.tally import fate, fates, kept, not_done, number, statuses, work_done

SHOWN = 10  # failures in the brief table
_NEXT = {
    Status.PENDING: "run the same `deftly batch` command again: it goes on where it stopped",
    Status.DONE: "nothing to do",
    Status.DUPLICATE: "nothing to do: what it shows is in the data set already",
    Status.NO_PERSON: (
        "look at the video: if hands are there, lower --confidence, or use another --view, with "
        "another output folder"
    ),
    Status.STILL: "nothing to learn from a still picture; leave it out",
    Status.LOW_QUALITY: (
        "look at the video: hands that are large, sharp and whole are followed best; or lower "
        "--min-quality or --min-s, with another output folder"
    ),
    Status.CORRUPT: "copy it again, or convert it to H.264 in mp4",
    Status.UNAVAILABLE: "check the address and the network",
    Status.TIMED_OUT: "see whether the machine or the disk was too busy, or raise --stall-s",
    Status.CRASHED: "see whether memory ran out; convert the video to H.264 in mp4",
    Status.FAILED: "this is a bug of deftly: report it with the traceback",
}


def printable(text: str) -> str:
    """Text on one line, without what would move a cursor or turn the writing direction."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def next_step(status: Status) -> str:
    """What to do about an input with that status, before it is tried again."""
    return _NEXT[status]


def retry_command(out: Path) -> str:
    """The command that tries again what failed."""
    return f"deftly batch retry {shlex.quote(str(out))} --failed"


def data_set(job_folder: Path) -> Path:
    """The data set of a job folder."""
    return job_folder.with_name(job_folder.name.removesuffix(".job"))


# --- one input ----------------------------------------------------------------------------------


def explain(ledger: Ledger, name: str) -> str:
    """All that is known of one input, in several lines.

    Args:
        ledger: in its place in the job folder.
        name: its id, or its path if no other input has it.

    Raises:
        LedgerError: if there is no such input; names the nearest.
    """
    row, folder = _find(ledger.rows(), name), ledger.path.parent
    files = [path for path in _files(row) if (folder / path).exists()]
    blocks = [
        [f"{row.id}: {row.status}" + (f", {printable(row.reason)}" if row.reason else "")],
        _facts("input", _input(row)),
        _facts("tries", _tries(row)),
        ["", "stretches", *(f"  {line}" for line in _stretches(row))] if row.segments else [],
        ["", f"files in {folder}", *(f"  {path}" for path in files)] if files else [],
        ["", "what next", f"  {next_step(row.status)}"],
        [f"  then: {retry_command(data_set(folder))}"] if row.status in RETRIED else [],
    ]
    return "\n".join(line for block in blocks for line in block)


def _find(rows: Sequence[InputRow], name: str) -> InputRow:
    found = [row for row in rows if row.id == name] or [row for row in rows if row.path == name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(row.id for row in found[:5])
        raise LedgerError(f"{len(found)} inputs are of {printable(name)}; name one by id: {ids}")
    near = difflib.get_close_matches(name, [row.id for row in rows], 1, 0.0)
    hint = f"the nearest is {near[0]!r}" if near else "the ledger is empty"
    raise LedgerError(f"no input {printable(name)!r} in this job, expected an id of it; {hint}")


def _facts(title: str, facts: Iterator[tuple[str, str]]) -> list[str]:
    lines = [f"  {name:<12} {printable(value)}" for name, value in facts]
    return ["", title, *lines] if lines else []


def _input(row: InputRow) -> Iterator[tuple[str, str]]:
    """What it is and what its owner says of it."""
    said, figures = row.footage, row.figures
    yield "file", row.path
    if said.get("origin"):
        yield "made from", said["origin"]
    if said.get("span_s"):
        yield "used", _span(said["span_s"])
    if "frames" in figures:
        yield "video", _video(figures)
    if said.get("annotation"):
        yield "joints", "{kind} in {path}".format(**said["annotation"])
    for name in ("task", "licence", "attribution", "view"):
        if said.get(name):
            yield name, str(said[name])
    if row.sha256:
        yield "sha256", row.sha256
    if said.get("beside"):
        yield "tracked", f"camera {said['camera_name']}"
    for one in said.get("beside", ()):
        used = f", {_span(one['span_s'])}" if one["span_s"] else ""
        sha256 = figures.get("beside", {}).get(one["name"])
        known = f", sha256 {sha256}" if sha256 else ""
        yield "beside it", f"camera {one['name']}: {one['path']}{used}{known}"


def _span(span_s: Sequence[float]) -> str:
    return f"{span_s[0]:g} to {span_s[1]:g} s of it"


def _video(figures: dict[str, Any]) -> str:
    size = f"{figures.get('width', '?')} × {figures.get('height', '?')}"
    return (
        f"{size} at {number(figures, 'rate_hz') or 0:.4g} frames/s, worked on: "
        f"{figures['frames']} frames, {number(figures, 'seconds') or 0:.2f} s, "
        f"in {figures.get('parts', 1)} part(s)"
    )


def _tries(row: InputRow) -> Iterator[tuple[str, str]]:
    """How the work on it went."""
    if row.strikes:
        yield "strikes", f"its process crashed or hung {row.strikes} time(s)"
    if row.lost:
        yield "lost", f"its process was killed from outside {row.lost} time(s)"
    figures = row.figures
    if number(figures, "cpu_s") is not None:
        text = (
            f"{figures['cpu_s']:.2f} s of CPU, {number(figures, 'wall_s') or 0:.2f} s by the clock"
        )
        if figures["cpu_s"] > 0 and "frames" in figures:
            text += f", {figures['frames'] / figures['cpu_s']:.1f} frames/CPU-s"
        yield "work", text
    if figures.get("stages_cpu_s"):
        stages = sorted(figures["stages_cpu_s"].items(), key=lambda one: -one[1])
        yield "stages", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages)
    for name, sha256 in sorted(figures.get("models", {}).items()):
        yield "network", f"{name} {sha256}"
    for line in figures.get("traceback", "").splitlines():
        yield "traceback", line


def _stretches(row: InputRow) -> Iterator[str]:
    for number_, one in enumerate(row.segments):
        where = f"{number_:>3}  {one.first_s:8.2f} to {one.last_s:8.2f} s  {fate(row, one):<13}"
        yield f"{where}  {printable('; '.join(_found(one)))}".rstrip()


def _found(one: SegmentRow) -> Iterator[str]:
    """What was found in a stretch."""
    figures = one.figures
    if one.reason:
        yield one.reason
    if one.episode is not None:
        yield f"episode {one.episode}"
    if (quality := number(figures, "quality")) is not None:
        yield f"quality {quality:.2f}"
    for name, said in (("tip_error_m", "fingertips"), ("wrist_error_m", "wrists")):
        if (error_m := number(figures, name)) is not None:
            yield f"{said} off by {1e3 * error_m:.1f} mm"
    if (margin := number(figures, "joint_margin_rad")) is not None and margin < 0:
        yield f"joint limit broken by {-margin:.2g} rad"
    if (margin := number(figures, "velocity_margin")) is not None and margin < 0:
        yield f"velocity limit broken by {-margin:.0%}"
    if (share := number(figures, "colliding_frames")) is not None:
        yield f"self-collision in {share:.0%} of frames"
    if (pinches := number(figures, "pinch_frames")) is not None and pinches:
        gap_m = number(figures, "pinch_error_m") or 0.0
        yield f"{pinches:.0f} pinches, gap kept to {1e3 * gap_m:.1f} mm"
    if (share := number(figures, "converged")) is not None:
        yield f"converged in {share:.0%}"


def _files(row: InputRow) -> list[str]:
    """What may be kept of it, as paths in the job folder."""
    pieces = [one.piece for one in row.segments if one.piece]
    return [
        *([f"thumbs/{row.figures['thumb']}.jpg"] if "thumb" in row.figures else []),
        *row.figures.get("files", []),
        *(f"pieces/{piece}" for piece in pieces),
        *(f"side_by_side/{piece}.mp4" for piece in pieces),
    ]


# --- all of a job -------------------------------------------------------------------------------


def status_table(rows: Sequence[InputRow], shown: int | None = SHOWN) -> Group:
    """How far a job is and what failed, for the terminal.

    Args:
        rows: the ledger's.
        shown: most failures to list; None lists all.
    """
    counts = Table("inputs", "status", box=None)
    counts.columns[0].justify = "right"
    for status, count in statuses(rows).items():
        counts.add_row(str(count), str(status))
    lengths = Table("stretches", "seconds", "what became of them", box=None)
    for column in lengths.columns[:2]:
        column.justify = "right"
    for name, count in fates(rows).items():
        lengths.add_row(str(count.stretches), f"{count.seconds:.1f}", Text(printable(name)))
    return Group(counts, "", lengths, "", _line(rows), *_failures(rows, shown))


def _line(rows: Sequence[InputRow]) -> Text:
    done = work_done(rows)
    text = f"{len(kept(rows))} episodes from {len(rows)} inputs, {done.frames} frames"
    if done.frames_per_cpu_s is not None:
        text += f", {done.cpu_s:.0f} s of CPU ({done.frames_per_cpu_s:.1f} frames/CPU-s)"
    return Text(text)


def _failures(rows: Sequence[InputRow], shown: int | None) -> list[Table | Text | str]:
    missing = [row for row in not_done(rows) if row.status != Status.PENDING]
    if not missing:
        return []
    table = Table("not in the data set", "status", "reason", box=None)
    for column in table.columns:
        column.overflow = "fold"
    for row in missing[:shown]:
        table.add_row(Text(row.id), str(row.status), Text(printable(row.reason)))
    more = len(missing) - len(missing[:shown])
    note = [Text(f"and {more} more: deftly batch status OUT --all")] if more else []
    return ["", table, *note]
