"""Resolve a future that somebody may have cancelled meanwhile: the last step of every hand-over to a loop."""

from __future__ import annotations

from typing import Any


def resolve(future: Any, value: Any = None) -> None:
    """Give `future` its value, unless it is done."""
    if not future.done():
        future.set_result(value)


def fail(future: Any, error: BaseException) -> None:
    """Give `future` its error, unless it is done."""
    if not future.done():
        future.set_exception(error)
