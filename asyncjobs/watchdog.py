"""Notice an event loop that does not answer, and say what holds it.

One sleeping thread; while nothing runs it is parked and costs nothing. It sees a coroutine
that blocks (and shows its stack), and afterwards a call that kept the interpreter lock, as
then it could not run itself. A machine that gives us no core is nobody's fault here: such time
is in the statistics, and no warning.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic

from asyncjobs.stats import Histogram, Percentiles

logger: logging.Logger = logging.getLogger("asyncjobs")

PARK_AFTER = 4
"""Quiet looks in a row after which the thread parks."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at a loop that did not answer in time."""
TICK = 0.02
"""Seconds in which the system surely counts what a running thread has used."""


class Watchdog:
    """Pings `loop` and logs a warning when no answer comes for `threshold` seconds.

    `suspects()` names what may be to blame, None if nobody is; `is_quiet()` says that there is nothing to
    watch. Start it on the loop's own thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threshold: float,
        suspects: Callable[[], str | None],
        is_quiet: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._threshold = threshold
        self._suspects = suspects
        self._is_quiet = is_quiet
        self._loop_thread = threading.get_ident()
        self._loop_thread_native = threading.get_native_id()
        self._lags = Histogram()
        self._answered = threading.Event()
        self._wanted = threading.Event()
        self._closed = False
        self.is_parked: bool = True
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is something to watch."""
        self.is_parked = False
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="asyncjobs-watchdog", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is left: work matters more, the next job tries again
                self.is_parked = True
                return
            self._thread = thread
        self._wanted.set()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def lags(self) -> Percentiles:
        """How long the loop took to answer."""
        return self._lags.summary()

    def _run(self) -> None:
        quiet = 0
        while not self._closed:
            self._wanted.clear()
            quiet = quiet + 1 if self._is_quiet() else 0
            if quiet >= PARK_AFTER:
                self.is_parked = True
                # Work that came between the look and the flag has set nothing: look again.
                if self._is_quiet():
                    self._wanted.wait()
                self.is_parked = False
                quiet = 0
            self._look()
            self._sleep()

    def _sleep(self) -> None:
        """Until the next look. What keeps us from waking up in time holds the loop up, too."""
        stretch = self._stretch()
        self._wanted.wait(self._threshold)
        if stretch.length() > 2 * self._threshold and not self._closed:
            self._lags.add(stretch.length() - self._threshold)
            self._bark(stretch)

    def _look(self) -> None:
        self._answered.clear()
        stretch = self._stretch()
        try:
            self._loop.call_soon_threadsafe(self._answered.set)
        except RuntimeError:  # the loop is closed: nothing is left to watch
            self._closed = True
            return
        answered = self._answered.wait(self._threshold)
        while not answered and ((left := self._threshold - stretch.usable()) > 0 or self._waits_for_a_core()):
            answered = self._answered.wait(max(left, 0.0))
        if answered:  # before anybody can read of it
            self._lags.add(stretch.length())
        # Even with an answer: it may have come while we could not run ourselves.
        is_told = False
        if not self._closed and (not answered or stretch.length() > 2 * self._threshold):
            is_told = self._bark(stretch)
        if not answered:
            self._outlast(is_told)
            self._lags.add(stretch.length())

    def _outlast(self, is_told: bool) -> None:
        """Until the loop answers. What was nobody's fault at first may become somebody's: it counts from the look that
        finds a suspect to the next one."""
        since: _Stretch | None = None
        # A loop that is closed before it comes to our question never answers.
        while not self._answered.wait(LOOK_AGAIN) and not self._loop.is_closed():
            if is_told:
                continue
            if self._suspects() is None:
                since = None
            elif since is None:
                since = self._stretch()
            else:
                is_told = self._bark(since, LOOK_AGAIN)

    def _waits_for_a_core(self) -> bool:
        """Whether the loop's thread does so at this moment, of which the system tells only when that is over."""
        before = _used(self._loop_thread_native)
        return before is not None and not self._answered.wait(TICK) and _used(self._loop_thread_native) == before

    def _stretch(self) -> _Stretch:
        return _Stretch((self._loop_thread_native, threading.get_native_id()))

    def _bark(self, stretch: _Stretch, planned: float | None = None) -> bool:
        """Say so, if there is a suspect, for whom the threshold counts; `planned` is how long we meant to wait. Whether
        it was said."""
        waited, suspects = stretch.usable(), self._suspects()
        if suspects is None or waited < self._threshold:
            return False
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame, limit=12)) if frame is not None else "(no stack)\n"
        del frame
        held = (
            " (the watchdog itself could not run: something kept the interpreter lock)"
            if waited > (planned or self._threshold) + self._threshold
            else ""
        )
        logger.warning(
            "the event loop has not answered for %.2f s%s; %s. It is here:\n%s", waited, held, suspects, stack
        )
        return True


class _Stretch:
    """A stretch of time from now on, for two threads of which neither may have had a core all the while."""

    def __init__(self, threads: tuple[int, int]) -> None:
        self._threads = threads
        self._began = monotonic()
        self._queued = [_queued_for_a_core(thread) for thread in threads]

    def length(self) -> float:
        """Seconds since it began."""
        return monotonic() - self._began

    def usable(self) -> float:
        """The same without those in which the machine was too busy for one of them: each waits for the other, too."""
        queued = (_queued_for_a_core(thread) for thread in self._threads)
        return self.length() - sum(now - then for now, then in zip(queued, self._queued, strict=True))


def _queued_for_a_core(thread: int) -> float:
    """Seconds that `thread` of this process was ready to run and did not; 0 where the system does not tell.

    The second number of ``schedstat``, in nanoseconds:
    https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
    """
    try:
        with open(f"/proc/self/task/{thread}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # not Linux, or a kernel built without it
        return 0.0


def _used(thread: int) -> int | None:
    """Nanoseconds that `thread` has had a core, if it is ready to run or running; None if not, or if nobody knows."""
    try:
        with open(f"/proc/self/task/{thread}/stat", encoding="ascii", errors="replace") as file:
            is_ready = file.read().rpartition(")")[2].split()[0] == "R"
        with open(f"/proc/self/task/{thread}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[0]) if is_ready else None
    except (OSError, ValueError, IndexError):
        return None
