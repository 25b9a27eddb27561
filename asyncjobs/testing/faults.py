"""Faults to place in a job: functions that die or hang, values that break on their way.

Everything here has a name, so that it travels to a process by that name, and takes effect
only where the test puts it. Values that kill spare the process that made them (`home`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from typing import Any, NoReturn

FOREVER = 3600.0
"""Seconds; longer than any test may take."""

# --- functions that die -----------------------------------------------------------------


def die(number: int = signal.SIGKILL) -> NoReturn:
    """End this process by a signal."""
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), number)
    time.sleep(FOREVER)
    raise AssertionError("unreachable")


def exit_with(code: int) -> NoReturn:
    """End this process at once with an exit code; no clean-up runs."""
    os._exit(code)


def segfault() -> None:
    """Read address 0."""
    ctypes.string_at(0)


# --- functions that hang ----------------------------------------------------------------


def hang() -> None:
    """Wait for ever; an exception that is raised in the thread ends it."""
    threading.Event().wait(FOREVER)


def hang_deaf() -> None:
    """Compute for ever and eat every exception, the stop ladder's interrupt too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


def hang_holding_the_lock(seconds: int = int(FOREVER)) -> None:
    """Sleep in C code without giving the interpreter lock away."""
    ctypes.PyDLL(None).sleep(seconds)


# --- exceptions that do not travel ------------------------------------------------------


def throw(error: BaseException) -> NoReturn:
    """Raise `error`."""
    raise error


def throw_new(kind: type[BaseException], *args: Any) -> NoReturn:
    """Make an exception here, and raise it: for those that do not pickle."""
    raise kind(*args)


class PlainBase(BaseException):
    """A BaseException of nobody's kind."""


class TwoArguments(Exception):
    """Pickles, but cannot be rebuilt: its constructor wants two arguments and passes on one."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} and {second}")


class ReduceRaises(Exception):
    """Its own `__reduce__` raises."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no pickle for you")


class Unprintable(Exception):
    """Neither `str` nor `repr` works."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class HoldsALock(Exception):
    """Has a lock among its arguments."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


def throw_cycle() -> NoReturn:
    """Raise an exception whose causes go round in a circle."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def recurse(depth: int = 0) -> int:
    """Call itself until Python objects."""
    return recurse(depth + 1) + 1


# --- values that break on their way -----------------------------------------------------


class Unpicklable:
    """Raises when it is pickled; as a result it breaks in the worker, as an argument at submit."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this value is not for travelling")


class RaisesOnUnpickle:
    """Pickles well and raises `error` where it is unpickled."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error: BaseException = error or ValueError("broken on arrival")

    def __reduce__(self) -> tuple[Any, ...]:
        return throw, (self.error,)


class DiesOnPickle:
    """Kills the process that pickles it, unless that is `home`."""

    def __init__(self, number: int = signal.SIGKILL, home: int | None = None) -> None:
        self.number: int = number
        self.home: int | None = home

    def __reduce__(self) -> tuple[Any, ...]:
        _strike(self.number, self.home)
        return DiesOnPickle, (self.number, self.home)


class DiesOnUnpickle:
    """Kills the process that unpickles it, unless that is the one that made it."""

    def __init__(self, number: int = signal.SIGKILL) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _strike, (self.number, os.getpid())


class DiesWhenDeleted:
    """Kills the process in which its last reference goes, unless that is `home`."""

    def __init__(self, number: int = signal.SIGKILL, home: int | None = None) -> None:
        self.number: int = number
        self.home: int = os.getpid() if home is None else home

    def __reduce__(self) -> tuple[Any, ...]:
        return DiesWhenDeleted, (self.number, self.home)

    def __del__(self) -> None:
        _strike(self.number, self.home)


def _strike(number: int, home: int | None) -> None:
    if os.getpid() != home:
        die(number)


def make(kind: Any, *args: Any) -> Any:
    """Return ``kind(*args)``: a job whose *result* is one of the values above."""
    return kind(*args)


def take(*_: object) -> str:
    """Accept anything: a job whose *arguments* are some of the values above."""
    return "taken"
