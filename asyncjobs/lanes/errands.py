"""What the jobs of one worker ask of objects on the loop: understand, begin, answer, and put back what never arrived.

Knows nothing of queues: who is asked, says what the words mean. What an answer holds is kept until the worker has it.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from asyncjobs.lanes.body import Body
from asyncjobs.remote.hosted import Errand, by_number
from asyncjobs.wire import codec, failure, frames, parcel
from asyncjobs.wire.parcel import Packed, Parcel
from asyncjobs.wire.terms import ASK_HEAD, HELD, NO_WAIT, PARCEL, REFUSED

OFF_LOOP = 2 * 1024 * 1024
"""Bytes from which on a thread does the copying: some 0.3 ms, what the hand-over itself costs twice."""


class Errands:
    """The requests of one worker that have no answer, or whose answer may not have arrived.

    `look_after` is told of tokens and shared objects that travel in answers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        body: Body,
        threads: Executor,
        look_after: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._loop = loop
        self._body = body
        self._freight = body.freight
        self._threads = threads
        self._look_after = look_after
        self._open: dict[int, Errand] = {}

    def hear(self, kind: int, number: int, body: memoryview) -> None:
        """The worker asks, has got its answer, or waits for it no more."""
        if kind == frames.ASK:
            self._begin(number, body)
            return
        errand = self._open.pop(number, None)
        if errand is not None and kind == frames.WITHDRAWN:
            errand.withdraw()

    def _begin(self, number: int, body: memoryview) -> None:
        host, flags = ASK_HEAD.unpack_from(body)
        try:
            verb, argument = self._understood(body[ASK_HEAD.size :], flags)
            errand = by_number(host, f"what was asked to {verb}").errand(verb, argument)
        # The user's own class may raise anything while it is rebuilt.
        except BaseException as error:
            self._refuse(number, error)
            return
        self._open[number] = errand
        if errand.future is None:
            self._answer(number)
        elif flags & NO_WAIT:
            del self._open[number]
            errand.withdraw()
            self._tell(number, REFUSED, b"")
        else:
            errand.future.add_done_callback(lambda _: self._answer(number))

    def _understood(self, body: memoryview, flags: int) -> Any:
        if not flags & PARCEL:
            return codec.loads(body)
        stream, buffers = parcel.unpack(body, self._freight.results)
        return codec.loads(stream, buffers=buffers)

    # --- answers ------------------------------------------------------------------------

    def _answer(self, number: int) -> None:
        errand = self._open.get(number)
        if errand is None:  # withdrawn in the same turn of the loop
            return
        if not errand.holds:
            del self._open[number]
        try:
            value = errand.outcome()
            content, passengers = codec.encode_travelling(value, "what was taken")
        # The user's own class may raise anything while it is pickled.
        except BaseException as error:
            self._open.pop(number, None)
            errand.withdraw()
            self._refuse(number, error)
            return
        if passengers:
            self._look_after(passengers)
        self._deliver(number, content, HELD if errand.holds else 0)

    def _deliver(self, number: int, content: Parcel, flags: int) -> None:
        if not content.is_large:
            self._tell(number, flags, content.stream)
            return
        self._freight.has_news = True
        packed = self._freight.pack(content)
        if packed is None:
            self._tell(number, flags | PARCEL, self._freight.pack_inline(content))
        elif packed.nbytes < OFF_LOOP:
            self._freight.copy([packed])
            self._tell(number, flags | PARCEL, packed.body)
        else:
            self._copy(number, flags | PARCEL, packed)

    def _copy(self, number: int, flags: int, packed: Packed) -> None:
        def copied(copying: asyncio.Future[None]) -> None:
            self._freight.end_copy()
            error = copying.exception()
            if error is not None:
                self._body.kill(f"no memory for what was taken: {error}")
            self._tell(number, flags, packed.body)

        self._freight.begin_copy()
        self._loop.run_in_executor(self._threads, self._freight.copy, [packed]).add_done_callback(copied)

    def _refuse(self, number: int, error: BaseException) -> None:
        self._tell(number, REFUSED, pickle.dumps(failure.capture(error), 5))

    def _tell(self, number: int, flags: int, body: bytes) -> None:
        if self._freight.ended:
            self._body.tell(frames.ENDED, 0, self._freight.to_tell())
        self._body.tell(frames.ANSWER, number, bytes((flags,)) + body)

    def close(self) -> None:
        """The worker is gone: nobody waits, and what it never got goes back."""
        while self._open:
            _, errand = self._open.popitem()  # the latest first: each goes to the front
            errand.withdraw()
