"""`Pen`: the part of a plot that a training loop calls at every step. It writes, and waits for nobody."""

from __future__ import annotations

import logging
import os
import struct
import weakref
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

from asyncjobs.plotting import drawing
from asyncjobs.plotting.arrays import column
from asyncjobs.plotting.journal import Journal

logger: logging.Logger = logging.getLogger("asyncjobs")

MODES = ("lines", "markers", "lines+markers")
LANES = ("thread", "process")

_COUNTED = memoryview(b"")
"""The x of heights alone, which are counted from 0 when they are read."""
_plain: set[type] = {float, int, bool}
"""Kinds of numbers that become a float at once, and wait for nothing; those of numpy are learnt."""


class Pen:
    """Writes to one plot; from any thread, and after pickling from a process job of this machine."""

    _may_wait: bool = False
    """For a value on a GPU; whoever has nobody beside it that reads it later."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        # For `log`, which has no time to look twice.
        self._segments = {} if journal is None else journal.segments
        self._complaints: set[str] = set()
        self._dropped = 0
        self._is_over = False
        _pens.add(self)

    def log(self, step: float, /, **values: float) -> None:
        """Append one point to each named curve, at the x value `step`.

        Never waits and never raises: a value that is no number is dropped with one warning, the others are kept; None
        is no value. Takes some 1.5 us for three numbers. A value on a GPU is cloned there and read later.
        """
        place = 0
        try:
            for value in values.values():
                if type(value) not in _plain:
                    raise TypeError
            segment = self._segments[(*values,)]
            place = next(segment.rows)
            segment.pack(segment.memory, place, step, *values.values(), next(segment.serials))
        # New names, a full segment, and whatever is no plain number.
        except (KeyError, StopIteration, TypeError, OverflowError, struct.error):
            if place:
                segment.void(place)
            self._log_anything(step, values)

    def write(self, x: Any, y: Any = None, *, name: str = "data", mode: str = "lines") -> None:
        """Replace the trace `name` by the points `x`, `y`: as they are now, and the newest wins.

        Args:
            x, y: numbers, of equal length: lists, arrays, series, tensors. With `x` alone they are the heights.
            name: of the trace.
            mode: "lines", "markers" or "lines+markers".

        Raises:
            TypeError: something in them is no number.
            ValueError: their lengths differ, they have more than one dimension, or `mode` is none of the three.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, MODES))}")
        if y is None:
            xs, ys = _COUNTED, column(x, "x")
        else:
            xs, ys = column(x, "x"), column(y, "y")
        if xs is not _COUNTED and len(xs) != len(ys):
            raise ValueError(f"x has {len(xs):,} points and y has {len(ys):,}; they must be as many")
        if self._journal is not None:
            self._journal.put("trace", _checked_name(name), mode, xs, ys)
        else:
            self._miss(f"write(name={name!r:.40})")

    def draw(self, make: Any, /, *args: Any, name: str | None = None, lane: str = "thread") -> None:
        """Have ``make(*args)`` draw a picture in the background: a plotly figure, or a dictionary like one.

        Function and arguments are copied now. The newest call for a `name`, by default the function's own, wins:
        while one is drawn, only the last of those that came meanwhile is kept. A figure instead of a function is
        shown as it is; to copy it takes a millisecond and more, which a function would take in the background.

        Args:
            lane: "thread", or "process" for what would keep the interpreter busy.

        Raises:
            TypeError: function or arguments cannot be copied.
            ValueError: `lane` is neither.
        """
        if lane not in LANES:
            raise ValueError(f"lane is {lane!r}; it must be {' or '.join(map(repr, LANES))}")
        packed = drawing.pack(make, args)
        name = name or getattr(make, "__name__", "figure")
        if self._journal is not None:
            self._journal.put("draw", _checked_name(name), lane, memoryview(packed), memoryview(b""))
        else:
            self._miss(f"draw(name={name!r:.40})")

    def __reduce__(self) -> tuple[Callable[..., Pen], tuple[str | None]]:
        return _attached, (None if self._journal is None else str(self._journal.folder),)

    def _log_anything(self, step: Any, values: dict[str, Any]) -> None:
        journal = self._journal
        if journal is None:
            self._miss(f"log({step!r:.40})")
        if journal is None or not values:
            return
        try:
            good = self._numbers_of(step, values)
            if not good:
                return
            if not self._may_wait and any(map(_is_elsewhere, good.values())):
                journal.add_late(_number("step", step), {name: _kept(value) for name, value in good.items()})
            else:
                journal.add((*good,), _number("step", step), (*good.values(),))
        except Exception as error:  # whatever the values may do, training goes on
            self._dropped += 1
            self._complain(f"log({step!r:.40}) was dropped: {error}")

    def _numbers_of(self, step: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Those that are numbers, or tensors of a GPU; the others are told of, but for None, which is nothing."""
        good: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            try:
                good[name] = value if _is_elsewhere(value) and not self._may_wait else _number(name, value)
            except TypeError as error:
                self._dropped += 1
                self._complain(f"log({step!r:.40}): a value was dropped: {error}")
            else:
                if isinstance(value, Real):
                    _plain.add(type(value))
        return good

    def _miss(self, what: str) -> None:
        """It comes when nothing is taken: too late, or where nothing is plotted and nobody need know."""
        if self._is_over:
            self._dropped += 1
            self._complain(f"{what} came after the plot was closed, and is lost")

    def _complain(self, text: str) -> None:
        """Say it once; a loop would say much the same a million times."""
        if not self._complaints:
            self._complaints.add(text)
            logger.warning("%s", text)

    def _fall_silent(self) -> None:
        """Do nothing from now on."""
        self._journal, self._segments = None, {}


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"{name}={value!r:.40} is text, and no number")
    if hasattr(value, "detach"):  # a tensor that warns when it leaves its graph as a number
        value = value.detach()
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name}={value!r:.60} is no number that a float can hold: {error}") from None


def _is_elsewhere(value: Any) -> bool:
    """Whether it is in the memory of a GPU: to look at it would wait for all that was asked of the GPU before."""
    return getattr(getattr(value, "device", None), "type", "cpu") not in ("cpu", "meta")


def _kept(value: Any) -> Any:
    return value.detach().clone() if _is_elsewhere(value) else value


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name is {name!r}; it must be text")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"name is {name!r}; it must be text that UTF-8 can hold") from None
    return name


# --- other processes ----------------------------------------------------------------------

_pens: weakref.WeakSet[Pen] = weakref.WeakSet()
_attachments: dict[str, Pen] = {}


class Guest(Pen):
    """A plot in a process job. It writes: the process that opened the plot waits, closes and counts."""

    _may_wait = True

    def flush(self, timeout: float | None = None) -> bool:
        """True at once: that process has what was handed over."""
        return True

    def close(self, timeout: float | None = None) -> bool:
        """As `flush`; the plot stays open."""
        return True

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        """The plot stays open."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a plot in a process job has log, write, draw, flush and close, and no {name}: ask the process that "
            "opened it",
            name=name,
            obj=self,
        )


def _attached(folder: str | None) -> Pen:
    """In a process job: a pen of this process for the plot whose spool is there; one for all jobs."""
    if folder is None or not os.path.isdir(folder):  # the plot has ended
        return Guest(None)
    here = [pen for pen in tuple(_pens) if pen._journal is not None and str(pen._journal.folder) == folder]
    if here:  # a copy in the process of the plot is the plot
        return here[0]
    pen = _attachments.get(folder)
    if pen is None:
        for other in [one for one in _attachments if not os.path.isdir(one)]:  # a worker outlives many plots
            _attachments.pop(other)._fall_silent()
        pen = _attachments[folder] = Guest(Journal(Path(folder), is_guest=True))
    return pen


def _begin_anew() -> None:
    """In a forked child: the files are the parent's, and the rows in them are the parent's to draw."""
    for pen in tuple(_pens):
        pen._fall_silent()
    _attachments.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
