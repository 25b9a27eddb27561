"""Turn bytes into requests, and refuse those that are too long or may not come in, as early as that can be known.

Parsed by httptools (llhttp, strict). What is refused is not kept: memory stays flat however much is sent.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from asyncjobs.service.http.gate import SINGLE, Door, Gate, too_large, too_much_at_once
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.message import Peer, Refusal, Request


class Held:
    """Bytes of bodies that are in memory, over all connections."""

    __slots__ = ("nbytes",)

    def __init__(self) -> None:
        self.nbytes: int = 0


class Taker(Protocol):
    """Who gets what the reader reads."""

    def began(self) -> None:
        """The first byte of a request has come."""

    def take(self, request: Request) -> None:
        """A whole request."""

    def refuse(self, refusal: Refusal) -> None:
        """No further request comes."""

    def go_on(self) -> None:
        """The caller asks whether it is to send the body."""


class Reader:
    """Reads one connection. `feed` is all that its owner calls; the rest is called by the parser."""

    def __init__(self, taker: Taker, limits: Limits, gate: Gate, held: Held, door: Door, peer: Peer) -> None:
        self.request: Request | None = None
        """The one that is being read."""
        self.is_deaf: bool = False
        """What still comes is dropped: no further request is read."""
        self._taker = taker
        self._limits = limits
        self._gate = gate
        self._door = door
        self._peer = peer
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []
        self._head = 0
        """Bytes of the head's lines that are whole."""
        self._received = 0
        """Bytes of the request; those of the chunk in which it began not, if it was not the first there."""
        self._begun = 0
        """Requests that began in this chunk."""
        self._all_held = held
        self._held = 0

    def feed(self, data: bytes) -> None:
        """Take what came."""
        if self.is_deaf:
            return
        request = self.request
        self._begun = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_deaf = True  # the request itself is answered, in HTTP
            return
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, "BadRequest", f"this is no HTTP/1.1: {error}"))
            return
        now = self.request
        if now is not None and (now is request or (request is None and self._begun == 1)):
            self._received += len(data)
            # The parser tells nothing of a header, a trailer or a chunk's size before it is whole.
            # A body in chunks of one byte each is six times as long on the wire.
            if self._received - now.size > 2 * self._limits.head + 8 * now.size:
                self._refuse(_head_is_too_long(self._limits))

    def release(self, request: Request | None = None) -> None:
        """The body of a request, or of all, is needed no more."""
        nbytes = self._held if request is None else min(request.size, self._held)
        self._held -= nbytes
        self._all_held.nbytes -= nbytes

    def _refuse(self, refusal: Refusal) -> None:
        if not self.is_deaf:
            self.is_deaf = True
            self._parts = []
            self._taker.refuse(refusal)

    # --- called by the parser -----------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self.is_deaf:
            self.request = Request(self._peer)
            self._head = self._received = 0
            self._begun += 1
            self._taker.began()

    def on_url(self, target: bytes) -> None:
        request = self.request
        if request is not None and not self.is_deaf:
            request.target += target
            if len(request.target) > self._limits.line:
                self._refuse(Refusal(414, "BadRequest", f"a target may have {self._limits.line} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.request
        if request is None or self.is_deaf:
            return
        self._head += len(name) + len(value)
        name = name.lower()
        headers = request.headers
        if name in headers and name in SINGLE:
            self._refuse(Refusal(400, "BadRequest", f"two headers {name.decode('latin-1')}"))
            return
        if not request.method:  # what comes after the body means nothing here
            headers[name] = value
        request.lines += 1
        if request.lines > self._limits.headers or self._head > self._limits.head:
            self._refuse(_head_is_too_long(self._limits))

    def on_headers_complete(self) -> None:
        request = self.request
        if request is None or self.is_deaf:
            return
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        path, _, query = request.target.partition(b"?")
        request.path, request.query = path.decode("latin-1"), query.decode("latin-1")
        refusal = self._gate.check(self._door, request)
        if refusal is not None:
            self._refuse(refusal)
        elif b"expect" in request.headers and request.headers[b"expect"].lower() == b"100-continue":
            self._taker.go_on()

    def on_body(self, data: bytes) -> None:
        request = self.request
        if request is None or self.is_deaf:
            return
        size = len(data)
        request.size += size
        self._held += size
        self._all_held.nbytes += size
        if request.size > self._limits.body:
            self._refuse(too_large(self._limits))
        elif self._all_held.nbytes > self._limits.held:
            self._refuse(too_much_at_once(self._limits))
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        request = self.request
        if request is None or self.is_deaf:
            return
        parts = self._parts
        if parts:
            request.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
        self.request = None
        if not self._parser.should_keep_alive():
            self.is_deaf = True
        self._taker.take(request)


def _head_is_too_long(limits: Limits) -> Refusal:
    return Refusal(431, "BadRequest", f"the head may have {limits.head} bytes in {limits.headers} headers")
