"""A web server: the page or its JSON by PUT or POST."""

from __future__ import annotations

import base64
import email.utils
import time
import urllib.error
import urllib.parse
import urllib.request

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.page import page
from asyncjobs.plotting.sinks.base import Refused

TIMEOUT = 30.0
"""Seconds without a byte from the server after which a try has failed."""

FINAL = frozenset({400, 401, 403, 404, 405, 410, 411, 413, 414, 415, 422, 501})
"""Answers that would be the same at a second try."""


class WebAddress:
    """An address that takes editions: the HTML page if its path ends in ``.html``, else JSON.

    The JSON is ``{"plot": id, "title": text, "number": n, "figures": {name: figure}}``. ``?method=POST`` in the address
    posts instead of putting, and is not sent. Each edition has an ``Idempotency-Key`` of its own, which is the same at
    every try. User and password in the address become an ``Authorization`` header.
    """

    def __init__(self, address: str) -> None:
        parts = urllib.parse.urlsplit(address)
        self._method = _method(address)
        _check_host(address)
        # Byte for byte as it came: it may be signed.
        query = "&".join(part for part in parts.query.split("&") if not part.startswith("method="))
        place = parts.netloc.rpartition("@")[2]
        self._address = urllib.parse.urlunsplit(parts._replace(netloc=place, query=query))
        self._headers = _credentials(parts)
        self._is_page = parts.path.endswith(".html")
        self.target: str = shown(address)

    def send(self, edition: Edition) -> None:
        body, kind = self._body(edition)
        headers = {"Content-Type": kind, "Idempotency-Key": edition.key, **self._headers}
        request = urllib.request.Request(self._address, body, headers, method=self._method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(
                    f"the server answered {error.code} {error.reason}",
                    retry_after(error.headers.get("Retry-After")),
                    is_final=error.code in FINAL,
                ) from None

    def _body(self, edition: Edition) -> tuple[bytes, str]:
        if self._is_page:
            return page(edition.title, edition.figures, inline=False).encode(), "text/html; charset=utf-8"
        return edition.to_json().encode(), "application/json"

    def close(self) -> None:
        """Nothing is open."""


def _method(address: str) -> str:
    given = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query).get("method", ["PUT"])[-1].upper()
    if given not in ("PUT", "POST"):
        raise ValueError(f"method={given!r} in {shown(address)}: it must be PUT or POST")
    return given


def _check_host(address: str) -> None:
    parts = urllib.parse.urlsplit(address)
    if not parts.hostname:
        raise ValueError(f"{shown(address)} names no host")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{shown(address)}: {error}") from None


def _credentials(parts: urllib.parse.SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = urllib.parse.unquote(parts.username) + ":" + urllib.parse.unquote(parts.password or "")
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}


def shown(address: str) -> str:
    """The address without what may be secret: user, password and query."""
    parts = urllib.parse.urlsplit(address)
    place = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, place, parts.path, "", ""))


def retry_after(text: str | None) -> float | None:
    """Seconds to wait, from a number of seconds or an HTTP date (RFC 9110, 10.2.3); None if it says neither."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
