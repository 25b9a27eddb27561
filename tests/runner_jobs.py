"""Jobs for the runner's tests, importable by workers, and the few words that all those tests share.

A job that is to be held takes a `CancelToken` called `go`: it reports progress once it runs,
then waits for `go`. That works the same in a coroutine, a thread and a process.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from asyncjobs import CancelToken, Job, JobState, Runner, current_job

LANES = ("loop", "thread", "process")
LONG = 30.0
"""Seconds after which a held job gives up by itself: a failing test strands nothing for long."""


# --- jobs -------------------------------------------------------------------------------


def echo(value: Any = None) -> Any:
    return value


async def aecho(value: Any = None) -> Any:
    return value


def hold(go: CancelToken, value: Any = None) -> Any:
    current_job().progress(0, 1, "holding")
    go.wait(LONG)
    return value


async def ahold(go: CancelToken, value: Any = None) -> Any:
    current_job().progress(0, 1, "holding")
    async with asyncio.timeout(LONG):
        await go.stopped()
    return value


def listen() -> str:
    """Ends as soon as it is asked to stop, without a value."""
    token = current_job().token
    current_job().progress(0, 1, "listening")
    token.wait(LONG)
    token.check()
    return "never asked"


async def alisten() -> str:
    current_job().progress(0, 1, "listening")
    async with asyncio.timeout(LONG):
        await current_job().token.stopped()
    current_job().token.check()
    return "never asked"


async def alisten_to(_: object) -> str:
    return await alisten()


def obliging() -> str:
    """Returns a value when it is asked to stop: within the grace that is a success."""
    current_job().progress(0, 1, "listening")
    current_job().token.wait(LONG)
    return "in time"


async def aobliging() -> str:
    current_job().progress(0, 1, "listening")
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        return "in time"
    return "never asked"


def stubborn(go: CancelToken) -> str:
    """Hears nothing but `go`, whatever is raised in it."""
    current_job().progress(0, 1, "deaf")
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            go.wait(LONG)
            break
        except BaseException:
            continue
    return "at last"


async def astubborn(go: CancelToken) -> str:
    current_job().progress(0, 1, "deaf")
    while not go.cancelled:
        try:
            await go.stopped()
        except BaseException:
            continue
    return "at last"


def write_line(path: str, text: str = "ran") -> None:
    """A side effect that a test can look for."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


async def awrite_line(path: str, text: str = "ran") -> None:
    write_line(path, text)


def fail(text: str = "on purpose") -> None:
    raise ValueError(text)


async def afail(text: str = "on purpose") -> None:
    raise ValueError(text)


def fail_until(path: str, attempt: int) -> int:
    """Fails before attempt number `attempt`; leaves a line for each."""
    write_line(path, f"attempt {current_job().attempt}")
    if current_job().attempt < attempt:
        raise ConnectionError(f"attempt {current_job().attempt}")
    return current_job().attempt


async def afail_until(path: str, attempt: int) -> int:
    return fail_until(path, attempt)


def stop_or_die_of(path: str) -> None:
    """Each attempt leaves a line, then runs until it is stopped."""
    write_line(path, f"attempt {current_job().attempt}")
    hold(CancelToken())


def die(code: int = 9) -> None:
    os._exit(code)


def die_on(item: int, bad: int) -> int:
    if item == bad:
        os._exit(3)
    return item


def square(x: int) -> int:
    return x * x


async def asquare(x: int) -> int:
    return x * x


def add(x: int, y: int) -> int:
    return x + y


async def aadd(x: int, y: int) -> int:
    return x + y


def fail_on_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


async def afail_on_odd(x: int) -> int:
    return fail_on_odd(x)


def lock_if_three(x: int) -> object:
    """Something that does not pickle, for one item."""
    return threading.Lock() if x == 3 else x


def bomb_if_three(x: int) -> object:
    """Something that does not unpickle, for one item."""
    return Bomb() if x == 3 else x


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("cannot be rebuilt")


def with_timeout(timeout: float, name: str = "", lane: str = "") -> tuple[float, str, str]:
    """Its parameters have the names of options."""
    return timeout, name, lane


async def awith_timeout(timeout: float, name: str = "", lane: str = "") -> tuple[float, str, str]:
    return timeout, name, lane


def who_am_i() -> dict[str, Any]:
    """What `current_job()` says in a job; reports progress three times."""
    me = current_job()
    for step in range(1, 4):
        me.progress(step, 3, f"step {step}")
    me.token.check()
    return {
        "id": me.id,
        "name": me.name,
        "attempt": me.attempt,
        "cancelled": me.token.cancelled,
        "waited": me.token.wait(0.0),
    }


async def awho_am_i() -> dict[str, Any]:
    return who_am_i()


def shout(text: str) -> str:
    print(text)
    return text


def burn(seconds: float) -> float:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


HOLD: dict[str, Callable[..., Any]] = {"loop": ahold, "thread": hold, "process": hold}
LISTEN: dict[str, Callable[..., Any]] = {"loop": alisten, "thread": listen, "process": listen}
OBLIGING: dict[str, Callable[..., Any]] = {"loop": aobliging, "thread": obliging, "process": obliging}
STUBBORN: dict[str, Callable[..., Any]] = {"loop": astubborn, "thread": stubborn, "process": stubborn}
ECHO: dict[str, Callable[..., Any]] = {"loop": aecho, "thread": echo, "process": echo}
WRITE: dict[str, Callable[..., Any]] = {"loop": awrite_line, "thread": write_line, "process": write_line}
FAIL: dict[str, Callable[..., Any]] = {"loop": afail, "thread": fail, "process": fail}
FAIL_UNTIL: dict[str, Callable[..., Any]] = {"loop": afail_until, "thread": fail_until, "process": fail_until}


# --- words for tests --------------------------------------------------------------------


async def running(runner: Runner, job: Job[Any]) -> None:
    """Wait until `job` has reported progress: from then on it runs, for sure."""
    async with asyncio.timeout(20):
        with runner.events(4096) as events:
            if job.progress is not None:
                return
            async for event in events:
                if event.job_id == job.id and (event.progress is not None or event.state.is_final):
                    assert not event.state.is_final, f"{job!r} ended before it said a word"
                    return


async def reaches(runner: Runner, job: Job[Any], state: JobState) -> None:
    """Wait until `job` is in `state`, or was."""
    async with asyncio.timeout(20):
        with runner.events(4096) as events:
            if any(mark.state is state for mark in job.history):
                return
            async for event in events:
                if event.job_id == job.id and event.state is state:
                    return


async def held(runner: Runner, lane: str, value: Any = None) -> tuple[Job[Any], CancelToken]:
    """A job that runs in `lane` until the token is cancelled."""
    go = CancelToken()
    job = await runner.options(lane=lane).submit(HOLD[lane], go, value)
    await running(runner, job)
    return job, go


def lines(path: object) -> list[str]:
    """What jobs have written to the file; none if there is no file."""
    try:
        with open(str(path), encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def ended_once(*jobs: Job[Any]) -> None:
    """Each job has exactly one final state, and it is the last."""
    for job in jobs:
        assert job.done(), job
        finals = [mark.state for mark in job.history if mark.state.is_final]
        assert finals == [job.state], job.history
        assert [mark.at for mark in job.history] == sorted(mark.at for mark in job.history)


async def still_works(runner: Runner, *lanes: str) -> None:
    """The next job of every lane succeeds, within seconds."""
    async with asyncio.timeout(10):
        for lane in lanes or LANES:
            assert await runner.options(lane=lane).run(ECHO[lane], f"after, in {lane}") == f"after, in {lane}"


@asynccontextmanager
async def unharmed(runner: Runner, *lanes: str) -> AsyncIterator[None]:
    """The common outcome: a neighbour in each lane is untouched by the block, and the lanes work on."""
    neighbours = [await held(runner, lane, f"untouched in {lane}") for lane in lanes or LANES]
    yield
    for (job, go), lane in zip(neighbours, lanes or LANES, strict=True):
        assert job.state is JobState.RUNNING, job
        assert job.attempt == 1
        go.cancel()
        async with asyncio.timeout(10):
            assert await job == f"untouched in {lane}"
        ended_once(job)
    await still_works(runner, *lanes)


def tell(*args: Any) -> None:
    current_job().progress(*args)


async def atell(*args: Any) -> None:
    tell(*args)
