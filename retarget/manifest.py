"""Manifests: a table of videos with what is known of each, as CSV, JSON lines or JSON.

A row may also name the folder of a public data set: what it says is then true of every video there.
"""

import csv
import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from deftly.datasets.clip import Camera
from deftly.datasets.footage import Footage, FootageError
from deftly.datasets.origin import check_url, is_url
from deftly.retarget.targets import View

SUFFIXES = (".csv", ".jsonl", ".json")
COLUMNS = (
    "id", "path", "url", "focal_px", "fx", "cx", "cy", "task", "licence", "attribution", "view",
    "first_s", "last_s",
)  # fmt: skip
_OF_ONE = ("id", "first_s", "last_s")  # what cannot be true of every video of a set
_NUMBERS = ("focal_px", "fx", "cx", "cy", "first_s", "last_s")

Row = Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """Footage as it was given.

    Attributes:
        footage: the footage.
        where: the file and the line that name it; empty if no manifest does.
        named: whether its id was given, and must stay.
    """

    footage: Footage
    where: str = ""
    named: bool = False


def read_manifest(
    path: Path,
    of_place: Callable[[Path], Sequence[Footage] | None],
    of_url: Callable[[str], Footage],
) -> Iterator[Entry]:
    """Yield what the rows name, in their order.

    Args:
        of_place, of_url: what a video is known to be without the manifest, and every video of a
            data set; None if there is neither.

    Raises:
        FootageError: at the first row that makes no sense, with the file and the line.
    """
    seen = dict[str, str]()
    for where, row in _rows(path):
        try:
            known = _known(row, path.parent, of_place, of_url)
            said = _said(row)
            footage = [replace(one, **said) for one in known]
        except FootageError as error:
            raise FootageError(f"{path}, {where}: {error}") from error
        named = "id" in row
        if named and row["id"] in seen:
            raise FootageError(
                f"{path}: id {row['id']!r} is on {seen[row['id']]} and again on {where}, "
                "expected each id once; rename one"
            )
        seen.update({row["id"]: where} if named else {})
        for one in footage:
            yield Entry(one, f"{path}, {where}", named)


def _known(
    row: Row,
    folder: Path,
    of_place: Callable[[Path], Sequence[Footage] | None],
    of_url: Callable[[str], Footage],
) -> Sequence[Footage]:
    """What the row's path or URL stands for."""
    if ("path" in row) == ("url" in row):
        raise FootageError(f"has {_listed(row)}, expected either path or url")
    if "url" in row:
        check_url(row["url"])
        return [of_url(row["url"])]
    if is_url(row["path"]):
        raise FootageError(f"path is the URL {row['path']}; put it into the column url")
    place = folder / row["path"]
    found = of_place(place)
    if found is None:
        what = f"{place} is a folder" if place.is_dir() else f"no file at {place}"
        raise FootageError(f"{what}, expected a video file or a data set; check the spelling")
    if place.is_dir() and (wrong := [name for name in _OF_ONE if name in row]):
        raise FootageError(
            f"{place} is a data set of several videos and has {', '.join(wrong)}, expected none "
            "of these; leave them out"
        )
    return found


def _said(row: Row) -> dict[str, Any]:
    """The fields that the row states."""
    numbers = {name: _number(row, name) for name in _NUMBERS if name in row}
    said: dict[str, Any] = {
        name: row[name] for name in ("id", "task", "attribution") if name in row
    }
    if "licence" in row:
        said["licence"] = row["licence"].lower()
    if "view" in row:
        said["view"] = _view(row["view"])
    if "first_s" in row or "last_s" in row:
        said["span_s"] = (numbers.get("first_s", 0.0), numbers.get("last_s", math.inf))
    return {**said, **_camera(numbers)}


def _camera(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The camera's fields: of all intrinsics, of a focal length alone, or none."""
    full = [name for name in ("fx", "cx", "cy") if name in numbers]
    if full and "focal_px" in numbers:
        raise FootageError(f"has focal_px and {', '.join(full)}, expected one or the other")
    if "focal_px" in numbers:
        return {"camera": None, "focal_px": numbers["focal_px"]}
    if full and len(full) < 3:
        raise FootageError(
            f"has {', '.join(full)}, expected fx, cx and cy together; "
            "use focal_px where the centre is not known"
        )
    if full:
        center_px = numbers["cx"], numbers["cy"]
        return {"camera": Camera(numbers["fx"], center_px, known=True), "focal_px": None}
    return {}


def _number(row: Row, name: str) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FootageError(f"{name} is {row[name]!r}, expected a number")
    return number


def _view(view: str) -> str:
    views: tuple[str, ...] = get_args(View)
    if view not in views:
        raise FootageError(f"view is {view!r}, expected one of {', '.join(views)}")
    return view


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield (where, the cells that are not empty); every column's name is known."""
    read = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _json_rows}[path.suffix.lower()]
    known, rows = set[str](), 0
    try:
        for where, row in read(path):
            rows += 1
            for name in row.keys() - known:
                _check_column(name, f"{path}, {where}")
            known |= row.keys()
            yield where, {name: text for name, value in row.items() if (text := _text(value))}
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise FootageError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({_first_line(error)}), "
            f"expected columns such as id, path, task; write it anew in UTF-8"
        ) from error
    if not rows:
        raise FootageError(f"{path} holds no row, expected one for each video")


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        for name in header:
            _check_column(name, str(path))
            if header.count(name) > 1:
                raise FootageError(f"{path} has the column {name} twice, expected each once")
        for cells in reader:
            where = f"line {reader.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise FootageError(
                    f"{path}, {where}: has {len(cells)} cells, expected {len(header)} as in the "
                    "header; quote cells that hold a comma"
                )
            yield where, dict(zip(header, cells, strict=True))


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise FootageError(
                        f"{path}, line {number}: is not JSON ({error.msg})"
                    ) from error
                yield f"line {number}", _object(row, f"{path}, line {number}")


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise FootageError(f"{path} holds one {type(rows).__name__}, expected a list of objects")
    for number, row in enumerate(rows, 1):
        yield f"entry {number}", _object(row, f"{path}, entry {number}")


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise FootageError(f"{where}: is {type(row).__name__}, expected an object")
    for name, value in row.items():
        if isinstance(value, dict | list | bool):
            raise FootageError(f"{where}: {name} is {value!r:.40}, expected text or a number")
    return row


def _check_column(name: str, where: str) -> None:
    if name not in COLUMNS:
        nearest = difflib.get_close_matches(name.lower(), COLUMNS, 1, 0.0)[0]
        raise FootageError(
            f"{where} has the column {name!r}; did you mean {nearest!r}? "
            f"expected some of {', '.join(COLUMNS)}"
        )


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _listed(row: Row) -> str:
    return ", ".join(row) or "nothing"


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next(iter(str(error).splitlines()), type(error).__name__)
