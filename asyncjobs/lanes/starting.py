"""Start a worker, patiently: a few tries, further and further apart, never a storm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing import current_process
from time import monotonic

from asyncjobs.lanes.body import Body
from asyncjobs.lanes.outcomes import no_children, no_hello, no_process

START_TIMEOUT = 60.0
"""Seconds until a worker must have said hello."""
START_TRIES = 3
LONGEST_WAIT = 1.0
"""Seconds between two tries, at most; and after the last before another row of them."""


class Starter:
    """Starts the workers of one slot, one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._not_before = 0.0

    async def start(self, make: Callable[[], Body]) -> Body | Exception:
        """A worker that said hello, or the error that the last try ended with."""
        if current_process().daemon:
            return no_children(self._name)
        error: Exception | None = None
        for attempt in range(START_TRIES):
            await asyncio.sleep(max(0.0, self._not_before - monotonic()))
            try:
                body = make()
            except OSError as problem:  # no descriptor is left for its memory
                error = no_process(self._name, problem)
            else:
                error = await self._try(body)
                if error is None:
                    return body
            self._not_before = monotonic() + min(LONGEST_WAIT, 0.1 * 2 ** (attempt + 1))
        self._not_before = monotonic() + LONGEST_WAIT
        assert error is not None
        return error

    async def _try(self, body: Body) -> Exception | None:
        try:
            await body.start()
        except (OSError, EOFError, RuntimeError) as error:
            return no_process(self._name, error)
        try:
            await body.hello(START_TIMEOUT)
        except (TimeoutError, ChildProcessError) as error:
            body.kill("never said hello")
            death = await body.autopsy()
            body.abandon()
            return no_hello(self._name, error, death, START_TRIES)
        return None
