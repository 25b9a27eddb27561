"""The tiny functions that the benchmarks call; importable, so that every peer sends them by name."""

from __future__ import annotations

import os
import time
from typing import Any


def echo(value: int) -> int:
    """Do nothing and give `value` back: what is measured is the way there and home."""
    return value


async def async_echo(value: int) -> int:
    """The same as a coroutine function."""
    return value


def process_id(_value: int) -> int:
    """Which process ran the call."""
    return os.getpid()


def hold(seconds: float) -> None:
    """Keep one worker busy, so that what is queued behind it stays queued."""
    time.sleep(seconds)


def first(array: Any) -> float:
    """One number of an array."""
    return float(array[0])


def busy_first(array: Any) -> float:
    """The same after 2 ms of work."""
    until = time.perf_counter() + 0.002
    while time.perf_counter() < until:
        continue
    return float(array[0])


def started(_value: int) -> float:
    """When the call began, by the clock that all processes of a machine share."""
    return time.monotonic()
