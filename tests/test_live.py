"""The live page's server: who gets in, what readers are told, and how it ends. With real connections, no browser."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import BOUND, Reader, address_in, ask, changed, points, printed_address
from pauses import PauseClock
from plots import end_studio
from programs import Program, launching

import asyncjobs as aj
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.live.board import MOST_OVER
from asyncjobs.plotting.live.delta import delta
from asyncjobs.plotting.live.sink import LivePage
from asyncjobs.plotting.resume import resume

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _no_studio: None) -> None:
    """Spools and tokens of these tests are not the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with launching(tmp_path, f"import asyncjobs as aj, os, time\nos.chdir({str(tmp_path)!r})\n") as start:
        yield start


@pytest.fixture
def address(capsys: Capture) -> Iterator[str]:
    """Of a page with one plot of one point."""
    with aj.plot("live:", title="run", every=0.5) as p:
        p.log(0, loss=4.0)
        p.flush(BOUND)
        yield printed_address(capsys)


def column(values: list[float], kind: str = "f8") -> dict[str, str]:
    """As plotly's JSON has it."""
    return {"dtype": kind, "bdata": base64.b64encode(array("d" if kind == "f8" else "f", values)).decode()}


def edition(number: int, ys: list[float]) -> Edition:
    """A plot with one curve."""
    xs = [float(x) for x in range(len(ys))]
    trace = {"type": "scatter", "name": "loss", "x": column(xs), "y": column(ys)}
    text = json.dumps({"data": [trace], "layout": {}})
    return Edition("p", "run", number, (number,), {"run": text})


# --- who gets in --------------------------------------------------------------------------


def test_the_page_may_load_and_tell_nothing_elsewhere(address: str) -> None:
    answer, body = ask(address)
    assert answer.status == 200
    assert b"page.js" in body
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["", "news", "plotly.js", "page.js", "look.js", "page.css"])
def test_without_the_token_nobody_gets_anything(address: str, name: str) -> None:
    wrong = address[:-2] + ("a/" if address[-2] != "a" else "b/")
    for guess in (wrong, address.partition("/")[0] + "//" + urlsplit(address).netloc + "/"):
        answer, body = ask(guess, name)
        assert (answer.status, body) == (404, b"")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "192.168.1.2"])
def test_a_name_that_somebody_else_points_here_gets_nothing(address: str, host: str) -> None:
    answer, body = ask(address, Host=host)
    assert (answer.status, body) == (421, b"")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1:1234", "localhost"])
def test_a_tunnel_may_have_another_port(address: str, host: str) -> None:
    assert ask(address, Host=host)[0].status == 200


def test_other_names_and_methods_get_nothing(address: str) -> None:
    assert ask(address, "../../etc/passwd")[0].status == 404
    assert ask(address, "page.html")[0].status == 404
    assert ask(address, method="POST")[0].status == 405


@pytest.mark.parametrize(
    "text", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x" * 70_000]
)
def test_what_is_no_request_is_cut_off_and_the_page_goes_on(address: str, text: bytes) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=BOUND) as one:
        one.sendall(text)
        try:
            assert one.recv(100) == b""
        except ConnectionResetError:  # it did not read all of it
            pass
    assert ask(address)[0].status == 200


def test_it_listens_on_this_machine_alone(address: str) -> None:
    heard = [one.laddr for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN]
    assert ("127.0.0.1", urlsplit(address).port) in heard
    assert {ip for ip, _ in heard} == {"127.0.0.1"}


def test_a_plot_that_goes_elsewhere_opens_no_port(tmp_path: Path) -> None:
    with aj.plot(tmp_path / "loss.html") as p:
        p.log(0, loss=1.0)
        assert p.flush(BOUND)
        assert [one for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN] == []


def test_plotly_js_is_the_installed_one_and_is_sent_once(address: str) -> None:
    answer, body = ask(address, "plotly.js")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    again, nothing = ask(address, "plotly.js", If_None_Match=answer.headers["ETag"])
    assert (again.status, nothing) == (304, b"")


# --- targets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["live:8000", "live://0.0.0.0:8000", "live://example.org", "live://127.0.0.1:70000", "live://127.0.0.1:x"]
)
def test_a_target_that_is_no_live_page_is_refused_with_what_is_allowed(target: str) -> None:
    with pytest.raises(ValueError, match=f"{target}.*allowed: 'live:'"):
        aj.plot(target)


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1"):
            aj.plot(f"live://127.0.0.1:{port}")


def test_the_address_is_printed_once_and_holds_for_all_plots(capsys: Capture) -> None:
    with aj.plot("live:", title="one") as one, aj.plot("live:", title="two") as two:
        lines = capsys.readouterr().err.splitlines()
        one.log(0, a=1.0)
        two.log(0, a=2.0)
        with Reader(address_in("\n".join(lines))) as reader:
            reader.wait_until(lambda it: it.last("one", "a") == 1.0 and it.last("two", "a") == 2.0)
    assert len(lines) == 1


@pytest.mark.slow
def test_an_address_with_a_port_stays_the_same_and_only_its_user_can_read_the_token(
    tmp_path: Path, launch: Callable[..., Program]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = f"aj.plot('live://127.0.0.1:{port}').close()"
    addresses = set()
    for _ in range(2):
        program = launch(text)
        assert program.ends() == 0, program.output
        addresses.add(address_in(program.output))
    assert len(addresses) == 1
    kept = tmp_path / "state" / "asyncjobs" / "live-token"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text() in addresses.pop()
    kept.chmod(0o644)  # others may have read it
    program = launch(text)
    assert program.ends() == 0
    assert kept.read_text() in address_in(program.output)
    assert kept.stat().st_mode & 0o777 == 0o600


# --- what readers are told ----------------------------------------------------------------


def test_a_reader_gets_the_whole_and_then_only_what_is_new(capsys: Capture) -> None:
    with aj.plot("live:", title="run", every=0.5, max_points=64) as p:
        with Reader(printed_address(capsys)) as reader:
            for step in range(500):  # thinned more than once
                p.log(step, loss=step % 7 + step / 100)
                if step % 50 == 49:
                    p.flush(BOUND)
                    reader.wait_until(lambda it, now=step % 7 + step / 100: it.last("run", "loss") == now)
            trace = reader.trace("run", "loss")
            assert reader.kinds[0] == "whole"
            assert reader.kinds.count("delta") >= 5
        with Reader(printed_address_again(p)) as late:
            late.wait_until(lambda it: it.trace("run", "loss"))
            assert late.kinds == ["whole"]
            assert late.trace("run", "loss") == trace


def printed_address_again(plot: aj.Plot) -> str:
    """Of the page of a plot that is open."""
    return next(iter(plot._sinks[0]._site._addresses.values()))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_reader_is_told_at_most_five_times_a_second(capsys: Capture) -> None:
    sink = LivePage("live:")
    began = time.monotonic()
    with Reader(printed_address(capsys)) as reader:
        for number in range(1, 400):
            sink.send(edition(number, [1.0] * number))
            time.sleep(0.005)  # 2 s of them
        reader.wait_until(lambda it: len(points(it.trace("run", "loss") or {"y": column([])})) == 399)
        # What a slow machine adds to the time it takes away from the number.
        assert 2 <= reader.events <= (time.monotonic() - began) * 5 + 2


def test_a_reader_hears_from_time_to_time_that_there_is_nothing_new(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncjobs.plotting.live.site.BEAT", 0.1)
    LivePage("live:")
    with Reader(printed_address(capsys)) as reader:
        assert all(reader.next() for _ in range(3))
        assert reader.kinds == []


@pytest.mark.slow
def test_a_reader_that_does_not_read_costs_no_memory_and_gets_the_newest_later(capsys: Capture) -> None:
    sink = LivePage("live:")
    with Reader(printed_address(capsys), buffer=4096) as reader:
        process = psutil.Process()
        sink.send(edition(1, [1.0] * 100_000))
        before = process.memory_info().rss
        for number in range(2, 62):  # more than 2 MB each
            sink.send(edition(number, [float(number)] * 100_000))
        assert process.memory_info().rss - before < 60e6
        reader.wait_until(lambda it: it.last("run", "loss") == 61.0)
        assert reader.events < 20


def test_what_goes_into_the_page_is_one_line_whatever_a_drawing_holds(address: str) -> None:
    pretty = json.dumps({"data": [{"type": "bar", "y": [1, 2], "text": "a\nb\r\n\nc"}]}, indent=2)
    sink = LivePage("live:")
    sink.send(Edition("q", "drawn", 1, (1,), {"drawn": pretty}))
    with Reader(address) as reader:
        reader.wait_until(lambda it: "q" in it.whole)
        assert reader.whole["q"]["figures"]["drawn"] == json.loads(pretty)


def test_a_drawing_with_values_that_are_no_numbers_is_json_all_the_same(capsys: Capture) -> None:
    with aj.plot("live:", title="run") as p, Reader(printed_address(capsys)) as reader:
        p.draw({"data": [{"type": "bar", "y": [1.0, float("nan"), float("inf")]}]}, name="bars")
        reader.wait_until(lambda it: it.whole)
        (whole,) = reader.whole.values()
        assert whole["figures"]["bars"]["data"][0]["y"] == [1.0, None, None]


# --- the end ------------------------------------------------------------------------------


def test_a_plot_that_ended_stays_and_says_so_until_newer_ones_have_taken_its_place(capsys: Capture) -> None:
    with aj.plot("live:", title="0") as first:
        first.log(0, a=0.0)
    address = printed_address(capsys)
    with Reader(address) as reader:
        reader.wait_until(lambda it: it.is_over)
        assert [*reader.is_over.values()] == [True]
        for number in range(1, MOST_OVER + 1):
            with aj.plot("live:", title=str(number)) as p:
                p.log(0, a=float(number))
        reader.wait_until(lambda it: it.last(str(MOST_OVER), "a") == MOST_OVER and all(it.is_over.values()))
        titles = [reader.whole[plot]["title"] for plot in reader.is_over]
        assert titles == [str(number) for number in range(MOST_OVER, 0, -1)]


def test_close_waits_until_every_reader_has_the_last_point(capsys: Capture) -> None:
    p = aj.plot("live:", title="run", every=60.0)
    with Reader(printed_address(capsys)) as reader:
        p.log(0, loss=0.0)
        p.flush(BOUND)
        reader.wait_until(lambda it: it.last("run", "loss") == 0.0)
        # So soon after this message another one has to wait.
        p.log(1, loss=1.0)
        assert p.close()
        end_studio()  # what has not been sent by now never is
        reader.wait_until(lambda it: it.last("run", "loss") == 1.0 and [*it.is_over.values()] == [True])
        assert not reader.next()


@pytest.mark.slow
def test_a_reader_that_is_stuck_holds_no_close_up(capsys: Capture, clock: PauseClock) -> None:
    sink = LivePage("live:")
    with Reader(printed_address(capsys), buffer=4096):
        sink.send(edition(1, [1.0] * 1_000_000))
        began = clock()
        sink.close()
        assert clock() - began < 10


@pytest.mark.slow
def test_a_program_ends_while_pages_are_open_and_they_have_its_last_point(launch: Callable[..., Program]) -> None:
    program = launch("""
        p = aj.plot("live:", title="run")
        p.log(0, loss=0.5)
        p.flush()
        time.sleep(1.0)
        p.log(1, loss=0.25)
    """)
    address = address_in(program.read_until("/\n"))
    with Reader(address) as reader:
        reader.wait_until(lambda it: it.last("run", "loss") == 0.25 and [*it.is_over.values()] == [True])
        assert not reader.next()
    assert program.ends() == 0
    assert "Traceback" not in program.output


@pytest.mark.slow
def test_a_forked_child_does_not_keep_the_port(launch: Callable[..., Program]) -> None:
    program = launch("""
        p = aj.plot("live:")
        if os.fork() == 0:
            print(f"<{os.getpid()}> sleeps", flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    """)
    text = program.read_until("sleeps")
    child = int(text.rpartition("<")[2].partition(">")[0])
    program.process.kill()
    program.process.wait()
    try:
        assert psutil.pid_exists(child)
        with pytest.raises(ConnectionRefusedError):
            ask(address_in(text))
    finally:
        os.kill(child, 9)


@pytest.mark.slow
def test_resume_has_nothing_to_send_to_a_page_that_is_gone(tmp_path: Path, launch: Callable[..., Program]) -> None:
    program = launch("""
        p = aj.plot("live:", "loss.json", spool="spool")
        p.log(0, loss=0.5)
        os.kill(os.getpid(), 9)
    """)
    assert program.ends() == -9
    outcomes = resume(tmp_path / "spool")
    assert [(outcome.title, outcome.error) for outcome in outcomes] == [("plot", None)]
    assert json.loads((tmp_path / "loss.json").read_text())["data"]
    assert not (tmp_path / "spool").exists()
    assert [one for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN] == []


# --- deltas -------------------------------------------------------------------------------

COLUMNS = st.tuples(st.sampled_from(["f8", "f4"]), st.lists(st.sampled_from([0.0, 1.0, 2.5]), max_size=12))
TRACES = st.fixed_dictionaries(
    {"x": st.one_of(COLUMNS.map(lambda one: column(one[1], one[0])), st.just([1, 2])), "name": st.sampled_from("ab")}
).flatmap(lambda trace: COLUMNS.map(lambda one: trace | {"y": column(one[1], one[0])}))
FIGURES = st.dictionaries(
    st.sampled_from(["run", "bars"]),
    st.fixed_dictionaries({"data": st.lists(TRACES, max_size=3), "layout": st.sampled_from([{}, {"height": 3}])}),
)


@pytest.mark.slow
@given(before=FIGURES, after=FIGURES)
def test_a_delta_makes_the_new_figures_of_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    text = delta(before, after)
    if text is None:
        assert [*before] != [*after]
    else:
        assert changed(before, json.loads(text)) == after


def test_a_delta_of_a_curve_that_grew_is_its_new_points() -> None:
    before, after = ({"run": json.loads(edition(1, [0.5] * n).figures["run"])} for n in (1000, 1001))
    text = delta(before, after)
    assert text is not None
    assert len(text) < 200
    assert json.loads(text)["run"]["ends"][0][1] == 1000
