"""TensorBoard: every point that was logged, in an event file."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from math import isfinite
from pathlib import Path
from typing import IO, Any

from asyncjobs.plotting.rows import Rows

_numbers = count()


class TensorBoard:
    """``tensorboard:runs/7``: an event file of its own in that folder, with a tag for each name.

    TensorBoard's steps are whole numbers: of others it gets the whole part, of those that are not finite nothing. What
    was written or drawn does not go there.
    """

    def __init__(self, target: str) -> None:
        folder = target.partition(":")[2]
        if not folder:
            raise ValueError(f"{target!r} must name a folder, as in 'tensorboard:runs/7'")
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError(f"{target} needs tensorboard: pip install 'asyncjobs-runner[tensorboard]'")
        self.target: str = target
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] | None = None

    def add(self, rows: Rows) -> None:
        if self._file is None:
            self._file = self._new_file()
        records, end = _records(_events(rows)), self._file.tell()
        if self._file.write(records) < len(records):  # the disk is full: none of it, rather than half
            self._file.truncate(end)
            self._file.seek(end)
            raise OSError(errno.ENOSPC, "no room for the next points", self._file.name)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _new_file(self) -> IO[bytes]:
        from tensorboard.compat.proto.event_pb2 import Event

        # TensorBoard reads what has ".tfevents." in its name, in the order of the names.
        name = f"events.out.tfevents.{int(time.time()):010}.asyncjobs.{os.getpid()}.{next(_numbers)}"
        file = open(self._folder / name, "xb", buffering=0)  # noqa: SIM115  # it stays open
        file.write(_records(iter([Event(wall_time=time.time(), file_version="brain.Event:2")])))
        return file


def _events(rows: Rows) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    now = time.time()
    for step, values in rows.records():
        if not isfinite(step):
            continue
        tags = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        yield Event(wall_time=now, step=int(step), summary=Summary(value=tags))


def _records(events: Iterator[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    records = io.BytesIO()
    writer = RecordWriter(records)
    for event in events:
        writer.write(event.SerializeToString())
    return records.getvalue()
