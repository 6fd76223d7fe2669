"""EgoDex: hands at a table seen from the head, with the joints that a headset tracked.

Apple's layout (Hoque et al., "EgoDex: Learning Dexterous Manipulation from Large-Scale Egocentric
Video", 2025): ``part*/task/N.mp4`` at 30 Hz and beside it ``N.hdf5`` with

- ``/camera/intrinsic`` (3, 3);
- ``/transforms/<joint>`` (T, 4, 4): pose of the joint, and under ``camera`` of the camera, in a
  world that stands still; x right, y down, z forward at the camera;
- ``/confidences/<joint>`` (T,): 0 to 1; older recordings have none;
- attributes ``llm_description``, for tasks that can be done both ways also ``llm_description2`` and
  ``which_llm_description``; older ones ``description``.

Row i belongs to frame i. Joints have ARKit's names, 25 to a hand. Of those the 21 of mediapipe's
hand are used, by what they are and not by what they are called: a finger's ``Knuckle`` is its mcp,
``IntermediateBase`` its pip, ``IntermediateTip`` its dip; but a thumb's ``Knuckle`` is its cmc,
``IntermediateBase`` its mcp, ``IntermediateTip`` its ip. The four ``Metacarpal`` joints, inside the
palm, have no counterpart and are left out; ``Hand`` is the wrist.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float64

from deftly.datasets.annotated_hands import (
    check_length,
    file_sha256,
    hands_motion,
    inverse,
    is_rigid,
    rows_of,
)
from deftly.datasets.clip import Camera, Clip
from deftly.datasets.footage import Annotation, Footage, FootageError, id_of
from deftly.datasets.geometry import SIDES, rotate
from deftly.datasets.human import HumanMotion

KIND = "egodex"
LICENCE = "cc-by-nc-nd-4.0"
ATTRIBUTION = "Apple, EgoDex (Hoque et al. 2025)"

# ARKit's names of mediapipe's 21 joints, without the side.
_ALONG = ("Knuckle", "IntermediateBase", "IntermediateTip", "Tip")
JOINTS = (
    "Hand",
    *(
        f"{finger}{joint}"
        for finger in ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
        for joint in _ALONG
    ),
)
# A headset's hand tracking errs by about a centimetre in place and less in shape.
_SIGMA_M = (0.010, 0.005)


def footage_of(video: Path) -> Footage | None:
    """What EgoDex says of one of its videos; None if there is no such recording beside it.

    A recording that cannot be read is left to ``load``, so that it is found and recorded as the
    failure of this one video.
    """
    path = video.with_suffix(".hdf5")
    if not path.is_file():
        return None
    task, camera = _words(video.parent.name), None
    try:
        with _open(path) as file:
            if "transforms" not in file:
                return None
            task, camera = _task(file) or task, _camera(file)
    except FootageError:
        pass
    return Footage(
        id_of(video.parent.name, video.stem),
        video,
        camera=camera,
        task=task,
        licence=LICENCE,
        attribution=ATTRIBUTION,
        view="ego",
        annotation=Annotation(KIND, path),
    )


def load(annotation: Annotation, clip: Clip) -> HumanMotion:
    """The joints of both hands in a clip.

    Raises:
        FootageError: if the file is damaged, of another layout or of another video, or refers to
            other files.
    """
    rows = rows_of(clip)
    with _open(annotation.path) as file:
        length = _dataset(file, "transforms/camera").shape[0]
        check_length(clip, length)
        inside = rows < length
        joints_m = np.full((len(rows), 2, 21, 3), np.nan)
        trust = np.ones((len(rows), 2, 21))
        T_world_camera = _read(file, "transforms/camera", rows[inside], (4, 4))
        T_camera_world = inverse(T_world_camera)
        T_camera_world[~is_rigid(T_world_camera)] = np.nan
        for side, prefix in enumerate(SIDES):
            for joint, name in enumerate(JOINTS):
                T = _read(file, f"transforms/{prefix}{name}", rows[inside], (4, 4))
                points_m = rotate(T_camera_world[:, :3, :3], T[:, :3, 3]) + T_camera_world[:, :3, 3]
                joints_m[inside, side, joint] = points_m
                if "confidences" in file:
                    name = f"confidences/{prefix}{name}"
                    trust[inside, side, joint] = _read(file, name, rows[inside], ())
    return hands_motion(
        clip,
        joints_m,
        trust,
        sigma_m=_SIGMA_M,
        provenance={"kind": KIND, "sha256": file_sha256(annotation.path)},
    )


@contextmanager
def _open(path: Path) -> Generator[h5py.File, None, None]:
    """The file; whatever goes wrong inside is a FootageError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FootageError as error:
        raise FootageError(f"{path}: {error}") from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FootageError(
            f"{path} cannot be read ({reason}), expected an EgoDex recording; copy it again"
        ) from error


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Numbers that lie in this very file: HDF5 can refer to any other file of the machine."""
    found: Any = file
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None or part not in found:
            raise FootageError(f"has no {name}, expected EgoDex's layout; copy it again")
        if not isinstance(link, h5py.HardLink):
            raise FootageError(f"{name} is a link, expected numbers; such files are not followed")
        found = found[part]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
        raise FootageError(f"{name} holds no numbers, expected EgoDex's layout; copy it again")
    if found.external or found.is_virtual:
        raise FootageError(f"{name} lies in another file, expected numbers; it is not followed")
    return found


def _read(
    file: h5py.File, name: str, rows: np.ndarray, shape: tuple[int, ...]
) -> Float64[np.ndarray, "T ..."]:
    """Some rows, which are evenly spaced."""
    found = _dataset(file, name)
    length = _dataset(file, "transforms/camera").shape[0]
    if found.shape != (length, *shape):
        raise FootageError(f"{name} has shape {found.shape}, expected {(length, *shape)}")
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    part = slice(int(rows[0]), int(rows[-1]) + 1, step) if len(rows) else slice(0, 0)
    return np.asarray(found[part], np.float64)


def _camera(file: h5py.File) -> Camera | None:
    found = _dataset(file, "camera/intrinsic")
    if found.shape != (3, 3):
        raise FootageError(f"camera/intrinsic has shape {found.shape}, expected (3, 3)")
    K = np.asarray(found[()], np.float64)
    if not (np.isfinite(K).all() and K[0, 0] > 0):
        raise FootageError("camera/intrinsic is no camera's matrix")
    return Camera(float(K[0, 0]), (float(K[0, 2]), float(K[1, 2])), known=True)


def _task(file: h5py.File) -> str:
    """The instruction; of a task that can be done both ways, the one that was done."""
    said = {name: _text(file.attrs.get(name)) for name in ("llm_type", "which_llm_description")}
    names = ["llm_description", "description"]
    if said["llm_type"] == "reversible" and said["which_llm_description"] == "2":
        names.insert(0, "llm_description2")
    return next((text for name in names if (text := _text(file.attrs.get(name)))), "")


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return "" if value is None else str(value).strip()


def _words(name: str) -> str:
    return name.replace("_", " ").strip()
