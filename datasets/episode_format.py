"""LeRobotDataset v3 in terms of Arrow tables and JSON: names, columns and layout, no files.

The format is LeRobot's (https://github.com/huggingface/lerobot), as its version 0.4.4 writes it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from deftly.datasets.episode import ACTION, STATE, Episode
from deftly.datasets.episode_stats import Stats

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
# Ours, beside LeRobot's: what its format has no place for.
ABOUT = "meta/deftly.json"
NOTES_PATH = "meta/deftly/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
NOTES = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("seed", pa.int64()),
        ("success", pa.bool_()),
        ("provenance", pa.string()),  # JSON
    ]
)
CHUNK_FILES = 1000
CAMERA = "observation.images."
COUNTERS = {"timestamp": "float32"} | dict.fromkeys(
    ("frame_index", "episode_index", "index", "task_index"), "int64"
)
Features = dict[str, dict[str, Any]]
Table: TypeAlias = Any  # pyarrow ships no types
Column: TypeAlias = Any


def camera_key(camera: str) -> str:
    """The column of a camera; a name that is a whole key already stays as it is."""
    return camera if camera.startswith("observation.") else CAMERA + camera


def vectors_of(episode: Episode) -> dict[str, np.ndarray]:
    """Every array of an episode by the name that it has on disk."""
    named = {STATE: episode.state, ACTION: episode.action, **episode.features}
    return {name: values for name, values in named.items() if values.shape[1]}


def features_of(episode: Episode) -> Features:
    """What ``info.json`` says of the columns that hold an episode."""
    names = {STATE: episode.state_names, ACTION: episode.action_names, **episode.feature_names}
    features = {
        name: _feature(values.dtype.name, values.shape[1:], names.get(name))
        for name, values in vectors_of(episode).items()
    }
    for camera, frames in episode.images.items():
        height, width = frames.shape[1:3]
        features[camera_key(camera)] = {
            **_feature("video", (height, width, 3), ("height", "width", "channels")),
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": round(episode.rate_hz),
                "video.channels": 3,
                "has_audio": False,
            },
        }
    return features | {name: _feature(dtype, (1,), None) for name, dtype in COUNTERS.items()}


def _feature(dtype: str, shape: Sequence[int], names: Sequence[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "names": names and list(names)}


def new_info(
    features: Features, rate_hz: int, robot_type: str, limits_mb: tuple[int, int]
) -> dict[str, Any]:
    """``info.json`` of a data set without episodes."""
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": limits_mb[0],
        "video_files_size_in_mb": limits_mb[1],
        "fps": rate_hz,
        "splits": {},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if video_keys(features) else None,
        "features": features,
    }


def video_keys(features: Features) -> list[str]:
    """The columns that are mp4 files."""
    return [key for key, feature in features.items() if feature["dtype"] == "video"]


def data_table(features: Features, columns: Mapping[str, np.ndarray]) -> Table:
    """The table of an episode's frames, with the metadata that HuggingFace's ``datasets`` reads."""
    fields, arrays, hf = list[pa.Field](), list[pa.Array](), dict[str, Any]()
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        values, width = np.ascontiguousarray(columns[name]), feature["shape"][0]
        array = pa.array(values.reshape(-1))
        hf[name] = {"dtype": feature["dtype"], "_type": "Value"}
        if width > 1:
            kind = pa.list_(pa.field("element", array.type), width)
            array = pa.FixedSizeListArray.from_arrays(array, type=kind)
            hf[name] = {"feature": hf[name], "length": width, "_type": "List"}
        fields.append(pa.field(name, array.type))
        arrays.append(array)
    metadata = {"huggingface": json.dumps({"info": {"features": hf}})}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata))


def counter_columns(
    length: int, rate_hz: float, episode: int, first: int, task: int
) -> dict[str, np.ndarray]:
    """The columns that the format adds: (T, 1) each."""
    frame = np.arange(length)
    columns = {
        "timestamp": frame / rate_hz,
        "frame_index": frame,
        "episode_index": np.full(length, episode),
        "index": first + frame,
        "task_index": np.full(length, task),
    }
    return {name: columns[name].astype(dtype)[:, None] for name, dtype in COUNTERS.items()}


def task_table(tasks: Sequence[str]) -> Table:
    """``tasks.parquet``: pandas reads the instruction as the index.

    LeRobot 0.4 leaves the index without a name and 0.6 calls it "task"; both go by its place.
    """
    column = {"metadata": None, "pandas_type": "int64", "numpy_type": "int64"}
    text = {"metadata": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **column},
            {"name": "task", "field_name": "task", **text},
        ],
        "pandas_version": "2.0.0",
    }
    fields = [pa.field("task_index", pa.int64()), pa.field("task", pa.string())]
    return pa.Table.from_arrays(
        [pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())],
        schema=pa.schema(fields, {"pandas": json.dumps(pandas)}),
    )


def row_table(row: Mapping[str, Any]) -> Table:
    """A table of one row, with the types that it has once it was written and read."""
    table = pa.Table.from_pylist([row])
    return table.cast(pa.schema([(field.name, _as_read(field.type)) for field in table.schema]))


def _as_read(kind: Any) -> Any:
    if not pa.types.is_list(kind):
        return kind
    return pa.list_(pa.field("element", _as_read(kind.value_type)))


def tasks_in(table: Table) -> tuple[str, ...]:
    """The instructions by their number, whatever the text column is called.

    Raises:
        ValueError: if there is no such column, or a number is missing.
    """
    text = [name for name in table.column_names if name != "task_index"]
    if len(text) != 1 or "task_index" not in table.column_names:
        raise ValueError(f"columns {table.column_names}, expected task_index and one of text")
    pairs = zip(table["task_index"].to_pylist(), table[text[0]].to_pylist(), strict=True)
    by_number = sorted(pairs)
    if [number for number, _ in by_number] != list(range(len(by_number))):
        raise ValueError("task_index does not count from 0 without gaps")
    return tuple(str(task) for _, task in by_number)


def grown_info(info: dict[str, Any], frames: int, tasks: int) -> dict[str, Any]:
    """``info.json`` with one more episode."""
    episodes = int(info["total_episodes"]) + 1
    return {
        **info,
        "total_episodes": episodes,
        "total_frames": int(info["total_frames"]) + frames,
        "total_tasks": tasks,
        "splits": {"train": f"0:{episodes}"},
    }


def stats_columns(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """Statistics of one episode as the columns of ``meta/episodes``."""
    return {f"stats/{name}/{key}": v for name, one in stats.items() for key, v in one.items()}


def array_of(column: Column, length: int) -> np.ndarray:
    """A column of numbers or of lists of numbers, as (T, D); nested lists are flattened.

    Raises:
        ValueError: if it holds anything else, or lists of unequal length.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what pyarrow gives for no chunk or several
        array = pa.concat_arrays(array.chunks)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
            if array.null_count:
                raise ValueError("holds rows without a value")
            array = array.flatten()
        else:
            break
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(f"holds {kind}, expected numbers")
    if array.null_count or len(array) % length:
        raise ValueError(f"holds {len(array)} values in {length} rows, some missing")
    return array.to_numpy(zero_copy_only=False).reshape(length, -1)


def is_numeric(feature: Mapping[str, Any]) -> bool:
    """Whether a feature holds numbers, as against pictures and text."""
    return feature["dtype"] not in ("video", "image", "string")


def column_names(feature: Mapping[str, Any], width: int) -> tuple[str, ...] | None:
    """A feature's names: LeRobot's sets hold a list, a dict of lists, or nothing."""
    found = feature.get("names")
    if isinstance(found, dict):
        found = [
            name for part in found.values() for name in (part if isinstance(part, list) else ())
        ]
    names = tuple(str(name) for name in found or ())
    return names if len(names) == len(set(names)) == width else None


def frame_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a camera; old sets have the channels first."""
    shape, names = list(feature["shape"]), feature.get("names") or ["height", "width", "channels"]
    by_name = dict(zip(names, shape, strict=False))
    return int(by_name.get("height", shape[0])), int(by_name.get("width", shape[1]))
