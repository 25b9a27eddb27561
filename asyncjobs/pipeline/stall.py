"""A consumer that waits too long hears where the pipeline is: `Watch`, `in_hand`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from time import perf_counter

from asyncjobs.pipeline.account import Account, Consumer
from asyncjobs.pipeline.crews import Cell, Ongoing
from asyncjobs.pipeline.faults import shown
from asyncjobs.pipeline.workshop import Workshop
from asyncjobs.report import seconds_text

logger: logging.Logger = logging.getLogger("asyncjobs")

LISTED = 8
"""Items of a stage that are listed, the oldest; the rest is counted."""


class Watch:
    """Warns each time that `consumer` has waited for another `timeout` seconds; None: never.

    A thread that waits looks itself, so that a loop which does not answer is seen, too; on a loop, a timer does.
    """

    def __init__(self, shop: Workshop, consumer: Consumer, timeout: float | None) -> None:
        self._shop = shop
        self._consumer = consumer
        self.patience: float = float("inf") if timeout is None else timeout
        """Seconds from one warning to the next."""
        self._warned_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        consumer.patience, consumer.over = self.patience, self._is_over

    # --- on the loop --------------------------------------------------------------------

    def look_on(self) -> None:
        """An epoch begins whose consumer is on the loop."""
        self.look_away()
        if self.patience != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(self.patience, self._tick)

    def look_away(self) -> None:
        """The epoch has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        if self._shop.threads.closed:
            return
        left = self._left()
        if left <= 0:
            # In a thread: workers take a moment to tell.
            self._shop.threads.submit(self._warn)
            left = self.patience
        self._timer = asyncio.get_running_loop().call_later(left, self._tick)

    # --- in any thread ------------------------------------------------------------------

    def look(self) -> None:
        """Warn, if it is time."""
        if self._left() <= 0:
            self._warn()

    def _left(self) -> float:
        """Seconds until it is time."""
        since, now = self._consumer.waits_since, perf_counter()
        if since is None:
            return self.patience
        # In this wait, or the latest warning of it.
        return max(since, self._warned_at) + self.patience - now

    def _warn(self) -> None:
        self._warned_at = now = perf_counter()
        since = self._consumer.waits_since
        if since is None:  # it has gone on meanwhile
            return
        logger.warning(
            "the consumer of a pipeline has waited %.3g s for an item\n%s\n%s",
            now - since,
            self._shop.report(self._consumer),
            in_hand(self._shop),
        )

    def _is_over(self, waited: float) -> None:
        if self._warned_at >= perf_counter() - waited:
            logger.warning("the consumer of a pipeline goes on, after %.3g s", waited)


def in_hand(shop: Workshop) -> str:
    """What each stage has in hand, and where its calls are."""
    now = perf_counter()
    parts = [
        "\n".join([f"{account.name}: {len(cells) or 'nothing'} in hand", *_items(cells, calls, now)])
        for account, cells, calls in shop.in_hand()
    ]
    return "\n".join([*parts, *_reads(shop.accounts(), now)]) or "nothing is in hand"


def _items(cells: list[Cell], calls: list[Ongoing], now: float) -> Iterator[str]:
    running = {id(call.cell): call for call in calls}
    # First those that run: they are what the others wait for.
    ordered = sorted(cells, key=lambda cell: cell.is_done or id(cell) not in running)
    for cell in ordered[:LISTED]:
        call = None if cell.is_done else running.get(id(cell))
        item = "" if cell.is_done else f": {shown(cell.item)}"
        yield f"  item {cell.index}, {_told(cell, call, now)}{item}"
        if call is not None:
            yield _indented(call.stack())
    if len(cells) > LISTED:
        yield f"  and {len(cells) - LISTED} more"


def _told(cell: Cell, call: Ongoing | None, now: float) -> str:
    if cell.is_done:
        return f"done, in hand for {seconds_text(now - cell.taken_at)}"
    if call is None:
        return f"not done, in hand for {seconds_text(now - cell.taken_at)}"
    return f"in its call for {seconds_text(now - call.began_at)}"


def _reads(accounts: list[Account], now: float) -> Iterator[str]:
    for account in accounts:
        for reading in tuple(account.readings):
            if (since := reading.since) is not None:
                yield f"{account.name}: item {account.items} has been read for {seconds_text(now - since)}"
                yield _indented(reading.stack())


def _indented(stack: str) -> str:
    return "\n".join(f"    {line}" for line in stack.splitlines()) or "    (nobody can say where)"
