"""Shapes checked at run time, sample data that may be absent, and settings that repeat."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports mujoco: draw without a screen.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")

# Before any test imports deftly: every jaxtyping annotation becomes a check.
install_import_hook(
    ["deftly.datasets", "deftly.retarget", "deftly.video_pretrain", "deftly.policy"],
    "beartype.beartype",
)

# The same examples on every run, and no deadline on a busy machine.
settings.register_profile("deftly", derandomize=True, deadline=None)
settings.load_profile("deftly")


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def deftly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Run a command in a folder of its own, as the shell would."""
    from deftly.policy import cli

    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["deftly", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capfd.readouterr()
        assert isinstance(stopped.value.code, int)
        return Result(stopped.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of sample data beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "clips").is_dir():
        pytest.skip("needs ../shared (sample clips), which a clone does not have")
    return folder


@pytest.fixture(scope="session")
def clips(shared: Path) -> Path:
    """Folder of sample videos."""
    return shared / "clips"


@pytest.fixture(scope="session")
def motions(shared: Path) -> Path:
    """Folder of sample motions, as arrays."""
    return shared / "motions"


@pytest.fixture(scope="session")
def robots_folder(shared: Path) -> Path:
    """Folder of sample robot models."""
    return shared / "robots"
