"""The live page's web server: a page, its scripts, and for each reader a stream of what changes. Loopback only."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.live.board import Board
from asyncjobs.plotting.live.door import close_in_children, listen, token_of
from asyncjobs.plotting.live.files import FILES, PLOTLY, load, load_plotly
from asyncjobs.plotting.live.request import HOST, LONGEST, NOT_CHANGED, STREAM, Request, answer
from asyncjobs.sync.hosted import HostedRunner

logger: logging.Logger = logging.getLogger("asyncjobs")

LEAST_BETWEEN = 0.2
"""Seconds between two messages to one reader: five a second."""
BEAT = 10.0
"""Seconds after which a reader hears that there is nothing new; page.js gives up after three of them."""
PATIENCE = 10.0
"""Seconds that a browser may take to say what it wants."""
FAREWELL = 1.0
"""Seconds that the end of a plot waits for its readers to get the last of it."""


class Site:
    """Serves one board to the browsers of this machine, on the loop of `host`."""

    def __init__(self, host: HostedRunner) -> None:
        self._host = host
        self._board = Board()
        self._addresses: dict[int, str] = {}
        self._readers: set[_Reader] = set()
        self._delivery = asyncio.Event()

    # --- from any other thread ----------------------------------------------------------

    def open(self, port: int) -> tuple[str, bool]:
        """Listen on a port of 127.0.0.1 unless we do already; 0: on any.

        Returns:
            The page's address, and whether it is a new one.

        Raises:
            OSError: the port cannot be had; names it.
        """
        if port == 0 and self._addresses:
            return next(iter(self._addresses.values())), False
        if port in self._addresses:
            return self._addresses[port], False
        listener, token = listen(HOST, port), token_of(port)
        close_in_children(listener)
        port = listener.getsockname()[1]
        self._host.start(self._serve(listener, token))
        self._addresses[port] = f"http://{HOST}:{port}/{token}/"
        return self._addresses[port], True

    def pin(self, edition: Edition, delta: str | None) -> None:
        """Show the edition to all readers, soon; `delta` makes it of the one before, None: nothing does."""
        self._host.portal.post(self._board.pin, edition, delta)

    def end(self, plot: str) -> None:
        """The plot stays as it is; block until all readers have the last of it, or for a second.

        Raises:
            RunnerClosed: the loop has ended, and all connections with it.
        """
        self._host.portal.call(self._end, plot)

    # --- on the loop --------------------------------------------------------------------

    async def _end(self, plot: str) -> None:
        self._board.end(plot)
        revision = self._board.revision
        with suppress(TimeoutError):  # a reader may be stuck
            async with asyncio.timeout(FAREWELL):
                while any(reader.revision < revision for reader in self._readers):
                    self._delivery.clear()
                    await self._delivery.wait()

    async def _serve(self, listener: socket.socket, token: str) -> None:
        """Until cancelled, as by the end of the loop."""
        async with asyncio.TaskGroup() as answers:

            def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                answers.create_task(self._answer(token, reader, writer))

            server = await asyncio.start_server(begin, sock=listener, limit=LONGEST)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()

    async def _answer(self, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
            await self._reply(request, token, reader, writer)
        # It went away, or speaks something else.
        except* (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass
        except* Exception:  # the others are to be served all the same
            logger.exception("the live page could not answer a browser")
        finally:
            writer.close()

    async def _reply(
        self, request: Request, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        refusal = request.refusal(token)
        if refusal is not None:
            writer.write(answer(refusal))
        elif request.name == "news":
            await self._stream(reader, writer)
        elif request.name == PLOTLY:
            # A fifth of a second to pack, the first time.
            file = await self._host.runner.options(lane="thread", name=PLOTLY).run(load_plotly)
            writer.write(NOT_CHANGED if request.has(file) else file.answer())
        elif request.name in FILES:
            writer.write(load(request.name).answer())
        else:
            writer.write(answer("404 Not Found"))
        await writer.drain()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """News to one reader, until it goes away."""
        writer.write(STREAM)
        # A write is over when the system has it all: of a slow reader we keep one message, and the next is the newest.
        writer.transport.set_write_buffer_limits(high=0)
        known = _Reader()
        self._readers.add(known)
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send_news(known, writer))
                while await reader.read(LONGEST):  # it has nothing more to say: this ends when it goes
                    pass
                sending.cancel()
        finally:
            self._readers.discard(known)
            self._delivery.set()

    async def _send_news(self, known: _Reader, writer: asyncio.StreamWriter) -> None:
        while True:
            revision = self._board.revision
            writer.write(b"data: %b\n\n" % _one_line(self._board.news(known.seen)).encode())
            await writer.drain()
            known.revision = revision
            self._delivery.set()
            await asyncio.sleep(LEAST_BETWEEN)
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._board.changed_since(revision)


class _Reader:
    """A page in a browser, and how much of the board it has."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.revision: int = -1


def _one_line(text: str) -> str:
    """In JSON a line break stands only between things, never in them."""
    return text.replace("\r", " ").replace("\n", " ")
