"""A service's doors with a real store behind them, and callers who speak raw HTTP.

No job runs here: a test claims and ends them itself, so that it decides what happens when.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from asyncjobs.service import envelope
from asyncjobs.service.http.desk import Surroundings
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.server import HttpServer
from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import ProgressView
from asyncjobs.service.records import Accepted, CancelAnswer, Claim, Ending, NewJob
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.service.work.news import News
from asyncjobs.state import JobState

TOKEN = "the-token-of-this-test-and-of-no-other"
KEY = bytes(range(32))
PATIENCE = 20.0
JSON_HEAD = "Content-Type: application/json\r\nX-Asyncjobs: 1\r\n"


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Idle:
    """An engine that starts nothing: jobs wait in the store until the test claims them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.news = News()
        self.progress: dict[str, ProgressView] = {}

    async def submit(self, jobs: list[NewJob]) -> list[Accepted]:
        return await self.store.submit(jobs)

    def check(self, job: NewJob) -> None:
        """All may run."""

    async def cancel(self, job: str, reason: str, grace: float | None) -> tuple[CancelAnswer, JobState]:
        return await self.store.cancel(job, reason)

    async def pause(self, scope: str) -> None:
        await self.store.pause(scope)

    async def resume(self, scope: str) -> None:
        await self.store.resume(scope)

    def progress_of(self, job: str) -> ProgressView | None:
        return self.progress.get(job)

    def busy(self) -> int:
        return 0

    def trouble(self) -> str:
        return ""

    def size(self) -> int:
        return 2


@dataclass
class Served:
    """The doors, and what is behind them."""

    server: HttpServer
    store: Store
    engine: Any
    """An `Idle`, or what the test put in its place."""
    folder: Path
    socket: Path
    stops: list[float | None] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.urls[0].rpartition(":")[2])

    async def connect(self, *, tcp: bool = False) -> Wire:
        """A new connection."""
        if tcp:
            return Wire(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**20))
        return Wire(*await asyncio.open_unix_connection(self.socket, limit=2**20))

    async def raw(self, data: bytes, *, tcp: bool = False) -> Reply:
        """Send bytes over a connection of their own; the one answer."""
        async with await self.connect(tcp=tcp) as wire:
            wire.write(data)
            return await wire.reply()

    async def ask(self, method: str, path: str, body: object = None, *, headers: str = "", tcp: bool = False) -> Reply:
        """A proper request."""
        return await self.raw(self.request(method, path, body, headers=headers, tcp=tcp), tcp=tcp)

    def request(self, method: str, path: str, body: object = None, *, headers: str = "", tcp: bool = False) -> bytes:
        """The bytes of a proper request."""
        host = f"127.0.0.1:{self.port}" if tcp else "localhost"
        if tcp:
            headers += f"Authorization: Bearer {TOKEN}\r\n"
        return request(method, path, body, host=host, headers=headers)

    async def submit(self, number: int = 1, **fields: object) -> list[str]:
        """Submit `number` jobs over the socket; their ids."""
        jobs = [{"id": new_id(), "function": "pkg:f", **fields} for _ in range(number)]
        reply = await self.ask("POST", "/v1/jobs", {"jobs": jobs})
        assert reply.status == 201, reply
        return [job["id"] for job in reply.json()["jobs"]]

    async def claim(self, number: int = 1) -> list[Claim]:
        """Start as many."""
        return await self.store.claim({"process": number})

    async def end(self, claims: Sequence[Claim], value: bytes = b"J1", note: str = "") -> None:
        """They have succeeded."""
        await self.store.finish(
            [
                Ending(one.id, one.attempt, one.epoch, JobState.SUCCEEDED, envelope.seal(KEY, one.id, value), note)
                for one in claims
            ]
        )


class Wire:
    """One connection of a caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> Reply:
        """Status and headers of the next answer."""
        async with asyncio.timeout(PATIENCE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines[1:] if line)
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        return Reply(int(status), {name.lower(): value for name, _, value in pairs}, b"")

    async def reply(self, *, is_head: bool = False) -> Reply:
        """The next answer, whole."""
        head = await self.head()
        if is_head or head.status == 204:
            return head
        async with asyncio.timeout(PATIENCE):
            if head.headers.get("transfer-encoding") == "chunked":
                return head._replace(body=b"".join([chunk async for chunk in self.chunks()]))
            return head._replace(body=await self.reader.readexactly(int(head.headers["content-length"])))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of an answer that goes on."""
        while True:
            async with asyncio.timeout(PATIENCE):
                size = int(await self.reader.readline(), 16)
                part = await self.reader.readexactly(size + 2)
            if not size:
                return
            yield part[:-2]

    async def is_closed(self) -> bool:
        """Whether the other end closes it; what still comes is dropped."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self.reader.read(65536):
                    continue
            except ConnectionError:
                return True
            return True


def request(method: str, path: str, body: object = None, *, host: str = "localhost", headers: str = "") -> bytes:
    """The bytes of a request; a body makes it a JSON one."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}"
    if body is None:
        return f"{head}\r\n".encode()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"{head}{JSON_HEAD}Content-Length: {len(data)}\r\n\r\n".encode() + data


@asynccontextmanager
async def serving(
    *,
    limits: Limits | None = None,
    tcp: bool = True,
    address: tuple[str, int] = ("127.0.0.1", 0),
    queue_limit: int = 1_000_000,
    engine: type[Idle] = Idle,
    place: Path | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """A store and its doors, in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="aj"))  # short: a socket's path has 107 bytes
    stops: list[float | None] = []
    store = await Store.open(StoreSettings(folder / "jobs.db", queue_limit=queue_limit, results=folder / "results"))
    desk = engine(store)
    socket = place or folder / "socket"
    server = HttpServer(
        desk,
        store,
        socket=socket,
        tcp=address if tcp else None,
        token=TOKEN,
        surroundings=Surroundings(key=KEY, stop=stops.append, folder=folder, epoch=store.epoch),
        limits=limits,
        **options,
    )
    try:
        await server.start()
        yield Served(server, store, desk, folder, socket, stops)
    finally:
        await server.aclose(0.5)
        await store.aclose()
        shutil.rmtree(folder)
