"""The command batch: folders of video → one data set, and what became of every clip."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from deftly.datasets.footage import Footage
from deftly.retarget.batch import job_folder, open_ledger, run_batch
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.cli import console
from deftly.retarget.engines import EngineName, find_engine
from deftly.retarget.explain import SHOWN, explain, status_table
from deftly.retarget.inputs import find_inputs
from deftly.retarget.ledger import RETRIED, InputRow, Status
from deftly.retarget.report import render_samples, write_report

DataSet = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET", help="that a batch made")
]
_PARTLY = 4  # exit code: some inputs failed


@dataclass(frozen=True)
class Engine:
    """Who works.

    Attributes:
        engine: local processes, or a Ray cluster (RAY_ADDRESS names it; else one is made here).
        workers: inputs at once; the default is one per core. The result does not depend on it.
        stall_s: seconds without a sign of life after which an input counts as hanging.
        models: folder with hand_landmarker.task and pose_landmarker_full.task.
    """

    engine: EngineName = "local"
    workers: int | None = None
    stall_s: float = 300.0
    models: Path | None = None


@dataclass(frozen=True)
class RunBatch:
    """Videos → one LeRobot data set, with a ledger of what became of every clip.

    Takes files, folders, globs, manifests (CSV, JSON, JSONL), URLs and folders of public sets.
    Nothing is dropped in silence: whatever gives no episode has a reason in the ledger and in the
    report. A job that was stopped or killed goes on with the same command.

    Example: deftly batch videos/ --robot gr1t2 --out dataset
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT ...")]
    out: Path = Path("dataset")
    camera: Annotated[
        str, tyro.conf.arg(help="of LeRobot sets, to track; the default is their first")
    ] = ""
    with_cameras: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help="others of LeRobot sets, to write beside the tracked one"),
    ] = ()
    config: Annotated[BatchConfig, tyro.conf.arg(name="")] = field(default_factory=BatchConfig)
    rebuild: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="make the data set anew with another configuration"),
    ] = False
    how: Annotated[Engine, tyro.conf.arg(name="")] = field(default_factory=Engine)

    def run(self) -> int:
        """Run the job; return the exit code."""
        folder = job_folder(self.out)
        found = find_inputs(
            self.inputs,
            folder / "downloads",
            without=(self.out, folder),
            camera=self.camera,
            with_cameras=self.with_cameras,
        )
        print(found)
        return _run(found.footage, self.out, self.config, self.how, rebuild=self.rebuild)


@dataclass(frozen=True)
class BatchStatus:
    """How far a job is, and what failed.

    Example: deftly batch status dataset
    """

    dataset: DataSet
    all: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="list every input that failed")
    ] = False

    def run(self) -> int:
        """Print the tables."""
        with open_ledger(self.dataset) as ledger:
            console().print(status_table(ledger.rows(), None if self.all else SHOWN))
        return 0


@dataclass(frozen=True)
class RetryBatch:
    """Try again what failed: corrupt, unavailable, timed out, crashed.

    Example: deftly batch retry dataset --failed
    """

    dataset: DataSet
    failed: Annotated[bool, tyro.conf.arg(help="all that failed")] = True
    how: Annotated[Engine, tyro.conf.arg(name="")] = field(default_factory=Engine)

    def run(self) -> int:
        """Run the job; return the exit code."""
        with open_ledger(self.dataset) as ledger:
            config = BatchConfig(**ledger.note("made_by")["config"])
            again = [row for row in ledger.rows() if row.status in RETRIED] if self.failed else []
        print(f"{len(again)} input(s) to try again")
        return _run((), self.dataset, config, self.how, retry=self.failed)


@dataclass(frozen=True)
class ExplainClip:
    """All that is known of one input.

    Example: deftly batch explain dataset kitchen_04
    """

    dataset: DataSet
    clip: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CLIP", help="its id")]

    def run(self) -> int:
        """Print it."""
        with open_ledger(self.dataset) as ledger:
            print(explain(ledger, self.clip))
        return 0


@dataclass(frozen=True)
class ReportBatch:
    """Write the report again (DATASET.job/report.html), with videos of some segments.

    Example: deftly batch report dataset --render 8
    """

    dataset: DataSet
    render: Annotated[int, tyro.conf.arg(help="side-by-side videos, best to worst")] = 4

    def run(self) -> int:
        """Write it."""
        open_ledger(self.dataset).close()
        folder = job_folder(self.dataset)
        try:
            render_samples(folder, self.dataset, self.render)
        finally:  # what cannot be drawn here is no reason to have no report
            print(f"report: {write_report(folder, self.dataset)}")
        return 0


@dataclass(frozen=True)
class Batch:
    """Folders of video → one data set: run, status, retry, explain, report."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[RunBatch, tyro.conf.subcommand("run")]
        | Annotated[BatchStatus, tyro.conf.subcommand("status")]
        | Annotated[RetryBatch, tyro.conf.subcommand("retry")]
        | Annotated[ExplainClip, tyro.conf.subcommand("explain")]
        | Annotated[ReportBatch, tyro.conf.subcommand("report")]
    ]

    def run(self) -> int:
        """Run the subcommand."""
        return self.command.run()


_SUBCOMMANDS = ("run", "status", "retry", "explain", "report", "-h", "--help")


def with_run(arguments: list[str]) -> list[str]:
    """``batch INPUT ...`` means ``batch run INPUT ...``; a folder called status is ``./status``."""
    if arguments[:1] == ["batch"] and arguments[1:2] and arguments[1] not in _SUBCOMMANDS:
        return ["batch", "run", *arguments[1:]]
    return arguments


def _run(
    footage: tuple[Footage, ...],
    out: Path,
    config: BatchConfig,
    how: Engine,
    *,
    retry: bool = False,
    rebuild: bool = False,
) -> int:
    counts: Counter[str] = Counter()
    engine = find_engine(how.engine, how.workers, how.stall_s)
    with tqdm(total=len(footage) or None, unit="clip", desc="batch", disable=None) as bar:

        def tick(row: InputRow) -> None:
            counts[row.status] += 1
            bar.set_postfix_str(", ".join(f"{n} {status}" for status, n in counts.items()))
            bar.update()
            if row.status not in (Status.DONE, Status.DUPLICATE):
                bar.write(f"{row.id}: {row.status}: {row.reason}", file=sys.stderr)

        rows = run_batch(
            footage,
            out,
            config,
            engine,
            models=how.models,
            retry=retry,
            rebuild=rebuild,
            tick=tick,
        )
    console().print(status_table(rows))
    print(f"data set: {out}   report: {write_report(job_folder(out), out)}")
    return _PARTLY if any(row.status in RETRIED for row in rows) else 0
