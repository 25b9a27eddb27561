"""``concurrency="auto"``: finds the smallest number of calls at once that keeps the consumer fed.

Pure: figures of a period in, a number out. `tuner` takes the figures and turns the dials.

Stages that hold the consumer up get more calls at once. Whether that helped is seen in the next period: what did not,
because the machine has no more processors or the interpreter lock is the limit, is taken back. A stage that could do
with less loses one call at a time, until that is felt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

SATISFIED = 0.03
"""A consumer that waits for less than this share of its time is fed."""
BUSY = 0.75
"""A stage that calls for less than this share of what it may does not hold anybody up."""
ALIKE = 0.85
"""Stages whose loads differ by less are turned up together."""
GAIN = 0.05
"""More calls at once that do not bring this much more items are taken back."""
SPARE = 0.15
"""Calls at once that stay above what is needed, so that a slow item is not felt."""
PATIENCE = 3
"""Periods in a row that a stage must have calls to spare before it loses one."""
HOLD = 20
"""Periods for which what did not help is not tried again."""


class Period(NamedTuple):
    """What happened to one stage."""

    seconds: float
    waited: float
    """By the consumer, of these seconds."""
    busy: float
    """Seconds in calls, all of them together."""
    items: int


@dataclass(slots=True)
class Dial:
    """What is known of one stage.

    Invariant: ``floor <= calls <= ceiling <= most`` as long as `floor` and `ceiling` hold.
    """

    most: int
    calls: int = 1
    floor: int = 1
    ceiling: int = 0
    spare: int = 0
    """Periods in a row with calls to spare."""
    held: int = 0
    """Periods until floor and ceiling are forgotten."""
    is_far: bool = False
    """Items are on their way for a while, in which a call does nothing: it may hold the consumer up all the same."""

    def __post_init__(self) -> None:
        self.ceiling = self.most

    @property
    def is_settled(self) -> bool:
        """Whether more has been tried, and has not helped, or there is no more."""
        return self.calls >= self.ceiling

    def allow(self, most: int) -> None:
        """Know that there are more workers than before, if so: a cluster has come up, or has grown."""
        if most > self.most:
            self.most = self.ceiling = most

    def hold(self, floor: int, ceiling: int) -> None:
        """Stay within these for a while."""
        self.floor, self.ceiling, self.held = floor, ceiling, HOLD

    def age(self) -> None:
        """A period is over."""
        self.held -= 1
        if self.held == 0:
            self.floor, self.ceiling = 1, self.most


class Turn(NamedTuple):
    """A dial that was just turned up: what it was, and how fast things went then."""

    dial: Dial
    calls: int
    rate: float


class Tuning:
    """Of all stages of one pipeline."""

    def __init__(self, dials: Sequence[Dial]) -> None:
        self._dials = dials
        self._trial: list[Turn] = []
        self._lowered: Dial | None = None
        """The dial that was just turned down."""

    @property
    def is_on_trial(self) -> bool:
        """Whether the next period decides about the last turn up: it should be a longer one."""
        return bool(self._trial)

    def look(self, periods: Sequence[Period]) -> None:
        """Take in a period, one for each dial, and turn what seems to help."""
        for dial in self._dials:
            dial.age()
        is_hungry = periods[0].waited > SATISFIED * periods[0].seconds
        if self._is_taken_back(periods, is_hungry) or self._is_felt(is_hungry):
            return
        if is_hungry:
            self._raise(periods)
        else:
            self._lower(periods)

    def _is_taken_back(self, periods: Sequence[Period], is_hungry: bool) -> bool:
        """Whether the last turn up was in vain, or by too much."""
        trial, self._trial = self._trial, []
        if not trial or not is_hungry:
            return False
        gains = [_rate(periods[self._dials.index(turn.dial)]) / turn.rate for turn in trial]
        gain = sum(gains) / len(gains)
        if gain >= 1 + GAIN:
            for dial in self._dials:  # what did not help before may do so now
                dial.ceiling = dial.most
        cut = [_keep(turn, gain) for turn in trial]
        return any(cut)

    def _is_felt(self, is_hungry: bool) -> bool:
        """Whether the last turn down was one too many."""
        lowered, self._lowered = self._lowered, None
        if lowered is None or not is_hungry:
            return False
        lowered.calls += 1
        lowered.hold(lowered.calls, lowered.ceiling)
        return True

    def _raise(self, periods: Sequence[Period]) -> None:
        """Turn up the busiest, and those that are about as busy: each alone would bring nothing."""
        for dial in self._dials:
            dial.spare = 0
        loads = [_load(dial, period) for dial, period in zip(self._dials, periods, strict=True)]
        if max(loads) < BUSY:
            return
        for dial, period, load in zip(self._dials, periods, loads, strict=True):
            wanted = min(_wanted(dial, period), dial.ceiling)
            if load >= max(BUSY, ALIKE * max(loads)) and wanted > dial.calls and period.items:
                self._trial.append(Turn(dial, dial.calls, _rate(period)))
                dial.floor = min(dial.floor, dial.calls)
                dial.calls = wanted

    def _lower(self, periods: Sequence[Period]) -> None:
        """Turn down whatever has had calls to spare for long enough."""
        for dial, period in zip(self._dials, periods, strict=True):
            needed = ceil((1 + SPARE) * period.busy / period.seconds)
            has_spare = dial.calls > max(needed, dial.floor)
            dial.spare = dial.spare + 1 if has_spare else 0
            if dial.spare >= PATIENCE:
                dial.spare = 0
                dial.calls -= 1
                self._lowered = dial
                return


def _keep(turn: Turn, gain: float) -> bool:
    """Keep of a turn up what has brought something; whether that is less than all of it."""
    dial = turn.dial
    useful = turn.calls if gain < 1 + GAIN else max(turn.calls + 1, ceil((1 + SPARE) * gain * turn.calls))
    if useful >= dial.calls:
        return False
    dial.calls = useful
    dial.hold(dial.floor, useful)
    return True


def _rate(period: Period) -> float:
    return period.items / period.seconds


def _load(dial: Dial, period: Period) -> float:
    load = period.busy / (dial.calls * period.seconds)
    return max(load, BUSY) if dial.is_far else load


def _wanted(dial: Dial, period: Period) -> int:
    """So many calls at once take in the consumer's own time what all calls have taken; at most twice as many as now."""
    works = period.seconds - period.waited
    twice = 2 * dial.calls
    return max(dial.calls + 1, min(twice, ceil((1 + SPARE) * period.busy / works))) if works > 0 else twice
