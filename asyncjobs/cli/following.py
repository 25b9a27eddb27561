"""Follow a job to its end: what it prints, how far it is, what became of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import msgspec
from rich.console import Console
from rich.status import Status

from asyncjobs.cli import plain, tables
from asyncjobs.cli.asking import Desk, News, Unanswered, job_path
from asyncjobs.service.errors import ServiceNotRunning
from asyncjobs.service.protocol import EventView, JobView, ProgressView

AWAY = 60.0
"""Seconds that the service may be away, to be started anew, before following it ends."""
_PAUSE = 0.25


class Follower:
    """Reads a job's events until the last one; its log goes to `out`."""

    def __init__(self, desk: Desk, job_id: str, out: TextIO, is_quiet: bool = False) -> None:
        self._desk = desk
        self._id = job_id
        self._log = None if is_quiet else LogReader(desk, job_id, out)
        self._is_quiet = is_quiet
        self._seen = ""
        self._status = Status("", console=Console(stderr=True, highlight=False), spinner_style="cyan")

    def follow(self) -> JobView:
        """Blocks until the job has ended; gives it then. A service that is started anew meanwhile is waited for."""
        with self._status if self._shows_progress() else _nothing():
            while not self._read_events():
                continue
            self._read_log()
        return self._desk.get(job_path(self._id), JobView)

    def _read_log(self) -> None:
        if self._log is None:
            return
        # On a terminal the status would be drawn over what the log left of its last line.
        self._status.stop()
        self._log.read()
        if self._shows_progress() and self._log.is_at_line_start:
            self._status.start()

    def _shows_progress(self) -> bool:
        return not self._is_quiet and sys.stderr.isatty()

    def _read_events(self) -> bool:
        """Whether the job has ended; False when the stream broke off, or ended before."""
        headers = {"Last-Event-ID": self._seen} if self._seen else {}
        with patiently(self._desk), self._desk.stream(job_path(self._id, "events"), headers) as stream:
            for news in stream.news():
                if self._take(news):
                    return True
        # A job that had ended before tells nothing new behind what was seen.
        return self._desk.get(job_path(self._id), JobView).state in tables.FINAL

    def _take(self, news: News) -> bool:
        if news.kind == "progress":
            progress = msgspec.json.decode(news.text, type=ProgressView)
            self._status.update(tables.progress_text(progress))
            return False
        if news.kind == "log":
            self._read_log()
            return False
        self._seen = news.id or self._seen
        event = msgspec.json.decode(news.text, type=EventView)
        if event.state in tables.FINAL:
            return True
        self._status.update(tables.state_text(event.state))
        if event.note and not self._is_quiet:
            self._status.console.print(f"{event.kind}: {plain.line(event.note)}", style="dim", markup=False)
        return False


class LogReader:
    """Copies what is new in a job's log."""

    def __init__(self, desk: Desk, job_id: str, out: TextIO, offset: int = 0) -> None:
        self._desk = desk
        self._path = job_path(job_id, "log")
        self._out = out
        self.offset: int = offset
        self.is_at_line_start: bool = True

    def read(self, follow: bool = False) -> None:
        """Copy what there is from `offset` on; with `follow` what comes as well, until the job or the service ends."""
        following = "true" if follow else None
        # A log has no signs of life: a job may say nothing for hours.
        with self._desk.stream(self._path, None, None, offset=self.offset or None, follow=following) as stream:
            # The middle of a very long log is gone.
            self.offset = max(self.offset, int(stream.headers.get("X-Offset", "0")))
            write(self._counted(stream.pieces()), self._out)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.offset += len(piece)
            self.is_at_line_start = piece.endswith(b"\n")
            yield piece


def write(pieces: Iterator[bytes], out: TextIO) -> None:
    """A log as it is to a file or a pipe; to a terminal with everything that would move the cursor written out."""
    if out.isatty():
        for text in plain.stream(pieces):
            out.write(text)
            out.flush()
        return
    for piece in pieces:
        out.buffer.write(piece)
        out.flush()


@contextmanager
def patiently(desk: Desk) -> Iterator[None]:
    """Go on where the connection breaks in the middle; wait until a service answers, `AWAY` seconds at most."""
    try:
        yield
    except (Unanswered, ServiceNotRunning):
        if not is_back(desk, AWAY):
            raise


def is_back(desk: Desk, seconds: float) -> bool:
    """Whether a service answers within so many seconds."""
    end = time.monotonic() + seconds
    while not desk.is_there():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


@contextmanager
def _nothing() -> Iterator[None]:
    yield
