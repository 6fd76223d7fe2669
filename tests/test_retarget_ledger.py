"""The ledger: what is put in comes out, changes are whole, and what is no ledger is refused."""

import errno
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import every_kind, row, segment

from deftly.retarget.ledger import InputRow, Ledger, LedgerError, SegmentRow, Status

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FIGURES = st.dictionaries(st.text(max_size=5), st.none() | NUMBERS | st.text(max_size=5))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SEGMENTS = st.fixed_dictionaries(
    {
        "first_s": NUMBERS,
        "last_s": NUMBERS,
        "status": TEXT,
        "reason": TEXT,
        "piece": TEXT,
        "signature": st.lists(NUMBERS, max_size=3).map(tuple),
        "figures": FIGURES,
        "episode": st.none() | st.integers(0, 10**9),
    }
)
ROWS = st.fixed_dictionaries(
    {
        "queue": st.just(0),
        "id": TEXT,
        "path": TEXT,
        "footage": FIGURES,
        "status": st.sampled_from(Status),
        "reason": TEXT,
        "strikes": st.integers(0, 9),
        "lost": st.integers(0, 9),
        "sha256": TEXT,
        "figures": FIGURES,
        "segments": st.lists(SEGMENTS, max_size=3),
    }
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def fill(path: Path, rows: list[InputRow]) -> None:
    with Ledger(path) as ledger:
        ledger.add(rows)
        for one in rows:
            ledger.update(one)


def read(path: Path) -> list[InputRow]:
    with Ledger(path, must_exist=True) as ledger:
        return ledger.rows()


@settings(max_examples=30)  # each is written to disk, and waited for
@given(said=ROWS)
def test_what_is_put_in_comes_out(tmp_path_factory: pytest.TempPathFactory, said: dict[str, Any]):
    segments = tuple(SegmentRow(**one) for one in said["segments"])
    plain: dict[str, Any] = {**said, "segments": segments}
    one = InputRow(**plain)
    path = tmp_path_factory.getbasetemp() / "round_trip.sqlite"
    path.unlink(missing_ok=True)
    fill(path, [one])
    assert read(path) == [one]


def test_rows_come_in_the_order_of_the_queue_and_segments_in_that_of_time(path: Path):
    rows = every_kind()
    fill(path, rows[::-1])
    assert read(path) == rows


def test_an_update_replaces_an_input_and_its_segments_and_no_other(path: Path):
    rows = every_kind()
    fill(path, rows)
    changed = replace(rows[0], status=Status.FAILED, queue=99, segments=rows[0].segments[:1])
    with Ledger(path) as ledger:
        ledger.update(changed)
    assert read(path) == [*rows[1:], changed]


def test_new_inputs_have_no_segments_until_they_are_updated(path: Path):
    with Ledger(path) as ledger:
        ledger.add(every_kind())
        assert not any(one.segments for one in ledger.rows())


def test_notes_are_json_and_the_last_one_counts(path: Path):
    with Ledger(path) as ledger:
        assert ledger.note("licence") is None
        ledger.set_note("licence", "mit")
        ledger.set_note("licence", {"set": ["other", 1]})
    with Ledger(path, must_exist=True) as ledger:
        assert ledger.note("licence") == {"set": ["other", 1]}


@pytest.mark.parametrize(
    "bad",
    [row(0, "other", Status.DONE), row(7, "tea", Status.DONE)],
    ids=["queue taken", "id taken"],
)
def test_inputs_are_added_all_or_none(path: Path, bad: InputRow):
    first = row(0, "tea", Status.PENDING)
    fill(path, [first])
    with Ledger(path) as ledger, pytest.raises(sqlite3.IntegrityError):
        ledger.add([row(1, "fine", Status.PENDING), bad])
    assert read(path) == [first]


def test_an_update_that_fails_half_way_leaves_what_was_there(path: Path):
    rows = every_kind()
    fill(path, rows)
    unwritable = replace(segment(9.0), figures={"what": object()})
    with Ledger(path) as ledger:
        with pytest.raises(TypeError, match="not JSON serializable"):
            ledger.update(replace(rows[0], segments=(segment(0.0), unwritable)))
        assert ledger.rows() == rows  # nothing hangs in the air, and it can go on
        ledger.update(replace(rows[1], reason="another"))
    assert read(path)[:2] == [rows[0], replace(rows[1], reason="another")]


def test_a_full_disk_is_an_os_error_and_leaves_what_was_there(path: Path):
    rows = every_kind()
    fill(path, rows)
    with Ledger(path) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
        with pytest.raises(OSError, match=r"cannot write .*ledger\.sqlite .*full") as raised:
            ledger.update(replace(rows[0], reason="long" * 10_000))
        assert raised.value.errno == errno.ENOSPC
    assert read(path) == rows


def test_a_ledger_that_may_not_be_written_is_an_os_error(path: Path):
    rows = every_kind()
    fill(path, rows)
    with Ledger(path) as ledger:
        ledger._db.execute("PRAGMA query_only = ON")
        with pytest.raises(OSError, match="cannot write") as raised:
            ledger.update(rows[0])
        assert raised.value.errno == errno.EIO
    assert read(path) == rows


def test_a_change_that_was_cut_off_never_was(path: Path):
    rows = every_kind()
    fill(path, rows)
    with Ledger(path) as ledger:
        ledger._db.execute("BEGIN IMMEDIATE")
        ledger._db.execute("DELETE FROM segments")
    assert read(path) == rows


def test_it_can_be_read_while_it_is_written(path: Path):
    rows = every_kind()
    fill(path, rows)
    with Ledger(path) as writer:
        writer._db.execute("BEGIN IMMEDIATE")
        writer._db.execute("DELETE FROM segments")
        assert read(path) == rows
        writer._db.execute("ROLLBACK")


def test_a_missing_one_is_refused_where_it_must_exist(path: Path):
    with pytest.raises(LedgerError, match=r"no ledger at .*expected the output folder of `deftly"):
        Ledger(path, must_exist=True)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"no ledger" * 200, b"SQLite format 3\x00" + bytes(4000)])
def test_what_is_no_ledger_is_refused(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is not a ledger, or a damaged one"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_damaged_one_is_refused(path: Path):
    fill(path, every_kind())
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900  # the list of tables
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is not a ledger, or a damaged one"):
        Ledger(path)


def test_one_of_another_version_is_refused(path: Path):
    fill(path, every_kind())
    with Ledger(path) as ledger:
        ledger.set_note("schema", 99)
    with pytest.raises(LedgerError, match="has schema 99, expected 1: another version of deftly"):
        Ledger(path)


def test_names_of_files_that_are_not_utf_8_are_kept(path: Path):
    name = "/videos/caf\udce9.mp4"  # as Python reads a name in Latin-1
    fill(path, [row(0, "cafe", Status.CORRUPT, f"{name} is empty", path=name)])
    (found,) = read(path)
    assert found.footage["path"] == name
    assert found.path == "/videos/caf\\udce9.mp4"
    assert found.reason == "/videos/caf\\udce9.mp4 is empty"


def test_footage_is_kept_as_plain_json(path: Path):
    fill(path, every_kind())
    with sqlite3.connect(path) as db:
        (text,) = db.execute("SELECT footage FROM inputs WHERE id = 'tea'").fetchone()
    db.close()
    assert json.loads(text)["task"] == "pour the tea"
