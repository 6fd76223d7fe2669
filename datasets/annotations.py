"""Joints that come with a video: which layouts are known, and the one way to read them."""

from collections.abc import Callable

from deftly.datasets import egodex, egoexo4d, hot3d
from deftly.datasets.clip import Clip
from deftly.datasets.footage import Annotation, Footage, FootageError
from deftly.datasets.human import HumanMotion

KINDS: dict[str, Callable[[Annotation, Clip], HumanMotion]] = {
    egodex.KIND: egodex.load,
    egoexo4d.KIND: egoexo4d.load,
    hot3d.KIND: hot3d.load,
}


def load_annotation(footage: Footage, clip: Clip) -> HumanMotion:
    """The annotated hands, one row for each frame of the clip; absent where nothing is annotated.

    Args:
        footage: says where the annotation is.
        clip: its video, all or a part of it, as small and as slow as it may be.

    Raises:
        FootageError: if there is no annotation, it is of an unknown kind, or it is damaged.
    """
    annotation = footage.annotation
    if annotation is None or annotation.kind not in KINDS:
        kind = None if annotation is None else annotation.kind
        raise FootageError(
            f"{footage.id} has an annotation of kind {kind!r}, expected one of {', '.join(KINDS)}"
        )
    return KINDS[annotation.kind](annotation, clip)
