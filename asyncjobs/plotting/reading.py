"""The files of a spool, read in the order in which they were written, while others go on writing."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf, isnan
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from asyncjobs.plotting import layout, mapping
from asyncjobs.plotting.private import is_mine

PIECE = 8192
"""Rows that are read in one go."""
NEAR = 64
"""Rows that threads may write at the same time, for sure: where none of so many is there, none after them is."""
PATIENCE = 0.25
"""Seconds that a row may be late: its number was drawn, it is not written, and later ones are."""


def paths(folder: Path, suffixes: tuple[str, ...] = (layout.POINTS_SUFFIX, layout.FRAME_SUFFIX)) -> list[str]:
    """The files of a spool: those of one process in the order in which it made them.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(suffixes))


class Batch(NamedTuple):
    """Some thousand rows of one process, at most, in the order in which they were written.

    Whoever has them for good says so (`accept`); until then they come again.
    """

    names: list[str]
    steps: list[float]
    columns: Sequence[Sequence[float | None]]
    """Of each name its values; None: that row had none."""
    parts: list[tuple[str, PointsFile, int]]
    """The files that they come from, and how many from each, also of those for which nothing is here."""

    @property
    def places(self) -> int:
        """How many rows of files it takes."""
        return sum(count for _, _, count in self.parts)

    def points(self) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
        """Of each name the steps and the values that it has."""
        for name, column in zip(self.names, self.columns, strict=True):
            if len(self.parts) == 1:  # then all rows have all names
                yield name, self.steps, column  # type: ignore[misc]
            else:
                pairs = [(step, value) for step, value in zip(self.steps, column, strict=True) if value is not None]
                yield name, [step for step, _ in pairs], [value for _, value in pairs]

    def files(self) -> Iterator[tuple[str, PointsFile]]:
        """Paths and files that they come from."""
        return ((path, file) for path, file, _ in self.parts)

    def accept(self) -> None:
        """Go on behind them."""
        for _, file, count in self.parts:
            file.place += count


def batches(look: Callable[[], Sequence[tuple[str, PointsFile]]], most_values: int | None = None) -> Iterator[Batch]:
    """What is new in the files that `look` finds, in the order in which they were made; each batch must be accepted.

    A batch has at most `most_values` in all its columns together, but at least one row of each of its files.
    """
    has_more = True
    while has_more:
        has_more = False
        seen = _newest(_in_turn(look()))
        # What was written before the newest row that was seen is there by now, perhaps in files that were not.
        for group in _groups(_in_turn(look())):
            bound = inf if len(group) == 1 else seen.get(_writer(group[0][0]), 0.0)
            batch = _batch(group, most_values, bound)
            if batch is not None:
                has_more = True
                yield batch


def _newest(files: Sequence[tuple[str, PointsFile]]) -> dict[str, float]:
    """Of each process a row as new as any that can be seen."""
    newest: dict[str, float] = {}
    for group in _groups(files):
        if len(group) == 1:
            continue
        for path, file in group:
            serials = file.peek(PIECE)
            newest[_writer(path)] = max(newest.get(_writer(path), 0.0), serials[-1] if serials else 0.0)
    return newest


def _in_turn(files: Iterable[tuple[str, PointsFile]]) -> list[tuple[str, PointsFile]]:
    """Those that may be read now.

    A process goes on in a new file when one is full. Somebody may still be at the last rows of that one: until all of
    them are there the new one has to wait.
    """
    newest: dict[tuple[str, ...], PointsFile] = {}
    found: list[tuple[str, PointsFile]] = []
    for path, file in files:
        if file.is_exhausted:
            continue
        table = (_writer(path), *file.names)
        before = newest.get(table)
        if before is not None:
            before.is_followed |= file.has_begun
        if before is None or before.is_almost_read:
            found.append((path, file))
            newest[table] = file
    return found


def _groups(files: Sequence[tuple[str, PointsFile]]) -> list[list[tuple[str, PointsFile]]]:
    """Apart what can be read apart: only rows of one process with a name in common have an order among them."""
    uses = Counter((_writer(path), name) for path, file in files for name in file.names)
    apart: list[list[tuple[str, PointsFile]]] = []
    together: dict[str, list[tuple[str, PointsFile]]] = {}
    for path, file in files:
        writer = _writer(path)
        if any(uses[writer, name] > 1 for name in file.names):
            together.setdefault(writer, []).append((path, file))
        else:
            apart.append([(path, file)])
    return [*apart, *together.values()]


def _batch(group: Sequence[tuple[str, PointsFile]], most_values: int | None, bound: float) -> Batch | None:
    """The next rows of these files together, up to the serial number `bound`; None: there are none."""
    width = len(group) * max(len(file.names) for _, file in group)
    most = max(NEAR, PIECE // len(group)) if most_values is None else max(1, most_values // width)
    found = [(path, file, file.peek(most)) for path, file in group]
    if len(group) > 1 and any(file.is_held_up and not serials for _, file, serials in found):
        return None
    # Behind the last of a file that may go on, rows of the others may have to wait for more of it.
    last = {tuple(file.names): file for _, file, _ in found}  # of each table, for all are of one process
    ends = [
        serials[-1]
        for _, file, serials in found
        if serials and (len(serials) == most or (file is last[*file.names] and file.ends_with(len(serials))))
    ]
    bound = min([bound, *ends])
    parts = [(path, file, serials[: bisect_right(serials, bound)]) for path, file, serials in found]
    parts = [part for part in parts if part[2]]
    taken = [(path, file, len(serials)) for path, file, serials in parts]
    if not taken:
        return None
    if len(taken) == 1:
        (_, file, count) = taken[0]
        steps, *columns = file.columns(count)
        return _without_voids(Batch(file.names, steps, columns, taken))
    names = [*dict.fromkeys(name for _, file, _ in parts for name in file.names)]
    rows: list[tuple[float, float, dict[str, float]]] = []
    for _, file, serials in parts:
        steps, *columns = file.columns(len(serials))
        values = (dict(zip(file.names, row, strict=True)) for row in zip(*columns, strict=True))
        rows.extend(zip(serials, steps, values, strict=True))
    rows.sort(key=itemgetter(0))
    merged = [[row[2].get(name) for row in rows] for name in names]
    return _without_voids(Batch(names, [row[1] for row in rows], merged, taken))


def _without_voids(batch: Batch) -> Batch:
    """Without rows that are at no step at all, which stand for calls with values that are no numbers."""
    if not isnan(sum(batch.steps)):
        return batch
    kept = [n for n, step in enumerate(batch.steps) if not isnan(step)]
    columns = [[column[n] for n in kept] for column in batch.columns]
    return batch._replace(steps=[batch.steps[n] for n in kept], columns=columns)


def _writer(path: str) -> str:
    """The id of the process that wrote it, which begins the name; of what is in memory it can only be ours."""
    return str(os.getpid()) if path.startswith("/proc/") else os.path.basename(path).partition("-")[0]


def open_file(path: str, patience: float) -> PointsFile | FramesFile | None:
    """None: it is not whole yet, never became so, is gone, or somebody else could have written it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not is_mine(os.fstat(descriptor)):  # pictures in it are unpickled
            return None
        memory = mapping.readable(descriptor)
    finally:
        os.close(descriptor)
    opened = layout.read_head(memory)
    if opened is None:
        return None
    return PointsFile(memory, opened, patience) if opened.kind == layout.POINTS else FramesFile(memory, opened)


class PointsFile:
    """One file of points."""

    def __init__(self, memory: memoryview[int], opened: layout.Opened, patience: float) -> None:
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
        self._numbers: memoryview[float] = memory[opened.start : opened.start + self._rows * row.size].cast("d")

    @property
    def is_exhausted(self) -> bool:
        """Nothing more can come."""
        return self.place >= self._rows

    @property
    def has_begun(self) -> bool:
        """Whether its first row is there."""
        return self._numbers[self._width - 1] != 0.0

    def peek(self, most: int) -> list[float]:
        """The serial numbers of at most so many rows that are new; empty if there are none."""
        if not self.is_followed and not any(self._serials(NEAR)):  # most files, most of the time
            return []
        serials = self._serials(max(most, NEAR))
        while serials and not serials[0] and self._is_left_out(serials):
            # All that are left out in a row; of a file that is followed by another nothing more comes.
            self.place += next((n for n, serial in enumerate(serials) if serial), len(serials))
            serials = self._serials(max(most, NEAR))
        return serials[: min(most, serials.index(0.0))] if 0.0 in serials else serials[:most]

    @property
    def is_held_up(self) -> bool:
        """Whether rows are there behind one that is not written yet."""
        return self._gap is not None and self._gap[0] == self.place and not self.is_exhausted

    def ends_with(self, count: int) -> bool:
        """Whether there are only so many more rows in it: the next ones of its table are in another file."""
        return self.place + count == self._rows

    @property
    def is_almost_read(self) -> bool:
        """Whether a few more rows are all that can come, and all of them are there."""
        serials = self._serials(NEAR)
        return self.ends_with(len(serials)) and all(serials)

    def columns(self, count: int) -> list[list[float]]:
        """Of the next `count` rows the steps, and of each name the values."""
        first, end = self.place * self._width, (self.place + count) * self._width
        return [_floats(self._numbers[column + first : end : self._width]) for column in range(self._width - 1)]

    def _serials(self, count: int) -> list[float]:
        end = min(self.place + count, self._rows)
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


class Frame(NamedTuple):
    """The newest state of one thing."""

    serial: int
    kind: str
    name: str
    how: str
    """A word on how it is to be shown."""
    x: bytes
    x_type: str
    y: bytes
    y_type: str


class FramesFile:
    """One file of frames."""

    def __init__(self, memory: memoryview[int], opened: layout.Opened) -> None:
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
            serial, nx, ny, x_type, y_type, how = heads[slot]
            if serial <= self._serial:
                return None
            at = self._start + slot * self._room
            x, y = bytes(self._memory[at : at + nx]), bytes(self._memory[at + nx : at + nx + ny])
            # Whoever writes may have come round to this slot meanwhile.
            if layout.SERIAL.unpack_from(self._memory, self._start - (slot + 1) * layout.SLOT.size)[0] == serial:
                break
        self._serial = serial
        kind, name = self._about["kind"], self._about["name"]
        if not nx and kind == "trace":  # heights alone
            x, x_type = array("d", range(ny // int(y_type[1:2]))).tobytes(), b"f8"
        return Frame(serial, kind, name, _text(how), x, _text(x_type), y, _text(y_type))

    def close(self) -> None:
        self._memory.release()


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


def _floats(view: memoryview[float]) -> list[float]:
    return view.tolist()  # type: ignore[return-value]  # the stubs think that a view holds bytes
