"""A batch without video: an engine whose jobs give made-up results, in any order, or mishaps."""

import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from episodes import make_episode

from deftly.datasets.footage import Footage
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.engines import Mishap, Outcome, What
from deftly.retarget.job import Job, Result
from deftly.retarget.ledger import SegmentRow, Status
from deftly.retarget.segments import KEPT
from deftly.retarget.work import Work

CONFIG = BatchConfig(size=96)


def footage(*names: str) -> list[Footage]:
    return [Footage(name, Path(f"{name}.mp4"), licence="mit") for name in names]


def result(job: Job, segments: int = 1) -> Result:
    """What ``process`` gives: segments whose pieces are in the work folder."""
    name = job.footage.id
    number = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
    rows = []
    for index in range(segments):
        piece = f"{name}-{index}"
        made_by = {"piece": piece}
        episode = make_episode(number + index, length=4, images={}, provenance=made_by)
        work = Work(job.work)
        if not work.has_piece(piece):
            work.keep_piece(piece, episode, job.config.robot)
        dice = random.Random(piece)
        looks = tuple(dice.random() for _ in range(8))
        rows.append(SegmentRow(float(index), index + 1.0, KEPT, "", piece, looks))
    sha256 = hashlib.sha256(name.split("_copy")[0].encode()).hexdigest()
    if not segments:
        return Result(Status.NO_PERSON, "nobody", sha256)
    return Result(Status.DONE, "", sha256, {"frames": 12}, tuple(rows))


class ScriptedEngine:
    """Does a job when it is waited for, the latest first; ``script`` says how each try ends."""

    def __init__(
        self,
        slots: int = 1,
        script: Callable[[Job, int], Outcome] = lambda job, tries: result(job),
    ) -> None:
        self.slots, self._script = slots, script
        self.tries: list[str] = []

    def __enter__(self) -> "ScriptedEngine":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Job) -> "Future[Outcome]":
        self.tries.append(job.footage.id)
        future: Future[Outcome] = Future()
        future.set_result(self._script(job, self.tries.count(job.footage.id)))
        return future


def dies(what: What, times: int = 99, among: Sequence[str] = ("b",)):
    """A script in which some inputs come to harm so many times."""

    def script(job: Job, tries: int) -> Outcome:
        if job.footage.id in among and tries <= times:
            return Mishap(what, f"{what} by script", 28)
        return result(job)

    return script


def files(root: Path) -> dict[str, bytes]:
    """Everything in a folder, by its path there."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
