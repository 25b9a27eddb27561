"""Pass on what workers print, without ever holding up the loop.

One thread writes; if the terminal does not keep up, the middle is left out and counted.
"""

from __future__ import annotations

import queue
import sys
import threading

ROOM = 1024 * 1024
"""Characters that may wait to be written."""


class Echo:
    """Writes to this process's own `sys.stdout` and `sys.stderr`, as they are at that moment."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._held = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def write(self, stream: str, text: str) -> None:
        """Hand over `text` for ``stdout`` or ``stderr``; never blocks."""
        with self._lock:
            if self._held > ROOM:
                self._dropped += len(text)
                return
            self._held += len(text)
        self._waiting.put((stream, text))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="asyncjobs-echo", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is left: it waits for the next text
                return
            self._thread = thread

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            stream, text = item
            _write(stream, text)
            with self._lock:
                self._held -= len(text)
                dropped, self._dropped = (self._dropped, 0) if self._waiting.empty() else (0, self._dropped)
            if dropped:
                _write("stderr", f"\n[asyncjobs: {dropped} characters of workers' output left out]\n")

    def close(self, timeout: float = 1.0) -> None:
        """Write out what waits, for at most `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(timeout)


def _write(stream: str, text: str) -> None:
    target = getattr(sys, stream)
    if target is None:
        return
    try:
        target.write(text)
        target.flush()
    except (OSError, ValueError):
        return  # our own output is closed: there is nowhere left to say so
