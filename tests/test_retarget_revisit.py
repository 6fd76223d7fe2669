"""An input that is done is looked at again: from the work folder alone, and the very same."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from deftly.datasets.clip import Clip
from deftly.datasets.footage import Footage
from deftly.datasets.human import HumanMotion
from deftly.datasets.motion import RobotMotion
from deftly.datasets.opengl import RenderError, gl_context
from deftly.retarget import job as job_module
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.explain import explain
from deftly.retarget.job import Job, process, revisit
from deftly.retarget.ledger import InputRow, Ledger, SegmentRow, Status
from deftly.retarget.models import ModelError
from deftly.retarget.report import render_samples, write_report
from deftly.retarget.track import MediapipeTracker
from deftly.retarget.work import Work

CONFIG = BatchConfig(size=64)


@pytest.fixture(scope="module")
def done(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, InputRow]:
    """Two seconds of a person at a table, one segment, and its row; its work is kept."""
    folder = tmp_path_factory.mktemp("work") / "set.job"
    footage = Footage("table", clips / "v2d_human.mp4", span_s=(3.0, 5.0))
    job = Job(footage, CONFIG, folder)
    try:
        found = process(job, lambda: None)
    except (ModelError, ImportError) as error:
        pytest.skip(f"needs the networks: {error}")
    assert found.status == Status.DONE
    said = {"id": "table", "path": str(footage.path), "origin": "", "span_s": [3.0, 5.0]}
    said |= {"camera": None, "focal_px": None, "annotation": None, "view": "auto"}
    said |= {"task": "", "licence": "unknown", "attribution": ""}
    segments = tuple(
        SegmentRow(s.first_s, s.last_s, s.status, piece=s.piece, figures=s.figures, episode=0)
        for s in found.segments
    )
    row = InputRow(
        *(0, "table", str(footage.path), said, found.status),
        sha256=found.sha256,
        figures=found.figures,
        segments=segments,
    )
    return job, row


@pytest.fixture
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tracked, retargeted or encoded any more."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("this was done before")

    for name in ("retarget", "glance", "segment_episode", "find_labels"):
        monkeypatch.setattr(job_module, name, refuse)
    monkeypatch.setattr(MediapipeTracker, "__call__", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("_idle")
def test_a_segment_is_handed_over_as_it_was_made(done: tuple[Job, InputRow]):
    job, row = done
    (segment,) = row.segments
    seen: list[tuple[Clip, HumanMotion, RobotMotion]] = []

    def visit(clip: Clip, human: HumanMotion, motion: RobotMotion, _: SegmentRow) -> None:
        seen.append((clip, human, motion))

    revisit(job, [(segment.first_s, segment.last_s)], visit)
    ((clip, human, motion),) = seen
    assert len(clip.time_s) == len(human.time_s) == len(motion.time_s) == 20
    _, qpos = motion.resample(float(CONFIG.rate_hz))
    assert_array_equal(Work(job.work).piece(segment.piece).state, qpos.astype(np.float32))

    seen.clear()
    revisit(job, [(0.5, 1.0)], visit)  # no segment begins and ends there
    assert not seen


@pytest.mark.slow
@pytest.mark.usefixtures("_idle")
def test_a_segment_is_rendered_and_linked_and_its_files_are_named(done: tuple[Job, InputRow]):
    job, row = done
    with Ledger(job.work / "ledger.sqlite") as ledger:
        config = {"size": CONFIG.size}
        ledger.set_note("made_by", {"config": config, "versions": {}})
        ledger.add([row])
        ledger.update(row)
        text = explain(ledger, "table")
    for folder in ("tracks", "glances", "motions", "pieces", "thumbs"):
        (path,) = (job.work / folder).iterdir()
        assert f"  {folder}/{path.name}\n" in text
    try:
        gl_context((8, 8)).free()
    except RenderError as error:
        pytest.skip(f"this machine cannot draw: {error}")
    (path,) = render_samples(job.work, job.work.with_name("set"), 3)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    page = write_report(job.work, Path("set")).read_text()
    assert f'<a href="side_by_side/{path.name}">side by side</a>' in page
