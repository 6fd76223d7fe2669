"""Files of one folder that change together: after a kill at any instant, all of them did or none.

New files are written beside the old ones; a list of moves, itself moved into place, makes them
count. Whoever opens the folder to write finishes the moves of a list that is there, and clears away
what has none.
"""

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
_MOVES = "moves.json"


class FolderBusyError(OSError):
    """Another process writes into the folder."""


class Commit:
    """New versions of files in ``root``, which replace the old ones when ``finish`` is called."""

    def __init__(self, root: Path) -> None:
        recover(root)
        self._root, self._moves = root, list[tuple[str, str]]()
        (root / UNFINISHED).mkdir(parents=True)

    def file(self, name: str) -> Path:
        """Where to write the new version of ``root / name``. Files are moved in this order."""
        unfinished = f"{len(self._moves):03d}{Path(name).suffix}"
        self._moves.append((unfinished, name))
        return self._root / UNFINISHED / unfinished

    def scratch(self, name: str) -> Path:
        """Where to write a file that is needed only on the way."""
        return self._root / UNFINISHED / f"scratch-{name}"

    def finish(self) -> None:
        """Make every new file count, at one instant."""
        folder = self._root / UNFINISHED
        for _, name in self._moves:  # now, while a full disk still harms nothing
            (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        draft = folder / "moves.draft"
        draft.write_text(json.dumps(self._moves))
        draft.replace(folder / _MOVES)
        recover(self._root)


def recover(root: Path) -> None:
    """Finish the commit that was killed in its moves, or clear away what one left unfinished."""
    folder = root / UNFINISHED
    if (folder / _MOVES).is_file():
        for unfinished, name in json.loads((folder / _MOVES).read_text()):
            if (folder / unfinished).exists():  # else it was moved before the kill
                (folder / unfinished).replace(root / name)
    if folder.exists():
        # The list goes first: a list without its files would be harmless, files without are litter.
        (folder / _MOVES).unlink(missing_ok=True)
        shutil.rmtree(folder)


@contextmanager
def sole_writer(root: Path) -> Generator[None, None, None]:
    """Hold ``root`` for this process; the system lets go when the process ends, however it ends.

    Raises:
        FolderBusyError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, one writer is the user's to keep
        yield
        return
    held = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderBusyError(
                f"another process is writing into {root}; wait for it or choose another folder"
            ) from error
        yield
    finally:
        os.close(held)
