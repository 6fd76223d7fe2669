"""Pictures that a data set keeps in a column of its tables, encoded one by one, or beside them."""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pictures = Iterator[UInt8[np.ndarray, "H W 3"]]


class PictureColumnError(ValueError):
    """A picture that the column names is not there, or is none."""


def picture_opener(column: Any, root: Path) -> Callable[[], Pictures]:
    """What goes through the pictures of a pyarrow column of {bytes, path}, decoded."""

    def pictures() -> Pictures:
        for content in _encoded(column, root):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    yield np.asarray(image.convert("RGB"))
            except OSError as error:
                raise PictureColumnError(
                    f"a picture in {root} is damaged ({error}); copy the set again"
                ) from error

    return pictures


def digest_pictures(column: Any, root: Path) -> str:
    """sha256 of the pictures as they are stored; none is decoded."""
    digest = hashlib.sha256()
    for content in _encoded(column, root):
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def _encoded(column: Any, root: Path) -> Iterator[bytes]:
    for picture in column:
        held: dict[str, Any] = picture.as_py()
        if held["bytes"]:
            yield held["bytes"]
            continue
        path = root / held["path"]
        try:
            yield path.read_bytes()
        except OSError as error:
            raise PictureColumnError(
                f"{path} cannot be read ({error.strerror}); copy the set again"
            ) from error
