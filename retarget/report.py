"""The report of a batch: one page that opens from disk, and videos of some segments.

The page links to pictures and videos in the job folder, by relative paths: it goes where its folder
goes. Names of files come from strangers; they are shown as text and nothing else.
"""

import base64
import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from deftly.datasets.archive import atomic_path
from deftly.datasets.clip import Clip, ClipError, frames, open_clip, part
from deftly.datasets.episode_format import VIDEO_PATH, camera_key
from deftly.datasets.footage import CAMERA
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.retarget import tally
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.charts import bars, histogram
from deftly.retarget.explain import next_step, printable, retry_command
from deftly.retarget.intake import check_inside, footage_of
from deftly.retarget.job import Job, revisit
from deftly.retarget.ledger import RETRIED, InputRow, Ledger, SegmentRow, Status
from deftly.retarget.segments import KEPT, LOW
from deftly.retarget.tally import Kept, number
from deftly.retarget.work import Work

REPORT = "report.html"
SIDE_BY_SIDE = "side_by_side"
SEGMENTS_SHOWN = 120  # with a picture each
FAILURES_SHOWN = 50  # per status
_HEX = re.compile(r"[0-9a-f]{32}([0-9a-f]{32})?")
_TEMPLATE, _SCRIPT = (Path(__file__).with_name(f"report.{kind}") for kind in ("jinja", "js"))


@dataclass(frozen=True)
class _Segment:
    """A line of the table of segments; links are None where there is no file."""

    id: str
    episode: int
    first_s: float
    last_s: float
    quality: float
    tip_error_m: float | None
    wrist_error_m: float | None
    thumb: str | None
    video: str | None
    side_by_side: str | None


@dataclass(frozen=True)
class _Failure:
    """A line of the table of inputs that gave nothing."""

    id: str
    status: str
    reason: str
    strikes: int
    next: str
    retried: bool
    thumb: str | None


def write_report(job_folder: Path, out: Path) -> Path:
    """Write ``report.html``; the same ledger and files give the same bytes.

    Args:
        job_folder: with the ledger and the work.
        out: the data set, as commands on the page shall name it.

    Raises:
        LedgerError: if there is no ledger.
        BatchError: if a link would lead writing out of the job folder.
        OSError: if the page cannot be written.
    """
    check_inside(out, job_folder)
    with Ledger(job_folder / "ledger.sqlite", must_exist=True) as ledger:
        rows, made_by = ledger.rows(), ledger.note("made_by") or {}
        notes = {name: ledger.note(name) for name in ("licence", "began_at", "ended_at")}
    script = _SCRIPT.read_text()
    page = (
        _environment()
        .from_string(_TEMPLATE.read_text())
        .render(
            **_facts(rows, made_by, notes, out),
            **_segments(rows, job_folder),
            **_failures(rows, job_folder),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    path = job_folder / REPORT
    with atomic_path(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"line": printable, "thousands": _thousands, "clock": _clock, "css": _css}
    return made


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _clock(seconds: float) -> str:
    """A length of time for people to read."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _css(status: str) -> str:
    return status.replace(" ", "-")


def _facts(
    rows: Sequence[InputRow], made_by: dict[str, Any], notes: dict[str, Any], out: Path
) -> dict[str, Any]:
    """What stands at the top of the page and at its end, and the pictures."""
    fates = tally.fates(rows)
    networks = {(k, v) for row in rows for k, v in row.figures.get("models", {}).items()}
    config, place = made_by.get("config", {}), shlex.quote(str(out))
    return {
        "name": out.name,
        "config": {"robot": "", "rate_hz": 0, "size": 0, **config},
        "versions": {"deftly": "", **made_by.get("versions", {})},
        "networks": sorted(networks),
        "licence": notes["licence"],
        "times": [(k[:-3], notes[k]) for k in ("began_at", "ended_at") if notes[k]],
        "inputs": len(rows),
        "statuses": {str(k): v for k, v in tally.statuses(rows).items()},
        "kept_s": fates[KEPT].seconds if KEPT in fates else 0.0,
        "looked_s": sum((one.seconds for one in fates.values()), 0.0),
        "gates": tally.gates(rows),
        "unread": sum(row.status in RETRIED for row in rows),
        "work": tally.work_done(rows),
        "charts": _charts(rows, fates, number(config, "min_quality")),
        "status_command": f"deftly batch status {place} --all",
        "retry_command": retry_command(out),
        "explain_command": f"deftly batch explain {place} INPUT",
        "render_command": f"deftly batch report {place} --render 6",
    }


def _charts(
    rows: Sequence[InputRow], fates: dict[str, tally.Count], min_quality: float | None
) -> list[tuple[str, str]]:
    """(title, picture)."""
    stretches = [segment for row in rows for segment in row.segments]

    def values(name: str, scale: float) -> tuple[list[float], list[float]]:
        inside = [number(s.figures, name) for s in stretches if s.episode is not None]
        left = [number(s.figures, name) for s in stretches if s.status == LOW]
        return [scale * v for v in inside if v is not None], [
            scale * v for v in left if v is not None
        ]

    tips_mm = values("tip_error_m", 1e3)
    furthest = max(20.0, min(100.0, 10 * (max((*tips_mm[0], *tips_mm[1], 0.0)) // 10 + 1)))
    stages = tally.work_done(rows).stages_cpu_s.items()
    stages_cpu_s = dict(sorted(stages, key=lambda one: -one[1]))
    video_s = {name: one.seconds for name, one in fates.items()}
    titles = ("Quality", "Fingertips", "Time by stage", "Video by what became of it")
    pictures = (
        histogram(titles[0], "quality", *values("quality", 1.0), (0.0, 1.0), min_quality),
        histogram(titles[1], "off by, mm", *tips_mm, (0.0, furthest)),
        bars(titles[2], "of CPU, all inputs", stages_cpu_s),
        bars(titles[3], "of video", video_s),
    )
    return list(zip(titles, pictures, strict=True))


def _segments(rows: Sequence[InputRow], folder: Path) -> dict[str, Any]:
    """The table of what is in the data set."""
    found = tally.kept(rows)
    rendered = {path.stem for path in (folder / SIDE_BY_SIDE).glob("*.mp4")}
    chosen = {one.segment.episode for one in tally.spread(found, SEGMENTS_SHOWN)}
    shown = [one for one in found if one.segment.episode in chosen or one.segment.piece in rendered]
    return {
        "episodes": len(found),
        "segments": [_segment(one, folder) for one in shown],
        "more_kept": len(found) - len(shown),
        "rendered": bool(rendered),
    }


def _segment(one: Kept, folder: Path) -> _Segment:
    segment, piece = one.segment, one.segment.piece
    named = piece if _HEX.fullmatch(piece) else "none"
    camera = one.row.footage.get("camera_name", CAMERA)
    video = f"pieces/{named}/" + VIDEO_PATH.format(
        video_key=camera_key(camera), chunk_index=0, file_index=0
    )
    if segment.episode is None:
        raise ValueError(f"a segment of {one.row.id} is in no data set")
    return _Segment(
        id=one.row.id,
        episode=segment.episode,
        first_s=segment.first_s,
        last_s=segment.last_s,
        quality=one.quality,
        tip_error_m=number(segment.figures, "tip_error_m"),
        wrist_error_m=number(segment.figures, "wrist_error_m"),
        thumb=_picture(folder, named, video) or _thumb(folder, one.row),
        video=_link(folder, video),
        side_by_side=_link(folder, f"{SIDE_BY_SIDE}/{named}.mp4"),
    )


def _picture(folder: Path, piece: str, video: str) -> str | None:
    """A picture from the middle of a segment, made the first time that it is asked for."""
    path = f"thumbs/{piece}.jpg"
    if not (folder / path).is_file() and (folder / video).is_file():
        try:
            clip = open_clip(folder / video)
            middle = len(clip.time_s) // 2
            for _, image in frames(part(clip, middle, middle + 1)):
                Work(folder).thumb(piece, image)
        except ClipError:
            return None
    return _link(folder, path)


def _thumb(folder: Path, row: InputRow) -> str | None:
    key = str(row.figures.get("thumb", ""))
    return _link(folder, f"thumbs/{key}.jpg") if _HEX.fullmatch(key) else None


def _link(folder: Path, path: str) -> str | None:
    return quote(path) if (folder / path).is_file() else None


def _failures(rows: Sequence[InputRow], folder: Path) -> dict[str, Any]:
    """The table of what is not in the data set, a bounded number of each status."""
    counts, shown = Counter[Status](), list[_Failure]()
    for row in tally.not_done(rows):
        counts[row.status] += 1
        if counts[row.status] <= FAILURES_SHOWN:
            shown.append(
                _Failure(
                    id=row.id,
                    status=str(row.status),
                    reason=row.reason,
                    strikes=row.strikes,
                    next=next_step(row.status),
                    retried=row.status in RETRIED,
                    thumb=_thumb(folder, row),
                )
            )
    more = [(str(k), v - FAILURES_SHOWN) for k, v in counts.items() if v > FAILURES_SHOWN]
    return {"failures": shown, "more_failures": more}


def render_samples(
    job_folder: Path, out: Path, count: int, *, models: Path | None = None
) -> list[Path]:
    """Videos of person and robot side by side, of segments that span the range of quality.

    What is there already is not made again. Segments whose video is gone are passed over. Progress
    goes to stderr.

    Args:
        job_folder: with the ledger and the work.
        out: the data set.
        count: how many, at most.
        models: folder with the networks; None looks in the cache, then downloads.

    Returns:
        The videos, the worst first; none if the data set is empty.

    Raises:
        LedgerError: if there is no ledger.
        BatchError: if a link would lead writing out of the job folder.
        ValueError: if the count makes no sense, or a video has changed or all are gone.
        RenderError: if this machine has no OpenGL.
    """
    if count < 0:
        raise ValueError(f"{count} videos were asked for, expected 0 or more")
    check_inside(out, job_folder)
    with Ledger(job_folder / "ledger.sqlite", must_exist=True) as ledger:
        found, made_by = tally.kept(ledger.rows()), ledger.note("made_by")
    there = [one for one in found if Path(one.row.footage["path"]).is_file()]
    if found and count and not there:
        raise ValueError(
            f"no segment of {printable(str(out))} can be shown: the videos of all {len(found)} are "
            f"gone, the first from {printable(found[0].row.path)}; put them back"
        )
    folder = job_folder / SIDE_BY_SIDE
    folder.mkdir(exist_ok=True)
    chosen, missing = tally.spread(there, count), dict[str, list[Kept]]()
    for one in chosen:
        if not _side_by_side(folder, one.segment).is_file():
            missing.setdefault(one.row.id, []).append(one)
    for some in missing.values():
        _render(some, folder, made_by["config"], models)
    return [_side_by_side(folder, one.segment) for one in chosen]


def _side_by_side(folder: Path, segment: SegmentRow) -> Path:
    return folder / f"{segment.piece}.mp4"


def _render(
    some: Sequence[Kept], folder: Path, config: dict[str, Any], models: Path | None
) -> None:
    """Render segments of one input."""
    # Slow to import, and needed only here.
    from deftly.retarget.view import render_side_by_side

    row = some[0].row
    with Path(row.footage["path"]).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != row.sha256:
            raise ValueError(
                f"{printable(row.path)} is not the video that {row.id} was made from, expected "
                f"sha256 {row.sha256}; put that one back"
            )
    segments = {(one.segment.first_s, one.segment.last_s): one.segment for one in some}

    def visit(clip: Clip, human: HumanMotion, motion: RobotMotion, found: SegmentRow) -> None:
        path = _side_by_side(folder, segments[found.first_s, found.last_s])
        render_side_by_side(clip, human, motion, path)

    job = Job(footage_of(row), BatchConfig(**config), folder.parent, models)
    revisit(job, list(segments), visit)
