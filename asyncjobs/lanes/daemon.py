"""An executor of daemon threads, so that a thread that never ends cannot hold up the exit.

The standard ThreadPoolExecutor joins its threads when the interpreter exits. Here a thread
is handed its next piece of work directly (last in, first out, while it is still warm).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")
Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class _Thread:
    """One thread: waits on its own lock for its next piece of work."""

    __slots__ = ("_executor", "_ready", "_work")

    def __init__(self, executor: DaemonThreads, name: str, work: Work) -> None:
        self._executor = executor
        self._ready = threading.Lock()
        self._work: Work | None = work
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def hand(self, work: Work | None) -> None:
        """Give it `work`; None ends it. Only for a thread taken from the idle list."""
        self._work = work
        self._ready.release()

    def _loop(self) -> None:
        idle = self._executor.idle
        self._ready.acquire()
        while self._work is not None:
            future, fn, args = self._work
            self._work = None
            # Idle before the result is told: whoever hears of it may come with more work at
            # once, and finds this thread. `hand` then only has to wait for `acquire` below.
            try:
                result = fn(*args)
            except BaseException as error:
                idle.append(self)
                future.set_exception(error)
            else:
                idle.append(self)
                future.set_result(result)
            del future, fn, args
            result = None
            # Closed while we were busy: either we take ourselves from the list here, or
            # `shutdown` has taken us and hands us our end.
            if self._executor.closed and self._leaves():
                return
            self._ready.acquire()

    def _leaves(self) -> bool:
        try:
            self._executor.idle.remove(self)
        except ValueError:
            return False
        return True


class DaemonThreads(Executor):
    """Starts a thread where none is idle; the caller bounds how many it uses."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count()
        self.idle: list[_Thread] = []
        self.closed: bool = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args)`` in a thread at once.

        Raises:
            RuntimeError: closed, or the system starts no more threads.
        """
        if self.closed:
            raise RuntimeError("the executor is closed")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        work: Work = (future, fn, args)
        try:
            thread = self.idle.pop()
        except IndexError:
            _Thread(self, f"{self._name}-{next(self._numbers)}", work)
        else:
            thread.hand(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the idle threads; busy ones end after their work. Never waits."""
        self.closed = True
        while True:
            try:
                self.idle.pop().hand(None)
            except IndexError:
                return
