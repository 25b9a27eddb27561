"""Real programs for tests: scripts that are started, watched, interrupted and outlived."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pauses import PauseClock

import asyncjobs as aj
from asyncjobs.sync.hosted import STARTS_NOTHING_AT_THE_EXIT

starts_workers_at_the_exit = pytest.mark.skipif(
    sys.version_info[:3] in STARTS_NOTHING_AT_THE_EXIT, reason="this CPython starts nothing while it exits (gh-113964)"
)


class Program:
    """A script that runs, on a terminal of its own if need be."""

    def __init__(self, process: subprocess.Popen[bytes], source: int) -> None:
        self.process = process
        self._source = source
        self._clock = PauseClock(process.pid)
        self.output = ""
        self.pids: list[int] = []

    def read_until(self, text: str, within: float = 20.0) -> str:
        """All that it has printed, once `text` is in it."""
        end = self._clock() + within
        while text not in self.output:
            assert self._clock() < end, f"{text!r} did not come in {within} s:\n{self.output}"
            assert self._take(), f"it ended before it said {text!r}:\n{self.output}"
        for line in self.output.splitlines():
            if line.startswith("workers "):
                self.pids = [int(pid) for pid in line.split()[1:]]
        return self.output

    def _take(self) -> bool:
        readable, _, _ = select.select([self._source], [], [], 0.1)
        if not readable:
            return True
        try:
            data = os.read(self._source, 65536)
        except OSError:  # a terminal whose other side is closed
            data = b""
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def interrupt(self) -> None:
        """Type Ctrl-C, once the main thread sleeps: the interpreter does not hear of a signal that comes in the
        instant before it goes to sleep until it wakes."""
        end = time.monotonic() + 0.5  # one that computes hears of it at once
        while time.monotonic() < end and not self._sleeps():
            continue
        os.write(self._source, b"\x03")

    def _sleeps(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            state, _, rest = file.read().rpartition(")")[2].strip().partition(" ")
        time.sleep(0.02)
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            return state == "S" and file.read().rpartition(")")[2].strip() == f"{state} {rest}"

    def ends(self, within: float = 20.0) -> int:
        """Its exit code, negative for a signal; its workers are gone as well."""
        end = self._clock() + within
        while self._clock() < end and self._take():
            continue
        while self._clock() < end and self.process.poll() is None:
            time.sleep(0.01)
        code = self.process.wait(0.1)
        end = max(end, self._clock() + 0.5)
        while self._clock() < end and self._left():
            time.sleep(0.01)
        assert not self._left(), f"workers survived:\n{self.output}"
        return code

    def _left(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid)]

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._clock.close()
        os.close(self._source)


QUIET = """import logging
logging.getLogger("asyncjobs").addFilter(lambda record: "has not answered" not in record.getMessage())
"""
"""What the watchdog says of a busy machine is no part of a program's output."""


@contextlib.contextmanager
def launching(folder: Path, preamble: str) -> Iterator[Callable[..., Program]]:
    """A function that starts a script: ``launch(text, terminal=True)``; `preamble` comes first in each.

    What still runs at the end is killed.
    """
    started: list[Program] = []

    def start(text: str, *, terminal: bool = False, warnings: str = "default::ResourceWarning") -> Program:
        path = folder / f"script{len(started)}.py"
        path.write_text(QUIET + preamble + textwrap.dedent(text))
        package = str(Path(aj.__file__).parent.parent)
        environment = {**os.environ, "PYTHONPATH": package, "PYTHONWARNINGS": warnings}
        program = Program(*_run([sys.executable, str(path)], environment, terminal))
        started.append(program)
        return program

    try:
        yield start
    finally:
        for program in started:
            program.close()


def _run(command: list[str], environment: dict[str, str], terminal: bool) -> tuple[subprocess.Popen[bytes], int]:
    streams: Any
    if terminal:
        near, far = pty.openpty()
        streams = {"stdin": far, "stdout": far, "stderr": far, "start_new_session": True}
        streams["preexec_fn"] = lambda: fcntl.ioctl(far, termios.TIOCSCTTY, 0)
    else:
        near, far = os.pipe()
        streams = {"stdin": subprocess.DEVNULL, "stdout": far, "stderr": far}
    process = subprocess.Popen(command, env=environment, **streams)
    os.close(far)
    return process, near
