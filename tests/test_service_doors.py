"""Doors that open, close and last: TLS for other machines, handlers that take too long, memory that stays flat."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from callers import PATIENCE, TOKEN, Idle, Served, Wire, request, serving

from asyncjobs.service.errors import BadRequest, ServiceRunning
from asyncjobs.service.http.limits import MIB, Limits
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Accepted, NewJob

BEARER = f"Authorization: Bearer {TOKEN}\r\n"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as opened:
        yield opened


# --- other machines -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this test for ``box.example``, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=box.example"]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:box.example"], check=True, capture_output=True)
    return cert, key


def context_of(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(*certificate)
    return found


@pytest.mark.slow
async def test_F104_beyond_this_machine_there_is_tls_a_token_and_a_list_of_names(
    certificate: tuple[Path, Path],
) -> None:
    options = {"tls": context_of(certificate), "allow_remote": True, "names": ["box.example"]}
    async with serving(address=("0.0.0.0", 0), **options) as served:
        assert served.server.urls[0].startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate[0]))

        async def ask(host: str, headers: str) -> int:
            found = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=trust, server_hostname="box.example", limit=2**20
            )
            async with Wire(*found) as wire:
                wire.write(request("GET", "/health", host=host, headers=headers))
                return (await wire.reply()).status

        assert await ask(f"box.example:{served.port}", BEARER) == 200
        assert await ask(f"box.example:{served.port}", "") == 401
        assert await ask(f"evil.example:{served.port}", BEARER) == 403
        assert await ask(f"0.0.0.0:{served.port}", BEARER) == 403
        own, foreign = f"https://box.example:{served.port}", f"http://box.example:{served.port}"
        assert await ask(f"box.example:{served.port}", f"{BEARER}Origin: {own}\r\n") == 200
        assert await ask(f"box.example:{served.port}", f"{BEARER}Origin: {foreign}\r\n") == 403


async def test_who_speaks_no_tls_hears_nothing(certificate: tuple[Path, Path]) -> None:
    async with (
        serving(address=("127.0.0.1", 0), tls=context_of(certificate)) as served,
        await served.connect(tcp=True) as wire,
    ):
        wire.write(served.request("GET", "/health", tcp=True))
        assert await wire.is_closed()


async def test_F104_without_tls_a_server_for_other_machines_does_not_start() -> None:
    with pytest.raises(BadRequest, match="allow-remote"):
        async with serving(address=("0.0.0.0", 0), allow_remote=True):
            raise AssertionError("it did")


# --- handlers that take long ----------------------------------------------------------------


class Slow(Idle):
    """Takes jobs when it is told to."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.go = asyncio.Event()
        self.asked = 0

    async def submit(self, jobs: list[NewJob]) -> list[Accepted]:
        self.asked += 1
        await self.go.wait()
        return await super().submit(jobs)


async def test_P6_every_call_answers_or_errs_in_time_and_what_it_began_is_done() -> None:
    async with serving(limits=Limits(answer=0.2), engine=Slow) as served:
        job = new_id()
        reply = await served.ask("POST", "/v1/jobs", {"id": job, "function": "pkg:f"})
        assert reply.status == 503
        assert reply.headers["retry-after"] == "1"
        assert reply.headers["connection"] == "close"
        assert (await served.ask("GET", f"/v1/jobs/{job}")).status == 404
        served.engine.go.set()
        async with asyncio.timeout(PATIENCE):
            while (await served.ask("GET", f"/v1/jobs/{job}")).status == 404:
                await asyncio.sleep(0.01)
        again = await served.ask("POST", "/v1/jobs", {"id": job, "function": "pkg:f"})
        assert again.json()["jobs"] == [{"id": job, "state": "QUEUED", "is_new": False}]


async def test_a_server_that_closes_lets_the_last_submit_end() -> None:
    async with serving(engine=Slow) as served:
        job = new_id()
        async with await served.connect() as wire:
            wire.write(served.request("POST", "/v1/jobs", {"id": job, "function": "pkg:f"}))
            while not served.engine.asked:
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(served.server.aclose(5.0))
            await asyncio.sleep(0)
            served.engine.go.set()
            assert (await wire.reply()).status == 201
            await closing
        assert (await served.store.row(job)).id == job


async def test_closing_is_quick_with_idle_callers_and_may_be_done_twice(served: Served) -> None:
    idle = [await served.connect() for _ in range(20)]
    started = asyncio.get_running_loop().time()
    await served.server.aclose()
    await served.server.aclose()
    assert asyncio.get_running_loop().time() - started < 3.0
    assert not served.socket.exists()
    for wire in idle:
        assert await wire.is_closed()
        wire.writer.transport.abort()


async def test_F75_a_socket_whose_file_cannot_be_removed_is_told_and_every_door_is_shut(served: Served) -> None:
    """Its folder is none any more; a disk that fails just then does the same."""
    folder = served.socket.parent
    moved = folder.rename(f"{folder}-moved")
    folder.touch()
    try:
        async with await served.connect(tcp=True) as wire:
            with pytest.raises(NotADirectoryError):
                await served.server.aclose()
            assert await wire.is_closed()
        with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(os.fspath(moved / served.socket.name))
    finally:
        folder.unlink()
        moved.rename(folder)


async def test_F79_a_second_server_at_the_socket_does_not_start_and_leaves_nothing_behind(served: Served) -> None:
    with pytest.raises(ServiceRunning):
        async with serving(place=served.socket):
            raise AssertionError("it did")
    assert (await served.ask("GET", "/health")).status == 200


# --- memory ---------------------------------------------------------------------------------


def flood(path: Path, head: bytes, piece: bytes) -> int:
    """Send pieces until the other end has enough; how many bytes it took."""
    sent = 0
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(PATIENCE)
        caller.connect(os.fspath(path))
        try:
            caller.sendall(head)
            while sent < 400 * MIB:
                caller.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            return sent
    return sent


HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Asyncjobs: 1\r\n"
PIECE = b"f000\r\n" + b" " * 0xF000 + b"\r\n"
FLOODS = {
    "body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", PIECE),
    "header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * 0xF000),
    "headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 10_000),
    "target": (b"GET /", b"x" * 0xF000),
    "trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 0xF000),
    "extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 0xF000),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_F88_memory_stays_flat_whatever_is_poured_in(what: str) -> None:
    async with serving(limits=Limits(body=MIB, linger=0.2)) as served:
        process = psutil.Process()
        await served.ask("GET", "/health")
        before = process.memory_info().rss
        most = 0
        threads = [threading.Thread(target=flood, args=(served.socket, *FLOODS[what])) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, process.memory_info().rss - before)
            await asyncio.sleep(0.01)
        for thread in threads:
            thread.join()
        assert most < 40 * MIB, most / MIB
        assert (await served.ask("GET", "/health")).status == 200
        async with asyncio.timeout(PATIENCE):
            while len(served.server.connections) > 1:
                await asyncio.sleep(0.01)
        assert served.server.held.nbytes == 0


@pytest.mark.slow
async def test_F89_a_thousand_idle_connections_cost_nobody_anything() -> None:
    async with serving() as served:
        idle = []
        for _ in range(1000):
            caller = socket.socket(socket.AF_UNIX)
            caller.setblocking(False)
            await asyncio.get_running_loop().sock_connect(caller, os.fspath(served.socket))
            idle.append(caller)
        assert (await served.ask("GET", "/health")).status == 200
        (job,) = await served.submit()
        assert (await served.ask("GET", f"/v1/jobs/{job}")).status == 200
        for caller in idle:
            caller.close()
