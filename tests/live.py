"""A live page without a browser: its address, and a reader of its news that keeps what it is told."""

from __future__ import annotations

import base64
import copy
import json
import re
import socket
import time
from array import array
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

BOUND = 30.0
"""Seconds after which something that has to come is missed."""


def address_in(text: str) -> str:
    """The page's address that was printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", text)
    assert found, f"no address in {text!r}"
    return found[0]


def printed_address(capsys: pytest.CaptureFixture[str]) -> str:
    """The same, from standard error."""
    return address_in(capsys.readouterr().err)


def ask(address: str, name: str = "", method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    """What the page's server answers; `headers` with _ for -."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.netloc, timeout=BOUND)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, parts.path + name, headers=named)
    answer = connection.getresponse()
    try:
        return answer, answer.read()
    finally:
        connection.close()


def points(trace: dict[str, Any], column: str = "y") -> list[float]:
    """The numbers of a column of doubles."""
    assert trace[column]["dtype"] == "f8"
    return array("d", base64.b64decode(trace[column]["bdata"])).tolist()


class Reader:
    """Reads the news of a page, as a browser would, and keeps its plots by it."""

    def __init__(self, address: str, *, buffer: int | None = None) -> None:
        parts = urlsplit(address)
        self._socket = socket.socket()
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(BOUND)
        self._socket.connect((parts.hostname, parts.port))
        self._socket.sendall(f"GET {parts.path}news HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.is_over: dict[str, bool] = {}
        """By plot, in the order of the page."""
        self.whole: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, int] = {}
        self.kinds: list[str] = []
        """Of the news so far: "whole" or "delta"."""
        self.events = 0

    def __enter__(self) -> Reader:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._file.readline()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def next(self) -> bool:
        """Take in one event; False: the stream has ended."""
        line = self._file.readline()
        if not line:
            return False
        assert line.startswith(b"data: "), line
        assert self._file.readline() == b"\n"
        self.events += 1
        event = json.loads(line[6:])
        for news in event["news"]:
            self._take(news)
        self.is_over = dict(event["plots"])
        assert self.is_over.keys() <= self.whole.keys()
        return True

    def wait_until(self, is_so: Callable[[Reader], object]) -> None:
        """Take in events until `is_so(self)`."""
        end = time.monotonic() + BOUND
        while not is_so(self):
            assert time.monotonic() < end, f"not within {BOUND:g} s; there is {self.whole}"
            assert self.next(), "the stream has ended"

    def trace(self, title: str, name: str) -> dict[str, Any] | None:
        """A curve of the newest plot of that title; None: not there yet."""
        for plot in self.is_over:
            whole = self.whole[plot]
            if whole["title"] == title:
                return next((one for one in whole["figures"][title]["data"] if one["name"] == name), None)
        return None

    def last(self, title: str, name: str) -> float | None:
        """The height of the curve's last point."""
        trace = self.trace(title, name)
        return None if trace is None else points(trace)[-1]

    def _take(self, news: dict[str, Any]) -> None:
        plot = news["plot"]
        if "whole" in news:
            self.kinds.append("whole")
            self.whole[plot] = news["whole"]
        else:
            self.kinds.append("delta")
            assert news["n"] == self.numbers[plot] + 1
            self.whole[plot]["figures"] = changed(self.whole[plot]["figures"], news["delta"])
        self.numbers[plot] = news["n"]


def changed(figures: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """The figures after a delta, as page.js makes them."""
    figures = copy.deepcopy(figures)
    for name, change in delta.items():
        if "whole" in change:
            figures[name] = change["whole"]
            continue
        for number, kept, x, y in change["ends"]:
            trace = figures[name]["data"][number]
            trace["x"], trace["y"] = (_joined(trace[c], kept, rest) for c, rest in (("x", x), ("y", y)))
    return figures


def _joined(old: dict[str, str], kept: int, rest: dict[str, str]) -> dict[str, str]:
    assert old["dtype"] == rest["dtype"]
    first = base64.b64decode(old["bdata"])[: kept * int(old["dtype"][1])]
    return {"dtype": old["dtype"], "bdata": base64.b64encode(first + base64.b64decode(rest["bdata"])).decode()}
