"""What each stage of a pipeline did with its time, and the sentence that says what holds it up: `PipelineReport`.

Pure: figures in, figures and text out. Who measures are `account`'s users; drawing is for `picture`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncjobs.page import Table, write_html
from asyncjobs.pipeline import picture
from asyncjobs.pipeline.account import Account, Consumer
from asyncjobs.processors import usable_processors
from asyncjobs.report import seconds_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SATISFIED = 0.05
"""A consumer that waits for less than this share of its time is the limit itself."""
BUSY = 0.5
"""A stage that calls for less than this share of its time does not hold anybody up."""
OUT_OF_TURN = 0.25
"""Finished items per place that wait for their turn, on average: from here on the order may be what holds it up."""
IDLE = 0.9
"""A stage that is busier than this does not idle for the sake of the order."""
COMPUTES = 0.8
"""Calls that compute for less than this share of their time wait for something."""
ONE_CORE = (0.75, 1.25)
"""A process that computes this much at a time may be held by the interpreter lock."""


class StageStats(NamedTuple):
    """One stage that calls a function, or a source, over all epochs. `busy`, `starved` and `blocked` are shares of the
    consumer's time, and add up to 1 at most.
    """

    name: str
    """``map(decode)``, ``source range(0, 10)``."""
    lane: str
    """``loop``, ``thread``, ``process``, another lane of the runner, or ``source``."""
    concurrency: int
    items: int
    """Items that have come out of it."""
    skipped: int
    """Of these, how many were left out because they failed."""
    busy: float
    """It called its function at all places, what runs now included. Near 1: it is the limit."""
    starved: float
    """It waited for items. Near 1: what is before it is slower."""
    blocked: float
    """It waited for room. Near 1: what is after it is slower."""
    seconds: float
    """In calls, all of them together."""
    p50: float
    """Seconds that a call took, the median of the latest thousand; 0.0 without any. In a group each took its share."""
    p95: float
    """What 95 % of these did not exceed."""
    occupancy: float
    """Share of the time in which something was there to be taken from it. Near 0: whoever takes waits for it."""
    turn: float
    """Finished items that waited for one before them, on average: what ``ordered=True`` holds up."""
    ordered: bool
    computed: float | None
    """Share of the time in calls in which they computed; None: nobody knows, for it is no stage in threads."""
    is_tuned: bool = False
    """``concurrency="auto"``: this is what it has found so far."""
    is_settled: bool = False
    """Then: more has been tried, and has not helped."""
    is_measured: bool = True
    """False: its waits are not known, and `starved`, `blocked`, `occupancy` and `turn` mean nothing."""


class ConsumerStats(NamedTuple):
    """Whoever takes the items."""

    seconds: float
    """From the beginning of each epoch to its latest item."""
    waited: float
    """Of these, for items."""
    processors: float
    """How many processors the whole process has used meanwhile, on average; worker processes do not count."""

    @property
    def share(self) -> float:
        """Of its time that it waited."""
        return self.waited / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """A snapshot of an open pipeline, or of one that was; ``str()`` is a table with the verdict below it.

    A notebook shows it as a picture.
    """

    stages: tuple[StageStats, ...]
    """Sources first, then the stages that call functions, in their order."""
    consumer: ConsumerStats
    verdict: str
    """What holds the consumer up, in a sentence, and what would help."""

    def __str__(self) -> str:
        if not self.consumer.seconds:
            return self.verdict
        rows = [_HEAD, *(_row(stage) for stage in self.stages)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_line(row, widths) for row in rows]
        return "\n".join([*lines, _consumer(self.consumer), self.verdict])

    def table(self) -> Table:
        """The stages as rows of text."""
        return Table(_HEAD, [_row(stage) for stage in self.stages])

    def figure(self) -> Figure:
        """A bar for each stage and for the consumer: busy, starved, blocked. Needs the extra ``plot``.

        Raises:
            ModuleNotFoundError: plotly is missing; says how to get it.
        """
        return picture.drawn(self.stages, self.consumer, self.verdict)

    def write_html(self, path: str | os.PathLike[str], *, title: str = "What holds the pipeline up") -> None:
        """Write a page with the picture and the figures, about 5 MB, that opens without a network. Needs ``plot``."""
        consumer = _consumer(self.consumer) if self.consumer.seconds else ""
        write_html({"Where the time went": [self.figure(), consumer, self.table()]}, path, title=title)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = {"text/plain": str(self)}
        try:
            return {**self.figure()._repr_mimebundle_(), **text}
        except ModuleNotFoundError:  # no plotly: the text has to do
            return text


# --- from what was measured -------------------------------------------------------------


def reported(measured: Iterable[tuple[Account, float]], consumer: Consumer, now: float) -> PipelineReport:
    """The report at `now`; beside each account the seconds that its calls have been running which have not ended."""
    seconds = consumer.seconds(now)
    taker = ConsumerStats(seconds, consumer.waited(now), consumer.computed / seconds if seconds else 0.0)
    stages = tuple(_stats(account, running, seconds or 1.0, now) for account, running in measured)
    return PipelineReport(stages, taker, verdict(stages, taker, usable_processors()))


def _stats(account: Account, running: float, seconds: float, now: float) -> StageStats:
    # Calls run while the stage waits as well: that counts as busy.
    spent = account.busy + running
    busy = min(spent / account.places(seconds), 1.0)
    starved = min(account.hungry.seconds(now) / seconds, 1 - busy)
    blocked = max(min(account.full.seconds(now) / seconds, 1 - starved) - busy, 0.0)
    times = sorted(account.latest)
    p50, p95 = (times[round(share * (len(times) - 1))] if times else 0.0 for share in (0.5, 0.95))
    empty = account.empty + (0.0 if account.emptied_at is None else max(now - account.emptied_at, 0.0))
    return StageStats(
        account.name,
        account.lane,
        account.concurrency,
        account.items,
        account.skipped,
        busy,
        starved,
        1 - busy if account.lane == "source" else blocked,
        spent,
        p50,
        p95,
        max(1 - empty / seconds, 0.0),
        (account.turn + _held_up(account, now)) / seconds,
        account.ordered,
        sum(account.computed.values()) / account.busy if account.computed and account.busy else None,
        account.is_tuned,
        account.is_settled,
        account.is_measured,
    )


def _held_up(account: Account, now: float) -> float:
    """Seconds that items which are done have been waiting for one before them that is not."""
    held = 0.0
    for in_hand in tuple(account.in_hand) if account.ordered else ():
        cells = in_hand()
        first = next((place for place, cell in enumerate(cells) if not cell.is_done), len(cells))
        held += sum(now - cell.ended_at for cell in cells[first:] if cell.is_done)
    return held


# --- in words ---------------------------------------------------------------------------

_HEAD = ("stage", "items", "skipped", "concurrency", "busy", "starved", "blocked", "p50", "p95", "ahead", "out of turn")


def _row(stage: StageStats) -> tuple[str, ...]:
    waits = (f"{stage.starved:.0%}", f"{stage.blocked:.0%}") if stage.is_measured else ("-", "-")
    shares = (f"{stage.busy:.0%}", *waits)
    times = (seconds_text(seconds) if stage.items else "-" for seconds in (stage.p50, stage.p95))
    ahead = (
        ("-", "-")
        if stage.lane == "source" or not stage.is_measured
        else (f"{stage.occupancy:.0%}", f"{stage.turn:.1f}")
    )
    counts = (f"{stage.items}", f"{stage.skipped}", f"{'auto: ' * stage.is_tuned}{stage.concurrency}")
    return (stage.name, *counts, *shares, *times, *ahead)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = row
    cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([f"{first:{widths[0]}}", *cells])


def _consumer(consumer: ConsumerStats) -> str:
    return f"The consumer waited {consumer.share:.0%} of {consumer.seconds:.3g} s."


def verdict(stages: Sequence[StageStats], consumer: ConsumerStats, processors: int) -> str:
    """What holds the consumer up, where so many processors may be used."""
    if not consumer.seconds:
        return "nothing has been taken yet"
    if consumer.share < SATISFIED:
        return "The consumer is the limit: more concurrency brings nothing."
    for stage in stages:
        if _is_out_of_turn(stage):
            return (
                f"{stage.name} is held up by its order: on average {stage.turn:.1f} finished items wait for a slower "
                f"one, and its places are only {stage.busy:.0%} busy; ordered=False hands out what is done first."
            )
    limit = max(stages, key=lambda stage: stage.busy, default=None)
    if limit is None or limit.busy < BUSY:
        # A source that takes time is among the stages; any other holds nobody up.
        return (
            "No stage is busy half of the time: the start of the workers is the limit, the way from stage to stage "
            "(fewer, larger items take it faster), or what else the machine does."
        )
    return _of_limit(limit, consumer, processors)


def _is_out_of_turn(stage: StageStats) -> bool:
    # What waits for items most of the time would have room for more, whatever waits for its turn.
    is_idle = stage.busy < IDLE and stage.starved < BUSY
    return stage.ordered and stage.turn > OUT_OF_TURN * stage.concurrency and is_idle


def _of_limit(limit: StageStats, consumer: ConsumerStats, processors: int) -> str:
    works = consumer.seconds - consumer.waited
    gain = f"at best the loop takes {works:.3g} s instead of {consumer.seconds:.3g} s."
    if limit.lane == "source":
        pace = f", {seconds_text(limit.p50)} an item" if limit.items else ""
        return f"The {limit.name} is the limit: it is read {limit.busy:.0%} of the time{pace}; {gain}"
    found = f"{limit.name} is the limit: {limit.busy:.0%} busy at concurrency {limit.concurrency}"
    if limit.computed is not None and _shares_the_lock(limit.computed, consumer, processors):
        return (
            f"{found}; its calls compute for only {limit.computed:.0%} of the time that they take, and all threads "
            f"together for {consumer.processors:.2f} processors: Python code takes turns at the interpreter lock. "
            f'lane="process" gives each call a processor; {gain}'
        )
    if limit.is_tuned:
        so_far = "has found none that does better" if limit.is_settled else "is still looking for a better one"
        return f'{found}, and "auto" {so_far}; {gain}'
    if works < SATISFIED * consumer.seconds:
        return f"{found}; the consumer does little but wait, so the more the better{_bound(limit, processors)}."
    # So many calls at once take in the consumer's own time what all calls have taken.
    needed = max(ceil(limit.seconds / works), limit.concurrency + 1)
    return f"{found}; {needed} would keep the consumer fed{_bound(limit, processors, needed)}: {gain}"


def _shares_the_lock(computed: float, consumer: ConsumerStats, processors: int) -> bool:
    low, high = ONE_CORE
    return computed < COMPUTES and low <= consumer.processors <= high and processors > 1


def _bound(limit: StageStats, processors: int, needed: int = 0) -> str:
    """What processors have to do with it: nothing, if its calls wait rather than compute."""
    waits = limit.lane == "loop" or (limit.computed is not None and limit.computed < BUSY)
    if waits:
        return ""
    return f", but there are {processors} processors" if needed > processors else ", if the machine has the processors"
