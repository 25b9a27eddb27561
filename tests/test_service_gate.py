"""The one gate before routing: who may come in, at which door, with what (F87 to F94, F98, F99, F104).

Named after the weaknesses of others where there is one: CVE-2023-43472 and CVE-2025-14279 (MLflow), CVE-2023-48022,
CVE-2025-62593 and CVE-2026-27482 (Ray), CVE-2024-28179 (jupyter-server-proxy), CVE-2022-30034 (Flower).
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from callers import TOKEN, Served, request, serving

from asyncjobs.service.errors import BadRequest, ServiceRunning, StateRefused
from asyncjobs.service.http.gate import Door, Gate, Guesses
from asyncjobs.service.http.limits import Limits
from asyncjobs.service.http.listening import listen_tcp, listen_unix
from asyncjobs.service.http.message import Peer, Request
from asyncjobs.service.http.routes import ROUTES

BEARER = f"Authorization: Bearer {TOKEN}\r\n"
ID = "0" * 26


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(limits=Limits(guess_delay=0.05)) as opened:
        yield opened


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aj") as made:
        yield Path(made)


def every_route() -> list[tuple[str, str]]:
    return [(route.method, route.path.format(id=ID, name="x")) for route in ROUTES]


# --- Host: DNS rebinding --------------------------------------------------------------------

FOREIGN_HOSTS = (
    "evil.example:{port}",
    "evil.example",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1.evil.example:{port}",
    "localhost.:{port}",
    "127.0.0.1.:{port}",
    "0.0.0.0:{port}",
    "127.1:{port}",
    "2130706433:{port}",
    "user@127.0.0.1:{port}",
    "127.0.0.1:{port}:80",
    "[::ffff:127.0.0.1]:{port}",
)


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_F91_a_foreign_host_is_refused(served: Served, host: str) -> None:
    reply = await served.raw(request("GET", "/health", host=host.format(port=served.port), headers=BEARER), tcp=True)
    assert reply.status == 403
    assert reply.json()["error"] == "NotAllowed"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
async def test_F91_the_own_hosts_are_let_in(served: Served, host: str) -> None:
    reply = await served.raw(request("GET", "/v1/jobs", host=f"{host}:{served.port}", headers=BEARER), tcp=True)
    assert reply.status == 200


async def test_F91_every_route_has_the_gate_before_it_at_both_doors(served: Served) -> None:
    for method, path in every_route():
        data = request(method, path, None if method == "GET" else {}, host="evil.example", headers=BEARER)
        for tcp in (True, False):
            assert (await served.raw(data, tcp=tcp)).status == 403, (method, path, tcp)
    for path in ("/", "/nothing", "/static/x.js", "/../../etc/passwd"):
        assert (await served.raw(request("GET", path, host="evil.example"))).status == 403, path


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET //evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
    ],
)
async def test_F91_no_host_two_hosts_or_a_host_in_the_target_are_malformed(served: Served, data: bytes) -> None:
    assert (await served.raw(data)).status == 400


# --- Origin and fetch metadata: pages of other sites ----------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: https://localhost\r\n",
        "Origin: http://localhost:1\r\n",
        "Origin: http://localhost.evil.example\r\n",
        "Origin:\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: anything\r\n",
        "Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/events", "/health"])
async def test_F92_F93_a_request_from_another_origin_is_refused(served: Served, headers: str, path: str) -> None:
    assert (await served.ask("GET", path, headers=headers)).status == 403


@pytest.mark.parametrize(
    "headers", ["Origin: http://localhost\r\n", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: same-origin\r\n"]
)
async def test_F92_a_request_from_the_own_origin_is_let_in(served: Served, headers: str) -> None:
    assert (await served.ask("GET", "/v1/jobs", headers=headers)).status == 200


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"]
)
async def test_F92_CVE_2023_43472_what_a_form_can_send_changes_nothing(served: Served, media: str) -> None:
    body = b'{"function":"pkg:f"}'
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    kind = f"Content-Type: {media}\r\n" if media else ""
    assert (await served.raw(f"{head}{kind}X-Asyncjobs: 1\r\n\r\n".encode() + body)).status == 415
    assert (await served.raw(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)).status == 403
    assert (await served.raw(f"{head}{kind}\r\n".encode() + body)).status in (403, 415)
    assert (await served.ask("GET", "/v1/jobs")).json()["jobs"] == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "LINK", "QUERY"])
async def test_F92_CVE_2026_27482_methods_are_a_list_of_those_that_are_allowed(served: Served, method: str) -> None:
    for path in ("/v1/jobs", f"/v1/jobs/{ID}", "/nothing"):
        reply = await served.ask(method, path)
        assert reply.status in (400, 405), (method, path)  # 400: the parser does not know it
        assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_F92_a_delete_needs_the_header_that_a_page_cannot_send(served: Served) -> None:
    assert (await served.ask("DELETE", "/v1/schedules/x")).status == 403
    assert (await served.ask("DELETE", "/v1/schedules/x", headers="X-Asyncjobs: 1\r\n")).status == 404


async def test_F92_no_get_changes_anything(served: Served) -> None:
    (job,) = await served.submit()
    before = (await served.ask("GET", f"/v1/jobs/{job}")).json()
    for path in {route.path.format(id=job, name="x") for route in ROUTES}:
        async with await served.connect() as wire:
            wire.write(served.request("GET", path))
            assert (await wire.head()).status in (200, 204, 404, 405), path
    assert (await served.ask("GET", f"/v1/jobs/{job}")).json() == before
    assert served.stops == []


# --- the token ------------------------------------------------------------------------------

WRONG = (
    "",
    "Authorization: Bearer\r\n",
    "Authorization: Bearer x\r\n",
    f"Authorization: Bearer {TOKEN[:-1]}\r\n",
    f"Authorization: Bearer {TOKEN}x\r\n",
    f"Authorization: Basic {TOKEN}\r\n",
    f"Authorization: {TOKEN}\r\n",
    f"X-Token: {TOKEN}\r\n",
    f"Cookie: token={TOKEN}\r\n",
    "Authorization: Bearer \xe9\r\n",
)


@pytest.mark.parametrize("headers", WRONG)
async def test_F90_without_the_token_nobody_comes_in_over_tcp(served: Served, headers: str) -> None:
    host = f"127.0.0.1:{served.port}"
    reply = await served.raw(request("GET", "/v1/jobs", host=host, headers=headers), tcp=True)
    assert reply.status in (401, 400)  # 400: no character of a header
    assert TOKEN.encode() not in reply.body


async def test_F90_F93_CVE_2022_30034_every_route_wants_the_token(served: Served) -> None:
    host = f"127.0.0.1:{served.port}"
    for method, path in [*every_route(), ("GET", "/nothing"), ("GET", "/")]:
        reply = await served.raw(request(method, path, None if method == "GET" else {}, host=host), tcp=True)
        assert reply.status == 401, (method, path)
        assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_F90_a_token_in_the_query_opens_nothing(served: Served) -> None:
    reply = await served.raw(request("GET", f"/v1/jobs?token={TOKEN}", host=f"127.0.0.1:{served.port}"), tcp=True)
    assert reply.status == 401


async def test_F90_after_ten_wrong_tokens_each_further_one_waits(served: Served) -> None:
    host = f"127.0.0.1:{served.port}"
    wrong = request("GET", "/v1/jobs", host=host, headers="Authorization: Bearer guess\r\n")
    for _ in range(10):
        assert (await served.raw(wrong, tcp=True)).status == 401
    started = time.perf_counter()
    assert (await served.raw(wrong, tcp=True)).status == 401
    assert time.perf_counter() - started >= 0.05
    # The owner is not made to wait for what others guess.
    assert (await served.ask("GET", "/v1/jobs", tcp=True)).status == 200


def test_F90_ten_thousand_guesses_from_one_address_take_hours() -> None:
    now = 0.0
    guesses = Guesses(Limits(), lambda: now)
    waits = [guesses.wrong("10.0.0.1") for _ in range(10_000)]
    assert waits[:10] == [0.0] * 10
    assert set(waits[10:]) == {1.0}
    assert guesses.wrong("10.0.0.2") == 0.0
    now = 61.0
    assert guesses.wrong("10.0.0.1") == 0.0


async def test_F93_CVE_2024_28179_a_web_socket_from_elsewhere_gets_no_further_than_the_gate(served: Served) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
    foreign = request("GET", "/v1/events", headers=f"{upgrade}Origin: http://evil.example\r\n")
    assert (await served.raw(foreign)).status == 403
    nobody = request("GET", "/v1/events", host=f"127.0.0.1:{served.port}", headers=upgrade)
    assert (await served.raw(nobody, tcp=True)).status == 401
    ours = await served.raw(request("GET", "/health", headers=upgrade))
    assert ours.status == 200  # in plain HTTP: nothing is upgraded
    assert "upgrade" not in ours.headers


# --- order ----------------------------------------------------------------------------------


def test_the_gate_asks_in_the_order_of_the_security_model() -> None:
    gate = Gate(Limits(body=10), Guesses(Limits()))
    door = Door("tcp", frozenset({b"localhost:1"}), b"http", b"token")
    wrong = Request(Peer("1.2.3.4", is_local=False))
    wrong.target, wrong.method = b"/", "PUT"
    wrong.headers = {b"host": b"evil", b"origin": b"null", b"sec-fetch-site": b"cross-site", b"content-length": b"11"}
    mended: list[tuple[bytes | None, bytes, int]] = [
        (b"host", b"localhost:1", 403),
        (b"origin", b"http://localhost:1", 403),
        (b"sec-fetch-site", b"none", 403),
        (None, b"POST", 405),
        (b"authorization", b"Bearer token", 401),
        (b"x-asyncjobs", b"1", 403),
        (b"content-type", b"application/json", 415),
        (b"content-length", b"10", 413),
    ]
    for name, value, status in mended:
        refusal = gate.check(door, wrong)
        assert refusal is not None
        assert refusal.status == status, name
        if name is None:
            wrong.method = value.decode()
        else:
            wrong.headers[name] = value
    assert gate.check(door, wrong) is None


# --- the unix socket ------------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_F98_the_socket_is_its_owners_from_birth_whatever_the_umask(folder: Path) -> None:
    door = listen_unix(folder / "s")
    assert stat.S_IMODE(os.lstat(folder / "s").st_mode) == 0o600
    door.close()
    assert not (folder / "s").exists()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o711])
def test_F97_a_folder_that_others_may_enter_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(StateRefused, match="chmod 700"):
        listen_unix(folder / "s")


def plant_link(place: Path) -> None:
    place.symlink_to(place.parent / "elsewhere")


def plant_link_to_a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(place.parent / "real"))
    place.symlink_to(place.parent / "real")


PLANTED = {
    "link": plant_link,
    "link to a socket": plant_link_to_a_socket,
    "fifo": os.mkfifo,
    "directory": os.mkdir,
    "file": Path.touch,
}


@pytest.mark.parametrize("what", PLANTED)
def test_F97_what_somebody_planted_at_the_sockets_place_is_refused_and_left(folder: Path, what: str) -> None:
    place = folder / "s"
    PLANTED[what](place)
    before = os.lstat(place)
    with pytest.raises(StateRefused, match="no socket of ours"):
        listen_unix(place)
    assert os.lstat(place).st_ino == before.st_ino


def test_F97_a_link_instead_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "real").mkdir(0o700)
    (folder / "link").symlink_to(folder / "real")
    with pytest.raises(StateRefused):
        listen_unix(folder / "link" / "s")


def test_F97_a_path_that_is_too_long_is_refused_with_a_reason(folder: Path) -> None:
    with pytest.raises(StateRefused, match="107 bytes"):
        listen_unix(folder / ("x" * 100))


def test_F79_a_socket_at_which_somebody_listens_is_not_stolen(folder: Path) -> None:
    first = listen_unix(folder / "s")
    with pytest.raises(ServiceRunning):
        listen_unix(folder / "s")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(folder / "s"))
    first.close()


def test_F79_a_socket_that_a_killed_service_left_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(folder / "s"))
    door = listen_unix(folder / "s")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(folder / "s"))
    door.close()


def test_F79_a_closing_service_leaves_the_socket_of_its_successor(folder: Path) -> None:
    first = listen_unix(folder / "s")
    (folder / "s").unlink()
    second = listen_unix(folder / "s")
    first.close()
    assert (folder / "s").exists()
    second.close()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_F99_another_user_is_closed_out_at_the_socket_and_unknown_at_the_port(served: Served) -> None:
    """Even where the file's mode would let it in: its user is looked at."""
    served.folder.chmod(0o755)
    served.socket.chmod(0o666)
    script = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.sendall(b'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "    print('unix', s.recv(100))\n"
        "except ConnectionError: print('unix', b'')\n"
        "t = socket.socket(); t.settimeout(10); t.connect(('127.0.0.1', int(sys.argv[2])))\n"
        "t.sendall(b'GET /health HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\n\\r\\n' % int(sys.argv[2]))\n"
        "print('tcp', t.recv(12))\n"
    )
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", script, os.fspath(served.socket), str(served.port)), stdout=subprocess.PIPE
    )
    output, _ = await other.communicate()
    assert output.decode().splitlines() == ["unix b''", "tcp b'HTTP/1.1 401'"]
    assert (await served.ask("GET", "/health")).status == 200


# --- TCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "0", "127.0.0.1.evil.example", "localhost.evil"]
)
def test_F104_an_address_that_others_can_reach_needs_allow_remote_and_tls(host: str) -> None:
    for allow_remote, has_tls in ((False, False), (True, False), (False, True)):
        with pytest.raises(BadRequest, match="allow-remote"):
            listen_tcp(host, 0, allow_remote=allow_remote, has_tls=has_tls)


def test_F104_with_both_it_may_be_reached() -> None:
    with listen_tcp("0.0.0.0", 0, allow_remote=True, has_tls=True) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", ""])
def test_F104_loopback_is_taken_at_its_word(host: str) -> None:
    with listen_tcp(host, 0, allow_remote=False, has_tls=False) as listener:
        assert listener.getsockname()[0].startswith("127.")


async def test_F104_a_service_listens_on_this_machine_only(served: Served) -> None:
    assert own_listeners() == [f"0100007F:{served.port:04X}"]


def own_listeners() -> list[str]:
    """Addresses at which this process listens for TCP."""
    table = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    mine = {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    }
    return [line.split()[1] for line in table if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in mine]


async def test_without_an_address_there_is_no_tcp_at_all() -> None:
    async with serving(tcp=False) as served:
        assert served.server.urls == ()
        assert (await served.ask("GET", "/health")).status == 200
