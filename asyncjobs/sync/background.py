"""A runner that is simply there: `background(fn, *args)` submits to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload

from asyncjobs.job import Job
from asyncjobs.sync.runner import SyncRunner

P = ParamSpec("P")
R = TypeVar("R")

# Reentrant, for a signal handler or a finalizer may come in the midst.
_making = threading.RLock()
_runner: SyncRunner | None = None


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not here, and the runner is the parent's."""
    global _making, _runner
    _making, _runner = threading.RLock(), None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)


def default_runner() -> SyncRunner:
    """The runner behind `background`: made at first need, and anew after somebody closed it or in a forked child."""
    global _runner
    with _making:
        if _runner is None or not _runner.is_usable:
            _runner = SyncRunner()
            _runner._hosted.is_silent = True
        return _runner


@overload
def background(fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
@overload
def background(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...
def background(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
    """Run ``fn(*args, **kwargs)`` in the background: a plain function in a thread, a coroutine function on a loop,
    or where `@job(lane=...)` says.

    Never waits unless 1,024 jobs wait already. The exit of the program waits at most 5 s for what is not done.

    Returns:
        The job: ``.result()`` blocks for the value, ``await`` works on any loop.

    Raises:
        NotSendable, TypeError, LaneStalled: as `SyncRunner.submit`.

    Example::

        job = background(upload, figure)
    """
    return default_runner().submit(fn, *args, **kwargs)
