"""What fault tests share: a door into a worker process, and the outcome that every fault must have.

`Door` orders a test and a job in another process without sleeping. `common_outcome` runs a
neighbour beside the fault and looks at the runner afterwards; what is left behind is
found by the leak check in conftest.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jobs

import asyncjobs as aj
from asyncjobs.errors import WorkerLost

BOUND = 20.0
"""Seconds that no fault may take, with room for a machine that is busy otherwise."""
FINAL = {"SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED", "LOST"}


class Door:
    """Two FIFOs between a test and `jobs.wait_at`: the job arrives, and waits until `open`."""

    def __init__(self, folder: str | Path) -> None:
        self.path = str(folder)
        self._ends: list[int] = []
        for name in ("arrived", "go"):
            path = os.path.join(self.path, name)
            os.mkfifo(path)
            self._ends.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        self._text = b""

    async def arrival(self) -> int:
        """The process id of the next job that arrives."""
        while b"\n" not in self._text:
            await readable(self._ends[0])
            self._text += os.read(self._ends[0], 4096)
        line, _, self._text = self._text.partition(b"\n")
        return int(line)

    def open(self, count: int = 1) -> None:
        """Let `count` jobs through, those that come later included."""
        os.write(self._ends[1], b"." * count)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends.clear()


@asynccontextmanager
async def new_door() -> AsyncIterator[Door]:
    with TemporaryDirectory() as folder:
        door = Door(folder)
        try:
            yield door
        finally:
            door.close()


@asynccontextmanager
async def common_outcome(runner: aj.Runner, *, lane: str = "process", bound: float = BOUND) -> AsyncIterator[int]:
    """Around a fault: a neighbour runs meanwhile and succeeds, the runner works afterwards, all in time.

    The value is the process id of the neighbour. With two workers the fault gets the other.
    """
    submit = runner.options(lane=lane)
    async with new_door() as door, asyncio.timeout(bound):
        neighbour = await submit.submit(jobs.wait_at, door.path, "unharmed")
        pid = await door.arrival()
        try:
            yield pid
            assert not neighbour.done(), f"the neighbour ended too: {neighbour!r}"
        finally:
            door.open()
        assert await neighbour == "unharmed"
        assert neighbour.attempt == 1
        assert await submit.run(jobs.add, 1, 2) == 3
        assert_one_end(neighbour)


@asynccontextmanager
async def coroutine_outcome(runner: aj.Runner, *, bound: float = BOUND) -> AsyncIterator[None]:
    """The same for the lane of coroutines."""
    go = asyncio.Event()
    async with asyncio.timeout(bound):
        neighbour = await runner.submit(jobs.wait_for_event, go, "unharmed")
        try:
            yield
            assert not neighbour.done()
        finally:
            go.set()
        assert await neighbour == "unharmed"
        assert await runner.run(jobs.async_add, 1, 2) == 3


def outcome_in(lane: str, runner: aj.Runner, bound: float = BOUND) -> Any:
    """The common outcome of any lane."""
    if lane == "loop":
        return coroutine_outcome(runner, bound=bound)
    return common_outcome(runner, lane=lane, bound=bound)


def assert_one_end(job: aj.Job[Any]) -> None:
    """Exactly one final state, and it is the last."""
    names = [mark.state.name for mark in job.history]
    assert [name for name in names if name in FINAL] == names[-1:], names
    assert names[-1] == job.state.name


async def assert_lost(
    job: aj.Job[Any], *, signal: int | None = None, exit_code: int | None = None, cause: str | None = None
) -> WorkerLost:
    """The job is LOST, and its error says where, who, in which attempt and of what."""
    await job.wait()
    error = job.exception()
    assert isinstance(error, WorkerLost), repr(error)
    assert isinstance(error, BrokenProcessPool)
    assert job.state.name == "LOST"
    assert_one_end(job)
    assert (error.signal, error.exit_code) == (signal, exit_code), error
    if cause is not None:
        assert cause in error.cause, error.cause
    assert error.pid is not None
    assert error.pid > 0
    assert (error.lane, error.attempt) == (job.lane, job.attempt)
    for fact in (f"worker {job.lane}-", f"pid {error.pid}", error.cause, job.name, f"attempt {job.attempt}"):
        assert fact in str(error), error
    return error


async def assert_failed(job: aj.Job[Any], kind: type[BaseException] | str, text: str = "") -> BaseException:
    """The job FAILED with that exception, and the traceback of where it was raised is at hand."""
    await job.wait()
    error = job.exception()
    assert error is not None
    assert job.state.name == "FAILED", repr(error)
    assert_one_end(job)
    if isinstance(kind, str):
        assert isinstance(error, aj.RemoteError), repr(error)
        assert error.type_name.rpartition(".")[2] == kind, error.type_name
        assert error.remote_traceback
    else:
        assert isinstance(error, kind), repr(error)
    assert text in safe_text(error), safe_text(error)
    return error


def safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # some faults are just that
        return ""


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


async def gone(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await readable(descriptor)
    finally:
        os.close(descriptor)


async def readable(descriptor: int) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    there_is = loop.create_future()
    loop.add_reader(descriptor, lambda: there_is.done() or there_is.set_result(None))
    try:
        await there_is
    finally:
        loop.remove_reader(descriptor)
