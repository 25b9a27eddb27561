"""Read what a worker prints, keep the end of it, and pass it on.

One reader per pipe on the loop; it never blocks and never holds more than the last 64 KiB.
"""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable

from asyncjobs.spawning import Descriptor

KEPT = 64 * 1024
"""Bytes of a worker's output that are kept for a crash report."""
PIECE = 64 * 1024
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
        return self._tail.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Stop reading; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self.worker_end.close()
