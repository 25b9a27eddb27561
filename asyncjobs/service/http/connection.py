"""One connection: who is answered when, with a deadline on everything that the other end can delay.

Answers go out in the order of the requests. While a handler works, one more request may wait; then nothing
more is read.

A handler that changes something is never cancelled: what it has begun is written down, whoever hears of it.
Those that only wait, or stream, end with their caller.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, cast

from asyncjobs.failpoint import point
from asyncjobs.service.http.gate import Door, Gate
from asyncjobs.service.http.limits import MIB, Limits
from asyncjobs.service.http.message import (
    Answer,
    Peer,
    Refusal,
    Request,
    Stream,
    error_body,
    head_of,
    head_of_stream,
    retry_after,
)
from asyncjobs.service.http.reading import Held, Reader

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_COPIED = 65536
"""Smaller bodies go out in one piece with their head."""


class Work(NamedTuple):
    """What answers a request."""

    answer: Callable[[], Coroutine[Any, Any, Answer | Stream]]
    """Called by the task that awaits it, for that may be cancelled before its first step."""
    may_cancel: bool
    seconds: float
    """How long it may take."""


class House(Protocol):
    """What a connection asks of the server that it belongs to."""

    limits: Limits
    gate: Gate
    held: Held

    def arrived(self, connection: Connection) -> Refusal | None:
        """None: there is room for it."""

    def left(self, connection: Connection) -> None: ...

    def expects(self, due: float) -> None:
        """`overdue` of a connection has to be called at that time of the loop's clock."""

    def work(self, request: Request) -> Work: ...

    def keep(self, task: asyncio.Task[None]) -> None:
        """It goes on without its connection."""

    def note(self, request: Request, status: int, seconds: float) -> None:
        """A request has been answered, or its stream has begun."""

    def broke(self, request: Request, error: BaseException) -> None:
        """A stream has ended in an error."""


class Connection(asyncio.Protocol):
    """See the module. `due` is when `overdue` has to be called; infinite while nothing is due."""

    def __init__(self, house: House, door: Door, peer_of: Callable[[asyncio.BaseTransport], Peer | None]) -> None:
        self.door = door
        self.due: float = math.inf
        self.peer: Peer = Peer("", is_local=False)
        self._house = house
        self._limits = house.limits
        self._peer_of = peer_of
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._reader: Reader
        self._queue: deque[Request | Refusal] = deque()
        """What waits to be answered."""
        self._is_reading = True
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._current: Request | None = None
        """The one that is being answered; at most one of the next three works on it."""
        self._task: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._may_cancel = False
        self._began = 0.0
        self._is_closing = False
        self._is_gone = False

    # --- the connection -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by class
        peer = self._peer_of(transport)
        house = self._house
        self.peer = peer or self.peer
        self._reader = Reader(self, self._limits, house.gate, house.held, self.door, self.peer)
        refusal = None if peer is None else house.arrived(self)
        if peer is None:
            self._transport.abort()
        elif refusal is not None:
            self._reader.is_deaf = True
            self._tell(refusal)
        else:
            self._expect(self._limits.receive)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_gone = self._is_closing = True
        self.due = math.inf
        self._queue.clear()
        self._reader.is_deaf = True
        self._reader.release()
        self._has_room.set()
        if self._later is not None:
            self._later.cancel()
        if self._pump is not None:
            self._pump.cancel()
        if self._task is not None:
            self._abandon(self._task)
        self._house.left(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)

    def eof_received(self) -> bool:
        if self._pump is not None or (self._task is not None and self._may_cancel):
            self._transport.abort()
            return False
        # Who shuts down its sending side may still be there for the answer.
        self._reader.is_deaf = True
        return self._task is not None

    def pause_writing(self) -> None:
        self._has_room.clear()
        self._expect(self._limits.write + self._transport.get_write_buffer_size() / MIB)

    def resume_writing(self) -> None:
        self._has_room.set()
        if not self._is_closing:
            self._wait_for_what_comes()

    @property
    def is_idle(self) -> bool:
        """Between two requests, or before the first."""
        return self._current is None and not self._queue and not self._is_closing and self._reader.request is None

    def overdue(self) -> None:
        """The time that was given is over."""
        self.due = math.inf
        if self._is_closing or not self._has_room.is_set():
            self._transport.abort()
        elif self._task is not None:
            self._answer_is_late(self._task)
        elif self._reader.request is not None:
            self._reader.is_deaf = True
            self.refuse(Refusal(408, "BadRequest", f"the request did not arrive in {self._limits.receive:g} s"))
        else:
            self.close()

    def close(self) -> None:
        """No further requests; what is being answered is answered. Streams are the house's to end."""
        self._reader.is_deaf = True
        if self._current is None and self._later is None and not self._is_closing:
            self._close()

    def drop(self) -> None:
        """At once, whatever is on its way."""
        if not self._is_gone:
            self._transport.abort()

    def _expect(self, seconds: float) -> None:
        self.due = self._loop.time() + seconds
        self._house.expects(self.due)

    def _wait_for_what_comes(self) -> None:
        if self._task is not None:
            self._expect(self._limits.answer)
        elif self._pump is not None or self._later is not None:
            self.due = math.inf
        else:
            self._expect(self._limits.receive if self._reader.request is not None else self._limits.idle)

    def _close(self) -> None:
        """Send what is to be sent, then close; a caller that is still sending gets a moment to hear why."""
        self._is_closing = True
        if self._reader.request is not None and self._transport.can_write_eof():
            self._resume_reading()
            self._transport.write_eof()
            self._expect(self._limits.linger)
        else:
            self._transport.close()
            self._expect(self._limits.write)

    # --- what comes in ------------------------------------------------------------------

    def began(self) -> None:
        if self._current is None:
            self._expect(self._limits.receive)

    def go_on(self) -> None:
        if self._current is None and not self._queue:
            self._transport.write(_CONTINUE)

    def take(self, request: Request) -> None:
        self._queue.append(request)
        if self._current is None:
            self._next()
        elif self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    def refuse(self, refusal: Refusal) -> None:
        """The last answer of this connection, after those that are on their way."""
        self._queue.append(refusal)
        if self._current is None:
            self._next()

    # --- what goes out ------------------------------------------------------------------

    def _next(self) -> None:
        """Answer the request that has waited the longest."""
        following = self._queue.popleft()
        self.due = math.inf
        if isinstance(following, Request):
            self._current = following
            self._began = self._loop.time()
            work = self._house.work(following)
            self._may_cancel = work.may_cancel
            self._task = self._loop.create_task(self._answer(following, work.answer))
            self._expect(work.seconds)
        elif following.delay:
            self._later = self._loop.call_later(following.delay, self._tell, following)
        else:
            self._tell(following)

    def _tell(self, refusal: Refusal) -> None:
        self._later = None
        request = self._reader.request or Request(self.peer)
        self._house.note(request, refusal.status, 0.0)
        self._send(refusal.answer(), closes=True, is_head=request.method == "HEAD")

    async def _answer(self, request: Request, work: Callable[[], Coroutine[Any, Any, Answer | Stream]]) -> None:
        # Sent by the task that made it: one turn of the loop earlier than by whoever waits for the task.
        try:
            answer = await work()
        except asyncio.CancelledError:
            if self._current is request and not self._is_gone:
                self._transport.abort()
            raise
        if self._current is request and not self._is_gone:  # else it was told already that it takes too long
            self._task = None
            self._answered(request, answer)

    def _answered(self, request: Request, answer: Answer | Stream) -> None:
        self.due = math.inf
        if isinstance(answer, Stream):
            self._house.note(request, 200, self._loop.time() - self._began)
            self._pump = self._loop.create_task(self._send_parts(request, answer))
            self._pump.add_done_callback(self._streamed)
        else:
            self._finish(request, answer)

    def _answer_is_late(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._abandon(task)
        self._reader.is_deaf = True
        text = "no answer in time; what was asked may yet be done: ask again, with the same ids"
        answer = Answer(503, error_body("ServiceGone", text, retry_after=1.0), headers=retry_after(1))
        assert self._current is not None
        self._finish(self._current, answer)

    def _abandon(self, task: asyncio.Task[None]) -> None:
        if self._may_cancel:
            task.cancel()
        self._house.keep(task)

    def _finish(self, request: Request, answer: Answer) -> None:
        self._house.note(request, answer.status, self._loop.time() - self._began)
        self._current = None
        self._reader.release(request)
        closes = self._reader.is_deaf and not self._queue
        self._send(answer, closes=closes, is_head=request.method == "HEAD")
        if not closes:
            self._go_on()

    def _send(self, answer: Answer, *, closes: bool, is_head: bool) -> None:
        point("reply.before")
        head = head_of(answer, closes=closes)
        if is_head or not answer.body:
            self._transport.write(head)
        elif len(answer.body) < _COPIED:
            self._transport.write(head + answer.body)
        else:
            self._transport.writelines((head, answer.body))
        if closes:
            self._close()

    def _go_on(self) -> None:
        if self._queue:
            self._next()
            return
        self._resume_reading()
        if self._has_room.is_set():
            self._wait_for_what_comes()

    def _resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()

    # --- streams ------------------------------------------------------------------------

    async def _send_parts(self, request: Request, stream: Stream) -> None:
        is_chunked = stream.length is None and request.version == "1.1"
        if stream.length is None and not is_chunked:
            self._reader.is_deaf = True  # it ends with the connection
        self._transport.write(head_of_stream(stream, is_chunked=is_chunked))
        async with aclosing(stream.parts) as parts:
            if request.method == "HEAD":
                return
            async for part in parts:
                if part:
                    self._transport.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
                    await self._has_room.wait()
        if is_chunked:
            self._transport.write(b"0\r\n\r\n")

    def _streamed(self, pump: asyncio.Task[None]) -> None:
        request, self._pump, self._current = self._current, None, None
        error = None if pump.cancelled() else pump.exception()
        if error is not None and request is not None:
            self._house.broke(request, error)
        if self._is_gone:
            return
        if pump.cancelled() or error is not None:
            self._transport.abort()  # or the caller would take it for the whole
        elif self._reader.is_deaf and not self._queue:
            self._close()
        else:
            self._go_on()
