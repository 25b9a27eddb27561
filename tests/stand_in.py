"""A small service that is real HTTP and nothing else: it keeps jobs in memory and runs them in this process.

For tests of the client alone. `Stand` speaks `protocol` over a unix socket in a thread; it can be stopped and
started again with what it accepted, refuse, and hold its answers back.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import httptools
import msgspec

from asyncjobs.service import envelope, outcome
from asyncjobs.service.access import Address, StateDir
from asyncjobs.service.protocol import (
    PYTHON,
    AcceptedAnswer,
    CancelRequest,
    CancelView,
    Ended,
    ErrorView,
    EventView,
    Health,
    JobRequest,
    JobsAnswer,
    JobsRequest,
    JobView,
    ListAnswer,
    OutcomesAnswer,
    OutcomesRequest,
    ProgressView,
)
from asyncjobs.wire import codec, failure

Answer = tuple[int, Any]


class Row:
    """A job."""

    def __init__(self, request: JobRequest, seq: int) -> None:
        self.request = request
        self.seq = seq
        self.state = "QUEUED"
        self.note = ""
        self.outcome = b""
        self.log = b""

    def ended(self) -> Ended:
        """As the stream tells it."""
        return Ended(self.request.id, self.state, self.note, 1, self.outcome)

    def view(self) -> JobView:
        """As a list shows it."""
        request = self.request
        return JobView(
            id=request.id,
            seq=self.seq,
            name=request.name,
            function=request.function,
            lane=request.lane,
            state=self.state,
            priority=request.priority,
            attempt=1,
            failures=0,
            crashes=0,
            submitted_at=time.time(),
            progress=ProgressView(1.0, 2.0, "half"),
        )


class Stand:
    """The service. Its fields may be changed from the test's thread."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir.open(folder, create=True)
        self.key = self.state.key()
        self.rows: dict[str, Row] = {}
        self.requests: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.holds = threading.Event()
        """While it is not set, nothing is run."""
        self.holds.set()
        self.refusal: Callable[[str, JobRequest | None], tuple[int, ErrorView] | None] = lambda path, job: None
        self.breaks: Callable[[str], bool] = lambda path: False
        """Whether to close the connection in place of an answer."""
        self.faults: list[str] = []
        """What goes wrong with the next answers to submits: see `_Connection._go_wrong`."""
        self.allows = True
        self.python = PYTHON
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve until `stop`."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """End at once, as if killed; jobs that have not ended are run after the next start."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._streams: set[asyncio.Transport] = set()
        self._open: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.state.make_socket_folder()
        path = self.state.socket
        path.unlink(missing_ok=True)
        server = await self._loop.create_unix_server(lambda: _Connection(self), str(path))
        self.state.write_address(Address(os.getpid(), str(path), None, time.time()))
        for row in self.rows.values():
            if row.state == "QUEUED":
                self.begin(row)
        ready.set()
        await self._over.wait()
        server.close()
        path.unlink(missing_ok=True)  # from 3.13 on asyncio does it
        for transport in tuple(self._open):
            transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.sleep(0)

    # --- jobs ---------------------------------------------------------------------------

    def begin(self, row: Row) -> None:
        """Run it soon."""
        task = self._loop.create_task(self._run(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, row: Row) -> None:
        while not self.holds.is_set():
            await asyncio.sleep(0.005)
        for before in row.request.after:
            while self.rows[before].state == "QUEUED":
                await asyncio.sleep(0.005)
        if row.state != "QUEUED":
            return
        row.state, body = self.perform(row)
        row.outcome = self.seal(row, body)
        self.tell(row)

    def seal(self, row: Row, body: bytes) -> bytes:
        """An outcome as it is kept."""
        return envelope.seal(self.key, row.request.id, body)

    def streams(self) -> int:
        """How many listen for ends."""
        return len(self._streams)

    def perform(self, row: Row) -> tuple[str, bytes]:
        """What a worker does."""
        request = row.request
        try:
            body = envelope.open(self.key, request.id, request.payload) if request.payload else b""
            if not body:
                body = outcome.json_call(bytes(request.args or b"[]"), bytes(request.kwargs or b"{}"))
            fn, args, kwargs = outcome.decode_call(body, self._result)
            if fn is None:
                module, _, name = request.function.partition(":")
                fn = codec.resolve(codec.Reference((module, name), None))
            value = fn(*args, **kwargs)
            return "SUCCEEDED", outcome.encode_value(value, as_json=False)
        except BaseException as error:
            return "FAILED", outcome.encode_failure(failure.capture(error))

    def _result(self, job: str) -> Any:
        return outcome.decode_outcome(envelope.open(self.key, job, self.rows[job].outcome))[0]

    def tell(self, row: Row) -> None:
        """Tell who listens that it has ended."""
        line = msgspec.json.encode(row.ended()) + b"\n"
        for transport in tuple(self._streams):
            transport.write(b"%x\r\n%b\r\n" % (len(line), line))

    # --- requests -----------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Answer:
        """Status and body."""
        parts = path.strip("/").split("/")
        if path == "/health":
            return 200, Health("ok", "0", 1, os.getpid(), python=self.python)
        if path == "/v1/jobs" and method == "POST":
            jobs = msgspec.json.decode(body, type=JobsRequest).jobs
            self.sizes.append(len(jobs))
            return self.accept(jobs)
        if path == "/v1/jobs":
            rows = [row for row in self.rows.values() if query.get("state", row.state) == row.state]
            return 200, ListAnswer([row.view() for row in reversed(rows)], None)
        if path == "/v1/outcomes":
            ids = msgspec.json.decode(body, type=OutcomesRequest).ids
            rows = [self.rows[job] for job in ids if job in self.rows]
            ended = [row.ended() for row in rows if row.state != "QUEUED"]
            return 200, OutcomesAnswer(ended, [job for job in ids if job not in self.rows])
        row = self.rows.get(parts[2]) if len(parts) > 2 else None
        if row is None:
            return 404, ErrorView("NoSuchJob", f"there is no job at {path}")
        return self.about(row, parts[3] if len(parts) > 3 else "", query, body)

    def accept(self, jobs: list[JobRequest]) -> Answer:
        """All or none."""
        for job in jobs:
            if not self.allows and job.function:
                return 403, ErrorView("NotAllowed", f"{job.function} is not allowed here")
            refused = self.refusal("/v1/jobs", job)
            if refused is not None:
                return refused
        answers = []
        for job in jobs:
            same = [row for row in self.rows.values() if job.key is not None and row.request.key == job.key]
            row = same[0] if same else self.rows.get(job.id)
            if row is None:
                row = self.rows[job.id] = Row(job, len(self.rows) + 1)
                self.begin(row)
                answers.append(AcceptedAnswer(job.id, "QUEUED", True))
            else:
                answers.append(AcceptedAnswer(row.request.id, row.state, False))
        return 201, JobsAnswer(answers)

    def about(self, row: Row, part: str, query: dict[str, str], body: bytes) -> Answer:
        """One job."""
        if part == "":
            return 200, row.view()
        if part == "outcome":
            return (204, b"") if row.state == "QUEUED" else (200, row.outcome)
        if part == "log":
            return 200, row.log[int(query.get("offset", 0)) :]
        if part == "events":
            events = [
                EventView(1, row.request.id, "submitted", "QUEUED", 0, 1.0),
                EventView(2, row.request.id, row.state.lower(), row.state, 1, 2.0),
            ]
            texts = [(one, msgspec.json.encode(one).decode()) for one in events]
            lines = [f"id: {one.seq}\nevent: {one.kind}\ndata: {text}\n\n" for one, text in texts]
            progress = msgspec.json.encode(ProgressView(1.0, 2.0, "")).decode()
            return 200, (lines[0] + f": comment\n\nevent: progress\ndata: {progress}\n\n" + lines[1]).encode()
        if part == "cancel":
            if row.state != "QUEUED":
                return 200, CancelView("ended", row.state)
            row.state, row.note = "CANCELLED", msgspec.json.decode(body, type=CancelRequest).reason
            self.tell(row)
            return 200, CancelView("cancelled", row.state)
        return 404, ErrorView("NoSuchJob", "nothing lies at this path")


class _Connection(asyncio.Protocol):
    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._stand._open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._stand._open.discard(self._transport)
        self._stand._streams.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url, body = httptools.parse_url(self._url), self._body
        self._url = self._body = b""
        path = url.path.decode()
        query = {name: values[0] for name, values in parse_qs((url.query or b"").decode()).items()}
        method = self._parser.get_method().decode()
        self._stand.requests[f"{method} {path}"] += 1
        if self._stand.breaks(path):
            self._transport.abort()
        elif path == "/v1/ended":
            self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
            self._stand._streams.add(self._transport)
        else:
            self._write(*self._stand.answer(method, path, query, body))

    def _write(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(data)) + data
        if status == 201 and self._stand.faults:
            self._go_wrong(self._stand.faults.pop(0), answer)
        else:
            self._transport.write(answer)

    def _go_wrong(self, fault: str, answer: bytes) -> None:
        if fault == "truncated":
            self._transport.write(answer[:-10])
            self._transport.close()
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        elif fault == "garbage":
            self._transport.write(b"220 mail.example ESMTP\r\n" + answer)
        elif fault == "twice":
            self._transport.write(answer + answer)
        elif fault == "trickle":
            self._trickle(answer)
        elif fault == "closing":
            self._transport.write(answer.replace(b" X\r\n", b" X\r\nConnection: close\r\n", 1))
            self._transport.close()

    def _trickle(self, rest: bytes) -> None:
        if rest and not self._transport.is_closing():
            self._transport.write(rest[:1])
            self._stand._loop.call_soon(self._trickle, rest[1:])


@contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """A service that stands in `folder`."""
    stand = Stand(folder)
    stand.start()
    try:
        yield stand
    finally:
        stand.stop()
