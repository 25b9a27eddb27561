"""Brings the newest edition of a plot to one sink, and does not give up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.sinks.base import Refused, Sink
from asyncjobs.runner import Runner

logger: logging.Logger = logging.getLogger("asyncjobs")

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
"""Seconds before a try is repeated: drawn from 0 to a bound that begins at the first and doubles up to this."""
LONGEST_ASKED = 3600.0
"""Seconds that a server may ask us to wait."""

_RANDOM = Random()


@dataclass(slots=True)
class Deliveries:
    """What one courier has done."""

    sent: int = 0
    coalesced: int = 0
    """Editions that a newer one overtook."""
    retries: int = 0
    last_error: str | None = None


class Courier:
    """Brings editions to `sink` in threads of `runner`: the newest one, one at a time. Lives on the loop.

    `spent(seconds)` hears of the processor time that a try took, `delivered(courier, edition)` of its success.
    """

    def __init__(
        self,
        sink: Sink,
        runner: Runner,
        spent: Callable[[float], None],
        delivered: Callable[[Courier, Edition], None],
    ) -> None:
        self.sink: Sink = sink
        self.deliveries: Deliveries = Deliveries()
        self._runner = runner.options(lane="thread", name=f"plot to {sink.target}")
        self._on_spent = spent
        self._on_delivered = delivered
        self._next: Edition | None = None
        self.arrived: int = 0
        """The newest edition that has arrived."""
        self._wanted = 0
        """The newest edition that somebody waits for."""
        self._every: float = getattr(sink, "every", 0.0)
        self._failures = 0
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._change = asyncio.Event()

    def offer(self, edition: Edition) -> None:
        """Bring this one next, instead of any that has not gone yet."""
        if self._next is not None:
            self.deliveries.coalesced += 1
        self._next = edition
        self._news.set()

    def hurry(self, number: int) -> None:
        """Bring this edition as soon as possible: do not wait before the next try, nor let the sink rest before."""
        self._wanted = max(self._wanted, number)
        self._hurry.set()

    async def arrival(self, number: int, gives_up: bool = False) -> bool:
        """Wait until this edition, or a later one, has arrived; False: a try failed, and the caller `gives_up`."""
        retries = self.deliveries.retries
        while self.arrived < number:
            if gives_up and self.deliveries.retries > retries:
                return False
            self._change.clear()
            await self._change.wait()
        return True

    async def run(self) -> None:
        """Bring whatever is offered, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            edition, self._next = self._next, None
            if edition is not None:
                await self._bring(edition)

    async def _bring(self, edition: Edition) -> None:
        self._hurry.clear()  # who hurries from now on gets another try at once
        spent, error = await self._runner.run(_send, self.sink, edition)
        self._on_spent(spent)
        if error is not None:
            await self._back_off(edition, error)
            return
        self._failures = 0
        self.arrived = edition.number
        self.deliveries.sent += 1
        self._on_delivered(self, edition)
        self._change.set()
        if self.arrived >= self._wanted:
            await self._pause(self._every)

    async def _back_off(self, edition: Edition, error: Exception) -> None:
        # As text: whoever keeps log records would keep the error, its frames, and all of the plot.
        reason = f"{type(error).__name__}: {error}"
        if self.deliveries.last_error is None:
            logger.warning("a plot could not be sent to %s, and will be tried again: %s", self.sink.target, reason)
        self.deliveries.last_error = reason
        self.deliveries.retries += 1
        self._failures += 1
        self._change.set()
        if self._next is None:
            self._next = edition
        await self._pause(_delay(self._failures, error))
        self._news.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()


def _delay(failures: int, error: Exception) -> float:
    """Seconds to wait after so many failures in a row: full jitter, and at least what the server asked for.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if isinstance(error, Refused) and error.is_final:
        return LONGEST_DELAY
    drawn = _RANDOM.uniform(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 20)))
    asked = error.retry_after if isinstance(error, Refused) else None
    return max(drawn, min(asked or 0.0, LONGEST_ASKED))


def _send(sink: Sink, edition: Edition) -> tuple[float, Exception | None]:
    """Send; the processor time in seconds that this thread spent on it, and what went wrong.

    Nothing is raised: at the end of a plot nobody may be left to hear of it.
    """
    began = time.thread_time()
    try:
        sink.send(edition)
    except Exception as error:  # whatever a sink may raise, training goes on
        return time.thread_time() - began, error
    return time.thread_time() - began, None
