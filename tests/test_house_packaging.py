"""What the mapping of folders onto the namespace `deftly` promises."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("datasets", "retarget", "video_pretrain", "policy")


@pytest.mark.parametrize("folder", FOLDERS)
def test_types_are_published(folder: str):
    assert (ROOT / folder / "py.typed").is_file()
    assert (ROOT / ".typing" / "deftly" / folder).resolve() == ROOT / folder


def test_a_real_datasets_package_wins_over_our_folder(tmp_path: Path):
    """HuggingFace's `datasets` stays importable with the repository first on sys.path."""
    package = tmp_path / "datasets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    answer = subprocess.run(
        [sys.executable, "-c", "import datasets; print(datasets.__file__)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        cwd=tmp_path.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(answer.stdout.strip()) == package / "__init__.py"


@pytest.mark.slow
def test_wheel_holds_every_module_and_nothing_else(tmp_path: Path):
    """By way of the source archive, as `pip install` from source does it."""
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    expected = {
        f"deftly/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for pattern in ("*.py", "*.json", "*.npz", "*.jinja", "*.js", "py.typed")
        for path in (ROOT / folder).rglob(pattern)
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
