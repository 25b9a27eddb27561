"""A service as a process of its own: what it survives, how it ends, what it leaves: `host`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import psutil
import pytest
from pauses import PauseClock, attempts
from services import HERE, ROOT, ServiceProcess, eventually, service

from asyncjobs.service.errors import BadRequest
from asyncjobs.service.host import address_of, carried_through


def starts(path: Path) -> list[list[str]]:
    """The records that attempts have left at their start."""
    if not path.exists():
        return []
    return [line.split() for line in path.read_text().splitlines() if line.split()[3] == "start"]


def has_begun(path: Path, times: int) -> None:
    """Wait until so many attempts have."""
    eventually(lambda: len(starts(path)) == times)


def are_gone(pids: set[int]) -> None:
    """Wait until no process has any of these numbers."""
    eventually(lambda: not any(map(psutil.pid_exists, pids)))


@pytest.mark.slow
def test_it_says_when_it_is_ready_where_it_listens_and_ends_cleanly_by_SIGTERM(tmp_path: Path) -> None:
    with service(tmp_path / "state", "--http", "0") as s:
        line = s.output.strip()
        address = json.loads((s.folder / "address.json").read_text())
        assert (
            line == f"asyncjobs serve: ready, pid {address['pid']}, socket {address['socket']}, http {address['url']}"
        )
        assert address["pid"] == s.process.pid
        assert s.stop() == 0
        assert not (s.folder / "address.json").exists()
        assert not Path(address["socket"]).exists()
        assert [line["event"] for line in s.service_log()] == ["ready", "stopping", "stopped"]
        assert s.output.strip() == line


@pytest.mark.slow
def test_F70_after_a_SIGKILL_its_workers_are_gone_and_a_restart_runs_the_job_again(tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    with service(tmp_path / "state") as s:
        job = s.submit("note_and_wait", str(notes), str(gate))["id"]
        done = s.submit("add", 1, kwargs={"y": 1})["id"]
        once = s.submit("note_and_wait", str(notes), str(gate), at_most_once=True)["id"]
        assert s.value(done) == 2
        eventually(lambda: len(starts(notes)) == 2)
        workers = s.workers()
        s.kill()
        are_gone(workers)
        s.restart()
        has_begun(notes, 3)
        assert f"recovered: the service died while attempt 1 ran ({job})" in s.output
        gate.touch()
        assert s.value(job)
        view = s.job(job)
        assert (view["state"], view["attempt"], view["crashes"]) == ("SUCCEEDED", 2, 1)
        assert s.value(done) == 2
        assert s.ended(once)["state"] == "LOST"
        assert [start[:2] for start in starts(notes) if start[0] == once] == [[once, "1"]]
        assert s.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "state", "runs"),
    [
        ("claim.after_commit=kill@1", "SUCCEEDED", 1),
        ("task.sent=kill@1", "SUCCEEDED", 1),
        ("begin.before_commit=kill@1", "SUCCEEDED", 1),
        ("begin.after_commit=kill@1", "LOST", 0),
        ("result.before_commit=kill@1", "LOST", 1),
    ],
)
def test_P3_what_may_start_once_is_LOST_only_if_it_may_have_begun(
    tmp_path: Path, point: str, state: str, runs: int
) -> None:
    notes = tmp_path / "notes"
    with service(tmp_path / "state", environment={"ASYNCJOBS_FAILPOINTS": point}) as s:
        if point.startswith("claim"):  # one that waits for a place is claimed by itself
            s.ask("POST", "/v1/pause", {"scope": "all"})
        job = ""
        with contextlib.suppress(OSError):  # it may die before it answers
            job = s.submit("note", str(notes), at_most_once=True)["id"]
            s.ask("POST", "/v1/resume", {"scope": "all"})
        assert s.process.wait(20) == -signal.SIGKILL
        del s.environment["ASYNCJOBS_FAILPOINTS"]
        s.restart()
        job = job or s.json("GET", "/v1/jobs")["jobs"][0]["id"]
        view = s.ended(job)
        assert (view["state"], view["attempt"]) == (state, 1)
        assert len(starts(notes)) == runs


def test_P3_what_may_start_once_and_lies_ready_behind_a_long_job_survives_a_SIGKILL(tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    with service(tmp_path / "state", processes=1) as s:
        first = s.submit("note_and_wait", str(notes), str(gate), at_most_once=True)["id"]
        eventually(lambda: starts(notes))
        later = [s.submit("note", str(notes), at_most_once=True)["id"] for _ in range(3)]
        s.kill()
        s.restart()
        assert s.ended(first)["state"] == "LOST"
        assert [s.ended(job)["state"] for job in later] == ["SUCCEEDED"] * 3
        assert sorted(start[0] for start in starts(notes)) == sorted([first, *later])


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "submit.before_commit",
        "submit.after_commit",
        "spawn.before",
        "task.sent",
        "result.received",
        "notify.before",
        "reply.before",
        "shutdown.start",
    ],
)
def test_F68_to_F73_a_SIGKILL_at_a_named_point_loses_nothing_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    with service(tmp_path / "state", environment={"ASYNCJOBS_FAILPOINTS": f"{point}=kill@1"}) as s:
        request = {"function": "service_jobs:sha", "args": ["x"], "key": "the key"}
        with contextlib.suppress(OSError):  # no answer: it may have been accepted, or not
            s.ask("POST", "/v1/jobs", request)
        if point == "shutdown.start":
            s.terminate()
        assert s.process.wait(20) == -signal.SIGKILL
        del s.environment["ASYNCJOBS_FAILPOINTS"]
        s.restart()
        job = s.json("POST", "/v1/jobs", request, status=201)["jobs"][0]
        if point != "notify.before":  # that of another commit may come first
            assert job["is_new"] == (point == "submit.before_commit")
        assert s.value(job["id"]) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
        assert len(s.json("GET", "/v1/jobs")["jobs"]) == 1
        assert [event["kind"] for event in s.events(job["id"])].count("succeeded") == 1


@pytest.mark.slow
def test_F70_its_workers_are_gone_within_2_s_of_a_SIGKILL_and_a_restart_runs_the_job_soon(
    tmp_path: Path, clock: PauseClock
) -> None:
    notes = tmp_path / "notes"
    with service(tmp_path / "state") as s:
        s.submit("note_and_wait", str(notes), str(tmp_path / "never"), max_crashes=9)
        has_begun(notes, 1)
        for times, attempt in enumerate(attempts(4, pause=0), 2):
            workers, began = s.workers(), clock()
            s.kill()
            are_gone(workers)
            gone, began = clock() - began, clock()
            s.restart()
            has_begun(notes, times)
            with attempt:
                assert gone < 2
                assert clock() - began < 10


@pytest.mark.slow
def test_F70_a_service_that_is_killed_leaves_no_temporary_files_for_ever() -> None:
    """Those of multiprocessing lie in its own folder, where its next start removes them."""
    with (
        tempfile.TemporaryDirectory(prefix="aj") as state,  # a socket's path has to be short
        tempfile.TemporaryDirectory(prefix="aj") as elsewhere,
        service(Path(state), environment={"TMPDIR": elsewhere}) as s,
    ):
        for _ in range(2):
            assert s.value(s.submit("add", 1)["id"]) == 1
            assert len(list((s.folder / "run").glob("pymp-*"))) == 1
            s.kill()
            s.restart()
        assert s.value(s.submit("add", 1)["id"]) == 1
        assert s.stop() == 0
        assert not list((s.folder / "run").iterdir())
        assert not os.listdir(elsewhere)


async def test_F76_what_is_closed_when_the_disk_has_failed_is_closed_to_the_end() -> None:
    done: list[str] = []

    async def close() -> None:
        await asyncio.sleep(0.01)
        done.append("closed")

    closing = asyncio.ensure_future(carried_through(close))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert done == ["closed"]


@pytest.mark.slow
def test_F76_a_disk_that_fails_ends_the_service_with_74_and_what_was_accepted_stands(tmp_path: Path) -> None:
    with service(tmp_path / "state", environment={"ASYNCJOBS_FAILPOINTS": "result.before_commit=errno:EIO@1"}) as s:
        job = s.submit("add", 1)["id"]
        assert s.process.wait(10) == 74
        s._take_rest()
        assert "Traceback" not in s.output
        del s.environment["ASYNCJOBS_FAILPOINTS"]
        s.restart()
        assert s.value(job) == 1
        assert s.job(job)["attempt"] == 2


@pytest.mark.slow
def test_F68_to_F74_kills_at_any_moment_lose_nothing_and_end_each_job_once(tmp_path: Path) -> None:
    """The service is killed again and again while keyed jobs are submitted, repeated where no answer came."""
    notes, random = tmp_path / "notes", Random(7)
    keys = [f"job {number}" for number in range(40)]
    with service(tmp_path / "state") as s:
        ids: dict[str, str] = {}
        for round_ in range(6):
            until = time.monotonic() + random.uniform(0.05, 0.6)
            while time.monotonic() < until:
                key = random.choice(keys)
                request = {"function": "service_jobs:note", "args": [str(notes), key, 0.02], "key": key}
                job = s.json("POST", "/v1/jobs", {**request, "max_crashes": 20}, status=201)["jobs"][0]
                assert ids.setdefault(key, job["id"]) == job["id"], "one key, two jobs"
            if round_ < 5:
                s.kill()
                s.restart()
        views = {key: s.ended(job) for key, job in ids.items()}
        assert {view["state"] for view in views.values()} == {"SUCCEEDED"}
        assert len(s.json("GET", "/v1/jobs?limit=100")["jobs"]) == len(ids)
        for key, job in ids.items():
            assert s.value(job) == hashlib.sha256(key.encode()).hexdigest()
            kinds = [event["kind"] for event in s.events(job)]
            assert kinds.count("succeeded") == 1
            assert kinds[-1] == "succeeded"
            assert kinds.count("claimed") >= views[key]["attempt"]
        _check_no_overlap(notes)


def _check_no_overlap(notes: Path) -> None:
    """No two attempts of a job ran at once: each begins after the end of the one before, or after its process died."""
    spans: dict[str, list[tuple[int, str, str]]] = {}
    for line in notes.read_text().splitlines():
        job, attempt, pid, what, at = line.split()
        spans.setdefault(job, []).append((int(at), what, f"{attempt} {pid}"))
    for marks in spans.values():
        marks.sort()
        open_ = ""
        for _, what, who in marks:
            assert what == "start" or who == open_, marks
            open_ = who if what == "start" else ""


@pytest.mark.slow
def test_F79_a_second_one_on_the_same_state_says_who_runs_and_leaves(tmp_path: Path) -> None:
    with service(tmp_path / "state") as s:
        second = ServiceProcess(tmp_path / "state", ready=False)
        try:
            assert second.ends() == 75
            assert f"already running, pid {s.process.pid}, socket {s.socket}" in second.output
        finally:
            second.close()
        assert s.value(s.submit("add", 1)["id"]) == 1
        s.kill()
        with service(tmp_path / "state") as third:  # no stale lock
            assert third.value(third.submit("add", 2)["id"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--http", "nowhere"), 2, "--http takes"),
        (("--http", "0.0.0.0:0"), 2, "allow-remote"),
        (("--allow", "os"), 2, "--allow takes"),
        (("--http", "0.0.0.0:8599"), 2, "ssh -L 8599:127.0.0.1:8599"),
        (("--http", "127.0.0.1:0", "--tls-cert", "x"), 2, "--tls-key"),
        (("--http", "127.0.0.1:0", "--tls-cert", "no.crt", "--tls-key", "no.key"), 2, "no.crt"),
        (("--http", "127.0.0.1:0", "--tls-cert", __file__, "--tls-key", __file__), 2, "cannot be used"),
        (("--tls-cert", "x"), 2, "--http"),
        (("--allow-remote",), 2, "--http"),
    ],
)
def test_a_setting_that_is_not_allowed_is_said_in_one_line(
    tmp_path: Path, options: tuple[str, ...], code: int, text: str
) -> None:
    with service(tmp_path / "state", *options, ready=False) as s:
        assert s.ends() == code
        assert text in s.output
        assert len(s.output.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_state_directory_that_others_may_write_is_refused_with_65(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "something").touch()
    with service(folder, ready=False) as s:
        assert s.ends() == 65
        assert str(folder) in s.output


@pytest.mark.slow
def test_SIGTERM_lets_what_runs_end_and_keeps_what_waits(tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    with service(tmp_path / "state", processes=1) as s:
        job = s.submit("note_and_wait", str(notes), str(gate))["id"]
        eventually(lambda: starts(notes))
        queued = s.submit("add", 1)["id"]
        s.terminate()
        eventually(lambda: s.service_log()[-1]["event"] == "stopping")
        assert s.ask("POST", "/v1/jobs", {"function": "service_jobs:add", "args": [1]})[0] == 503
        assert s.job(job)["state"] == "RUNNING"
        gate.touch()
        assert s.ends() == 0
        s.restart()
        assert s.job(job)["state"] == "SUCCEEDED"
        assert s.value(queued) == 1


@pytest.mark.slow
def test_a_drain_that_takes_too_long_is_cut(tmp_path: Path, clock: PauseClock) -> None:
    notes = tmp_path / "notes"
    with service(tmp_path / "state", "--drain", "0.2") as s:
        job = s.submit("note_and_wait", str(notes), str(tmp_path / "never"))["id"]
        for times, attempt in enumerate(attempts(4, pause=0), 1):
            has_begun(notes, times)
            began = clock()
            assert s.stop() == 0
            took = clock() - began
            s.restart()
            assert s.job(job)["crashes"] == 0
            with attempt:
                assert took < 0.2 + 5


@pytest.mark.slow
def test_a_second_signal_cuts_a_drain_at_once(tmp_path: Path, clock: PauseClock) -> None:
    notes = tmp_path / "notes"
    with service(tmp_path / "state", "--drain", "60") as s:
        job = s.submit("note_and_wait", str(notes), str(tmp_path / "never"))["id"]
        for times, attempt in enumerate(attempts(4, pause=0), 1):
            has_begun(notes, times)
            began = clock()
            s.terminate()
            eventually(lambda: s.service_log()[-1]["event"] == "stopping")
            s.terminate(signal.SIGINT)
            assert s.ends() == 0
            took = clock() - began
            s.restart()
            assert s.job(job)["crashes"] == 0
            with attempt:
                assert took < 6


@pytest.mark.slow
def test_F103_the_token_is_nowhere_but_in_its_file(tmp_path: Path) -> None:
    secret = {"ASYNCJOBS_TOKEN": "hidden-from-jobs", "NOTIFY_SOCKET": str(tmp_path / "none")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "none"))
        notified.settimeout(5)
        with service(tmp_path / "state", "--http", "0", environment=secret) as s:
            assert notified.recv(100) == b"READY=1"
            seen = s.value(s.submit("environment")["id"])
            assert not {"ASYNCJOBS_TOKEN", "NOTIFY_SOCKET"} & set(seen)
            token = (s.folder / "token").read_bytes()
            s.stop()
            assert notified.recv(100) == b"STOPPING=1"
            holders = [path for path in s.folder.rglob("*") if path.is_file() and token in path.read_bytes()]
            assert holders == [s.folder / "token"]


@pytest.mark.slow
def test_F98_all_files_are_private_from_birth_and_jobs_have_the_umask_of_who_started_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with service(tmp_path / "state") as s:
            made = tmp_path / "made"
            s.value(s.submit("note", str(made))["id"])
            s.value(s.submit("say", "x")["id"])
            for path in (s.folder, *s.folder.rglob("*")):
                found = path.lstat()
                mode = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
                assert stat.S_IMODE(found.st_mode) == mode, path
            assert stat.S_IMODE((s.folder / "address.json").stat().st_mode) == 0o600
            s.value(s.submit("append", str(tmp_path / "other"), "x")["id"])
    finally:
        os.umask(before)


@pytest.mark.slow
def test_an_idle_service_starts_no_workers_and_uses_no_processor_time(tmp_path: Path) -> None:
    with service(tmp_path / "state") as s:
        assert not s.workers()
        process = psutil.Process(s.process.pid)
        eventually(lambda: s.ask("GET", "/health")[0] == 200)
        used = _processor_time(process)
        time.sleep(2.0)  # there is nothing to wait for: that is the point
        assert _processor_time(process) - used <= 0.011


def _processor_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="smaps are Linux's")
def test_the_service_process_is_small(tmp_path: Path) -> None:
    with service(tmp_path / "state") as s:
        s.value(s.submit("add", 1)["id"])
        pss = psutil.Process(s.process.pid).memory_full_info().pss
        assert pss <= 80e6, f"{pss / 1e6:.1f} MB"


FROZEN = """
import atexit, gc
atexit.register(lambda: print("frozen", gc.get_freeze_count()))
from asyncjobs.cli import main
main()
"""


@pytest.mark.slow
def test_the_collector_leaves_out_what_the_imports_made(tmp_path: Path) -> None:
    """Its last look, at the very end, took a quarter of the processor time of a short service."""
    command = [sys.executable, "-c", FROZEN, "serve", "--dir", str(tmp_path / "state"), "--http", "none"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert int(done.stdout.removeprefix("frozen")) > 10_000


@pytest.mark.slow
def test_modules_are_found_in_the_folder_where_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text("def answer():\n    return 42\n")
    with ServiceProcess(tmp_path / "state", allow=("study.*",), ready=False) as s:
        s.close()
        command = [sys.executable, "-c", "from asyncjobs.cli import main; main()", *s.command[3:]]
        s.process = subprocess.Popen(
            command, cwd=tmp_path, env={**s.environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        )
        assert s.process.stdout is not None
        s._near = os.dup(s.process.stdout.fileno())
        s.process.stdout.close()
        s.read_until("ready")
        assert s.value(s.submit("study:answer")["id"]) == 42


def test_addresses() -> None:
    assert address_of("8080") == ("127.0.0.1", 8080)
    assert address_of(":8080") == ("127.0.0.1", 8080)
    assert address_of("[::1]:0") == ("[::1]", 0)
    for text in ("", "host", "host:", "host:x", "1:99999"):
        with pytest.raises(BadRequest):
            address_of(text)


def test_here_is_where_the_jobs_are() -> None:
    assert (HERE / "service_jobs.py").exists()
