"""What becomes of runners that are open when the interpreter exits: a bounded drain, then the end.

The ordinary exit hooks come too late: by then the interpreter has joined its threads, and starts
no more.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from time import monotonic
from typing import Protocol


class Leaver(Protocol):
    """Something that lives until it is closed, as the exit sees it."""

    exit_drain: float

    def leave(self, drain: float) -> None: ...


_open: weakref.WeakSet[Leaver] = weakref.WeakSet()
_adding = threading.Lock()


def leave_at_exit(leaver: Leaver) -> None:
    """When the interpreter exits, and `leaver` is still there, it is to leave."""
    with _adding:
        _open.add(leaver)


def _leave_all() -> None:
    began = monotonic()
    with _adding:
        leavers = tuple(_open)
    was_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for leaver in sorted(leavers, key=lambda leaver: leaver.exit_drain):
        seconds = 0.0 if was_interrupted else max(0.0, began + leaver.exit_drain - monotonic())
        try:
            leaver.leave(seconds)
        except KeyboardInterrupt:  # a second one: no more waiting, and no traceback from an exit hook
            was_interrupted = True


# Runs before the interpreter joins its threads, and before concurrent.futures shuts its own down.
_register = getattr(threading, "_register_atexit", None) or atexit.register
_register(_leave_all)
