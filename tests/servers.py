"""A real web server on this machine that answers as a test has written down."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    """Monotonic seconds."""


class Answer(NamedTuple):
    """What goes back."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


STALL = Answer(-1)
"""No answer until the server ends."""
RESET = Answer(-2)
"""The connection is reset."""


class Server:
    """Answers each request with what `answer` makes of it; keeps them all, in their order."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.is_over = threading.Event()
        self.answer = answer
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.is_over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def serving(*script: Answer) -> Iterator[Server]:
    """A server that gives these answers one by one, and 200 after that."""
    answers = list(script)
    with answering(lambda _: answers.pop(0) if answers else Answer()) as server:
        yield server


@contextmanager
def answering(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    """A server that answers each request with what the function returns for it."""
    server = Server(answer)
    server.start()
    try:
        yield server
    finally:
        server.close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers), body, time.monotonic())
            server.requests.append(request)
            self._reply(server.answer(request))

        do_GET = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815  # http.server's names

        def _reply(self, answer: Answer) -> None:
            if answer is STALL:
                server.is_over.wait()
            elif answer is RESET:  # closing with a linger of 0 resets
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RD)
                self.connection.close()
            else:
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None: ...

    return Handler
