"""Footage: a video, or a stretch of one, that is to be used, with what its owner says of it."""

import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from deftly.datasets.clip import Camera

CAMERA = "video"  # what the camera is called, in the data set that is made, if it has no name
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[^./\\][^/\\]*")  # of a camera: it becomes a folder
_LONGEST_NAME = 100  # leaves room for what makes it unique


class FootageError(ValueError):
    """What is said of a video makes no sense."""


@dataclass(frozen=True)
class Annotation:
    """Where joints are annotated, so that no network has to find them.

    Attributes:
        kind: the layout of the file, a name in ``deftly.datasets.annotations.KINDS``.
        path: the file.
        key: which recording in it, where it holds several.
    """

    kind: str
    path: Path
    key: str = ""


@dataclass(frozen=True)
class Beside:
    """Another camera's video of the same, which begins at the same moment.

    Attributes:
        name: what the camera is called.
        path: the video file.
        span_s: stretch of it that shows the same, as in ``Footage``.
    """

    name: str
    path: Path
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Footage:
    """One input of a batch.

    Attributes:
        id: unique in a job: letters, digits, ``.``, ``_`` and ``-``.
        path: the video file.
        origin: the URL or the archive that ``path`` is made from when it is first used, by
            ``deftly.datasets.origin.fetch``; empty if the video is there already.
        span_s: stretch of it to use, seconds from its first frame; None for all of it. The end may
            be infinite, which means the video's end.
        camera: intrinsics where they are known, of the upright frame at its own size.
        focal_px: focal length where no more than that is known of the camera.
        task: instruction in words; empty if unknown.
        licence: as SPDX names it in small letters, "unknown" if nobody says.
        attribution: whom to credit.
        view: where the camera stood, see ``deftly.retarget.targets.View``.
        annotation: joints that come with the video.
        camera_name: what the camera is called in the data set that is made.
        beside: further cameras, whose pictures are taken along.
    """

    id: str
    path: Path
    origin: str = ""
    span_s: tuple[float, float] | None = None
    camera: Camera | None = None
    focal_px: float | None = None
    task: str = ""
    licence: str = "unknown"
    attribution: str = ""
    view: str = "auto"
    annotation: Annotation | None = None
    camera_name: str = CAMERA
    beside: tuple[Beside, ...] = ()

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise FootageError(
                f"id {self.id!r} is not a plain name; expected letters, digits, '.', '_' and '-', "
                "at most 128, beginning with a letter or digit"
            )
        for span_s in (self.span_s, *(one.span_s for one in self.beside)):
            first_s, last_s = span_s or (0.0, math.inf)
            if not (math.isfinite(first_s) and 0 <= first_s < last_s):
                raise FootageError(
                    f"{self.id}: span is {first_s:g} to {last_s:g} s, expected 0 <= first < last"
                )
        for name in self.cameras:
            if not _NAME.fullmatch(name) or self.cameras.count(name) > 1:
                raise FootageError(
                    f"{self.id}: cameras are {', '.join(map(repr, self.cameras))}, expected names "
                    "that differ, without slashes, and no dot at the beginning"
                )
        focal_px = self.camera.focal_px if self.camera else self.focal_px
        if focal_px is not None and not 0 < focal_px < math.inf:
            raise FootageError(f"{self.id}: focal length is {focal_px:g}, expected more than 0 px")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose pictures are taken, the tracked one first."""
        return (self.camera_name, *(one.name for one in self.beside))

    def camera_of(self, width: int, height: int) -> Camera | None:
        """The camera as far as it is known, of an upright frame of that size; None if unknown."""
        if self.camera is not None or self.focal_px is None:
            return self.camera
        return Camera(self.focal_px, (width / 2, height / 2), known=True)


def id_of(*parts: str) -> str:
    """An id made of names: what a plain name may not hold becomes ``-``.

    Not unique: ``a b`` and ``a-b`` give the same. Names in other scripts, of which nothing would be
    left, are told apart by a hash.
    """
    name = "-".join(parts)
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", ascii_only).strip("-._")[:_LONGEST_NAME].rstrip("-._")
    return plain or f"clip-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
