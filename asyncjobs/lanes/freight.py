"""The runner's end of one worker's arenas: arguments go out, results come in, the budget is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from asyncjobs.memory import Memory, Tally
from asyncjobs.spawning import Descriptor
from asyncjobs.wire import frames, parcel
from asyncjobs.wire.arena import PAGE, Arena, Reader, memory_file
from asyncjobs.wire.parcel import Packed, Parcel

IDLE = 5.0
"""Seconds without work after which unused memory goes back to the system."""


class Freight:
    """The two arenas of one worker; both end with it, but for results that somebody holds.

    `on_idle` is called when the worker has had nothing to do for a while.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, memory: Memory, on_idle: Callable[[], None]) -> None:
        self._loop = loop
        self._memory = memory
        self._on_idle = on_idle
        self.inward: Descriptor = memory_file("asyncjobs-arguments")
        self.outward: Descriptor = memory_file("asyncjobs-results")
        self.arguments: Arena = Arena(self.inward, memory.allow, memory.gave_up)
        self.results: Reader = Reader(self.outward, private=False, on_release=self._hear)
        self.granted: int = 0
        """Bytes that the worker may use for results, and does or did."""
        self.inlined: int = 0
        """Parcels for which there was no room."""
        self.ended: list[tuple[int, int]] = []
        """Results that nobody looks at any more, and the worker has not been told of."""
        self._hears = False
        self.is_trimming: bool = False
        """The worker was asked to give back what it can, and has not answered."""
        self.has_news: bool = False
        """Since it was asked last, calls were sent or results died: there may be more to give back."""
        self._copying = 0
        self._is_closed = False
        memory.tallies.add(self.tally)
        self._used_at = 0.0
        self._idle_check: asyncio.TimerHandle | None = None

    # --- out ----------------------------------------------------------------------------

    def pack(self, arguments: Parcel) -> Packed | None:
        """Find room for arguments; None: there is none now."""
        return parcel.pack(arguments, self.arguments)

    def pack_inline(self, arguments: Parcel) -> bytes:
        """The same where there is no room and nobody will make any."""
        self.inlined += 1
        return parcel.pack_inline(arguments)

    def copy(self, packed: list[Packed]) -> None:
        """Copy arguments to their places; from any thread, between `begin` and `end`."""
        for one in packed:
            for segment, buffer in one.copies:
                self.arguments.write(segment, buffer)

    def begin_copy(self) -> None:
        """A thread is about to copy: the files must stay open."""
        self._copying += 1

    def end_copy(self) -> None:
        """It has ended."""
        self._copying -= 1
        if self._is_closed and not self._copying:
            self._close_files()

    # --- in -----------------------------------------------------------------------------

    def hear(self, kind: int, nbytes: int, message: memoryview, answer: Callable[[int, int], None]) -> None:
        """What the worker says of its memory."""
        if kind == frames.WANT:
            may = self._memory.allow(nbytes)
            self.granted += nbytes if may else 0
            answer(frames.GRANT, int(may))
            return
        if kind == frames.ENDED:
            parcel.release_ended(self.arguments, message)
        elif kind == frames.GAVE_UP:
            self.granted -= nbytes
            self._memory.gave_up(nbytes)
        elif kind == frames.TRIMMED:
            self.is_trimming = False
        self._memory.room_came()

    def _hear(self) -> None:
        """A result has died, in any thread: have the loop look, once for many."""
        if self._hears:
            return
        self._hears = True
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:
            return  # the loop is closed, the worker gone: nobody keeps accounts any more

    def _look(self) -> None:
        self._hears = False
        ended = self.results.ended()
        if not self._is_closed:
            self.ended += ended
            self.has_news = True
            self.rest()
            return
        self._memory.gave_up(_pages(ended))
        if not self.results.held():
            self._memory.tallies.discard(self.tally)
        self._memory.room_came()

    def to_tell(self) -> bytes:
        """The message to the worker that says which results are looked at no more."""
        ended, self.ended = self.ended, []
        return parcel.ended(ended)

    def may_come_free(self, is_busy: bool) -> bool:
        """Whether memory may come free here without anybody's doing."""
        return self.is_trimming or (is_busy and self.arguments.in_use > 0)

    # --- giving back --------------------------------------------------------------------

    def rest(self) -> None:
        """The worker has nothing to do, or a result has died: if it stays so for a while, trim."""
        self._used_at = monotonic()
        if self._idle_check is None and not self._is_closed:
            self._idle_check = self._loop.call_later(IDLE, self._check_idle)

    def _check_idle(self) -> None:
        self._idle_check = None
        left = self._used_at + IDLE - monotonic()
        if left <= 0:
            self._on_idle()
        else:
            self._idle_check = self._loop.call_later(left, self._check_idle)

    # --- the end ------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of memory in both arenas."""
        return self.arguments.committed + self.granted

    def tally(self) -> Tally:
        """What the arenas hold, and have done."""
        arguments, results = self.arguments, self.results
        if self._is_closed:
            return Tally(in_use=_pages(results.held()))
        in_use = arguments.in_use + _pages(results.held())
        return Tally(
            segments=arguments.segments + results.segments,
            in_use=in_use,
            recycled=arguments.recycled + results.recycled,
            retired=arguments.retired,
            inlined=self.inlined + results.inlined,
        )

    def close(self) -> None:
        """The worker is gone: give back everything but the results that somebody holds."""
        if self._is_closed:
            return
        self._memory.past = self._memory.past.plus(self.tally()._replace(segments=0, in_use=0))
        self.results.ended()
        self._is_closed = True
        if self._idle_check is not None:
            self._idle_check.cancel()
        held = self.results.held()
        self._memory.gave_up(self.nbytes - min(_pages(held), self.granted))
        self.results.retire()
        self.granted = 0
        if not held:
            # Else our tally stays there, and we with it: somebody has to hear of the last one's end.
            self._memory.tallies.discard(self.tally)
        if not self._copying:
            self._close_files()
        self._memory.room_came()

    def _close_files(self) -> None:
        self.arguments.close()
        self.outward.close()


def _pages(segments: list[tuple[int, int]]) -> int:
    return sum(-(-nbytes // PAGE) * PAGE for _, nbytes in segments)
