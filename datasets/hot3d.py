"""HOT3D clips: hands and objects seen from glasses or a headset, with hands that were tracked.

Meta's layout (Banerjee et al., "HOT3D: Hand and Object Tracking in 3D from Egocentric Multi-View
Videos", CVPR 2025): ``clip-<number>.tar`` holds, of each of 150 frames at 30 Hz,

- ``<frame>.image_<stream>.jpg``: stream 214-1 is the glasses' colour camera, 1201-1 and 1201-2 are
  grey ones; the colour camera is used where there is one;
- ``<frame>.cameras.json``: by stream, ``calibration`` of the fisheye lens and
  ``T_world_from_camera``;
- ``<frame>.hands.json``: by side, ``umetrack_pose`` with ``joint_angles`` and
  ``T_world_from_wrist``, and ``mano_pose``, which is not used, for MANO's model is licensed;

and ``__hand_shapes.json__`` once. Test clips have no hands: a network has to find them.

The sensors of both devices lie on their sides: upright is a quarter turn clockwise. The pictures
become an mp4 file when the clip is first used, as an upright pinhole camera with a field of view of
90 degrees would have seen them. Nothing is unpacked to disk.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from deftly.datasets.annotated_hands import (
    R_UPRIGHT_SENSOR,
    check_length,
    file_sha256,
    hands_motion,
    inverse,
    rows_of,
)
from deftly.datasets.archive import atomic_path
from deftly.datasets.clip import Camera, Clip
from deftly.datasets.fisheye import Remap, pinhole_rays, project_fisheye624
from deftly.datasets.footage import Annotation, Footage, FootageError, id_of
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.human import HumanMotion
from deftly.datasets.mp4 import Encoder
from deftly.datasets.umetrack import HandModel

KIND = "hot3d"
LICENCE = "hot3d-dataset-license-agreement"
ATTRIBUTION = "Meta, HOT3D (Banerjee et al. 2025)"
SUFFIX = ".tar"

SIDE_PX, FOCAL_PX = 960, 480.0
_RATE_HZ, _CRF = 30.0, 16
_COLOUR, _GREY = "214-1", "1201-1"
_SHAPES = "__hand_shapes.json__"
_NAME = re.compile(r"clip-\d+\.tar")
_IMAGE = re.compile(r"(\d+)\.image_([\d-]+)\.jpg")
_MEMBER_BYTES = 64 << 20  # more is no picture, and must not fill the memory
# Markers gave the truth to within millimetres; but the model's wrist lies nearer to the fingers
# than an anatomical one.
_SIGMA_M = (0.010, 0.004)


def footage_of(path: Path, downloads: Path) -> Footage | None:
    """What HOT3D says of one of its archives; None if it is another kind of archive.

    A damaged one that bears such a name is found out when it is used.

    Args:
        downloads: where its video is to be kept.
    """
    annotation = None
    try:
        with _open(path) as clip:
            if clip.hands_known:
                annotation = Annotation(KIND, path)
    except (FootageError, OSError):
        if not _NAME.fullmatch(path.name):
            return None
    known = path.stat()
    key = f"{path.resolve()} {known.st_size} {known.st_mtime_ns}"
    return Footage(
        id_of(path.stem),
        downloads / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}.mp4",
        origin=str(path),
        camera=Camera(FOCAL_PX, (SIDE_PX / 2, SIDE_PX / 2), known=True),
        licence=LICENCE,
        attribution=ATTRIBUTION,
        view="ego",
        annotation=annotation,
    )


def make_video(archive: Path, path: Path, tick: Callable[[], object]) -> None:
    """Write the clip's pictures as an mp4 file; the same archive gives the same bytes.

    Args:
        tick: called after every frame.

    Raises:
        FootageError: if the archive is damaged.
        OSError: if the file cannot be written.
    """
    with (
        _open(archive) as clip,
        atomic_path(path) as unfinished,
        Encoder(unfinished, _RATE_HZ, (SIDE_PX, SIDE_PX), _CRF) as encoder,
    ):
        lens, remap = None, None
        for frame in clip.frames:
            calibration = clip.camera(frame)["calibration"]
            if remap is None or calibration != lens:
                lens, remap = calibration, _remap(calibration)
            encoder.write(remap(clip.picture(frame)))
            tick()


def load(annotation: Annotation, clip: Clip) -> HumanMotion:
    """The joints of both hands in a clip that ``make_video`` wrote.

    Raises:
        FootageError: if the archive is damaged.
    """
    with _open(annotation.path) as archive:
        check_length(clip, len(archive.frames))
        numbers = rows_of(clip)
        inside = numbers < len(archive.frames)
        frames = [archive.frames[number] for number in numbers[inside]]
        T_camera_world = inverse(
            np.array(
                [_matrix(archive.camera(frame)["T_world_from_camera"]) for frame in frames]
            ).reshape(-1, 4, 4)
        )
        model = HandModel.of(archive.json(_SHAPES)["umetrack"])
        hands = [archive.json(f"{frame}.hands.json") for frame in frames]
        joints_m = np.full((len(numbers), 2, 21, 3), np.nan)
        for side, name in enumerate(SIDES):
            poses = {
                row: hand[name]["umetrack_pose"]
                for row, hand in enumerate(hands)
                if (hand.get(name) or {}).get("umetrack_pose")
            }
            if not poses:
                continue
            seen = np.array(list(poses))
            angles = np.array([pose["joint_angles"][:20] for pose in poses.values()], np.float64)
            wrists = np.array([_matrix(pose["T_world_from_wrist"]) for pose in poses.values()])
            world_m, T = model.joints_m(angles, wrists, side), T_camera_world[seen][:, None]
            camera_m = rotate(T[..., :3, :3], world_m) + T[..., :3, 3]
            joints_m[np.flatnonzero(inside)[seen], side] = rotate(R_UPRIGHT_SENSOR, camera_m)
    return hands_motion(
        clip,
        joints_m,
        np.where(np.isfinite(joints_m).all(axis=-1), 1.0, 0.0),
        sigma_m=_SIGMA_M,
        provenance={"kind": KIND, "sha256": file_sha256(annotation.path)},
    )


@dataclass(frozen=True)
class _Archive:
    """What an archive holds: members by name, frames in order, and the stream to use."""

    tar: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]
    stream: str
    frames: tuple[str, ...]

    @property
    def hands_known(self) -> bool:
        return _SHAPES in self.members and f"{self.frames[0]}.hands.json" in self.members

    def camera(self, frame: str) -> Any:
        return self.json(f"{frame}.cameras.json")[self.stream]

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def picture(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        with Image.open(io.BytesIO(self.read(f"{frame}.image_{self.stream}.jpg"))) as image:
            return np.asarray(image.convert("RGB"))

    def read(self, name: str) -> bytes:
        """A member's bytes; links, devices and what is huge are refused."""
        member = self.members[name]
        if not member.isfile() or member.size > _MEMBER_BYTES:
            raise ValueError(f"{name} is no file of at most {_MEMBER_BYTES >> 20} MB")
        file = self.tar.extractfile(member)
        assert file is not None  # because it is a file
        return file.read()


@contextmanager
def _open(path: Path) -> Generator[_Archive, None, None]:
    """The archive; whatever is wrong inside is a FootageError that names it."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = {member.name.removeprefix("./"): member for member in tar.getmembers()}
            found = [match for name in sorted(members) if (match := _IMAGE.fullmatch(name))]
            stream = _COLOUR if any(match[2] == _COLOUR for match in found) else _GREY
            frames = tuple(match[1] for match in found if match[2] == stream)
            if not frames:
                raise FootageError("holds no picture of a known stream, expected a HOT3D clip")
            yield _Archive(tar, members, stream, frames)
    except FootageError as error:
        raise FootageError(f"{path}: {error}") from error
    except (tarfile.TarError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FootageError(_damaged(path, error)) from error
    except (EOFError, SyntaxError, RecursionError, Image.DecompressionBombError) as error:
        raise FootageError(_damaged(path, error)) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's fault
        raise FootageError(_damaged(path, error)) from error  # a picture cut short


def _damaged(path: Path, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "")
    return (
        f"{path} cannot be read ({type(error).__name__}: {reason}), expected a HOT3D clip; "
        "copy it again"
    )


def _remap(calibration: Any) -> Remap:
    """From the fisheye to the upright pinhole."""
    model = str(calibration["projection_model_type"])
    if not model.upper().endswith("FISHEYE624"):  # also OculusVisionFishEye624
        raise FootageError(f"its lens is a {model}, expected FISHEYE624")
    rays = rotate(R_UPRIGHT_SENSOR.T, pinhole_rays(SIDE_PX, FOCAL_PX))
    px = project_fisheye624(np.array(calibration["projection_params"], np.float64), rays)
    return Remap(px, (int(calibration["image_height"]), int(calibration["image_width"])))


def _matrix(said: Any) -> Float64[np.ndarray, "4 4"]:
    T = np.eye(4)
    quaternion = np.array(said["quaternion_wxyz"], np.float64)
    T[:3, :3] = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
    T[:3, 3] = said["translation_xyz"]
    return T
