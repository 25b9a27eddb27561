"""What one worker knows by number: the functions it was told of, the tokens it has twins of."""

from __future__ import annotations

import asyncio
import pickle
from collections import OrderedDict
from collections.abc import Callable

from asyncjobs.lanes.base import Plan
from asyncjobs.lanes.body import Body
from asyncjobs.token import CancelToken, StopReason
from asyncjobs.wire import codec, frames
from asyncjobs.wire.terms import Definition

KNOWN_FUNCTIONS = 512
LARGE_FUNCTION = 64 * 1024
"""A by-value function above this size is not kept by the worker."""


class Vocabulary:
    """The numbers that a worker understands; `number_for` gives new ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number_for: Callable[[Plan, bytes | None], int]) -> None:
        self._loop = loop
        self._number_for = number_for
        self._known: OrderedDict[int, None] = OrderedDict()
        self._watched: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def clear(self) -> None:
        """A new worker knows nothing."""
        self._known.clear()
        self._watched.clear()

    def define(self, plan: Plan, payload: codec.Payload, outbox: list[bytes]) -> tuple[int, int]:
        """Tell the worker of a function; its number, and the number to forget afterwards (0: none)."""
        by_value = payload.function
        number = self._number_for(plan, by_value)
        if by_value is None:
            plan.number = number
        elif number in self._known:
            return number, 0
        reference = codec.Reference(plan.by_name, by_value)
        definition = Definition(plan.name, reference, plan.options.max_result)
        outbox.append(frames.encode(frames.DEFINE, number, pickle.dumps(tuple(definition), 5)))
        if by_value is not None and len(by_value) > LARGE_FUNCTION:
            return number, number
        self._known[number] = None
        if len(self._known) > KNOWN_FUNCTIONS:
            oldest, _ = self._known.popitem(last=False)
            outbox.append(frames.encode(frames.FORGET, oldest))
        return number, 0

    def watch(self, tokens: tuple[CancelToken, ...], body: Body) -> None:
        """Raise the worker's twins of `tokens` when they are raised here."""
        for token in tokens:
            if token.number not in self._watched:
                self._watched.add(token.number)
                self._watch(token, body)

    def _watch(self, token: CancelToken, body: Body) -> None:
        number = token.number

        def pass_on(reason: StopReason) -> None:
            self._loop.call_soon_threadsafe(tell, reason)

        def tell(reason: StopReason) -> None:
            body.tell(frames.TOKEN, number, pickle.dumps(tuple(reason), 5))

        token.add_callback(pass_on)
