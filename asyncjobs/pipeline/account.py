"""Who waited for whom in a pipeline, as it is measured: `Account` of a stage, `Consumer`, `Stopwatch`.

What is measured per item costs less than a microsecond. What is made of the figures is for `report`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any, Protocol

LATEST = 1000
"""Calls whose seconds are kept, for percentiles."""
LOOK = 0.01
"""Seconds between two looks at the processor's clocks, which are calls of the system."""


class Stopwatch:
    """Seconds that went by within ``with stopwatch:``, also while it goes on; blocks may overlap, in one thread."""

    __slots__ = ("_state",)

    def __init__(self, seconds: float = 0.0) -> None:
        # Seconds that lack `now` once for each block that is open, and the number of these; one tuple, for other
        # threads look at it.
        self._state = (seconds, 0)

    def __enter__(self) -> None:
        seconds, count = self._state
        self._state = (seconds - perf_counter(), count + 1)

    def __exit__(self, *_: object) -> None:
        seconds, count = self._state
        self._state = (seconds + perf_counter(), count - 1)

    def seconds(self, now: float) -> float:
        """Up to `now`, an instant of `perf_counter`."""
        seconds, count = self._state
        return seconds + count * now


class Reading(Protocol):
    """Something that gets a source's items, or those of a `flat_map`, one after the other."""

    since: float | None
    """It has been at the next item since then; None: it waits for room."""

    def stack(self) -> str:
        """Where it is; from any thread."""


@dataclass(slots=True)
class Account:
    """A stage that calls a function, or a source that is read, over all epochs. Seconds; instants of `perf_counter`."""

    name: str
    concurrency: int
    """Now."""
    lane: str = ""
    """Where its calls are; ``"source"`` for a source."""
    ordered: bool = False
    """Whether what is done waits for what came before it."""
    items: int = 0
    """Items that have come out of it."""
    skipped: int = 0
    """Of these, what failed and was left out."""
    busy: float = 0.0
    """In calls that have ended, all of them together."""
    hungry: Stopwatch = field(default_factory=Stopwatch)
    """It had room for items, and waited for some."""
    full: Stopwatch = field(default_factory=Stopwatch)
    """It had no room: it called, or waited for what is after it."""
    turn: float = 0.0
    """Items were done and waited for one that came before them, all of them together."""
    empty: float = 0.0
    """Nothing was there to be taken from it."""
    emptied_at: float | None = None
    """Since when nothing is there; None: something was left."""
    ready_at: float = 0.0
    """When the latest item became ready to be taken."""
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    """How long the latest calls took."""
    computed: dict[int, float] | None = None
    """Processor time of each of its threads; None: nobody knows."""
    readings: set[Reading] = field(default_factory=set)
    """Those that are open, for a source or a `flat_map`."""
    in_hand: list[Callable[[], list[Any]]] = field(default_factory=list)
    """One for each epoch that is open: the cells that were taken and not handed out, oldest first."""

    is_tuned: bool = False
    """Whether nobody has chosen the concurrency."""
    is_settled: bool = False
    """Then: whether more has been tried, and has not helped."""
    is_measured: bool = True
    """Whether it is known when it waits, and for what."""
    _places: float = 0.0
    _since: float = 0.0

    def resize(self, concurrency: int, seconds: float) -> None:
        """From here on, after so many seconds of the consumer's."""
        self._places = self.places(seconds)
        self._since = seconds
        self.concurrency = concurrency

    def places(self, seconds: float) -> float:
        """Seconds that its calls could take in so many of the consumer: `concurrency` times that, if it stays."""
        return self._places + self.concurrency * (seconds - self._since)

    def passed(self, ended_at: float, seconds: float) -> None:
        """The next item is handed out: its call took so long, and ended then."""
        self.items += 1
        self.busy += seconds
        self.latest.append(seconds)
        # No thread needs to say so at the time: an item is ready once it and all before it are done.
        if ended_at > self.ready_at:
            self.ready_at = ended_at
        else:
            self.turn += self.ready_at - ended_at
        if self.emptied_at is not None:
            self.empty += max(self.ready_at - self.emptied_at, 0.0)
            self.emptied_at = None

    def read(self, seconds: Sequence[float]) -> None:
        """The next items of a source are taken, which took so long to get."""
        self.items += len(seconds)
        self.busy += sum(seconds)
        self.latest.extend(seconds)


class Consumer:
    """Whoever takes the items; seconds.

    `over(seconds)` is called when a wait of at least `patience` has ended.
    """

    def __init__(self, waited: float = 0.0, seconds: float = 0.0, computed: float = 0.0) -> None:
        self._waited = waited
        self._seconds = seconds
        self.computed: float = computed
        """Processor time of the whole process, in the same time."""
        self._unused = 0.0
        self._looked_at = 0.0
        self._last = 0.0
        self.waits_since: float | None = None
        """None: it does not wait for an item."""
        self.patience: float = float("inf")
        self.over: Callable[[float], object] = bool

    def begins(self) -> None:
        """An epoch begins."""
        self._last = self._looked_at = perf_counter()
        # Processor time between two epochs does not count.
        self._unused = process_time() - self.computed

    def __enter__(self) -> None:
        """It waits for items."""
        self.waits_since = perf_counter()

    def __exit__(self, *_: object) -> None:
        """They came, or there are no more."""
        now, since = self.goes_on(), self.waits_since
        if since is None:  # an epoch was left in the midst of a wait, and the next has begun
            return
        waited = now - since
        self._waited += waited
        self.waits_since = None
        if waited >= self.patience:
            self.over(waited)

    def goes_on(self) -> float:
        """Its loop has come to here; the instant."""
        now = perf_counter()
        self._seconds += now - self._last
        self._last = now
        if now - self._looked_at > LOOK:
            self._looked_at = now
            self.computed = process_time() - self._unused
        return now

    def waited(self, now: float) -> float:
        """For items, up to `now`."""
        since = self.waits_since
        return self._waited + (0.0 if since is None else now - since)

    def seconds(self, now: float) -> float:
        """From the beginning of each epoch to its latest item, or to `now` while it waits for the next."""
        return self._seconds + (0.0 if self.waits_since is None else now - self._last)
