"""Notice what a job changes in its process, and put it back before the next job.

Setting the wires costs a job that changes nothing no time at all; a look at the working
directory, the environment and every signal after each job would cost more than a small job.
Runs in worker processes only; does not see what C code changes behind Python's back.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

resource: ModuleType | None
try:
    import resource
except ImportError:  # not on Windows
    resource = None

LASTING = ("nice", "setpriority", "sched_setaffinity", "sched_setscheduler", "chroot", "setrlimit", "prlimit")
"""What these change in a process may not be changed back."""


class Tripwire:
    """Wraps the functions that change a process; `restore` undoes what they changed."""

    def __init__(self) -> None:
        self.tripped: bool = False
        """Something was changed since the last `restore`."""
        self.spoilt: bool = False
        """Something was changed that cannot be put back: the process should be replaced."""
        self._snapshot()

    def _snapshot(self) -> None:
        self._directory = _directory()
        self._blocked = _blocked_signals()
        self._recursion = sys.getrecursionlimit()
        self._mask = os.umask(0)
        os.umask(self._mask)
        self._environment = dict(os.environ)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def arm(self) -> None:
        """Wrap the functions; call once, in the worker's main thread."""
        for module, names in (
            (os, ("chdir", "fchdir", "umask", "putenv", "unsetenv", "close", "closerange", "dup2")),
            (signal, ("signal", "setitimer", "alarm", "pthread_sigmask")),
            (sys, ("setrecursionlimit",)),
            (os, LASTING),
            (resource, LASTING),
        ):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, self._watched(getattr(module, name), name in LASTING))
        register = atexit.register

        def register_and_spoil(*args: Any, **kwargs: Any) -> Any:
            # What a module registers when it is imported belongs to the module, not to the
            # job: else each first import of logging, matplotlib ... would cost the worker.
            self.spoilt = self.spoilt or not _is_importing()
            return register(*args, **kwargs)

        atexit.register = register_and_spoil

    def _watched(self, function: Callable[..., Any], lasts: bool) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tripped = True
            self.spoilt = self.spoilt or lasts
            return function(*args, **kwargs)

        watched.__name__ = watched.__qualname__ = function.__name__
        watched.__wrapped__ = function  # type: ignore[attr-defined]
        return watched

    def restore(self) -> None:
        """Put back the directory, the masks, the environment, the timers and the handlers."""
        self.spoilt = self.spoilt or not _streams_are_open()
        if self._directory is not None:
            os.chdir(self._directory)
        sys.setrecursionlimit(self._recursion)
        if _blocked_signals() != self._blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        os.umask(self._mask)
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        self.tripped = False


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it is gone; so be it


def _blocked_signals() -> set[Any]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else set()


def _streams_are_open() -> bool:
    try:
        for descriptor in (0, 1, 2):
            os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_importing() -> bool:
    """Whether the caller runs because some module is being imported."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
