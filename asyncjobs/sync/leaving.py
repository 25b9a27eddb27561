"""What becomes of runners that are open when the interpreter exits: a bounded drain, then the end.

The ordinary exit hooks come too late: by then the interpreter has joined its threads, and starts
no more.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from math import inf
from time import monotonic
from typing import Protocol

from asyncjobs.errors import RunnerClosed


class Leaver(Protocol):
    """Something that lives until it is closed, as the exit sees it."""

    exit_drain: float | None

    def leave(self, drain: float | None) -> None: ...


_open: set[Leaver] = set()
_is_over = False
# Reentrant: the collector may end a forgotten pool in the middle of `leave_at_exit`, in the same thread.
_changing = threading.RLock()


def check_not_over(what: str) -> None:
    """Refuse what nobody would wait for any more; `what` names it.

    Raises:
        RunnerClosed: the interpreter exits, and all runners have left.
    """
    if _is_over:
        raise RunnerClosed(f"the interpreter exits; {what} would be lost. Hand work over before")


def leave_at_exit(leaver: Leaver) -> None:
    """When the interpreter exits, and `leaver` has not left before, it is to leave."""
    with _changing:
        _open.add(leaver)


def has_left(leaver: Leaver) -> None:
    """It is no longer of interest."""
    with _changing:
        _open.discard(leaver)


def _leave_all() -> None:
    global _is_over
    began = monotonic()
    was_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    left: set[Leaver] = set()
    # Anew each time: a job that ends meanwhile may have made one more.
    while (leaver := _next(left)) is not None:
        left.add(leaver)
        try:
            leaver.leave(_seconds_left(leaver.exit_drain, monotonic() - began) if not was_interrupted else 0.0)
        except KeyboardInterrupt:  # no more waiting, and no traceback from an exit hook
            was_interrupted = True
    _is_over = True


def _next(left: set[Leaver]) -> Leaver | None:
    """Of those that have not left, the one with the shortest drain."""
    with _changing:
        still_open = _open.copy() - left
    return min(still_open, key=lambda one: inf if one.exit_drain is None else one.exit_drain, default=None)


def _forked() -> None:
    """In a forked child: another thread of the parent may have held the lock at that moment."""
    global _changing
    _changing = threading.RLock()


def _seconds_left(drain: float | None, spent: float) -> float | None:
    """They all drain at the same time, whichever is waited for first."""
    return None if drain is None else max(0.0, drain - spent)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
# Runs before the interpreter joins its threads, and before concurrent.futures shuts its own down.
_register = getattr(threading, "_register_atexit", None) or atexit.register
_register(_leave_all)
