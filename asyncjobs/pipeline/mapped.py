"""A stage that calls functions on each item, several items at once: `Mapped`.

Takes items from the feed below as there is room, and hands out what becomes of them, in order or as it comes. The
room is the bound: whoever is slow, below or above, makes it wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Any

from asyncjobs.errors import ResultNotSendable
from asyncjobs.pipeline.bells import Bell, Window, background
from asyncjobs.pipeline.crews import Cell
from asyncjobs.pipeline.feeds import Feed, discarded
from asyncjobs.pipeline.steps import Verdict
from asyncjobs.pipeline.workshop import Station
from asyncjobs.wire.failure import rebuild, safe_to_raise


class Mapped:
    """One epoch of the stage.

    Args:
        below: where the items come from.
        station: who calls the functions, at how many items at once; twice as many are in hand, or more of those that
            take no time. What becomes of items that fail.
        ordered: hand out in order, or as they are done.
        seed: None, or where the random numbers of each item come from.
    """

    def __init__(
        self,
        below: Feed,
        station: Station,
        ordered: bool,
        epoch: int,
        seed: int | None,
    ) -> None:
        self._below = below
        self._crew, self._faults, self._account, steps = station
        self._leaves_out = not all(step.keeps_all for step in steps)
        self._passed = [0] * len(steps)
        """Items of this epoch that have come out of each step, one way or another."""
        self._epoch = epoch
        self._seed = seed
        loop = asyncio.get_running_loop()
        self._window = Window(1)
        self._news = Bell(loop)
        self._room = Bell(loop)
        # Invariant: `_in_hand` has every item that was taken and not handed out, oldest first. `_line` is the same
        # line, or where order does not matter another one, of cells that are done.
        self._in_hand: dict[Cell, None] = {}
        self._line: deque[Cell] = deque()
        self._ordered = ordered
        self._taken = 0
        self._came_at = 0.0
        self._error: BaseException | None = None
        self._is_over = False
        self._feeder: asyncio.Task[None] | None = None
        self._account.emptied_at = perf_counter()
        self._account.in_hand.append(self.in_hand)

    # --- in -----------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            while items := await self._next():
                for item in items:
                    self._begin(item)
        # Everything: whoever takes would wait for ever. It comes after the items that came before it.
        except BaseException as error:
            self._error = safe_to_raise(error)
        self._is_over = True
        self._news.wake()

    async def _next(self) -> list[Any]:
        """As many items as there is room for."""
        with self._account.full:
            free = await self._free()
        with self._account.hungry:
            items = await self._below.take(free)
        self._came_at = perf_counter()
        return items

    async def _free(self) -> int:
        while (free := max(self._window.size, self._crew.room) - len(self._in_hand)) <= 0:
            await self._room.wait()
        return free

    def _begin(self, item: Any) -> None:
        key = None if self._seed is None else (self._seed, self._epoch, self._taken)
        cell = Cell(self._taken, item, key, self._landed, self._came_at)
        self._taken += 1
        self._in_hand[cell] = None
        if self._ordered:
            self._line.append(cell)
        self._crew.hand(cell)

    def _landed(self, cell: Cell) -> None:
        """In any thread: it is done."""
        if not self._ordered:
            self._line.append(cell)
        self._news.ring()

    # --- out ----------------------------------------------------------------------------

    async def take(self, limit: int) -> list[Any]:
        """The next values, as many as are there."""
        if self._feeder is None:
            self._feeder = background(self._feed())
        values: list[Any] = []
        line = self._line
        while not values:
            while not (line and line[0].is_done):
                if self._is_over and not self._in_hand:
                    return self._end()
                await self._news.wait()
            self._collect(values, limit)
        return values

    def _collect(self, values: list[Any], limit: int) -> None:
        """Take what is done from the line, up to what has to be raised."""
        line, before, account = self._line, len(self._in_hand), self._account
        while line and line[0].is_done and len(values) < limit:
            cell = line[0]
            if values and _has_raised(cell):
                break  # these first
            line.popleft()
            del self._in_hand[cell]
            account.passed(cell.ended_at, cell.seconds)
            if cell.error is None and type(cell.value) is not Verdict:
                self._count(len(self._faults))
                values.append(cell.value)
            else:
                self._judge(cell, values)
        if not (line and line[0].is_done):
            account.emptied_at = perf_counter()
        self._window.passed(before - len(self._in_hand))
        self._room.wake()

    def _count(self, steps: int) -> None:
        """An item came out of so many steps, one way or another."""
        for step in range(steps):
            self._passed[step] += 1
            self._faults[step].items += 1

    def _judge(self, cell: Cell, values: list[Any]) -> None:
        """Hand out the item as it was, leave it out, or raise what it has brought about."""
        last = len(self._faults) - 1
        error, depth, text = _error_of(cell, last)
        if depth > last:
            self._count(depth)
            values.append(cell.item)
            return
        index = self._passed[depth] if depth else cell.index
        self._count(depth + 1)
        if error is None:
            return
        safe = safe_to_raise(error)
        assert isinstance(safe, Exception)
        # Who dies on a trip does not say at which step.
        stage = self._account.name if depth == 0 and cell.error is not None else ""
        problem = self._faults[depth].problem(safe, self._epoch, index, cell.item, text, stage)
        if problem is not None:
            raise problem
        self._account.skipped += 1

    def _end(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        return []

    def in_hand(self) -> list[Cell]:
        """What was taken and not handed out, oldest first; from any thread."""
        return list(self._in_hand)

    async def skip(self, count: int) -> int:
        """Without a call, unless it decides whether there is an item at all."""
        if self._leaves_out:
            return await discarded(self, count)
        self._taken = await self._below.skip(count)
        self._passed = [self._taken] * len(self._passed)
        return self._taken

    async def aclose(self) -> None:
        """Drop what is in hand, and close the feed below."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
        if self.in_hand in self._account.in_hand:
            self._account.in_hand.remove(self.in_hand)
        for cell in self._in_hand:
            self._crew.drop(cell)
        self._in_hand.clear()
        await self._below.aclose()


def _has_raised(cell: Cell) -> bool:
    return cell.error is not None or (type(cell.value) is Verdict and cell.value.failure is not None)


def _error_of(cell: Cell, last: int) -> tuple[BaseException | None, int, str]:
    """What it raised, how many steps it passed before, and the repr of what the next one was given, if that is far."""
    if cell.error is not None:
        return cell.error, last if isinstance(cell.error, ResultNotSendable) else 0, ""
    depth, failure, text = cell.value
    return None if failure is None else rebuild(failure), depth, text if depth else ""
