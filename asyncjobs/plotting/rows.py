"""The exact points of a plot, each once, for sinks that want those and no figures.

They are read from the files of the spool, in batches, and what a sink has taken is noted beside them: nothing is held
in memory, and a later process goes on from there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asyncjobs.errors import RunnerClosed
from asyncjobs.plotting import layout
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.reading import PATIENCE, PointsFile, batches, open_file, paths
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.spool import Spool

LOOK = 0.02
LONGEST = 2.0
"""Seconds from one look for rows that are late to the next, and for all of them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some thousand calls of `log`, at most, in their order."""

    names: list[str]
    steps: list[float]
    columns: Sequence[Sequence[float | None]]
    """Of each name its values; None: that call had none."""

    def records(self) -> Iterator[tuple[float, dict[str, float]]]:
        """The step of each call, and its values by name."""
        for step, *values in zip(self.steps, *self.columns, strict=True):
            pairs = zip(self.names, values, strict=True)
            yield step, {name: value for name, value in pairs if value is not None}


@runtime_checkable
class RowSink(Protocol):
    """One place that every point of a plot goes to. Its methods run in a thread, one call at a time.

    One with a number `most_values` is given no more numbers at a time, steps not counted, unless a single row has more.
    """

    target: str
    """As in `Sink`."""

    def add(self, rows: Rows) -> None:
        """Block until all of them have arrived. They come once; after a process was killed perhaps the last again.

        Raises:
            Exception: none has, and they come again later; `Refused` says when.
        """

    def close(self) -> None:
        """As in `Sink`."""


class FromSpool:
    """A sink to which an edition is the news that there are more rows in `spool`; these go to `sink`.

    `number` is the target's. Of a spool that `is_settled` nobody writes any more.
    """

    def __init__(self, sink: RowSink, spool: Spool, number: int, *, is_settled: bool = False) -> None:
        self.target: str = sink.target
        self._sink = sink
        self._spool = spool
        self._number = number
        self._patience = 0.0 if is_settled else PATIENCE
        self._taken = spool.taken(number)
        self._most_values: int | None = getattr(sink, "most_values", None)
        self._files: dict[str, PointsFile] = {}
        self._done: set[str] = set()
        self._busy = threading.Lock()
        self._is_over = False

    def send(self, edition: Edition) -> None:
        with self._busy:
            try:
                self._bring(edition.mark[0])
            finally:
                if self._is_over:
                    self._let_go()

    def close(self) -> None:
        self._is_over = True
        self._sink.close()
        # A send that took too long may still run, and read them; then it lets go of them itself.
        if self._busy.acquire(timeout=LOOK):
            self._let_go()
            self._busy.release()

    def _bring(self, wanted: int) -> None:
        until = time.monotonic() + LONGEST
        while self._taken.rows < wanted:
            if self._is_over:
                raise RunnerClosed("the plot was closed meanwhile")
            if self._take_some():
                until = time.monotonic() + LONGEST
            elif time.monotonic() > until:  # the disk was full, and they are in memory only
                raise OSError(f"{wanted - self._taken.rows:,} rows are not in {self._spool.folder}")
            else:
                time.sleep(LOOK)

    def _let_go(self) -> None:
        for path in tuple(self._files):
            self._files.pop(path).close()

    def _take_some(self) -> bool:
        """Whether there was anything to take."""
        before = self._taken.rows
        for batch in batches(self._found, self._most_values):
            if self._is_over:
                break
            if batch.steps:
                self._sink.add(Rows(batch.names, batch.steps, batch.columns))
            self._taken.rows += batch.places
            batch.accept()
            self._taken.places.update({os.path.basename(path): file.place for path, file in batch.files()})
            self._spool.note_taken(self._number, self._taken)
            self._close_exhausted(batch.files())
        self._close_exhausted(self._found())
        return self._taken.rows > before

    def _found(self) -> list[tuple[str, PointsFile]]:
        """Files with rows that may not have been taken."""
        there = paths(self._spool.folder, (layout.POINTS_SUFFIX,))
        found = [(path, self._opened(path)) for path in there if path not in self._done]
        return [(path, file) for path, file in found if file is not None]

    def _close_exhausted(self, files: Iterable[tuple[str, PointsFile]]) -> None:
        for path, file in files:
            if file.is_exhausted and path in self._files:  # its memory counts as ours
                self._files.pop(path).close()
                self._done.add(path)

    def _opened(self, path: str) -> PointsFile | None:
        known = self._files.get(path)
        if known is not None:
            return known
        file = open_file(path, self._patience)
        if not isinstance(file, PointsFile):
            return None
        file.place = self._taken.places.get(os.path.basename(path), 0)
        self._files[path] = file
        return file


def fed(sink: Sink | RowSink, spool: Spool, number: int, *, is_settled: bool = False) -> Sink:
    """The sink of the target of that number, which gets editions: one that wants rows has them fetched."""
    return sink if isinstance(sink, Sink) else FromSpool(sink, spool, number, is_settled=is_settled)
