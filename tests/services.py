"""Real services for tests: started in a folder of their own, asked over their socket, stopped, killed, restarted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil

import asyncjobs as aj
from asyncjobs.service import envelope, outcome
from asyncjobs.service.store.checking import ALARMS

T = TypeVar("T")

FINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST")
READY = "asyncjobs serve: ready"
HERE = Path(__file__).parent
ROOT = Path(aj.__file__).parent.parent


_ALARMS = re.compile(f"{ALARMS.pattern}|ResourceWarning|Exception ignored in")
# The standard library's fork server says so when whom it serves is killed in the middle of asking for a worker.
_ORPHANED = re.compile(
    r"Traceback \(most recent call last\):\n(?:  [^\n]*\n)*?  File \"[^\n]*forkserver\.py\", line \d+, in main\n"
    r"[^\n]*recvfds[^\n]*\n(?:  [^\n]*\n)*EOFError\n"
)
_ended: list[ServiceProcess] = []


def complaints() -> list[str]:
    """What hints at an error that nobody handled in what services said that have ended since the last look (I14)."""
    found = [line for one in _ended for line in one.said.splitlines() if _ALARMS.search(line)]
    said = [one.said for one in _ended] if found else []
    _ended.clear()
    return [*found, *said]


class ServiceProcess:
    """One ``asyncjobs serve``. Leaving it kills what is left."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        allow: tuple[str, ...] = ("service_jobs.*",),
        processes: int = 2,
        environment: Mapping[str, str] | None = None,
        ready: bool = True,
        under: tuple[str, ...] = (),
    ) -> None:
        """Starts it, and with `ready` waits until it is; `under` is a command that runs it, such as strace."""
        self.folder = folder
        self.command = [*under, sys.executable, "-m", "asyncjobs", "serve", "--dir", str(folder)]
        self.command += ["--processes", str(processes), *(f"--allow={pattern}" for pattern in allow), *options]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
            "PYTHONWARNINGS": "default::ResourceWarning",
            **(environment or {}),
        }
        self.environment.pop("XDG_RUNTIME_DIR", None)
        self.process: subprocess.Popen[bytes]
        self.output = ""
        """What it printed on either stream."""
        self.said = ""
        """The same of all its lives."""
        self._seen: set[psutil.Process] = set()
        """The service and all that ever descended from it, as far as seen; a number alone may be another's by now."""
        self.start(ready=ready)

    # --- life ---------------------------------------------------------------------------

    def start(self, *, ready: bool = True) -> None:
        """Start it, for the first time or again."""
        self.output = ""
        near, far = os.pipe()
        self._near = near
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=far, stderr=far, cwd=HERE
        )
        os.close(far)
        if ready:
            self.read_until(READY)

    def restart(self, *, ready: bool = True) -> None:
        """Start it again after its end."""
        self._take_rest()
        self.start(ready=ready)

    @property
    def pid(self) -> int:
        """Of the service itself, as its lock says."""
        return int(json.loads((self.folder / "lock").read_text())["pid"])

    def read_until(self, text: str, within: float = 30.0) -> str:
        """All that it has printed, once `text` is in it."""
        until = time.monotonic() + within
        while text not in self.output:
            assert time.monotonic() < until, f"{text!r} did not come in {within} s:\n{self.output}"
            assert self._take(until), f"it ended before it said {text!r}:\n{self.output}"
        return self.output

    def listen(self) -> None:
        """Take what it has printed by now: it would wait for us when a pipe is full."""
        while self._near >= 0 and select.select([self._near], [], [], 0)[0] and self._take(0.0):
            continue

    def _take(self, until: float) -> bool:
        readable, _, _ = select.select([self._near], [], [], max(0.0, until - time.monotonic()))
        if not readable:
            return True
        data = os.read(self._near, 65536)
        text = data.decode(errors="replace")
        self.output += text
        self.said = _ORPHANED.sub("", self.said + text)
        return bool(data)

    def _take_rest(self) -> None:
        """Workers that are about to end may still hold the pipe: only what is there now."""
        self.listen()
        if self._near >= 0:
            os.close(self._near)
            self._near = -1

    def family(self) -> set[int]:
        """The service and what descends from it, now."""
        if self.process.returncode is None:  # once it has been waited for, its number may be another's
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(self.process.pid)
                self._seen |= {process, *process.children(recursive=True)}
        return {process.pid for process in self._seen if _lives(process)}

    def forget(self) -> None:
        """Nothing of it is left."""
        self._seen.clear()

    def workers(self) -> set[int]:
        """The processes that run jobs now, and those that help to start them."""
        return self.family() - {self.process.pid}

    def kill(self) -> None:
        """SIGKILL; returns when it is dead. Its workers may need some more milliseconds."""
        self.family()
        self.process.kill()
        self.process.wait(10)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send the signal; `ends` waits."""
        self.family()
        self.process.send_signal(number)

    def ends(self, within: float = 30.0) -> int:
        """Its exit code; nothing of it is left."""
        code = self.process.wait(within)
        self._take_rest()
        eventually(lambda: not any(map(_lives, self._seen)), 5.0, lambda: f"left: {self.family()}")
        return code

    def stop(self, within: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        self.terminate()
        return self.ends(within)

    def close(self) -> None:
        """Kill what is left."""
        self.family()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._take_rest()
        _ended.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- asking -------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return Path(json.loads((self.folder / "address.json").read_text())["socket"])

    @property
    def key(self) -> bytes:
        """What calls and outcomes are sealed with."""
        return (self.folder / "key").read_bytes()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        within: float = 20.0,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one request over the unix socket."""
        connection = UnixConnection(self.socket, within)
        try:
            data = None if body is None else json.dumps(body).encode()
            given = {} if data is None else {"Content-Type": "application/json"}
            if method == "POST":
                given["X-Asyncjobs"] = "1"
            connection.request(method, path, data, {**given, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """The JSON of an answer with that status."""
        found, data = self.ask(method, path, body)
        assert found == status, (found, data)
        return json.loads(data)

    def submit(self, function: str, *args: Any, status: int = 201, **fields: Any) -> Any:
        """The answer to a submit of ``service_jobs:function``, by JSON; `fields` are those of a request."""
        name = function if ":" in function or not function else f"service_jobs:{function}"
        request = {"function": name, "args": list(args), "kwargs": {}, **fields}
        answer = self.json("POST", "/v1/jobs", request, status=status)
        return answer["jobs"][0] if status == 201 else answer

    def job(self, job: str) -> Any:
        """The job as the API shows it."""
        return self.json("GET", f"/v1/jobs/{job}")

    def ended(self, job: str, within: float = 30.0) -> Any:
        """The job, once it is in a final state."""
        return eventually(lambda: _if(self.job(job), lambda found: found["state"] in FINAL), within)

    def reaches(self, job: str, *states: str, within: float = 30.0) -> Any:
        """The job, once it is in one of the states."""
        return eventually(lambda: _if(self.job(job), lambda found: found["state"] in states), within)

    def value(self, job: str, within: float = 30.0) -> Any:
        """What the job returned; raises what it raised."""
        view = self.ended(job, within)
        status, sealed = self.ask("GET", f"/v1/jobs/{job}/outcome")
        assert status == 200, (status, sealed)
        value, error = outcome.decode_outcome(envelope.open(self.key, job, sealed))
        assert (error is None) == (view["state"] == "SUCCEEDED"), (view, error)
        if error is not None:
            raise error
        return value

    def log_of(self, job: str) -> str:
        """What the job printed, so far."""
        path = self.folder / "logs" / "jobs" / job[-2:] / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def service_log(self) -> list[dict[str, Any]]:
        """The lines of the service's own log."""
        return [json.loads(line) for line in (self.folder / "logs" / "service.log").read_text().splitlines()]

    def events(self, job: str) -> list[dict[str, Any]]:
        """The events of a job that has ended."""
        _, data = self.ask("GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "0"})
        lines = [line.partition(b":")[2] for line in data.splitlines() if line.startswith(b"data:")]
        return [json.loads(line) for line in lines]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def service(folder: Path, *options: str, **settings: Any) -> Iterator[ServiceProcess]:
    """A service that is ready, and gone afterwards; see `ServiceProcess`."""
    with ServiceProcess(folder, *options, **settings) as running:
        yield running


def eventually(
    condition: Callable[[], T], within: float = 60.0, problem: Callable[[], object] = lambda: "it never came true"
) -> T:
    """What the condition gives once it is true; it is asked again and again."""
    until = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < until, problem()
        time.sleep(0.01)
    return found


def _if(value: T, test: Callable[[T], bool]) -> T | None:
    return value if test(value) else None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
