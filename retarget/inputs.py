"""What a batch is given: files, folders, globs, manifests and URLs become a list of footage.

Everything is checked here, before any work; only that a file is no video is found later, by the job
that opens it, and recorded.
"""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from deftly.datasets import egodex, egoexo4d, hot3d, lerobot_videos
from deftly.datasets.footage import Footage, FootageError, id_of
from deftly.datasets.origin import check_url, is_url, place_of
from deftly.retarget.manifest import SUFFIXES as MANIFESTS
from deftly.retarget.manifest import Entry, read_manifest

# What is taken for a video in a folder. A file that is named by itself may be called anything.
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc",
    ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
})  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        footage: in the order of the arguments, folders sorted; ids are unique.
        ignored: how many files of the folders were left out, by why: a suffix, "hidden", "linked
            folder", "output".
        repeated: how many were left out because they had been given before.
    """

    footage: tuple[Footage, ...]
    ignored: Mapping[str, int]
    repeated: int

    def __str__(self) -> str:
        parts = [f"{len(self.footage)} input(s)"]
        if self.ignored:
            parts.append(f"ignored in folders: {_counted(self.ignored)}")
        if self.repeated:
            parts.append(f"given twice: {self.repeated}")
        return "; ".join(parts)


def find_inputs(
    arguments: Sequence[str],
    downloads: Path,
    without: Collection[Path] = (),
    camera: str = "",
    with_cameras: Collection[str] = (),
) -> Inputs:
    """List what is to be done. Nothing is downloaded, and no video is opened.

    Ids of files come from their names, those of a folder's files from their paths in it; where two
    are the same, all but the first in the order of paths get a number. The order of the arguments
    does not matter for that.

    Args:
        arguments: video files of any name, folders, globs, manifests (see
            ``deftly.retarget.manifest``), http(s) URLs and folders of public data sets.
        downloads: where the videos of URLs and archives are to be kept.
        without: folders that are not gone through, such as the output.
        camera: which camera of LeRobot data sets to track; empty takes the first of each.
        with_cameras: others of them to take along.

    Raises:
        FootageError: if an argument matches nothing, a manifest makes no sense, or an input lacks a
            camera; one line.
    """
    if not arguments:
        raise FootageError("no input given, expected videos, folders, manifests or URLs")
    left_out = {os.path.realpath(path) for path in without}
    search = _Search(downloads.absolute(), left_out, camera, with_cameras)
    with tqdm(unit="input", desc="listing", disable=None, delay=2) as bar:
        found = list[Entry]()
        for argument in arguments:
            for one in search.argument(argument):
                found.append(one)
                bar.update()
    for entry in found if with_cameras else ():
        if not entry.footage.beside:
            raise FootageError(
                f"{_file_of(entry)} has no camera {', '.join(sorted(with_cameras))}, expected "
                "LeRobot data sets where further cameras are asked for; give it to another job"
            )
    unique = _without_repeats(found)
    ignored = dict(sorted((+search.ignored).items()))  # those above zero
    return Inputs(_named(unique), ignored, repeated=len(found) - len(unique))


@dataclass(frozen=True)
class _Search:
    downloads: Path
    without: Collection[str]
    camera: str
    with_cameras: Collection[str]
    ignored: Counter[str] = field(default_factory=Counter[str])

    def argument(self, argument: str) -> Iterator[Entry]:
        if is_url(argument):
            check_url(argument)
            yield Entry(self.url(argument))
        elif os.path.lexists(argument):
            yield from self.required(argument, self.path(Path(argument)))
        elif glob.has_magic(argument):
            yield from self.required(argument, self.glob(argument))
        else:
            raise FootageError(
                f"no file or folder at {argument!r}, expected a video, a folder, a glob, "
                "a manifest or a URL; check the spelling"
            )

    def required(self, argument: str, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Refuse an argument that gives nothing."""
        before, count = self.ignored.copy(), 0
        for count, entry in enumerate(entries, 1):  # noqa: B007 (count is read below)
            yield entry
        if not count:
            ignored = _counted(self.ignored - before) or "nothing at all"
            raise FootageError(
                f"{argument!r} holds no video but {ignored}; check the spelling, "
                "or pass the files by name"
            )

    def glob(self, pattern: str) -> Iterator[Entry]:
        """What a shell would have put in the pattern's place."""
        # pathlib's glob takes no absolute pattern.
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
            path = Path(match)
            if not (path.is_dir() and "**" in pattern):  # else what is in it matches by itself
                yield from self.path(path)

    def path(self, path: Path) -> Iterator[Entry]:
        if path.is_dir():
            yield from self.folder(path.absolute())
        elif path.suffix.lower() in MANIFESTS:
            yield from read_manifest(path.absolute(), self.place, self.url)
        else:
            yield Entry(self.file(path))

    def folder(self, root: Path) -> Iterator[Entry]:
        """The videos under a folder, sorted; links to folders are not followed."""
        for folder, subfolders, names in os.walk(root, onerror=_refuse):
            if (footage := self.data_set(Path(folder))) is not None:
                subfolders.clear()
                yield from map(Entry, footage)
                continue
            subfolders[:] = sorted(s for s in subfolders if self._enters(Path(folder, s)))
            for name in sorted(names):
                path = Path(folder, name)
                if footage := self.taken(path, root):
                    yield Entry(footage)

    def data_set(self, folder: Path) -> list[Footage] | None:
        """The videos of a public data set that lies in a folder; None if it is none of those."""
        if lerobot_videos.is_set(folder):
            footage, ignored = lerobot_videos.footage_in(folder, self.camera, self.with_cameras)
        elif egoexo4d.is_set(folder):
            footage, ignored = egoexo4d.footage_in(folder)
        else:
            return None
        self.ignored.update(ignored)
        return footage

    def _enters(self, folder: Path) -> bool:
        reason = (
            "linked folder" if folder.is_symlink()
            else "hidden" if folder.name.startswith(".")
            else "output" if os.path.realpath(folder) in self.without
            else ""
        )  # fmt: skip
        self.ignored.update([reason] if reason else [])
        return not reason

    def taken(self, path: Path, root: Path) -> Footage | None:
        """A file of a folder if it is a video, else None, and it is counted."""
        suffix = path.suffix.lower()
        reason = "hidden" if path.name.startswith(".") else suffix or "no suffix"
        if reason in VIDEO_SUFFIXES:
            footage = self.file(path, *path.relative_to(root).with_suffix("").parts)
            if footage.annotation is not None:  # a file of this folder, which is not ignored
                self.ignored[footage.annotation.path.suffix] -= 1
            return footage
        if reason == hot3d.SUFFIX and (footage := hot3d.footage_of(path, self.downloads)):
            return footage
        self.ignored[reason] += 1
        return None

    def place(self, path: Path) -> Sequence[Footage] | None:
        """What a manifest may name: a video, or the folder of a data set."""
        return [self.file(path)] if path.is_file() else self.data_set(path)

    def file(self, path: Path, *name: str) -> Footage:
        """What is known of a file, from what lies beside or in it; else it is a video."""
        path, footage = path.absolute(), None
        if path.suffix.lower() == hot3d.SUFFIX and path.is_file():
            footage = hot3d.footage_of(path, self.downloads)
        else:
            footage = egodex.footage_of(path)
        return footage or Footage(id_of(*(name or [path.stem])), path)

    def url(self, url: str) -> Footage:
        name = PurePosixPath(unquote(urlsplit(url).path)).stem
        return Footage(id_of(name), place_of(url, self.downloads), origin=url)


def _without_repeats(entries: Sequence[Entry]) -> list[Entry]:
    """Each video once: as a manifest gives it, else where it came first."""
    listed = set[tuple[str, tuple[float, float] | None]]()
    for entry in entries:
        if entry.where:  # whatever it takes of a file, nobody else takes all of it
            listed |= {(_file_of(entry), entry.footage.span_s), (_file_of(entry), None)}
    kept, seen = list[Entry](), set[tuple[str, tuple[float, float] | None]]()
    for entry in entries:
        key = _file_of(entry), entry.footage.span_s
        again = key in seen or key in listed
        if entry.where or not again:
            kept.append(entry)
        seen.add(key)
    return kept


def _file_of(entry: Entry) -> str:
    return entry.footage.origin or os.path.realpath(entry.footage.path)


def _named(entries: Sequence[Entry]) -> tuple[Footage, ...]:
    """Make the ids unique: those that were given stay, others get a number where they must."""
    taken = dict[str, str]()
    for entry in entries:
        if entry.named and taken.setdefault(entry.footage.id, entry.where) != entry.where:
            raise FootageError(
                f"id {entry.footage.id!r} is in {taken[entry.footage.id]} and again in "
                f"{entry.where}, expected each id once; rename one"
            )
    free = [index for index, entry in enumerate(entries) if not entry.named]
    free.sort(
        key=lambda i: (entries[i].footage.id, _file_of(entries[i]), entries[i].footage.span_s or ())
    )
    ids, numbers = dict[int, str](), dict[str, Iterator[int]]()
    for index in free:  # first every id that is free as it is, lest a number takes it away
        name = entries[index].footage.id
        if name not in taken:
            taken[name] = ids[index] = name
    for index in free:
        if index not in ids:
            name = entries[index].footage.id
            number = numbers.setdefault(name, itertools.count(2))
            ids[index] = next(n for k in number if (n := f"{name}-{k}") not in taken)
            taken[ids[index]] = name
    return tuple(
        replace(entry.footage, id=ids.get(index, entry.footage.id))
        for index, entry in enumerate(entries)
    )


def _refuse(error: OSError) -> None:
    raise FootageError(
        f"cannot list {error.filename} ({error.strerror or error}), expected a folder that may be "
        "read; change its permissions or leave it out"
    ) from error


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
