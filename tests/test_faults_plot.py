"""Plots of programs that end badly: killed, interrupted, in a hurry, forked, without a network."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pauses import PauseClock
from plots import shown, small_disk, wait_until
from programs import launching
from servers import Answer, answering

import asyncjobs as aj
from asyncjobs.bench import probes
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.resume import resume as resumed
from asyncjobs.plotting.resume import send_leftovers

PREAMBLE = """
import os, signal, sys, time
import asyncjobs as aj

def say(text):
    print(text, flush=True)

"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with launching(tmp_path, PREAMBLE) as start:
        yield start


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/loss.json"


class Server:
    """Takes every edition, and remembers it."""

    def __init__(self) -> None:
        received: list[tuple[str, bytes]] = []
        self.received = received

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.headers["Idempotency-Key"], body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """It speaks to nobody."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/loss.json"


@contextlib.contextmanager
def serving(port: int | None = None) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server._server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()
        thread.join()


def resume(folder: Path) -> subprocess.CompletedProcess[str]:
    return command("resume", folder)


def command(verb: str, folder: Path, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """``asyncjobs plot VERB FOLDER``, with what is typed at its questions."""
    words = [sys.executable, "-m", "asyncjobs", "plot", verb, str(folder), *options]
    environment = probes.source_environment()
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, input=typed)


# --- kill -9 ----------------------------------------------------------------------------

KILLED = """
p = aj.plot({targets}, every=60, spool={spool})
for step in range(5000):
    p.log(step, loss=1.0 / (step + 1))
p.write([1.0, 2.0], [3.0, 4.0], name="fit")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_was_logged_survives_kill_9_and_is_sent_once(launch: Any, tmp_path: Path) -> None:
    out, spool = tmp_path / "loss.json", tmp_path / "spool"
    program = launch(KILLED.format(targets=repr(str(out)), spool=repr(str(spool))))
    assert program.ends() == -signal.SIGKILL
    done = resume(spool)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"loss to {out}: complete\n"
    found = shown(out)
    assert (found["loss"][0][-1], found["fit"]) == (4999.0, ([1.0, 2.0], [3.0, 4.0]))
    assert not spool.exists()
    spool.mkdir()
    again = resume(spool)
    assert (again.returncode, again.stdout) == (0, f"nothing is left to send below {spool}\n")


@pytest.mark.slow
def test_the_next_start_sends_the_rest_of_a_plot_to_where_it_has_not_arrived(launch: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with serving() as server:
        targets = f"{str(tmp_path / 'old.json')!r}, {server.address!r}"
        assert launch(KILLED.format(targets=targets, spool=repr(str(spool)))).ends() == -signal.SIGKILL
        before = len(server.received)
        with aj.plot(tmp_path / "new.json", spool=spool) as p:
            p.log(0, y=1.0)
            until = time.monotonic() + 20
            while len(server.received) == before or not (tmp_path / "old.json").exists():
                assert time.monotonic() < until
        assert shown(tmp_path / "old.json")["loss"][0][-1] == 4999.0
        assert len(server.received) == before + 1
    assert shown(tmp_path / "new.json") == {"y": ([0.0], [1.0])}


@pytest.mark.slow
def test_the_rest_is_found_from_the_folder_of_the_plot(launch: Any, tmp_path: Path) -> None:
    out = tmp_path / "loss.json"
    assert launch(KILLED.format(targets=repr(str(out)), spool=None)).ends() == -signal.SIGKILL
    done = resume(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"loss to {out}: complete\n")
    assert not (tmp_path / ".asyncjobs-plots").exists()


def leave_two(address: str, spool: Path) -> None:
    """Two plots that never arrived."""
    spool.mkdir(exist_ok=True)
    for title in ("one", "two"):
        apart = spool.with_name(title)  # so that neither tries to send what the other has left
        with aj.plot(f"{address}?{title}", title=title, spool=apart, linger=0.0) as p:
            p.log(0, y=1.0)
        (folder,) = apart.iterdir()
        folder.rename(spool / folder.name)


def test_what_cannot_be_sent_is_tried_and_told_of_once_in_a_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool"
    with answering(lambda _: Answer(500)) as server:
        leave_two(f"{server.address}/loss", spool)
        with aj.plot(tmp_path / "new.json", spool=spool) as p:
            p.log(0, y=1.0)
            wait_until(lambda: "earlier plot" in caplog.text, "somebody tells of it")
        tries = len(server.requests)
        assert send_leftovers(spool, [], "another") == []
        assert len(server.requests) == tries
        (told,) = [record.message for record in caplog.records if "earlier plot" in record.message]
        assert "could not be sent to http://127.0.0.1" in told
        assert "so it is with 1 more" in told
        assert f"`asyncjobs plot discard {spool}` deletes it" in told
        leave_two(f"{server.address}/loss", spool)
        assert send_leftovers(spool, [], "another") == [], "it was said that there are such"
        server.answer = lambda _: Answer()
        wait_until(lambda: resumed(spool) == [] and not spool.exists(), "whoever asks for it gets it")


@pytest.mark.slow
def test_what_is_left_can_be_listed_and_thrown_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, spool = nobody().replace("//", "//ann:sesame@"), tmp_path / "spool"
    leave_two(address, spool)
    folders = sorted(spool.iterdir())
    listed = command("list", spool)
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert [str(folder) in line for folder, line in zip(folders, lines, strict=True)] == [True, True]
    assert sorted(line.split()[2] for line in lines) == ["one", "two"]
    assert "sesame" not in listed.stdout
    refused = command("discard", spool, typed="n\n")
    assert (refused.returncode, sorted(spool.iterdir())) == (1, folders)
    first = command("discard", folders[0], "--yes")
    assert (first.returncode, first.stdout.splitlines()[-1], [*spool.iterdir()]) == (0, "deleted 1", folders[1:])
    with aj.plot(tmp_path / "lives.json", spool=spool) as p:
        p.log(0, y=1.0)
        assert command("discard", spool, typed="y\n").returncode == 0
        p.log(1, y=2.0)
    assert shown(tmp_path / "lives.json")["y"][1] == [1.0, 2.0]
    assert not spool.exists()
    assert command("discard", tmp_path).stdout == "deleted 0\n"
    assert command("list", tmp_path).stdout == f"nothing is left to send below {tmp_path}\n"


@pytest.mark.slow
def test_the_rest_of_a_living_plot_is_left_alone(tmp_path: Path) -> None:
    with aj.plot(tmp_path / "loss.json", spool=tmp_path / "spool", every=60) as p:
        p.log(0, y=1.0)
        done = resume(tmp_path / "spool")
        assert done.stdout.startswith("nothing is left to send")
        p.log(1, y=2.0)
    assert shown(tmp_path / "loss.json")["y"][1] == [1.0, 2.0]


# --- a network that is not there --------------------------------------------------------


@pytest.mark.slow
def test_a_dead_network_costs_a_line_at_the_end_and_the_rest_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    address, spool = nobody(), tmp_path / "spool"
    with aj.plot(address, title="run 7", spool=spool, linger=0.3) as p:
        for step in range(100):
            p.log(step, loss=1.0)
            p.flush(0)
    assert not p.close()
    assert p.stats.missing == (address,)
    assert p.stats.retries >= 1
    told = [record.message for record in caplog.records if "could not be sent" in record.message]
    assert len(told) == 1
    assert "Connection refused" in told[0]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"asyncjobs: plot 'run 7' is not complete at {address} (URLError: ")
    assert f"asyncjobs plot resume {spool}" in line
    failed = resume(spool)
    assert (failed.returncode, "NOT SENT" in failed.stdout) == (1, True)


@pytest.mark.slow
def test_what_was_kept_for_a_server_arrives_once_when_it_is_back(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with serving() as server:
        address = server.address
    with aj.plot(address, spool=spool, linger=0.0) as p:
        p.log(0, loss=1.0)
    (about,) = spool.glob("*/plot.json")
    with serving() as server:
        about.write_text(about.read_text().replace(address, server.address))  # it is back, at another port
        assert resume(spool).returncode == 0
        assert len(server.received) == 1
        assert server.received[0][0].startswith(about.parent.name)


# --- what a last line says --------------------------------------------------------------


def test_rows_that_found_no_room_on_the_disk_are_said_to_be_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path, "256k") as disk:
        p = aj.plot(nobody(), spool=disk / "spool", linger=0.2)
        for step in range(60_000):
            p.log(step, y=1.0)
        assert not p.close()
        assert p.stats.logged == 60_000
        replay = Replay(next((disk / "spool").iterdir()), 100, is_settled=True)
        replay.refresh()
        replay.close()
    assert 0 < replay.rows < 60_000
    assert f"LOST are {60_000 - replay.rows:,} rows, and what else found no room" in capsys.readouterr().err


def wait_for(path: str) -> dict[str, Any]:
    while not os.path.exists(path):
        time.sleep(0.02)
    return {"data": []}


def test_a_plot_that_ends_while_a_picture_is_drawn_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = aj.plot(tmp_path / "loss.json", linger=0.3)
    p.draw(wait_for, str(tmp_path / "go"))
    assert not p.close()
    (tmp_path / "go").touch()
    line = capsys.readouterr().err
    assert "plot 'loss' is not complete: its newest state was not made in time; the rest is in " in line
    assert "LOST" not in line


# --- leaving ----------------------------------------------------------------------------

OPEN = """
p = aj.plot({out!r}, every=60)
for step in range(1000):
    p.log(step, loss=float(step))
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise LookupError('mine')", 1),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    ],
    ids=["end", "exit", "exception", "Ctrl-C"],
)
def test_a_plot_that_nobody_closed_is_complete_or_kept_when_the_program_ends(
    launch: Any, tmp_path: Path, end: str, code: int
) -> None:
    out = tmp_path / "loss.json"
    program = launch(OPEN.format(out=str(out), end=end))
    assert program.ends() == code, program.output
    spool = tmp_path / ".asyncjobs-plots"
    if end.startswith("os.kill") and spool.exists():  # in a hurry: nothing is waited for
        assert resume(spool).returncode == 0
    assert shown(out)["loss"][0][-1] == 999.0
    assert not spool.exists(), [*spool.rglob("*")]


@pytest.mark.slow
@pytest.mark.alone
def test_an_exit_waits_five_seconds_for_a_server_that_does_not_answer(
    launch: Any, tmp_path: Path, clock: PauseClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/loss.json"
        program = launch(
            f"""
            p = aj.plot({address!r}, spool={str(tmp_path / "spool")!r})
            p.log(0, loss=1.0)
            say("ready")
            """
        )
        program.read_until("ready")
        began, counted = time.monotonic(), clock()
        assert program.ends() == 0
        assert time.monotonic() - began > 4.0
        assert clock() - counted < 9.0
    assert "is not complete at" in program.output
    assert list((tmp_path / "spool").glob("*/*.points"))


# --- forks ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.slow
def test_a_forked_child_plots_nothing_and_ends(launch: Any, tmp_path: Path) -> None:
    out = tmp_path / "loss.json"
    program = launch(
        f"""
        p = aj.plot({str(out)!r}, every=60)
        p.log(0, loss=1.0)
        child = os.fork()
        for step in range(1, 10):
            p.log(step, loss=2.0, **({{"child": 3.0}} if not child else {{}}))
            p.write([1], [2], name="of the child" if not child else "of the parent")
        if not child:
            assert p.closed and "closed" in repr(p), p
            assert p.flush(1) and p.close(), "it is the parent's to wait"
            with p:
                pass
            assert (p.stats.dropped, p.stats.logged) == (0, 0)
            sys.exit(5)
        assert not p.closed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        p.close()
        say("closed")
        """
    )
    program.read_until("closed")
    assert program.ends() == 0, program.output
    found = shown(out)
    assert sorted(found) == ["loss", "of the parent"]
    assert found["loss"][0] == [float(n) for n in range(10)]


# --- a spool that somebody meddles with -------------------------------------------------


def test_nonsense_in_the_spool_is_told_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with aj.plot(tmp_path / "loss.json", spool=tmp_path / "spool", every=0.5) as p:
        p.log(0, y=1.0)
        assert p.flush(20)
        (folder,) = (tmp_path / "spool").iterdir()
        bad = folder / "0-000000.points"
        bad.write_bytes(struct.pack("<8sII", b"ajpoint1", 4096, 4).ljust(8192, b"?"))
        p.log(1, y=2.0)
        wait_until(lambda: [one for one in caplog.records if "cannot be read" in one.message], "it is told")
        assert not p.flush(20), "something is there that nobody can read"
        bad.unlink()
        assert p.flush(20)
    assert shown(tmp_path / "loss.json")["y"] == ([0.0, 1.0], [1.0, 2.0])
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1


BAD_PICTURE = """
def bad():
    raise LookupError("no data")

p = aj.plot({out!r}, every=60, spool={spool!r})
p.log(0, y=1.0)
p.draw(bad)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_keeps_nothing_else_from_being_resumed(launch: Any, tmp_path: Path) -> None:
    out, spool = tmp_path / "loss.json", tmp_path / "spool"
    assert launch(BAD_PICTURE.format(out=str(out), spool=str(spool))).ends() == -signal.SIGKILL
    done = resume(spool)
    assert (done.returncode, done.stdout) == (0, f"loss to {out}: complete\n")
    assert "drawing 'bad' failed: LookupError: no data" in done.stderr
    assert shown(out) == {"y": ([0.0], [1.0])}


@pytest.mark.slow
def test_a_spool_with_files_that_others_could_have_written_is_not_deleted(launch: Any, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    targets = repr(str(tmp_path / "loss.json"))
    assert launch(KILLED.format(targets=targets, spool=repr(str(spool)))).ends() == -signal.SIGKILL
    points = next(spool.rglob("*.points"))
    points.chmod(0o666)
    done = resume(spool)
    assert done.returncode == 1
    assert f"NOT SENT, PermissionError: somebody else could have written {points}" in done.stdout
    points.chmod(0o600)
    assert resume(spool).stdout.endswith("complete\n")


# --- limits of the system ---------------------------------------------------------------

MANY_NAMES = """
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with aj.plot({out!r}) as p:
    for layer in range(300):
        p.log(1, **{{f"layer {{layer}}": 1.0}})
    free = os.dup(0)
    is_complete = p.flush(60)
    say(f"{{p.stats.logged}} {{is_complete}} {{free < 40}}")
"""


@pytest.mark.slow
def test_hundreds_of_sets_of_names_take_no_descriptors(launch: Any, tmp_path: Path) -> None:
    out = tmp_path / "loss.json"
    program = launch(MANY_NAMES.format(out=str(out)))
    assert program.ends() == 0, program.output
    assert program.output == "300 True True\n"
    assert len(shown(out)) == 300


NO_DESCRIPTORS = """
import resource

p = aj.plot({out!r}, every=60, linger=1)
p.log(0, y=1.0)
assert p.flush(30)
taken = [os.dup(0) for _ in range(3)]
resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, 100))
p.log(1, y=2.0)
p.log(1, z=2.0)  # in a file of its own, which cannot be opened
say(f"{{p.flush(5)}} {{p.close()}}")
"""


@pytest.mark.slow
def test_what_cannot_be_read_now_is_not_forgotten(launch: Any, tmp_path: Path) -> None:
    out = tmp_path / "loss.json"
    program = launch(NO_DESCRIPTORS.format(out=str(out)))
    assert program.ends() == 0, program.output
    assert "False False\n" in program.output


HOLDER = """
import pathlib

def mapped():
    return pathlib.Path("/proc/self/maps").read_text().count(".points")

def log(p):
    p.log(0, y=1.0)
    return mapped()

with aj.SyncRunner(processes=1) as runner:
    counts = []
    for number in range(5):
        with aj.plot({out!r}.format(number)) as p:
            counts.append(runner.options(lane="process").run(log, p))
say(counts)
"""


@pytest.mark.slow
def test_a_worker_lets_go_of_plots_that_have_ended(launch: Any, tmp_path: Path) -> None:
    program = launch(HOLDER.format(out=str(tmp_path / "loss-{}.json")))
    assert program.ends() == 0, program.output
    assert program.output == "[1, 1, 1, 1, 1]\n"
