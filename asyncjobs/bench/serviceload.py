"""Requests that submit one job each, over several connections at once: by wrk where it is installed, else by ourselves.

wrk speaks TCP, our own generator the service's unix socket too. Each connection asks again when it has its answer.
"""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

BODY = '{"function":"asyncjobs.bench.tiny:echo","args":[1]}'
PATH = "/v1/jobs"
_CREATED = b"HTTP/1.1 201"
_LENGTH = re.compile(rb"content-length: (\d+)\r\n(?:[^\r]+\r\n)*\r\n", re.IGNORECASE)


class Load(NamedTuple):
    """What came of it."""

    rate: float
    """Answers per second."""
    accepted: int
    """Answers, each of them 201."""


def has_wrk() -> bool:
    """Whether wrk can be called."""
    return shutil.which("wrk") is not None


def wrk(url: str, token: str, connections: int, seconds: float) -> Load:
    """One thread of wrk.

    Raises:
        RuntimeError: an answer was not 201, or none came.
    """
    headers = {"Content-Type": "application/json", "X-Asyncjobs": "1", "Authorization": f"Bearer {token}"}
    script = f"wrk.method = 'POST'\nwrk.body = '{BODY}'\n"
    script += "".join(f"wrk.headers['{name}'] = '{value}'\n" for name, value in headers.items())
    # The token is a secret: in a file that is ours alone, not among the arguments that everybody sees.
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", file.name, url + PATH]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"wrk: {text.strip()[-200:]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    if rate is None or count is None:
        raise RuntimeError(f"wrk: {text.strip()[-200:]}")
    return Load(float(rate[1]), int(count[1]))


def over_tcp(url: str, token: str, connections: int, seconds: float) -> Load:
    """Our own generator, over TCP."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    address = (where.hostname, where.port)
    request = _request(where.netloc, f"Authorization: Bearer {token}\r\n")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(address)) for _ in range(connections)]
        return _load(sockets, request, seconds)


def over_socket(path: Path, connections: int, seconds: float) -> Load:
    """Our own generator, over the unix socket."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(connections)]
        for one in sockets:
            one.connect(str(path))
        return _load(sockets, _request("localhost", ""), seconds)


def _request(host: str, headers: str) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\n{headers}X-Asyncjobs: 1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()


def _load(sockets: list[socket.socket], request: bytes, seconds: float) -> Load:
    accepted = 0
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
            one.sendall(request)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for key, _ in selector.select(1.0):
                assert isinstance(key.fileobj, socket.socket)
                _take_answer(key.fileobj)
                accepted += 1
                key.fileobj.sendall(request)
        elapsed = time.perf_counter() - began
    for one in sockets:
        _take_answer(one)  # what is under way is accepted too, but not counted
    return Load(accepted / elapsed, accepted)


def _take_answer(one: socket.socket) -> None:
    answer = one.recv(65536)
    while not (found := _LENGTH.search(answer)) or len(answer) < found.end() + int(found[1]):
        more = one.recv(65536)
        if not more:
            raise RuntimeError(f"the service closed a connection after {answer[:200]!r}")
        answer += more
    if not answer.startswith(_CREATED):
        raise RuntimeError(f"the service answered {answer[:200]!r}")
