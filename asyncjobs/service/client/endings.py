"""Hear of the ends of jobs: one stream for all that are waited for.

1. A stream is open from some moment on: whatever ends later is told by it. Jobs that were sent after that
moment are *covered* by it.
2. Of jobs that are not, the service is asked once, after the stream has begun: what ended before, the answer
says; what ends later, the stream. Nothing falls between the two.
3. A stream that breaks covers nothing any more: the next one begins with that question for every job that is
waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from asyncjobs.futures import fail, resolve
from asyncjobs.service.client.api import Api, Patience
from asyncjobs.service.client.transport import SILENCE
from asyncjobs.service.errors import NoSuchJob, ServiceError, ServiceGone
from asyncjobs.service.protocol import OutcomesRequest

LINGER = 5.0
"""Seconds that the stream stays open after the last that waited."""
UNWANTED = 16
"""Ends that are told while nobody waits, before the stream is closed: each costs the service and us a message."""
ASKED_AT_ONCE = 500


class EndedLine(msgspec.Struct, frozen=True):
    """`protocol.Ended`, with the outcome left as it came: most lines may be of jobs that others submitted."""

    id: str = ""
    state: str = ""
    note: str = ""
    attempt: int = 0
    outcome: msgspec.Raw = msgspec.Raw(b"null")


class OutcomesLines(msgspec.Struct, frozen=True):
    """`protocol.OutcomesAnswer`, in the same way."""

    ended: list[EndedLine]
    unknown: list[str]


_line = msgspec.json.Decoder(EndedLine)
_answer = msgspec.json.Decoder(OutcomesLines)


class Waited(Protocol):
    """A job, as far as its end is concerned."""

    covered: object

    @property
    def id(self) -> str: ...
    def done(self) -> bool: ...
    def settle(self, line: EndedLine) -> None: ...


class Endings:
    """Tells jobs that they have ended."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: WeakValueDictionary[str, Waited] = WeakValueDictionary()
        self._waiting: dict[str, list[tuple[Waited, asyncio.Future[None]]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """The same, and those before it that are about to end."""
        self._asking: asyncio.Task[None] | None = None
        self._questions: dict[str, None] = {}
        self._leaving: asyncio.TimerHandle | None = None
        self._unwanted = 0
        """Ends that have been told since somebody waited."""
        self.stream: object = None
        """Stands for the stream that is open now; None if there is none."""

    def known(self, job: str) -> Waited | None:
        """The handle of that id that somebody holds."""
        return self._known.get(job)

    def add(self, job: Waited) -> None:
        """Tell `job` of its end, should it come by."""
        before = self._known.get(job.id)
        if before is not None and before is not job:
            before.covered = None  # only the last handle of a job is told while nobody waits: this one has to ask
        self._known[job.id] = job

    async def wait(self, job: Waited) -> None:
        """Wait until `job` has ended.

        Raises:
            NoSuchJob: the service does not know it.
            ServiceGone: the service is away, and has not come back in time.
        """
        if self._known.get(job.id) is None:
            self.add(job)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job.id, []).append((job, future))
        self._attend()
        if self.stream is not None and job.covered is not self.stream:
            self._question((job.id,))
        try:
            await future
        finally:
            self._leave(job, future)

    def _leave(self, job: Waited, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(job.id)
        if waiting is not None and (job, future) in waiting:
            waiting.remove((job, future))
            if not waiting:
                del self._waiting[job.id]
        if not self._waiting and self._leaving is None and self._listening is not None:
            self._leaving = asyncio.get_running_loop().call_later(LINGER, self._stop_listening)

    async def aclose(self) -> None:
        """Listen no more; whoever still waits hears that."""
        if self._leaving is not None:
            self._leaving.cancel()
        tasks = self._tasks if self._asking is None else {*self._tasks, self._asking}
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks))
        self._fail(tuple(self._waiting), ServiceGone("the client was closed; connect again and attach to the job"))

    # --- the stream ---------------------------------------------------------------------

    def _attend(self) -> None:
        """Have a stream open as long as somebody waits."""
        self._unwanted = 0
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
            self._tasks.add(self._listening)
            self._listening.add_done_callback(self._tasks.discard)

    def _stop_listening(self) -> None:
        self._leaving = None
        if self._listening is not None and not self._waiting:
            # Let go of here, not when the task has ended: who comes meanwhile opens another stream.
            listening, self._listening, self.stream = self._listening, None, None
            listening.cancel()

    async def _listen(self) -> None:
        patience = Patience(self._api.timeout)
        try:
            while True:
                try:
                    async with self._api.stream("/v1/ended") as connection:
                        await each_line(connection.chunks(SILENCE), self._take)
                    problem: ServiceError = ServiceGone(f"the service at {self._api.place.name} has ended")
                except ServiceError as error:
                    problem = error
                if self.stream is not None:
                    patience = Patience(self._api.timeout)
                    self.stream = None
                await patience.pause(problem)
        except (ServiceError, msgspec.DecodeError) as error:
            self._fail(tuple(self._waiting), error)
        finally:
            if self._listening is asyncio.current_task():
                self._listening = self.stream = None

    def _take(self, data: bytes) -> None:
        line = _line.decode(data)
        if line.id:
            self._ended(line)
            self._weigh()
        elif self.stream is None:
            self.stream = object()
            self._question(self._waiting)

    def _weigh(self) -> None:
        """Close the stream early if it tells a lot that nobody waits for; who waits later asks."""
        self._unwanted += not self._waiting
        if self._unwanted >= UNWANTED and self._leaving is not None:
            self._leaving.cancel()
            self._stop_listening()

    def _ended(self, line: EndedLine) -> None:
        job = self._known.get(line.id)
        if job is not None and not job.done():
            job.settle(line)
        for waiter, future in self._waiting.pop(line.id, ()):
            if not waiter.done():
                waiter.settle(line)
            resolve(future)

    def _fail(self, jobs: Iterable[str], error: Exception) -> None:
        for job in jobs:
            for _, future in self._waiting.pop(job, ()):
                fail(future, error)

    # --- what was before it -------------------------------------------------------------

    def _question(self, jobs: Iterable[str]) -> None:
        """Ask which of these have ended already."""
        self._questions.update(dict.fromkeys(jobs))
        if self._asking is None and self._questions:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        try:
            while self._questions and self.stream is not None:
                jobs = list(self._questions)[:ASKED_AT_ONCE]
                for job in jobs:
                    del self._questions[job]
                await self._ask_for(jobs)
        finally:
            # Without a stream there is nothing to go on: the next one asks for all of them anew.
            self._questions.clear()
            self._asking = None

    async def _ask_for(self, jobs: list[str]) -> None:
        stream = self.stream
        try:
            body = msgspec.json.encode(OutcomesRequest(jobs))
            answer = _answer.decode((await self._api.ask("POST", "/v1/outcomes", body)).body)
        except (ServiceError, msgspec.DecodeError) as error:
            self._fail(jobs, error)
            return
        for line in answer.ended:
            self._ended(line)
        for job in answer.unknown:
            self._fail((job,), NoSuchJob(f"the service at {self._api.place.name} has no job {job} (any more)"))
        for job in jobs:
            known = self._known.get(job)
            if known is not None:
                known.covered = stream


async def each_line(chunks: AsyncIterator[bytes], take: Callable[[bytes], None]) -> None:
    """Call `take` with each line that is not empty."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                take(line)
