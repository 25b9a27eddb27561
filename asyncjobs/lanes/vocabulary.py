"""What one worker knows by number: the functions it was told of, the tokens it has twins of."""

from __future__ import annotations

import asyncio
import pickle
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable

from asyncjobs.lanes.base import Plan
from asyncjobs.lanes.body import Body
from asyncjobs.token import CancelToken, StopReason
from asyncjobs.wire import codec, frames
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import Definition

KNOWN_FUNCTIONS = 512
LARGE_FUNCTION = 64 * 1024
"""A by-value function above this size is not kept by the worker."""


class Vocabulary:
    """The numbers that a worker understands; `number_for` gives new ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number_for: Callable[[Plan, Parcel | None], int]) -> None:
        self._loop = loop
        self._number_for = number_for
        self.known: OrderedDict[int, None] = OrderedDict()
        """The functions that the worker knows by number, oldest first."""
        self._watched: set[int] = set()
        self.obsolete: deque[int] = deque()
        """Functions that no call will name again."""

    def define(
        self, plan: Plan, payload: codec.Payload, outbox: list[bytes], pack: Callable[[Parcel], bytes]
    ) -> tuple[int, int]:
        """Tell the worker of a function; its number, and the number to forget afterwards (0: none)."""
        function = payload.function
        number = self._number_for(plan, function)
        if function is None or plan.function is not None:
            plan.number = number
        elif number in self.known:
            return number, 0
        by_value = None if function is None else pack(function) if function.is_large else function.stream
        reference = codec.Reference(plan.by_name, by_value, function is not None and function.is_large)
        definition = Definition(plan.name, reference, plan.options.max_result)
        outbox.append(frames.encode(frames.DEFINE, number, pickle.dumps(tuple(definition), 5)))
        if function is not None and function.nbytes > LARGE_FUNCTION and plan.function is None:
            return number, number
        self.known[number] = None
        if plan.function is not None:
            weakref.finalize(plan, self.obsolete.append, number).atexit = False  # with its map
        if len(self.known) > KNOWN_FUNCTIONS:
            oldest, _ = self.known.popitem(last=False)
            outbox.append(frames.encode(frames.FORGET, oldest))
        return number, 0

    def forget(self, outbox: list[bytes]) -> None:
        """Tell the worker of the obsolete ones."""
        while self.obsolete:
            number = self.obsolete.popleft()
            if self.known.pop(number, self) is not self:
                outbox.append(frames.encode(frames.FORGET, number))

    def watch(self, passengers: tuple[object, ...], body: Body) -> None:
        """Raise the worker's twins of tokens when they are raised here."""
        for token in passengers:
            if isinstance(token, CancelToken) and token.number not in self._watched:
                self._watched.add(token.number)
                self._watch(token, body)

    def _watch(self, token: CancelToken, body: Body) -> None:
        number = token.number

        def pass_on(reason: StopReason) -> None:
            self._loop.call_soon_threadsafe(tell, reason)

        def tell(reason: StopReason) -> None:
            body.tell(frames.TOKEN, number, pickle.dumps(tuple(reason), 5))

        token.add_callback(pass_on)
