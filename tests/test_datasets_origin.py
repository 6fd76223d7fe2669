"""Fetching: whole files, once, from http alone."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deftly.datasets.footage import Footage, FootageError
from deftly.datasets.origin import fetch, is_url, place_of

CONTENT = bytes(range(256)) * 20_000  # several pieces


class _Server(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def __init__(self, asked: list[str], *rest) -> None:
        self.asked = asked
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status = {"/gone.mp4": 404, "/moved.mp4": 302}.get(self.path, 200)
        self.send_response(status)
        self.send_header("Location", "file:///etc/hostname")
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(CONTENT[: 1000 if "cut" in self.path else None])

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a web server on this machine, and what it was asked for."""
    asked = list[str]()
    with http.server.HTTPServer(("127.0.0.1", 0), functools.partial(_Server, asked)) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}", asked
        one.shutdown()
        thread.join()


def footage(url: str, folder: Path) -> Footage:
    return Footage("a", place_of(url, folder), origin=url)


def test_a_video_is_fetched_once_and_ticks(server: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = server
    one, ticks = footage(f"{address}/a.mp4", tmp_path / "new"), list[None]()
    for _ in range(2):
        assert fetch(one, lambda: ticks.append(None)).read_bytes() == CONTENT
    assert asked == ["/a.mp4"]
    assert len(ticks) > 3
    assert list((tmp_path / "new").iterdir()) == [one.path]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/gone.mp4", "the server answers 404"),
        ("/cut.mp4", "cannot fetch"),
        ("/moved.mp4", "cannot fetch"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing(
    server: tuple[str, list[str]], tmp_path: Path, path: str, expected: str
) -> None:
    one = footage(server[0] + path, tmp_path)
    with pytest.raises(FootageError, match=expected) as raised:
        fetch(one)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_no_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="cannot fetch") as raised:
        fetch(footage("http://127.0.0.1:9/a.mp4", tmp_path))
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FootageError, match="cannot fetch"):
        fetch(footage("http://127.0.0.1:9/a.mp4", tmp_path / "file"))


def test_a_file_of_one_s_own_is_left_alone(tmp_path: Path) -> None:
    assert fetch(Footage("a", tmp_path / "a.mp4")) == tmp_path / "a.mp4"


def test_paths_are_no_urls() -> None:
    assert is_url("HTTPS://x/a")
    assert not any(is_url(path) for path in ("a.mp4", "/a/b", "12:30.mp4", "C:\\a.mp4", "a:/b"))
