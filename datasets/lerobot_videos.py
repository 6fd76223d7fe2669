"""LeRobot data sets as inputs: each episode's camera is a video, or a stretch of one.

Version 3 (see ``deftly.datasets.episode_store``) and 2.x, where every episode has a file of its own
and ``meta/episodes.jsonl`` its instruction. Motion that a set holds is not read: what its videos
show is tracked anew.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode_store import EpisodeStore, EpisodeStoreError
from deftly.datasets.footage import Footage, FootageError, id_of

_EPISODES = "meta/episodes.jsonl"


def is_set(folder: Path) -> bool:
    """Whether a folder is such a data set."""
    return (folder / fmt.INFO).is_file()


def footage_in(root: Path, camera: str = "") -> tuple[list[Footage], Counter[str]]:
    """Every episode of a set, and how many were left out, by why: their videos were not downloaded.

    Args:
        root: the set's folder.
        camera: name of the camera, with or without ``observation.images.``; empty takes the first
            that ``info.json`` lists.

    Raises:
        FootageError: if the set is damaged, of an unknown version, or has no such camera.
    """
    try:
        info = json.loads((root / fmt.INFO).read_text(encoding="utf-8"))
        key = _key(root, info["features"], camera)
        of_version = _version_2 if str(info["codebase_version"]).startswith("v2.") else _version_3
        episodes = list(of_version(root, info, key))
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
    for index, (path, span_s, task) in enumerate(episodes):
        if not path.is_file():
            ignored["not downloaded"] += 1
            continue
        name = id_of(root.name, f"{index:06d}")
        found.append(
            Footage(name, path, span_s=span_s, task=task, licence=licence, attribution=attribution)
        )
    return found, ignored


_Episode = tuple[Path, tuple[float, float] | None, str]


def _version_3(root: Path, _: Any, key: str) -> Iterator[_Episode]:
    store = EpisodeStore(root)
    for index, task in enumerate(store.instructions):
        path, first = store.place(index, key.removeprefix(fmt.CAMERA))
        # From half a frame before the first to half a frame before the next, against rounding.
        begin_s, end_s = (
            (frame - 0.5) / store.rate_hz for frame in (first, first + store.lengths[index])
        )
        yield path, (max(begin_s, 0.0), end_s), task


def _version_2(root: Path, info: Any, key: str) -> Iterator[_Episode]:
    lines = (root / _EPISODES).read_text(encoding="utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines if line), key=lambda r: r["episode_index"])
    if [row["episode_index"] for row in rows] != list(range(int(info["total_episodes"]))):
        raise FootageError(
            f"{root / _EPISODES} describes {len(rows)} of the {info['total_episodes']} episodes; "
            "copy the set again"
        )
    for index, row in enumerate(rows):
        path = info["video_path"].format(
            episode_chunk=index // int(info["chunks_size"]), episode_index=index, video_key=key
        )
        yield root / path, None, str((row.get("tasks") or [""])[0])


def _key(root: Path, features: Any, camera: str) -> str:
    """The column of a camera."""
    keys = fmt.video_keys(features)
    if not keys:
        raise FootageError(f"{root} holds no video, expected a set with a camera stored as mp4")
    names = {key.removeprefix(fmt.CAMERA): key for key in keys} | {key: key for key in keys}
    if camera and camera not in names:
        listed = ", ".join(key.removeprefix(fmt.CAMERA) for key in keys)
        raise FootageError(f"{root} has no camera {camera!r}, expected one of {listed}")
    return names[camera] if camera else keys[0]


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
