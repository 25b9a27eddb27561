"""Ask the running service, one request after the other, over its unix socket or TCP: `Desk`.

Blocking, with the standard library's client: a command asks once or twice and ends. Programs use `aj.connect`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from asyncjobs.cli.doors import TOKEN, Door, door_of
from asyncjobs.cli.place import Where
from asyncjobs.service import errors
from asyncjobs.service.protocol import ErrorView, Health

Answer = TypeVar("Answer")

PATIENCE = 30.0
"""Seconds for one answer: the service promises 10."""
LIVELY = 60.0
"""Seconds for the next piece of a stream: the service says four times as often that it lives."""
_PIECE = 65536
_CHANGING = {"X-Asyncjobs": "1", "Content-Type": "application/json"}


class Unanswered(errors.ServiceGone):
    """The connection broke: whether the request was heard is not known."""


class News(NamedTuple):
    """One event of a stream (SSE)."""

    kind: str
    id: str
    """What Last-Event-ID takes to go on behind it."""
    text: str


class Desk:
    """The HTTP API of one service. Everything raises `ServiceError`s."""

    def __init__(self, where: Where) -> None:
        self.door: Door = door_of(where)

    def is_there(self) -> bool:
        """Whether the service, or one that was started in its place, answers."""
        try:
            self.door.find()
            self.get_raw("/health")
        except (errors.ServiceGone, errors.ServiceNotRunning):
            return False
        return True

    def pid(self) -> int | None:
        """Of the service that answers now; None: nobody does."""
        try:
            return self.get("/health", Health).pid
        except (errors.ServiceGone, errors.ServiceNotRunning):
            return None

    def get(self, path: str, kind: type[Answer], **query: object) -> Answer:
        """Decode the answer to ``GET path?query``; None and empty values of `query` are left out."""
        return msgspec.json.decode(self.get_raw(path, **query), type=kind)

    def get_raw(self, path: str, **query: object) -> bytes:
        """The body of the answer, as it came; empty for 204."""
        return self._ask("GET", _target(path, query), None)

    def post(self, path: str, body: msgspec.Struct | None = None, patience: float = PATIENCE) -> bytes:
        """Send a message, give the body of the answer, which has to come within `patience` seconds."""
        return self._ask("POST", path, msgspec.json.encode(body) if body is not None else b"{}", patience)

    def delete(self, path: str) -> bytes:
        """The body of the answer to ``DELETE path``."""
        return self._ask("DELETE", path, b"{}")

    @contextmanager
    def stream(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        patience: float | None = LIVELY,
        body: msgspec.Struct | None = None,
        **query: object,
    ) -> Iterator[Stream]:
        """An answer that comes piece by piece, on a connection of its own, with at most `patience` seconds
        between them; to a message, if there is a `body`."""
        sent = {**self.door.headers, **(headers or {}), **(_CHANGING if body is not None else {})}
        with closing(self.door.connect(PATIENCE)) as connection:
            with self._told():
                method, content = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
                connection.request(method, _target(path, query), content, sent)
                answer = connection.getresponse()
                refused = answer.read() if answer.status >= 400 else b""
            if answer.status >= 400:
                raise self._refusal(answer.status, refused)
            assert connection.sock is not None
            connection.sock.settimeout(patience)
            yield Stream(answer, self.door.place)

    def _ask(self, method: str, target: str, body: bytes | None, patience: float = PATIENCE) -> bytes:
        changing = _CHANGING if body is not None else {}
        # A connection each: one that was kept while a job was followed for an hour would be closed by now.
        with closing(self.door.connect(patience)) as connection, self._told():
            connection.request(method, target, body, {**self.door.headers, **changing})
            answer = connection.getresponse()
            found = answer.read()
        if answer.status >= 400:
            raise self._refusal(answer.status, found)
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        with _told(self.door.place):
            yield

    def _refusal(self, status: int, body: bytes) -> errors.ServiceError:
        error = refusal(status, body)
        if isinstance(error, errors.NotAuthorized):
            return errors.NotAuthorized(f"{self.door.place}: {error}; its token comes by --token-file or {TOKEN}")
        return error


@contextmanager
def _told(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise Unanswered(f"{place}: the service stopped answering: {error or type(error).__name__}") from None


class Stream:
    """The pieces of an answer as they come."""

    def __init__(self, answer: http.client.HTTPResponse, place: str) -> None:
        self._answer = answer
        self._place = place
        self.headers: http.client.HTTPMessage = answer.headers

    def pieces(self) -> Iterator[bytes]:
        """Blocks until there is something; ends when the service ends the answer."""
        while True:
            with _told(self._place):
                piece = self._answer.read1(_PIECE)
            if not piece:
                return
            yield piece

    def news(self) -> Iterator[News]:
        """The pieces read as events; comments that only keep the connection alive are left out."""
        fields: dict[str, str] = {}
        for line in self.lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = f"{fields[name]}\n{value[1:]}" if name in fields else value.removeprefix(" ")
                continue
            if "data" in fields:
                yield News(fields.get("event", "message"), fields.get("id", ""), fields["data"])
            fields = {}

    def lines(self) -> Iterator[str]:
        """The pieces read as lines."""
        held = b""
        for piece in self.pieces():
            *whole, held = (held + piece).split(b"\n")
            yield from (line.rstrip(b"\r").decode() for line in whole)


def job_path(id: str, *more: str) -> str:  # what the API calls it
    """``/v1/jobs/ID/more``."""
    return "/v1/jobs/" + "/".join(quote(part, safe="") for part in (id, *more))


def refusal(status: int, body: bytes) -> errors.ServiceError:
    """The error that an answer from 400 on stands for."""
    try:
        view = msgspec.json.decode(body, type=ErrorView)
    except msgspec.DecodeError:
        return errors.ServiceError(f"the service answered {status}: {body[:200]!r}")
    error: errors.ServiceError = named(view.error)(view.message)
    if isinstance(error, errors.ServiceFull) and view.retry_after is not None:
        error.retry_after = view.retry_after
    if isinstance(error, errors.KeyConflict) and view.id is not None:
        error.id = view.id
    return error


def named(error: str) -> type[errors.ServiceError]:
    """The class of that name."""
    kind = getattr(errors, error, errors.ServiceError)
    return kind if isinstance(kind, type) and issubclass(kind, errors.ServiceError) else errors.ServiceError


def loaded(body: bytes) -> Any:
    """An answer as plain values, with whatever a newer service says beyond what we know."""
    return json.loads(body)


def _target(path: str, query: dict[str, object]) -> str:
    given = {name.rstrip("_"): value for name, value in query.items() if value is not None and value not in ("", ())}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path
