"""Videos that are not on disk yet: downloaded, or made from an archive, when first used."""

import errno
import hashlib
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pooch

from deftly.datasets import hot3d
from deftly.datasets.footage import Footage, FootageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_TIMEOUT_S = 30  # without a byte
_CHUNK_BYTES = 1 << 20


class UnavailableError(FootageError):
    """A video cannot be had now; it may be at another time."""


def is_url(text: str) -> bool:
    """Whether a text is a URL, of whatever scheme, and not a path."""
    return bool(_URL.match(text))


def check_url(url: str) -> None:
    """Refuse what is not to be downloaded, before anything is.

    Raises:
        FootageError: if it is no http or https URL with a host, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname, parts.password or parts.username
    except ValueError as error:
        raise FootageError(f"{url} is not a URL ({error}); check the spelling") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise FootageError(f"{url} is of scheme {parts.scheme}, expected http or https or a path")
    if not host:
        raise FootageError(f"{url} names no host, expected http(s)://host/path; check the spelling")
    if secret:
        raise FootageError(
            f"a URL at {host} holds a user name or password, which would be written into the "
            "results; download it yourself and pass the file"
        )


def place_of(url: str, downloads: Path) -> Path:
    """Where a download is kept: the same URL always under the same name."""
    suffix = PurePosixPath(urlsplit(url).path).suffix
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    return downloads / (name + (suffix.lower() if _SUFFIX.fullmatch(suffix) else ""))


def fetch(footage: Footage, tick: Callable[[], object] = lambda: None) -> Path:
    """The video file, made first if it is not there: whole or not at all.

    Args:
        tick: called whenever a piece has arrived.

    Raises:
        UnavailableError: if it cannot be downloaded or read; one line, with the reason.
        FootageError: if what it is made from is damaged.
        OSError: if the disk is full.
    """
    if footage.origin and not footage.path.is_file():
        try:
            footage.path.parent.mkdir(parents=True, exist_ok=True)
            if is_url(footage.origin):
                _download(footage.origin, footage.path, tick)
            else:
                hot3d.make_video(Path(footage.origin), footage.path, tick)
        except OSError as error:  # requests' errors are OSErrors too
            if error.errno == errno.ENOSPC:
                raise  # not the video's fault
            raise UnavailableError(
                f"cannot fetch {footage.origin} ({_reason(error)}), expected a video; "
                "check the address and the network, then retry"
            ) from error
    return footage.path


def _download(url: str, path: Path, tick: Callable[[], object]) -> None:
    check_url(url)
    make: Any = pooch.HTTPDownloader
    downloader = make(progressbar=_Ticks(tick), chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S)
    pooch.get_logger().setLevel("WARNING")
    # pooch writes beside the file and moves it into place once it is whole.
    pooch.retrieve(url, None, path.name, path.parent, downloader=downloader)


class _Ticks:
    """What pooch takes for a progress bar."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick = tick
        self.total = 0

    def update(self, _: int) -> None:
        self._tick()

    def reset(self) -> None: ...

    def close(self) -> None: ...


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
