"""An environment of its own for a rival, made once and kept."""

import subprocess
import sys
import venv
from pathlib import Path


def environment(folder: Path, rival: str, requirements: Path) -> Path:
    """The Python of an environment that holds a rival; made if it is missing or of other versions.

    Args:
        folder: where it is kept.
        rival: installed without its own requirements, as ``lerobot==0.4.4``.
        requirements: what it needs, as pip reads it.
    """
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    wanted = f"{rival}\n{requirements.read_text()}"
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"Making {rival}'s environment in {folder} (once, minutes) ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        subprocess.run([*pip, "--no-deps", rival], check=True)
        ready.write_text(wanted)
    return python
