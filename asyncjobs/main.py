"""Run a coroutine as the program: on uvloop where there is one, ended well by SIGTERM."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from asyncjobs.portal import new_event_loop
from asyncjobs.runner import drain_when_cancelled

T = TypeVar("T")

TERMINATION_DRAIN = 10.0
"""Seconds that runners without a `drain_timeout` drain after SIGTERM."""


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run `main` to its end, as `asyncio.run` does, on uvloop if it is installed.

    Ctrl-C cancels `main`; an open runner cancels its jobs, each within its grace; then
    KeyboardInterrupt is raised. A second Ctrl-C ends at once. SIGTERM cancels `main` too,
    but open runners first drain, for at most their `drain_timeout` (10 s if they have none);
    then the program exits with code 143. A second SIGTERM cuts the drain short.

    Raises:
        SystemExit: 143, after SIGTERM.
        RuntimeError: an event loop is running in this thread already: await `main` there.
        TypeError: `main` is no coroutine.
    """
    _check(main)
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as loop_runner:
        terminated: list[bool] = []
        loop = loop_runner.get_loop()
        on_main_thread = threading.current_thread() is threading.main_thread()
        if on_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            loop.add_signal_handler(signal.SIGTERM, _terminate, loop, terminated)
        try:
            return loop_runner.run(_as_main(main, loop))
        except asyncio.CancelledError:
            if terminated:
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            if on_main_thread:
                loop.remove_signal_handler(signal.SIGTERM)


def _check(main: Any) -> None:
    if not inspect.isawaitable(main):
        hint = f"; call it: run({getattr(main, '__name__', 'main')}())" if callable(main) else ""
        raise TypeError(f"main={main!r} is not allowed; allowed: a coroutine{hint}")
    if asyncio._get_running_loop() is not None:
        getattr(main, "close", bool)()  # so that nobody complains that it was never awaited
        raise RuntimeError("run() was called inside a running event loop; there it is `await main()`")


_MAIN_TASKS: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] = {}


async def _as_main(main: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    task = asyncio.current_task()
    assert task is not None
    _MAIN_TASKS[loop] = task
    try:
        return await main
    finally:
        del _MAIN_TASKS[loop]


def _terminate(loop: asyncio.AbstractEventLoop, terminated: list[bool]) -> None:
    if not terminated:
        drain_when_cancelled(loop, TERMINATION_DRAIN)
    terminated.append(True)
    task = _MAIN_TASKS.get(loop)
    if task is not None:
        task.cancel("SIGTERM")
