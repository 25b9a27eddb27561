"""How much memory this process holds, in bytes, without a library for it."""

from __future__ import annotations

import sys
from pathlib import Path

from asyncjobs.bench import processor_time

if sys.platform != "win32":
    import resource

_STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes in memory now; where there is no /proc, the most so far."""
    return _status("VmRSS:") or _most_so_far()


def peak() -> int:
    """The most bytes that this program has had in memory at once.

    Not `getrusage` on Linux: its figure survives exec and starts at the size of the
    process that started this one.
    """
    return _status("VmHWM:") or _most_so_far()


def of_family(pid: int) -> int:
    """Bytes of `pid` and its living descendants; what several of them share is counted once. Linux only; else ours."""
    return sum(of_process(member) for member in processor_time.family(pid)) if _STATUS.exists() else resident()


def of_process(pid: int) -> int:
    """Bytes of one process, with its part of what it shares; 0 for one that has gone. Linux only."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _status(field: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _most_so_far() -> int:
    if sys.platform == "win32":
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
