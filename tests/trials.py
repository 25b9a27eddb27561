"""Trials of a whole service: something makes it fail, its clients go on by key, and the checker has the last word.

A `Trial` is one state directory and one service after the other in it: when one has ended the next is started,
without what made it fail. `live` is what clients do meanwhile: of every kind that leaves a mark in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import service_jobs
from services import FINAL, ServiceProcess
from stored import looked_at

import asyncjobs as aj
from asyncjobs.service import envelope, outcome
from asyncjobs.service.errors import ServiceError, StorageFull
from asyncjobs.service.store.checking import Evidence, Report, check
from asyncjobs.service.store.history import Recorder, read_calls, read_effects
from asyncjobs.service.store.rowchecks import Job

T = TypeVar("T")

AWAY = 60.0
"""Seconds that a client waits for a service that is away: far longer than one takes to start on a busy machine."""
PAUSE = 0.05
"""Seconds until something that was refused is asked for again."""
MOST_ENDS = 6
"""No trial takes as many services."""
MAX_CRASHES = 50
"""More than there are in a trial: what ends as LOST has asked for it."""
RETRY = aj.Retry(1, backoff=0.02)
RESTS = {"ballast", "figures", "jobs.db", "jobs.db-mark", "key", "lock", "logs", "results", "run", "token"}
"""What lies in a state directory that nobody serves."""


class Trial:
    """An async context manager; leaving it kills what is left.

    Args:
        folder: the evidence lies in it, and the state directory, if that is not `state`.
        failpoints, under: what makes the first service fail: failpoints, or a command that runs it.
        environment: of every service.
    """

    def __init__(
        self,
        folder: Path,
        *,
        failpoints: str = "",
        under: tuple[str, ...] = (),
        state: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.effects, self.notes = str(folder / "effects"), str(folder / "notes")
        self.ends: list[int] = []
        """The exit codes of services that have ended."""
        self.refusals: list[str] = []
        """What clients were told instead of an answer."""
        self.values: dict[str, Any] = {}
        """What jobs are to return, by id."""
        self.ids: set[str] = set()
        self._history = folder / "history"
        self._record = Recorder(self._history)
        self._next = ""
        self._is_over = False
        self._is_under = bool(under)
        self.service = ServiceProcess(
            state or folder / "state",
            ready=False,
            under=under,
            environment={**(environment or {}), "ASYNCJOBS_FAILPOINTS": failpoints},
        )
        self._plain = self.service.command[len(under) :]

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._minding = asyncio.create_task(self._mind())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        self._record.close()
        await asyncio.to_thread(self.service.close)
        await self._minding

    async def _mind(self) -> None:
        while True:
            code = await asyncio.to_thread(self.service.process.wait)
            self.ends.append(code)
            if self._is_over:
                return
            assert len(self.ends) < MOST_ENDS, f"it ends again and again:\n{self.service.said}"
            self.service.command = self._plain
            self.service.environment["ASYNCJOBS_FAILPOINTS"], self._next = self._next, ""
            await asyncio.to_thread(self.service.restart, ready=False)

    async def kill(self, failpoints: str = "") -> None:
        """SIGKILL; the next service has these failpoints."""
        self._next = failpoints
        ended = len(self.ends)
        os.kill(self._pid(), signal.SIGKILL)
        while len(self.ends) == ended:
            await asyncio.sleep(PAUSE)

    def _pid(self) -> int:
        # What runs it, such as strace, has it for a child.
        process = psutil.Process(self.service.process.pid)
        family = [process, *process.children()]
        return next((one.pid for one in family if _serves(one)), process.pid)

    def terminate(self) -> None:
        """SIGTERM; `_mind` sees its end."""
        os.kill(self._pid(), signal.SIGTERM)

    async def stop(self, code: int = 0) -> None:
        """SIGTERM to the service, whose exit code that is."""
        self._is_over = True
        self.service.family()
        os.kill(self._pid(), signal.SIGTERM)
        assert await asyncio.to_thread(self.service.ends) == code, self.service.output

    # --- clients ------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aj.ServiceClient]:
        """One that goes on while services come and go."""
        client = aj.connect(self.service.folder, timeout=AWAY)
        while True:
            try:
                await client.__aenter__()
                break
            except (ServiceError, FileNotFoundError):  # it has yet to start for the first time, or again
                await self._pause()
        try:
            yield client
        finally:
            await client.aclose()

    async def submit(
        self, client: Any, key: str, fn: Callable[..., Any], *args: Any, **options: Any
    ) -> aj.ServiceJob[Any]:
        """By key, again and again until it is accepted."""
        submitter = client.options(key=key, max_crashes=MAX_CRASHES, **options)
        return await self._told(
            "submit", key, lambda: submitter.submit(fn, *args), lambda job: (job.id, job.state.name)
        )

    async def submit_many(
        self, client: aj.ServiceClient, key: str, number: int, fn: Callable[..., Any], **options: Any
    ) -> None:
        """So many without arguments, in few requests."""
        async with asyncio.TaskGroup() as group:
            for n in range(number):
                group.create_task(self.submit(client, f"{key} {n}", fn, **options))

    async def cancel(self, job: aj.ServiceJob[Any]) -> None:
        await self._told("cancel", None, lambda: job.cancel("enough"), lambda answer: (job.id, answer), job.id)

    async def again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, however often one has to ask."""
        while True:
            try:
                return await ask()
            except ServiceError as error:
                self.refusals.append(f"{type(error).__name__}: {error}")
                await self._pause()

    async def _pause(self) -> None:
        if self._minding.done():
            await self._minding
        await asyncio.sleep(PAUSE)

    async def _told(
        self,
        op: str,
        key: str | None,
        ask: Callable[[], Awaitable[T]],
        what: Callable[[T], tuple[str, str]],
        job: str = "",
    ) -> T:
        async def once() -> T:
            call = self._record.invoke(op, job, key)
            try:
                answer = await ask()
            except StorageFull:
                self._record.fail(call, op)
                raise
            except ServiceError:
                self._record.unknown(call, op)
                raise
            self._record.ok(call, op, *what(answer))
            return answer

        return await self.again(once)

    # --- what became of it --------------------------------------------------------------

    async def verdict(self, **evidence: Any) -> Report:
        """Ask for every result, stop the service, and hold its promises against what is there."""
        if self._is_under and not self.ends:  # it may yet fail as it stops
            self.terminate()
            while not self.ends:
                await asyncio.sleep(PAUSE)
        async with self.client():
            await asyncio.to_thread(self._ask_for_results)
        descriptors = self._descriptors()
        await self.stop()
        database = self.service.folder / "jobs.db"
        log = (self.service.folder / "logs" / "service.log").read_text()
        return check(
            Evidence(
                database,
                calls=read_calls(_lines(self._history)),
                effects=read_effects(_lines(Path(self.effects))),
                is_drained=True,
                oracle=self._right,
                alive=frozenset(self.service.family()),
                leaks=tuple(self._leaks(database)),
                descriptors=descriptors,
                # Over a service that is started again: its clients wait for it.
                bounds=dict.fromkeys(("submit", "cancel"), AWAY),
                stderr=self.service.said + log,
                **evidence,
            )
        )

    def _ask_for_results(self) -> None:
        for id in self.ids:
            view = self.service.ended(id)
            assert view["state"] in FINAL
            call = self._record.invoke("result", id)
            status, sealed = self.service.ask("GET", f"/v1/jobs/{id}/outcome")
            assert status in (200, 204), (status, sealed)
            self._record.ok(call, "result", id, f"{view['state']} {hashlib.sha256(sealed).hexdigest()}")

    def _descriptors(self) -> int:
        folder = Path(f"/proc/{self._pid()}/fd")
        with contextlib.suppress(FileNotFoundError):  # not Linux
            return [os.readlink(fd) for fd in folder.iterdir()].count(str(self.service.folder / "jobs.db"))
        return 1

    def _right(self, job: Job) -> bytes | None:
        if job.id not in self.values:
            return None
        return envelope.seal(self.service.key, job.id, outcome.encode_value(self.values[job.id], as_json=False))

    def _leaks(self, database: Path) -> list[str]:
        folder = self.service.folder
        named = {file for (file,) in looked_at(database, "SELECT file FROM outcomes WHERE file IS NOT NULL")}
        found = {str(path.relative_to(folder / "results")) for path in (folder / "results").glob("??/*")}
        left = {path.name for path in folder.iterdir()} - RESTS | {path.name for path in (folder / "run").glob("*")}
        return [*left, *(found - named)]


def _serves(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return bool(process.cmdline()[1:4] == ["-m", "asyncjobs", "serve"])
    return False


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


# --- what clients do ------------------------------------------------------------------------


async def live(trial: Trial, client: aj.ServiceClient) -> None:
    """Twenty jobs and more by key, some beside each other; it is over when all of them have ended."""
    jobs = [await _note(trial, client, n) for n in range(4)]
    async with asyncio.TaskGroup() as group:
        several = [group.create_task(_note(trial, client, n)) for n in range(4, 10)]
        several += [group.create_task(work(trial, client)) for work in (_keep, _large, _fail, _late, _once)]
        for work in (_family, _cancels, _governs):
            group.create_task(work(trial, client))
    jobs += [task.result() for task in several]
    for job in jobs:
        await trial.again(job.wait)


async def _accepted(trial: Trial, job: aj.ServiceJob[Any], *value: Any) -> aj.ServiceJob[Any]:
    trial.ids.add(job.id)
    if value:
        [trial.values[job.id]] = value
    return job


async def _note(trial: Trial, client: aj.ServiceClient, number: int) -> aj.ServiceJob[Any]:
    text = f"note {number}"
    job = await trial.submit(client, text, service_jobs.note, trial.effects, text)
    return await _accepted(trial, job, service_jobs.sha(text))


async def _keep(trial: Trial, client: aj.ServiceClient) -> aj.ServiceJob[Any]:
    job = await trial.submit(client, "keeps", service_jobs.count_on, trial.notes, 3)
    return await _accepted(trial, job, [0, 1, 2])


async def _large(trial: Trial, client: aj.ServiceClient) -> aj.ServiceJob[Any]:
    job = await trial.submit(client, "large", service_jobs.large, 300_000)
    return await _accepted(trial, job, b"x" * 300_000)


async def _fail(trial: Trial, client: aj.ServiceClient) -> aj.ServiceJob[Any]:
    return await _accepted(trial, await trial.submit(client, "fails", service_jobs.fail_until, 2, retries=RETRY))


async def _late(trial: Trial, client: aj.ServiceClient) -> aj.ServiceJob[Any]:
    job = await trial.submit(client, "late", service_jobs.note, trial.effects, "late", delay=0.2)
    return await _accepted(trial, job, service_jobs.sha("late"))


async def _once(trial: Trial, client: aj.ServiceClient) -> aj.ServiceJob[Any]:
    job = await trial.submit(client, "once", service_jobs.note, trial.effects, "once", at_most_once=True)
    return await _accepted(trial, job)


async def _family(trial: Trial, client: aj.ServiceClient) -> None:
    """Three that come after one, whose result they need."""
    parent = await trial.submit(client, "parent", service_jobs.sha, "parent")
    await _accepted(trial, parent, service_jobs.sha("parent"))
    for n in range(3):
        child = await trial.submit(client, f"child {n}", service_jobs.echo, parent)
        await _accepted(trial, child, service_jobs.sha("parent"))
        await trial.again(child.wait)


async def _cancels(trial: Trial, client: aj.ServiceClient) -> None:
    """One that waits for its time, and one that runs or is about to."""
    for key, options in (("never", {"delay": 600.0}), ("stopped", {})):
        job = await trial.submit(client, key, service_jobs.wait, **options)
        await _accepted(trial, job)
        await trial.cancel(job)
        await trial.again(job.wait)


async def _governs(trial: Trial, client: aj.ServiceClient) -> None:
    await trial.again(lambda: client.pause("function:service_jobs:nothing"))
    await trial.again(lambda: client.resume("function:service_jobs:nothing"))
    await trial.again(lambda: client.options(name="yearly").schedule("0 3 29 2 *", service_jobs.sha, "x"))
    assert [view.name for view in await trial.again(client.schedules)] == ["yearly"]
