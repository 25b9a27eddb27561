"""What a browser asks for, who may ask, and how an answer begins: as much of HTTP as one page needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import compare_digest
from typing import NamedTuple

HOST = "127.0.0.1"
NAMES = frozenset({HOST, "localhost"})
"""What a browser of this machine calls us; a page of somebody else's that points its own name here does not."""
LONGEST = 16 * 1024
"""Bytes of a request."""

# Nothing is loaded, sent or framed from or to anywhere else. Plotly's WebGL traces compile code, so eval stays allowed
# to our own scripts, as do the styles that plotly.js writes; saving a picture goes through data and blob addresses.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "Connection": "close",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    # The address holds the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def answer(status: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer."""
    return _head(status, {"Cache-Control": "no-store", "Content-Length": str(len(body)), **(headers or {})}) + body


def _head(status: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in {**_ALWAYS, **headers}.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


STREAM = _head("200 OK", {"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
NOT_CHANGED = _head("304 Not Modified", {})


class File(NamedTuple):
    """Something that is served as it is."""

    body: bytes
    headers: Mapping[str, str]

    def answer(self) -> bytes:
        """The whole answer."""
        return answer("200 OK", self.body, self.headers)


@dataclass(frozen=True, slots=True)
class Request:
    """What a browser asks for: ``/TOKEN/name``."""

    method: str
    token: str
    name: str
    headers: Mapping[str, str]
    """Names in small letters."""

    @classmethod
    def parse(cls, text: bytes) -> Request:
        """A request's head.

        Raises:
            ValueError: it is none.
        """
        first, *lines = text.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        token, _, name = path.partition("?")[0].removeprefix("/").partition("/")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return cls(method, token, name, headers)

    def refusal(self, token: str) -> str | None:
        """Why it gets nothing; None: it may ask."""
        if self.headers.get("host", "").partition(":")[0] not in NAMES:
            return "421 Misdirected Request"
        if not compare_digest(self.token.encode(), token.encode()):
            return "404 Not Found"
        return None if self.method == "GET" else "405 Method Not Allowed"

    def has(self, file: File) -> bool:
        """Whether the browser has kept it from another time."""
        return self.headers.get("if-none-match") == file.headers["ETag"]
