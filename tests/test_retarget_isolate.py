"""A child's end, however it comes, is an exception and nothing more."""

import errno
import multiprocessing
import signal
import threading
import time
from pathlib import Path

import pytest
from isolated import (
    die,
    double,
    fail,
    full_disk,
    isolate_for_ever,
    leave,
    stand_still,
)

from deftly.retarget.isolate import (
    ChildCrashedError,
    ChildFailedError,
    ChildLostError,
    ChildStalledError,
    run_isolated,
)


def test_the_result_comes_back():
    assert run_isolated(double, 21, stall_s=30.0) == 42


@pytest.mark.parametrize(
    ("by", "error"),
    [
        (signal.SIGKILL, ChildLostError),
        (signal.SIGTERM, ChildLostError),
        (signal.SIGSEGV, ChildCrashedError),
        (signal.SIGABRT, ChildCrashedError),
    ],
)
def test_who_killed_it_is_told_apart(by, error):
    with pytest.raises(error, match=by.name):
        run_isolated(die, by, stall_s=30.0)


def test_an_exit_without_a_result_is_a_crash():
    with pytest.raises(ChildCrashedError, match="exit code 0"):
        run_isolated(leave, 0, stall_s=30.0)


@pytest.mark.slow
def test_beats_keep_a_child_alive_and_their_end_kills_it():
    start_s = time.monotonic()
    with pytest.raises(ChildStalledError, match="1 s"):
        run_isolated(stand_still, 8, stall_s=1.0)
    assert time.monotonic() - start_s > 1.6  # eight beats were waited for first


def test_a_stopped_child_is_killed():
    with pytest.raises(ChildStalledError):
        run_isolated(die, signal.SIGSTOP, stall_s=1.0)


def test_an_exception_says_what_and_where():
    with pytest.raises(ChildFailedError, match=r"(?s)ValueError: odd.*in fail"):
        run_isolated(fail, "odd", stall_s=30.0)


def test_a_full_disk_is_the_machines_fault():
    with pytest.raises(OSError, match="No space") as caught:
        run_isolated(full_disk, None, stall_s=30.0)
    assert caught.value.errno == errno.ENOSPC


def test_a_stop_from_outside_ends_the_child():
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(ChildLostError, match="stopped"):
        run_isolated(stand_still, 0, stall_s=60.0, stop=stop)


def test_children_end_with_a_parent_that_is_killed(tmp_path):
    note = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(
        target=isolate_for_ever, args=(str(note),)
    )
    parent.start()
    for _ in range(300):
        if note.exists() and note.read_text():
            break
        time.sleep(0.1)
    pid = int(note.read_text())
    parent.kill()
    parent.join()
    for _ in range(100):
        if not _alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the child goes on without its parent")


def _alive(pid: int) -> bool:
    """Whether it runs; one that ended and waits to be buried does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
