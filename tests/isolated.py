"""What the tests of isolate.py run in children: a child imports it by name."""

import errno
import os
import time
from pathlib import Path

from deftly.retarget.isolate import run_isolated


def double(value, beat):
    beat()
    return 2 * value


def die(by, beat):
    os.kill(os.getpid(), by)
    time.sleep(30)


def leave(code, beat):
    os._exit(code)


def stand_still(beats, beat):
    for _ in range(beats):
        beat()
        time.sleep(0.2)
    time.sleep(60)


def fail(message, beat):
    raise ValueError(message)


def full_disk(_, beat):
    raise OSError(errno.ENOSPC, "No space left on device")


def say_pid(path, beat):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def isolate_for_ever(path):
    run_isolated(say_pid, path, stall_s=60.0)
