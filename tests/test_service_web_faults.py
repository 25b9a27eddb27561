"""What hostile callers and hostile data get from a whole service (F94 to F96, F100 to F104)."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from services import ServiceProcess, service

from asyncjobs.service import envelope
from asyncjobs.service.ids import new_id

HOSTILE_TEXTS = (
    "<script>alert(1)</script>",
    '"onmouseover="alert(1)',
    "javascript:alert(1)",
    "</title><svg onload=alert(1)>",
    "line\r\nSet-Cookie: a=b\r\n\r\n<html>",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egpj.exe",
    "\u2028\u2029",
    "{{7*7}}${7*7}",
)


@pytest.fixture(scope="module")
def running() -> Iterator[ServiceProcess]:
    """One service for all that does not end it, with a port."""
    with tempfile.TemporaryDirectory(prefix="aj") as folder, service(Path(folder) / "s", "--http", "0") as opened:
        warm = [opened.submit("sleep", 0.2)["id"] for _ in range(4)]  # both workers are there before the first test
        assert {opened.ended(job)["state"] for job in warm} == {"SUCCEEDED"}
        yield opened
        assert opened.stop() == 0


def port_of(running: ServiceProcess) -> int:
    return int(json.loads((running.folder / "address.json").read_text())["url"].rpartition(":")[2])


def raw(running: ServiceProcess, target: str) -> bytes:
    """All that comes back for a GET of exactly this target."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(20)
        caller.connect(os.fspath(running.socket))
        caller.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        return b"".join(iter(lambda: caller.recv(65536), b""))


# --- F94: paths -----------------------------------------------------------------------------

TRAVERSALS = (
    *("/../../etc/passwd", "/static/../../../../etc/passwd", "/v1/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"),
    *("/static/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/%252e%252e/%252e%252e/etc/passwd", "/..%c0%af..%c0%afetc/passwd"),
    *("/v1/jobs/../../token", "/v1/jobs/..%2f..%2ftoken", "/v1/jobs/%2e%2e/log", "/v1/jobs/....//token/log"),
    *("/v1/jobs/..\\..\\token/log", "/v1/jobs/%5c..%5ctoken/log", "/v1/jobs/{id}/figures/.."),
    *("/v1/jobs/{id}/figures/../key", "/v1/jobs/{id}/figures/..%2f..%2f..%2fkey", "/v1/jobs/{id}/figures/.hidden"),
    *("/v1/jobs/{id}/figures/%2fetc%2fpasswd", "/v1/jobs/{id}/log/../../../token", "/v1/jobs/{id}%00/log"),
    *("/v1/jobs/{id}/log%00", "/v1/jobs/{id}/./log", "/v1/jobs/{ID}/log", "/v1/jobs//log", "/v1//jobs", "/v1/jobs/"),
    *("/V1/jobs", "/token", "/key", "/jobs.db", "/."),
)


@pytest.mark.slow
@pytest.mark.parametrize("target", TRAVERSALS)
def test_F94_CVE_2023_1177_no_path_leads_to_a_file(running: ServiceProcess, target: str) -> None:
    job = running.submit("add", 1, 2)["id"]
    answer = raw(running, target.replace("{id}", job).replace("{ID}", job.upper()))
    assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), answer[:200]
    assert b"root:" not in answer
    assert running.key not in answer


def test_F94_CVE_2023_2780_links_among_a_jobs_figures_are_not_followed(running: ServiceProcess) -> None:
    job = running.submit("add", 1, 2)["id"]
    running.ended(job)
    folder = running.folder / "figures" / job
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "plain.html").write_text("<p>a figure")
    (folder / "key.html").symlink_to(running.folder / "key")
    os.mkfifo(folder / "fifo.html")
    assert [one["name"] for one in running.json("GET", f"/v1/jobs/{job}/figures")] == ["plain.html"]
    assert running.ask("GET", f"/v1/jobs/{job}/figures/plain.html") == (200, b"<p>a figure")
    assert running.ask("GET", f"/v1/jobs/{job}/figures/key.html")[0] == 404
    assert running.ask("GET", f"/v1/jobs/{job}/figures/fifo.html")[0] == 404
    # It is given as a file to keep, never as a page of ours.
    assert b"application/octet-stream" in raw(running, f"/v1/jobs/{job}/figures/plain.html").split(b"\r\n\r\n")[0]


def test_F94_the_log_of_a_job_is_that_of_no_other(running: ServiceProcess) -> None:
    first, second = running.submit("add", 1, 2)["id"], new_id()
    running.ended(first)
    assert running.ask("GET", f"/v1/jobs/{first}/log")[0] == 200
    assert running.ask("GET", f"/v1/jobs/{second}/log")[0] == 404


# --- F95, F96: code -------------------------------------------------------------------------


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.fspath(self.path),)


def test_F95_a_pickle_without_our_seal_is_refused_and_never_loaded(running: ServiceProcess, tmp_path: Path) -> None:
    bomb = b"P" + pickle.dumps((None, (Bomb(tmp_path / "was-here"),), {}))
    job, other = new_id(), new_id()
    good = envelope.seal(running.key, job, bomb)
    for payload in (
        bomb,
        envelope.seal(bytes(32), job, bomb),
        envelope.seal(running.key, other, bomb),  # sealed for another job
        good[:-1],
        good[:-1] + bytes([good[-1] ^ 1]),
        envelope.MAGIC + bytes(40) + bomb,
        envelope.MAGIC,
    ):
        asked = {"id": job, "function": "service_jobs:add", "payload": base64.b64encode(payload).decode()}
        status, body = running.ask("POST", "/v1/jobs", asked)
        assert status in (400, 403), body
    assert not (tmp_path / "was-here").exists()
    assert running.ask("GET", f"/v1/jobs/{job}")[0] == 404


@pytest.mark.may_leak("the module's service has another worker afterwards")
def test_F95_a_sealed_bomb_goes_off_in_a_worker_and_nowhere_else(running: ServiceProcess, tmp_path: Path) -> None:
    class Exit:
        def __reduce__(self) -> tuple[object, ...]:
            return os._exit, (7,)

    job = new_id()
    sealed = envelope.seal(running.key, job, b"P" + pickle.dumps((None, (Exit(),), {})))
    asked = {"id": job, "function": "service_jobs:add", "payload": base64.b64encode(sealed).decode(), "max_crashes": 1}
    running.json("POST", "/v1/jobs", asked, status=201)
    assert running.ended(job)["state"] in ("LOST", "FAILED")
    assert running.value(running.submit("add", 1, 2)["id"]) == 3


NOT_ON_THE_LIST = (
    *("os:system", "builtins:eval", "builtins:__import__", "subprocess:run", "collections:OrderedDict"),
    *("service_jobs:add.__globals__", "service_jobs:__builtins__", "service_jobs.add:__call__", "service_jobs"),
    *("service_jobs_evil:f", "xservice_jobs:f", "..service_jobs:add", "service_jobs:", ":add", "service_jobs:a.b.c"),
    *("service_jobs:add\n", " service_jobs:add", "service_jobs:add;os", "service_jobs:add\x00", "asyncjobs:run"),
)


@pytest.mark.parametrize("function", NOT_ON_THE_LIST)
def test_F96_CVE_2021_23727_only_functions_on_the_list_are_taken(running: ServiceProcess, function: str) -> None:
    status, body = running.ask("POST", "/v1/jobs", {"function": function})
    assert status == 403, body
    assert json.loads(body)["error"] == "NotAllowed"


NO_FUNCTION = ("service_jobs:os.system", "service_jobs:Any", "service_jobs:nothing", "service_jobs.no:f")


@pytest.mark.parametrize("function", NO_FUNCTION)
def test_F96_F84_what_turns_out_to_be_no_function_of_ours_ends_as_failed_once(
    running: ServiceProcess, function: str
) -> None:
    view = running.ended(running.submit(function)["id"])
    assert (view["state"], view["attempt"]) == ("FAILED", 1)
    assert re.match(r"asyncjobs\.service\.errors\.(NotAllowed|UnknownFunction): ", view["note"]), view["note"]


# --- F100, F101, F102: hostile text ---------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_F101_hostile_text_travels_as_data_and_nothing_else(running: ServiceProcess, text: str) -> None:
    """Stored as it is, given back as JSON that no browser takes for a page."""
    job = running.submit("add", text, text, name=text, tags=[text], key=f"{new_id()}{text}")["id"]
    running.ended(job)
    view = running.job(job)
    assert (view["name"], view["tags"]) == (text, [text])
    for path in (
        f"/v1/jobs/{job}",
        "/v1/jobs",
        f"/v1/jobs/{job}/result",
        f"/v1/jobs/{job}/log",
        f"/v1/jobs/{job}/events",
    ):
        head, _, _ = raw(running, path).partition(b"\r\n\r\n")
        assert b"X-Content-Type-Options: nosniff" in head
        assert re.search(rb"Content-Type: (application/json|text/plain|text/event-stream)", head), head
        assert b"default-src 'none'" in head
        assert b"Set-Cookie" not in head


def test_F101_F102_nothing_that_a_caller_sends_becomes_a_header_or_a_page(running: ServiceProcess) -> None:
    for target in (
        "/v1/jobs?next=http://evil.example",
        "/<script>alert(1)</script>",
        "/health?x=%0d%0aX-Evil:1",
        "//evil",
    ):
        head, _, body = raw(running, target).partition(b"\r\n\r\n")
        assert b"Location" not in head
        assert b"X-Evil" not in head
        assert b"<script" not in body
        assert b"text/html" not in head
        assert b"frame-ancestors 'none'" in head


def test_F100_one_event_is_one_line_of_the_log_whatever_a_caller_writes(running: ServiceProcess) -> None:
    # What the parser lets through into a path, and what it does not.
    for text in ("/\\r\\nfake", "/%0d%0afake-line", "/" + "x" * 6000, "/~!@$&'()*+,;=:|`^\"<>{}[]"):
        raw(running, text)
    for name in HOSTILE_TEXTS:
        running.ask("POST", "/v1/jobs", {"function": "os:" + name, "name": name * 20})
    running.ask("GET", "/v1/jobs", headers={"User-Agent": "\\x1b[31m" + "a" * 5000, "Referer": "http://evil/?secret=1"})
    data = (running.folder / "logs" / "service.log").read_bytes()
    assert data.isascii()
    assert b"\x1b" not in data
    assert b"evil/?secret" not in data
    for line in data.splitlines():
        assert isinstance(json.loads(line), dict)
        assert len(line) < 20_000


# --- F103, F104: secrets and listeners ------------------------------------------------------


def test_F103_the_token_is_in_its_file_and_nowhere_else(running: ServiceProcess) -> None:
    token = (running.folder / "token").read_text().strip()
    with socket.create_connection(("127.0.0.1", port_of(running))) as caller:
        host = f"Host: 127.0.0.1:{port_of(running)}\r\n"
        for line in (f"GET /v1/jobs?token={token}", "GET /health"):
            caller.sendall(f"{line} HTTP/1.1\r\n{host}Authorization: Bearer {token}\r\n\r\n".encode())
            assert caller.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    job = running.submit("environment")["id"]
    assert token not in str(running.ended(job))
    for path in running.folder.rglob("*"):
        if path.is_file() and path.name != "token":
            assert token.encode() not in path.read_bytes(), path
    for pid in running.family():
        for name in ("environ", "cmdline"):
            assert token.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), (pid, name)
    assert not re.search(token, running.output)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_F103_a_service_leaves_no_core() -> None:
    script = (
        "import ctypes\n"
        "from asyncjobs.service.process import keep_secrets\n"
        "keep_secrets()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"  # PR_GET_DUMPABLE
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"0\n"


def test_F104_CVE_2021_42343_no_process_of_the_service_listens_beyond_this_machine(running: ServiceProcess) -> None:
    running.value(running.submit("add", 1, 2)["id"])
    listening = set()
    for pid in running.family():
        for one in psutil.Process(pid).net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                listening.add((pid, one.laddr.ip, one.laddr.port))
    assert listening == {(running.process.pid, "127.0.0.1", port_of(running))}


@pytest.mark.slow
@pytest.mark.parametrize("address", ["0.0.0.0:0", "example.com:80"])
def test_F104_serve_refuses_an_address_that_others_can_reach(tmp_path: Path, address: str) -> None:
    with ServiceProcess(tmp_path / "s", "--http", address, ready=False) as refused:
        assert refused.ends() == 2
    assert "allow-remote" in refused.output
