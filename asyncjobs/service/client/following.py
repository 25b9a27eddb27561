"""Follow a job's log or its events as they come, over a restart of the service."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from asyncjobs.service.client.api import Api, Patience, path_of
from asyncjobs.service.client.transport import SILENCE
from asyncjobs.service.errors import ServiceError, ServiceGone, ServiceNotRunning
from asyncjobs.service.protocol import EventView, JobView, ProgressView
from asyncjobs.state import FINAL, JobState

_FINAL = frozenset(state.name for state in FINAL)


async def follow_lines(
    api: Api, accepted: Callable[[], Awaitable[object]], job: str, *, follow: bool, offset: int
) -> AsyncGenerator[str, None]:
    """The lines of a job's log, without their ends."""
    await accepted()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begun: list[str] = []  # of a line, for one without end would be copied with each piece
    async with aclosing(_pieces(api, path_of(job), follow, offset)) as pieces:
        async for piece in pieces:
            first, *others = decoder.decode(piece).split("\n")
            begun.append(first)
            for other in others:
                yield "".join(begun)
                begun = [other]
    begun.append(decoder.decode(b"", final=True))
    if rest := "".join(begun):
        yield rest


async def _pieces(api: Api, path: str, follow: bool, offset: int) -> AsyncGenerator[bytes, None]:
    patience = Patience(api.timeout)
    while True:
        try:
            async with api.stream(f"{path}/log?offset={offset}{'&follow=1' * follow}") as connection:
                patience.answered()
                offset = int(connection.headers.get(b"x-offset", offset))
                async for piece in connection.chunks():
                    offset += len(piece)
                    patience = Patience(api.timeout)
                    yield piece
            # It ends with the job, or with the service: then there is more to come.
            if not follow:
                return
            follow = JobState[(await api.get(path, JobView)).state] not in FINAL
        except (ServiceGone, ServiceNotRunning) as error:
            await api.pause(patience, error)


async def follow_events(
    api: Api, accepted: Callable[[], Awaitable[object]], job: str, after: int
) -> AsyncGenerator[EventView | ProgressView, None]:
    """What happens to a job, until it has ended."""
    await accepted()
    patience = Patience(api.timeout)
    has_ended = False
    while True:
        problem: ServiceError = ServiceGone(f"the service at {api.place.name} has ended")
        try:
            async with api.stream(path_of(job, "/events"), (f"Last-Event-ID: {after}",)) as connection:
                patience.answered()
                async for kind, data in each_event(connection.chunks(SILENCE)):
                    patience = Patience(api.timeout)
                    if kind == "progress":
                        yield msgspec.json.decode(data, type=ProgressView)
                    elif kind != "log":
                        event = msgspec.json.decode(data, type=EventView)
                        after = event.seq
                        yield event
                        if event.kind.upper() in _FINAL:
                            return
            # A stream ends with the job or with the service. What the last one of a job that had ended before did not
            # tell, the caller knew.
            if has_ended:
                return
            has_ended = (await api.get(path_of(job), JobView)).state in _FINAL
            if has_ended:
                continue
        except (ServiceGone, ServiceNotRunning) as error:
            problem = error
        await api.pause(patience, problem)


async def each_event(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, bytes], None]:
    """Kind and data of each event of a stream of `text/event-stream`."""
    kind, data, rest = "", b"", b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                kind = value.decode()
            elif field == b"data":
                data += value
            elif not field and not value:
                if data:
                    yield kind, data
                kind, data = "", b""
