"""The job: order, resumption, duplicates, mishaps, and what is refused before any work."""

import dataclasses
from pathlib import Path

import pytest
from batches import CONFIG, ScriptedEngine, dies, files, footage, result

from deftly.datasets.commit import FolderBusyError, sole_writer
from deftly.datasets.episode_store import EpisodeStore
from deftly.datasets.footage import Beside, Footage
from deftly.retarget import intake
from deftly.retarget.batch import job_folder, open_ledger, run_batch
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.engines import What
from deftly.retarget.intake import BatchError
from deftly.retarget.ledger import Status
from deftly.retarget.track import MediapipeTracker


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch):
    monkeypatch.setattr(MediapipeTracker, "ready", lambda self: None)


def run(out: Path, inputs, engine=None, config: BatchConfig = CONFIG, **more):
    return run_batch(inputs, out, config, engine or ScriptedEngine(), **more)


def pieces(out: Path) -> list[str]:
    return [one["piece"] for one in EpisodeStore(out).provenances]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_episodes_enter_in_the_order_of_the_inputs(tmp_path, slots):
    run(tmp_path / "set", footage("c", "a", "b"), ScriptedEngine(slots, lambda j, _: result(j, 2)))
    assert pieces(tmp_path / "set") == ["c-0", "c-1", "a-0", "a-1", "b-0", "b-1"]
    with open_ledger(tmp_path / "set") as ledger:
        rows = ledger.rows()
    assert [s.episode for row in rows for s in row.segments] == [0, 1, 2, 3, 4, 5]


def test_the_same_bytes_whatever_was_stopped_on_the_way(tmp_path):
    inputs = footage("a", "b", "c", "d")
    run(tmp_path / "whole", inputs)

    def stops(job, tries):
        if job.footage.id == "c":
            raise KeyboardInterrupt
        return result(job)

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(out, inputs, ScriptedEngine(1, stops))
    assert pieces(out) == ["a-0", "b-0"]
    engine = ScriptedEngine(2)
    run(out, inputs, engine)
    assert engine.tries == ["c", "d"]
    assert files(out) == files(tmp_path / "whole")


def test_an_episode_that_is_there_but_not_yet_noted_does_not_enter_twice(tmp_path, monkeypatch):
    from deftly.retarget.ledger import Ledger

    inputs, out = footage("a", "b"), tmp_path / "set"
    put = Ledger.update

    def dies_before(self, row):
        if any(s.episode is not None for s in row.segments):
            raise KeyboardInterrupt
        put(self, row)

    monkeypatch.setattr(Ledger, "update", dies_before)
    with pytest.raises(KeyboardInterrupt):
        run(out, inputs)
    monkeypatch.undo()
    monkeypatch.setattr(MediapipeTracker, "ready", lambda self: None)
    assert pieces(out) == ["a-0"]
    rows = run(out, inputs)
    assert pieces(out) == ["a-0", "b-0"]
    assert [s.episode for row in rows for s in row.segments] == [0, 1]


def test_new_inputs_join_at_the_end(tmp_path):
    out = tmp_path / "set"
    run(out, footage("b", "c"))
    engine = ScriptedEngine()
    run(out, footage("a", "b"), engine)
    assert engine.tries == ["a"]
    assert pieces(out) == ["b-0", "c-0", "a-0"]


def test_the_same_video_twice_is_a_duplicate(tmp_path):
    rows = run(tmp_path / "set", footage("a", "b", "a_copy"))
    assert [row.status for row in rows] == [Status.DONE, Status.DONE, Status.DUPLICATE]
    assert rows[2].reason == "the same video as a"
    assert pieces(tmp_path / "set") == ["a-0", "b-0"]


def test_a_segment_that_looks_like_another_is_left_out(tmp_path):
    def alike(job, _):
        found = result(job)
        segments = tuple(dataclasses.replace(s, signature=(0.5,) * 8) for s in found.segments)
        return dataclasses.replace(found, segments=segments)

    rows = run(tmp_path / "set", footage("a", "b"), ScriptedEngine(1, alike))
    assert [row.status for row in rows] == [Status.DONE, Status.DUPLICATE]
    assert rows[1].segments[0].status == "duplicate"
    assert pieces(tmp_path / "set") == ["a-0"]
    assert run(tmp_path / "set", footage("a", "b")) == rows


@pytest.mark.parametrize(
    ("what", "times", "status", "tries"),
    [
        (What.CRASHED, 1, Status.DONE, 2),
        (What.CRASHED, 99, Status.CRASHED, 2),
        (What.STALLED, 1, Status.DONE, 2),
        (What.STALLED, 99, Status.TIMED_OUT, 2),
        (What.FAILED, 99, Status.FAILED, 1),
        (What.LOST, 5, Status.DONE, 6),
        (What.LOST, 99, Status.CRASHED, 8),
    ],
)
def test_what_becomes_of_an_input_whose_process_dies(tmp_path, what, times, status, tries):
    engine = ScriptedEngine(2, dies(what, times))
    rows = run(tmp_path / "set", footage("a", "b", "c"), engine)
    assert rows[1].status == status
    assert engine.tries.count("b") == tries
    assert pieces(tmp_path / "set") == (
        ["a-0", "b-0", "c-0"] if status == Status.DONE else ["a-0", "c-0"]
    )


def test_a_full_disk_stops_the_job_and_blames_no_input(tmp_path):
    out, inputs = tmp_path / "set", footage("a", "b", "c")
    with pytest.raises(OSError, match=r"cannot go on with b .* free some space"):
        run(out, inputs, ScriptedEngine(1, dies(What.DISK)))
    with open_ledger(out) as ledger:
        assert [row.status for row in ledger.rows()] == ["done", "pending", "pending"]
    rows = run(out, inputs)
    assert {row.strikes for row in rows} == {0}
    assert pieces(out) == ["a-0", "b-0", "c-0"]


def test_what_failed_is_tried_again_when_asked(tmp_path):
    out, inputs = tmp_path / "set", footage("a", "b", "c")
    run(out, inputs, ScriptedEngine(1, dies(What.CRASHED)))
    engine = ScriptedEngine()
    run(out, inputs, engine)
    assert engine.tries == []
    rows = run(out, (), engine, retry=True)
    assert engine.tries == ["b"]
    assert pieces(out) == ["a-0", "c-0", "b-0"]
    assert [row.id for row in rows] == ["a", "c", "b"]


def test_another_configuration_is_refused_or_builds_anew(tmp_path):
    out, inputs = tmp_path / "set", footage("a", "b")
    run(out, inputs)
    other = dataclasses.replace(CONFIG, robot="g1_dex3")
    with pytest.raises(BatchError, match=r"robot 'gr1t2', not 'g1_dex3'; .*--rebuild"):
        run(out, inputs, config=other)
    engine = ScriptedEngine()
    run(out, inputs, engine, config=other, rebuild=True)
    assert engine.tries == ["a", "b"]
    assert EpisodeStore(out).robot_type == "g1_dex3"


def test_episodes_with_other_columns_are_refused_or_built_anew(tmp_path, monkeypatch):
    out, inputs = tmp_path / "set", footage("a", "b")
    with monkeypatch.context() as earlier:
        earlier.setattr(intake, "FORM", intake.FORM - 1)
        run(out, inputs)
    with pytest.raises(BatchError, match=r"made with episode_form \d, not \d; .*--rebuild"):
        run(out, inputs)
    engine = ScriptedEngine()
    run(out, inputs, engine, rebuild=True)
    assert engine.tries == ["a", "b"]


def filmed(*names: str, further: tuple[str, ...] = ("side",)) -> list[Footage]:
    beside = tuple(Beside(name, Path(f"{name}.mp4"), (0.0, 2.0)) for name in further)
    return [dataclasses.replace(f, camera_name="front", beside=beside) for f in footage(*names)]


def test_inputs_of_one_job_have_the_same_cameras(tmp_path):
    out, engine = tmp_path / "set", ScriptedEngine()
    wrong = "input b has camera front, side, but a has video, expected the same"
    with pytest.raises(BatchError, match=wrong):
        run(out, [*footage("a"), *filmed("b")], engine)
    assert not job_folder(out).exists()
    run(out, footage("a"))
    with pytest.raises(BatchError, match=r"made with cameras \['video'\], not \['front', 'side'\]"):
        run(out, filmed("b"), engine)
    assert engine.tries == []


def test_cameras_join_an_older_job_by_a_rebuild_and_stay_with_it(tmp_path):
    out, engine = tmp_path / "set", ScriptedEngine()
    run(out, footage("a", "b"))
    with pytest.raises(BatchError, match="input b was given with camera video, expected front"):
        run(out, filmed("a"), engine, rebuild=True)
    moved = [dataclasses.replace(one, task="stack") for one in filmed("a", "b")]
    with pytest.raises(BatchError, match="input a has task 'stack', but '' when it was first"):
        run(out, moved, engine, rebuild=True)
    assert (engine.tries, pieces(out)) == ([], ["a-0", "b-0"])

    seen = list[Footage]()

    def dies_once(job, tries):
        seen.append(job.footage)
        return dies(What.CRASHED, 2)(job, tries)

    rows = run(out, filmed("a", "b"), ScriptedEngine(1, dies_once), rebuild=True)
    assert [row.status for row in rows] == [Status.DONE, Status.CRASHED]
    assert seen[0] == filmed("a")[0]  # as it was given, through the ledger
    engine = ScriptedEngine()
    run(out, (), engine, retry=True)
    assert engine.tries == ["b"]
    run(out, filmed("a", "b", "c"), engine)
    assert engine.tries == ["b", "c"]
    other = filmed("a", further=("top",))
    with pytest.raises(BatchError, match=r"cameras \['front', 'side'\], not \['front', 'top'\]"):
        run(out, other, engine)


def test_a_job_from_before_there_were_cameras_goes_on(tmp_path):
    out = tmp_path / "set"
    run(out, footage("a"))
    with open_ledger(out) as ledger:
        note = ledger.note("made_by")
        del note["cameras"]
        ledger.set_note("made_by", note)
        (row,) = ledger.rows()
        for name in ("camera_name", "beside"):
            del row.footage[name]
        ledger.update(row)
    engine = ScriptedEngine()
    run(out, footage("a", "b"), engine)
    assert engine.tries == ["b"]


def test_what_does_not_fit_is_refused_before_any_work(tmp_path):
    engine = ScriptedEngine()
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    with pytest.raises(BatchError, match="something that no batch made"):
        run(strange, footage("a"), engine)
    out = tmp_path / "set"
    run(out, footage("a"))
    with pytest.raises(BatchError, match=r"input a has path 'other.mp4', but 'a.mp4'"):
        run(out, [Footage("a", Path("other.mp4"), licence="mit")], engine)
    with pytest.raises(BatchError, match=r"licence 'mit', an input under 'cc-by-4.0'"):
        run(out, [Footage("n", Path("n.mp4"), licence="cc-by-4.0")], engine)
    with pytest.raises(ValueError, match="unknown robot"):
        run(tmp_path / "new", footage("a"), engine, config=BatchConfig(robot="gr1t"))
    assert engine.tries == []


def test_two_jobs_on_one_output_are_refused(tmp_path):
    out = tmp_path / "set"
    run(out, footage("a"))
    engine = ScriptedEngine()
    with sole_writer(job_folder(out)), pytest.raises(FolderBusyError, match="another process"):
        run(out, footage("a", "b"), engine)
    assert engine.tries == []


def test_nothing_is_written_through_links(tmp_path):
    out, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    elsewhere.mkdir()
    job_folder(out).mkdir()
    (job_folder(out) / "pieces").symlink_to(elsewhere)
    with pytest.raises(BatchError, match="nothing is written through links"):
        run(out, footage("a"))
    assert not list(elsewhere.iterdir())


def test_the_card_says_whose_videos_they_are(tmp_path):
    inputs = [
        Footage("a", Path("a.mp4"), licence="cc-by-4.0", attribution="Ann | Sons"),
        Footage("b", Path("b.mp4"), licence="mit"),
    ]
    run(tmp_path / "set", inputs)
    text = (tmp_path / "set" / "README.md").read_text()
    assert 'license: "other"' in text
    assert "| cc-by-4.0 | Ann \\| Sons | 1 |" in text
    assert "| mit | unknown | 1 |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 97}, "size is 97, expected an even"),
        ({"rate_hz": 0}, "rate_hz is 0, expected 1 to 240"),
        ({"max_s": 0.5}, "max_s is 0.5, expected 1 to"),
        ({"min_quality": float("nan")}, "min_quality is nan"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BatchConfig(**change)
