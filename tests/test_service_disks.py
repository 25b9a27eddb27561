"""A service on disks that are full, cannot be written to, or move away; without descriptors (F64, F75, F76, F80)."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from damaged import files_of, small_disk
from services import ServiceProcess, eventually, service
from stored import check_sound
from test_service_cli import aj

from asyncjobs.service.store.checking import Evidence, check


@contextlib.contextmanager
def mounted(*command: str) -> Iterator[None]:
    """While something is mounted at the last word of the command."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("F80: root only may mount")
    if subprocess.run(["mount", *command]).returncode != 0:
        pytest.skip("F80: this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", command[-1]], check=True)


def fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)


def submit_until_refused(s: ServiceProcess) -> tuple[list[str], dict[str, str]]:
    """What was accepted, and the refusal."""
    accepted = []
    while True:
        request = {"function": "service_jobs:sha", "args": [str(len(accepted)) * 3000], "key": str(len(accepted))}
        status, body = s.ask("POST", "/v1/jobs", request)
        if status != 201:
            return accepted, {"status": str(status), **json.loads(body)}
        accepted.append(json.loads(body)["jobs"][0]["id"])


@pytest.mark.slow
def test_F75_a_full_disk_refuses_submits_ends_what_runs_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    notes, gate = str(tmp_path / "notes"), tmp_path / "gate"
    with small_disk(tmp_path / "disk", "1m") as disk, service(disk / "state") as s:
        running = [s.submit("note_and_wait", notes, str(gate), str(n))["id"] for n in range(2)]
        for job in running:
            s.reaches(job, "RUNNING")
        accepted, refusal = submit_until_refused(s)
        assert (refusal["status"], refusal["error"]) == ("507", "StorageFull")
        assert len(accepted) > 10
        fill_up(disk / "filler")
        assert len(s.json("GET", "/v1/jobs?limit=1000")["jobs"]) == len(accepted) + 2, "reading goes on"
        gate.touch()  # what runs ends: its result is written down now, or kept until there is room
        assert s.ask("POST", "/v1/jobs", {"function": "service_jobs:sha", "args": ["x" * 400_000]})[0] == 507
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        for job in running:
            assert s.value(job)
            assert s.job(job)["attempt"] == 1
        for job in accepted:
            assert s.ended(job)["state"] == "SUCCEEDED"
        assert s.value(s.submit("add", 1)["id"]) == 1
        assert s.stop() == 0
        assert check(Evidence(disk / "state" / "jobs.db", is_drained=True, stderr=s.output)).violations == []


@pytest.mark.slow
def test_F75_a_start_on_a_full_disk_says_so_in_one_line_and_later_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk, service(disk / "state") as s:
        job = s.submit("add", 1, delay=2.0)["id"]
        s.kill()
        (disk / "state" / "ballast").write_bytes(b"")  # it has been of use before
        fill_up(disk / "filler")
        s.restart(ready=False)
        refused_for_want_of_room(s)
        with service(disk / "new", ready=False) as new:
            refused_for_want_of_room(new)
        (disk / "filler").unlink()
        s.restart()
        assert s.value(job) == 1
        assert s.stop() == 0


def refused_for_want_of_room(s: ServiceProcess) -> None:
    code = s.ends()
    lines = [line for line in s.output.splitlines() if "lies in memory" not in line]
    assert (code, lines) == (74, [f"asyncjobs serve: the disk under {s.folder} is full; make room and start again"])


@pytest.mark.slow
def test_F76_F80_a_disk_that_cannot_be_written_to_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with service(folder / "state") as s:
        s.value(s.submit("add", 1)["id"])
        assert s.stop() == 0
        before = files_of(folder / "state" / "jobs.db")
        with mounted("--bind", str(folder), str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            for target in ("state", "new"):
                with service(folder / target, ready=False) as refused:
                    code = refused.ends()
                    assert (code, refused.output.count("\n")) in [(65, 1), (73, 1), (74, 1)], refused.output
                    assert str(folder) in refused.output
            assert files_of(folder / "state" / "jobs.db") == before
        s.restart()
        assert len(s.json("GET", "/v1/jobs")["jobs"]) == 1
        assert s.stop() == 0


@pytest.mark.slow
def test_F80_a_layer_of_a_container_is_warned_of_and_serves(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    merged = tmp_path / "merged"
    with mounted("-t", "overlay", "-o", layers, "overlay", str(merged)), service(merged / "state") as s:
        assert s.value(s.submit("large", 400_000)["id"]) == b"x" * 400_000
        assert "container's own layer" in (s.folder / "logs" / "service.log").read_text()
        s.kill()
        s.restart()
        assert len(s.json("GET", "/v1/jobs")["jobs"]) == 1
        assert s.stop() == 0


@pytest.mark.slow
def test_F80_a_state_directory_that_is_moved_while_it_is_served_stays_the_only_one(tmp_path: Path) -> None:
    old, new = tmp_path / "state", tmp_path / "moved"
    with service(old) as s:
        before = s.submit("add", 1)["id"]
        assert s.value(before) == 1
        old.rename(new)
        s.folder = new
        with contextlib.suppress(OSError):
            s.submit("add", 2, key="after")
        s.terminate()
        s.process.wait(30)
        assert not (old / "jobs.db").exists()
        s.command[s.command.index(str(old))] = str(new)
        s.restart()
        job = s.submit("add", 2, key="after")["id"]
        assert (s.value(before), s.value(job)) == (1, 2)
        assert s.stop() == 0
        assert not (old / "jobs.db").exists()
    check_sound(new / "jobs.db")


@pytest.mark.slow
def test_F64_a_service_that_has_no_descriptors_left_goes_on_when_it_has(tmp_path: Path) -> None:
    with service(tmp_path / "state", under=("sh", "-c", 'ulimit -n 80; exec "$@"', "sh")) as s:
        assert s.value(s.submit("add", 1)["id"]) == 1
        with contextlib.ExitStack() as callers:
            for _ in range(100):
                caller = callers.enter_context(socket.socket(socket.AF_UNIX))
                caller.settimeout(10)
                caller.connect(str(s.socket))
            with contextlib.suppress(ConnectionError):  # one that is beyond what there is room for
                caller.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert caller.recv(1) == b""
        assert eventually(lambda: answers(s))
        assert s.value(s.submit("large", 400_000)["id"]) == b"x" * 400_000
        assert s.stop() == 0
        assert len(s.said.splitlines()) < 10, "nobody is told of each of them"


def answers(s: ServiceProcess) -> bool:
    with contextlib.suppress(ConnectionError):
        return s.ask("GET", "/health")[0] == 200
    return False


@pytest.mark.slow
def test_F64_jobs_that_wait_for_want_of_descriptors_say_so_and_start_when_there_are_some(tmp_path: Path) -> None:
    with service(tmp_path / "state", processes=1) as s:
        pid = s.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, usual[1]))  # enough for those who ask
        job = s.submit("add", 1)["id"]
        assert eventually(lambda: s.json("GET", "/health")["trouble"])
        trouble = s.json("GET", "/v1/stats")["trouble"]
        assert "no worker could be started" in trouble
        assert "no descriptors are left" in trouble
        for command in (["show", job], ["jobs"], ["stats"]):
            done = aj(s, *command)
            assert "no descriptors are left" in " ".join((done.stdout + done.stderr).split()), command
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert s.value(job) == 1
        assert s.json("GET", "/health")["trouble"] == ""
        assert aj(s, "show", job).stderr == ""
        log = (s.folder / "logs" / "service.log").read_text()
        assert log.count("no worker could be started") == 1
        assert log.count("jobs are started again") == 1
        assert s.stop() == 0
