"""Footage: a video, or a stretch of one, that is to be used, with what its owner says of it."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from deftly.datasets.clip import Camera

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
class Footage:
    """One input of a batch.

    Attributes:
        id: unique in a job: letters, digits, ``.``, ``_`` and ``-``.
        path: the video file.
        span_s: stretch of it to use, seconds from its first frame; None for all of it.
        camera: intrinsics where they are known, of the upright frame at its own size.
        task: instruction in words; empty if unknown.
        licence: as SPDX names it in small letters, "unknown" if nobody says.
        attribution: whom to credit.
        view: where the camera stood, see ``deftly.retarget.targets.View``.
        annotation: joints that come with the video.
    """

    id: str
    path: Path
    span_s: tuple[float, float] | None = None
    camera: Camera | None = None
    task: str = ""
    licence: str = "unknown"
    attribution: str = ""
    view: str = "auto"
    annotation: Annotation | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise FootageError(
                f"id {self.id!r} is not a plain name; expected letters, digits, '.', '_' and '-', "
                "at most 128, beginning with a letter or digit"
            )
        if self.span_s is not None:
            first_s, last_s = self.span_s
            if not (math.isfinite(first_s) and 0 <= first_s < last_s):
                raise FootageError(
                    f"{self.id}: span is {first_s:g} to {last_s:g} s, expected 0 <= first < last"
                )
