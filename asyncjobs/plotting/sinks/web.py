"""A web server: the page or its JSON by PUT or POST."""

from __future__ import annotations

import base64
import email.utils
import time
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from functools import cache
from typing import IO

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.page import check_plotly, page
from asyncjobs.plotting.sinks.base import Refused

TIMEOUT = 30.0
"""Seconds without a byte from the server after which a try has failed."""

LONGEST_ANSWER = 65536
"""Bytes of an answer that are read."""

FINAL = frozenset({300, 301, 302, 303, 400, 401, 403, 404, 405, 410, 411, 413, 414, 415, 422, 501})
"""Answers that would be the same at a second try."""


class WebAddress:
    """An address that takes editions: the HTML page if its path ends in ``.html``, else JSON.

    The JSON is ``{"plot": id, "title": text, "number": n, "figures": {name: figure}}``. ``?method=POST`` in the address
    posts instead of putting, and is not sent. Each edition has an ``Idempotency-Key`` of its own, which is the same at
    every try. User and password in the address become an ``Authorization`` header.

    A redirect by 307 or 308 is followed, to another host without that header. Others ask for a GET, and are refusals.
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
        if self._is_page:
            check_plotly(self.target)

    def send(self, edition: Edition) -> None:
        body, kind = self._body(edition)
        headers = {"Content-Type": kind, "Idempotency-Key": edition.key, **self._headers}
        request = urllib.request.Request(self._address, body, headers, method=self._method)
        try:
            with _opener().open(request, timeout=TIMEOUT) as answer:
                answer.read(LONGEST_ANSWER)  # of which nothing is needed, but a connection is not broken off for it
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None

    def _body(self, edition: Edition) -> tuple[bytes, str]:
        if self._is_page:
            return page(edition.title, edition.figures, inline=False).encode(), "text/html; charset=utf-8"
        return edition.to_json().encode(), "application/json"

    def close(self) -> None:
        """Nothing is open."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Sends the same again to where a server says; urllib's own would send a GET, and the password, to anywhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if code not in (307, 308) or after.scheme not in ("https", before.scheme):
            return None  # an error like any other
        place = urllib.parse.urlunsplit(after._replace(netloc=after.netloc.rpartition("@")[2]))
        again = urllib.request.Request(place, req.data, req.headers, method=req.get_method())
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            again.remove_header("Authorization")
        return again


@cache
def _opener() -> urllib.request.OpenerDirector:
    """At first need, for it loads the certificates that the system trusts."""
    return urllib.request.build_opener(_Redirects)


def _refusal(error: urllib.error.HTTPError) -> Refused:
    place = error.headers.get("Location")
    reason = str(error.reason).partition("\n")[0]  # of a loop it takes three lines
    text = f"the server answered {error.code} {reason}" + (f", to {shown(place)}" if place else "")
    return Refused(text, retry_after(error.headers.get("Retry-After")), is_final=error.code in FINAL)


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
