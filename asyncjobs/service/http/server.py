"""The service's doors: a unix socket, and TCP with a token on demand; how many may be inside, for how long.

One timer for all connections: it rings when the first of them is due, and is not set while none is open.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asyncjobs.service.http import openapi
from asyncjobs.service.http.api import Api
from asyncjobs.service.http.connection import Connection, Work
from asyncjobs.service.http.desk import EngineDesk, StoreDesk, Surroundings
from asyncjobs.service.http.feeds import Feeds
from asyncjobs.service.http.gate import Door, Gate, Guesses, own_hosts
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.listening import LOCAL_NAMES, UnixDoor, listen_tcp, listen_unix, tcp_peer, unix_peer
from asyncjobs.service.http.message import Peer, Refusal, Request, retry_after
from asyncjobs.service.http.reading import Held
from asyncjobs.service.http.requestlog import RequestLog
from asyncjobs.service.http.route import Desk
from asyncjobs.service.http.routes import ROUTES
from asyncjobs.service.http.tally import Tally

UNIX_HOSTS = frozenset({b"localhost", b"localhost:80", b"asyncjobs"})
"""What clients write where there is no host."""
_CLOSE_SECONDS = 5.0
_LEAVE_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The socket's file is ours to remove. From Python 3.13 on the loop would, too, and would log what goes wrong."""


class HttpServer:
    """Lets callers in. Constructing starts nothing.

    Args:
        engine, store: what the handlers ask (`desk`).
        socket: where the unix socket goes; its folder is ours, mode 0700.
        tcp: host and port of a TCP listener; port 0 takes a free one.
        token: what callers over TCP have to show.
        surroundings: the rest of what handlers need to know of the service.
        allow_remote: addresses other than this machine's own; needs `tls`.
        tls: certificate and key for TCP.
        names: further values of ``Host``, without port, that mean this service.
    """

    def __init__(
        self,
        engine: EngineDesk,
        store: StoreDesk,
        *,
        socket: Path,
        token: str,
        surroundings: Surroundings,
        tcp: tuple[str, int] | None = None,
        allow_remote: bool = False,
        tls: ssl.SSLContext | None = None,
        names: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self.limits: Limits = limits or Limits()
        self.gate: Gate = Gate(self.limits, Guesses(self.limits))
        self.held: Held = Held()
        self.urls: tuple[str, ...] = ()
        """Of the TCP listener, once started."""
        self.feeds: Feeds = Feeds(store, self.limits)
        engine.is_watched = self.feeds.is_watched
        self._tally = Tally()
        document = functools.cache(functools.partial(openapi.encode, ROUTES))
        self._api = Api(Desk(engine, store, surroundings, self.feeds, self._tally, self.limits, document))
        self._log = RequestLog()
        self._path = socket
        self._token = token.encode()
        self._tcp = tcp
        self._allow_remote = allow_remote
        self._tls = tls
        self._names = tuple(names)
        self.connections: set[Connection] = set()
        self._counts = self._tally.connections
        self._kept: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._unix: UnixDoor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_empty = asyncio.Event()
        self._is_closing = False

    # --- opening and closing ------------------------------------------------------------

    async def start(self) -> None:
        """Open the doors; callers are let in when this returns.

        Raises:
            ServiceRunning: somebody listens at the socket's path.
            StateRefused: the socket's path cannot be used.
            BadRequest: the TCP address is not allowed.
            OSError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        self.feeds.start()
        try:
            if self._tcp is not None:
                await self._start_tcp(loop, *self._tcp)
            self._unix = listen_unix(self._path)
            door = Door("unix", UNIX_HOSTS, b"http", None)
            connecting = self._connecting(door, unix_peer)
            server = await loop.create_unix_server(connecting, sock=self._unix.socket, **_LEAVE_FILE)
            self._servers.append(server)
        except BaseException:
            await self.aclose(0)
            raise

    async def _start_tcp(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        listener = listen_tcp(host, port, allow_remote=self._allow_remote, has_tls=self._tls is not None)
        port = listener.getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host or "127.0.0.1"
        hosts = own_hosts((*LOCAL_NAMES, *self._names, *((shown,) if self._allow_remote else ())), port)
        door = Door("tcp", hosts - own_hosts(("0.0.0.0", "[::]"), port), scheme.encode(), self._token)
        server = await loop.create_server(self._connecting(door, tcp_peer), sock=listener, ssl=self._tls)
        self._servers.append(server)
        self.urls = (f"{scheme}://{shown}:{port}",)

    def _connecting(
        self, door: Door, peer_of: Callable[[asyncio.BaseTransport], Peer | None]
    ) -> Callable[[], Connection]:
        return functools.partial(Connection, self, door, peer_of)

    async def aclose(self, drain: float = _CLOSE_SECONDS) -> None:
        """Let nobody in any more, end the streams, let answers go out for `drain` seconds, then drop the rest.

        Raises:
            OSError: the unix socket's file cannot be removed; all else is closed.
        """
        self._is_closing = True
        unix, self._unix = self._unix, None
        try:
            if unix is not None:
                unix.remove()
        finally:
            await self._shut(unix, drain)

    async def _shut(self, unix: UnixDoor | None, drain: float) -> None:
        # A connection that the loop has accepted and not made yet would be forgotten, open, by a closed asyncio server.
        for _ in range(3):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        if unix is not None:
            unix.socket.close()
        self.feeds.close()
        for connection in tuple(self.connections):
            connection.close()
        try:
            async with asyncio.timeout(drain):
                await self._until_empty()
        except TimeoutError:
            for connection in tuple(self.connections):
                connection.drop()
            await self._until_empty()
        while self._kept:
            await asyncio.wait(self._kept)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _until_empty(self) -> None:
        while self.connections:
            self._is_empty.clear()
            await self._is_empty.wait()

    # --- what connections ask (connection.House) ----------------------------------------

    def arrived(self, connection: Connection) -> Refusal | None:
        door, peer = connection.door.name, connection.peer.label
        self.connections.add(connection)
        self._counts[door, ""] += 1
        self._counts[door, peer] += 1
        if self._is_closing:  # it had been let in while the doors were shut
            return Refusal(503, "ServiceGone", "the service is stopping", retry_after(1))
        if self._counts[door, peer] > self.limits.per_peer:
            return self._crowded(connection, by_peer=True)
        if self._counts[door, ""] > self.limits.connections:
            return self._crowded(connection, by_peer=False)
        return None

    def _crowded(self, newcomer: Connection, *, by_peer: bool) -> Refusal | None:
        """An idle connection makes room: who only holds one open must not shut others out."""
        for other in self.connections:
            is_rival = other is not newcomer and other.is_idle and other.door is newcomer.door
            if is_rival and (not by_peer or other.peer.label == newcomer.peer.label):
                other.close()
                return None
        return Refusal(503, "ServiceGone", "too many connections are open", retry_after(1))

    def left(self, connection: Connection) -> None:
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        for key in ((connection.door.name, ""), (connection.door.name, connection.peer.label)):
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
        if not self.connections:
            self._is_empty.set()

    def expects(self, due: float) -> None:
        if self._timer is None or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.connections):
            if connection.due <= now:
                connection.overdue()
        following = min((connection.due for connection in self.connections), default=math.inf)
        if following < math.inf:
            self.expects(following)

    def work(self, request: Request) -> Work:
        return self._api.work(request)

    def keep(self, task: asyncio.Task[None]) -> None:
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def note(self, request: Request, status: int, seconds: float) -> None:
        self._tally.note(request.route, status, seconds)
        self._log.note(request, status, seconds)

    def broke(self, request: Request, error: BaseException) -> None:
        self._log.broke(request, error)
