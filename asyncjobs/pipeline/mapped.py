"""A stage that calls a function on each item, several at once: `Mapped`.

Takes items from the feed below as there is room, and hands out what becomes of them, in order or as it comes. The
room is the bound: whoever is slow, below or above, makes it wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from asyncjobs.pipeline.bells import Bell, Window, background
from asyncjobs.pipeline.crews import Cell
from asyncjobs.pipeline.feeds import Feed, discarded
from asyncjobs.pipeline.workshop import Station
from asyncjobs.wire.failure import safe_to_raise


class Mapped:
    """One epoch of the stage.

    Args:
        below: where the items come from.
        station: who calls the function, at how many items at once; twice as many are in hand, or more of those that
            take no time. What becomes of items that fail.
        ordered: hand out in order, or as they are done.
        outcome: what to hand out for a cell that did not fail.
        seed: None, or where the random numbers of each item come from.
    """

    def __init__(
        self,
        below: Feed,
        station: Station,
        ordered: bool,
        outcome: Callable[[Cell], Any],
        epoch: int,
        seed: int | None,
    ) -> None:
        self._below = below
        self._crew, self._faults, self._account = station
        self._outcome = outcome
        self._epoch = epoch
        self._seed = seed
        loop = asyncio.get_running_loop()
        self._window = Window(2 * self._account.concurrency)
        self._news = Bell(loop)
        self._room = Bell(loop)
        # Invariant: `_in_hand` has every item that was taken and not handed out, oldest first. `_line` is the same
        # line, or where order does not matter another one, of cells that are done.
        self._in_hand: dict[Cell, None] = {}
        self._line: deque[Cell] = deque()
        self._ordered = ordered
        self._taken = 0
        self._error: BaseException | None = None
        self._is_over = False
        self._feeder: asyncio.Task[None] | None = None

    # --- in -----------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            while items := await self._next():
                for item in items:
                    await self._begin(item)
        # Everything: whoever takes would wait for ever. It comes after the items that came before it.
        except BaseException as error:
            self._error = safe_to_raise(error)
        self._is_over = True
        self._news.wake()

    async def _next(self) -> list[Any]:
        """As many items as there is room for."""
        began = perf_counter()
        free = await self._free()
        was_free = perf_counter()
        items = await self._below.take(free)
        self._account.full += was_free - began
        self._account.hungry += perf_counter() - was_free
        return items

    async def _free(self) -> int:
        while (free := self._window.size - len(self._in_hand)) <= 0:
            await self._room.wait()
        return free

    async def _begin(self, item: Any) -> None:
        key = None if self._seed is None else (self._seed, self._epoch, self._taken)
        cell = Cell(self._taken, item, key, self._landed)
        self._taken += 1
        self._in_hand[cell] = None
        if self._ordered:
            self._line.append(cell)
        await self._crew.hand(cell)

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
        line, before = self._line, len(self._in_hand)
        while line and line[0].is_done and len(values) < limit:
            cell = line[0]
            value = self._value(cell)
            if cell.error is not None and values:
                break  # these first
            line.popleft()
            del self._in_hand[cell]
            self._faults.items += 1
            self._account.items += 1
            self._account.busy += cell.seconds
            if cell.error is None:
                values.append(value)
            else:
                self._failed(cell, cell.error)
        self._window.passed(before - len(self._in_hand))
        self._room.wake()

    def _value(self, cell: Cell) -> Any:
        """What to hand out; if nothing can be made of it, that is the item's error."""
        if cell.error is None:
            try:
                return self._outcome(cell)
            # Such as an array that is neither true nor false.
            except Exception as error:
                cell.error = error
        return None

    def _failed(self, cell: Cell, error: BaseException) -> None:
        safe = safe_to_raise(error)
        assert isinstance(safe, Exception)
        problem = self._faults.problem(safe, self._epoch, cell.index, cell.item)
        if problem is not None:
            raise problem

    def _end(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        return []

    async def skip(self, count: int) -> int:
        """Without a call, unless it decides whether there is an item at all."""
        if self._faults.leaves_out:
            return await discarded(self, count)
        self._taken = await self._below.skip(count)
        return self._taken

    async def aclose(self) -> None:
        """Drop what is in hand, and close the feed below."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
        for cell in self._in_hand:
            self._crew.drop(cell)
        self._in_hand.clear()
        await self._below.aclose()
