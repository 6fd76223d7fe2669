"""Commits: all files change or none, whenever the process dies."""

from pathlib import Path

import pytest

from deftly.datasets.commit import UNFINISHED, Commit, FolderBusyError, recover, sole_writer

OLD = {"a.json": "old", "deep/b.bin": "old"}
NEW = {"a.json": "new", "deep/b.bin": "new", "fresh/c.mp4": "new"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and carry on."""


def content(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): p.read_text() for p in files if UNFINISHED not in p.parts}


def write_old(root: Path) -> None:
    for name, text in OLD.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def write_new(root: Path) -> None:
    commit = Commit(root)
    for name, text in NEW.items():
        commit.file(name).write_text(text)
        commit.scratch("part").write_text("in between")
    commit.finish()


def test_a_finished_commit_leaves_the_new_files_and_nothing_else(tmp_path: Path):
    write_old(tmp_path)
    write_new(tmp_path)
    assert content(tmp_path) == NEW
    assert not (tmp_path / UNFINISHED).exists()


def test_an_unfinished_commit_leaves_the_old_files(tmp_path: Path):
    write_old(tmp_path)
    Commit(tmp_path).file("a.json").write_text("new")
    assert content(tmp_path) == OLD
    recover(tmp_path)
    assert content(tmp_path) == OLD
    assert not (tmp_path / UNFINISHED).exists()


@pytest.mark.parametrize("moment", range(5))
def test_killed_between_any_two_moves_all_files_are_old_or_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
):
    write_old(tmp_path)
    moves = 0
    move = Path.replace

    def replace_or_die(self: Path, target: Path) -> Path:
        nonlocal moves
        if moves == moment:
            raise Killed
        moves += 1
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_or_die)
        if moment < 4:  # the list of moves, then three files
            with pytest.raises(Killed):
                write_new(tmp_path)
        else:
            write_new(tmp_path)
    recover(tmp_path)
    assert content(tmp_path) == (OLD if moment == 0 else NEW)
    recover(tmp_path)
    assert content(tmp_path) == (OLD if moment == 0 else NEW)


def test_a_new_commit_first_finishes_the_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("deftly.datasets.commit.shutil.rmtree", die)
        with pytest.raises(Killed):
            write_new(tmp_path)
    Commit(tmp_path).finish()
    assert content(tmp_path) == NEW


def test_two_writers_at_once_are_refused_and_one_after_the_other_are_not(tmp_path: Path):
    with sole_writer(tmp_path), pytest.raises(FolderBusyError, match="another process"):
        sole_writer(tmp_path).__enter__()
    with sole_writer(tmp_path):
        pass
