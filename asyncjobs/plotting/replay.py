"""The reading side of a plot: all that its spool holds, folded into curves and frames of bounded size."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from asyncjobs.plotting import layout
from asyncjobs.plotting.curve import Curve
from asyncjobs.plotting.private import is_mine

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
        self._files: dict[str, PointsFile | _Frames] = {}
        self._done: set[str] = set()

    def refresh(self, beside: Iterable[str] = ()) -> bool:
        """Read what is new, in the folder and in the files `beside` it; whether there was anything.

        Raises:
            OSError: the folder cannot be read.
        """
        found = [(path, self._opened(path)) for path in [*paths(self._folder), *beside] if path not in self._done]
        points = [(path, file) for path, file in found if isinstance(file, PointsFile)]
        has_points = [self._read_points(path, file) for path, file in in_turn(points)]
        has_frames = [self._read_frame(file) for _, file in found if isinstance(file, _Frames)]
        return any(has_points) or any(has_frames)

    def forget(self, path: str) -> None:
        """The file is gone, and its name may come to mean another."""
        self._done.discard(path)

    def mark(self) -> list[int]:
        """What tells this state from an earlier one of the same spool."""
        return [self.rows, max((frame.serial for frame in self.frames.values()), default=0)]

    def close(self) -> None:
        """Let the files go."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _opened(self, path: str) -> PointsFile | _Frames | None:
        file = self._files.get(path) or open_file(path, self._patience)
        if file is not None:  # or perhaps it is being made: look again the next time
            self._files[path] = file
        return file

    def _read_points(self, path: str, file: PointsFile) -> bool:
        before = self.rows
        while columns := file.read():
            steps, *values = columns
            for name, column in zip(file.names, values, strict=True):
                self.curves.setdefault(name, Curve(self._max_points)).extend(steps, column)
            self.rows += len(steps)
        if file.is_exhausted:  # its memory counts as ours
            file.close()
            del self._files[path]
            self._done.add(path)
            self.exhausted.append(path)
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


def paths(folder: Path, suffixes: tuple[str, ...] = (layout.POINTS_SUFFIX, layout.FRAME_SUFFIX)) -> list[str]:
    """The files of a spool: those of one process in the order in which it made them.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(suffixes))


def in_turn(files: Iterable[tuple[str, PointsFile]]) -> Iterator[tuple[str, PointsFile]]:
    """Of files in the order in which they were made those that may be read now.

    A process goes on in a new file when one is full. Somebody may still be at the last rows of that one: until it
    `is_exhausted` the new one has to wait.
    """
    waiting: dict[tuple[str, ...], PointsFile] = {}
    for path, file in files:
        table = (_writer(path), *file.names)
        before = waiting.get(table)
        if before is not None:
            before.is_followed |= file.has_begun
            continue
        yield path, file
        if not file.is_exhausted:
            waiting[table] = file


def _writer(path: str) -> str:
    """The id of the process that wrote it, which begins the name; of what is in memory it can only be ours."""
    return str(os.getpid()) if path.startswith("/proc/") else os.path.basename(path).partition("-")[0]


def open_file(path: str, patience: float) -> PointsFile | _Frames | None:
    """None: it is not whole yet, never became so, is gone, or somebody else could have written it."""
    try:
        with open(path, "rb") as file:
            if not is_mine(os.fstat(file.fileno())):  # pictures in it are unpickled
                return None
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # mapping nothing is a ValueError
        return None
    opened = layout.read_head(memory)
    if opened is None:
        memory.close()
        return None
    return PointsFile(memory, opened, patience) if opened.kind == layout.POINTS else _Frames(memory, opened)


class PointsFile:
    """One file of points."""

    def __init__(self, memory: mmap.mmap, opened: layout.Opened, patience: float) -> None:
        self.names: list[str] = opened.about["names"]
        row = layout.row(len(self.names))
        self._width = row.size // 8
        self._rows = (len(memory) - opened.start) // row.size
        self.place: int = 0
        """The row to be read next."""
        self.is_followed: bool = False
        """Whether rows that come after all of these have been written."""
        self._patience = patience
        self._gap: tuple[int, float] | None = None
        self._memory = memory
        self._view = memoryview(memory)[opened.start : opened.start + self._rows * row.size]
        self._numbers: memoryview[float] = self._view.cast("d")

    @property
    def is_exhausted(self) -> bool:
        """Nothing more can come."""
        return self.place >= self._rows

    @property
    def has_begun(self) -> bool:
        """Whether its first row is there."""
        return self._numbers[self._width - 1] != 0.0

    def read(self) -> list[list[float]]:
        """The columns of some rows that are new, steps first; empty if there are none."""
        serials = self._serials()
        if serials and not serials[0] and self._is_left_out(serials):
            # Of a file that is followed by another nothing more comes.
            self.place = self.place + 1 if any(serials) else self._rows
            serials = self._serials()
        whole = serials.index(0.0) if 0.0 in serials else len(serials)
        if not whole:
            return []
        first = self.place * self._width
        self.place += whole
        end = self.place * self._width
        return [_floats(self._numbers[column + first : end : self._width]) for column in range(self._width - 1)]

    def _serials(self) -> list[float]:
        end = min(self.place + PIECE, self._rows)
        return _floats(self._numbers[(self.place + 1) * self._width - 1 : end * self._width : self._width])

    def _is_left_out(self, serials: list[float]) -> bool:
        """Whether nobody will write the next row: later ones are there, and its writer was interrupted."""
        if not (any(serials) or self.is_followed):
            return False
        now = monotonic()
        if self._gap is None or self._gap[0] != self.place:
            self._gap = (self.place, now)
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
