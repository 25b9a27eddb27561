"""A plot at a web address, and all that a network does to it: the training loop hears nothing of it."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import logging
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.message import Message
from pathlib import Path

import pytest
from plots import wait_until
from servers import RESET, STALL, Answer, Request, Server, answering, serving

import asyncjobs as aj
from asyncjobs.plotting import studio
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.resume import resume
from asyncjobs.plotting.sinks import web
from asyncjobs.plotting.spool import home

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def keys(server: Server) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in server.requests]


def last_point(server: Server) -> float:
    """The height of the newest point that the server got last."""
    (figure,) = json.loads(server.requests[-1].body)["figures"].values()
    heights = base64.b64decode(figure["data"][0]["y"]["bdata"])
    return float(memoryview(heights).cast("d")[-1])


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- no trouble -----------------------------------------------------------------------------


def test_each_edition_is_put_with_a_key_of_its_own() -> None:
    with serving() as server, aj.plot(f"{server.address}/loss.json") as plot:
        for step in (1, 2):
            plot.log(step, loss=float(step))
            assert plot.flush(PATIENCE)
            assert last_point(server) == step
    assert {(request.method, request.path) for request in server.requests} == {("PUT", "/loss.json")}
    assert server.requests[0].headers["Content-Type"] == "application/json"
    assert len(set(keys(server))) == len(server.requests) == 2


def test_an_address_may_ask_for_post_and_for_a_page() -> None:
    with serving() as server, aj.plot(f"{server.address}/loss.html?a=b&method=post") as plot:
        plot.log(1, loss=1.0)
        assert plot.flush(PATIENCE)
    assert {(request.method, request.path) for request in server.requests} == {("POST", "/loss.html?a=b")}
    assert b"<!doctype html>" in server.requests[0].body.lower()


# --- trouble --------------------------------------------------------------------------------

FAULTS = {
    "500": Answer(500),
    "503": Answer(503, {"Retry-After": "nonsense"}),
    "429": Answer(429, {"Retry-After": "0"}),
    "403": Answer(403),
    "stall": STALL,
    "reset": RESET,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_the_newest_edition_arrives(
    fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.5)
    with serving(FAULTS[fault]) as server, aj.plot(f"{server.address}/loss") as plot:
        plot.log(1, loss=1.0)
        wait_until(lambda: plot.stats.last_error, "the fault is noticed")
        plot.log(2, loss=2.0)
        assert plot.flush(PATIENCE)
        assert last_point(server) == 2.0
        assert (plot.stats.retries, plot.stats.missing) == (1, ())
    assert len(warnings_in(caplog)) == 1


def test_a_warning_is_given_once_and_every_try_of_an_edition_has_its_key(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Answer(500), RESET, Answer(502)) as server, aj.plot(f"{server.address}/loss") as plot:
        plot.log(1, loss=1.0)
        wait_until(lambda: plot.stats.sent, "it arrives without anybody waiting for it")
        assert plot.stats.retries == 3
    assert len(keys(server)) == 4
    assert len(set(keys(server))) == 1
    assert len(warnings_in(caplog)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["seconds", "date"])
def test_a_server_is_left_alone_as_long_as_it_asks(how: str) -> None:
    asked = "2" if how == "seconds" else email.utils.formatdate(time.time() + 3.0, usegmt=True)  # of whole seconds
    with serving(Answer(429, {"Retry-After": asked})) as server, aj.plot(f"{server.address}/loss", every=0.5) as plot:
        for step in range(2):
            plot.log(step, loss=1.0)
            wait_until(lambda: plot.stats.last_error, "the server says no")
        wait_until(lambda: plot.stats.sent, "it is tried again")
        first, second = server.requests[:2]
        assert second.at - first.at >= 1.9


def test_what_would_be_refused_again_is_not_tried_soon() -> None:
    with serving(Answer(403), Answer(403)) as server:
        plot = aj.plot(f"{server.address}/loss", every=0.5)
        plot.log(1, loss=1.0)
        wait_until(lambda: plot.stats.last_error, "the server says no")
        assert "403" in str(plot.stats.last_error)
        assert not plot.flush(2.0)
        # One try by itself, one because somebody waited.
        assert len(server.requests) == 2
        assert plot.close(PATIENCE)


def test_a_name_that_does_not_resolve_leaves_all_in_the_spool(capsys: pytest.CaptureFixture[str]) -> None:
    plot = aj.plot("http://nowhere.invalid/loss")
    plot.log(1, loss=1.0)
    wait_until(lambda: plot.stats.last_error, "the name does not resolve")
    assert not plot.close(0.1)
    assert "asyncjobs plot resume" in capsys.readouterr().err
    (outcome,) = resume(home())
    assert outcome.target == "http://nowhere.invalid/loss"
    assert outcome.error is not None


def test_what_a_dead_server_did_not_get_a_later_start_brings(caplog: pytest.LogCaptureFixture) -> None:
    with serving(*[STALL] * 9) as server:
        plot = aj.plot(f"{server.address}/loss")
        plot.log(1, loss=7.0)
        wait_until(lambda: server.requests, "the first try")
        assert not plot.close(0.1)
        server.answer = lambda _: Answer()
        assert [outcome.error for outcome in resume(home())] == [None]
        assert last_point(server) == 7.0
        assert len(set(keys(server))) == 1
        assert resume(home()) == []
    assert warnings_in(caplog) == []


# --- redirects ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_redirect_is_followed_with_all_that_was_sent(status: int, method: str) -> None:
    with serving() as other, serving() as server:
        server.answer = lambda request: (
            Answer() if request.path == "/there" else Answer(status, {"Location": f"{place_of(request)}/there"})
        )

        def place_of(request: Request) -> str:
            return server.address if "near" in request.path else other.address

        for start in ("near", "far"):
            address = server.address.replace("//", "//ann:sesame@")
            with aj.plot(f"{address}/{start}?method={method}", title=start) as plot:
                plot.log(1, loss=5.0)
                assert plot.flush(PATIENCE)
        assert [(request.method, request.path) for request in server.requests] == [
            (method, "/near"),
            (method, "/there"),
            (method, "/far"),
        ]
        assert [(request.method, request.path) for request in other.requests] == [(method, "/there")]
        assert (last_point(other), keys(server)[2:]) == (5.0, keys(other))
        assert ["Authorization" in request.headers for request in server.requests] == [True, True, True]
        assert "Authorization" not in other.requests[0].headers, "the password is for the first host"


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_plot_is_a_refusal(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as other, serving(*[Answer(status, {"Location": other.address + "/b?token=sesame"})] * 9) as server:
        plot = aj.plot(f"{server.address}/loss?method=POST", every=0.5)
        plot.log(1, loss=1.0)
        assert not plot.flush(2.0)
        error = str(plot.stats.last_error)
        assert f"the server answered {status} " in error
        assert error.endswith(f", to {other.address}/b")
        assert len(server.requests) <= 2, "it would be refused again"
        assert not plot.close(0.0)
    assert other.requests == []
    assert "sesame" not in capsys.readouterr().err


def test_a_redirect_is_not_followed_to_where_everybody_can_read_it() -> None:
    request = urllib.request.Request("https://example.org/a", b"plot", method="PUT")
    found = web._Redirects().redirect_request(request, io.BytesIO(), 307, "", Message(), "http://example.org/a")
    assert found is None


# --- secrets --------------------------------------------------------------------------------


def test_a_password_goes_to_the_server_and_nowhere_else(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(*[Answer(401)] * 9) as server:
        place = server.address.removeprefix("http://")
        plot = aj.plot(f"http://ann:sesame%21@{place}/loss?token=sesame", every=0.5)
        plot.log(1, loss=1.0)
        wait_until(lambda: plot.stats.last_error, "the server says no")
        said = f"{plot!r} {plot.stats}"
        assert not plot.close(0.5)
    header = base64.b64encode(b"ann:sesame!").decode()
    assert {request.headers["Authorization"] for request in server.requests} == {f"Basic {header}"}
    assert server.requests[0].path == "/loss?token=sesame"
    captured = capsys.readouterr()
    assert "sesame" not in caplog.text + captured.out + captured.err + said
    # The spool has to have it; it is its owner's alone.
    (about,) = tmp_path.rglob("plot.json")
    assert "sesame" in about.read_text()
    assert about.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http:///loss", "names no host"),
        ("https://example.org/x?method=GET", "'GET'.*PUT or POST"),
        ("http://ann:sesame@example.org:x/", "Port"),
    ],
)
def test_a_bad_address_is_refused_at_once(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        aj.plot(address)
    assert "sesame" not in str(caught.value)


@pytest.mark.slow
def test_whoever_closes_while_a_try_is_under_way_gets_one_more_at_once(tmp_path: Path) -> None:
    has_come, go_on = threading.Event(), threading.Event()

    def answer(_: Request) -> Answer:
        if has_come.is_set():
            return Answer()
        has_come.set()
        go_on.wait(60)
        return Answer(429, {"Retry-After": "60"})

    with answering(answer) as server:
        p = aj.plot(f"{server.address}/loss.json", spool=tmp_path)
        p.log(0, y=1.0)
        assert has_come.wait(60)
        with ThreadPoolExecutor(1) as beside:
            closing = beside.submit(p.close, 40)
            wait_until(lambda: p._journal is None, "the close has begun")
            # It hurries in the turn of the loop after the one that this waits for.
            studio.studio().portal.do(int)
            studio.studio().portal.do(int)
            go_on.set()
            assert closing.result(60)
        assert len(server.requests) == 2


def test_of_an_endless_answer_only_the_beginning_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/loss.json"
        sink, sent = web.WebAddress(address), 0

        def serve() -> None:
            nonlocal sent
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    sent += connection.send(bytes(65536))

        server = threading.Thread(target=serve)
        server.start()
        sink.send(Edition("plot", "title", 1, (1, 0, 0), {}))
        server.join(60)
        assert not server.is_alive()
        assert sent < 1000 * web.LONGEST_ANSWER, "what the system keeps between the two comes on top"
