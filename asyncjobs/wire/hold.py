"""A worker's end of the arenas: arguments come in, results go out, shared objects stay.

Used by the worker's main thread, and while a job runs by any of its threads; `granted` and `hear_ended` are called
by the control thread, which never waits for them.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from asyncjobs.wire import codec, frames, parcel
from asyncjobs.wire.arena import Arena, Reader
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import Settings

Send = Callable[[int, int, bytes], None]


class Hold:
    """What one worker holds of the runner's memory."""

    def __init__(self, settings: Settings, send: Send) -> None:
        self._send = send
        self.cap: int = settings.arena_bytes
        self._out = Arena(settings.outward, self._ask, self._gave_up)
        self._in = Reader(settings.inward, private=True, on_release=self._note_end)
        self._shared = Reader(settings.shared, private=True, on_release=self._note_end)
        # Held while arenas and readers are used: several threads of a job may ask at once.
        self._lock = threading.RLock()
        self._heard: deque[bytes] = deque()
        """Messages of the control thread's: results that are looked at no more."""
        self._answered = threading.Event()
        self._may = False
        self.has_ended: bool = False
        """Views have died, and nobody was told."""
        self._adopted: dict[int, Any] = {}
        self._looks: dict[int, int] = {}
        """How many segments of each shared object are looked at."""
        self._object_at: dict[int, int] = {}
        """Which shared object lies in a segment."""
        self._dropped: list[int] = []

    def _note_end(self) -> None:
        self.has_ended = True

    # --- in -----------------------------------------------------------------------------

    def load(self, body: memoryview) -> Any:
        """What a parcel means; its arrays are this worker's own to write to."""
        with self._lock:
            stream, buffers = parcel.unpack(body, self._in)
        return codec.loads(stream, buffers=buffers)

    def refuse(self, body: memoryview) -> None:
        """Nobody will look at this parcel; from any thread."""
        parcel.refuse(body, self._in)
        self.has_ended = True

    def load_shared(self, body: memoryview) -> Any:
        """The same for one that lies among the shared objects, and is for this worker alone."""
        stream, buffers = parcel.unpack(body, self._shared)
        return codec.loads(stream, buffers=buffers)

    def adopt(self, number: int, body: bytes) -> Any:
        """The shared object `number`: mapped once, read-only."""
        if number not in self._adopted:
            stream, buffers = parcel.unpack(memoryview(body), self._shared)
            for at in parcel.segments(memoryview(body)):
                self._object_at[at] = number
                self._looks[number] = self._looks.get(number, 0) + 1
            value = codec.loads(stream, buffers=[memoryview(buffer).toreadonly() for buffer in buffers])
            self._adopted[number] = value
        return self._adopted[number]

    def _drop(self, number: int) -> None:
        """A shared object is closed: the runner waits to hear that nobody looks at it."""
        self._adopted.pop(number, None)
        self._dropped.append(number)
        self.has_ended = True

    # --- out ----------------------------------------------------------------------------

    def pack(self, result: Parcel) -> bytes:
        """Copy a result to where the runner finds it; in one piece where there is no room."""
        with self._lock:
            self._take_back()
            packed = parcel.pack(result, self._out)
            if packed is None:
                return parcel.pack_inline(result)
            for segment, buffer in packed.copies:
                self._out.write(segment, buffer)
            return packed.body

    def hear_ended(self, message: bytes) -> None:
        """The runner's word of results that are looked at no more, in the control thread."""
        self._heard.append(message)

    def _take_back(self) -> None:
        while self._heard:
            parcel.release_ended(self._out, memoryview(self._heard.popleft()))

    def _ask(self, nbytes: int) -> bool:
        self._answered.clear()
        self._send(frames.WANT, nbytes, b"")
        self._answered.wait()
        return self._may

    def granted(self, may: bool) -> None:
        """The runner's answer, in the control thread."""
        self._may = may
        self._answered.set()

    def _gave_up(self, nbytes: int) -> None:
        self._send(frames.GAVE_UP, nbytes, b"")

    # --- hearing and telling ------------------------------------------------------------

    def hear(self, kind: int, number: int, message: memoryview) -> None:
        """What the runner says of its memory."""
        if kind == frames.ENDED:
            self._heard.append(bytes(message))
        elif kind == frames.TRIM:
            gc.collect()  # arguments may be held by nothing but a cycle
            with self._lock:
                self._take_back()
                self._out.trim()
            self.tell()
            self._send(frames.TRIMMED, 0, b"")
        elif kind == frames.DROP:
            self._drop(number)

    def tell(self) -> None:
        """Say which arguments and shared objects nobody looks at any more."""
        self.has_ended = False
        with self._lock:
            arguments = self._in.ended()
        if arguments:
            self._send(frames.ENDED, 0, parcel.ended(arguments))
        for at, _ in self._shared.ended():
            if at in self._object_at:  # else the initializer's
                self._looks[self._object_at[at]] -= 1
        for number in [number for number in self._dropped if not self._looks.get(number)]:
            self._dropped.remove(number)
            self._send(frames.DROPPED, number, b"")
