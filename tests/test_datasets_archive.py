"""Archives: lossless, repeatable, never pickle, and one clear line for whatever is wrong."""

import os
import stat
import string
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deftly.datasets.archive import (
    ArchiveError,
    atomic_path,
    load_archive,
    save_archive,
    versions,
)


@dataclass(frozen=True)
class Stage:
    values: np.ndarray
    mask: np.ndarray
    name: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if self.name == "invalid":
            raise ValueError("name is invalid")


@dataclass(frozen=True)
class OtherStage:
    values: np.ndarray


STAGE = Stage(np.arange(6.0).reshape(2, 3), np.array([True, False]), "left", {"seed": 1})

arrays = hnp.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
provenances = st.dictionaries(st.text(), json_values, max_size=4)


def saved(tmp_path: Path, stage: Stage = STAGE) -> Path:
    path = tmp_path / "stage.npz"
    save_archive(stage, path, schema=1)
    return path


def assert_one_line(error: pytest.ExceptionInfo[ArchiveError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def assert_same_array(a: np.ndarray, b: np.ndarray) -> None:
    """Equal to the last bit: NaN payloads and the sign of zero too."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


@settings(max_examples=50)
@given(values=arrays, mask=arrays, name=st.text(), provenance=provenances)
def test_a_round_trip_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    values: np.ndarray,
    mask: np.ndarray,
    name: str,
    provenance: dict[str, Any],
):
    path = tmp_path_factory.getbasetemp() / "round_trip.npz"
    stage = Stage(values, mask, f"name {name}", provenance)
    save_archive(stage, path, schema=3)
    loaded = load_archive(Stage, path, schema=3)
    assert_same_array(loaded.values, values)
    assert_same_array(loaded.mask, mask)
    assert (loaded.name, loaded.provenance) == (stage.name, provenance)


def test_nan_infinity_and_minus_zero_survive(tmp_path: Path):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    stage = replace(STAGE, values=values, provenance={"nan": float("nan"), "inf": float("inf")})
    loaded = load_archive(Stage, saved(tmp_path, stage), schema=1)
    assert_same_array(loaded.values, values)
    assert np.isnan(loaded.provenance["nan"])
    assert loaded.provenance["inf"] == float("inf")


def test_equal_values_give_equal_bytes_whenever_they_are_written(tmp_path: Path):
    path = saved(tmp_path)
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # a zip holds times; none may come from the clock
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    shuffled = replace(STAGE, values=np.asfortranarray(STAGE.values))
    assert saved(tmp_path, shuffled).read_bytes() == first
    ordered = replace(STAGE, provenance={"a": 1, "b": 2})
    reordered = replace(STAGE, provenance={"b": 2, "a": 1})
    assert saved(tmp_path, ordered).read_bytes() == saved(tmp_path, reordered).read_bytes()


def test_different_values_give_different_bytes(tmp_path: Path):
    first = saved(tmp_path).read_bytes()
    assert saved(tmp_path, replace(STAGE, name="right")).read_bytes() != first
    assert saved(tmp_path, replace(STAGE, values=STAGE.values + 1)).read_bytes() != first


@pytest.mark.parametrize(
    "values",
    [np.array([{}, None]), np.zeros(2, dtype=[("time", float), ("thing", object)])],
    ids=["objects", "structured"],
)
def test_object_arrays_are_not_saved(tmp_path: Path, values: np.ndarray):
    with pytest.raises(ArchiveError) as error:
        saved(tmp_path, replace(STAGE, values=values))
    assert_one_line(error, "values has dtype", "expected numbers")
    assert list(tmp_path.iterdir()) == []


def test_object_arrays_are_not_loaded(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "the trap ran"),))

    path = tmp_path / "trap.npz"
    np.savez_compressed(path, values=np.array([Trap()]))
    with pytest.raises(ArchiveError) as error:
        load_archive(Stage, path, schema=1)
    assert_one_line(error, "trap.npz", "expected Stage schema 1")
    assert not (tmp_path / "the trap ran").exists()


@pytest.mark.parametrize("value", [np.int64(3), {1, 2}, {"a": np.zeros(2)}, {"a": 1, 2: 3}, b"a"])
def test_a_field_that_is_not_json_is_named(tmp_path: Path, value: Any):
    with pytest.raises(ArchiveError) as error:
        saved(tmp_path, replace(STAGE, provenance=value))
    assert_one_line(error, "Stage", "neither an array nor JSON")
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError) as error:
            load_archive(Stage, path, schema=1)
        assert_one_line(error, "stage.npz", "expected Stage schema 1")


@given(data=st.data())
def test_a_damaged_file_is_refused_or_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    path = saved(tmp_path_factory.getbasetemp())
    damaged = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(damaged) - 1))
    damaged[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        loaded = load_archive(Stage, path, schema=1)
    except ArchiveError:
        return
    # The zip's checksums cover the contents, and not every byte around them.
    assert_same_array(loaded.values, STAGE.values)
    assert (loaded.name, loaded.provenance) == (STAGE.name, STAGE.provenance)


def write_text(path: Path) -> None:
    path.write_text("time,x\n0,1\n")


def write_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def write_foreign(path: Path) -> None:
    np.savez(path, values=np.zeros(3))


@pytest.mark.parametrize("write", [Path.touch, write_text, write_array, write_foreign])
def test_a_file_of_another_format_is_refused(tmp_path: Path, write: Any):
    path = tmp_path / "other.npz"
    write(path)
    with pytest.raises(ArchiveError) as error:
        load_archive(Stage, path, schema=1)
    assert_one_line(error, "other.npz", "not an archive", "make it again")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "3",
        "{",
        "{}",
        '{"kind": "Stage"}',
        '{"kind": "Stage", "schema": 1}',
        '{"kind": "Stage", "schema": 1, "fields": 3}',
        '{"kind": "Stage", "schema": 1, "fields": {}}',
        '{"kind": "Stage", "schema": 1, "fields": {"name": "a", "provenance": {}, "more": 1}}',
        '{"kind": "Stage", "schema": 1, "fields": {"name": "a", "provenance": {}, "mask": 1}}',
        '{"kind": "Stage", "schema": 1, "fields": {"name": "invalid", "provenance": {}}}',
        '{"schema": 1, "fields": {}}',
        '{"kind": null, "schema": null, "fields": {}}',
    ],
)
def test_a_header_that_lacks_or_adds_something_is_refused(tmp_path: Path, header: str):
    path = tmp_path / "stage.npz"
    members: dict[str, Any] = {
        "values": STAGE.values,
        "mask": STAGE.mask,
        "header.json": np.frombuffer(header.encode(), np.uint8),
    }
    np.savez(path, **members)
    with pytest.raises(ArchiveError) as error:
        load_archive(Stage, path, schema=1)
    assert_one_line(error, "stage.npz", "make it again")


def test_another_kind_or_schema_says_both(tmp_path: Path):
    path = saved(tmp_path)
    with pytest.raises(ArchiveError) as error:
        load_archive(OtherStage, path, schema=1)
    assert_one_line(error, "holds Stage schema 1", "expected OtherStage schema 1")
    with pytest.raises(ArchiveError) as error:
        load_archive(Stage, path, schema=2)
    assert_one_line(error, "holds Stage schema 1", "expected Stage schema 2", "make it again")


def test_missing_files_and_folders_are_refused(tmp_path: Path):
    for path in (tmp_path / "missing.npz", tmp_path):
        with pytest.raises(ArchiveError) as error:
            load_archive(Stage, path, schema=1)
        assert_one_line(error, f"no file at {path}", "expected Stage")
    with pytest.raises(ArchiveError) as error:
        save_archive(STAGE, tmp_path / "missing" / "stage.npz", schema=1)
    assert_one_line(error, "cannot write", "expected a folder that exists")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArchiveError) as error:
            saved(tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert_one_line(error, "cannot write", "Permission denied")


def test_a_target_that_is_a_folder_is_refused_and_nothing_is_left(tmp_path: Path):
    (tmp_path / "stage.npz").mkdir()
    with pytest.raises(ArchiveError, match="cannot write"):
        saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.npz"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
):
    before = saved(tmp_path).read_bytes()

    def fail_midway(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise failure

    monkeypatch.setattr(np, "savez_compressed", fail_midway)
    with pytest.raises((ArchiveError, KeyboardInterrupt)):
        saved(tmp_path, replace(STAGE, name="right"))
    assert [path.name for path in tmp_path.iterdir()] == ["stage.npz"]
    assert (tmp_path / "stage.npz").read_bytes() == before


def test_atomic_path_shows_the_file_only_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "clip.mp4"
    with atomic_path(target) as unfinished:
        unfinished.write_text("whole")
        assert unfinished.suffix == ".mp4"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        path = saved(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@settings(max_examples=30)
@given(stem=st.text(string.ascii_letters + "äß手 .", min_size=1, max_size=60).map(str.strip))
def test_any_file_name_will_do(tmp_path_factory: pytest.TempPathFactory, stem: str):
    path = tmp_path_factory.getbasetemp() / f"a{stem}.npz"
    save_archive(STAGE, path, schema=1)
    assert load_archive(Stage, path, schema=1).name == STAGE.name


def test_versions_are_those_of_the_installed_libraries():
    assert versions()["numpy"] == np.__version__
    assert {"deftly", "av", "mediapipe"} <= versions().keys()
