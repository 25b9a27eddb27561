"""Jobs on large data."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jobs import arrive_at, wait_at

_kept: list[Any] = []


@dataclass
class Record:
    """A structure with an array in it."""

    array: Any
    name: str


def same(value: Any) -> Any:
    return value


def total(array: Any) -> float:
    return float(array.sum())


def deep_total(value: Any) -> float:
    return float(value["in"][0].sum())


def filled(size: int, value: float) -> Any:
    return np.full(size, float(value))


def negated_in_place(array: Any) -> Any:
    array *= -1
    return array


def every_second(array: Any) -> Any:
    return array[::2]


def twice(array: Any) -> Any:
    return array, array


def are_one(one: Any, other: Any) -> bool:
    return one is other


def keep(array: Any) -> float:
    _kept.append(array)
    return float(array.sum())


def kept_sums() -> list[float]:
    return [float(array.sum()) for array in _kept]


def kept_sums_of(_: int) -> list[float]:
    return kept_sums()


def same_at(array: Any, door: str) -> Any:
    return wait_at(door, array)


def nap(seconds: float, array: Any) -> None:
    time.sleep(seconds)


def filled_by_both_after_fork(size: int, door: str) -> Any:
    """The child waits at the door, and then comes back with zeros."""
    if os.fork():
        return np.ones(size)
    with open(f"{door}/go", "rb", 0) as go:
        go.read(1)
    arrive_at(door)
    return np.zeros(size)


def keep_in_a_cycle(array: Any) -> None:
    cycle: list[Any] = [array]
    cycle.append(cycle)


class NotUnpickled:
    """Raises where it is rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not here")


def array_and_a_thing_that_does_not_unpickle(size: int) -> Any:
    return [np.ones(size), NotUnpickled()]


def pid(_: int = 0) -> int:
    return os.getpid()


def address_and_sum(array: Any) -> tuple[int, int, float]:
    return os.getpid(), array.ctypes.data, float(array.sum())


def take_and_wait(array: Any, door: str) -> None:
    arrive_at(door)
    time.sleep(60)


def equal(one: Any, other: Any) -> bool:
    """Deeply, types and orders of arrays included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, Record):
        return equal(one.array, other.array) and one.name == other.name
    return bool(one == other)
