"""The service's commands, as users type them, against a real service."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from services import HERE, ROOT, ServiceProcess, eventually, service
from typer.testing import CliRunner

from asyncjobs.cli import app
from asyncjobs.cli.lazy import LazyGroup

assert app.app.registered_commands  # which fills `LazyGroup`
ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")

pytestmark = pytest.mark.may_leak("a service that several tests share starts and replaces workers in any of them")

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for all tests that do not stop it; in the end nothing of it is left."""
    with service(tmp_path_factory.mktemp("cli") / "state", processes=1) as running:
        yield running
        assert running.stop() == 0


def environment(folder: Path | None) -> dict[str, str]:
    """What a command of ours sees."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))), "COLUMNS": "100", "TERM": "xterm"}
    found.pop("XDG_RUNTIME_DIR", None)
    return {**found, "ASYNCJOBS_DIR": str(folder)} if folder is not None else found


def typed(*args: str) -> list[str]:
    return [sys.executable, "-m", "asyncjobs", *args]


def aj(served: ServiceProcess | Path, *args: str, text: bool = True, **more: Any) -> Done:
    """A command that has ended."""
    folder = served if isinstance(served, Path) else served.folder
    return subprocess.run(
        typed(*args), capture_output=True, text=text, check=False, timeout=60, env=environment(folder),
        stdin=subprocess.DEVNULL, **more,
    )  # fmt: skip


def said(served: ServiceProcess | Path, *args: str) -> str:
    """What a command prints on standard output; it succeeds."""
    ended = aj(served, *args)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def told(served: ServiceProcess | Path, *args: str) -> Any:
    """The JSON that it prints."""
    return json.loads(said(served, *args, "--json"))


def submitted(served: ServiceProcess, *args: str) -> str:
    """The id of a job that a command submits."""
    return said(served, "submit", *args).strip()


def ended(served: ServiceProcess, *args: str) -> str:
    """The id of a job that has ended."""
    job = submitted(served, *args)
    served.ended(job)
    return job


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, served: ServiceProcess, *args: str) -> None:
        near, far = pty.openpty()
        self._near = near
        self.output = ""
        self.process = subprocess.Popen(
            typed(*args), stdin=far, stdout=far, stderr=far, env=environment(served.folder), start_new_session=True
        )
        os.close(far)

    def read_until(self, text: str, within: float = 30.0) -> str:
        """What it has shown, once `text` is in it."""
        until = time.monotonic() + within
        while text not in self.output:
            assert time.monotonic() < until, self.output
            assert self._take(until), f"it ended before it said {text!r}:\n{self.output}"
        return self.output

    def type(self, text: str) -> None:
        """As if a user typed it."""
        os.write(self._near, text.encode())

    def ends(self, within: float = 30.0) -> int:
        """Its exit code."""
        until = time.monotonic() + within
        while time.monotonic() < until and self._take(until):
            continue
        code = self.process.wait(10)
        os.close(self._near)
        return code

    def _take(self, until: float) -> bool:
        if not select.select([self._near], [], [], max(0.0, until - time.monotonic()))[0]:
            return True
        try:
            data = os.read(self._near, 65536)
        except OSError:  # its other side is closed
            return False
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


def _open(gate: Path, text: str) -> None:
    """In one step: the job reads it as soon as it is there."""
    written = gate.with_name("written")
    written.write_text(text)
    written.replace(gate)


# --- submit and run ---------------------------------------------------------------------


@pytest.mark.slow
def test_submit_prints_the_id_and_nothing_else(serving: ServiceProcess) -> None:
    done = aj(serving, "submit", "service_jobs:add", "--arg", "1", "--kwarg", "y=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert ID.fullmatch(done.stdout.removesuffix("\n"))
    assert serving.value(done.stdout.strip()) == 3


@pytest.mark.slow
def test_the_options_of_a_job_arrive(serving: ServiceProcess) -> None:
    first = ended(serving, "service_jobs:add", "--arg", "40")
    said(serving, "pause", "function:service_jobs:echo")
    result = f'{{"$result": "{first}"}}'
    job = submitted(
        serving, "service_jobs:echo", "--arg", result, "--job-name", "forty", "--tag", "a", "--tag", "b", "--priority",
        "7", "--after", first, "--timeout", "10m", "--retries", "2", "--limit", "gpu=1", "--keep", "1d",
        "--deadline", "1d", "--grace", "5", "--max-result", "100000",
    )  # fmt: skip
    found = told(serving, "show", job)
    wanted = {"name": "forty", "tags": ["a", "b"], "priority": 7, "after": [first], "limit": "gpu", "state": "QUEUED"}
    assert {name: found[name] for name in wanted} == wanted
    said(serving, "resume", "function:service_jobs:echo")
    assert serving.value(job) == 40


def test_run_prints_what_the_job_prints_and_returns(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "service_jobs:say", "--arg", '"to stdout"', "--arg", '"to stderr"')
    assert done.stdout == "to stdout\nto stderr\n2\n"
    assert done.returncode == 0
    assert "SUCCEEDED" in done.stderr


@pytest.mark.slow
def test_run_quietly_prints_the_result_alone(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "-q", "service_jobs:say", "--arg", '"unheard"')
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_run_for_programs_prints_one_json_object(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "--json", "service_jobs:say", "--arg", '"heard"')
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["value"]) == ("SUCCEEDED", 1)
    assert "heard" in done.stderr


def test_run_shows_what_json_cannot_say(serving: ServiceProcess) -> None:
    assert said(serving, "run", "-q", "service_jobs:large", "--arg", "3") == "b'xxx'\n"


@pytest.mark.slow
def test_run_of_a_job_that_fails_exits_with_1_and_shows_its_traceback(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "service_jobs:fail", "--arg", '"no luck"')
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" in done.stderr
    assert "FAILED ValueError: no luck" in done.stderr


def test_run_says_once_of_a_job_that_ran_too_long(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "service_jobs:sleep", "--arg", "60", "--timeout", "0.1", "--grace", "0.1")
    assert done.returncode == 1
    assert done.stderr.count("ran longer than its timeout") == 1


@pytest.mark.slow
def test_run_says_of_each_attempt(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "service_jobs:fail_until", "--arg", "2", "--retries", "1", "--backoff", "0.01")
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert "waiting" in done.stderr


@pytest.mark.slow
def test_run_of_a_job_that_is_cancelled_exits_with_4(serving: ServiceProcess, tmp_path: Path) -> None:
    running = subprocess.Popen(
        typed("run", "service_jobs:wait", "--tag", "four"), env=environment(serving.folder), stderr=subprocess.PIPE
    )
    job = eventually(lambda: told(serving, "jobs", "--tag", "four", "--state", "running")["jobs"])[0]["id"]
    assert "asked to stop" in said(serving, "cancel", job, "--reason", "enough")
    _, complaints = running.communicate(timeout=30)
    assert running.returncode == 4
    assert b"CANCELLED enough" in complaints


@pytest.mark.slow
def test_ctrl_c_leaves_and_the_job_goes_on(serving: ServiceProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    terminal = Terminal(serving, "run", "service_jobs:wait_for", "--arg", json.dumps(str(gate)), "--tag", "left")
    job = eventually(lambda: told(serving, "jobs", "--tag", "left", "--state", "running")["jobs"])[0]["id"]
    terminal.read_until("RUNNING")
    terminal.process.send_signal(2)
    assert terminal.ends() == 130
    told_how = "".join(terminal.output.split("\r\n"))
    assert f"the job goes on: asyncjobs logs -f {job} --dir {serving.folder}, or" in told_how
    _open(gate, "opened")
    assert serving.value(job) == "opened"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--arg", "hello"), "is not JSON"),
        (("--kwarg", "hello"), "is not NAME=JSON"),
        (("--delay", "soon"), "is no span of time"),
        (("--at", "soon"), "is no date and time"),
        (("--limit", "gpu"), "is not NAME=N"),
        (("--retries", "-1"), "--retries"),
        (("--kwarg", "x=NaN"), "is not JSON"),
    ],
)
def test_what_is_not_allowed_is_named_and_exits_with_2(
    serving: ServiceProcess, args: tuple[str, ...], complaint: str
) -> None:
    done = aj(serving, "submit", "service_jobs:echo", *args)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


def test_the_bounds_of_a_job_hold(serving: ServiceProcess) -> None:
    large = aj(serving, "run", "service_jobs:large", "--arg", "5000", "--max-result", "1000")
    assert (large.returncode, "ResultTooLarge" in large.stderr) == (1, True)
    late = aj(serving, "run", "service_jobs:sleep", "--arg", "60", "--deadline", "0.3", "--grace", "0")
    assert (late.returncode, "deadline" in late.stderr) == (1, True)


@pytest.mark.slow
def test_a_key_is_one_job_and_another_call_with_it_exits_with_2(serving: ServiceProcess) -> None:
    call = ("service_jobs:add", "--arg", "1", "--key", "only once")
    first = submitted(serving, *call)
    again = aj(serving, "submit", *call)
    assert again.stdout.strip() == first
    assert "known by its key" in again.stderr
    other = aj(serving, "submit", "service_jobs:add", "--arg", "2", "--key", "only once")
    assert (other.returncode, other.stdout) == (2, "")


def test_F96_a_function_that_is_not_allowed_exits_with_77(serving: ServiceProcess) -> None:
    done = aj(serving, "submit", "os:system", "--arg", '"true"')
    assert (done.returncode, done.stdout) == (77, "")
    assert "not allowed" in done.stderr


@pytest.mark.parametrize("command", ["submit", "run", "schedule"])
@pytest.mark.parametrize(
    ("text", "meant"),
    [("service_jobs.add", "is service_jobs:add meant?"), ("add", ""), ("a:b:c", ""), ("a b:c", ""), (":add", "")],
)
def test_what_is_no_module_and_function_is_a_matter_of_usage(command: str, text: str, meant: str) -> None:
    more = ("nightly", "0 3 * * *") if command == "schedule" else ()
    # It is seen here: no service is asked.
    refused = CliRunner().invoke(app.app, [command, *more, text, "--dir", "/nowhere/at/all"])
    assert refused.exit_code == 2
    complaint = " ".join(refused.output.replace("│", " ").split())
    assert f"{text!r} is not MODULE:FUNCTION, such as study:fit" in complaint
    assert meant in complaint


# --- looking ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_is_found_by_its_beginning_its_end_and_as_the_last(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:echo", "--arg", '"found"')
    for given in (job, job[:16], job[-8:], job.upper(), "last"):
        assert told(serving, "show", given)["id"] == job


@pytest.mark.slow
def test_an_id_that_nobody_has_exits_with_3_and_one_that_several_have_with_2(serving: ServiceProcess) -> None:
    first, second = (submitted(serving, "service_jobs:echo", "--arg", "1") for _ in range(2))
    assert aj(serving, "show", "0" * 26).returncode == 3
    assert aj(serving, "cancel", "zzzzzz").returncode == 3
    shared = first[: next(place for place in range(26) if first[place] != second[place])]
    several = aj(serving, "show", shared)
    assert several.returncode == 2
    assert first in several.stderr
    assert aj(serving, "show", "01").returncode == 2
    assert aj(serving, "show", "../../etc/passwd").returncode == 2


@pytest.mark.slow
def test_jobs_are_listed_newest_first_by_filters_and_pages(serving: ServiceProcess) -> None:
    made = [submitted(serving, "service_jobs:add", "--arg", str(number), "--tag", "paged") for number in range(3)]
    for job in made:
        serving.ended(job)
    first = told(serving, "jobs", "--tag", "paged", "--limit", "2")
    second = told(serving, "jobs", "--tag", "paged", "--limit", "2", "--before", str(first["next"]))
    assert [job["id"] for page in (first, second) for job in page["jobs"]] == made[::-1]
    assert second["next"] is None
    shown = said(serving, "jobs", "--all", "--tag", "paged", "--state", "succeeded")
    assert ID.findall(shown) == made[::-1]
    assert said(serving, "jobs", "--tag", "paged", "--state", "FAILED") == ""
    assert aj(serving, "jobs", "--state", "DONE").returncode == 2


@pytest.mark.slow
def test_show_tells_the_story_of_a_job(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:add", "--arg", "1")
    shown = said(serving, "show", job)
    for word in (job, "service_jobs:add", "SUCCEEDED", "result", "submitted", "claimed", "succeeded"):
        assert word in shown
    answer = told(serving, "show", job)
    assert answer["value"] == 1
    assert [event["kind"] for event in answer["events"]] == ["submitted", "claimed", "succeeded"]


@pytest.mark.slow
def test_show_of_a_job_that_waits_does_not_wait(serving: ServiceProcess) -> None:
    job = submitted(serving, "service_jobs:add", "--arg", "1", "--delay", "1h")
    assert told(serving, "show", job)["state"] == "QUEUED"
    assert " in 59 m " in said(serving, "jobs", "--limit", "1")
    assert said(serving, "cancel", job).strip() == f"{job} cancelled"
    assert "has ended already: CANCELLED" in said(serving, "cancel", job)


@pytest.mark.slow
def test_F100_hostile_output_reaches_a_terminal_written_out_and_a_pipe_as_it_is(serving: ServiceProcess) -> None:
    evil = "\x1b[2J\x1b]0;gotcha\x07\u202e\x9b31m"
    job = ended(serving, "service_jobs:say", "--arg", json.dumps(evil), "--job-name", evil)
    assert aj(serving, "logs", job, text=False).stdout == f"{evil}\n".encode()
    for command in (["logs", job], ["show", job], ["jobs", "--limit", "1"]):
        terminal = Terminal(serving, *command)
        assert terminal.ends() == 0
        # Colours and such are ours; nothing else may be there.
        bare = re.sub(r"\x1b\[[0-9;]*m", "", terminal.output)
        assert all(letter.isprintable() or letter == "\n" for letter in bare), repr(bare)
        assert "\\x1b]0;gotcha" in bare.replace("\n", "")


@pytest.mark.slow
def test_F101_a_hostile_error_is_written_out(serving: ServiceProcess) -> None:
    done = aj(serving, "run", "service_jobs:fail", "--arg", json.dumps("\x1b[2J[bold]\u202e"))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
    assert "[bold]" in done.stderr


@pytest.mark.slow
def test_logs_follow_a_job_to_its_end(serving: ServiceProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = submitted(serving, "service_jobs:wait_for", "--arg", json.dumps(str(gate)))
    following = subprocess.Popen(typed("logs", "-f", job), env=environment(serving.folder), stdout=subprocess.PIPE)
    gate.touch()
    log, _ = following.communicate(timeout=30)
    assert (following.returncode, log) == (0, b"")
    assert told(serving, "show", job)["state"] == "SUCCEEDED"


@pytest.mark.slow
def test_logs_for_programs(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:say", "--arg", '"one"', "--arg", '"two"')
    assert told(serving, "logs", job) == {"id": job, "log": "one\ntwo\n"}
    assert said(serving, "logs", "-f", job) == "one\ntwo\n"
    assert aj(serving, "logs", "-f", job, "--json").returncode == 2


@pytest.mark.slow
def test_the_plots_of_a_job_are_listed_and_fetched(serving: ServiceProcess, tmp_path: Path) -> None:
    job = ended(serving, "service_jobs:draw", "--arg", "10")
    assert [one["name"] for one in told(serving, "figures", job)] == ["loss.json"]
    assert "loss.json" in said(serving, "figures", job, "--to", str(tmp_path / "plots"))
    assert json.loads((tmp_path / "plots" / "loss.json").read_text())["data"]
    assert told(serving, "figures", ended(serving, "service_jobs:add", "--arg", "1")) == []


def test_a_folder_for_plots_that_cannot_be_made_is_named_and_exits_with_2(
    serving: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    job = ended(serving, "service_jobs:add", "--arg", "1")
    done = aj(serving, "figures", job, "--to", str(tmp_path / "file" / "plots"))
    assert done.returncode == 2
    assert "Not a directory" in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


# --- steering ---------------------------------------------------------------------------


@pytest.mark.slow
def test_retry_runs_a_failed_job_again_as_a_new_one(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:fail")
    again = said(serving, "retry", job).strip()
    assert again != job
    assert serving.ended(again)["state"] == "FAILED"
    assert aj(serving, "retry", ended(serving, "service_jobs:add", "--arg", "1")).returncode == 2


@pytest.mark.slow
def test_pause_and_resume_are_told(serving: ServiceProcess) -> None:
    assert told(serving, "pause", "lane:process") == {"paused": ["lane:process"]}
    assert told(serving, "stats")["paused"] == ["lane:process"]
    assert "lane:process" in said(serving, "stats")
    assert told(serving, "resume", "lane:process") == {"paused": []}


@pytest.mark.parametrize("scope", ["everything", "lane:other", "function:fit"])
def test_a_pause_that_could_hold_nothing_is_refused_and_names_what_is_allowed(
    serving: ServiceProcess, scope: str
) -> None:
    done = aj(serving, "pause", scope)
    assert done.returncode == 2
    assert f"scope='{scope}' is not allowed" in done.stderr
    assert told(serving, "stats")["paused"] == []


@pytest.mark.slow
def test_a_schedule_is_made_listed_and_removed(serving: ServiceProcess) -> None:
    call = ("schedule", "nightly", "30 2 * * *", "service_jobs:add", "--arg", "1", "--zone", "Europe/Berlin")
    made = told(serving, *call)
    assert (made["cron"], made["zone"], made["is_paused"]) == ("30 2 * * *", "Europe/Berlin", False)
    assert "nightly" in said(serving, "schedules")
    assert [one["name"] for one in told(serving, "schedules")] == ["nightly"]
    assert told(serving, "schedules", "--drop", "nightly") == {"removed": "nightly"}
    assert told(serving, "schedules") == []
    assert aj(serving, "schedules", "--drop", "nightly").returncode == 3
    assert aj(serving, "schedule", "never", "at noon", "service_jobs:add").returncode == 2


@pytest.mark.slow
def test_a_backup_can_be_served_and_is_made_once(serving: ServiceProcess, tmp_path: Path) -> None:
    job = ended(serving, "service_jobs:add", "--arg", "5")
    loud = ended(serving, "service_jobs:say", "--arg", '"heard"')
    copy = tmp_path / "copy"
    said(serving, "backup", str(copy))
    assert told(serving, "backup", str(tmp_path / "quiet"), "--no-logs")["nbytes"] > 0
    assert not list((tmp_path / "quiet").rglob("*.log"))
    assert copy.stat().st_mode & 0o777 == 0o700
    assert aj(serving, "backup", str(copy)).returncode == 2
    with service(copy) as other:
        assert other.value(job) == 5
        assert said(other, "logs", loud) == "heard\n"


# --- without a service, and around one --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("jobs",), ("submit", "service_jobs:add"), ("stop",), ("logs", "last"), ("stats",)]
)
def test_without_a_service_a_command_says_how_to_start_one(command: tuple[str, ...], tmp_path: Path) -> None:
    done = aj(tmp_path / "nothing", *command)
    assert (done.returncode, done.stdout) == (69, "")
    assert "start it with: asyncjobs serve --dir" in done.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_service_that_was_killed_is_told_from_one_that_answers(tmp_path: Path) -> None:
    with service(tmp_path / "state") as running:
        running.kill()
        done = aj(running, "jobs")
        assert done.returncode == 69
        assert "did not end cleanly" in done.stderr
        assert "did not end cleanly" in " ".join(said(running, "doctor").split())


@pytest.mark.slow
def test_stop_waits_for_the_end_and_the_journal_is_sound(tmp_path: Path) -> None:
    with service(tmp_path / "state") as running:
        assert aj(running, "journal", "check").returncode == 75
        assert told(running, "doctor")["service"]["answers"] is True
        assert told(running, "stop")["has_ended"] is True
        assert running.ends(5) == 0
        assert told(running, "journal", "check")["problems"] == []
        assert told(running, "doctor")["service"]["pid"] is None


@pytest.mark.slow
def test_F77_a_damaged_journal_is_told_and_recovered(tmp_path: Path) -> None:
    with service(tmp_path / "state") as running:
        job = ended(running, "service_jobs:add", "--arg", "5")
        running.stop()
        database = running.folder / "jobs.db"
        content = bytearray(database.read_bytes())
        content[40:60] = bytes(20)
        database.write_bytes(content)
        done = aj(running, "journal", "check")
        assert done.returncode == 65
        assert "jobs.db" in done.stdout
        assert aj(running, "journal", "recover").returncode == 1  # nobody says yes
        saved = told(running, "journal", "recover", "--yes")
        assert saved["rows"]["jobs"] == 1
        running.restart()
        assert running.value(job) == 5


@pytest.mark.slow
def test_run_follows_a_job_over_a_crash_of_the_service(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with service(tmp_path / "state") as running:
        following = subprocess.Popen(
            typed("run", "service_jobs:wait_for", "--arg", json.dumps(str(gate))),
            env=environment(running.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually(lambda: told(running, "jobs", "--state", "running")["jobs"])
        running.kill()
        running.restart()
        _open(gate, "after all")
        printed, complaints = following.communicate(timeout=60)
        assert (following.returncode, printed) == (0, '"after all"\n'), complaints


@pytest.mark.slow
def test_the_shell_completes_commands_states_and_ids(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:add", "--arg", "1")

    def completed(*words: str) -> list[str]:
        asked = {"_ASYNCJOBS_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("asyncjobs", *words))}
        asked["COMP_CWORD"] = str(len(words))
        done = subprocess.run(
            typed(), capture_output=True, text=True, check=False, env=environment(serving.folder) | asked, timeout=30
        )
        return done.stdout.split()

    assert {"schedule", "schedules"} <= set(completed("sched"))
    assert "--tag" in completed("submit", "--ta")
    assert completed("jobs", "--state", "SUC") == ["SUCCEEDED"]
    assert job in completed("show", job[:12])


@pytest.mark.parametrize("name", [name for name in LazyGroup.PLACES if name not in ("demo", "bench", "plot", "serve")])
def test_every_command_says_which_service_and_speaks_json(name: str) -> None:
    command = typer.main.get_group(import_module(LazyGroup.PLACES[name]).app).commands[name]
    for one in getattr(command, "commands", {name: command}).values():
        known = {option for parameter in one.params for option in parameter.opts}
        assert {"--json", "--dir", "--name"} <= known
        assert one.help
        assert "[[" not in one.get_usage(typer.Context(one))


@pytest.mark.slow
def test_a_service_that_is_named_is_not_that_of_the_variable(serving: ServiceProcess) -> None:
    for command in ("stats", "doctor"):
        named = aj(serving, command, "--name", "never-started")
        assert "never-started" in named.stdout + named.stderr
        assert str(serving.folder) not in named.stdout + named.stderr
    both = aj(serving, "stats", "--dir", str(serving.folder), "--name", "never-started")
    assert (both.returncode, "not both" in both.stderr) == (2, True)


def test_a_missing_library_of_the_service_is_named_with_its_extras() -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None; sys.argv[1:] = ['jobs']\nfrom asyncjobs.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == 'this command needs msgspec: pip install "asyncjobs-runner[cli,service]"'


@pytest.mark.slow
def test_a_log_may_be_cut_off_by_who_reads_it(serving: ServiceProcess) -> None:
    job = ended(serving, "service_jobs:say_much", "--arg", "100000", "--arg", '"many words"')
    command = f"{sys.executable} -m asyncjobs logs {job} | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env=environment(serving.folder)
    )
    assert (done.stdout, done.stderr) == ("0 many words\n", "")


@pytest.mark.slow
def test_P1_a_submit_without_an_answer_is_repeated_and_is_one_job(tmp_path: Path) -> None:
    points = {"ASYNCJOBS_FAILPOINTS": "submit.after_commit=kill"}
    with service(tmp_path / "state", environment=points) as running:
        submitting = subprocess.Popen(
            typed("submit", "service_jobs:add", "--arg", "1"), env=environment(running.folder), stdout=subprocess.PIPE
        )
        running.process.wait(20)
        del running.environment["ASYNCJOBS_FAILPOINTS"]
        running.restart()
        printed, _ = submitting.communicate(timeout=30)
        assert submitting.returncode == 0
        job = printed.decode().strip()
        assert running.value(job) == 1
        assert [one["id"] for one in told(running, "jobs")["jobs"]] == [job]
