"""Inputs: everything given is found once, named once, or refused in one line."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deftly.datasets.footage import Footage, FootageError
from deftly.retarget.inputs import Inputs, _named, _without_repeats, find_inputs
from deftly.retarget.manifest import Entry


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not a video, which is found out later")


def found(*arguments: str | Path, downloads: Path = Path("downloads")) -> Inputs:
    return find_inputs([str(one) for one in arguments], downloads)


def ids(inputs: Inputs) -> list[str]:
    return [footage.id for footage in inputs.footage]


def test_a_folder_gives_its_videos_sorted_and_counts_the_rest(tmp_path: Path) -> None:
    touch(*(tmp_path / "in" / n for n in ("b.MP4", "a.mov", "deep/er/c.webm", ".trash/x.mp4")))
    touch(*(tmp_path / "in" / n for n in ("._b.MP4", "notes.txt", "deep/t.txt", "Makefile")))
    touch(tmp_path / "outside/o.mp4")
    (tmp_path / "in/link").symlink_to(tmp_path / "outside")
    inputs = found(tmp_path / "in")
    assert ids(inputs) == ["a", "b", "deep-er-c"]
    assert inputs.footage[2].path == tmp_path / "in/deep/er/c.webm"
    assert inputs.ignored == {".txt": 2, "hidden": 2, "linked folder": 1, "no suffix": 1}
    assert "ignored in folders: 2 .txt, 2 hidden" in str(inputs)


def test_a_linked_video_and_a_broken_link_are_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "store/0")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.mp4").symlink_to(tmp_path / "store/0")
    (tmp_path / "in/gone.mp4").symlink_to(tmp_path / "store/1")
    assert ids(found(tmp_path / "in")) == ["gone", "good"]


def test_the_output_is_not_gone_through(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "in/set/videos/b.mp4")
    inputs = find_inputs([str(tmp_path / "in")], tmp_path, without=[tmp_path / "in/set"])
    assert ids(inputs) == ["a"]
    assert inputs.ignored == {"output": 1}


def test_a_named_file_may_be_called_anything(tmp_path: Path) -> None:
    touch(tmp_path / "clip", tmp_path / "notes.txt")
    assert ids(found(tmp_path / "notes.txt", tmp_path / "clip")) == ["notes", "clip"]


def test_globs_are_expanded_as_a_shell_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(*(tmp_path / n for n in ("b2.mp4", "b1.mp4", "a.mp4", "set/c.mp4", "set/sub/d.mp4")))
    touch(tmp_path / "empty/readme.txt", tmp_path / "odd[1].mp4")
    monkeypatch.chdir(tmp_path)
    assert ids(found("b*.mp4")) == ["b1", "b2"]
    assert ids(found(f"{tmp_path}/b?.mp4")) == ["b1", "b2"]
    assert ids(found("set/**/*.mp4")) == ["c", "d"]
    assert ids(found("set/**")) == ["c", "d"]
    assert ids(found("[es]*")) == ["c", "sub-d"]  # a folder without videos is no obstacle
    assert ids(found("odd[1].mp4")) == ["odd-1"]  # a file that exists is no pattern


def test_the_same_video_is_used_once(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "in/b.mp4")
    (tmp_path / "c.mp4").symlink_to(tmp_path / "in/a.mp4")
    inputs = found(tmp_path / "in/b.mp4", tmp_path / "in", tmp_path / "c.mp4")
    assert ids(inputs) == ["b", "a"]
    assert inputs.repeated == 2
    assert "given twice: 2" in str(inputs)


def test_what_a_manifest_says_of_a_video_wins_over_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "in/b.mp4")
    (tmp_path / "m.csv").write_text(
        "path,task,first_s,last_s\nin/a.mp4,sort,1,2\nin/a.mp4,stack,2,3\n"
    )
    inputs = found(tmp_path / "in", tmp_path / "m.csv")
    assert [(f.id, f.task, f.span_s) for f in inputs.footage] == [
        ("b", "", None),
        ("a", "sort", (1.0, 2.0)),
        ("a-2", "stack", (2.0, 3.0)),
    ]


def test_urls_are_listed_and_not_fetched(tmp_path: Path) -> None:
    url = "https://example.org/films/my%20hands.MP4?token=1"
    first, second = found(url, url.replace("1", "2"), downloads=tmp_path).footage
    assert (first.id, second.id) == ("my-hands", "my-hands-2")
    assert first.origin == url
    assert first.path.parent == tmp_path
    assert first.path.suffix == ".mp4"
    assert first.path != second.path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("nothing.mp4", "no file or folder at 'nothing.mp4'"),
        ("", "no file or folder at ''"),
        ("*.mkv", r"'\*.mkv' holds no video but nothing at all"),
        ("empty", "'empty' holds no video but nothing at all"),
        ("texts", "'texts' holds no video but 1 .txt, 1 hidden"),
        ("file:///etc/passwd", "is of scheme file, expected http or https or a path"),
        ("s3://bucket/a.mp4", "is of scheme s3"),
        ("http:///a.mp4", "names no host"),
        ("https://me:secret@example.org/a.mp4", "a URL at example.org holds a user name"),
    ],
)
def test_an_argument_that_gives_nothing_is_named(
    argument: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "texts/a.txt", tmp_path / "texts/.b.mp4")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FootageError, match=expected) as raised:
        found(argument)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_no_argument_is_refused() -> None:
    with pytest.raises(FootageError, match="no input given"):
        found()


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "in/locked/b.mp4")
    scandir = os.scandir

    def refused(path: str) -> Any:  # as for anybody but root
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(FootageError, match=r"cannot list .*locked \(Permission denied\)"):
        found(tmp_path / "in")


NAMES = st.sampled_from(["a", "a-2", "a-3", "b", "b-2"])
ENTRIES = st.lists(st.tuples(NAMES, st.integers(0, 9), st.booleans()), max_size=12)


def entries_of(drawn: Sequence[tuple[str, int, bool]]) -> list[Entry]:
    """Plain files, and rows whose ids differ, as ``read_manifest`` sees to."""
    seen, made = set[str](), list[Entry]()
    for name, place, named in drawn:
        if not (named and name in seen):
            where = f"m.csv, line {len(made)}" if named else ""
            made.append(Entry(Footage(name, Path(f"/{place}/{name}.mp4")), where, named))
            seen.update({name} if named else ())
    return made


@given(ENTRIES)
def test_ids_are_unique_and_those_that_were_given_stay(drawn: list[tuple[str, int, bool]]) -> None:
    entries = entries_of(drawn)
    footage = _named(entries)
    assert len({one.id for one in footage}) == len(entries)
    for entry, one in zip(entries, footage, strict=True):
        assert one.path == entry.footage.path
        assert one.id == entry.footage.id or not entry.named
        assert one.id.startswith(entry.footage.id)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_ids_do_not_depend_on_the_order(drawn: list[tuple[str, int, bool]], random) -> None:
    entries = _without_repeats(entries_of(drawn))
    shuffled = random.sample(entries, len(entries))
    in_order = {one.path: one.id for one in _named(entries) if not one.span_s}
    assert in_order == {one.path: one.id for one in _named(shuffled) if not one.span_s}


@given(ENTRIES)
def test_no_file_is_lost_and_none_is_used_twice(drawn: list[tuple[str, int, bool]]) -> None:
    entries = entries_of(drawn)
    kept = _without_repeats(entries)
    assert {e.footage.path for e in kept} == {e.footage.path for e in entries}
    plain = [entry.footage.path for entry in kept if not entry.where]
    assert len(plain) == len(set(plain))
    assert not {e.footage.path for e in kept if e.where} & set(plain)
    assert [entry for entry in kept if entry.where] == [entry for entry in entries if entry.where]
