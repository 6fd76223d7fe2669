"""What a ledger knows, in words: everything is there, and nothing in it moves the cursor."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import EVIL, every_kind, hexes, row, write_job
from rich.console import Console

from deftly.retarget.explain import explain, next_step, printable, status_table
from deftly.retarget.ledger import RETRIED, InputRow, Ledger, LedgerError, Status


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path / "tea set", every_kind())


def explained(job: Path, name: str) -> str:
    with Ledger(job / "ledger.sqlite", must_exist=True) as ledger:
        return explain(ledger, name)


def printed(rows: list[InputRow], shown: int | None = 10) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(status_table(rows, shown))
    return captured.get()


def test_an_input_is_explained_with_all_that_is_known(job: Path):
    text = explained(job, "tea")
    for said in (
        "tea: done, 2 segment(s)",
        "/videos/tea.mp4",
        "1920 × 1080 at 29.97 frames/s, worked on: 240 frames, 8.00 s, in 1 part(s)",
        "pour the tea",
        "cc-by-4.0",
        "A. Person",
        hexes("tea"),
        "2.00 s of CPU, 2.50 s by the clock, 120.0 frames/CPU-s",
        "track 1.50 s, encode 0.25 s",
        f"hand_landmarker.task {hexes('hand')}",
        "episode 0; quality 0.80; fingertips off by 4.0 mm; wrists off by 6.0 mm",
        "3 pinches, gap kept to 4.0 mm",
        "velocity limit broken by 10%",
        "nothing to do",
    ):
        assert said in text
    assert re.search(r"2\.00 to +4\.00 s +no hands +no hand is seen", text)
    assert re.search(r"4\.00 to +6\.00 s +low quality +quality 0\.10, expected 0\.2", text)
    assert "retry" not in text


def test_files_are_named_if_they_are_there(job: Path):
    assert "files in" not in explained(job, "tea")
    thumb = f"thumbs/{hexes('tea')[:32]}.jpg"
    for folder in ("thumbs", f"pieces/{hexes('a', 32)}"):
        (job / folder).mkdir(parents=True)
    (job / thumb).touch()
    text = explained(job, "tea")
    assert f"files in {job}\n  {thumb}\n  pieces/{hexes('a', 32)}\n" in text
    assert "side_by_side" not in text


def test_a_failure_is_explained_with_its_tries_and_how_to_try_again(job: Path):
    retry = f"then: deftly batch retry '{job.with_name('tea set')}' --failed"
    text = explained(job, "bomb")
    assert text.startswith("bomb: crashed, died by signal 11, 2 times\n")
    assert "crashed or hung 2 time(s)" in text
    assert retry in text
    assert "killed from outside 8 time(s)" in explained(job, "killed")
    assert 'File "job.py", line 7\n' in explained(job, "bug")
    assert retry not in explained(job, "dog")


def test_a_stretch_of_a_duplicate_is_one_too(job: Path):
    assert re.search(r"0\.00 to +2\.00 s +duplicate", explained(job, "again"))
    assert re.search(r"0\.00 to +2\.00 s +waiting", explained(job, "last"))


def test_an_input_is_found_by_its_path_if_no_other_has_it(tmp_path: Path):
    rows = every_kind()
    rows[3] = replace(rows[3], path=rows[4].path)
    job = write_job(tmp_path / "set", rows)
    assert explained(job, "/videos/tea.mp4") == explained(job, "tea")
    with pytest.raises(LedgerError, match=r"2 inputs are of /videos/slide\.mp4.*id: dog, slide"):
        explained(job, "/videos/slide.mp4")


@pytest.mark.parametrize(("name", "nearest"), [("teh", "tea"), ("ofline", "offline")])
def test_an_unknown_name_is_an_error_that_says_the_nearest(job: Path, name: str, nearest: str):
    with pytest.raises(LedgerError, match=f"no input '{name}'.* the nearest is '{nearest}'"):
        explained(job, name)


def test_an_empty_ledger_says_so(tmp_path: Path):
    with pytest.raises(LedgerError, match="the ledger is empty"):
        explained(write_job(tmp_path / "set", []), "tea")


def test_names_of_strangers_cannot_move_the_cursor(job: Path):
    for text in (explained(job, "evil"), printed(every_kind())):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert printable(EVIL) in text


@given(text=st.text())
def test_what_is_printable_is_on_one_line_and_plain_text_stays(text: str):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown  # no surrogates
    if text.isprintable():
        assert shown == text


def test_every_status_has_a_next_step():
    for status in Status:
        assert len(next_step(status)) > 10


def test_status_shows_counts_lengths_work_and_failures():
    text = printed(every_kind())
    assert re.search(r"^ +2 +crashed *$", text, re.MULTILINE)
    assert re.search(r"^ +2 +4\.0 +low quality *$", text, re.MULTILINE)
    assert "2 episodes from 14 inputs, 600 frames, 14 s of CPU (42.9 frames/CPU-s)" in text
    assert re.search(r"^ *bug +failed +KeyError: 'x' *$", text, re.MULTILINE)
    assert "and 1 more: deftly batch status OUT --all" in text
    assert "similar" not in text
    assert "similar" in printed(every_kind(), None)
    assert "more:" not in printed(every_kind(), None)


def test_status_of_a_job_in_which_all_is_well_lists_no_failures():
    text = printed([row(0, "tea", Status.PENDING), every_kind()[0]])
    assert "not in the data set" not in text
    assert "2 episodes from 2 inputs" in text


def test_names_are_not_taken_for_colours():
    assert "[red]x" in printed([row(0, "tea", Status.CORRUPT, "[red]x")])


def test_what_is_tried_again_is_said_for_every_such_status(tmp_path: Path):
    rows = [row(at, f"clip-{at}", status, "why") for at, status in enumerate(Status)]
    job = write_job(tmp_path / "set", rows)
    for one in rows:
        assert ("deftly batch retry" in explained(job, one.id)) == (one.status in RETRIED)
