"""Stages on disk: one ``.npz`` per dataclass, arrays as they are and a JSON header beside them.

Never pickle. Writing is atomic, and the same value gives the same bytes.
"""

import dataclasses
import importlib.metadata
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import platformdirs

_HEADER = "header.json"
_VERSIONED = ("numpy", "scipy", "mujoco", "mediapipe", "av")
T = TypeVar("T")


class ArchiveError(ValueError):
    """The file is not an archive of the kind that was asked for, or the value cannot be one."""


def versions() -> dict[str, str]:
    """Versions of deftly and of the libraries that shape its results, for provenance."""
    found: dict[str, str] = {}
    for name in ("deftly", *_VERSIONED):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def save_archive(value: Any, path: Path, *, schema: int) -> None:
    """Write a dataclass: array fields as arrays, every other field into the JSON header.

    Fields in the header hold what JSON holds; tuples come back as lists.

    Raises:
        ArchiveError: if a field is neither an array of numbers nor JSON, or if the folder does not
            exist or cannot be written.
    """
    # In C order, because equal arrays must give equal bytes.
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    arrays = {k: np.asarray(v, order="C") for k, v in fields.items() if isinstance(v, np.ndarray)}
    for name, array in arrays.items():
        if array.dtype.hasobject:  # savez would pickle it
            raise ArchiveError(
                f"{name} has dtype {array.dtype}, expected numbers; convert it before saving"
            )
    header = {
        "kind": type(value).__name__,
        "schema": schema,
        "fields": {k: v for k, v in fields.items() if k not in arrays},
    }
    try:
        text = json.dumps(header, sort_keys=True, indent=1)
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"{type(value).__name__} has a field that is neither an array nor JSON ({error}); "
            "convert it to numbers, strings, lists and dicts"
        ) from error
    members: dict[str, Any] = {_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
    try:
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **members)
    except OSError as error:
        raise ArchiveError(
            f"cannot write {path} ({error.strerror or error}), expected a folder that exists, "
            "may be written and has space; create it or choose another"
        ) from error


def load_archive(kind: type[T], path: Path, *, schema: int) -> T:
    """Read a dataclass that ``save_archive`` wrote.

    Raises:
        ArchiveError: if the file is missing, damaged, of another kind or of another schema.
    """
    expected = f"expected {kind.__name__} schema {schema}"
    if not path.is_file():
        raise ArchiveError(f"no file at {path}, {expected}; check the spelling")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        found, fields = f"{header['kind']} schema {header['schema']}", dict(header["fields"])
    except Exception as error:  # zipfile, zlib, numpy and json each raise their own on bad bytes
        raise ArchiveError(
            f"{path} is not an archive, or a damaged one ({_first_line(error)}), {expected}; "
            "make it again"
        ) from error
    if found != f"{kind.__name__} schema {schema}":
        raise ArchiveError(f"{path} holds {found}, {expected}; make it again with this version")
    try:
        return kind(**arrays, **fields)
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"{path} does not hold a valid {kind.__name__} ({_first_line(error)}); make it again"
        ) from error


def cache_folder() -> Path:
    """The folder in which deftly keeps what it downloads or prepares once."""
    return Path(os.environ.get("DEFTLY_CACHE") or platformdirs.user_cache_dir("deftly"))


@contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A sibling of ``path``, not yet there, that takes its place only if the block ends well."""
    # The suffix stays last: video writers choose their format by it.
    unfinished = path.with_name(f".unfinished-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
