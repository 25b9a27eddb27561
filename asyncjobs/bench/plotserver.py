"""A plot server on the loopback interface that is slow to answer, and the call that uploads to it.

It stands for the real one far away. It keeps what arrived, so that the demo can tell whether every picture did.
``python -m asyncjobs.bench.plotserver SECONDS`` runs one that takes so long to answer, prints its port, and ends with
its standard input: in a process of its own it costs the one that is measured nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple

ANSWER_SECONDS = 0.25
"""How long the server takes to answer an upload."""


class Arrival(NamedTuple):
    """One upload as the server saw it."""

    path: str
    nbytes: int


class Uploaded(NamedTuple):
    """When an upload began and when its answer was there, by `time.perf_counter`."""

    started: float
    ended: float


def _take_long() -> None:
    time.sleep(ANSWER_SECONDS)


class PlotServer:
    """Takes POST and PUT requests until its ``with`` block ends, each on a thread of its own.

    `before_answer` is called on that thread when the request is there, and the answer waits for it.
    """

    def __init__(self, before_answer: Callable[[], object] = _take_long) -> None:
        self._before_answer = before_answer
        self._arrivals: list[Arrival] = []
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1, chosen by the system."""
        if self._server is None:
            raise RuntimeError("the plot server runs only inside its with block")
        return int(self._server.server_address[1])

    def arrived(self, prefix: str = "") -> list[Arrival]:
        """The uploads whose path begins with `prefix`, in the order of their arrival."""
        return [arrival for arrival in self._arrivals if arrival.path.startswith(prefix)]

    def __enter__(self) -> PlotServer:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.arrivals = self._arrivals
        self._server.before_answer = self._before_answer
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="plot-server")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None


def upload(port: int, path: str, body: bytes) -> Uploaded:
    """Send `body` to the server and wait for its answer: a plain blocking call, like most upload libraries have.

    Raises:
        OSError: no server, or it did not take the picture.
    """
    started = time.perf_counter()
    # Not urllib: it would send even this to a proxy that the environment names.
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 204:
        raise OSError(f"the plot server answered {status} to {path}")
    return Uploaded(started, time.perf_counter())


class _Server(ThreadingHTTPServer):
    # The default of 5 drops connections when twenty uploads come at once; each then waits a second.
    request_queue_size = 128
    arrivals: list[Arrival]
    before_answer: Callable[[], object]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.before_answer()
        self.server.arrivals.append(Arrival(self.path, len(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: the terminal belongs to the demo."""


def main(seconds: float) -> None:
    """Serve until standard input ends."""
    with PlotServer(lambda: time.sleep(seconds)) as server:
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(float(sys.argv[1]))
