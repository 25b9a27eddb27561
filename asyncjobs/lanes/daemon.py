"""An executor of daemon threads, so that a thread that never ends cannot hold up the exit.

The standard ThreadPoolExecutor joins its threads when the interpreter exits. Here a thread
is handed its next piece of work directly (last in, first out, while it is still warm). Its
futures are those of one event loop, which `run_in_executor` passes on as they are: a future
of the standard kind and the chain from it to the loop's own cost as much as a whole job.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from asyncjobs.futures import fail, resolve

T = TypeVar("T")
Work = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


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
        idle, tell = self._executor.idle, self._executor.tell
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
                tell(fail, future, error)
            else:
                idle.append(self)
                tell(resolve, future, result)
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
    """Starts a thread where none is idle; the caller bounds how many it uses. Names are `prefix` and a number."""

    def __init__(self, prefix: str, loop: asyncio.AbstractEventLoop) -> None:
        self._prefix = prefix
        self._loop = loop
        self._numbers = itertools.count()
        self.idle: list[_Thread] = []
        self.closed: bool = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **_: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run ``fn(*args)`` in a thread at once.

        Raises:
            RuntimeError: closed, or the system starts no more threads.
        """
        if self.closed:
            raise RuntimeError("the executor is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        work: Work = (future, fn, args)
        try:
            thread = self.idle.pop()
        except IndexError:
            _Thread(self, f"{self._prefix}{next(self._numbers)}", work)
        else:
            thread.hand(work)
        return future

    def tell(self, how: Callable[..., None], future: asyncio.Future[Any], what: Any) -> None:
        """In a thread: have the loop resolve `future`."""
        try:
            self._loop.call_soon_threadsafe(how, future, what)
        except RuntimeError:
            if not self._loop.is_closed():  # else nobody is left to tell
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the idle threads; busy ones end after their work. Never waits."""
        self.closed = True
        while True:
            try:
                self.idle.pop().hand(None)
            except IndexError:
                return
