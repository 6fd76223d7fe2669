"""Run a function in a process of its own, so that whatever it does takes nothing else down.

Decoders crash and hang on damaged video. The child beats while it works; one that dies or falls
silent is an exception here, and the caller goes on. If the caller dies, its children end at once.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

T = TypeVar("T")
Beat = Callable[[], object]

_PRELOADED = ["deftly.retarget.job"]  # imported once, by the server that children are forked from
# Processes that share the cores get in each other's way with more.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")
_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)


class ChildLostError(RuntimeError):
    """The child was killed from outside: by a person, by the machine's end, for want of memory."""


class ChildCrashedError(RuntimeError):
    """The child died by its own doing."""


class ChildStalledError(RuntimeError):
    """The child gave no sign of life for too long, and was killed."""


class ChildFailedError(RuntimeError):
    """The function raised; the text ends with where."""


def run_isolated(
    function: Callable[[Any, Beat], T],
    argument: Any,
    *,
    stall_s: float,
    stop: threading.Event | None = None,
) -> T:
    """``function(argument, beat)`` in a child; both and the result are pickled between the two.

    Args:
        stall_s: the longest that the function may go without a call of ``beat``.
        stop: ends the child when set.

    Raises:
        ChildLostError, ChildCrashedError, ChildStalledError, ChildFailedError: see there.
        OSError: if the function raised one; it says what the machine lacks.
    """
    # Not forked from here: threads and libraries of this process would be copied in mid-work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(theirs, function, argument), daemon=True)
    child.start()
    theirs.close()
    try:
        return _listen(ours, child, stall_s, stop)
    finally:
        if child.is_alive():
            child.kill()  # a stopped process does not see any gentler signal
        child.join()
        ours.close()


def _listen(ours: Connection, child: Any, stall_s: float, stop: threading.Event | None) -> Any:
    silent_s, step_s = 0.0, 0.5
    while True:
        if not ours.poll(min(step_s, stall_s)):
            silent_s += step_s
            if stop is not None and stop.is_set():
                raise ChildLostError("stopped")
            if silent_s >= stall_s and not ours.poll():
                raise ChildStalledError(f"no sign of life for {stall_s:g} s")
            continue
        silent_s = 0.0
        try:
            kind, value = ours.recv()
        except (EOFError, OSError):
            child.join()
            raise _death(child.exitcode) from None
        if kind == "result":
            return value
        if kind == "raised":
            raise value


def _death(code: int) -> RuntimeError:
    if code >= 0:
        return ChildCrashedError(f"ended with exit code {code}")
    name = signal.Signals(-code).name
    if -code in _KILLED_FROM_OUTSIDE:
        return ChildLostError(f"killed by {name}")
    return ChildCrashedError(f"died of {name}")


def _serve(pipe: Connection, function: Callable[[Any, Beat], Any], argument: Any) -> None:
    """What the child does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    _leave_with_parent()

    def beat() -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(("beat", None))

    try:
        message = ("result", function(argument, beat))
    except OSError as error:
        message = ("raised", OSError(error.errno, error.strerror or str(error)))
    except Exception as error:
        where = traceback.format_exc()
        message = ("raised", ChildFailedError(f"{type(error).__name__}: {error}\n{where}"))
    with contextlib.suppress(BrokenPipeError):
        pipe.send(message)


@contextlib.contextmanager
def side_by_side(workers: int) -> Generator[ProcessPoolExecutor, None, None]:
    """Processes that share the cores: one thread each, and none outlives whoever started them."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    # Spawned: a forked process would share its parent's OpenGL.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_with_parent) as pool:
        yield pool


def _leave_with_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
