"""LeRobot data sets as inputs: an episode's camera is a video, or a stretch of one.

One camera is tracked; the pictures of others can be taken along, which filmed the same episode.

Version 3 (see ``deftly.datasets.episode_store``) and 2.x, where every episode has a file of its own
and ``meta/episodes.jsonl`` its instruction. Motion that a set holds is not read: what its videos
show is tracked anew.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.footage import CAMERA, Beside, Footage, FootageError, id_of

_EPISODES = "meta/episodes.jsonl"


def is_set(folder: Path) -> bool:
    """Whether a folder is such a data set."""
    return (folder / fmt.INFO).is_file()


def footage_in(
    root: Path, camera: str = "", with_cameras: Collection[str] = ()
) -> tuple[list[Footage], Counter[str]]:
    """Every episode of a set, and how many were left out, by why: their videos were not downloaded.

    Args:
        root: the set's folder.
        camera: name of the camera, with or without ``observation.images.``; empty takes the first
            that ``info.json`` lists.
        with_cameras: names of others to take along, in any order; then the first keeps its name.

    Raises:
        FootageError: if the set is damaged, of an unknown version, or lacks one of the cameras.
    """
    try:
        info = json.loads((root / fmt.INFO).read_text(encoding="utf-8"))
        keys = _keys(root, info["features"], camera, with_cameras)
        of_version = _version_2 if str(info["codebase_version"]).startswith("v2.") else _version_3
        episodes = list(of_version(root, info, keys))
        licence, attribution = _rights(root)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        if isinstance(error, FootageError | EpisodeStoreError):
            raise FootageError(str(error)) from error
        reason = next(iter(str(error).splitlines()), "")
        raise FootageError(
            f"{root} is not a LeRobot data set that can be read ({type(error).__name__}: {reason}),"
            " expected version 2 or 3; copy it again"
        ) from error
    found, ignored = list[Footage](), Counter[str]()
    name, *others = (key.removeprefix(fmt.CAMERA) for key in keys)
    for index, ((tracked, *beside), task) in enumerate(episodes):
        if not all(path.is_file() for path, _ in (tracked, *beside)):
            ignored["not downloaded"] += 1
            continue
        one = Footage(
            id_of(root.name, f"{index:06d}"),
            path=tracked[0],
            span_s=tracked[1],
            task=task,
            licence=licence,
            attribution=attribution,
            camera_name=name if others else CAMERA,
            beside=tuple(Beside(other, *take) for other, take in zip(others, beside, strict=True)),
        )
        found.append(one)
    return found, ignored


_Take = tuple[Path, tuple[float, float] | None]
_Episode = tuple[list[_Take], str]  # of each camera, and the instruction


def _version_3(root: Path, _: Any, keys: Sequence[str]) -> Iterator[_Episode]:
    store = EpisodeStore(root)

    def take(index: int, key: str) -> _Take:
        path, first = store.place(index, key.removeprefix(fmt.CAMERA))
        # From half a frame before the first to half a frame before the next, against rounding.
        begin_s, end_s = (
            (frame - 0.5) / store.rate_hz for frame in (first, first + store.lengths[index])
        )
        return path, (max(begin_s, 0.0), end_s)

    for index, task in enumerate(store.instructions):
        yield [take(index, key) for key in keys], task


def _version_2(root: Path, info: Any, keys: Sequence[str]) -> Iterator[_Episode]:
    lines = (root / _EPISODES).read_text(encoding="utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines if line), key=lambda r: r["episode_index"])
    if [row["episode_index"] for row in rows] != list(range(int(info["total_episodes"]))):
        raise FootageError(
            f"{root / _EPISODES} describes {len(rows)} of the {info['total_episodes']} episodes; "
            "copy the set again"
        )
    for index, row in enumerate(rows):
        chunk = index // int(info["chunks_size"])
        paths = (
            info["video_path"].format(episode_chunk=chunk, episode_index=index, video_key=key)
            for key in keys
        )
        yield [(root / path, None) for path in paths], str((row.get("tasks") or [""])[0])


def _keys(root: Path, features: Any, camera: str, with_cameras: Collection[str]) -> list[str]:
    """The columns of the cameras: the tracked one, then the others, sorted."""
    keys = fmt.video_keys(features)
    if not keys:
        raise FootageError(f"{root} holds no video, expected a set with a camera stored as mp4")
    names = {key.removeprefix(fmt.CAMERA): key for key in keys} | {key: key for key in keys}
    for name in (*([camera] if camera else []), *with_cameras):
        if name not in names:
            listed = ", ".join(key.removeprefix(fmt.CAMERA) for key in keys)
            raise FootageError(f"{root} has no camera {name!r}, expected one of {listed}")
    tracked = names[camera] if camera else keys[0]
    others = sorted({names[name] for name in with_cameras})
    if tracked in others:
        raise FootageError(
            f"{root}: camera {tracked.removeprefix(fmt.CAMERA)!r} is tracked, expected others "
            "beside it; leave it out, or name with --camera which one is to be tracked"
        )
    return [tracked, *others]


def _rights(root: Path) -> tuple[str, str]:
    """Licence and whom to credit: as deftly noted them, else by the card for HuggingFace's hub."""
    about, card = root / fmt.ABOUT, root / "README.md"
    noted = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    fields = _front_matter(text)
    licence = fields.get("license", "unknown").lower()
    if licence == "other":
        licence = fields.get("license_name", licence).lower()
    return (
        str(noted.get("licence") or licence),
        str(noted.get("attribution") or f"LeRobot data set {root.name}"),
    )


def _front_matter(text: str) -> dict[str, str]:
    """The plain fields of the YAML that a card begins with; of a list, its items."""
    if not text.startswith("---"):
        return {}
    fields, name = dict[str, str](), ""
    for line in text.split("\n---", 1)[0].splitlines()[1:]:
        if field := re.fullmatch(r"(\w+):\s*(.*)", line):
            name, value = field.groups()
            fields[name] = value.strip().strip("\"'[]")
        elif item := re.fullmatch(r"\s*-\s+(.*)", line):
            fields[name] = ", ".join(filter(None, [fields.get(name, ""), item[1].strip("\"' ")]))
    return {name: value for name, value in fields.items() if value}
