"""Pass on what workers print, without ever holding up the loop.

One thread writes; if the terminal does not keep up, the middle is left out and counted. In a notebook each text goes
to the cell that it belongs to.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from functools import partial

from asyncjobs.notebook import Cell, Notebook

ROOM = 1024 * 1024
"""Characters that may wait to be written."""


class Echo:
    """Writes to this process's own `sys.stdout` and `sys.stderr` as they are then; in a notebook to cells."""

    def __init__(self, notebook: Notebook | None = None) -> None:
        self._notebook = notebook
        self._waiting: queue.SimpleQueue[tuple[Callable[[], object], int] | None] = queue.SimpleQueue()
        self._held = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def write(self, stream: str, text: str, cell: Cell | None = None) -> None:
        """Hand over `text` for ``stdout`` or ``stderr`` of `cell`; never blocks."""
        with self._lock:
            if self._held > ROOM:
                self._dropped += len(text)
                return
            self._held += len(text)
        self._waiting.put((self._begin(stream, text, cell), len(text)))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="asyncjobs-echo", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is left: it waits for the next text
                return
            self._thread = thread

    def _begin(self, stream: str, text: str, cell: Cell | None) -> Callable[[], object]:
        """What the thread has to do for `text`."""
        if self._notebook is None:
            return partial(_write, stream, text)
        try:
            return self._notebook.begin(stream, text, cell)
        except ValueError:  # the stream is closed: the kernel ends
            return bool

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            work, length = item
            _do(work)
            with self._lock:
                self._held -= length
                dropped, self._dropped = (self._dropped, 0) if self._waiting.empty() else (0, self._dropped)
            if dropped:
                note = f"\n[asyncjobs: {dropped} characters of workers' output left out]\n"
                _do(self._begin("stderr", note, None))

    def close(self, timeout: float = 1.0) -> None:
        """Write out what waits, for at most `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(timeout)


def _write(stream: str, text: str) -> None:
    target = getattr(sys, stream)
    if target is not None:
        target.write(text)
        target.flush()


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except (OSError, ValueError):
        return  # our own output is closed: there is nowhere left to say so
