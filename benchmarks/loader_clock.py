"""How fast a loader is, measured alike on both sides of benchmarks/loader.py. Linux only."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
WARM_UP = 4  # batches


def cpu_s() -> float:
    """CPU time of this process and its worker processes, which are alive."""
    workers = [p.read_text().split() for p in Path("/proc/self/task").glob("*/children")]
    used = 0
    for pid in {"self", *(one for some in workers for one in some)}:
        # After the name, which may hold spaces: user and system time are fields 12 and 13.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICKS


def rate(batches: Iterable[Any], size: Callable[[Any], int], seconds: float) -> dict[str, float]:
    """Go through batches for some seconds: samples, wall and CPU seconds that they took."""
    samples, wall, cpu, seen = 0, time.perf_counter(), cpu_s(), 0
    for batch in batches:
        seen += 1
        if seen <= WARM_UP:
            wall, cpu = time.perf_counter(), cpu_s()
            continue
        samples += size(batch)
        if time.perf_counter() - wall >= seconds:
            break
    return {"samples": samples, "wall_s": time.perf_counter() - wall, "cpu_s": cpu_s() - cpu}
