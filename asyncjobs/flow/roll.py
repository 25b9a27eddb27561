"""Who has to end: tasks, threads, processes and jobs, asked the same questions."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

SLICE = 1.0
"""Seconds that the watching thread waits at a time: so long at most it outlives a `Roll` that was closed."""


def check_member(member: Any) -> None:
    """Raise if it is nothing that ends.

    Raises:
        TypeError: it is neither future-like nor thread-like.
    """
    if not is_future(member) and not (hasattr(member, "join") and hasattr(member, "is_alive")):
        raise TypeError(f"{member!r} is not allowed; allowed: a task, a future, a job, a thread or a process")


def is_future(member: Any) -> bool:
    """Whether it tells by itself when it has ended: a task, a future, a job."""
    return hasattr(member, "add_done_callback") and hasattr(member, "done")


def is_over(member: Any) -> bool:
    """Whether it has ended; a thread that was never started has."""
    return bool(member.done() if is_future(member) else not member.is_alive())


def is_caller(member: Any) -> bool:
    """Whether it is the task, or the thread, that asks."""
    if isinstance(member, asyncio.Task):
        return member is asyncio.current_task()
    return member is threading.current_thread()


def name_of(member: Any) -> str:
    """What it is called, for people."""
    if isinstance(member, asyncio.Task):
        return member.get_name()
    return str(getattr(member, "name", member))


def stack_of(member: Any) -> str:
    """Where it is now; empty where nobody can say."""
    if isinstance(member, asyncio.Task):
        text = io.StringIO()
        member.print_stack(file=text)
        return text.getvalue()
    frame = sys._current_frames().get(getattr(member, "ident", None) or 0)
    if frame is None or not isinstance(member, threading.Thread):
        return ""
    return f"Stack for {member!r}:\n{''.join(traceback.format_stack(frame))}"


class Roll:
    """Calls ``ended()`` once all `members` have ended, in the thread that sees it; at once, if they have."""

    def __init__(self, members: Iterable[Any], ended: Callable[[], object]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._is_closed = False
        waiting = [member for member in members if not is_over(member)]
        threads = [member for member in waiting if not is_future(member)]
        futures = [member for member in waiting if is_future(member)]
        # One more than will be told, until all have been asked.
        self._left = len(futures) + bool(threads) + 1
        for future in futures:
            future.add_done_callback(self._tell)
        if threads:
            threading.Thread(target=self._watch, args=(threads,), name="asyncjobs-join", daemon=True).start()
        self._tell()

    def close(self) -> None:
        """Watch no more."""
        self._is_closed = True

    def _tell(self, _: object = None) -> None:
        with self._lock:
            self._left -= 1
            is_last = not self._left
        if is_last and not self._is_closed:
            self._ended()

    def _watch(self, threads: list[Any]) -> None:
        for thread in threads:
            while not self._is_closed and thread.is_alive():
                thread.join(SLICE)
        self._tell()
