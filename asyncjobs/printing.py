"""Hear what Python code prints in the threads that run jobs, where many jobs share a process.

`sys.stdout` and `sys.stderr` are replaced while any job runs. What a thread prints that runs none goes where it
always went; so does what is written past Python, to the descriptors.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

Heard = Callable[[str, str], None]

_listener: ContextVar[Heard | None] = ContextVar("asyncjobs.printing", default=None)
_lock = threading.Lock()
_users = 0


class _Stream:
    """Stands in for a text stream."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self.stream = stream

    def write(self, text: str) -> int:
        """Tell the job that prints, or write it."""
        heard = _listener.get()
        if heard is None:
            return self.stream.write(text)
        if text:
            heard(self._name, text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _put_up() -> None:
    global _users
    with _lock:
        _users += 1
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _Stream):
                setattr(sys, name, _Stream(name, stream))


def _take_down() -> None:
    global _users
    with _lock:
        _users -= 1
        for name in () if _users else ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Stream):
                setattr(sys, name, stream.stream)


class Printing:
    """Tells ``heard(ticket, stream, text)`` what the jobs of one station print."""

    def __init__(self, heard: Callable[[int, str, str], None]) -> None:
        self._heard = heard

    @contextmanager
    def of(self, ticket: int) -> Iterator[None]:
        """Within it this thread runs the job of `ticket`."""
        _put_up()
        mark = _listener.set(lambda stream, text: self._heard(ticket, stream, text))
        try:
            yield
        finally:
            _listener.reset(mark)
            _take_down()
