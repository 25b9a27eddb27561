"""What becomes of the calls of a worker that is gone: lost is what it had begun, the others are run elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from asyncjobs.lanes.clusterengine import Inquiry
from asyncjobs.lanes.clusterflight import Flight
from asyncjobs.wire.failure import type_name

logger: logging.Logger = logging.getLogger("asyncjobs")


class Deaths:
    """Asks what dead workers had begun, where somebody knows it; else all that they had counts as begun."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lost: Callable[[Flight, str], None],
        never_started: Callable[[Sequence[int]], None],
    ) -> None:
        self._loop = loop
        self._lost = lost
        self._never_started = never_started
        self._inquiries: set[asyncio.Task[None]] = set()

    def judge(self, flights: Sequence[Flight], cause: str, inquiry: Inquiry | None) -> None:
        """Tell the lane of each of `flights`: now, or when `inquiry` has an answer."""
        unclear = [flight for flight in flights if not flight.started and inquiry is not None]
        for flight in flights:
            if flight.started or inquiry is None:
                self._lost(flight, cause)
        if unclear and inquiry is not None:
            task = self._loop.create_task(self._inquire(unclear, cause, inquiry))
            self._inquiries.add(task)
            task.add_done_callback(self._inquiries.discard)

    async def _inquire(self, flights: Sequence[Flight], cause: str, inquiry: Inquiry) -> None:
        try:
            begun = set(await inquiry())
        # Whoever should know is gone, too: then nobody does.
        except Exception as error:
            logger.debug("nobody knows what a worker had begun: %s", type_name(error))
            begun = {flight.ticket for flight in flights}
        left = [flight for flight in flights if not flight.is_over]  # some answers came all the same
        for flight in left:
            if flight.ticket in begun:
                self._lost(flight, cause)
        self._never_started([flight.ticket for flight in left if flight.ticket not in begun])

    def close(self) -> None:
        """The lane is closed: it judges by itself what is left."""
        for inquiry in self._inquiries:
            inquiry.cancel()
