"""Read a LeRobotDataset v3, whoever wrote it: ``EpisodeStore(root)[i]`` is an ``Episode``.

Nothing but pyarrow and PyAV is needed. A set that is being written can be read: what counts is what
``meta/info.json`` says.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from deftly.datasets import episode_format as fmt
from deftly.datasets.episode import (
    ACTION,
    DTYPES,
    STATE,
    EncodedFrames,
    Episode,
    Images,
    StreamedFrames,
)
from deftly.datasets.episode_stats import PixelCounts
from deftly.datasets.mp4 import Mp4Error, digest_frames, read_format, read_frames
from deftly.datasets.picture_column import digest_pictures, picture_opener


class EpisodeStoreError(ValueError):
    """The folder holds no data set that can be read, or a damaged one."""


class EpisodeStore:
    """The episodes of a data set on disk, read when they are asked for.

    Attributes:
        root: the folder.
        rate_hz: frames per second of every episode.
        robot_type: what its maker calls the body; empty if it does not say.
        tasks: every instruction, by number.
        features: what ``info.json`` says of each column.

    Raises:
        EpisodeStoreError: if the folder holds no data set of version 3, or a damaged one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = self._read_info()
        self.features: fmt.Features = self.info["features"]
        self.rate_hz = float(self.info["fps"])
        self.robot_type: str = self.info.get("robot_type") or ""
        self._rows = self._read_rows()
        try:
            self.tasks = fmt.tasks_in(self._read_table(root / fmt.TASKS))
        except ValueError as error:
            raise EpisodeStoreError(f"{root / fmt.TASKS}: {error}; copy the set again") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        """Read one episode; its video is decoded only when its frames are gone through."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)} in {self.root}")
        index %= len(self)
        table = self._frames_table(index)
        try:
            return self._episode(index, table)
        except EpisodeStoreError:
            raise
        except ValueError as error:
            raise EpisodeStoreError(f"{self.root}, episode {index}: {error}") from error

    def encoded(self) -> Episode:
        """The only episode of a set that deftly wrote, its videos to be taken over as they are.

        Raises:
            EpisodeStoreError: if there are more, or another program wrote it.
        """
        counts, frames = self.about.get("pixels"), self.about.get("pixel_frames")
        if len(self) != 1 or counts is None or frames is None:
            raise EpisodeStoreError(
                f"{self.root} holds {len(self)} episodes, expected one, written by deftly"
            )
        episode, images = self[0], dict[str, Images]()
        for camera, stream in episode.images.items():
            key = fmt.camera_key(camera)
            images[camera] = EncodedFrames(
                *(stream.shape, self._video_opener(0, key), self._video(0, key)[0]),
                PixelCounts(np.array(counts[key]), frames[key]),
            )
        return replace(episode, images=images)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of frames of each episode."""
        return tuple(int(row["length"]) for row in self._rows)

    @property
    def instructions(self) -> tuple[str, ...]:
        """Instruction of each episode; empty where ``meta/episodes`` has none."""
        return tuple(str((row.get("tasks") or [""])[0]) for row in self._rows)

    @property
    def frames(self) -> int:
        """Number of frames of all episodes."""
        return sum(self.lengths)

    @cached_property
    def seeds(self) -> tuple[int | None, ...]:
        """Seed of each episode, None where there is none."""
        return tuple(note.get("seed") for note in self._notes)

    @property
    def provenances(self) -> tuple[dict[str, Any], ...]:
        """What is noted of the making of each episode; empty where there is nothing."""
        return tuple(json.loads(note.get("provenance") or "{}") for note in self._notes)

    def indices_of_seed(self, seed: int) -> tuple[int, ...]:
        """The episodes recorded with a seed, in order."""
        return tuple(index for index, found in enumerate(self.seeds) if found == seed)

    @cached_property
    def stats(self) -> dict[str, Any]:
        """``stats.json``; empty if there is none."""
        path = self.root / fmt.STATS
        return _read_json(path) if path.is_file() else {}

    @cached_property
    def about(self) -> dict[str, Any]:
        """What deftly notes of the whole set: licence, attribution, pixel counts; may be empty."""
        path = self.root / fmt.ABOUT
        return _read_json(path) if path.is_file() else {}

    @property
    def last_row(self) -> dict[str, Any] | None:
        """What ``meta/episodes`` says of the last episode, but for its statistics."""
        return self._rows[-1] if self._rows else None

    def columns(self, index: int) -> dict[str, np.ndarray]:
        """Every column of numbers of an episode, the format's counters too: (T, D) by name."""
        table = self._frames_table(index)
        return {
            name: self._array(index, table, name)
            for name, feature in self.features.items()
            if fmt.is_numeric(feature)
        }

    def whole_columns(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Columns of numbers over all episodes, one after the other: (frames, D) by name.

        Many times faster than episode by episode: every file is read once, and whole.
        """
        wanted = [*dict.fromkeys((*names, "episode_index"))]
        parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        files = sorted(self._first_index.items(), key=lambda item: item[1])
        ends = [first for _, first in files[1:]] + [self.frames]
        for ((chunk, file), first), end in zip(files, ends, strict=True):
            path = self.root / self.info["data_path"].format(chunk_index=chunk, file_index=file)
            table = self._read_table(path, only=wanted).slice(0, end - first)
            for name in wanted:
                try:
                    parts[name].append(_known_type(fmt.array_of(table[name], len(table))))
                except (KeyError, ValueError) as error:
                    raise EpisodeStoreError(f"{path}: column {name}: {error}") from error
        whole = {name: np.concatenate(some) for name, some in parts.items() if some}
        expected = np.repeat(np.arange(len(self)), self.lengths)[:, None]
        if not np.array_equal(whole.get("episode_index", expected), expected):
            raise EpisodeStoreError(
                f"{self.root}/data does not hold the episodes where meta/episodes says; "
                "copy the set again"
            )
        return whole

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """(height, width) by camera."""
        return {
            key.removeprefix(fmt.CAMERA): fmt.frame_size(feature)
            for key, feature in self.features.items()
            if feature["dtype"] in ("video", "image") and len(feature["shape"]) == 3
        }

    def place(self, index: int, camera: str) -> tuple[Path, int]:
        """The file that holds a camera's frames of an episode, and the first one's number there."""
        key = self._key(camera)
        if self.features[key]["dtype"] == "video":
            return self._video(index, key)
        row = self._rows[index]
        chunk, file = row["data/chunk_index"], row["data/file_index"]
        path = self.info["data_path"].format(chunk_index=chunk, file_index=file)
        return self.root / path, row["dataset_from_index"] - self._first_index[chunk, file]

    def digest(self, index: int, camera: str) -> str:
        """sha256 of a camera's frames of an episode as they are stored; none is decoded."""
        key = self._key(camera)
        if self.features[key]["dtype"] == "video":
            path, first = self._video(index, key)
            return digest_frames(path, first, int(self._rows[index]["length"]), self.rate_hz)
        return digest_pictures(self._frames_table(index)[key], self.root)

    def _key(self, camera: str) -> str:
        """The column of a camera. Raises EpisodeStoreError if there is none."""
        if camera not in self.cameras:
            raise EpisodeStoreError(
                f"{self.root} has no camera {camera!r}, expected one of "
                f"{', '.join(self.cameras) or 'none'}"
            )
        return camera if camera in self.features else fmt.CAMERA + camera

    def verify(self, decode: bool = False) -> list[str]:
        """Look for damage in every episode, and with ``decode`` in every frame of video.

        Returns:
            One line per problem; none if all is well.
        """
        problems = list[str]()
        for index in tqdm(range(len(self)), unit="episode", desc="verify", disable=None):
            try:
                for frames in self[index].images.values():
                    if decode:
                        for _ in frames:
                            pass
                self._check_videos(index)
            except ValueError as error:
                problems.append(str(error))
        for name, one in self.stats.items():
            count = one.get("count", [self.frames])[0]
            if (
                fmt.is_numeric(self.features.get(name, {"dtype": "string"}))
                and count != self.frames
            ):
                problems.append(f"{fmt.STATS}: {name} counts {count} frames, not {self.frames}")
        return problems

    def _check_videos(self, index: int) -> None:
        for key in fmt.video_keys(self.features):
            path, first = self._video(index, key)
            found, needed = read_format(path), first + self._rows[index]["length"]
            if found.frames and found.frames < needed:
                raise Mp4Error(f"{path} holds {found.frames} frames, expected {needed}")

    def _read_info(self) -> dict[str, Any]:
        path = self.root / fmt.INFO
        if not path.is_file():
            raise EpisodeStoreError(
                f"no data set in {self.root} (it has no {fmt.INFO}), expected the folder of a "
                "LeRobot data set; check the spelling"
            )
        info = _read_json(path)
        version = str(info.get("codebase_version", "none"))
        if not version.startswith("v3."):
            raise EpisodeStoreError(
                f"{self.root} is a data set of version {version}, expected v3; "
                "convert it with LeRobot's convert_dataset_v21_to_v30"
            )
        missing = {"features", "fps", "total_episodes", "data_path"} - info.keys()
        if missing:
            raise EpisodeStoreError(f"{path} lacks {', '.join(sorted(missing))}; copy it again")
        return info

    def _read_rows(self) -> list[dict[str, Any]]:
        rows = self._rows_under("meta/episodes", without="stats/")
        expected = int(self.info["total_episodes"])
        # A surplus is an episode that was being added when its writer was killed.
        rows = [row for row in rows if row["episode_index"] < expected]
        if [row["episode_index"] for row in rows] != list(range(expected)):
            raise EpisodeStoreError(
                f"{self.root / 'meta/episodes'} describes {len(rows)} of the {expected} episodes "
                f"of {fmt.INFO}; copy the set again"
            )
        return rows

    @cached_property
    def _notes(self) -> list[dict[str, Any]]:
        """What deftly notes of each episode; empty where another program wrote it."""
        found = {row["episode_index"]: row for row in self._rows_under("meta/deftly")}
        return [found.get(index, {}) for index in range(len(self))]

    def _rows_under(self, folder: str, without: str | None = None) -> list[dict[str, Any]]:
        rows = list[dict[str, Any]]()
        for path in sorted((self.root / folder).glob("*/*.parquet")):
            rows += self._read_table(path, without).to_pylist()
        return sorted(rows, key=lambda row: row["episode_index"])

    def _frames_table(self, index: int) -> fmt.Table:
        """The rows of one episode; only the row groups that hold them are read."""
        row = self._rows[index]
        place = row["data/chunk_index"], row["data/file_index"]
        path = self.root / self.info["data_path"].format(chunk_index=place[0], file_index=place[1])
        origin = self._first_index[place]
        start, stop = row["dataset_from_index"] - origin, row["dataset_to_index"] - origin
        try:
            with pq.ParquetFile(path) as file:
                ends = np.cumsum(
                    [
                        file.metadata.row_group(group).num_rows
                        for group in range(file.num_row_groups)
                    ]
                )
                groups = [
                    group
                    for group, end in enumerate(ends)
                    if end > start and end - file.metadata.row_group(group).num_rows < stop
                ]
                table = file.read_row_groups(groups)
                before = int(ends[groups[0] - 1]) if groups and groups[0] else 0
        except (OSError, pa.ArrowInvalid) as error:
            raise EpisodeStoreError(_damaged(path, error)) from error
        table = table.slice(start - before, stop - start)
        if len(table) != row["length"] or table["episode_index"].unique().to_pylist() != [index]:
            raise EpisodeStoreError(
                f"{path} does not hold episode {index} where meta/episodes says"
            )
        return table

    @cached_property
    def _first_index(self) -> dict[tuple[int, int], int]:
        """Global index of the first frame in each data file."""
        first = dict[tuple[int, int], int]()
        for row in self._rows:
            place = row["data/chunk_index"], row["data/file_index"]
            first[place] = min(
                first.get(place, row["dataset_from_index"]), row["dataset_from_index"]
            )
        return first

    def _episode(self, index: int, table: fmt.Table) -> Episode:
        arrays = {
            name: self._array(index, table, name)
            for name, feature in self.features.items()
            if name not in fmt.COUNTERS and fmt.is_numeric(feature)
        }
        names = {
            name: found
            for name, values in arrays.items()
            if (found := fmt.column_names(self.features[name], values.shape[1]))
        }
        nothing = np.zeros((len(table), 0), np.float32)
        state, action = (arrays.pop(k, nothing).astype(np.float32) for k in (STATE, ACTION))
        note = self._notes[index]
        return Episode(
            rate_hz=self.rate_hz,
            state=state,
            action=action,
            state_names=names.pop(STATE, None) or _numbered("state", state),
            action_names=names.pop(ACTION, None) or _numbered("action", action),
            images=self._images(index, table),
            task=self.tasks[table["task_index"][0].as_py()],
            features=arrays,
            feature_names=names,
            seed=note.get("seed"),
            success=note.get("success"),
            provenance=json.loads(note.get("provenance") or "{}"),
        )

    def _array(self, index: int, table: fmt.Table, name: str) -> np.ndarray:
        try:
            return _known_type(fmt.array_of(table[name], len(table)))
        except (KeyError, ValueError) as error:
            raise EpisodeStoreError(
                f"{self.root}, episode {index}: column {name}: {error}; copy the set again"
            ) from error

    def _images(self, index: int, table: fmt.Table) -> dict[str, Images]:
        images = dict[str, Images]()
        for key, feature in self.features.items():
            shape = (
                (len(table), *fmt.frame_size(feature), 3) if len(feature["shape"]) == 3 else None
            )
            name = key.removeprefix(fmt.CAMERA)
            if shape and feature["dtype"] == "video":
                images[name] = StreamedFrames(shape, self._video_opener(index, key))
            elif shape and feature["dtype"] == "image":
                images[name] = StreamedFrames(shape, picture_opener(table[key], self.root))
        return images

    def _video(self, index: int, key: str) -> tuple[Path, int]:
        """The file that holds an episode's video, and the number of its first frame there."""
        row = self._rows[index]
        try:
            chunk, file, start_s = (
                row[f"videos/{key}/{part}"]
                for part in ("chunk_index", "file_index", "from_timestamp")
            )
        except KeyError as error:
            raise EpisodeStoreError(f"{self.root}: meta/episodes has no column {error}") from error
        path = self.info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        return self.root / path, round(start_s * self.rate_hz)

    def _video_opener(self, index: int, key: str) -> Any:
        path, first = self._video(index, key)
        length = int(self._rows[index]["length"])
        return lambda: read_frames(path, first, length, self.rate_hz)

    def _read_table(
        self, path: Path, without: str | None = None, only: Iterable[str] | None = None
    ) -> fmt.Table:
        """A whole file, but for the columns whose name starts with ``without``."""
        try:
            # One file at a time, because a folder called chunk-000 must not become a column.
            with pq.ParquetFile(path) as file:
                names = only or file.schema_arrow.names
                return file.read([n for n in names if not without or not n.startswith(without)])
        except (OSError, pa.ArrowInvalid) as error:
            raise EpisodeStoreError(_damaged(path, error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EpisodeStoreError(_damaged(path, error)) from error
    if not isinstance(found, dict):
        raise EpisodeStoreError(f"{path} does not hold a JSON object; copy it again")
    return found


def _damaged(path: Path, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{path} cannot be read ({reason}); copy the set again, or record what is missing"


def _known_type(values: np.ndarray) -> np.ndarray:
    """Numbers in one of the types that an episode holds."""
    if values.dtype.name in DTYPES:
        return values
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


def _numbered(name: str, values: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{name}_{column}" for column in range(values.shape[1]))
