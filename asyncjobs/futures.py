"""Both ends of a hand-over between threads: call on a loop, resolve what may be cancelled by then, wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")


def resolve(future: Any, value: Any = None) -> None:
    """Give `future` its value, unless it is done."""
    if not future.done():
        future.set_result(value)


def fail(future: Any, error: BaseException) -> None:
    """Give `future` its error, unless it is done."""
    if not future.done():
        future.set_exception(error)


def call_soon(loop: Any, callback: Callable[..., object], *args: Any) -> bool:
    """Have `loop` call it, from any thread; False if that loop is closed, so that nobody waits there."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


SLICE = 1.0
"""Seconds that the main thread waits at a time."""


def slices(timeout: float | None) -> Iterator[float]:
    """Timeouts for waits that take `timeout` seconds together, as long as none of them has what it waits for.

    A Ctrl-C that comes in the instant before a wait begins is heard only when that wait ends: so the main thread,
    which alone hears it, never waits for long at a time.
    """
    until = inf if timeout is None else monotonic() + timeout
    longest = SLICE if threading.current_thread() is threading.main_thread() else threading.TIMEOUT_MAX
    while (left := until - monotonic()) > longest:
        yield longest
    yield max(0.0, left)


def take(queue: SimpleQueue[T], timeout: float | None) -> T:
    """The next that is put into `queue`, within `timeout` seconds.

    Raises:
        Empty: nothing came.
    """
    for seconds in slices(timeout):
        try:
            return queue.get(timeout=seconds)
        except Empty:  # a Ctrl-C that waited for the end of the slice is raised after this, with no context
            continue
    raise Empty


def wait_for_end(future: Future[Any], timeout: float | None) -> None:
    """Block until `future` is done, at most `timeout` seconds.

    Raises:
        CancelledError: it was cancelled.
    """
    for seconds in slices(timeout):
        try:
            Future.exception(future, seconds)
        except TimeoutError:
            continue
        return
