"""The one runner behind all plots of a process: its loop publishes them, its threads send, its worker draws."""

from __future__ import annotations

import os
import threading

from asyncjobs.lanes.process import ProcessLane
from asyncjobs.lanes.thread import ThreadLane
from asyncjobs.runner import Runner
from asyncjobs.sync.hosted import HostedRunner

THREADS = 256
"""Sinks that may be busy, or stuck, at the same time; a thread is started when one is needed."""
PICTURES = "picture"
"""The lane of pictures that are drawn in a thread, one at a time: two that import pandas for the first time at once
would each see half of it."""
TEXT = "text"
"""The lane in which heavy figures become text: in a worker of its own, for a picture may take that of others long."""
GRACE = 0.1
"""Seconds that a send or a drawing gets to end by itself once nobody waits for it: an exit takes that long."""
EXIT_DRAIN = 8.0
"""Seconds; longer than plots usually wait, for plots are to leave first."""

_making = threading.RLock()
_studio: HostedRunner | None = None


def studio() -> HostedRunner:
    """Made at first need, and anew in a forked child or after it was closed."""
    global _studio
    with _making:
        if _studio is None or not _studio.is_usable:
            # Nobody can do anything about a loop that answers late on a busy machine.
            runner = Runner(
                threads=THREADS,
                processes=1,
                lanes={PICTURES: ThreadLane(1, max_abandoned=THREADS), TEXT: ProcessLane(1)},
                options={"grace": GRACE},
                watchdog=None,
            )
            runner._tells_of_cancels = False  # each plot says itself what did not arrive
            _studio = HostedRunner(runner, "plots", EXIT_DRAIN, is_silent=True)
        return _studio


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not here."""
    global _making, _studio
    _making, _studio = threading.RLock(), None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
