"""What becomes of runners that are open when the interpreter exits: a bounded drain, then the end.

The ordinary exit hooks come too late: by then the interpreter has joined its threads, and starts
no more.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from math import inf
from time import monotonic
from typing import Protocol

from asyncjobs.errors import RunnerClosed

logger: logging.Logger = logging.getLogger("asyncjobs")


class Leaver(Protocol):
    """Something that lives until it is closed, as the exit sees it."""

    exit_drain: float | None

    def leave(self, drain: float | None) -> None: ...


# No lock guards it: each use is one step of the interpreter, and a finalizer may come in the midst of any other.
_open: set[Leaver] = set()
_is_over = False
"""All runners have left."""


def check_not_over(what: str) -> None:
    """Refuse what nobody would wait for any more; `what` names it.

    Raises:
        RunnerClosed: the interpreter exits, and all runners have left.
    """
    if _is_over:
        raise RunnerClosed(f"the interpreter exits; {what} would be lost. Hand work over before")


def leave_at_exit(leaver: Leaver) -> None:
    """When the interpreter exits, and `leaver` has not left before, it is to leave."""
    _open.add(leaver)


def has_left(leaver: Leaver) -> None:
    """It is no longer of interest."""
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
        # Such as a warning that is an error. The others are to leave all the same.
        except Exception:
            logger.exception("a runner could not leave in order")
    _is_over = True


def _next(left: set[Leaver]) -> Leaver | None:
    """Of those that have not left, the one with the shortest drain."""
    still_open = _open.copy() - left
    return min(still_open, key=lambda one: inf if one.exit_drain is None else one.exit_drain, default=None)


def _seconds_left(drain: float | None, spent: float) -> float | None:
    """They all drain at the same time, whichever is waited for first."""
    return None if drain is None else max(0.0, drain - spent)


# Runs before the interpreter joins its threads, and before concurrent.futures shuts its own down.
_register = getattr(threading, "_register_atexit", None) or atexit.register
_register(_leave_all)
