"""The writing side of a plot: what is handed over is in a mapped file when the call returns.

From there it survives `kill -9`, and is read by a `Replay`, in this process or in a later one. Several threads and
processes may write to one spool: each process has files of its own.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import nan
from operator import length_hint
from pathlib import Path
from typing import Any

from asyncjobs.plotting import layout, mapping
from asyncjobs.plotting.arrays import TYPES

FIRST = 64 * 1024
LARGEST = 4 * 1024 * 1024
"""Bytes of the first file of points and of the largest ones: each is twice as large as the one before."""
MANY = 32
"""Sets of names, from which on further ones begin with smaller files."""
MOST_LATE = 1000
"""Rows that may wait for a GPU."""


class Segment:
    """Rows of points in one mapped file.

    Whoever draws a place from `rows`, which is one step of the interpreter, owns it: no lock is needed. ``pack(memory,
    place, step, *values, next(serials))`` writes a row; its last number, which is never 0, makes it valid, and tells
    when it was written: `serials` are those of all rows of this process.
    """

    __slots__ = ("capacity", "memory", "names", "pack", "rows", "serials")

    def __init__(self, memory: memoryview[int], start: int, names: int, serials: Iterator[int]) -> None:
        self.serials: Iterator[int] = serials
        self.names: int = names
        row = layout.row(names)
        self.memory: memoryview[int] = memory
        self.pack: Callable[..., None] = row.pack_into
        self.capacity: int = (len(memory) - start) // row.size
        self.rows: Iterator[int] = iter(range(start, start + self.capacity * row.size, row.size))

    def void(self, place: int) -> None:
        """Write into a row that was drawn, and for which there is nothing: those behind it would wait for it."""
        self.pack(self.memory, place, *[nan] * (self.names + 1), next(self.serials))

    def is_full(self, share: float = 1.0) -> bool:
        """Whether that share of its rows is taken."""
        return length_hint(self.rows) <= (1.0 - share) * self.capacity


class Table:
    """The points of one set of names, from one process."""

    __slots__ = ("names", "next_nbytes", "segment", "spare")

    def __init__(self, names: tuple[str, ...], first_nbytes: int) -> None:
        self.names: tuple[str, ...] = names
        self.segment: Segment | None = None
        self.spare: Segment | None = None
        """Made ahead, so that whoever fills the segment need not wait for it."""
        self.next_nbytes: int = first_nbytes


class Frame:
    """The newest state of one trace or picture, from one process: one file with room for two."""

    def __init__(self, path: str, memory: memoryview[int], start: int) -> None:
        self.path: str = path
        self.room: int = (len(memory) - start) // layout.SLOTS
        """Bytes that a state may have."""
        self._memory = memory
        self._data = [start + slot * self.room for slot in range(layout.SLOTS)]
        self._heads = [start - (slot + 1) * layout.SLOT.size for slot in range(layout.SLOTS)]
        self._slot = 0

    def put(self, serial: int, how: bytes, x: memoryview[Any], y: memoryview[Any]) -> None:
        """Write a state; the one before stays whole until this one is."""
        slot = self._slot = 1 - self._slot
        memory, head, start = self._memory, self._heads[slot], self._data[slot]
        middle = start + x.nbytes
        layout.SERIAL.pack_into(memory, head, 0)
        memory[start:middle] = x if x.format == "B" else x.cast("B")
        memory[middle : middle + y.nbytes] = y if y.format == "B" else y.cast("B")
        layout.SLOT.pack_into(memory, head, 0, x.nbytes, y.nbytes, TYPES[x.format], TYPES[y.format], how)
        layout.SERIAL.pack_into(memory, head, serial)


class Journal:
    """Writes into the folder of a spool."""

    def __init__(self, folder: Path, *, is_guest: bool = False) -> None:
        self.folder: Path = folder
        self._is_guest = is_guest
        """In another process than the one that reads it: nobody would find what is in our memory."""
        self.segments: dict[tuple[str, ...], Segment] = {}
        """Where to write the next row of a set of names."""
        self._tables: dict[tuple[str, ...], Table] = {}
        self._frames: dict[tuple[str, str], Frame] = {}
        self._serial = 0
        self._numbers = itertools.count()
        self._rows = itertools.count(1)
        # Reentrant, for a signal handler may log in the midst of a log.
        self._points, self._pictures = threading.RLock(), threading.RLock()
        self._late: deque[tuple[float, dict[str, Any]]] = deque()
        self._in_memory: dict[str, int] = {}
        self.problem: OSError | None = None
        """Why something is not on the disk: it is full, for example."""

    # --- points -------------------------------------------------------------------------

    def add(self, names: tuple[str, ...], step: float, values: tuple[float, ...]) -> None:
        """Write one row; `names` may be new, and the segment may be full."""
        while True:
            segment = self._open_segment(names)
            place = next(segment.rows, None)
            if place is not None:
                segment.pack(segment.memory, place, step, *values, next(segment.serials))
                return

    def add_late(self, step: float, values: dict[str, Any]) -> None:
        """As `add`, for values that are not known yet; whoever has time writes them (`write_late`)."""
        if len(self._late) >= MOST_LATE:
            self.write_late()
        self._late.append((step, values))

    def write_late(self) -> None:
        """Wait for the values that were not known yet, and write them."""
        while self._late:
            try:
                step, values = self._late.popleft()
            except IndexError:  # another thread was quicker
                return
            self.add((*values,), step, tuple(map(float, values.values())))

    def make_spares(self) -> None:
        """Make the next files of the tables whose last is half full; for whoever has time."""
        for table in tuple(self._tables.values()):
            segment = table.segment
            # Made under the lock: the numbers of files are to rise in the order in which they are filled.
            with self._points:
                if table.spare is None and segment is not None and segment.is_full(0.5):
                    table.spare = self._new_segment(table)

    def _open_segment(self, names: tuple[str, ...]) -> Segment:
        with self._points:
            table = self._tables.get(names) or Table(names, FIRST if len(self._tables) < MANY else FIRST // 8)
            if table.segment is None or table.segment.is_full():
                table.segment, table.spare = table.spare or self._new_segment(table), None
                self._tables[names] = table
                self.segments[names] = table.segment
            return table.segment

    def _new_segment(self, table: Table) -> Segment:
        about = {"names": table.names}
        _, memory, start = self._map(layout.POINTS, about, table.next_nbytes, layout.POINTS_SUFFIX)
        table.next_nbytes = min(2 * table.next_nbytes, LARGEST)
        return Segment(memory, start, len(table.names), self._rows)

    # --- frames -------------------------------------------------------------------------

    def put(self, kind: str, name: str, how: str, x: memoryview[Any], y: memoryview[Any]) -> None:
        """Write the newest state of the `kind` of thing that is called `name`; `how` it is to be shown is a word."""
        with self._pictures:
            before = self._frames.get((kind, name))
            nbytes = x.nbytes + y.nbytes
            frame = before if before and nbytes <= before.room else self._new_frame(kind, name, nbytes, before)
            # Numbers rise over all processes: the newest state is the one with the highest.
            self._serial = max(self._serial + 1, time.time_ns())
            frame.put(self._serial, how.encode(), x, y)
            if frame is not before:
                self._frames[kind, name] = frame
                if before:
                    self._remove(before.path)

    def _new_frame(self, kind: str, name: str, nbytes: int, before: Frame | None) -> Frame:
        # What has grown once will do so again.
        room = max(nbytes, 2 * before.room if before else 0)
        room = max(1, -(-room // layout.PAGE)) * layout.PAGE
        about = {"kind": kind, "name": name}
        return Frame(*self._map(layout.FRAME, about, layout.SLOTS * room, layout.FRAME_SUFFIX, layout.SLOTS_NBYTES))

    def _remove(self, path: str) -> None:
        if path in self._in_memory:  # its name could come to mean another before it is read again
            return
        with suppress(FileNotFoundError):  # somebody has taken the folder away
            os.unlink(path)

    # --- files --------------------------------------------------------------------------

    def _map(
        self, kind: bytes, about: dict[str, Any], nbytes: int, suffix: str, room: int = 0
    ) -> tuple[str, memoryview[int], int]:
        """A new file with `nbytes` for data: its path, its memory, and where these begin."""
        head = layout.head(kind, about, room)
        nbytes += len(head)
        path, descriptor = self._create(nbytes, suffix)
        try:
            memory = mapping.writable(descriptor, nbytes)
        finally:
            if path not in self._in_memory:
                os.close(descriptor)
        # What tells of the kind comes last: whoever reads it finds the rest.
        memory[layout.KIND_NBYTES : len(head)] = head[layout.KIND_NBYTES :]
        memory[: layout.KIND_NBYTES] = head[: layout.KIND_NBYTES]
        return path, memory, len(head)

    def _create(self, nbytes: int, suffix: str) -> tuple[str, int]:
        try:
            return self._on_disk(nbytes, suffix)
        except OSError as error:  # the disk is full: a plot in memory is better than none
            if self._is_guest or not hasattr(os, "memfd_create"):
                raise
            self.problem = error
        descriptor = os.memfd_create("asyncjobs-plot")
        os.fchmod(descriptor, 0o600)  # as a file of ours; a replay reads no others
        os.ftruncate(descriptor, nbytes)
        place = f"/proc/self/fd/{descriptor}"
        self._in_memory[place] = descriptor
        return place, descriptor

    def _on_disk(self, nbytes: int, suffix: str) -> tuple[str, int]:
        while True:
            path = self.folder / f"{os.getpid()}-{next(self._numbers):06}{suffix}"
            with suppress(FileExistsError):  # of an earlier process with our number
                return str(path), _reserved(path, nbytes)

    def in_memory(self) -> list[str]:
        """Files that found no room on the disk, as paths that open in this process."""
        return list(self._in_memory)

    def forget(self, path: str) -> bool:
        """Give the memory of such a file back, for all that is in it has been read; whether it was one."""
        descriptor = self._in_memory.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def close(self) -> None:
        """Write no more. What is in the folder stays."""
        # Not closed but let go: another thread may be in the midst of a row.
        self.segments.clear()
        self._tables.clear()
        self._frames.clear()
        for path in self.in_memory():
            self.forget(path)


def _reserved(path: Path, nbytes: int) -> int:
    """Create the file with room on the disk: to touch a page for which there is none would end the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, nbytes)
        else:  # macOS
            os.write(descriptor, bytes(nbytes))
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor
