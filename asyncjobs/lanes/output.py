"""Read what a worker prints, keep the end of it, and pass it on.

One reader per pipe on the loop; it never blocks and never holds more than the last 64 KiB.
"""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable, Iterator, Mapping

from asyncjobs.lanes.base import Call
from asyncjobs.spawning import Descriptor
from asyncjobs.wire.marks import MARK, MARK_BYTES, MARK_CUT

KEPT = 64 * 1024
"""Bytes of a worker's output that are kept for a crash report."""
PIECE = 64 * 1024
TAIL = 64 * 1024
"""Characters of a job's captured output that are kept: the last ones."""
TAIL_PIECES = 64
"""Pieces of it that are kept before they are joined and cut."""
PIECES_AT_ONCE = 16
"""Pieces read in one turn of the loop: a worker that floods its pipe does not starve the rest."""


class OutputPipe:
    """The reading end of a worker's standard output or error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_text: Callable[[str], None]) -> None:
        reading, writing = os.pipe()
        self.worker_end: Descriptor = Descriptor(writing)
        self._loop = loop
        self._descriptor = reading
        self._on_text = on_text
        # "replace" is the fast one: a flood of invalid bytes must not hold up the loop.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = b""
        os.set_blocking(reading, False)
        loop.add_reader(reading, self.read)

    def read(self, pieces: int = PIECES_AT_ONCE) -> None:
        """Take what is there now, at most `pieces` of it."""
        for _ in range(pieces):
            if self._descriptor < 0:
                return
            try:
                data = os.read(self._descriptor, PIECE)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            self._tail = (self._tail + data)[-KEPT:]
            text = self._decoder.decode(data)
            if text:
                self._on_text(text)

    def tail(self) -> str:
        """The last of what came, at most 64 KiB."""
        return MARK_BYTES.sub(b"", self._tail).decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Stop reading; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self.worker_end.close()


class Tail:
    """Keeps the end of what a job prints, for `Job.output`."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[str] = []

    def write(self, stream: str, text: str) -> None:
        """Keep it, both streams in the order in which they came."""
        kept = self._kept
        kept.append(text)
        if len(kept) > TAIL_PIECES:
            kept[:] = ["".join(kept)[-TAIL:]]

    def report(self, done: float, total: float | None, note: str) -> None:
        """Nothing: the job's handle has it."""

    def __str__(self) -> str:
        return "".join(self._kept)[-TAIL:]


class Marks:
    """Takes one stream of a worker apart where a call's output begins."""

    __slots__ = ("_rest", "ticket")

    def __init__(self, ticket: int = 0) -> None:
        self.ticket: int = ticket
        """Whose output it is now; 0 until a first call was known."""
        self._rest = ""

    def begin(self, ticket: int) -> None:
        """What comes from now on is of that call, without a mark; no mark is under way."""
        self.ticket, self._rest = ticket, ""

    def split(self, text: str) -> Iterator[tuple[int, str]]:
        """The pieces of `text`, each with the ticket of its call; a mark may be cut by the end of a read."""
        if "\0" not in text and not self._rest:
            yield self.ticket, text
            return
        text, self._rest = self._rest + text, ""
        begin = 0
        for mark in MARK.finditer(text):
            if mark.start() > begin:
                yield self.ticket, text[begin : mark.start()]
            self.ticket, begin = int(mark[1]), mark.end()
        cut = MARK_CUT.search(text, begin)
        if cut is not None:
            self._rest, text = cut[0], text[: cut.start()]
        if begin < len(text):
            yield self.ticket, text[begin:]


class Voices:
    """Tells whose it is what one worker prints: its first call's, or that of the last mark."""

    def __init__(self, calls: Mapping[int, Call]) -> None:
        self._calls = calls
        self._marks: dict[str, Marks] = {}
        self._ticket = 0
        """The last that began without a mark."""
        self._read_with: object = None

    def needs_mark(self, call: Call, ticket: int) -> bool:
        """Whether the output of `call`, about to be sent, has to begin with a mark; a write, and a turn of our loop."""
        if not call.plan.marks or self._calls:
            return call.plan.marks
        # What those before it printed was read with their answers.
        self._ticket = ticket
        for marks in self._marks.values():
            marks.begin(ticket)
        return False

    def must_read(self, call: Call, answers: object) -> bool:
        """Whether the output has to be read now, before the end of `call`, one of these answers, is told."""
        if call.plan.marks and self._read_with is not answers:
            self._read_with = answers  # what the others of them printed is there, too
            return True
        # As long as it is the first, what is printed is its own.
        return call.plan.keeps_output or call.cell is not None

    def tell(self, stream: str, text: str, printed: Callable[[str, str, Call | None], None]) -> None:
        """Pass the pieces of `text` on, each with its call."""
        first = next(iter(self._calls.values()), None)
        if first is not None and not first.plan.marks and stream not in self._marks:
            printed(stream, text, first)
            return
        # Who has ended and still prints, from a thread that it left, is none of the calls.
        other = None if first is None or first.plan.marks else first
        for ticket, piece in self._of(stream).split(text):
            printed(stream, piece, self._calls.get(ticket, other))

    def _of(self, stream: str) -> Marks:
        marks = self._marks.get(stream)
        if marks is None:
            marks = self._marks[stream] = Marks(self._ticket)
        return marks
