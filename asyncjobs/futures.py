"""The last steps of every hand-over to a loop: call there, and resolve a future that may be cancelled by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
