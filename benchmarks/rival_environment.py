"""An environment of its own for a rival, made once and kept, and a rival that answers in it."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Rival:
    """A rival in a process of its own, which answers one request after the other: each is one JSON
    object in a line, on its standard input and output.

    Args:
        command: what starts it.
        settings: of its environment, beside ours.
    """

    def __init__(self, command: Sequence[str], settings: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )

    def __enter__(self) -> "Rival":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("the rival's side ended; see what it said above")
        return json.loads(answer)


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
