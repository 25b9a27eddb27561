"""Decide who may come in, before anything is routed: one function for every request at every door.

The order is that of the security model: host, origin, fetch site, method, token, content type, size.
Each is a list of what is allowed; whatever is not on it stays outside. It is no use to look for browsers
by their name: a page may choose it.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.message import Peer, Refusal, Request, retry_after

METHODS: frozenset[str] = frozenset({"GET", "HEAD", "POST", "DELETE"})
CHANGING: frozenset[str] = frozenset({"POST", "DELETE"})
SINGLE: frozenset[bytes] = frozenset(
    {
        *(b"host", b"authorization", b"content-length", b"content-type", b"transfer-encoding"),
        *(b"origin", b"sec-fetch-site", b"last-event-id", b"x-asyncjobs"),
    }
)
"""Headers that two of in one request make ambiguous."""

_FETCH_SITES = frozenset({b"same-origin", b"none"})
_MEDIA_TYPES = frozenset({b"application/json", b"application/json;charset=utf-8"})
_PEERS_KEPT = 1024


class Door(NamedTuple):
    """One way in, and what it demands."""

    name: str
    hosts: frozenset[bytes]
    """What ``Host`` may say, lower case, with the port."""
    scheme: bytes
    """``http`` or ``https``: the front of an origin that is ours."""
    token: bytes | None
    """None: the kernel has told who it is (unix socket)."""


class Guesses:
    """How many wrong tokens each address has sent lately."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._wrong: dict[str, tuple[int, float]] = {}

    def wrong(self, peer: str) -> float:
        """Note one more; the seconds to wait before it is told."""
        now = self._clock()
        count, at = self._wrong.pop(peer, (0, now))
        count = 1 if now - at > self._limits.guess_memory else count + 1
        if len(self._wrong) >= _PEERS_KEPT:
            del self._wrong[next(iter(self._wrong))]  # the one that has been quiet the longest
        self._wrong[peer] = (count, now)
        return self._limits.guess_delay if count > self._limits.guesses else 0.0


class Gate:
    """The one gate. `check` is a plain call that never waits; a delay is for the connection to keep."""

    def __init__(self, limits: Limits, guesses: Guesses) -> None:
        self._limits = limits
        self._guesses = guesses

    def check(self, door: Door, request: Request) -> Refusal | None:
        """None: it may come in. Its body has not been read yet."""
        return (
            _of_target(request)
            or _of_host(door, request.headers)
            or _of_origin(door, request.headers)
            or _of_method(request)
            or self._of_token(door, request.headers, request.peer)
            or _of_content(request)
            or self._of_size(request.headers)
        )

    def _of_token(self, door: Door, headers: dict[bytes, bytes], peer: Peer) -> Refusal | None:
        if door.token is None:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), door.token):
            return None
        delay = self._guesses.wrong(peer.label) if given else 0.0
        message = "send the token of the state directory as Authorization: Bearer TOKEN"
        return Refusal(401, "NotAuthorized", message, (("WWW-Authenticate", 'Bearer realm="asyncjobs"'),), delay)

    def _of_size(self, headers: dict[bytes, bytes]) -> Refusal | None:
        if int(headers.get(b"content-length", b"0")) > self._limits.body:
            return too_large(self._limits)
        return None


def too_large(limits: Limits) -> Refusal:
    """413"""
    return Refusal(413, "BadRequest", f"this request's body is too large; it may have {limits.body:,} bytes")


def too_much_at_once(limits: Limits) -> Refusal:
    """503: the bodies of all callers together."""
    return Refusal(503, "ServiceGone", f"requests of {limits.held} bytes are on their way already", retry_after(1))


def _of_target(request: Request) -> Refusal | None:
    # An absolute target names a host of its own, beside that of the header that is checked.
    if not request.target.startswith(b"/") or request.target.startswith(b"//"):
        return Refusal(400, "BadRequest", "the target has to be a path")
    return None


def _of_host(door: Door, headers: dict[bytes, bytes]) -> Refusal | None:
    host = headers.get(b"host")
    if not host:
        return Refusal(400, "BadRequest", "no Host header")
    if host.lower() not in door.hosts:
        return Refusal(403, "NotAllowed", "this Host is not one of the service's own")
    return None


def _of_origin(door: Door, headers: dict[bytes, bytes]) -> Refusal | None:
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() != door.scheme + b"://" + headers[b"host"].lower():
        return Refusal(403, "NotAllowed", "not from another origin")
    if headers.get(b"sec-fetch-site", b"none").lower() not in _FETCH_SITES:
        return Refusal(403, "NotAllowed", "not from another site")
    return None


def _of_method(request: Request) -> Refusal | None:
    if request.method not in METHODS:
        return Refusal(405, "BadRequest", "the method is not allowed", (("Allow", ", ".join(sorted(METHODS))),))
    return None


def _of_content(request: Request) -> Refusal | None:
    """What a page of another site cannot send without asking first: a custom header and JSON."""
    headers = request.headers
    has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
    if b"transfer-encoding" in headers and b"content-length" in headers:  # whatever the parser's version lets through
        return Refusal(400, "BadRequest", "two lengths of one body")
    if request.method in CHANGING and headers.get(b"x-asyncjobs") != b"1":
        return Refusal(403, "NotAllowed", "a request that changes something needs the header X-Asyncjobs: 1")
    if has_body and headers.get(b"content-type", b"").lower().replace(b" ", b"") not in _MEDIA_TYPES:
        return Refusal(415, "BadRequest", "Content-Type has to be application/json")
    return None


def own_hosts(names: Iterable[str], port: int) -> frozenset[bytes]:
    """The values of Host that mean the service itself on this port."""
    return frozenset(f"{name}:{port}".lower().encode() for name in names)
