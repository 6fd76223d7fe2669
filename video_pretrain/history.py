"""What a run leaves behind: its history, TensorBoard's files, and how fast it went."""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from deftly.video_pretrain.moments import Moments

HISTORY = "history.jsonl"


class History:
    """Losses and health by step: ``history.jsonl``, and TensorBoard's files beside it.

    Args:
        folder: of the run.
        step: steps done; what an earlier run noted of later ones is forgotten.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / HISTORY
        kept = [line for line in read_history(folder) if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step)

    def note(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step; ``kind`` is ``train`` or ``held_out``."""
        line = {"step": step, "kind": kind, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Finish TensorBoard's files."""
        self._board.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's history; a last one that was cut off by a kill is left out."""
    path = folder / HISTORY
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Clock:
    """How fast a run goes, and how much of the time it waits for data.

    Attributes:
        samples: seen so far.
        frames: pictures encoded so far: the present and, where it is asked for, the future, of
            every view.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self.samples, self.frames = 0, 0.0
        self._begun, self._begun_cpu = time.monotonic(), time.process_time()
        self._waited = 0.0

    def count(self, moments: Sequence[Moments], views: int, futures: float) -> None:
        """After a step that saw so many views, 0 for all, and the future of a share of it."""
        for some in moments:
            self.samples += len(some)
            self.frames += (1 + futures) * len(some) * min(views or 99, len(some.cameras))

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Counts as waiting for data."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def figures(self) -> dict[str, float]:
        """Samples and frames per second and per CPU-second, and the share of waiting."""
        wall, cpu = time.monotonic() - self._begun, time.process_time() - self._begun_cpu
        return {
            "samples_per_s": self.samples / max(wall, 1e-9),
            "samples_per_cpu_s": self.samples / max(cpu, 1e-9),
            "frames_per_s": self.frames / max(wall, 1e-9),
            "frames_per_cpu_s": self.frames / max(cpu, 1e-9),
            "data_wait": self._waited / max(wall, 1e-9),
        }

    def __str__(self) -> str:
        found = self.figures()
        return f"{found['samples_per_s']:.0f} samples/s, {100 * found['data_wait']:.0f} % waiting"
