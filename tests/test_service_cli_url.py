"""The service's commands over TCP, as users type them: ``--url``, with the token in a file or a variable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from services import ServiceProcess, eventually, service
from test_service_cli import environment

import asyncjobs as aj_

pytestmark = pytest.mark.may_leak("a service that several tests share starts and replaces workers in any of them")

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service that listens on TCP."""
    with service(tmp_path_factory.mktemp("url") / "state", "--http", "0", processes=1) as running:
        yield running
        assert running.stop() == 0


def url_of(served: ServiceProcess) -> str:
    return str(json.loads((served.folder / "address.json").read_text())["url"])


def aj(*args: str, token: str | None = None) -> Done:
    """A command that has ended; no directory of its own would lead it to a service."""
    variables = {**environment(None), "ASYNCJOBS_DIR": "/nowhere/at/all"}
    if token is not None:
        variables["ASYNCJOBS_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-m", "asyncjobs", *args], capture_output=True, text=True, check=False, timeout=60,
        env=variables, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def over(served: ServiceProcess, command: str, *args: str) -> Done:
    """The command at the service's URL, with the file of its token."""
    return aj(command, *args, "--url", url_of(served), "--token-file", str(served.folder / "token"))


def told(served: ServiceProcess, command: str, *args: str) -> Any:
    """What it says with ``--json``."""
    done = over(served, command, *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_jobs_are_given_followed_looked_at_and_listed(serving: ServiceProcess) -> None:
    done = over(serving, "run", "service_jobs:say", "--arg", '"hello"')
    assert (done.returncode, done.stdout) == (0, "hello\n1\n"), done.stderr
    job = over(serving, "submit", "service_jobs:add", "--arg", "2", "--tag", "mine").stdout.strip()
    serving.ended(job)
    shown = told(serving, "show", job)
    assert (shown["state"], shown["value"]) == ("SUCCEEDED", 2)
    assert [one["id"] for one in told(serving, "jobs", "--tag", "mine")["jobs"]] == [job]
    assert "service_jobs:add" in over(serving, "show", job).stdout
    assert told(serving, "logs", "last")["log"] == ""


def test_a_pickled_result_says_what_it_is_and_how_to_get_it(serving: ServiceProcess) -> None:
    done = over(serving, "run", "service_jobs:fraction", "--arg", "1", "--arg", "2")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.strip()
    assert shown.startswith("a pickled value of ")
    assert "bytes (fractions.Fraction);" in shown
    [advice] = re.findall(r"with aj\.connect\(DIR\)\.sync as service: service\.attach\('(\w+)'\)\.result\(\)$", shown)
    with aj_.connect(serving.folder).sync as service:
        assert service.attach(advice).result() == Fraction(1, 2)
    assert told(serving, "show", advice)["repr"] == shown


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_is_run_again(serving: ServiceProcess) -> None:
    done = over(serving, "run", "service_jobs:fail", "--arg", '"no luck"')
    assert done.returncode == 1
    assert "ValueError: no luck" in done.stderr
    [again] = over(serving, "retry", "last").stdout.split()
    assert serving.ended(again)["state"] == "FAILED"


@pytest.mark.slow
def test_the_service_is_paused_resumed_measured_and_jobs_are_cancelled(serving: ServiceProcess) -> None:
    assert told(serving, "pause")["paused"] == ["all"]
    job = over(serving, "submit", "service_jobs:add", "--arg", "1").stdout.strip()
    assert told(serving, "cancel", job)["answer"] == "cancelled"
    assert told(serving, "resume")["paused"] == []
    assert told(serving, "stats")["pid"] == serving.pid
    assert url_of(serving) in over(serving, "stats").stdout


@pytest.mark.slow
def test_the_token_comes_from_a_variable_or_a_file_and_the_file_goes_first(
    serving: ServiceProcess, tmp_path: Path
) -> None:
    url, token = url_of(serving), (serving.folder / "token").read_text().strip()
    assert aj("stats", "--url", url, token=token).returncode == 0
    (tmp_path / "token").write_text("another\n")
    done = aj("stats", "--url", url, "--token-file", str(tmp_path / "token"), token=token)
    assert done.returncode == 77
    assert url in done.stderr
    assert "--token-file or ASYNCJOBS_TOKEN" in done.stderr
    assert token not in done.stderr
    assert aj("stats", "--url", url).returncode == 77


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--url", "http://127.0.0.1:1"), 69, "nobody answers at http://127.0.0.1:1"),
        (("--url", "ftp://127.0.0.1"), 2, "allowed: http://HOST:PORT"),
        (("--url", "http://127.0.0.1:99999"), 2, "no such port"),
        (("--url", "http://example.org:8600"), 2, "the token would travel in the clear"),
        (("--url", "http://[::1]:1"), 69, "nobody answers at http://[::1]:1"),
        (("--url", "http://secret@127.0.0.1:1"), 2, "no place for a token"),
        (("--url", "http://127.0.0.1:1", "--token-file", "/nowhere/token"), 2, "cannot be read"),
        (("--url", "http://127.0.0.1:1", "--token-file", "/dev/null"), 2, "holds no token"),
        (("--token-file", "/nowhere/token"), 2, "goes with --url"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_in_one_line(args: tuple[str, ...], code: int, text: str) -> None:
    done = aj("jobs", *args)
    assert done.returncode == code
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_service_that_dies_in_the_middle_is_named_and_stop_waits_for_its_end(tmp_path: Path) -> None:
    with service(tmp_path / "state", "--http", "0", processes=1) as served:
        url, token = url_of(served), (served.folder / "token").read_text().strip()
        done = aj("stop", "--url", url, "--json", token=token)
        assert json.loads(done.stdout)["has_ended"]
        eventually(lambda: served.process.poll() is not None)
        assert served.ends() == 0
        done = aj("stop", "--url", url, token=token)
        assert (done.returncode, url in done.stderr) == (69, True)
