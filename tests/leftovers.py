"""What outlives a test although nobody of it is its parent any more: services, workers of killed ones, their helpers.

Whatever a test starts inherits a variable that stands for this run; Linux shows it, elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from asyncjobs.testing.leaks import child_pids, helper_pids

VARIABLE = "ASYNCJOBS_TEST_RUN"


def mark_this_run() -> None:
    """From now on what is started can be told from what others start on the machine."""
    os.environ[VARIABLE] = f"{os.getpid()}.{time.time_ns()}"


def strays() -> dict[int, str]:
    """Processes of this run that are no descendants of ours, with their command lines."""
    mark = f"{VARIABLE}={os.environ[VARIABLE]}\0".encode()
    family = {os.getpid(), *child_pids(), *helper_pids()}
    return {
        pid: _read(pid, "cmdline").decode(errors="replace") for pid in _pids() - family if mark in _read(pid, "environ")
    }


def wait_for_no_strays(before: dict[int, str], within: float) -> list[str]:
    """Those that are still there after at most `within` seconds; they are killed then, for the next test's sake."""
    until = time.monotonic() + within
    while (found := _fresh(before)) and time.monotonic() < until:
        time.sleep(0.02)  # the kernel tells nobody when a process ends that is not his child
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command.replace(chr(0), ' ')[:200]}" for pid, command in found.items()]


def _fresh(before: dict[int, str]) -> dict[int, str]:
    return {pid: command for pid, command in strays().items() if before.get(pid) != command}


def _pids() -> set[int]:
    with contextlib.suppress(OSError):
        return {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return set()


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:  # it is gone, or hides from us
        return b""
