"""Looks at an open pipeline now and then, and turns what `tuning` says: `Tuner`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from asyncjobs.pipeline.account import Account, Consumer
from asyncjobs.pipeline.crews import Crew
from asyncjobs.pipeline.tuning import Dial, Period, Tuning

LOOK = 0.1
"""Seconds of the consumer's from one look to the next, at least; what is between two epochs does not count."""
TRIAL = 0.3
"""The same after a turn up, for noise must not decide."""
ENOUGH = 8
"""Items that a look is worth, and at least two for each call at once."""
LONG = 2.0
"""Seconds after which one item for each call at once is enough, and another one."""
STARTING = 5.0
"""Seconds that new workers may take before they are expected to have helped."""


@dataclass(slots=True, eq=False)
class Tuned:
    """A stage whose concurrency nobody has chosen."""

    crew: Crew
    account: Account
    dial: Dial
    busy: float = 0.0
    items: int = 0
    """Both at the latest look."""

    def note(self) -> None:
        """From here on."""
        self.busy, self.items = self.account.busy, self.account.items

    def period(self, seconds: float, waited: float) -> Period:
        """Since the latest look."""
        return Period(seconds, waited, self.account.busy - self.busy, self.account.items - self.items)

    def obey(self, seconds: float) -> bool:
        """Have as many calls at once as the dial says; whether that is another number. `seconds` of the consumer's."""
        self.account.is_settled = self.dial.is_settled
        if self.dial.calls == self.account.concurrency:
            return False
        self.account.resize(self.dial.calls, seconds)
        self.crew.resize(self.dial.calls)
        return True


class Tuner:
    """Of one open pipeline, on its loop. What it has found is kept from one epoch to the next."""

    def __init__(self, consumer: Consumer, find: Callable[[], list[Tuned]]) -> None:
        self._consumer = consumer
        self._find = find
        self._stages: list[Tuned] = []
        self._tuning = Tuning([])
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._waited = 0.0
        self._turned_at = 0.0

    def look_on(self) -> None:
        """An epoch begins."""
        self._find_stages()
        self._consider(perf_counter())  # what was seen of the one before counts
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._tick)

    def look_away(self) -> None:
        """The epoch has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _find_stages(self) -> None:
        stages = self._find()
        if len(stages) != len(self._stages):  # some begin later than others
            self._stages = stages
            self._tuning = Tuning([stage.dial for stage in stages])
            self._note(perf_counter())

    def _note(self, now: float) -> None:
        self._since, self._waited = self._consumer.seconds(now), self._consumer.waited(now)
        for stage in self._stages:
            stage.note()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._tick)
        self._find_stages()
        self._consider(perf_counter())

    def _consider(self, now: float) -> None:
        """Look, if enough has happened."""
        if not self._is_settled(now):
            self._note(now)
            return
        seconds = self._consumer.seconds(now) - self._since
        if seconds >= (TRIAL if self._tuning.is_on_trial else LOOK) and any(
            stage.account.items - stage.items >= _enough(stage.dial.calls, seconds) for stage in self._stages
        ):
            self._look(now, seconds)
            self._note(now)

    def _is_settled(self, now: float) -> bool:
        """Whether the workers that were asked for are there, or should be."""
        return now - self._turned_at > STARTING or all(stage.crew.is_complete for stage in self._stages)

    def _look(self, now: float, seconds: float) -> None:
        waited = self._consumer.waited(now) - self._waited
        self._tuning.look([stage.period(seconds, waited) for stage in self._stages])
        taken = self._consumer.seconds(now)
        for stage in self._stages:
            if stage.obey(taken):
                self._turned_at = now


def _enough(calls: int, seconds: float) -> int:
    return calls + 1 if seconds > LONG else max(ENOUGH, 2 * calls)
