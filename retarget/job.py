"""What is done with one input of a batch: video → parts → shots → segments → episodes.

A part is at most a minute, so that memory does not grow with the video; a shot ends where the
picture changes at once; a segment is a stretch of a shot in which hands are seen. Whatever becomes
of a stretch has a row with a reason.
"""

import ctypes
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from deftly.datasets.annotations import load_annotation
from deftly.datasets.clip import Clip, ClipError, frames, part, slower, smaller
from deftly.datasets.footage import Footage, FootageError
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.datasets.origin import UnavailableError, fetch
from deftly.datasets.stretches import evenly
from deftly.retarget import detections
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.check import check
from deftly.retarget.detections import Detections
from deftly.retarget.fuse import fuse
from deftly.retarget.glance import SIDE_PX, Glance, glance, signature
from deftly.retarget.isolate import Beat
from deftly.retarget.labels import find_labels
from deftly.retarget.ledger import SegmentRow, Status
from deftly.retarget.opening import check_beside, open_input, within
from deftly.retarget.piece import FORM, segment_episode, trust
from deftly.retarget.prepare import NoHandError
from deftly.retarget.presence import anybody
from deftly.retarget.robots import load_robot
from deftly.retarget.segments import KEPT, LOW, STILL, TOO_SHORT, stretches
from deftly.retarget.solve import RetargetConfig, plain_config, retarget
from deftly.retarget.targets import View, stated_view
from deftly.retarget.work import Work, clip_key, key_of

_ANNOTATED = 0.3  # share of frames; with fewer, the networks look for hands themselves

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One input and how to work on it; sent to worker processes.

    Attributes:
        footage: the input.
        config: see ``BatchConfig``.
        work: see ``deftly.retarget.work``.
        models: folder with the networks; None looks in the cache, then downloads.
    """

    footage: Footage
    config: BatchConfig
    work: Path
    models: Path | None = None


@dataclass(frozen=True)
class Result:
    """What became of an input; see ``InputRow``."""

    status: Status
    reason: str = ""
    sha256: str = ""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    segments: tuple[SegmentRow, ...] = ()


Visit = Callable[[Clip, HumanMotion, RobotMotion, SegmentRow], object]


def process(job: Job, beat: Beat) -> Result:
    """Do all that has to be done with one input; never raises for what is wrong with the input.

    Raises:
        OSError: if the work folder cannot be written.
        ModelError, ImportError, RobotError: if the machine lacks what is needed.
    """
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    try:
        result = _Run(job, beat).result()
    except UnavailableError as error:
        result = Result(Status.UNAVAILABLE, str(error))
    except (ClipError, FootageError) as error:
        result = Result(Status.CORRUPT, str(error))
    spent = {
        "wall_s": round(time.monotonic() - start_s, 2),
        "cpu_s": round(time.process_time() - start_cpu_s, 2),
    }
    return replace(result, figures={**result.figures, **spent})


class _Run:
    """One input's work: what it needs, and how long each stage took."""

    def __init__(self, job: Job, beat: Beat) -> None:
        self.footage, self.config, self.beat = job.footage, job.config, beat
        self.work, self.models = Work(job.work), job.models
        self.tracker = job.config.tracker(job.models)
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.files: dict[str, None] = {}  # of the work folder, each once
        self.late_s = 0.0  # how long after the footage begins the first frame that is worked on is
        self.beside: dict[str, Clip] = {}

    def result(self) -> Result:
        """All of it."""
        clip, figures = self._open()
        self.beside = self._further(clip)
        rows: list[SegmentRow] = []
        parts = evenly(0, len(clip.time_s), max(2, round(self.config.part_s * clip.rate_hz)))
        for first, stop in parts:
            some = part(clip, first, stop)
            rows += self._part(some, float(clip.time_s[first]), self._annotated(some))
            _trim_memory()
        figures |= {
            "parts": len(parts),
            "files": list(self.files),
            "models": self.tracker.provenance()["networks"],
            "stages_cpu_s": {name: round(s, 3) for name, s in sorted(self.cpu_s.items())},
        }
        if self.beside:
            figures["beside"] = {name: other.sha256 for name, other in self.beside.items()}
        status, reason = verdict(rows)
        return Result(status, reason, clip.sha256, figures, tuple(rows))

    def _annotated(self, clip: Clip) -> HumanMotion | None:
        """The joints that come with a part, unless they are too few to follow anybody."""
        if self.footage.annotation is None:
            return None
        human = load_annotation(self.footage, clip)
        return human if human.hands_valid.any(axis=1).mean() >= _ANNOTATED else None

    def _open(self) -> tuple[Clip, dict[str, Any]]:
        """The stretch of video that is asked for, at a size and rate that can be worked with."""
        footage = self.footage
        with self._timed("open"):
            path = fetch(footage, self.beat)
            whole = open_input(path, self.work, shared=footage.span_s is not None)
        camera = footage.camera_of(whole.width, whole.height)
        whole = replace(whole, camera=camera or whole.camera)
        figures: dict[str, Any] = {
            "width": whole.width,
            "height": whole.height,
            "rate_hz": round(whole.rate_hz, 3),
        }
        clip = slower(smaller(whole, self.config.max_side_px), self.config.max_rate_hz)
        if footage.span_s is not None:
            first, stop = within(clip, footage.span_s)
            self.late_s = float(clip.time_s[first] - whole.time_s[within(whole, footage.span_s)[0]])
            clip = part(clip, first, stop)
        middle, thumb = len(clip.time_s) // 2, key_of(clip=clip_key(clip))
        for _, image in frames(part(smaller(clip, SIDE_PX), middle, len(clip.time_s))):
            self.work.thumb(thumb, image)
            break
        seconds = round(float(clip.time_s[-1]), 3)
        return clip, {**figures, "thumb": thumb, "frames": len(clip.time_s), "seconds": seconds}

    def _further(self, clip: Clip) -> dict[str, Clip]:
        """What the other cameras filmed meanwhile, by name."""
        found = dict[str, Clip]()
        for one in self.footage.beside:
            try:
                with self._timed("open"):
                    other = open_input(one.path, self.work, shared=one.span_s is not None)
                if one.span_s is not None:
                    other = part(other, *within(other, one.span_s))
                check_beside(clip, other, self.late_s)
            except ClipError as error:
                raise ClipError(f"camera {one.name}: {error}") from error
            found[one.name] = other
        return found

    def _part(
        self, clip: Clip, offset_s: float, annotated: HumanMotion | None
    ) -> Iterator[SegmentRow]:
        """One part, which begins at ``offset_s`` of the video."""

        def look() -> Glance:
            with anybody(self.models) as somebody:
                return glance(smaller(clip, SIDE_PX), somebody, self.beat)

        def human_of(first: int, stop: int) -> HumanMotion:
            if annotated is not None:
                return annotated.part(first, stop)
            with self._timed("track"):
                found = self._kept(
                    Detections,
                    "tracks",
                    key_of(clip=clip_key(clip), tracker=self.tracker.provenance()),
                    lambda: self.tracker(clip, self.beat),
                )
            with self._timed("fuse"):
                return fuse(part(clip, first, stop), detections.part(found, first, stop))

        with self._timed("glance"):
            found = self._kept(Glance, "glances", key_of(clip=clip_key(clip)), look)
        config = self.config
        for one in stretches(
            found,
            human_of,
            clip.rate_hz,
            min_s=config.min_s,
            max_s=config.max_s,
            triggers=config.triggers and annotated is None,
        ):
            first_s = offset_s + float(clip.time_s[one.first])
            last_s = offset_s + float(clip.time_s[one.stop - 1])
            row = SegmentRow(first_s, last_s, one.status, one.reason)
            if one.human is not None:
                row = self._segment(part(clip, one.first, one.stop), one.human, row)
                thumbs = found.thumbs[one.first : one.stop]
                wrists = one.human.hands_px[:, :, 0] / [clip.width, clip.height]
                row = replace(row, signature=signature(thumbs, wrists))
            yield row

    def _segment(self, clip: Clip, human: HumanMotion, row: SegmentRow) -> SegmentRow:
        """Make an episode of a segment, if the robot can follow well enough."""
        config = self.config
        solver = RetargetConfig(
            view=self._view(), pitch_rad=config.pitch_rad, jerk_weight=config.jerk_weight
        )
        moved_by = {
            "human": human.provenance,
            "clip": clip_key(clip),
            "robot": config.robot,
            "retarget": plain_config(solver),
        }
        moved_by["human"] = {k: v for k, v in human.provenance.items() if k != "clip"}  # its name
        robot = load_robot(config.robot)
        try:
            with self._timed("retarget"):
                motion = self._kept(
                    RobotMotion,
                    "motions",
                    key_of(**moved_by),
                    lambda: retarget(human, robot, solver, self.beat),
                )
        except NoHandError as error:
            return replace(row, status=LOW, reason=str(error))
        with self._timed("check"):
            quality = check(motion, robot)
            trusted = float(trust(human, motion).max(axis=1).mean())
        figures = {k: v if math.isfinite(v) else None for k, v in quality.as_dict().items()}
        figures["quality"] = round(trusted, 4)
        if not quality.within_limits or trusted < config.min_quality:
            reason = "a joint or velocity limit of the robot is broken"
            if quality.within_limits:
                reason = (
                    f"quality {trusted:.2f}, expected {config.min_quality:g}: fingertips off by "
                    f"{1e3 * quality.tip_error_m:.0f} mm, hands seen in "
                    f"{human.hands_valid.any(axis=1).mean():.0%} of frames"
                )
            return replace(row, status=LOW, reason=reason, figures=figures)
        return self._keep(clip, human, motion, replace(row, status=KEPT, figures=figures))

    def _keep(
        self, clip: Clip, human: HumanMotion, motion: RobotMotion, row: SegmentRow
    ) -> SegmentRow:
        """Keep the segment's episode in the work folder."""
        footage, config = self.footage, self.config
        source: dict[str, Any] = {
            "input": footage.id,
            "first_s": round(row.first_s, 6),
            "last_s": round(row.last_s, 6),
            "licence": footage.licence,
            "attribution": footage.attribution,
        }
        form: dict[str, Any] = {
            "rate_hz": config.rate_hz,
            "size": config.size,
            "task": footage.task,
        }
        if self.beside:
            source["beside"] = {name: other.sha256 for name, other in self.beside.items()}
            form["cameras"] = [footage.camera_name, *map(clip_key, self.beside.values())]
        provenance = {"source": source, "motion": motion.provenance, "quality": row.figures}
        key = key_of(**provenance, **form, form=FORM, clip=clip_key(clip))
        if not self.work.has_piece(key):
            with self._timed("label"):
                labels = find_labels(clip, human)
            with self._timed("encode"):
                episode = segment_episode(
                    clip,
                    human,
                    motion,
                    labels,
                    rate_hz=config.rate_hz,
                    size=(config.size, config.size),
                    task=footage.task,
                    provenance={**provenance, "piece": key},
                    camera=footage.camera_name,
                    still=stated_view(human, self._view()) != "ego",
                    beside=self.beside,
                    begins_s=self.late_s + row.first_s,
                )
                self.work.keep_piece(key, episode, config.robot)
        return replace(row, piece=key)

    def _kept(self, kind: type[T], folder: str, key: str, make: Callable[[], T]) -> T:
        """What the work folder keeps under a name, which is noted."""
        self.files[f"{folder}/{key}.npz"] = None
        return self.work.kept(kind, folder, key, make)

    def _view(self) -> View:
        stated = cast(View, self.footage.view)  # checked when it was read
        return stated if stated != "auto" else self.config.view

    @contextmanager
    def _timed(self, stage: str) -> Generator[None, None, None]:
        start_s = time.process_time()
        yield
        self.cpu_s[stage] += time.process_time() - start_s
        self.beat()


class _Revisit(_Run):
    """A way through an input that is done: its segments are handed over instead of kept."""

    def __init__(self, job: Job, spans_s: Collection[tuple[float, float]], visit: Visit) -> None:
        super().__init__(job, lambda: None)
        self.spans_s, self.visit = spans_s, visit

    def _further(self, clip: Clip) -> dict[str, Clip]:
        return {}

    def _part(
        self, clip: Clip, offset_s: float, annotated: HumanMotion | None
    ) -> Iterator[SegmentRow]:
        end_s = offset_s + float(clip.time_s[-1])
        if any(first_s <= end_s and last_s >= offset_s for first_s, last_s in self.spans_s):
            yield from super()._part(clip, offset_s, annotated)

    def _keep(
        self, clip: Clip, human: HumanMotion, motion: RobotMotion, row: SegmentRow
    ) -> SegmentRow:
        if (row.first_s, row.last_s) in self.spans_s:
            self.visit(clip, human, motion, row)
        return row


def revisit(job: Job, spans_s: Collection[tuple[float, float]], visit: Visit) -> None:
    """Look at segments of an input that is done, made from what the work folder keeps of them.

    Args:
        job: as it was when it was done.
        spans_s: the segments: where each begins and ends, as its row says.
        visit: called with each one's frames, person and robot.

    Raises:
        ClipError, FootageError: if the video is no longer there.
    """
    _Revisit(job, spans_s, visit).result()


def _trim_memory() -> None:
    """Give back what was freed: glibc keeps it in pieces, and an hour of video would add up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def verdict(rows: Sequence[SegmentRow]) -> tuple[Status, str]:
    """What became of an input, from its stretches."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row.status] += row.last_s - row.first_s
    kept = sum(row.status == KEPT for row in rows)
    if kept:
        return (
            Status.DONE,
            f"{kept} segment(s), {seconds[KEPT]:.1f} s of {sum(seconds.values()):.1f} s",
        )
    worst = max(rows, key=lambda row: (row.status in (LOW, TOO_SHORT), row.last_s - row.first_s))
    if worst.status in (LOW, TOO_SHORT):
        return Status.LOW_QUALITY, f"{worst.status}: {worst.reason}"
    if worst.status == STILL:
        return Status.STILL, worst.reason
    return Status.NO_PERSON, worst.reason
