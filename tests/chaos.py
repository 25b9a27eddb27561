"""A proxy between a caller and a service that does to connections what bad networks and dying programs do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path
from random import Random

from asyncjobs.service.access import Address, StateDir
from asyncjobs.service.private import write_private


class Harm(Enum):
    """What happens to a connection, at one of its requests."""

    NONE = auto()
    REFUSED = auto()
    """It ends before the request goes on."""
    UNHEARD = auto()
    """The request goes on, the answer does not come back."""
    CUT = auto()
    """The answer breaks off in the middle."""
    TRICKLED = auto()
    """The answer comes byte by byte."""
    TWICE = auto()
    """The request reaches the service twice, over two connections; one answer comes back."""
    HALF = auto()
    """After the request the sending side is shut."""
    LATE = auto()
    """All of it comes later."""


class Chaos:
    """Listens at `path`, talks to the service at `target`; `harms` are dealt out by the random numbers."""

    def __init__(self, path: Path, target: Path, random: Random, harms: tuple[Harm, ...] = tuple(Harm)) -> None:
        self.path = path
        self.done: Counter[Harm] = Counter()
        """How often each was done."""
        self._target = target
        self._random = random
        self._harms = harms
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self.path)

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            near, far = await asyncio.open_unix_connection(self._target)
            try:
                while request := await _request(reader):
                    if not await self._pass_on(request, writer, near, far):
                        return
            finally:
                far.transport.abort()
                writer.transport.abort()

    async def _pass_on(
        self, request: bytes, writer: asyncio.StreamWriter, near: asyncio.StreamReader, far: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection goes on."""
        harm = Harm.NONE if b" /v1/ended" in request else self._random.choice(self._harms)
        self.done[harm] += 1
        if harm is Harm.REFUSED:
            return False
        if harm is Harm.LATE:
            await asyncio.sleep(self._random.random() * 0.05)
        if harm is Harm.TWICE:
            await self._send_apart(request)
        far.write(request)
        if harm is Harm.HALF:
            far.write_eof()
        if b" /v1/ended" in request:
            await _pour(near, writer)
            return False
        answer = await _answer(near)
        if harm is Harm.UNHEARD:
            return False
        if harm is Harm.CUT:
            writer.write(answer[: self._random.randrange(1, len(answer))])
            await writer.drain()
            return False
        for piece in [answer[at : at + 1] for at in range(len(answer))] if harm is Harm.TRICKLED else [answer]:
            writer.write(piece)
            await writer.drain()
        return harm is not Harm.HALF

    async def _send_apart(self, request: bytes) -> None:
        near, far = await asyncio.open_unix_connection(self._target)
        far.write(request)
        await _answer(near)
        far.transport.abort()


async def _request(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    return head + await reader.readexactly(_length(head))


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" not in head:
        return head + await reader.readexactly(_length(head))
    parts = [head]
    while parts[-1] != b"0\r\n":
        parts.append(await reader.readline())
        parts.append(await reader.readexactly(int(parts[-1], 16) + 2))
        if int(parts[-2], 16) == 0:
            break
    return b"".join(parts)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def chaos(state: Path, twin: Path, random: Random, harms: tuple[Harm, ...] = tuple(Harm)) -> AsyncIterator[Chaos]:
    """A proxy before the service of the directory `state`; `twin` becomes a directory through which it is found."""
    real = StateDir.open(state).read_address()
    assert real is not None
    os.mkdir(twin, 0o700)
    write_private(twin / "key", (state / "key").read_bytes())
    proxy = Chaos(twin / "socket", Path(real.socket), random, harms)
    await proxy.start()
    StateDir.open(twin).write_address(Address(real.pid, str(proxy.path), None, real.started_at))
    try:
        yield proxy
    finally:
        await proxy.aclose()
        shutil.rmtree(twin)
