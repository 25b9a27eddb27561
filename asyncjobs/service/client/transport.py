"""HTTP/1.1 to one service, over a unix socket or TCP: `Transport`. Knows connections, nothing of jobs.

A request of our own and the parser of httptools, not a general client: one submit after the other over a unix
socket, on two busy cores, with a server that answers at once, costs us 87 us of processor time (35 us on
uvloop), and httpx2 780 us (770 us). With 800 submits a second from one client that would be two thirds of a
core for the client alone, which shares the machine with the service and its workers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpResponseParser

IDLE = 8
"""Connections that are kept for the next request."""
HIGH = 1024 * 1024
"""Bytes of a stream that nobody has taken, from which on no more is read."""
SILENCE = 60.0
"""Seconds without a word, after which a stream whose other end says every 15 s that it lives is given up."""
HEAD_SECONDS = 10.0
"""How long a stream may take to begin."""


class Address(NamedTuple):
    """Where a service listens: a unix socket, or a host and a port."""

    socket: str | None = None
    host: str = ""
    port: int = 0
    is_secure: bool = False
    token: str | None = None

    def __str__(self) -> str:
        return self.socket or f"http{'s' * self.is_secure}://{self.host}:{self.port}"


class Reply(NamedTuple):
    """An answer, whole."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case."""
    body: bytes


class BadReply(ConnectionError):
    """What came is no HTTP, or broke off in the middle."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, address: Address) -> None:
        self.address: Address = address
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._is_paused = False
        self._is_complete = True
        self._error: Exception | None = None
        self.status: int = 0
        self.headers: dict[bytes, bytes] = {}

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent."""
        transport = self._transport
        return self._is_complete and self._error is None and transport is not None and not transport.is_closing()

    # --- requests -----------------------------------------------------------------------

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for the head of the answer: `status` and `headers` stand then."""
        transport = self._transport
        if self._error is not None or transport is None or transport.is_closing():
            raise self._error or ConnectionResetError("the service closed the connection")
        self._is_complete = False
        self.headers = {}
        self._head = asyncio.get_running_loop().create_future()
        transport.write(head + body if len(body) < 65536 else head)
        if len(body) >= 65536:
            transport.write(body)
        await self._head

    async def read(self, deadline: asyncio.Timeout, seconds: float) -> bytes:
        """The whole body; the `deadline` is moved on as long as more comes within so many seconds."""
        if self._is_complete:
            return self._take()
        loop = asyncio.get_running_loop()
        pieces: list[bytes] = []
        while not self._is_complete:
            deadline.reschedule(loop.time() + seconds)
            await self._news()
            pieces.append(self._take())
        return b"".join(pieces)

    async def chunks(self, silence: float | None = None) -> AsyncGenerator[bytes, None]:
        """The body as it comes.

        Raises:
            TimeoutError: nothing came for `silence` seconds: there is nobody at the other end any more.
        """
        while True:
            if self._chunks:
                yield self._take()
            elif self._is_complete:
                return
            else:
                async with asyncio.timeout(silence):
                    await self._news()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _take(self) -> bytes:
        data = b"".join(self._chunks) if len(self._chunks) != 1 else self._chunks[0]
        self._chunks.clear()
        self._size = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """Drop it, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # --- what comes in ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._break(BadReply(f"the service answered with what is no HTTP: {error}"))
            self.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if not self._is_complete:
            self._break(error or ConnectionResetError("the service closed the connection in the middle of an answer"))

    def _break(self, error: Exception) -> None:
        self._error = self._error or error
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_exception(error)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def on_message_begin(self) -> None:
        if self._is_complete:  # nobody asked: whoever asks next must not get it for an answer
            self._error = BadReply("the service answered what nobody had asked")
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_complete:
            return
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        self.status = self._parser.get_status_code()
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_result(None)

    def on_body(self, body: bytes) -> None:
        if self._is_complete:
            return
        self._chunks.append(body)
        self._size += len(body)
        if self._size > HIGH and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._is_complete:
            return
        self._is_complete = True
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Transport:
    """Requests to the service at ``find()``, over connections that are kept."""

    def __init__(self, find: Callable[[], Address]) -> None:
        self._find = find
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        seconds: float = HEAD_SECONDS,
        is_fresh: bool = False,
    ) -> Reply:
        """Send one request and wait for the whole answer.

        Args:
            seconds: how long its head, and then each further piece, may take.
            is_fresh: over a new connection: one that was kept may turn out to be closed, after the request
                has been sent.

        Raises:
            OSError: nobody listens there, the connection broke, or it took too long.
        """
        async with asyncio.timeout(seconds) as deadline:
            connection = await self._connection(is_fresh)
            try:
                await connection.send(head_of(method, path, body, connection.address), body or b"")
                return Reply(connection.status, connection.headers, await connection.read(deadline, seconds))
            finally:
                self._release(connection)

    async def begin_stream(self, method: str, path: str, headers: tuple[str, ...] = ()) -> Connection:
        """An answer that comes piece by piece, over a connection of its own; `end_stream` gives that back."""
        async with asyncio.timeout(HEAD_SECONDS):
            connection = await self._connection(True)
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                await connection.send(head_of(method, path, None, connection.address, headers), b"")
        except BaseException:
            self.end_stream(connection)
            raise
        return connection

    def end_stream(self, connection: Connection) -> None:
        """Nobody reads it any more."""
        self._release(connection)

    async def _connection(self, is_fresh: bool) -> Connection:
        while self._idle and not is_fresh:
            connection = self._idle.pop()
            if connection.is_reusable:
                self._busy.add(connection)
                return connection
        connection = await _connect(self._find())
        self._busy.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.is_reusable and len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self) -> None:
        """Close the connections that nobody uses: the service may be another one now."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close all connections; requests that are under way break."""
        self.forget()
        for connection in tuple(self._busy):
            connection.close()
        await asyncio.sleep(0)  # what is aborted is closed in the loop's next turn


async def whole(connection: Connection) -> Reply:
    """The rest of an answer whose head is here."""
    async with asyncio.timeout(HEAD_SECONDS) as deadline:
        return Reply(connection.status, connection.headers, await connection.read(deadline, HEAD_SECONDS))


async def _connect(address: Address) -> Connection:
    loop = asyncio.get_running_loop()
    if address.socket is not None:
        _, connection = await loop.create_unix_connection(lambda: Connection(address), address.socket)
    else:
        context = ssl.create_default_context() if address.is_secure else None
        _, connection = await loop.create_connection(
            lambda: Connection(address), address.host, address.port, ssl=context
        )
    return connection


def head_of(method: str, path: str, body: bytes | None, address: Address, headers: tuple[str, ...] = ()) -> bytes:
    """The first lines of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {_host(address)}", *headers]
    if address.token is not None:
        lines.append(f"Authorization: Bearer {address.token}")
    if body is not None:
        lines.append(f"Content-Type: application/json\r\nX-Asyncjobs: 1\r\nContent-Length: {len(body)}")
    elif method != "GET":
        lines.append("X-Asyncjobs: 1")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def _host(address: Address) -> str:
    if address.socket is not None:
        return "localhost"
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
