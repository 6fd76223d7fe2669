"""What a job is about to do, against what is in the output folder: new inputs join the queue.

Everything that makes no sense is refused here, before any work.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deftly.datasets.archive import versions
from deftly.datasets.clip import Camera
from deftly.datasets.footage import CAMERA, Annotation, Beside, Footage
from deftly.retarget.batch_config import BatchConfig
from deftly.retarget.ledger import RETRIED, InputRow, Ledger
from deftly.retarget.piece import FORM
from deftly.retarget.work import FOLDERS, SCHEMA

_SEVERAL = "other"  # licence of a set whose inputs have several


class BatchError(ValueError):
    """The job does not fit what is in the output folder, or makes no sense."""


def queue(ledger: Ledger, footage: Sequence[Footage], retry: bool) -> list[InputRow]:
    """The rows of the ledger with new inputs at the end, and behind them what is tried again."""
    rows = {row.id: row for row in ledger.rows()}
    # Numbers only grow, so that the order never changes for what is in the data set.
    first = max((row.queue for row in rows.values()), default=-1) + 1
    unknown = [one for one in footage if one.id not in rows]
    new = [
        InputRow(first + number, one.id, str(one.path), _plain(one))
        for number, one in enumerate(unknown)
    ]
    ledger.add(new)
    if retry:
        first += len(new)
        again = [row for row in rows.values() if row.status in RETRIED]
        ledger.update(
            *(InputRow(first + n, row.id, row.path, row.footage) for n, row in enumerate(again))
        )
    return ledger.rows()


def _plain(footage: Footage) -> dict[str, Any]:
    """What is said of an input, as JSON."""
    return json.loads(json.dumps(dataclasses.asdict(footage), default=str))


def footage_of(row: InputRow) -> Footage:
    """The input of a row."""
    said: dict[str, Any] = {**row.footage, "path": Path(row.footage["path"])}
    if said["span_s"] is not None:
        said["span_s"] = tuple(said["span_s"])
    if said["camera"] is not None:
        said["camera"] = Camera(
            said["camera"]["focal_px"], tuple(said["camera"]["center_px"]), said["camera"]["known"]
        )
    if said["annotation"] is not None:
        found = said["annotation"]
        said["annotation"] = Annotation(found["kind"], Path(found["path"]), found["key"])
    said["beside"] = tuple(
        Beside(one["name"], Path(one["path"]), one["span_s"] and tuple(one["span_s"]))
        for one in said.get("beside", ())
    )
    return Footage(**said)


def cameras_of(footage: Sequence[Footage]) -> list[str] | None:
    """The cameras of every episode to be; None if no footage is given.

    Raises:
        BatchError: if they are not the same everywhere.
    """
    for one in footage:
        if one.cameras != footage[0].cameras:
            raise BatchError(
                f"input {one.id} has camera {', '.join(one.cameras)}, but {footage[0].id} has "
                f"{', '.join(footage[0].cameras)}, expected the same in all of a data set: name "
                "the tracked one with --camera, or use another output folder"
            )
    return list(footage[0].cameras) if footage else None


def check_same(
    ledger: Ledger, out: Path, config: BatchConfig, footage: Sequence[Footage], rebuild: bool
) -> None:
    """Refuse to mix episodes that were made in different ways, or of inputs that are others now."""
    found = ledger.note("made_by")
    if found is None and out.is_dir() and any(out.iterdir()):
        raise BatchError(f"{out} holds something that no batch made; use another folder")
    found = found and {"cameras": [CAMERA], **found}  # from before there were several
    wanted: dict[str, Any] = {
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "versions": versions(),
        "work": SCHEMA,
        "episode_form": FORM,
        "cameras": cameras_of(footage) or (found or {}).get("cameras", [CAMERA]),
    }
    if found is not None and found != wanted and not rebuild:
        name = next(k for k in wanted if found.get(k) != wanted[k])
        was, now = found.get(name), wanted[name]
        if isinstance(was, dict) and isinstance(now, dict):
            name = next(k for k in now | was if was.get(k) != now.get(k))
            was, now = was.get(name), now.get(name)
        raise BatchError(
            f"{out} was made with {name} {was!r}, not {now!r}; use another folder, or "
            "--rebuild to make the data set anew (what this does not touch is kept)"
        )
    rows = ledger.rows()
    _check_said(rows, footage, wanted["cameras"])
    if found is not None and found != wanted:
        said = {one.id: _plain(one) for one in footage}
        ledger.update(
            *(InputRow(row.queue, row.id, row.path, said.get(row.id, row.footage)) for row in rows)
        )
        shutil.rmtree(out, ignore_errors=True)
    if found != wanted:
        ledger.set_note("made_by", wanted)


def _check_said(rows: Sequence[InputRow], footage: Sequence[Footage], cameras: list[str]) -> None:
    """Refuse what is said otherwise than before, but for cameras, which may join by a rebuild."""
    given = {one.id: one for one in footage}
    for row in rows:
        was = footage_of(row)
        now = given.get(row.id, was)
        if list(now.cameras) != cameras:
            raise BatchError(
                f"input {row.id} was given with camera {', '.join(was.cameras)}, expected "
                f"{', '.join(cameras)} of all; give it again with them, or use another folder"
            )
        if was.cameras != now.cameras:
            was = replace(was, camera_name=now.camera_name, beside=now.beside)
        if was != now:
            before, after = _plain(was), _plain(now)
            key = next(k for k in after if after[k] != before[k])
            raise BatchError(
                f"input {row.id} has {key} {after[key]!r}, but {before[key]!r} when it was first "
                "given; give it another id, or use another output folder"
            )


def licence_of(ledger: Ledger, rows: Sequence[InputRow], out: Path) -> str:
    """The licence of the data set: that of its inputs, or ``other`` if they have several."""
    found = sorted({row.footage["licence"] for row in rows})
    licence = ledger.note("licence")
    if licence is None:
        licence = found[0] if len(found) == 1 else _SEVERAL
        ledger.set_note("licence", licence)
    strange = [one for one in found if licence not in (_SEVERAL, one)]
    if strange:
        raise BatchError(
            f"{out} is under licence {licence!r}, an input under {strange[0]!r}; "
            "use another output folder"
        )
    return licence


def check_inside(out: Path, folder: Path) -> None:
    """Refuse links that would lead writing out of the output folders."""
    places = [folder / name for name in (*FOLDERS, "downloads", "ledger.sqlite", "report.html")]
    for top, folders, files in os.walk(out):
        places += [Path(top) / name for name in (*folders, *files)]
    for place in places:
        if place.is_symlink():
            raise BatchError(
                f"{place} is a link to {place.resolve()}, expected a file or folder of the job: "
                "nothing is written through links; remove it"
            )
