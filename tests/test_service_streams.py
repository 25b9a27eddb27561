"""Answers that go on: events with Last-Event-ID, ends of all jobs, logs. Nothing is missed, nothing comes twice."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from callers import KEY, PATIENCE, Served, Wire, serving

from asyncjobs.service import envelope
from asyncjobs.service.http import feeds
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.protocol import ProgressView
from asyncjobs.service.records import Claim
from asyncjobs.service.work.joblog import HEAD, PART, JobLog


class Told(NamedTuple):
    """One event of a stream."""

    seq: int | None
    kind: str
    data: Any


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as opened:
        yield opened


async def events(wire: Wire) -> AsyncIterator[Told]:
    """The events of a stream; comments are left out."""
    rest = b""
    async for chunk in wire.chunks():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "data" in fields:
                seq = int(fields["id"]) if "id" in fields else None
                yield Told(seq, fields["event"], json.loads(fields["data"]))


async def lines(wire: Wire) -> AsyncIterator[Any]:
    """The lines of a stream, from JSON."""
    rest = b""
    async for chunk in wire.chunks():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield json.loads(line)


async def open_stream(served: Served, wire: Wire, path: str, headers: str = "") -> None:
    wire.write(served.request("GET", path, headers=headers))
    head = await wire.head()
    assert head.status == 200, head


async def run(served: Served, number: int = 1) -> list[Claim]:
    """Start and end so many."""
    claims = await served.claim(number)
    await served.end(claims)
    return claims


# --- events of a job ------------------------------------------------------------------------


async def test_the_events_of_a_job_come_as_they_happen_and_end_with_it(served: Served) -> None:
    (job,) = await served.submit()
    async with await served.connect() as wire:
        await open_stream(served, wire, f"/v1/jobs/{job}/events")
        stream = events(wire)
        assert (await anext(stream)).kind == "submitted"
        claims = await served.claim()
        assert (await anext(stream)).kind == "claimed"
        await served.end(claims)
        last = await anext(stream)
        assert (last.kind, last.data["state"]) == ("succeeded", "SUCCEEDED")
        assert [event async for event in stream] == []  # it is over
        wire.write(served.request("GET", "/health"))  # and the connection goes on
        assert (await wire.reply()).status == 200


async def test_the_events_of_an_ended_job_are_replayed(served: Served) -> None:
    (job,) = await served.submit()
    await run(served)
    async with await served.connect() as wire:
        await open_stream(served, wire, f"/v1/jobs/{job}/events")
        replayed = [event async for event in events(wire)]
    assert [event.kind for event in replayed] == ["submitted", "claimed", "succeeded"]


async def test_after_a_break_a_stream_goes_on_where_it_was(served: Served) -> None:
    (job,) = await served.submit()
    await run(served)
    async with await served.connect() as wire:
        await open_stream(served, wire, f"/v1/jobs/{job}/events")
        whole = [event async for event in events(wire)]
    for at, event in enumerate(whole):
        for path, header in ((f"?after={event.seq}", ""), ("", f"Last-Event-ID: {event.seq}\r\n")):
            async with await served.connect() as wire:
                await open_stream(served, wire, f"/v1/jobs/{job}/events{path}", header)
                assert [one async for one in events(wire)] == whole[at + 1 :]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 40, ""])
async def test_a_last_event_that_is_no_number_is_400(served: Served, last: str) -> None:
    (job,) = await served.submit()
    assert (await served.ask("GET", f"/v1/jobs/{job}/events", headers=f"Last-Event-ID: {last}\r\n")).status == 400


async def test_progress_and_growth_of_the_log_come_between_the_events(served: Served) -> None:
    (job,) = await served.submit()
    claims = await served.claim()
    served.engine.progress[job] = ProgressView(1.0, 10.0, "first")
    async with await served.connect() as wire:
        await open_stream(served, wire, f"/v1/jobs/{job}/events")
        stream = events(wire)
        kinds = [(await anext(stream)).kind for _ in range(3)]
        assert kinds == ["submitted", "claimed", "progress"], "where it is comes behind how it got there"
        served.engine.news.progressed(job, ProgressView(5.0, 10.0, "half"))
        served.engine.news.logged(job, 17)
        assert (await anext(stream)).data == {"done": 5.0, "total": 10.0, "note": "half"}
        assert (await anext(stream)) == Told(None, "log", {"end": 17})
        await served.end(claims)
        assert [event.kind async for event in stream] == ["succeeded"]


# --- events of all --------------------------------------------------------------------------


async def collect(served: Served, wire: Wire, path: str, last: int) -> list[int]:
    """Numbers of the events, up to that one."""
    await open_stream(served, wire, path)
    found: list[int] = []
    async for event in events(wire):
        assert event.seq is not None
        found.append(event.seq)
        if event.seq >= last:
            return found
    return found


@pytest.mark.slow
async def test_a_stream_that_joins_while_jobs_run_has_no_gap_and_nothing_twice(served: Served) -> None:
    """Many join at many moments, each from the first event on; all of them see the same numbers."""
    total = 40
    busy = asyncio.ensure_future(churn(served, total))
    wires = [await served.connect() for _ in range(12)]
    readers = []
    for wire in wires:
        readers.append(asyncio.ensure_future(collect(served, wire, "/v1/events?after=0", 3 * total)))
        await asyncio.sleep(0.01)
    await busy
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            assert await reader == list(range(1, 3 * total + 1))
    for wire in wires:
        wire.writer.transport.abort()


async def churn(served: Served, total: int) -> None:
    for _ in range(total):
        await served.submit()
        await run(served)


async def test_a_slow_reader_gets_from_the_log_what_it_missed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "EVENTS_KEPT", 10)
    async with await served.connect() as wire:
        wire.write(served.request("GET", "/v1/events?after=0"))
        head = await wire.head()
        assert head.status == 200
        for _ in range(3):
            await served.submit(200)
        found: list[int] = []
        async for event in events(wire):
            assert event.seq is not None
            found.append(event.seq)
            if event.seq == 600:
                break
    assert found == list(range(1, 601))


async def test_without_a_number_a_stream_begins_now(served: Served) -> None:
    await served.submit(5)
    async with await served.connect() as wire:
        await open_stream(served, wire, "/v1/events")
        await anext(wire.chunks())  # the comment that says that it has begun
        (job,) = await served.submit()
        first = await anext(events(wire))
        assert (first.kind, first.data["id"]) == ("submitted", job)


# --- ends -----------------------------------------------------------------------------------


async def test_the_ends_of_all_jobs_come_with_their_outcomes(served: Served) -> None:
    await served.submit(3)
    async with await served.connect() as wire:
        await open_stream(served, wire, "/v1/ended")
        stream = lines(wire)
        assert await anext(stream) == {}
        claims = await run(served, 3)
        ends = [await anext(stream) for _ in range(3)]
    assert {end["id"] for end in ends} == {claim.id for claim in claims}
    for end in ends:
        assert end["state"] == "SUCCEEDED"
        assert envelope.open(KEY, end["id"], b64decode(end["outcome"])) == b"J1"


async def test_no_end_is_missed_after_the_first_line(served: Served) -> None:
    total = 60
    jobs = await served.submit(total)
    async with await served.connect() as wire, await served.connect() as other:
        for one in (wire, other):
            await open_stream(served, one, "/v1/ended")
        streams = [lines(wire), lines(other)]
        for stream in streams:
            assert await anext(stream) == {}
        for _ in range(total // 3):
            await run(served, 3)
        for stream in streams:
            assert sorted([(await anext(stream))["id"] for _ in jobs]) == sorted(jobs)


async def test_a_large_outcome_does_not_come_along(served: Served) -> None:
    await served.submit()
    async with await served.connect() as wire:
        await open_stream(served, wire, "/v1/ended")
        stream = lines(wire)
        await anext(stream)
        claims = await served.claim()
        await served.end(claims, b"J" + json.dumps("x" * 400_000).encode())
        assert (await anext(stream))["outcome"] is None
    whole = await served.ask("GET", f"/v1/jobs/{claims[0].id}/outcome")
    assert int(whole.headers["content-length"]) == len(whole.body) > 400_000


async def test_a_reader_of_ends_that_falls_behind_is_sent_away() -> None:
    async with serving(limits=Limits(behind=2000)) as served:
        await served.submit(100)
        async with await served.connect() as wire:
            await open_stream(served, wire, "/v1/ended")
            stream = lines(wire)
            await anext(stream)
            await run(served, 100)
            assert len([end async for end in stream]) < 100
        assert (await served.ask("GET", "/health")).status == 200


# --- logs -----------------------------------------------------------------------------------


@pytest.fixture
async def logged(served: Served) -> AsyncIterator[tuple[Served, str, JobLog]]:
    """A job and the writing end of its log."""
    (job,) = await served.submit()
    log = JobLog(served.folder / "logs" / "jobs", job)
    yield served, job, log
    log.close()


async def test_a_log_is_given_as_text_from_any_place_on(logged: tuple[Served, str, JobLog]) -> None:
    served, job, log = logged
    assert (await served.ask("GET", f"/v1/jobs/{job}/log")).body == b""
    log.write("one\ntwo <script>\n")
    reply = await served.ask("GET", f"/v1/jobs/{job}/log")
    assert reply.body == b"one\ntwo <script>\n"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-offset"] == "0"
    part = await served.ask("GET", f"/v1/jobs/{job}/log?offset=4")
    assert (part.body, part.headers["x-offset"]) == (b"two <script>\n", "4")
    assert (await served.ask("GET", f"/v1/jobs/{job}/log?offset=-1")).status == 400


async def test_a_log_is_followed_until_the_job_has_ended(logged: tuple[Served, str, JobLog]) -> None:
    served, job, log = logged
    claims = await served.claim()
    async with await served.connect() as wire:
        await open_stream(served, wire, f"/v1/jobs/{job}/log?follow=1")
        chunks = wire.chunks()
        for word in ("one\n", "two\n"):
            log.write(word)
            served.engine.news.logged(job, log.end)
            assert await anext(chunks) == word.encode()
        log.write("last words\n")
        await served.end(claims)
        assert b"".join([chunk async for chunk in chunks]) == b"last words\n"


async def test_F72_the_last_words_are_never_lost_however_close_to_the_end_they_come(served: Served) -> None:
    for number in range(30):
        (job,) = await served.submit()
        claims = await served.claim()
        log = JobLog(served.folder / "logs" / "jobs", job)
        async with await served.connect() as wire:
            await open_stream(served, wire, f"/v1/jobs/{job}/log?follow=1")
            reading = asyncio.ensure_future(everything(wire))
            for word in range(number % 4):
                log.write(f"{word}\n")
                served.engine.news.logged(job, log.end)
                await asyncio.sleep(0)
            log.write("last words\n")
            await served.end(claims)
            assert (await reading).endswith(b"last words\n")
        log.close()


async def everything(wire: Wire) -> bytes:
    return b"".join([chunk async for chunk in wire.chunks()])


@pytest.mark.slow
async def test_the_middle_of_a_very_long_log_is_gone_and_the_answer_says_so(
    logged: tuple[Served, str, JobLog],
) -> None:
    served, job, log = logged
    for _ in range((HEAD + 3 * PART) // 2**20 + 1):
        log.write("x" * (2**20 - 1) + "\n")
    log.write("the end\n")
    whole = (await served.ask("GET", f"/v1/jobs/{job}/log")).body
    assert b"[asyncjobs: " in whole
    assert whole.endswith(b"the end\n")
    assert len(whole) < HEAD + 3 * PART
    part = await served.ask("GET", f"/v1/jobs/{job}/log?offset={HEAD}")
    assert int(part.headers["x-offset"]) > HEAD


# --- the end of streams ---------------------------------------------------------------------

STREAMS = ("/v1/events", "/v1/ended", "/v1/jobs/{job}/events", "/v1/jobs/{job}/log?follow=1")


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_ends_with_its_caller(served: Served, path: str) -> None:
    (job,) = await served.submit()
    async with await served.connect() as wire:
        await open_stream(served, wire, path.format(job=job))
    async with asyncio.timeout(PATIENCE):
        while served.server.connections:
            await asyncio.sleep(0.005)
    assert served.server.feeds.readers == 0


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_ends_with_the_service_and_says_that_it_is_whole(served: Served, path: str) -> None:
    (job,) = await served.submit()
    async with await served.connect() as wire:
        await open_stream(served, wire, path.format(job=job))
        await asyncio.gather(drained(wire), served.server.aclose(5.0))


async def drained(wire: Wire) -> None:
    async for _ in wire.chunks():  # fails if it breaks off
        continue


@pytest.mark.parametrize("path", ["/v1/events", "/v1/ended"])
async def test_a_quiet_stream_says_that_it_lives(path: str) -> None:
    async with serving(limits=Limits(heartbeat=0.05)) as served, await served.connect() as wire:
        await open_stream(served, wire, path)
        chunks = wire.chunks()
        assert [len(await anext(chunks)) > 0 for _ in range(4)] == [True] * 4


async def test_an_older_caller_gets_a_stream_without_chunks(served: Served) -> None:
    (job,) = await served.submit()
    await run(served)
    async with await served.connect() as wire:
        wire.write(f"GET /v1/jobs/{job}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        head = await wire.head()
        assert "transfer-encoding" not in head.headers
        body = await wire.reader.read()
        assert body.count(b"event: ") == 3
