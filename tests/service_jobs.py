"""Functions that services run in tests: importable by name, allowed as ``service_jobs.*``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import asyncjobs as aj


def add(x: int, y: int = 0) -> int:
    return x + y


def echo(value: Any) -> Any:
    return value


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pid() -> int:
    return os.getpid()


def say(*lines: str) -> int:
    """Print on both streams, in turn."""
    for number, line in enumerate(lines):
        print(line, file=(sys.stdout, sys.stderr)[number % 2])
    return len(lines)


def say_much(lines: int, text: str) -> None:
    for number in range(lines):
        print(number, text)


def fail(text: str = "it failed") -> None:
    raise ValueError(text)


def fail_until(attempt: int, kind: str = "ValueError") -> int:
    """Fail in the attempts before `attempt`; gives the attempt that succeeded."""
    now = aj.current_job().attempt
    if now < attempt:
        raise getattr(__import__("builtins"), kind)(f"attempt {now}")
    return now


def exit_with(code: int = 3) -> None:
    os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_until(attempt: int) -> int:
    """Die in the attempts before `attempt`."""
    now = aj.current_job().attempt
    if now < attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    return now


def sleep(seconds: float) -> float:
    """Asleep, and deaf to the token."""
    time.sleep(seconds)
    return seconds


def wait(seconds: float = 60.0) -> str:
    """Until it is asked to stop, or so many seconds have passed."""
    job = aj.current_job()
    if job.token.wait(seconds):
        job.token.check()
    return "not stopped"


def raise_when_stopped() -> None:
    """Make a failure of its own of being asked to stop."""
    aj.current_job().token.wait(60.0)
    raise OSError("stopped in the middle")


def wait_for(path: str, seconds: float = 30.0) -> str:
    """Until the file is there; its content."""
    until = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > until:
            raise TimeoutError(path)
        time.sleep(0.005)
    return Path(path).read_text()


def note(path: str, text: str = "", hold: float = 0.0) -> str:
    """Write down start and end of this attempt, each by one append, for the checker of invariants."""
    job = aj.current_job()
    append(path, f"{job.id} {job.attempt} {os.getpid()} start {time.monotonic_ns()}")
    time.sleep(hold)
    append(path, f"{job.id} {job.attempt} {os.getpid()} end {time.monotonic_ns()}")
    return sha(text)


def note_and_wait(path: str, gate: str, text: str = "") -> str:
    """The same; between start and end it waits for the file `gate`."""
    job = aj.current_job()
    append(path, f"{job.id} {job.attempt} {os.getpid()} start {time.monotonic_ns()}")
    wait_for(gate, 60.0)
    append(path, f"{job.id} {job.attempt} {os.getpid()} end {time.monotonic_ns()}")
    return sha(text)


def append(path: str, line: str) -> None:
    """One line, by one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def progress(steps: int, hold: float = 0.0) -> int:
    job = aj.current_job()
    for step in range(1, steps + 1):
        job.progress(step, steps, f"step {step}")
        time.sleep(hold)
    return steps


def count_on(path: str, steps: int, die_at: int = 0) -> list[int]:
    """Steps that a checkpoint carries over a crash: `die_at` kills the worker there, in the first attempt only."""
    job = aj.current_job()
    done: list[int] = job.restore([])
    for step in range(len(done), steps):
        append(path, f"{job.attempt} {step}")
        done.append(step)
        job.checkpoint(done)
        if job.attempt == 1 and step + 1 == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return done


def checkpoint_of(nbytes: int) -> str:
    """What comes of a checkpoint of so many bytes."""
    try:
        aj.current_job().checkpoint(bytes(nbytes))
    except Exception as error:
        return type(error).__name__
    return "kept"


def context() -> dict[str, Any]:
    """What the job knows of itself."""
    job = aj.current_job()
    return {"id": job.id, "name": job.name, "attempt": job.attempt, "fence": job.fence}


def environment() -> dict[str, str]:
    return dict(os.environ)


def large(nbytes: int) -> bytes:
    return b"x" * nbytes


def draw(points: int) -> int:
    with aj.plot("loss.json", every=0.5) as plot:
        for step in range(points):
            plot.log(step, loss=1.0 / (step + 1))
    return points


async def sleep_async(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


async def wait_async() -> str:
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up")
    return "not stopped"


class Shelf:
    """For names that are not functions, and those one level down."""

    @staticmethod
    def put(x: int) -> int:
        return x

    class Inner:
        @staticmethod
        def put(x: int) -> int:
            return x


def clock() -> float:
    """When it ran, on the clock that all processes of a machine share."""
    return time.monotonic()


def fraction(above: int, below: int) -> Fraction:
    """What JSON cannot say."""
    return Fraction(above, below)
