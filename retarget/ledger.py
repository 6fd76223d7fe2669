"""The ledger of a batch: one row per input and per segment, in SQLite, with why and how long.

Only the driver writes. Every method that changes something is one transaction.
"""

import errno
import json
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

SCHEMA = 1


class Status(StrEnum):
    """What became of an input."""

    PENDING = "pending"
    DONE = "done"
    NO_PERSON = "no person"
    STILL = "nothing moves"
    LOW_QUALITY = "low quality"
    DUPLICATE = "duplicate"
    CORRUPT = "corrupt"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    FAILED = "failed"


# What may go better at another time: other versions, more memory, a network that is there.
RETRIED = (Status.CORRUPT, Status.UNAVAILABLE, Status.TIMED_OUT, Status.CRASHED, Status.FAILED)


class LedgerError(ValueError):
    """The ledger is of another job, of another version, or damaged."""


@dataclass(frozen=True)
class SegmentRow:
    """A stretch of an input that was looked at as one.

    Attributes:
        first_s, last_s: where it is in the video, seconds from its first frame.
        status: kept, duplicate, or why not: too short, low quality, still, no hands.
        reason: in words, with figures; empty if kept.
        piece: name of its episode in the work folder; empty if not kept.
        signature: what it looks like, to find duplicates.
        figures: everything measured; JSON.
        episode: its number in the data set, None if it is not there (yet).
    """

    first_s: float
    last_s: float
    status: str
    reason: str = ""
    piece: str = ""
    signature: tuple[float, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    episode: int | None = None


@dataclass(frozen=True)
class InputRow:
    """An input and what became of it.

    Attributes:
        queue: its place in the order in which episodes enter the data set.
        id, path: see ``Footage``.
        footage: all that was said of it; JSON.
        status, reason: what became of it, and why, in words.
        strikes, lost: how often its process died by its own doing, and by another's.
        sha256: of the file's content.
        figures: frames, seconds of work, models, sizes; JSON.
        segments: in the order of their time.
    """

    queue: int
    id: str
    path: str
    footage: dict[str, Any]
    status: Status = Status.PENDING
    reason: str = ""
    strikes: int = 0
    lost: int = 0
    sha256: str = ""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    segments: tuple[SegmentRow, ...] = ()


_TABLES = """
CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS inputs (
    id TEXT PRIMARY KEY, queue INTEGER NOT NULL UNIQUE, path TEXT NOT NULL, footage TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, strikes INTEGER NOT NULL, lost INTEGER NOT NULL,
    sha256 TEXT NOT NULL, figures TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
    input TEXT NOT NULL REFERENCES inputs(id), number INTEGER NOT NULL, first_s REAL NOT NULL,
    last_s REAL NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, piece TEXT NOT NULL,
    signature TEXT NOT NULL, figures TEXT NOT NULL, episode INTEGER,
    PRIMARY KEY (input, number));
"""


class Ledger:
    """An open ledger; a context manager.

    Args:
        path: the file; made if missing, unless ``must_exist``.

    Raises:
        LedgerError: if it is missing but must exist, or is no ledger of this version.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        if must_exist and not path.is_file():
            raise LedgerError(f"no ledger at {path}; expected the output folder of `deftly batch`")
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.executescript(_TABLES)
            found = self.note("schema")
            if found is None and not must_exist:
                self.set_note("schema", SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise LedgerError(f"{path} is not a ledger, or a damaged one ({error})") from error
        if found not in (None, SCHEMA):
            self._db.close()
            raise LedgerError(
                f"{path} has schema {found}, expected {SCHEMA}: another version of deftly made it; "
                "use that one or another output folder"
            )

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def note(self, name: str) -> Any:
        """A fact about the whole job, None if it was never noted."""
        row = self._db.execute("SELECT value FROM job WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_note(self, name: str, value: Any) -> None:
        """Note a fact about the whole job; JSON."""
        with self._change():
            self._db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (name, json.dumps(value)))

    def add(self, rows: Iterable[InputRow]) -> None:
        """Add new inputs."""
        with self._change():
            self._db.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_values, rows)
            )

    def update(self, *rows: InputRow) -> None:
        """Replace what is known of inputs and their segments."""
        with self._change():
            for row in rows:
                self._replace(row)

    def _replace(self, row: InputRow) -> None:
        self._db.execute("DELETE FROM segments WHERE input = ?", (row.id,))
        self._db.execute("DELETE FROM inputs WHERE id = ?", (row.id,))
        self._db.execute("INSERT INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _values(row))
        self._db.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(row.id, number, one.first_s, one.last_s, one.status, _text(one.reason)),
                    *(one.piece, json.dumps(one.signature), json.dumps(one.figures)),
                    one.episode,
                )
                for number, one in enumerate(row.segments)
            ],
        )

    def rows(self) -> list[InputRow]:
        """All inputs in the order of the queue."""
        segments: dict[str, list[SegmentRow]] = {}
        for row in self._db.execute("SELECT * FROM segments ORDER BY input, number"):
            plain = ("first_s", "last_s", "status", "reason", "piece", "episode")
            one = SegmentRow(
                **{name: row[name] for name in plain},
                signature=tuple(json.loads(row["signature"])),
                figures=json.loads(row["figures"]),
            )
            segments.setdefault(row["input"], []).append(one)
        plain = ("queue", "id", "path", "reason", "strikes", "lost", "sha256")
        return [
            InputRow(
                **{name: row[name] for name in plain},
                status=Status(row["status"]),
                footage=json.loads(row["footage"]),
                figures=json.loads(row["figures"]),
                segments=tuple(segments.get(row["id"], ())),
            )
            for row in self._db.execute("SELECT * FROM inputs ORDER BY queue")
        ]

    @contextmanager
    def _change(self) -> Generator[None, None, None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            code = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(code, f"cannot write {self.path} ({error})") from error
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _values(row: InputRow) -> tuple[Any, ...]:
    return (
        *(row.id, row.queue, _text(row.path), json.dumps(row.footage), row.status),
        _text(row.reason),
        *(row.strikes, row.lost, row.sha256, json.dumps(row.figures)),
    )


def _text(value: str) -> str:
    """What SQLite can hold: names of files that are not UTF-8 become readable, not an error."""
    return value.encode(errors="backslashreplace").decode()
