"""The process of a service, from its state directory to its exit code: `Service`, `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncjobs.failpoint import point
from asyncjobs.lanes.process import ProcessLane
from asyncjobs.runner import Runner
from asyncjobs.service import envelope
from asyncjobs.service.access import Address, StateDir, default_path
from asyncjobs.service.allow import Allow
from asyncjobs.service.clusters import clusters_of
from asyncjobs.service.errors import BadRequest, ServiceRunning, StateRefused, StorageBroken, StorageFull
from asyncjobs.service.http.desk import Surroundings
from asyncjobs.service.http.server import HttpServer
from asyncjobs.service.process import keep_secrets, keep_temporary, notify, take_notify_socket
from asyncjobs.service.servicelog import close_log, open_log
from asyncjobs.service.store.ballast import Ballast
from asyncjobs.service.store.faults import is_out_of_space
from asyncjobs.service.store.lock import StateLock
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.service.work.desk import Desk
from asyncjobs.service.work.ending import overdue
from asyncjobs.service.work.engine import Engine
from asyncjobs.service.work.performing import prepare

logger: logging.Logger = logging.getLogger("asyncjobs.service")

DRAIN = 10.0
"""Seconds that running jobs may go on after SIGTERM."""
USAGE, REFUSED, FAULT, NOT_MADE, BROKEN, RUNNING = 2, 65, 70, 73, 74, 75
"""Exit codes, most of them those of sysexits.h."""


@dataclass(frozen=True)
class Settings:
    """What a service is started with."""

    dir: Path | None = None
    """The state directory; that of `name` below the user's own if not given."""
    name: str = "default"
    allow: tuple[str, ...] = ()
    """Functions that may be run by name: ``pkg.*``, ``pkg.mod:function``."""
    processes: int | None = None
    """Worker processes; the usable processors if not given."""
    http: str | None = None
    """``HOST:PORT`` or ``PORT`` of a TCP listener."""
    queue_limit: int = 1_000_000
    """Jobs that may wait."""
    drain: float = DRAIN
    """Seconds that running jobs may go on when the service stops."""
    allow_remote: bool = False
    """Let the TCP listener have an address that others reach; needs a certificate."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    lanes: tuple[str, ...] = ()
    """Clusters: ``NAME=ENGINE:ADDRESS``."""


class Service:
    """A running service; an async context manager. One for a state directory, and one in a process.

    Raises, when it is entered:
        ServiceRunning: another one serves this state directory.
        StateRefused: the state directory or its database cannot be used.
        BadRequest: a setting is not allowed.
        StorageFull, StorageBroken: the disk does not serve.
        OSError: something cannot be made, or the port is taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state: StateDir
        self.store: Store
        self.engine: Engine
        self.http: HttpServer
        self.started_at: float = 0.0
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._drain = settings.drain

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        umask = os.umask(0o077)
        async with AsyncExitStack() as stack:
            stack.callback(os.umask, umask)
            try:
                await self._open(stack, umask)
            except OSError as error:
                told = _of_the_disk(error, self.settings.dir or default_path(self.settings.name))
                if told is None:
                    raise
                raise told from error
            self._stack = stack.pop_all()
        return self

    async def _open(self, stack: AsyncExitStack, umask: int) -> None:
        settings = self.settings
        allow = Allow(settings.allow)
        tcp = None if settings.http is None else address_of(settings.http)
        tls = _tls(settings)
        clusters = clusters_of(settings.lanes)
        self.state = state = StateDir.open(settings.dir, settings.name, create=True)
        stack.enter_context(StateLock(state.lock, state.socket))
        stack.callback(close_log, open_log(state.logs / "service.log"))
        for warning in state.warnings:
            logger.warning("%s", warning)
        key, token = state.key(), state.new_token()
        self.store = store = await Store.open(self._store_settings(key))
        stack.push_async_callback(store.aclose)
        desk = Desk(store)
        lane = ProcessLane(
            settings.processes, initializer=prepare, initargs=(desk.number, allow.patterns, os.getcwd(), umask)
        )
        # What is not claimed is not here: the window of claims bounds the queue.
        runner = Runner(
            lanes={"process": lane, **clusters}, queue_size=1_000_000, watchdog=1.0, drain_timeout=0, history=0
        )
        await stack.enter_async_context(runner)
        self.engine = Engine(
            store, runner, key=key, allow=allow, folder=state.path, desk=desk, lanes=("process", *clusters)
        )
        await stack.enter_async_context(self.engine)
        self.started_at = time.time()
        around = Surroundings(
            key, self.stop, self._stopping.is_set, folder=state.path, epoch=store.epoch, started_at=self.started_at
        )
        state.make_socket_folder()
        self.http = HttpServer(
            self.engine,
            store,
            socket=state.socket,
            token=token,
            surroundings=around,
            tcp=tcp,
            allow_remote=settings.allow_remote,
            tls=tls,
        )
        await self.http.start()
        stack.push_async_callback(carried_through, self.http.aclose)
        stack.callback(state.remove_address)
        url = self.http.urls[0] if self.http.urls else None
        state.write_address(Address(os.getpid(), str(state.socket), url, self.started_at))
        for event in store.recovered:
            logger.warning("recovered: %s", event.note, extra={"fields": {"id": event.id, "state": event.state.name}})
        logger.info("ready", extra={"fields": {"pid": os.getpid(), "epoch": store.epoch, "url": url}})

    def _store_settings(self, key: bytes) -> StoreSettings:
        def reseal(old: str, new: str, payload: bytes) -> bytes:
            return envelope.seal(key, new, envelope.open(key, old, payload))

        def too_late(id: str, name: str, attempts: int) -> tuple[str, bytes]:
            note, body = overdue(name, attempts)
            return note, envelope.seal(key, id, body)

        state = self.state
        return StoreSettings(
            state.database,
            queue_limit=self.settings.queue_limit,
            results=state.results,
            ballast=Ballast(state.ballast),
            reseal=reseal,
            too_late=too_late,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    # --- its end ------------------------------------------------------------------------

    def stop(self, drain: float | None = None) -> None:
        """Begin to stop, and return at once; a second call ends what still runs. Seconds that jobs may go on."""
        if self._stopping.is_set():
            self._at_once.set()
        elif drain is not None:
            self._drain = drain
        self._stopping.set()

    async def run(self) -> None:
        """Until somebody stops it, and what ran has ended.

        Raises:
            StorageBroken: the disk has failed: nothing more can be promised.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((stopping, self.store.broken), return_when=asyncio.FIRST_COMPLETED)
            if self.store.broken.done():
                raise self.store.broken.result()
        finally:
            stopping.cancel()
        point("shutdown.start")
        logger.info("stopping", extra={"fields": {"drain": self._drain, "busy": self.engine.busy()}})
        await self._drained()
        point("shutdown.drained")
        logger.info("stopped")

    async def _drained(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(self.engine.drain(self._drain))
            hurrying = tasks.create_task(self._hurry())
            draining.add_done_callback(lambda _: hurrying.cancel())

    async def _hurry(self) -> None:
        await self._at_once.wait()
        self.engine.interrupt()


async def serve(settings: Settings) -> int:
    """Run a service until SIGTERM or SIGINT, which drain it (a second one ends what still runs); the exit code.

    Prints one line when it is ready. Never raises what a start can say in one line on stderr.
    """
    address = take_notify_socket()
    keep_secrets()
    service = Service(settings)
    try:
        async with _signals(service), service:
            keep_temporary(service.state.path / "run")
            print(_ready_line(service), flush=True)
            notify(address, "READY=1")
            await service.run()
            notify(address, "STOPPING=1")
        point("shutdown.closed")
    except Exception as error:
        cause = _cause(error)
        code = code_of(cause)
        if code == FAULT:
            raise
        print(f"asyncjobs serve: {cause}", file=sys.stderr, flush=True)
        return code
    return 0


def _of_the_disk(error: OSError, place: Path) -> Exception | None:
    """What to say in its place if it is the disk's fault: the system does not always say of which file."""
    if is_out_of_space(error):
        return StorageFull(f"the disk under {place} is full; make room and start again")
    if error.errno == errno.EIO:
        return StorageBroken(f"the disk under {place} failed: {error}")
    return None


def _cause(error: Exception) -> Exception:
    """What tasks raised comes in a group; a failed disk comes before all that follows from it."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause(one) for one in error.exceptions]
    return next((one for one in causes if isinstance(one, StorageBroken)), causes[0])


def code_of(error: BaseException) -> int:
    """The exit code that tells why a service has ended, or did not start."""
    codes: tuple[tuple[type[BaseException], int], ...] = (
        (ServiceRunning, RUNNING),
        (StateRefused, REFUSED),
        (StorageBroken, BROKEN),
        (StorageFull, BROKEN),
        (BadRequest, USAGE),
        (OSError, NOT_MADE),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), FAULT)


def _ready_line(service: Service) -> str:
    urls = "".join(f", http {url}" for url in service.http.urls)
    return f"asyncjobs serve: ready, pid {os.getpid()}, socket {service.state.socket}{urls}"


async def carried_through(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close it to the end, cancelled or not: when the disk fails, the engine's group cancels who closes around it."""
    closing = asyncio.ensure_future(close())
    try:
        await asyncio.shield(closing)
    finally:
        await asyncio.wait([closing])


@contextlib.asynccontextmanager
async def _signals(service: Service) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, service.stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def address_of(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``PORT``; without a host this machine only.

    Raises:
        BadRequest: it is none of them.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise BadRequest(f"--http takes HOST:PORT or PORT, not {text!r}")
    return host or "127.0.0.1", int(port)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """What TCP is wrapped in.

    Raises:
        BadRequest: certificate and key are no pair, or options of TCP are there without ``--http``.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if settings.http is None and (settings.allow_remote or cert is not None or key is not None):
        raise BadRequest("--allow-remote, --tls-cert and --tls-key are about TCP: give --http HOST:PORT with them")
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise BadRequest("a certificate needs its key: give --tls-cert and --tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:  # which an SSLError is, too; neither names a file
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise BadRequest(f"--tls-cert {cert} and --tls-key {key} cannot be used: {reason}") from None
    return context
