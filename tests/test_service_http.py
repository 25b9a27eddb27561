"""HTTP itself: what is malformed, too long, too slow or too many (F87 to F89), and what the routes answer."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from callers import KEY, TOKEN, Served, Wire, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs import failpoint
from asyncjobs.service import envelope, protocol
from asyncjobs.service.http import copying, wording
from asyncjobs.service.http import jobs as handlers
from asyncjobs.service.http.gate import Door, Gate, Guesses
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.message import Peer, Refusal, Request
from asyncjobs.service.http.reading import Held, Reader
from asyncjobs.service.http.server import UNIX_HOSTS
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Ending
from asyncjobs.state import JobState

SMALL = Limits(receive=0.4, write=0.4, answer=5.0, idle=0.4, linger=0.2, line=512, head=4096, headers=50, body=65536)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as opened:
        yield opened


@pytest.fixture
async def strict() -> AsyncIterator[Served]:
    """Short limits, so that a test meets them."""
    async with serving(limits=SMALL) as opened:
        yield opened


# --- F87: malformed -------------------------------------------------------------------------

HOST = b"Host: localhost\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nX-Asyncjobs: 1\r\n"
MALFORMED = {
    "bad method": b"FROB /v1/jobs HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower-case method": b"get /v1/jobs HTTP/1.1\r\n" + HOST + b"\r\n",
    "no CR": b"GET /v1/jobs HTTP/1.1\nHost: localhost\n\n",
    "HTTP/0.9": b"GET /v1/jobs\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET / HTTP/3.7\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(64),
    "NUL in the target": b"GET /v1/\x00jobs HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in a header": b"GET /v1/jobs HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "escape in a header": b"GET /v1/jobs HTTP/1.1\r\n" + HOST + b"X: \x1b[31m\r\n\r\n",
    "space before the colon": b"GET /v1/jobs HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "space in a name": b"GET /v1/jobs HTTP/1.1\r\n" + HOST + b"X Y: z\r\n\r\n",
    "folded header": b"GET /v1/jobs HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "same length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "length in hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "length of many digits": POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "chunked in disguise": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunk size is no number": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "chunk size is huge": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk without end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", MALFORMED)
async def test_F87_what_is_malformed_gets_400_and_the_connection_ends(served: Served, what: str) -> None:
    async with await served.connect() as wire:
        wire.write(MALFORMED[what])
        reply = await wire.reply()
        assert reply.status in (400, 413)  # 413: a length of 100 digits
        assert reply.json()["error"] == "BadRequest"
        assert b"Traceback" not in reply.body
        assert reply.headers["connection"] == "close"
        assert await wire.is_closed()
    assert (await served.ask("GET", "/health")).status == 200


@pytest.mark.slow
async def test_F87_a_body_where_none_belongs_is_400(served: Served) -> None:
    assert (await served.ask("GET", "/v1/jobs", {"function": "pkg:f"})).status == 400
    assert (await served.ask("GET", "/v1/stop", {"drain": 1})).status == 405


async def test_F87_what_follows_a_refused_request_is_not_read_as_another(served: Served) -> None:
    """Request smuggling: the second one must never run."""
    hidden = served.request("POST", "/v1/jobs", {"function": "pkg:f"})
    async with await served.connect() as wire:
        wire.write(POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
        assert (await wire.reply()).status == 400
        assert await wire.is_closed()
    assert (await served.ask("GET", "/v1/jobs")).json()["jobs"] == []


class Heard:
    """Takes what a reader reads."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refusals: list[Refusal] = []

    def began(self) -> None: ...
    def go_on(self) -> None: ...

    def take(self, request: Request) -> None:
        self.requests.append(request)

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


def reader(limits: Limits, heard: Heard) -> Reader:
    door = Door("unix", UNIX_HOSTS, b"http", None)
    return Reader(heard, limits, Gate(limits, Guesses(limits)), Held(), door, Peer("pid 1", is_local=True))


FRAGMENTS = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"/v1/jobs", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"\r\n\r\n", b": ", HOST),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello"),
        *(b"\x00", b" ", b"\xff", b"X-Asyncjobs: 1\r\nContent-Type: application/json\r\n", b"Connection: close\r\n"),
        *(b"Upgrade: x\r\nConnection: Upgrade\r\n", b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n", POST),
    ]
)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=40)), max_size=30), st.integers(1, 64))
def test_F87_any_bytes_are_read_or_refused_once(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    whole, pieces = Heard(), Heard()
    reader(SMALL, whole).feed(data)
    one = reader(SMALL, pieces)
    for start in range(0, len(data), step):
        one.feed(data[start : start + step])
    for heard in (whole, pieces):
        assert len(heard.refusals) <= 1
    # However it is cut, the same requests come out.
    assert [told(one) for one in whole.requests] == [told(one) for one in pieces.requests]


def told(request: Request) -> tuple[str, bytes, bytes]:
    return request.method, request.target, request.body


# --- F88: too long, too deep ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
async def test_F88_a_long_target_is_414(strict: Served, whole: bool) -> None:
    async with await strict.connect() as wire:
        wire.write(b"GET /" + b"x" * 600 + (b" HTTP/1.1\r\n" + HOST + b"\r\n" if whole else b""))
        assert (await wire.reply()).status == 414
        assert await wire.is_closed()


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"a" * 5000 + b"\r\n\r\n",
        b"".join(b"X%d: y\r\n" % number for number in range(60)) + b"\r\n",
        b"".join(b"X: y\r\n" for _ in range(100_000)),
        b"X: " + b"a" * 100_000,  # one that never ends
        b"X" * 100_000,
    ],
)
async def test_F88_long_or_many_headers_are_431(strict: Served, headers: bytes) -> None:
    async with await strict.connect() as wire:
        wire.write(b"GET /health HTTP/1.1\r\n" + HOST + headers)
        assert (await wire.reply()).status == 431
        assert await wire.is_closed()


async def test_F88_a_long_body_is_413_before_it_comes(strict: Served) -> None:
    async with await strict.connect() as wire:
        wire.write(POST + b"Content-Length: 65537\r\n\r\n")
        assert (await wire.reply()).status == 413
        assert await wire.is_closed()


async def test_F88_an_endless_body_is_413_as_it_comes_and_is_not_kept(strict: Served) -> None:
    async with await strict.connect() as wire:
        wire.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            wire.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert (await wire.reply()).status == 413
        assert strict.server.held.nbytes <= 2 * SMALL.body
        assert await wire.is_closed()
    await gone(strict)
    assert strict.server.held.nbytes == 0


@pytest.mark.parametrize(
    "rest", [b"0\r\nX: " + b"y" * 200_000, b"1;" + b"e" * 200_000, b"0\r\n" + b"X: y\r\n" * 30_000]
)
async def test_F88_trailers_and_chunk_extensions_have_an_end_as_well(strict: Served, rest: bytes) -> None:
    async with await strict.connect() as wire:
        wire.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
        assert (await wire.reply()).status in (400, 431)


async def test_F88_all_bodies_together_have_a_limit() -> None:
    async with serving(limits=Limits(held=100_000)) as served:
        async with await served.connect() as first, await served.connect() as second:
            first.write(POST + b"Content-Length: 80000\r\n\r\n" + b" " * 79_000)
            while served.server.held.nbytes < 79_000:
                await asyncio.sleep(0)
            second.write(POST + b"Content-Length: 80000\r\n\r\n" + b" " * 79_000)
            reply = await second.reply()
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
        await gone(served)
        assert served.server.held.nbytes == 0


DEEP = 100_000
HOSTILE = {
    "deep arrays": b'{"function":"p:f","args":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"function":"p:f","kwargs":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep and unknown": b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not closed": b"[" * DEEP,
    "many digits": b'{"function":"p:f","args":[' + b"1" * DEEP + b"]}",
    "many digits as priority": b'{"function":"p:f","priority":' + b"1" * DEEP + b"}",
    "priority beyond 64 bits": b'{"function":"p:f","priority":9223372036854775808}',
    "NaN": b'{"function":"p:f","args":[NaN]}',
    "Infinity": b'{"function":"p:f","delay":Infinity}',
    "1e999": b'{"function":"p:f","delay":1e999}',
    "1e999 in an argument": b'{"function":"p:f","args":[1e999]}',
    "lone surrogate": b'{"function":"p:f","name":"\\ud800"}',
    "lone surrogate in an argument": b'{"function":"p:f","args":["\\udc00"]}',
    "no UTF-8": b'{"function":"p:f","name":"\xff"}',
    "no UTF-8 in an argument": b'{"function":"p:f","args":["\xff"]}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"function":"p:f"}'.encode("utf-16"),
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "no jobs": b'{"jobs":[]}',
    "a job that is none": b'{"jobs":[1]}',
    "unknown field": b'{"function":"p:f","x":1}',
    "args is no array": b'{"function":"p:f","args":{}}',
    "kwargs is no object": b'{"function":"p:f","kwargs":[]}',
    "two documents": b'{"function":"p:f"}{"function":"p:f"}',
    "payload is no base 64": b'{"payload":"?"}',
    "payload is not sealed": b'{"payload":"gASVBQAAAAAAAABLAS4="}',
    "payload and args": b'{"payload":"QUoxCg==","args":[]}',
    "no function": b"{}",
    "bad id": b'{"function":"p:f","id":"../../x"}',
    "id of a newline": b'{"function":"p:f","id":"\\n"}',
    "id with a newline": b'{"function":"p:f","id":"' + b"0" * 26 + b'\\n"}',
    "unknown parent": b'{"function":"p:f","after":["' + b"0" * 26 + b'"]}',
    "delay and at": b'{"function":"p:f","delay":1,"at":1}',
    "negative delay": b'{"function":"p:f","delay":-1}',
    "a crash count below none": b'{"function":"p:f","max_crashes":-1}',
    "long name": b'{"function":"p:f","name":"' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_F88_a_body_that_is_not_allowed_is_400_and_stores_nothing(served: Served, what: str) -> None:
    reply = await served.ask("POST", "/v1/jobs", HOSTILE[what])
    assert reply.status == 400, reply
    assert reply.json()["error"] == "BadRequest"
    assert len(reply.body) < 2000
    assert (await served.ask("GET", "/v1/jobs")).json()["jobs"] == []


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/jobs", {"function": "pkg:f", "priority": "high"}, "priority='high' is not allowed: Expected `int`"),
        (
            "/v1/jobs",
            {"function": "pkg:f", "terms": {"timeout": 0}},
            "terms.timeout=0 is not allowed: Expected `float`",
        ),
        (
            "/v1/jobs",
            {"jobs": [{"function": "pkg:f"}, {"function": "pkg:f", "tags": ["a", 5]}]},
            "jobs[1].tags[1]=5 is",
        ),
        ("/v1/jobs", {"function": "pkg:f", "key": "k" * 300}, "key='kkkk"),
        ("/v1/jobs?limit=many", None, "limit='many' is not allowed: Expected `int`"),
        ("/v1/jobs", {"function": "pkg:f", "after": {"a": 1}}, "Expected `array`, got `object` - at `$.after`"),
        ("/v1/jobs", {"function": "pkg:f", "urgent": 1}, "unknown field `urgent`"),
    ],
)
async def test_F88_what_is_refused_is_named_with_its_value_and_what_is_allowed(
    served: Served, path: str, body: object, text: str
) -> None:
    refused = await (served.ask("GET", path) if body is None else served.ask("POST", path, body))
    assert refused.status == 400
    assert text in refused.json()["message"]
    assert len(refused.json()["message"]) < 300


async def test_a_job_comes_after_those_whose_results_are_among_its_arguments(served: Served) -> None:
    [first] = await served.submit()
    body = {"function": "pkg:f", "args": [[{"$result": first}]], "kwargs": {"x": {"y": {"$result": first}}}}
    made = await served.ask("POST", "/v1/jobs", body)
    shown = await served.ask("GET", f"/v1/jobs/{made.json()['jobs'][0]['id']}")
    assert shown.json()["after"] == [first]
    for odd in ("last", 5, None, "0" * 27):
        refused = await served.ask("POST", "/v1/jobs", {"function": "pkg:f", "args": [{"$result": odd}]})
        assert refused.status == 400
        assert repr(odd) in refused.json()["message"]
    unknown = await served.ask("POST", "/v1/jobs", {"function": "pkg:f", "args": [{"$result": new_id()}]})
    assert unknown.status == 400
    plain = {"function": "pkg:f", "args": [{"$result": "last", "and": "more"}]}
    assert (await served.ask("POST", "/v1/jobs", plain)).status == 201


async def test_F88_large_and_odd_values_that_json_can_say_arrive_as_they_are(served: Served) -> None:
    args = [10**300, -0.0, 1e308, "\u202e\x00\U0001f600", {"": [[]]}, None, True]
    (job,) = await served.submit(args=args)
    (claim,) = await served.claim()
    call = envelope.open(KEY, job, claim.payload)
    assert json.loads(call[1:])["args"] == args


# --- F89: too slow, too many ----------------------------------------------------------------


async def gone(served: Served) -> None:
    """Until the server has noticed that all its callers left."""
    async with asyncio.timeout(5):
        while served.server.connections:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("start", [b"GET /a", b"GET /health HTTP/1.1\r\nX: ", POST + b"Content-Length: 99\r\n\r\n{"])
async def test_F89_a_request_that_trickles_in_meets_an_absolute_deadline(strict: Served, start: bytes) -> None:
    async with await strict.connect() as wire:
        begun = asyncio.get_running_loop().time()
        wire.write(start)
        trickle = asyncio.ensure_future(drip(wire))
        reply = await wire.reply()
        took = asyncio.get_running_loop().time() - begun
        assert reply.status == 408
        assert await wire.is_closed()
        trickle.cancel()
    assert SMALL.receive * 0.9 < took < SMALL.receive + 3.0


async def drip(wire: Wire) -> None:
    """A byte now and then, for ever."""
    while not wire.writer.transport.is_closing():
        wire.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("tcp", [True, False])
async def test_F89_a_connection_that_says_nothing_is_closed(strict: Served, tcp: bool) -> None:
    async with await strict.connect(tcp=tcp) as wire:
        assert await wire.reader.read() == b""


async def test_F89_a_kept_connection_is_closed_when_it_is_idle(strict: Served) -> None:
    async with await strict.connect() as wire:
        wire.write(strict.request("GET", "/health"))
        assert (await wire.reply()).status == 200
        assert await wire.reader.read() == b""


async def test_F89_who_never_reads_its_answer_is_dropped(strict: Served) -> None:
    (job,) = await strict.submit()
    (claim,) = await strict.claim()
    await strict.end([claim], b"J" + json.dumps("x" * 4_000_000).encode())
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(os.fspath(strict.socket))
    caller.sendall(strict.request("GET", f"/v1/jobs/{job}/outcome") * 3)
    await gone(strict)  # it took nothing, and is let go
    caller.close()
    assert (await strict.ask("GET", "/health")).status == 200


async def test_F89_idle_connections_make_room_for_who_has_something_to_say() -> None:
    async with serving(limits=Limits(connections=20, per_peer=20)) as served:
        idle = [await served.connect() for _ in range(60)]
        assert (await served.ask("GET", "/health")).status == 200
        async with asyncio.timeout(5):
            while len(served.server.connections) > 21:
                await asyncio.sleep(0.005)
        for wire in idle:
            wire.writer.transport.abort()
        await asyncio.sleep(0)


async def test_F89_busy_connections_are_capped_and_the_port_cannot_use_up_the_socket() -> None:
    async with serving(limits=Limits(connections=4, per_peer=4)) as served:
        busy = [await served.connect(tcp=True) for _ in range(4)]
        for wire in busy:
            wire.write(served.request("GET", "/v1/ended", tcp=True))
            assert (await wire.head()).status == 200
        async with await served.connect(tcp=True) as more:
            reply = await more.reply()
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert await more.is_closed()
        assert (await served.ask("GET", "/health")).status == 200
        for wire in busy:
            wire.writer.transport.abort()
        await gone(served)
        assert (await served.ask("GET", "/health", tcp=True)).status == 200


async def test_F89_one_peer_cannot_take_all() -> None:
    async with serving(limits=Limits(connections=100, per_peer=2)) as served:
        busy = [await served.connect() for _ in range(2)]
        for wire in busy:
            wire.write(served.request("GET", "/v1/ended"))
            await wire.head()
        async with await served.connect() as third:
            assert (await third.reply()).status == 503
        assert (await served.ask("GET", "/health", tcp=True)).status == 200  # another peer
        for wire in busy:
            wire.writer.transport.abort()
        await gone(served)


# --- connections ----------------------------------------------------------------------------


async def test_answers_come_in_the_order_of_pipelined_requests(served: Served) -> None:
    jobs = await served.submit(30)
    async with await served.connect() as wire:
        wire.write(b"".join(served.request("GET", f"/v1/jobs/{job}") for job in jobs))
        assert [(await wire.reply()).json()["id"] for _ in jobs] == jobs


async def test_a_refusal_comes_after_the_answers_before_it(served: Served) -> None:
    async with await served.connect() as wire:
        wire.write(served.request("GET", "/v1/jobs") + b"FROB / HTTP/1.1\r\n\r\n")
        assert [(await wire.reply()).status for _ in range(2)] == [200, 400]
        assert await wire.is_closed()


async def test_a_request_in_single_bytes_is_a_request(served: Served) -> None:
    async with await served.connect() as wire:
        for byte in served.request("POST", "/v1/jobs", {"function": "pkg:f"}):
            wire.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.reply()).status == 201


async def test_who_asks_whether_to_send_the_body_is_told_so_once_it_may_come_in(served: Served) -> None:
    body = b'{"function":"pkg:f"}'
    async with await served.connect() as wire:
        wire.write(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert (await wire.head()).status == 100
        wire.write(body)
        assert (await wire.reply()).status == 201
    async with await served.connect() as wire:
        wire.write(POST.replace(b"localhost", b"evil") + b"Expect: 100-continue\r\nContent-Length: 20\r\n\r\n")
        assert (await wire.reply()).status == 403


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_caller_that_wants_no_further_answer_gets_none(served: Served, version: str) -> None:
    async with await served.connect() as wire:
        close = "Connection: close\r\n" if version == "1.1" else ""
        wire.write(f"GET /health HTTP/{version}\r\nHost: localhost\r\n{close}\r\n".encode())
        assert (await wire.reply()).status == 200
        assert await wire.is_closed()


async def test_who_shuts_its_sending_side_still_gets_its_answer(served: Served) -> None:
    async with await served.connect() as wire:
        wire.write(served.request("POST", "/v1/jobs", {"function": "pkg:f"}))
        wire.writer.write_eof()
        assert (await wire.reply()).status == 201
        assert await wire.is_closed()


async def test_a_submit_whose_caller_leaves_is_done_all_the_same(served: Served) -> None:
    job = new_id()
    async with await served.connect() as wire:
        wire.write(served.request("POST", "/v1/jobs", {"id": job, "function": "pkg:f"}))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while (await served.ask("GET", f"/v1/jobs/{job}")).status == 404:
            await asyncio.sleep(0.01)


async def test_a_head_request_is_a_get_without_its_body(served: Served) -> None:
    async with await served.connect() as wire:
        wire.write(served.request("HEAD", "/health") + served.request("GET", "/health"))
        head, whole = await wire.reply(is_head=True), await wire.reply()
        assert head.headers["content-length"] == whole.headers["content-length"]


async def test_every_answer_carries_the_guarding_headers(served: Served) -> None:
    for method, path, body in [
        ("GET", "/health", None),
        ("GET", "/nothing", None),
        ("POST", "/v1/jobs", {"function": "pkg:f"}),
        ("POST", "/v1/jobs", {"x": 1}),
        ("GET", "/metrics", None),
    ]:
        headers = (await served.ask(method, path, body)).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]


async def test_the_port_answers_as_the_socket_does(served: Served) -> None:
    (job,) = await served.submit()
    over_tcp = await served.ask("GET", f"/v1/jobs/{job}", tcp=True)
    assert over_tcp.json() == (await served.ask("GET", f"/v1/jobs/{job}")).json()
    assert TOKEN.encode() not in over_tcp.body


# --- routes ---------------------------------------------------------------------------------


async def test_jobs_are_submitted_one_or_several_at_a_time(served: Served) -> None:
    one = await served.ask("POST", "/v1/jobs", {"function": "pkg.mod:f", "args": [1], "kwargs": {"a": 2}})
    assert one.status == 201
    (accepted,) = one.json()["jobs"]
    assert accepted["state"] == "QUEUED"
    assert accepted["is_new"]
    several = await served.ask("POST", "/v1/jobs", {"jobs": [{"function": "pkg:f"}, {"function": "pkg:g"}]})
    assert len(several.json()["jobs"]) == 2
    view = (await served.ask("GET", f"/v1/jobs/{accepted['id']}")).json()
    assert (view["name"], view["function"], view["state"]) == ("f", "pkg.mod:f", "QUEUED")


async def test_F82_the_same_submit_again_is_the_same_job(served: Served) -> None:
    asked = {"id": new_id(), "function": "pkg:f", "args": [1]}
    first, again = [(await served.ask("POST", "/v1/jobs", asked)).json()["jobs"][0] for _ in range(2)]
    assert first["id"] == again["id"] == asked["id"]
    assert (first["is_new"], again["is_new"]) == (True, False)


async def test_F82_a_key_means_the_same_call_whatever_its_id_and_spacing(served: Served) -> None:
    first = await served.ask("POST", "/v1/jobs", b'{"function":"pkg:f","args":[1, 2],"key":"k"}')
    again = await served.ask("POST", "/v1/jobs", b'{"key":"k","function":"pkg:f","args":[1,2]}')
    assert first.json()["jobs"][0]["id"] == again.json()["jobs"][0]["id"]
    other = await served.ask("POST", "/v1/jobs", {"function": "pkg:f", "args": [2], "key": "k"})
    assert other.status == 409
    assert other.json()["error"] == "KeyConflict"
    assert other.json()["id"] == first.json()["jobs"][0]["id"]


async def test_F83_a_full_queue_is_429_with_a_time_to_come_back() -> None:
    async with serving(queue_limit=3) as served:
        await served.submit(3)
        reply = await served.ask("POST", "/v1/jobs", {"function": "pkg:f"})
        assert reply.status == 429
        assert reply.json()["error"] == "ServiceFull"
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json()["retry_after"] > 0
        (claim,) = await served.claim()
        await served.end([claim])
        assert (await served.ask("POST", "/v1/jobs", {"function": "pkg:f"})).status == 201


async def test_F83_more_jobs_at_once_than_may_ever_wait_are_400_for_trying_again_would_not_help() -> None:
    async with serving(queue_limit=3) as served:
        reply = await served.ask("POST", "/v1/jobs", {"jobs": [{"function": "pkg:f"}] * 4})
        assert reply.status == 400
        assert "4 jobs at once are not allowed; allowed: 3" in reply.json()["message"]
        assert (await served.ask("POST", "/v1/jobs", {"jobs": [{"function": "pkg:f"}] * 3})).status == 201


async def test_all_jobs_of_a_request_are_taken_or_none(served: Served) -> None:
    jobs = [{"function": "pkg:f"}, {"function": "pkg:f", "after": ["0" * 26]}]
    assert (await served.ask("POST", "/v1/jobs", {"jobs": jobs})).status == 400
    assert (await served.ask("GET", "/v1/jobs")).json()["jobs"] == []


async def test_lists_are_filtered_and_come_in_pages(served: Served) -> None:
    jobs = await served.submit(5, name="a", tags=["t"])
    await served.submit(2, name="b")
    (claim,) = await served.claim()
    first = (await served.ask("GET", "/v1/jobs?limit=3&name=a")).json()
    rest = (await served.ask("GET", f"/v1/jobs?limit=3&name=a&before={first['next']}")).json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == jobs[::-1]
    assert rest["next"] is None
    assert len((await served.ask("GET", "/v1/jobs?tag=t")).json()["jobs"]) == 5
    running = (await served.ask("GET", "/v1/jobs?state=RUNNING")).json()["jobs"]
    assert [job["id"] for job in running] == [claim.id]
    assert len((await served.ask("GET", "/v1/jobs?state=running&state=queued")).json()["jobs"]) == 7


FILTERS = (
    *("state=nothing", "limit=0", "limit=1001", "limit=x", "before=-1", "before=99999999999999999999", "x=1"),
    *("before=null", "name=", "name=a&name=b", "name", "name=%ff", "&".join(["state=QUEUED"] * 100)),
)


@pytest.mark.parametrize("query", FILTERS)
async def test_F84_a_filter_that_is_not_known_is_400(served: Served, query: str) -> None:
    assert (await served.ask("GET", f"/v1/jobs?{query}")).status == 400


async def test_an_outcome_comes_when_there_is_one(served: Served) -> None:
    (job,) = await served.submit()
    assert (await served.ask("GET", f"/v1/jobs/{job}/outcome")).status == 204
    assert (await served.ask("GET", f"/v1/jobs/{job}/result")).status == 204
    (claim,) = await served.claim()
    await served.end([claim], b'J{"a":[1,null]}')
    sealed = await served.ask("GET", f"/v1/jobs/{job}/outcome")
    assert sealed.headers["content-type"] == "application/octet-stream"
    assert sealed.headers["x-state"] == "SUCCEEDED"
    assert envelope.open(KEY, job, sealed.body) == b'J{"a":[1,null]}'
    assert (await served.ask("GET", f"/v1/jobs/{job}/result")).json()["value"] == {"a": [1, None]}


async def test_a_large_outcome_comes_from_its_file_piece_by_piece_and_the_connection_goes_on(served: Served) -> None:
    value = json.dumps("x" * 5_000_000).encode()
    (job,) = await served.submit()
    await served.end(await served.claim(), b"J" + value)
    async with await served.connect() as wire:
        for _ in range(2):
            wire.write(served.request("GET", f"/v1/jobs/{job}/outcome"))
            reply = await wire.reply()
            assert "transfer-encoding" not in reply.headers
            assert envelope.open(KEY, job, reply.body) == b"J" + value
        wire.write(served.request("GET", f"/v1/jobs/{job}/result"))
        assert (await wire.reply()).body.startswith(b'{"state":"SUCCEEDED"')
    (ended,) = (await served.ask("POST", "/v1/outcomes", {"ids": [job]})).json()["ended"]
    assert ended["outcome"] is None


@pytest.mark.slow
async def test_one_answer_holds_only_so_many_outcomes(served: Served) -> None:
    jobs = await served.submit(90)
    await served.end(await served.claim(90), b"J" + json.dumps("x" * 240_000).encode())
    answer = (await served.ask("POST", "/v1/outcomes", {"ids": jobs})).json()["ended"]
    assert len(answer) == 90
    with_outcome = sum(ended["outcome"] is not None for ended in answer)
    assert 40 < with_outcome < 90


async def test_F95_a_pickled_result_is_told_of_and_not_loaded(served: Served) -> None:
    (job,) = await served.submit()
    (claim,) = await served.claim()
    await served.end([claim], b"Pcos\nsystem\n(S'exit 1'\ntR.")
    result = (await served.ask("GET", f"/v1/jobs/{job}/result")).json()
    assert result["value"] is None
    assert "bytes" in result["repr"]


async def test_who_waits_for_an_outcome_gets_it_when_it_comes(served: Served) -> None:
    (job,) = await served.submit()
    (claim,) = await served.claim()
    async with await served.connect() as wire, await served.connect() as other:
        wire.write(served.request("GET", f"/v1/jobs/{job}/outcome?wait=60"))
        other.write(served.request("POST", "/v1/outcomes", {"ids": [job, "0" * 26], "wait": 60}))
        await asyncio.sleep(0.05)
        assert served.engine.is_watched()
        await served.end([claim])
        assert (await wire.reply()).status == 200
        answer = (await other.reply()).json()
        assert [ended["id"] for ended in answer["ended"]] == [job]
        assert answer["unknown"] == ["0" * 26]


async def test_a_wait_ends_after_the_time_that_was_asked_for(served: Served) -> None:
    (job,) = await served.submit()
    assert (await served.ask("GET", f"/v1/jobs/{job}/outcome?wait=0.05")).status == 204
    answer = await served.ask("POST", "/v1/outcomes", {"ids": [job], "wait": 0.05})
    assert answer.json() == {"ended": [], "unknown": []}


async def test_a_waiting_caller_that_leaves_is_forgotten(served: Served) -> None:
    (job,) = await served.submit()
    async with await served.connect() as wire:
        wire.write(served.request("GET", f"/v1/jobs/{job}/outcome?wait=60"))
        await asyncio.sleep(0.05)
    await gone(served)
    assert served.server.feeds.waiting == 0
    assert not served.engine.is_watched()


async def test_a_job_is_cancelled_and_says_what_became_of_it(served: Served) -> None:
    queued, running = await served.submit(2)
    (claim,) = await served.claim()
    assert claim.id == queued
    first = (await served.ask("POST", f"/v1/jobs/{running}/cancel", {})).json()
    assert first == {"answer": "cancelled", "state": "CANCELLED"}
    second = (await served.ask("POST", f"/v1/jobs/{queued}/cancel", {"reason": "enough"})).json()
    assert second == {"answer": "requested", "state": "STOPPING"}
    assert (await served.ask("POST", f"/v1/jobs/{running}/cancel", {})).json()["answer"] == "ended"


async def test_a_failed_job_is_replayed_as_a_new_one(served: Served) -> None:
    (job,) = await served.submit()
    assert (await served.ask("POST", f"/v1/jobs/{job}/replay", {})).status == 409
    (claim,) = await served.claim()
    await served.store.finish([Ending(job, claim.attempt, claim.epoch, JobState.FAILED, note="no")])
    reply = await served.ask("POST", f"/v1/jobs/{job}/replay", {})
    assert reply.status == 201
    assert reply.json()["id"] != job


async def test_many_jobs_are_cancelled_in_one_request_each_for_itself(served: Served) -> None:
    queued, running = await served.submit(2)
    (claim,) = await served.claim()
    nobody = "0" * 26
    reply = await served.ask("POST", "/v1/cancels", {"ids": [running, nobody, claim.id], "reason": "enough"})
    assert reply.json()["jobs"] == [
        {"id": running, "answer": "cancelled", "state": "CANCELLED"},
        {"id": nobody, "answer": "unknown", "state": None},
        {"id": queued, "answer": "requested", "state": "STOPPING"},
    ]


async def test_many_jobs_are_replayed_in_one_request_and_none_twice(served: Served) -> None:
    dead, open_ = await served.submit(2)
    (claim,) = await served.claim()
    await served.store.finish([Ending(dead, claim.attempt, claim.epoch, JobState.FAILED, note="no")])
    asked = {"ids": [dead, open_]}
    dry = (await served.ask("POST", "/v1/replays", {**asked, "dry_run": True})).json()["jobs"]
    assert [(one["of"], one.get("id"), one.get("error")) for one in dry] == [
        (dead, None, None),
        (open_, None, "NotNow"),
    ]
    (first, refused) = (await served.ask("POST", "/v1/replays", asked)).json()["jobs"]
    assert first["id"] != dead
    assert refused["error"] == "NotNow"
    (second, _) = (await served.ask("POST", "/v1/replays", asked)).json()["jobs"]
    assert first["id"] in second["message"]
    (third, _) = (await served.ask("POST", "/v1/replays", {**asked, "again": True})).json()["jobs"]
    assert third["id"] not in (first["id"], dead)


@pytest.mark.parametrize("what", ["", "/outcome", "/result", "/events", "/log", "/figures", "/figures/x"])
async def test_a_job_that_is_not_there_is_404(served: Served, what: str) -> None:
    reply = await served.ask("GET", f"/v1/jobs/{'0' * 26}{what}")
    assert reply.status == 404
    assert reply.json()["error"] == "NoSuchJob"


async def test_pauses_hold_and_end(served: Served) -> None:
    assert (await served.ask("POST", "/v1/pause", {"scope": "all"})).status == 204
    await served.submit()
    assert await served.claim() == []
    assert (await served.ask("GET", "/v1/stats")).json()["paused"] == ["all"]
    assert (await served.ask("POST", "/v1/resume", {})).status == 204
    assert len(await served.claim()) == 1


async def test_schedules_are_made_listed_and_removed(served: Served) -> None:
    asked = {"name": "nightly", "cron": "0 3 * * *", "zone": "Europe/Berlin", "job": {"function": "pkg:f"}}
    made = await served.ask("POST", "/v1/schedules", asked)
    assert made.status == 200
    assert made.json() in (await served.ask("GET", "/v1/schedules")).json()
    drop = "/v1/schedules/nightly"
    assert (await served.ask("DELETE", drop, headers="X-Asyncjobs: 1\r\n")).status == 204
    assert (await served.ask("DELETE", drop, headers="X-Asyncjobs: 1\r\n")).status == 404
    for wrong in ({"cron": "x"}, {"zone": "Nowhere/Such"}, {"name": "../x"}):
        assert (await served.ask("POST", "/v1/schedules", {**asked, **wrong})).status == 400


async def test_a_name_that_a_schedule_cannot_have_is_refused_in_words(served: Served) -> None:
    asked = {"name": "every night", "cron": "0 3 * * *", "job": {"function": "service_jobs:add", "args": [1]}}
    refused = await served.ask("POST", "/v1/schedules", asked)
    assert (refused.status, refused.json()["message"]) == (
        400,
        "name='every night' is not allowed: allowed are letters, digits, '.', '_' and '-', at most 100 of them, and a "
        "letter or a digit first",
    )


def test_every_pattern_of_a_request_has_words() -> None:
    sources = [Path(module.__file__ or "").read_text() for module in (protocol, handlers)]
    assert {found for source in sources for found in re.findall(r'pattern="([^"]+)"', source)} == set(wording.WORDS)


async def test_a_schedule_with_a_deadline_is_refused_for_every_job_of_it_would_come_too_late(served: Served) -> None:
    job = {"function": "pkg:f", "terms": {"deadline": 2_000_000_000}}
    refused = await served.ask("POST", "/v1/schedules", {"name": "nightly", "cron": "0 3 * * *", "job": job})
    assert refused.status == 400
    assert "deadline" in refused.json()["message"]


async def test_statistics_health_and_stop(served: Served) -> None:
    await served.submit(2)
    stats = (await served.ask("GET", "/v1/stats")).json()
    assert stats["states"]["QUEUED"] == 2
    assert stats["pid"] == os.getpid()
    assert stats["rss"] > 1_000_000
    assert (await served.ask("GET", "/health")).json()["status"] == "ok"
    assert (await served.ask("POST", "/v1/stop", {"drain": 3})).status == 202
    assert served.stops == [3.0]


async def test_a_backup_is_a_new_folder(served: Served) -> None:
    await served.submit()
    path = os.fspath(served.folder / "copy")
    reply = await served.ask("POST", "/v1/backup", {"path": path})
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert (reply.status, lines[-1]["done"]) == (200, True)
    assert lines[-1]["nbytes"] >= (served.folder / "copy" / "jobs.db").stat().st_size
    for wrong in (path, "copy", "/nowhere/such/copy", "/tmp/\0"):
        assert (await served.ask("POST", "/v1/backup", {"path": wrong})).status == 400


@pytest.mark.parametrize("path", ["/v1/jobs", "/nowhere"])
async def test_a_request_that_goes_before_it_is_answered_leaves_no_coroutine_behind(served: Served, path: str) -> None:
    request = Request(Peer("pid 1", is_local=True))
    request.method, request.path = "GET", path
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        served.server.work(request)
        gc.collect()
    assert [str(one.message) for one in said] == []


async def test_a_backup_may_take_longer_than_an_answer_and_says_meanwhile_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "INTERVAL", 0.1)
    failpoint.arm("backup.finish=delay:1.0")
    try:
        async with serving(limits=Limits(answer=0.2, wait=0.2)) as served:
            reply = await served.ask("POST", "/v1/backup", {"path": os.fspath(served.folder / "copy")})
            lines = [json.loads(line) for line in reply.body.splitlines()]
            assert reply.status == 200
            assert [line.get("done", False) for line in lines[-2:]] == [False, True]
    finally:
        failpoint.arm("")


async def test_a_backup_that_fails_under_way_says_so_in_its_last_line(served: Served) -> None:
    failpoint.arm("backup.finish=errno:ENOSPC")
    try:
        reply = await served.ask("POST", "/v1/backup", {"path": os.fspath(served.folder / "copy")})
    finally:
        failpoint.arm("")
    last = json.loads(reply.body.splitlines()[-1])
    assert (reply.status, last["error"], last.get("done", False)) == (200, "StorageFull", False)
    assert not list(served.folder.glob("copy*"))
