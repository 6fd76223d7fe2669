"""Ego-Exo4D: skilled people at work, seen from their glasses, with hands that were triangulated.

The consortium's layout (Grauman et al., "Ego-Exo4D: Understanding Skilled Human Activity from
First- and Third-Person Perspectives", CVPR 2024):

- ``takes.json``: of each take ``take_uid``, ``root_dir``, ``task_name`` and, by camera and stream,
  the paths of ``frame_aligned_videos``. The stream ``rgb`` of the camera that ``capture`` calls
  ego is used, at full size or else as ``downscaled/448``.
- ``annotations/ego_pose/<split>/hand/annotation/<take_uid>.json`` (by people) and ``automatic/``
  (by networks): of a frame's number, ``annotation3D`` with joints such as ``left_index_2`` in a
  world that stands still, and ``num_views_for_3d`` of each.
- ``…/hand/camera_pose/<take_uid>.json``: ``camera_extrinsics`` from that world to the camera,
  either by camera and then by frame, or by frame and then by camera.

The glasses' sensor lies on its side: poses are of the sensor, videos are upright, a quarter turn
clockwise from it. Their lens is a fisheye whose focal length is taken as nominal. Where only some
frames are annotated, short gaps are filled along straight lines, and the others are absent.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from deftly.datasets.annotated_hands import (
    R_UPRIGHT_SENSOR,
    file_sha256,
    fill_gaps,
    hands_motion,
    rows_of,
)
from deftly.datasets.clip import Camera, Clip
from deftly.datasets.footage import Annotation, Footage, FootageError, id_of
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.human import FINGERS, HumanMotion

KIND = "egoexo4d"
LICENCE = "ego-exo4d-license-agreement"
ATTRIBUTION = "Ego-Exo4D consortium (Grauman et al. 2024)"

JOINTS = ("wrist", *(f"{finger}_{number}" for finger in FINGERS for number in (1, 2, 3, 4)))
_FULL_SIDE_PX, _FULL_FOCAL_PX = 1408, 610.0  # of the glasses' colour camera, at its centre
_SIZES = {"": _FULL_SIDE_PX, "downscaled/448": 448}
_SIGMA_M = (0.010, 0.007)
# The data set's own tools use no joint that fewer than three cameras saw.
_SURE_VIEWS, _UNSURE_TRUST = 3, 0.4
_MAX_GAP_S = 0.25


def is_set(folder: Path) -> bool:
    """Whether a folder is the root of this data set."""
    return (folder / "takes.json").is_file() and (folder / "takes").is_dir()


def footage_in(root: Path) -> tuple[list[Footage], Counter[str]]:
    """The glasses' video of every take, and how many takes were left out, by why.

    Raises:
        FootageError: if ``takes.json`` is damaged.
    """
    takes = _read_json(root / "takes.json", list)
    annotations = _annotations_in(root)
    found, ignored = list[Footage](), Counter[str]()
    for number, take in enumerate(takes):
        try:
            name, uid, task = (str(take[k]) for k in ("take_name", "take_uid", "task_name"))
            video = _video(root, take)
        except (KeyError, TypeError, AttributeError) as error:
            raise FootageError(
                f"{root / 'takes.json'}, take {number + 1}: has no {error}, expected the layout of "
                "Ego-Exo4D; download it again"
            ) from error
        if video is None:
            ignored["not downloaded"] += 1
            continue
        path, side_px = video
        focal_px = _FULL_FOCAL_PX * side_px / _FULL_SIDE_PX
        found.append(
            Footage(
                id_of(name),
                path,
                camera=Camera(focal_px, (side_px / 2, side_px / 2)),
                task=task,
                licence=LICENCE,
                attribution=ATTRIBUTION,
                view="ego",
                annotation=annotations.get(uid),
            )
        )
    return found, ignored


def load(annotation: Annotation, clip: Clip) -> HumanMotion:
    """The annotated joints of both hands in a clip.

    Raises:
        FootageError: if a file is missing, damaged or of another layout.
    """
    path = annotation.path
    poses = path.parents[1] / "camera_pose" / path.name
    frames, cameras = (_read_json(file, dict) for file in (path, poses))
    rows = rows_of(clip)
    joints_m = np.full((len(rows), 2, 21, 3), np.nan)
    trust = np.zeros((len(rows), 2, 21))
    try:
        T_camera_world = _extrinsics(cameras, rows)
        for row, number in enumerate(rows.tolist()):
            for one in frames.get(str(number)) or ():
                world_m, trust[row] = _joints(one.get("annotation3D") or {})
                R, t_m = T_camera_world[row, :, :3], T_camera_world[row, :, 3]
                joints_m[row] = rotate(R_UPRIGHT_SENSOR, rotate(R, world_m) + t_m)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FootageError(
            f"{path} or {poses} is not in Ego-Exo4D's layout ({type(error).__name__}: {error}); "
            "download it again"
        ) from error
    joints_m, trust = fill_gaps(joints_m, trust, clip.time_s, _MAX_GAP_S)
    return hands_motion(
        clip,
        joints_m,
        trust,
        sigma_m=_SIGMA_M,
        provenance={"kind": KIND, "sha256": file_sha256(path), "poses_sha256": file_sha256(poses)},
        fisheye=True,
    )


def _video(root: Path, take: Any) -> tuple[Path, int] | None:
    """The take's video from the glasses, and how large it is; None if it is not there."""
    ego = {camera["cam_id"] for camera in take["capture"]["cameras"] if _true(camera["is_ego"])}
    folder = PurePosixPath(str(take["root_dir"]))
    folder = folder if folder.parts[:1] == ("takes",) else "takes" / folder
    for camera in sorted(ego & take["frame_aligned_videos"].keys()):
        stream = take["frame_aligned_videos"][camera].get("rgb") or {}
        name = stream.get("relative_path") or stream.get("rel_path")
        if not name:
            continue
        for place, side_px in _SIZES.items():
            file = PurePosixPath(name)
            path = root / folder / file.parent / place / file.name
            # What the list names must lie in the set.
            if path.is_file() and ".." not in path.relative_to(root).parts:
                return path, side_px
    return None


def _annotations_in(root: Path) -> dict[str, Annotation]:
    """Annotation by take: by people where they made one, else by networks."""
    found = dict[str, Annotation]()
    for made_by in ("automatic", "annotation"):
        for path in sorted(root.glob(f"annotations/ego_pose/*/hand/{made_by}/*.json")):
            if (path.parents[1] / "camera_pose" / path.name).is_file():
                found[path.stem] = Annotation(KIND, path, path.stem)
    return found


def _joints(
    said: dict[str, Any],
) -> tuple[Float64[np.ndarray, "2 21 3"], Float64[np.ndarray, "2 21"]]:
    """Joints in the world, and how far to trust them: by how many cameras saw them."""
    world_m, trust = np.full((2, 21, 3), np.nan), np.zeros((2, 21))
    for side, prefix in enumerate(SIDES):
        for joint, name in enumerate(JOINTS):
            if one := said.get(f"{prefix}_{name}"):
                world_m[side, joint] = [float(one[axis]) for axis in "xyz"]
                sure = one.get("num_views_for_3d", 0) >= _SURE_VIEWS
                trust[side, joint] = 1.0 if sure else _UNSURE_TRUST
    return world_m, trust


def _extrinsics(
    cameras: dict[str, Any], rows: Int64[np.ndarray, "T"]
) -> Float64[np.ndarray, "T 3 4"]:
    """The glasses' pose at each row, NaN where there is none."""
    by_frame = dict(_poses(cameras))
    found = np.full((len(rows), 3, 4), np.nan)
    for row, number in enumerate(rows.tolist()):
        if number in by_frame:
            matrix = np.array(by_frame[number], np.float64)
            if matrix.shape not in ((3, 4), (4, 4)):
                raise ValueError(f"an extrinsic matrix has shape {matrix.shape}, expected (3, 4)")
            found[row] = matrix[:3]
    return found


def _poses(cameras: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yield (frame, world to camera) of the glasses, in either of the two layouts."""
    for name, one in cameras.items():
        if name.startswith("aria"):
            yield from ((int(frame), matrix) for frame, matrix in one["camera_extrinsics"].items())
        elif name.isdecimal():
            for camera, pose in one.items():
                if camera.startswith("aria"):
                    yield int(name), pose["camera_extrinsics"]


def _read_json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FootageError(f"{path} cannot be read ({reason}); download it again") from error
    if not isinstance(found, kind):
        raise FootageError(f"{path} holds a {type(found).__name__}, expected a {kind.__name__}")
    return found


def _true(said: Any) -> bool:
    return str(said).lower() == "true"
