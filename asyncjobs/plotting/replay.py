"""The reading side of a plot: all that its spool holds, folded into curves and frames of bounded size."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from asyncjobs.plotting import layout
from asyncjobs.plotting.curve import Curve

PIECE = 8192
"""Rows that are read in one go."""
PATIENCE = 0.25
"""Seconds that a row may be late: its number was drawn, it is not written, and later ones are."""


class Frame(NamedTuple):
    """The newest state of one name."""

    serial: int
    about: dict[str, Any]
    x: bytes
    x_type: str
    y: bytes
    y_type: str


class Replay:
    """What a spool holds; each `refresh` reads what was added since the last one.

    One thread at a time may use it. Other threads and processes may write meanwhile, unless it `is_settled`.
    """

    def __init__(self, folder: Path, max_points: int, *, is_settled: bool = False) -> None:
        self.curves: dict[str, Curve] = {}
        """By name, in the order in which they came up."""
        self.frames: dict[str, Frame] = {}
        self.rows: int = 0
        """Rows of points that were read."""
        self.exhausted: list[str] = []
        """Files of points that were read to their very end."""
        self._folder = folder
        self._max_points = max_points
        self._patience = 0.0 if is_settled else PATIENCE
        self._files: dict[str, _Points | _Frames | None] = {}

    def refresh(self, beside: Iterable[str] = ()) -> bool:
        """Read what is new, in the folder and in the files `beside` it; whether there was anything.

        Raises:
            OSError: the folder cannot be read.
        """
        has_news = False
        for path in [*self._paths(), *beside]:
            file = self._files[path] if path in self._files else _open(path, self._patience)
            if file is None:  # read to its end, or not whole: whoever makes it may be about to write its head
                continue
            self._files[path] = file
            has_news |= self._read_points(file) if isinstance(file, _Points) else self._read_frame(file)
            if isinstance(file, _Points) and file.is_exhausted:  # its memory counts as ours
                file.close()
                self._files[path] = None
                self.exhausted.append(path)
        return has_news

    def mark(self) -> list[int]:
        """What tells this state from an earlier one of the same spool."""
        return [self.rows, max((frame.serial for frame in self.frames.values()), default=0)]

    def close(self) -> None:
        """Let the files go."""
        for file in self._files.values():
            if file is not None:
                file.close()
        self._files.clear()

    def _paths(self) -> list[str]:
        suffixes = (layout.POINTS_SUFFIX, layout.FRAME_SUFFIX)
        # By number: the files of one process in the order in which it made them.
        return sorted(entry.path for entry in os.scandir(self._folder) if entry.name.endswith(suffixes))

    def _read_points(self, file: _Points) -> bool:
        before = self.rows
        while columns := file.read():
            steps, *values = columns
            for name, column in zip(file.names, values, strict=True):
                self.curves.setdefault(name, Curve(self._max_points)).extend(steps, column)
            self.rows += len(steps)
        return self.rows > before

    def _read_frame(self, file: _Frames) -> bool:
        frame = file.read()
        if frame is None:
            return False
        name = frame.about["name"]
        before = self.frames.get(name)
        if before is not None and before.serial >= frame.serial:
            return False
        self.frames[name] = frame
        return True


def _open(path: str, patience: float) -> _Points | _Frames | None:
    """None: it is not whole, or is gone."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # mapping nothing is a ValueError
        return None
    opened = layout.read_head(memory)
    if opened is None:
        memory.close()
        return None
    return _Points(memory, opened, patience) if opened.kind == layout.POINTS else _Frames(memory, opened)


class _Points:
    """One file of points."""

    def __init__(self, memory: mmap.mmap, opened: layout.Opened, patience: float) -> None:
        self.names: list[str] = opened.about["names"]
        row = layout.row(len(self.names))
        self._width = row.size // 8
        self._rows = (len(memory) - opened.start) // row.size
        self._next = 0
        self._patience = patience
        self._gap: tuple[int, float] | None = None
        self._memory = memory
        self._view = memoryview(memory)[opened.start : opened.start + self._rows * row.size]
        self._numbers: memoryview[float] = self._view.cast("d")

    @property
    def is_exhausted(self) -> bool:
        return self._next >= self._rows

    def read(self) -> list[list[float]]:
        """The columns of some rows that are new, steps first; empty if there are none."""
        serials = self._serials()
        if serials and not serials[0] and self._is_left_out(serials):
            self._next += 1
            serials = self._serials()
        whole = serials.index(0.0) if 0.0 in serials else len(serials)
        if not whole:
            return []
        first = self._next * self._width
        self._next += whole
        end = self._next * self._width
        return [_floats(self._numbers[column + first : end : self._width]) for column in range(self._width - 1)]

    def _serials(self) -> list[float]:
        end = min(self._next + PIECE, self._rows)
        return _floats(self._numbers[(self._next + 1) * self._width - 1 : end * self._width : self._width])

    def _is_left_out(self, serials: list[float]) -> bool:
        """Whether nobody will write the next row: later ones are there, and its writer was interrupted."""
        if not any(serials):
            return False
        now = monotonic()
        if self._gap is None or self._gap[0] != self._next:
            self._gap = (self._next, now)
        return now - self._gap[1] >= self._patience

    def close(self) -> None:
        self._numbers.release()
        self._view.release()
        self._memory.close()


class _Frames:
    """One file of frames."""

    def __init__(self, memory: mmap.mmap, opened: layout.Opened) -> None:
        self._memory = memory
        self._about = opened.about
        self._start = opened.start
        self._room = (len(memory) - opened.start) // layout.SLOTS
        self._serial = 0

    def read(self) -> Frame | None:
        """The newest frame, if it was not read before."""
        while True:
            heads = [
                layout.SLOT.unpack_from(self._memory, self._start - (slot + 1) * layout.SLOT.size)
                for slot in range(layout.SLOTS)
            ]
            slot = max(range(layout.SLOTS), key=lambda slot: heads[slot][0])
            serial, nx, ny, x_type, y_type = heads[slot]
            if serial <= self._serial:
                return None
            at = self._start + slot * self._room
            x, y = self._memory[at : at + nx], self._memory[at + nx : at + nx + ny]
            # Whoever writes may have come round to this slot meanwhile.
            if layout.SERIAL.unpack_from(self._memory, self._start - (slot + 1) * layout.SLOT.size)[0] == serial:
                break
        self._serial = serial
        return Frame(serial, self._about, x, _text(x_type), y, _text(y_type))

    def close(self) -> None:
        self._memory.close()


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


def _floats(view: memoryview[float]) -> list[float]:
    return view.tolist()  # type: ignore[return-value]  # the stubs think that a view holds bytes
