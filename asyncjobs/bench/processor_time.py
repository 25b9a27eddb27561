"""How long a process and all its descendants have used a processor, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def available() -> bool:
    """Whether this system tells: Linux does."""
    return (_PROC / "self" / "stat").exists()


def of_family(pid: int) -> float:
    """Seconds used so far by `pid` and its living descendants, all threads."""
    return sum(_used(member) for member in family(pid))


def family(pid: int) -> list[int]:
    """`pid` and every living descendant: workers of a forkserver are its grandchildren."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents().items():
        children.setdefault(parent, []).append(process)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    return parents


def _used(pid: int) -> float:
    """From the scheduler in nanoseconds if the kernel keeps that, else in clock ticks of 10 ms."""
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, IndexError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields after the command's name, which may hold spaces; empty for a process that has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
