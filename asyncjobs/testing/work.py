"""Small work for the lane checks, plain and as coroutines, and a gate that works between processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncjobs.context import current_job
from asyncjobs.token import CancelToken

PATIENCE = 30.0
"""Seconds after which a gate that nobody opens gives up, so that a failing check strands nothing."""
POLL = 0.002

shade: ContextVar[str] = ContextVar("asyncjobs.testing.shade", default="none")


@dataclass(frozen=True)
class FileGate:
    """As `Gate`, between processes, through a folder that both see."""

    folder: str
    name: str = "gate"

    def _path(self, what: str) -> Path:
        return Path(self.folder, f"{self.name}.{what}")

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._path("open").touch()

    @property
    def is_open(self) -> bool:
        """Whether whoever comes goes straight through; so they do once the folder is gone, which nobody can open."""
        return self._path("open").exists() or not Path(self.folder).exists()

    @property
    def arrivals(self) -> int:
        """How many have come so far."""
        path = self._path("arrived")
        return path.stat().st_size if path.exists() else 0

    def arrive(self) -> None:
        """Say that one more is here."""
        note(str(self._path("arrived")), "", end=".")

    async def arrival(self, count: int = 1) -> None:
        """Wait until `count` have arrived."""
        await until(lambda: self.arrivals >= count, f"{count} arrivals at {self.name}")


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a fact that another process or thread makes true."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s in vain for {what}")
        await asyncio.sleep(POLL)


def note(path: str, text: str, end: str = "\n") -> None:
    """Append one line to a file, in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{text}{end}".encode())
    finally:
        os.close(descriptor)


def lines(path: str) -> list[str]:
    """What stands in a file of notes; none if nobody wrote any."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


# --- the same work, plain and as a coroutine --------------------------------------------


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


async def double_async(number: int) -> int:
    """Twice the number."""
    await asyncio.sleep(0)
    return 2 * number


def raise_one(kind: type[BaseException], text: str) -> None:
    """Raise an exception of that kind."""
    raise kind(text)


async def raise_one_async(kind: type[BaseException], text: str) -> None:
    """Raise an exception of that kind."""
    await asyncio.sleep(0)
    raise kind(text)


def hold(gate: FileGate, value: int = 0) -> int:
    """Arrive at the gate and wait there; takes no notice of any stop."""
    gate.arrive()
    deadline = time.monotonic() + PATIENCE
    while not gate.is_open and time.monotonic() < deadline:
        time.sleep(POLL)
    return value


async def hold_async(gate: FileGate, value: int = 0) -> int:
    """Arrive at the gate and wait there; takes no notice of any stop."""
    gate.arrive()
    deadline = time.monotonic() + PATIENCE
    while not gate.is_open and time.monotonic() < deadline:
        try:
            await asyncio.sleep(POLL)
        except asyncio.CancelledError:
            continue
    return value


def listen(gate: FileGate) -> None:
    """Arrive at the gate, and run until asked to stop."""
    gate.arrive()
    token = current_job().token
    token.wait(PATIENCE)
    token.check()


async def listen_async(gate: FileGate) -> None:
    """Arrive at the gate, and run until asked to stop."""
    gate.arrive()
    await asyncio.sleep(PATIENCE)


def write_down(path: str, text: str) -> None:
    """Leave a line in a file: proof that it ran, and when."""
    note(path, text)


async def write_down_async(path: str, text: str) -> None:
    """Leave a line in a file: proof that it ran, and when."""
    note(path, text)


def fail_until(path: str, attempts: int) -> int:
    """Raise in each call before the `attempts`-th; counts the calls in a file."""
    note(path, "called")
    calls = len(lines(path))
    if calls < attempts:
        raise ConnectionError(f"call {calls}")
    return calls


async def fail_until_async(path: str, attempts: int) -> int:
    """Raise in each call before the `attempts`-th; counts the calls in a file."""
    return fail_until(path, attempts)


def introduce() -> tuple[str, str, int, bool]:
    """What the running job knows of itself."""
    job = current_job()
    return job.id, job.name, job.attempt, job.token.cancelled


async def introduce_async() -> tuple[str, str, int, bool]:
    """What the running job knows of itself."""
    return introduce()


def advance(done: float, total: float, note: str) -> None:
    """Report progress once."""
    current_job().progress(done, total, note)


async def advance_async(done: float, total: float, note: str) -> None:
    """Report progress once."""
    advance(done, total, note)


def see_shade() -> str:
    """The context variable `shade`."""
    return shade.get()


async def see_shade_async() -> str:
    """The context variable `shade`."""
    return shade.get()


def await_token(token: CancelToken, gate: FileGate) -> str | None:
    """Arrive, and wait for a token that came as an argument."""
    gate.arrive()
    token.wait(PATIENCE)
    return token.reason


async def await_token_async(token: CancelToken, gate: FileGate) -> str | None:
    """Arrive, and wait for a token that came as an argument."""
    gate.arrive()
    return await token.stopped()


def raise_token(token: CancelToken, reason: str) -> None:
    """Ask for a stop through a token that came as an argument."""
    token.cancel(reason)


async def raise_token_async(token: CancelToken, reason: str) -> None:
    """Ask for a stop through a token that came as an argument."""
    token.cancel(reason)


def twin(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The coroutine function that does the same."""
    found: Callable[..., Any] = globals()[f"{plain.__name__}_async"]
    return found
