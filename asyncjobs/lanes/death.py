"""What the system says of a worker: what it died of, what it holds, what it leaves behind."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple


class Death(NamedTuple):
    """What a worker died of; None and None if it cannot be known."""

    pid: int
    signal: int | None
    exit_code: int | None
    stderr: str
    hint: str

    @property
    def cause(self) -> str:
        """One line for people."""
        if self.hint:
            return self.hint
        if self.signal is not None:
            return signal_name(self.signal)
        return "unknown" if self.exit_code is None else f"exit code {self.exit_code}"


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; ``signal 77`` where there is no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def private_memory(pid: int) -> int:
    """Bytes that only process `pid` holds (RssAnon: mapped arenas are not counted); 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            line = next((line for line in status if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    except OSError:
        return 0
    return int(line.split()[1]) * 1024


def strays_of(pid: int) -> list[int]:
    """Children of the worker `pid` in groups of their own: they outlive it."""
    return [child for child in _children_of(pid) if _group_of(child) not in (pid, None)]


def _children_of(pid: int) -> list[int]:
    """Its children, as far as the system shows them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
    except OSError:
        return found  # gone, or not this kind of system
    return found


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
