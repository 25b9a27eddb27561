"""Fold what happened to jobs into counters, percentiles and a bounded history.

Pure: no clock, no loop, no job objects; callers pass plain numbers in seconds.
Memory does not grow with the number of jobs: percentiles come from logarithmic
buckets, and the history of spans is a ring.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from asyncjobs.memory import MemoryStats

# Eight buckets to the octave: a percentile is right to about 5 %.
_PER_OCTAVE = 8
# 2**-24 s = 60 ns is the shortest time told apart, 2**40 s the longest.
_LOWEST_EXPONENT = -24
_BUCKETS = (40 - _LOWEST_EXPONENT) * _PER_OCTAVE


class Percentiles(NamedTuple):
    """A distribution of durations, in seconds, right to about 5 % (mean and max are exact)."""

    count: int  # type: ignore[assignment]  # a tuple has a method of that name
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Histogram:
    """Durations in logarithmic buckets: constant memory, one addition per sample."""

    __slots__ = ("_buckets", "count", "max", "total")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self.count: int = 0
        self.total: float = 0.0
        self.max: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration; anything below 60 ns, zero and less included, counts as 60 ns."""
        self.count += 1
        self.total += seconds
        if seconds > self.max:
            self.max = seconds
        mantissa, exponent = math.frexp(seconds)
        index = (exponent - _LOWEST_EXPONENT) * _PER_OCTAVE + int(mantissa * 16) - 8
        if seconds <= 0.0 or index < 0:
            index = 0
        elif index >= _BUCKETS:
            index = _BUCKETS - 1
        self._buckets[index] += 1

    def percentile(self, share: float) -> float:
        """The duration that `share` (0 to 1) of the samples do not exceed; 0.0 without samples."""
        if not self.count:
            return 0.0
        wanted = share * self.count
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(_middle(index), self.max)
        return self.max

    def summary(self) -> Percentiles:
        """The figures at this moment."""
        mean = self.total / self.count if self.count else 0.0
        p50, p90, p99 = (self.percentile(share) for share in (0.5, 0.9, 0.99))
        return Percentiles(self.count, mean, p50, p90, p99, self.max)


def _middle(index: int) -> float:
    octave, step = divmod(index, _PER_OCTAVE)
    return math.ldexp((8.5 + step) / 16, octave + _LOWEST_EXPONENT)


class Span(NamedTuple):
    """One finished job as the history keeps it; instants are UTC epoch seconds."""

    lane: str
    worker: str
    """Which place ran it: ``process-0``, ``thread``; empty if it never ran."""
    name: str
    state: str
    """The final state's name: ``SUCCEEDED`` ..."""
    queued_at: float
    started_at: float | None
    """When its first attempt started; None: it never started."""
    ended_at: float
    seconds: float
    """How long its last attempt ran, as measured where it ran; of one that was abandoned, until then."""
    attempt_at: float | None = None
    """When the attempt started that ended with it; None: it ended while it waited."""


class LaneStats(NamedTuple):
    """One lane at one moment; the counts are since the runner opened."""

    lane: str
    kind: str
    """``loop``, ``thread``, ``process`` or ``executor``."""
    places: int
    """How many jobs it may run at once."""
    busy: int
    """How many it runs now; abandoned threads and dying workers count."""
    queued: int
    """Waiting in the queue now. Near `queue_size`: submitters wait, the lane is the bottleneck."""
    queue_size: int
    submitted: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    lost: int
    retries: int
    """Attempts after the first."""
    crashes: int
    """Workers that died by themselves (process lanes only)."""
    abandoned: int
    """Jobs that could not be stopped and may still run (threads, stubborn coroutines)."""
    wait: Percentiles
    """From accepted to the first start, of the latest finished jobs. Far above `run`: add workers."""
    run: Percentiles
    """Of the last attempt, of the latest finished jobs that ended while they ran."""
    busy_share: float
    """Time spent running over places x time open; near 1.0: saturated, near 0.0: idle. All attempts
    count, what runs now too, and abandoned ones until they were."""


class Stats(NamedTuple):
    """A snapshot of a runner: totals, each lane, the loop's lag, the latest finished jobs."""

    lanes: Mapping[str, LaneStats]
    submitted: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    lost: int
    retries: int
    crashes: int
    open_seconds: float
    """How long the runner has been open."""
    loop_lag: Percentiles
    """How late the loop answered the watchdog; above 0.25 s something blocks it."""
    memory: MemoryStats
    """Shared memory for large data."""
    spans: tuple[Span, ...]
    """The newest finished jobs, oldest first, at most the runner's `history`."""

    def __repr__(self) -> str:
        lanes = ", ".join(f"{lane.lane}: {lane.busy} of {lane.places} busy" for lane in self.lanes.values())
        return f"<Stats {self.submitted} submitted, {self.succeeded} succeeded, {self.failed} failed; {lanes}>"


def percentiles(seconds: Iterable[float]) -> Percentiles:
    """The exact figures of some durations; zeros without any."""
    values = sorted(seconds)
    if not values:
        return Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    last = len(values) - 1
    p50, p90, p99 = (values[round(share * last)] for share in (0.5, 0.9, 0.99))
    return Percentiles(len(values), sum(values) / len(values), p50, p90, p99, values[-1])


class Ledger:
    """The running account of one lane: `settled` is called once per job, and is cheap; `retried` for each
    attempt that another one follows.

    Counts are of all jobs; percentiles are computed when asked, from the latest
    `history` finished ones.
    """

    __slots__ = ("_ran", "_spans", "counts", "crashes", "kind", "lane", "retries", "submitted")

    def __init__(self, lane: str, kind: str, history: int) -> None:
        self.lane: str = lane
        self.kind: str = kind
        self.submitted: int = 0
        self.retries: int = 0
        self.crashes: int = 0
        self.counts: dict[str, int] = dict.fromkeys(("SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST"), 0)
        self._ran = 0.0
        self._spans: deque[tuple[str, str, str, float, float | None, float, float, float | None]] = deque(
            maxlen=history
        )

    def retried(self, seconds: float) -> None:
        """Enter one attempt that ran so long and is not the last."""
        self.retries += 1
        self._ran += seconds

    def settled(
        self,
        worker: str,
        name: str,
        state: str,
        queued_at: float,
        started_at: float | None,
        ended_at: float,
        seconds: float,
        attempt_at: float | None,
    ) -> None:
        """Enter one finished job; instants on any one clock, `seconds` and the rest as in `Span`."""
        self.counts[state] += 1
        self._ran += seconds
        self._spans.append((worker, name, state, queued_at, started_at, ended_at, seconds, attempt_at))

    def spans(self, epoch: float) -> list[Span]:
        """The history, oldest first; `epoch` is added to every instant."""
        return [
            Span(
                self.lane,
                worker,
                name,
                state,
                queued + epoch,
                None if started is None else started + epoch,
                ended + epoch,
                seconds,
                None if attempt is None else attempt + epoch,
            )
            for worker, name, state, queued, started, ended, seconds, attempt in self._spans
        ]

    def snapshot(
        self,
        *,
        places: int,
        busy: int,
        queued: int,
        queue_size: int,
        abandoned: int,
        open_seconds: float,
        running_seconds: float = 0.0,
    ) -> LaneStats:
        """The account as a frozen record; the arguments are what only the lane knows.

        `running_seconds`: how long what runs now has been running, added up.
        """
        counts = self.counts
        room = places * open_seconds
        return LaneStats(
            lane=self.lane,
            kind=self.kind,
            places=places,
            busy=busy,
            queued=queued,
            queue_size=queue_size,
            submitted=self.submitted,
            succeeded=counts["SUCCEEDED"],
            failed=counts["FAILED"],
            timed_out=counts["TIMED_OUT"],
            cancelled=counts["CANCELLED"],
            lost=counts["LOST"],
            retries=self.retries,
            crashes=self.crashes,
            abandoned=abandoned,
            wait=percentiles(row[4] - row[3] for row in self._spans if row[4] is not None),
            run=percentiles(row[6] for row in self._spans if row[7] is not None),
            busy_share=min(1.0, (self._ran + running_seconds) / room) if room > 0 else 0.0,
        )


def total(
    lanes: Iterable[LaneStats],
    *,
    open_seconds: float,
    loop_lag: Percentiles,
    memory: MemoryStats = MemoryStats(),  # noqa: B008 - a tuple
    spans: Iterable[Span],
) -> Stats:
    """Add the lanes up into one snapshot."""
    by_name = {lane.lane: lane for lane in lanes}

    def summed(name: str) -> int:
        return sum(getattr(lane, name) for lane in by_name.values())

    return Stats(
        lanes=by_name,
        submitted=summed("submitted"),
        succeeded=summed("succeeded"),
        failed=summed("failed"),
        timed_out=summed("timed_out"),
        cancelled=summed("cancelled"),
        lost=summed("lost"),
        retries=summed("retries"),
        crashes=summed("crashes"),
        open_seconds=open_seconds,
        loop_lag=loop_lag,
        memory=memory,
        spans=tuple(sorted(spans, key=lambda span: span.ended_at)),
    )
