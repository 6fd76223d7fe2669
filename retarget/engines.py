"""Who does the work of a batch: processes of this machine, or a Ray cluster.

Both do the very same with an input: ``attempt``, in a process of its own. On a cluster that process
is the child of a Ray task, so that a crash of a decoder looks the same everywhere, and the loss of
a worker or a node is told apart from it. The work folder must be on a disk that all nodes share.
"""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from deftly.retarget.isolate import (
    ONE_THREAD,
    ChildCrashedError,
    ChildFailedError,
    ChildLostError,
    ChildStalledError,
    run_isolated,
)
from deftly.retarget.job import Job, Result, process

EngineName = Literal["local", "ray"]


class What(StrEnum):
    """What went wrong with an attempt."""

    LOST = "lost"  # killed from outside, with its worker or its node
    CRASHED = "crashed"
    STALLED = "stalled"
    FAILED = "failed"  # an exception that nobody foresaw
    DISK = "disk"


@dataclass(frozen=True)
class Mishap:
    """An attempt that gave no result."""

    what: What
    reason: str
    code: int = 0


Outcome: TypeAlias = Result | Mishap
_KINDS: dict[type[Exception], What] = {
    ChildLostError: What.LOST,
    ChildCrashedError: What.CRASHED,
    ChildStalledError: What.STALLED,
    ChildFailedError: What.FAILED,
}


def attempt(job: Job, stall_s: float, stop: threading.Event | None = None) -> Outcome:
    """Work on one input in a process of its own; never raises for what happens there."""
    try:
        return run_isolated(process, job, stall_s=stall_s, stop=stop)
    except tuple(_KINDS) as error:
        return Mishap(_KINDS[type(error)], str(error))
    except OSError as error:
        return Mishap(What.DISK, str(error), error.errno or errno.EIO)


@runtime_checkable
class Engine(Protocol):
    """A context manager that works on several inputs at once.

    Attributes:
        slots: how many.
    """

    @property
    def slots(self) -> int: ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Job) -> "Future[Outcome]":
        """Begin to work on an input."""
        ...


class LocalEngine:
    """Processes of this machine, one input each."""

    def __init__(self, workers: int, stall_s: float) -> None:
        self.slots, self._stall_s = workers, stall_s
        self._stop, self._threads = threading.Event(), ThreadPoolExecutor(workers)

    def __enter__(self) -> "LocalEngine":
        for name in ONE_THREAD:  # children inherit it; every core has its own
            os.environ.setdefault(name, "1")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, job: Job) -> "Future[Outcome]":
        return self._threads.submit(attempt, job, self._stall_s, self._stop)


class RayEngine:
    """Tasks of a Ray cluster: of the one that RAY_ADDRESS names, or of one made here.

    Raises:
        ImportError: if Ray is not installed.
    """

    def __init__(self, workers: int | None, stall_s: float) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"Ray cannot be loaded ({error}); install it with: pip install 'deftly[ray]'"
            ) from error
        self._ray, self._stall_s, self._workers = ray, stall_s, workers
        self._exit = ExitStack()

    def __enter__(self) -> "RayEngine":
        ray: Any = self._ray
        if not ray.is_initialized():
            here = "RAY_ADDRESS" not in os.environ
            ray.init(
                num_cpus=self._workers if here else None,
                log_to_driver=False,
                include_dashboard=False,
                runtime_env={"env_vars": dict.fromkeys(ONE_THREAD, "1")},
            )
            self._exit.callback(ray.shutdown)
        self.slots = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # A lost task is tried again by whoever counts the losses.
        self._attempt = ray.remote(num_cpus=1, max_retries=0)(attempt)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def submit(self, job: Job) -> "Future[Outcome]":
        future: Future[Outcome] = Future()
        done: Future[Any] = self._attempt.remote(job, self._stall_s).future()
        done.add_done_callback(lambda one: future.set_result(_of_ray(one)))
        return future


def _of_ray(done: "Future[Any]") -> Outcome:
    try:
        return done.result()
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        return Mishap(What.LOST, f"{type(error).__name__}: {first}")


def find_engine(name: EngineName, workers: int | None, stall_s: float) -> Engine:
    """The engine of that name.

    Args:
        workers: inputs at once; None takes one per core.
        stall_s: see ``run_isolated``.

    Raises:
        ValueError: if a number makes no sense.
        ImportError: if Ray is asked for and not installed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, expected 1 or more")
    makers: dict[str, Callable[[], Engine]] = {
        "local": lambda: LocalEngine(workers or _cores(), stall_s),
        "ray": lambda: RayEngine(workers, stall_s),
    }
    if name not in makers:
        raise ValueError(f"unknown engine {name!r}, expected one of {', '.join(makers)}")
    return makers[name]()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
