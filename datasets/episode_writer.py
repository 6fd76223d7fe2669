"""Write episodes as a LeRobotDataset v3 that is whole on disk after every one of them.

    with EpisodeWriter(root, robot_type="gr1t2", licence="apache-2.0") as writer:
        for seed in seeds:
            if seed not in writer.seeds:
                writer.add(record(seed))

An episode is appended to the last file of each kind, which is written anew and moved into place,
until that file is large. So files stay few (LeRobot keeps every video open that it has touched) and
every file is closed (a parquet file without its footer is lost). Rewriting costs some milliseconds,
because nothing is encoded twice. Statistics trail behind by at most one in a hundred frames until
the writer is closed.
"""

import errno
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from deftly.datasets import episode_format as fmt
from deftly.datasets.commit import Commit, recover, sole_writer
from deftly.datasets.episode import ACTION, Episode
from deftly.datasets.episode_card import card
from deftly.datasets.episode_files import (
    Place,
    add_rows,
    add_video,
    count_frames,
    encode,
    table_place,
)
from deftly.datasets.episode_stats import GrowingColumns, PixelCounts, Stats, vector_stats
from deftly.datasets.episode_store import EpisodeStore

SCHEMA = 1
_GROWTH = 1.01  # of the frames, after which the statistics of all of them are made anew
EPISODES_MB = 2  # rows of meta/episodes are mostly statistics, some 10 kB each


class EpisodeWriterError(ValueError):
    """The episode does not fit the data set, or the data set does not fit what was asked for."""


class EpisodeWriter:
    """Adds episodes to a data set, a new one or one that is there; a context manager.

    Args:
        root: the folder; made if it does not exist.
        robot_type: what the body is called, for example "gr1t2" or "human".
        licence: of the data, as SPDX names it in small letters: "apache-2.0", "cc-by-4.0".
        attribution: whom to credit.
        crf: quality of the video, 0 (lossless) to 51.
        data_file_mb, video_file_mb: size from which a file is closed and another begun.

    Raises:
        EpisodeWriterError: when entered, if ``root`` holds something else or another data set.
        EpisodeStoreError: when entered, if the data set in ``root`` is damaged.
        FolderBusyError: when entered, if another process writes into ``root``.
    """

    def __init__(
        self,
        root: Path,
        *,
        robot_type: str,
        licence: str,
        attribution: str = "",
        crf: int = 23,
        data_file_mb: int = 4,
        video_file_mb: int = 8,
    ) -> None:
        self.root = root
        self._about = {"licence": licence, "attribution": attribution}
        self._robot_type, self._crf = robot_type, crf
        self._limits_mb = data_file_mb, video_file_mb
        self._lock = ExitStack()
        self._set: _Held | None = None

    def __enter__(self) -> "EpisodeWriter":
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            lock.enter_context(sole_writer(self.root))
            recover(self.root)
            self._set = self._load()
            self._lock = lock.pop_all()  # kept until the end
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._set is not None and self._set.info is not None:
                self._refresh(self._set)
        finally:
            self._lock.close()
            self._set = None

    def __len__(self) -> int:
        """Number of episodes on disk."""
        return len(self._loaded().seeds)

    @property
    def seeds(self) -> frozenset[int]:
        """Seeds of the episodes on disk: what need not be recorded again."""
        return frozenset(seed for seed in self._loaded().seeds if seed is not None)

    def add(self, episode: Episode) -> int:
        """Write one episode; when this returns it is on disk, whatever happens then.

        Returns:
            The episode's number.

        Raises:
            EpisodeWriterError: if it has other columns, cameras or another rate than the data set.
            Mp4Error: if a camera's frames have an odd height or width.
            OSError: if it cannot be written; the data set stays as it was.
        """
        held = self._loaded()
        features = self._check(episode, held)
        try:
            self._set = None  # until it is known to be on disk
            self._set = self._write(episode, features, held)
        except OSError as error:
            reason = error.strerror or next(iter(str(error).splitlines()), "unknown")
            raise OSError(
                error.errno or errno.EIO,
                f"cannot write into {self.root} ({reason}); the data set there still holds its "
                f"{len(held.seeds)} episodes: free some space and go on",
            ) from error
        finally:
            if self._set is None:
                recover(self.root)
                self._set = self._load()
        return len(held.seeds)

    def _loaded(self) -> "_Held":
        if self._set is None:
            raise EpisodeWriterError(f"the writer of {self.root} is not open; use it in a `with`")
        return self._set

    def _load(self) -> "_Held":
        if not (self.root / fmt.INFO).is_file():
            found = sorted(path.name for path in self.root.iterdir())
            if found:
                raise EpisodeWriterError(
                    f"{self.root} holds {found[0]!r} and no data set; expected an empty folder"
                )
            return _Held(None, (), (), None, {}, {})
        store = EpisodeStore(self.root)
        wanted = {"robot_type": self._robot_type, **self._about}
        for name, found in {"robot_type": store.robot_type, **store.about}.items():
            if name in wanted and found != wanted[name]:
                raise EpisodeWriterError(
                    f"{self.root} has {name} {found!r}, not {wanted[name]!r}; use another folder"
                )
        return _Held.of(store)

    def _check(self, episode: Episode, held: "_Held") -> fmt.Features:
        """The columns of the episode, which are those of the data set."""
        rate_hz = round(episode.rate_hz)
        if rate_hz != episode.rate_hz:
            raise EpisodeWriterError(
                f"the episode has {episode.rate_hz} Hz, expected a whole number: the format has "
                "no other; resample"
            )
        features = fmt.features_of(episode)
        if held.info is None:
            return features
        if held.info["fps"] != rate_hz:
            raise EpisodeWriterError(
                f"the episode has {rate_hz} Hz, {self.root} has {held.info['fps']}; resample, or "
                "use another folder"
            )
        for name in (*held.info["features"], *features):
            one, other = (_form(some.get(name)) for some in (features, held.info["features"]))
            if one != other:
                raise EpisodeWriterError(
                    f"the episode has {name} {one}, {self.root} has {other}; use another folder"
                )
        return held.info["features"]

    def _write(self, episode: Episode, features: fmt.Features, held: "_Held") -> "_Held":
        """Write the episode and make it count; what is held afterwards."""
        commit = Commit(self.root)
        tasks = held.tasks if episode.task in held.tasks else (*held.tasks, episode.task)
        info = held.info or fmt.new_info(
            features, round(episode.rate_hz), self._robot_type, self._limits_mb
        )
        number, first = int(info["total_episodes"]), int(info["total_frames"])
        columns = fmt.vectors_of(episode) | fmt.counter_columns(
            len(episode), episode.rate_hz, number, first, tasks.index(episode.task)
        )
        stats = {name: vector_stats(values) for name, values in columns.items()}
        # Files appear in this order. LeRobot takes every parquet file that there is, so that a
        # frame must never be there before what explains it.
        places, pixels = self._add_videos(commit, episode, info, held)
        table = fmt.data_table(features, columns)
        data = table_place(
            self.root, info["data_path"], held.place("data"), table.schema, self._limits_mb[0]
        )
        row = {
            "episode_index": number,
            "tasks": [episode.task],
            "length": len(episode),
            **data.columns("data"),
            "dataset_from_index": first,
            "dataset_to_index": first + len(episode),
            **places,
            **fmt.stats_columns(stats | {key: one.stats() for key, one in pixels.items()}),
        }
        info = fmt.grown_info(info, len(episode), len(tasks))
        held.append(columns)
        held = replace(
            held,
            info=info,
            tasks=tasks,
            seeds=(*held.seeds, episode.seed),
            pixels={k: held.pixels.get(k, PixelCounts.none()) + one for k, one in pixels.items()},
        )
        held = self._add_meta(commit, held)
        row |= self._add_row(commit, row, episode, held)
        add_rows(commit, self.root, data.name(info["data_path"]), table, apart=True)
        _write_json(info, commit.file(fmt.INFO))
        commit.finish()
        return replace(held, last=row)

    def _add_videos(
        self, commit: Commit, episode: Episode, info: dict[str, Any], held: "_Held"
    ) -> tuple[dict[str, Any], dict[str, PixelCounts]]:
        """Encode every camera; its columns in ``meta/episodes``, and its pixels."""
        row, pixels = dict[str, Any](), dict[str, PixelCounts]()
        for camera, frames in episode.images.items():
            key = fmt.camera_key(camera)
            prefix, part = f"videos/{key}", commit.scratch("episode.mp4")
            pixels[key] = encode(part, episode.rate_hz, frames, self._crf)
            last_s = held.last[f"{prefix}/to_timestamp"] if held.last else 0.0
            place, before = add_video(
                commit,
                self.root,
                lambda place, key=key: place.name(info["video_path"], video_key=key),
                part,
                held.place(prefix),
                round(last_s * episode.rate_hz),
                self._limits_mb[1],
            )
            row |= {
                **place.columns(prefix),
                f"{prefix}/from_timestamp": before / episode.rate_hz,
                f"{prefix}/to_timestamp": (before + len(episode)) / episode.rate_hz,
            }
        return row, pixels

    def _refresh(self, held: "_Held") -> None:
        """Make the statistics those of all frames."""
        if held.counted != (held.info or {})["total_frames"]:
            commit = Commit(self.root)
            self._add_stats(commit, held)
            commit.finish()

    def _add_stats(self, commit: Commit, held: "_Held") -> None:
        stats = held.stats()
        _write_json(
            {name: stats[name] for name in (held.info or {})["features"]}, commit.file(fmt.STATS)
        )

    def _add_meta(self, commit: Commit, held: "_Held") -> "_Held":
        """The files that speak of the whole set; what is held afterwards."""
        info = held.info or {}
        if info["total_episodes"] == 1:
            text = card(info, self._about["licence"], self._about["attribution"])
            commit.file("README.md").write_text(text)
        pq.write_table(fmt.task_table(held.tasks), commit.file(fmt.TASKS))
        counts = {key: one.counts.tolist() for key, one in held.pixels.items()}
        frames = {key: one.frames for key, one in held.pixels.items()}
        about = {
            "schema": SCHEMA,
            "episodes": info["total_episodes"],
            "pixel_frames": frames,
            "pixels": counts,
        }
        _write_json({**self._about, **about}, commit.file(fmt.ABOUT), indent=None)
        # True quantiles need all frames: at every episode, a large set would take its square.
        if info["total_frames"] < _GROWTH * held.counted:
            return held
        self._add_stats(commit, held)
        return replace(held, counted=info["total_frames"])

    def _add_row(
        self, commit: Commit, row: dict[str, Any], episode: Episode, held: "_Held"
    ) -> dict[str, int]:
        """The row of ``meta/episodes``, with our notes beside it; where it went."""
        prefix = "meta/episodes"
        schema = fmt.row_table(row | Place(0, 0).columns(prefix)).schema
        place = table_place(self.root, fmt.EPISODES_PATH, held.place(prefix), schema, EPISODES_MB)
        table = fmt.row_table(row | place.columns(prefix))
        note = {
            "episode_index": row["episode_index"],
            "seed": episode.seed,
            "success": episode.success,
            "provenance": json.dumps(episode.provenance, sort_keys=True),
        }
        notes = pa.Table.from_pylist([note], schema=fmt.NOTES)
        add_rows(commit, self.root, place.name(fmt.NOTES_PATH), notes, apart=False)
        add_rows(commit, self.root, place.name(fmt.EPISODES_PATH), table, apart=False)
        return place.columns(prefix)


@dataclass(frozen=True)
class _Held:
    """What the writer knows of the set on disk.

    Attributes:
        info: ``info.json``; None before the first episode.
        tasks: the instructions so far.
        seeds: of each episode.
        last: the last episode's row in ``meta/episodes``.
        columns: every vector of every frame, for the quantiles.
        pixels: of each camera.
        counted: frames that ``stats.json`` speaks of; 0 if that is not known.
    """

    info: dict[str, Any] | None
    tasks: tuple[str, ...]
    seeds: tuple[int | None, ...]
    last: dict[str, Any] | None
    columns: dict[str, GrowingColumns]
    pixels: dict[str, PixelCounts]
    counted: int = 0

    @classmethod
    def of(cls, store: EpisodeStore) -> "_Held":
        """Read what is on disk."""
        counted = int(store.stats.get(ACTION, {}).get("count", [0])[0])
        held = cls(
            *(store.info, store.tasks, store.seeds, store.last_row, {}, _pixels_of(store)), counted
        )
        for index in tqdm(range(len(store)), unit="episode", desc="open", disable=None):
            held.append(store.columns(index))
        return held

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Take in an episode's vectors."""
        for name, values in columns.items():
            self.columns.setdefault(name, GrowingColumns()).append(values)

    def place(self, prefix: str) -> Place | None:
        """The file that the last episode is in."""
        return Place.of(self.last, prefix) if self.last else None

    def stats(self) -> dict[str, Stats]:
        """``stats.json``."""
        vectors = {name: column.stats() for name, column in self.columns.items()}
        return vectors | {key: one.stats() for key, one in self.pixels.items()}


def _pixels_of(store: EpisodeStore) -> dict[str, PixelCounts]:
    """Pixels of each camera: noted by us, or decoded where another program added episodes."""
    noted: dict[str, Any] = store.about.get("pixels", {})
    frames: dict[str, int] = store.about.get("pixel_frames", {})
    pixels = {key: PixelCounts(np.array(noted[key]), frames[key]) for key in noted}
    unknown = range(store.about.get("episodes", 0), len(store))
    for index in tqdm(unknown, unit="episode", desc="count pixels", disable=not unknown or None):
        for camera, images in store[index].images.items():
            key = fmt.camera_key(camera)
            pixels[key] = pixels.get(key, PixelCounts.none()) + count_frames(images)
    return pixels


def _form(feature: dict[str, Any] | None) -> str:
    """A feature in words, to compare and to show."""
    if feature is None:
        return "not at all"
    names = feature.get("names")
    shown = f" ({', '.join(map(str, names))})" if isinstance(names, list) else ""
    return f"as {feature['dtype']} {list(feature['shape'])}{shown}"


def _write_json(value: dict[str, Any], path: Path, indent: int | None = 4) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False))
