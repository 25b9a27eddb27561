"""What goes between a connection and a handler: requests, answers, streams, refusals; and their bytes.

Every answer carries the same guarding headers, so that no handler can forget one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from typing import NamedTuple

import msgspec

from asyncjobs.service.protocol import MEDIA_TYPE, ErrorView

STRICT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The policy of an answer that is no page."""

GUARDS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)

Headers = tuple[tuple[str, str], ...]

_NO_CONTENT = 204


class Peer(NamedTuple):
    """Who is at the other end, as far as the kernel tells."""

    label: str
    """``pid 4121`` or an address: what caps and logs go by."""
    is_local: bool
    """At the unix socket."""


class Request:
    """One request. `headers` have lower-case names; those that may come once only did."""

    __slots__ = ("body", "headers", "lines", "method", "path", "peer", "query", "route", "size", "target", "version")

    def __init__(self, peer: Peer) -> None:
        self.peer: Peer = peer
        self.method: str = ""
        self.version: str = ""
        self.target: bytes = b""
        self.path: str = ""
        self.query: str = ""
        self.headers: dict[bytes, bytes] = {}
        self.route: str = ""
        """The name of the route that answers it; empty while none was found."""
        self.lines: int = 0
        """Headers, those after the body too."""
        self.body: bytes = b""
        self.size: int = 0
        """Bytes of the body so far."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes = b""
    media: str = MEDIA_TYPE
    headers: Headers = ()
    policy: str = STRICT


class Stream(NamedTuple):
    """An answer that goes on: what `parts` gives is sent as it comes; it is closed when the caller goes."""

    parts: AsyncGenerator[bytes, None]
    media: str
    headers: Headers = ()
    length: int | None = None
    """How many bytes it will be, if that is known."""


class Refusal(NamedTuple):
    """A request that no handler sees; the connection ends with it."""

    status: int
    error: str
    message: str
    headers: Headers = ()
    delay: float = 0.0
    """Seconds before it is told."""

    def answer(self) -> Answer:
        return Answer(self.status, error_body(self.error, self.message), headers=self.headers)


def error_body(error: str, message: str, *, retry_after: float | None = None, job: str | None = None) -> bytes:
    """An `ErrorView` as JSON."""
    return msgspec.json.encode(ErrorView(error=error, message=message, retry_after=retry_after, id=job))


def retry_after(seconds: float) -> Headers:
    """Whole seconds, rounded up."""
    return (("Retry-After", str(max(1, ceil(seconds)))),)


@lru_cache(maxsize=256)
def _first_lines(status: int, media: str, headers: Headers, policy: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    if media:
        lines.append(f"Content-Type: {media}")
    lines += [f"{name}: {value}" for name, value in (*headers, ("Content-Security-Policy", policy), *GUARDS)]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError(f"a line break in a header of {headers!r}")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_DATE = _Date()


def head_of(answer: Answer, *, closes: bool) -> bytes:
    """Status line and headers of an answer, with the empty line."""
    has_body = answer.status != _NO_CONTENT
    length = b"Content-Length: %d\r\n" % len(answer.body) if has_body else b""
    first = _first_lines(answer.status, answer.media if has_body else "", answer.headers, answer.policy)
    return b"".join((first, _DATE.line(), length, b"Connection: close\r\n\r\n" if closes else b"\r\n"))


def head_of_stream(stream: Stream, *, is_chunked: bool) -> bytes:
    """The same for a stream; without chunks it ends with the connection."""
    first = _first_lines(200, stream.media, stream.headers, STRICT)
    if stream.length is not None:
        framing = b"Content-Length: %d\r\n\r\n" % stream.length
    else:
        framing = b"Transfer-Encoding: chunked\r\n\r\n" if is_chunked else b"Connection: close\r\n\r\n"
    return b"".join((first, _DATE.line(), framing))
