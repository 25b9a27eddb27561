"""One question to the service at a time: `Api`. Repeats what may be repeated, makes errors of refusals.

A service that is started again is away for a moment; one whose queue is full says when to come back.
Whoever asks need not know of either.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from asyncjobs.service import errors
from asyncjobs.service.client.place import Place
from asyncjobs.service.client.transport import Connection, Reply, Transport, whole
from asyncjobs.service.errors import ServiceError, ServiceFull, ServiceGone, ServiceNotRunning
from asyncjobs.service.protocol import ErrorView

T = TypeVar("T")

ATTEMPT = 15.0
"""Seconds that an answer may take to begin; each ought to within 10."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two attempts to reach a service that is away."""

ERRORS: dict[str, type[ServiceError]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)
}
_BY_STATUS: dict[int, type[ServiceError]] = {
    kind.status: kind
    for kind in (
        errors.BadRequest,
        errors.NotAuthorized,
        errors.NotAllowed,
        errors.NoSuchJob,
        errors.NotNow,
        errors.ServiceFull,
        errors.ServiceGone,
        errors.StorageFull,
    )
}


class Api:
    """Asks the service at a place.

    Args:
        timeout: seconds that a service may be away before a question fails.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        self.place: Place = place
        self.timeout: float = timeout
        self.key: bytes | None = None
        """What the service's outcomes are sealed with; None if we do not know it. `open` finds out."""
        self.python: str = ""
        """The version of the service's Python; empty: not known."""
        self._transport = Transport(place.find)
        self._is_closed = False

    async def aclose(self) -> None:
        """Close the connections; no others are opened."""
        self._is_closed = True
        await self._transport.aclose()

    def _check_open(self) -> None:
        if self._is_closed:  # a connection that a job of it opened now, nobody would close
            raise ServiceGone("the client is closed; what the service accepted goes on: connect again, and attach")

    async def get(self, path: str, kind: type[T], **query: object) -> T:
        """A GET whose answer is of that kind; what is None in the query is left out."""
        given = {name: value for name, value in query.items() if value is not None}
        reply = await self.ask("GET", f"{path}?{urlencode(given, doseq=True)}" if given else path)
        return msgspec.json.decode(reply.body, type=kind)

    async def get_once(self, path: str, kind: type[T]) -> T:
        """The same, without waiting for a service that does not run; one that stops or starts is waited for.

        Raises:
            ServiceNotRunning: nobody answers.
        """
        reply = await self.ask("GET", path, is_patient=False)
        return msgspec.json.decode(reply.body, type=kind)

    async def post(self, path: str, body: Any, kind: type[T], *, may_repeat: bool = True) -> T:
        """A POST whose answer is of that kind."""
        reply = await self.ask("POST", path, msgspec.json.encode(body), may_repeat=may_repeat)
        return msgspec.json.decode(reply.body, type=kind)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        wait: float = 0.0,
        may_repeat: bool = True,
        is_patient: bool = True,
        awaits_room: bool = True,
    ) -> Reply:
        """Ask until there is an answer.

        Args:
            wait: seconds that the service itself may take on purpose.
            may_repeat: the same request twice does no more than once.
            is_patient: wait for a service that does not run.
            awaits_room: wait while the service's queue is full.

        Raises:
            ServiceNotRunning: nobody could be reached within `timeout` seconds.
            ServiceGone: it was reached, and went away.
            ServiceError: of the kind that the service says.
        """
        patience = Patience(self.timeout)
        self._check_open()
        while True:
            try:
                reply = await self._transport.request(
                    method, path, body, seconds=ATTEMPT + wait, is_fresh=not may_repeat
                )
            except (OSError, ServiceNotRunning) as error:  # TimeoutError is an OSError
                problem: ServiceError = self._unreachable(error)
                is_open = is_patient if isinstance(problem, ServiceNotRunning) else may_repeat
                self._transport.forget()
            else:
                if reply.status < 400:
                    return reply
                problem = error_of(reply)
                is_open = isinstance(problem, (ServiceGone, ServiceFull) if awaits_room else ServiceGone)
            if not is_open:
                raise problem
            await self.pause(patience, problem)

    async def pause(self, patience: Patience, problem: ServiceError) -> None:
        """Wait before the next attempt.

        Raises:
            ServiceError: `problem`: the service has been away for too long, or the client is closed.
        """
        if self._is_closed:
            raise problem
        await patience.pause(problem)

    def stream(self, path: str, headers: tuple[str, ...] = ()) -> Streaming:
        """A GET whose answer comes piece by piece, for ``async with``; asked once.

        Raises:
            ServiceNotRunning: nobody answers.
            ServiceGone: it went away in the middle.
        """
        self._check_open()
        return Streaming(self, path, headers)

    async def _begin_stream(self, path: str, headers: tuple[str, ...]) -> Connection:
        connection = await self._transport.begin_stream("GET", path, headers)
        if connection.status < 400:
            return connection
        try:
            raise error_of(await whole(connection))
        finally:
            self._end_stream(connection)

    def _end_stream(self, connection: Connection) -> None:
        self._transport.end_stream(connection)

    def _unreachable(self, error: Exception) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
            return ServiceNotRunning(f"no service answers at {self.place.name} ({error})")
        return ServiceGone(
            f"the service at {self.place.name} stopped answering ({type(error).__name__}: {error}); what it accepted "
            "stands, and goes on when it is started again"
        )


class Streaming:
    """An answer that is being read (`Api.stream`).

    No generator: a loop that closes ends the generators that are left in any order, and one that is ended before
    the block that it stands in breaks that block.
    """

    def __init__(self, api: Api, path: str, headers: tuple[str, ...]) -> None:
        self._api = api
        self._path = path
        self._headers = headers
        self._connection: Connection

    async def __aenter__(self) -> Connection:
        try:
            self._connection = await self._api._begin_stream(self._path, self._headers)
        except ServiceError:
            raise
        except OSError as error:
            raise self._api._unreachable(error) from error
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._api._end_stream(self._connection)
        if isinstance(error, OSError) and not isinstance(error, ServiceError):
            raise self._api._unreachable(error) from error


class Patience:
    """How long a service may be away: `timeout` seconds from the first refusal on, as long as nothing is answered."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._until: float | None = None
        self._pause = FIRST_PAUSE

    def answered(self) -> None:
        """It is there: should it go away again, the time begins anew."""
        self._until = None

    async def pause(self, problem: ServiceError) -> None:
        """Wait before the next attempt; a full queue may last as long as it likes.

        Raises:
            ServiceError: the `problem`, when the time is up.
        """
        if isinstance(problem, ServiceFull):
            await asyncio.sleep(max(FIRST_PAUSE, problem.retry_after))
            return
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._timeout
        if now >= self._until:
            raise problem
        await asyncio.sleep(min(self._pause, self._until - now))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def error_of(reply: Reply) -> ServiceError:
    """The error that an answer tells of."""
    try:
        view = msgspec.json.decode(reply.body, type=ErrorView)
    except msgspec.DecodeError:
        view = ErrorView("", reply.body[:200].decode(errors="replace"))
    kind = ERRORS.get(view.error) or _BY_STATUS.get(reply.status, ServiceError)
    error = kind(view.message or f"the service answered with status {reply.status}")
    if isinstance(error, ServiceFull):
        error.retry_after = view.retry_after or _seconds(reply.headers.get(b"retry-after")) or 1.0
    if isinstance(error, errors.KeyConflict):
        error.id = view.id or ""
    return error


def _seconds(text: bytes | None) -> float | None:
    try:
        return float(text or b"")
    except ValueError:
        return None


def path_of(job: str, part: str = "") -> str:
    """``/v1/jobs/ID`` and what comes after it."""
    return f"/v1/jobs/{quote(job, safe='')}{part}"
