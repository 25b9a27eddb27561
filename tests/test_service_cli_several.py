"""``asyncjobs cancel`` and ``retry`` of many jobs, as users type them, against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services import ServiceProcess, service
from test_service_cli import ID, Terminal, aj, ended, said, submitted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leak("a service that several tests share starts and replaces workers in any of them"),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for all tests that cancel or retry no job of another."""
    with service(tmp_path_factory.mktemp("several") / "state", processes=1) as running:
        yield running
        assert running.stop() == 0


def waiting(served: ServiceProcess, number: int, **options: Any) -> list[str]:
    """Jobs that wait for longer than a test takes."""
    request = {"function": "service_jobs:add", "args": [1], "delay": 3600.0, **options}
    status, body = served.ask("POST", "/v1/jobs", {"jobs": [request] * number})
    assert status == 201
    return [job["id"] for job in json.loads(body)["jobs"]]


def failed(served: ServiceProcess, number: int, tag: str) -> list[str]:
    return [ended(served, "service_jobs:fail", "--tag", tag) for _ in range(number)]


def lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects that a command printed, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def states(served: ServiceProcess, jobs: list[str]) -> set[str]:
    return {served.job(job)["state"] for job in jobs}


def test_cancel_takes_several_ids(serving: ServiceProcess) -> None:
    jobs = waiting(serving, 3)
    shown = said(serving, "cancel", jobs[0], jobs[1][-8:])
    assert shown.splitlines() == [f"{jobs[0]} cancelled", f"{jobs[1]} cancelled"]
    assert states(serving, jobs[:2]) == {"CANCELLED"}
    assert serving.job(jobs[2])["state"] == "QUEUED"
    assert aj(serving, "cancel", "0" * 26, jobs[2]).returncode == 3
    assert serving.job(jobs[2])["state"] == "QUEUED", "nothing was cancelled before all ids were found"


def test_cancel_by_tag_takes_all_of_its_pages_and_counts_them(serving: ServiceProcess) -> None:
    mine = waiting(serving, 600, tags=["many"])
    [other] = waiting(serving, 1, tags=["another"])
    done = aj(serving, "cancel", "--tag", "many", "--reason", "enough", "--json")
    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert [one["id"] for one in found] == mine[::-1]
    assert {(one["answer"], one["state"]) for one in found} == {("cancelled", "CANCELLED")}
    assert done.stderr.strip() == "600 jobs: 600 cancelled"
    assert serving.job(mine[0])["note"] == "enough"
    assert serving.job(other)["state"] == "QUEUED"


def test_cancel_by_state_name_function_and_tag_takes_what_fits_all_of_them(serving: ServiceProcess) -> None:
    [one] = waiting(serving, 1, tags=["fits"], name="this")
    [two] = waiting(serving, 1, tags=["fits"], name="that")
    done = aj(serving, "cancel", "--tag", "fits", "--job-name", "this", "--state", "queued", "--state", "RUNNING")
    assert (done.returncode, ID.findall(done.stdout)) == (0, [one])
    assert said(serving, "cancel", "--tag", "fits", "--function", "service_jobs:fail") == ""
    assert serving.job(two)["state"] == "QUEUED"


def test_a_dry_run_lists_and_counts_and_changes_nothing(serving: ServiceProcess) -> None:
    jobs = waiting(serving, 2, tags=["dry"])
    done = aj(serving, "cancel", "--tag", "dry", "--dry-run")
    assert ID.findall(done.stdout) == jobs[::-1]
    assert done.stderr.strip() == "2 jobs: 2 would be asked to stop"
    assert states(serving, jobs) == {"QUEUED"}
    [dead] = failed(serving, 1, "dry-dead")
    done = aj(serving, "retry", "--tag", "dry-dead", "--dry-run", "--json")
    assert lines(done.stdout) == [{"id": dead, "state": "FAILED", "name": "fail"}]
    assert done.stderr.strip() == "1 job: 1 would be run again"
    assert len(serving.json("GET", "/v1/jobs?tag=dry-dead")["jobs"]) == 1


def test_retry_runs_each_dead_letter_of_a_tag_once(serving: ServiceProcess) -> None:
    dead = failed(serving, 3, "dead")
    [cancelled] = waiting(serving, 1, tags=["dead"])
    said(serving, "cancel", cancelled)
    first = said(serving, "retry", dead[0]).strip()
    serving.ended(first)
    done = aj(serving, "retry", "--tag", "dead", "--json")
    assert done.returncode == 0, done.stderr
    assert [one["of"] for one in lines(done.stdout)] == [first, dead[2], dead[1]], "no cancelled one, none twice"
    assert done.stderr.strip() == "4 jobs: 3 run again, 1 left out: run again before, or gone"
    for one in lines(done.stdout):
        assert serving.ended(one["id"])["tags"] == ["dead", f"replay:{one['of']}"]
    assert len(ID.findall(said(serving, "retry", "--tag", "dead", "--state", "CANCELLED"))) == 1
    assert len(ID.findall(said(serving, "retry", "--tag", "dead", "--again"))) == 7


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["cancel"], "which jobs?"),
        (["retry", "last", "--tag", "x"], "not both"),
        (["cancel", "--all"], "--all needs --yes"),
        (["cancel", "--state", "SUCCEEDED"], "allowed: QUEUED, RUNNING, WAITING, STOPPING"),
        (["retry", "--state", "RUNNING"], "allowed: FAILED, TIMED_OUT, LOST, CANCELLED"),
    ],
)
def test_what_is_not_said_clearly_is_refused(serving: ServiceProcess, args: list[str], text: str) -> None:
    done = aj(serving, *args)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.replace("│", " ").split())


def test_all_asks_at_a_terminal_and_takes_yes_from_a_script(tmp_path: Path) -> None:
    with service(tmp_path / "state", processes=1) as served:
        jobs = waiting(served, 3)
        refused = Terminal(served, "cancel", "--all")
        refused.read_until("cancel 3 jobs? [y/N]")
        refused.type("n\n")
        assert refused.ends() == 1
        assert states(served, jobs) == {"QUEUED"}
        taken = Terminal(served, "cancel", "--all")
        taken.read_until("cancel 3 jobs? [y/N]")
        taken.type("y\n")
        assert taken.ends() == 0
        assert states(served, jobs) == {"CANCELLED"}
        dead = failed(served, 2, "any")
        assert len(ID.findall(said(served, "retry", "--all", "--yes"))) == len(dead)
        assert (
            aj(served, "cancel", submitted(served, "service_jobs:add", "--arg", "1", "--delay", "1h")).returncode == 0
        )
        assert served.stop() == 0
