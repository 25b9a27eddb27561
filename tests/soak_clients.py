"""Who uses the service during the soak: `Client` submits orders and waits for them, `Visitor` asks for the rest.

They write down what they are told, for the checker of invariants; what they are told wrongly is a complaint.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import soak_jobs
from soak_plan import PARENT, Errand, Order, errands, orders

import asyncjobs as aj
from asyncjobs.service.client.api import path_of
from asyncjobs.service.client.client import ServiceClient
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.service.client.submitter import ServiceSubmitter
from asyncjobs.service.errors import NotNow, ServiceError
from asyncjobs.service.store.checking import check_database
from asyncjobs.service.store.history import Recorder
from asyncjobs.state import JobState

AWAY = 60.0
"""Seconds that the service may be away: a busy machine starts it slowly."""
MOST = 150
"""Jobs of one client that have not ended."""


@dataclass
class Story:
    """What everybody writes into."""

    folder: Path
    seed: int
    until: float
    """On the monotonic clock: no new jobs from then on."""
    record: Recorder
    start: asyncio.Barrier
    """Whoever opens a client waits here: nobody connects to a service that does not run."""
    ordered: dict[str, Order] = field(default_factory=dict)
    """By the id of the job that stands for it."""
    asked_to_stop: set[str] = field(default_factory=set)
    replays: dict[str, str] = field(default_factory=dict)
    """The job whose call it is, by the id of the new one."""
    complaints: list[str] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The service's directory."""
        return self.folder / "state"

    @property
    def notes(self) -> str:
        """Where jobs write."""
        return str(self.folder / "notes")

    def is_over(self) -> bool:
        """Whether it is time to come to an end."""
        return time.monotonic() >= self.until


class Client:
    """Submits orders until the time is over, and waits until all have ended."""

    def __init__(self, story: Story, number: int) -> None:
        self._story = story
        self._number = number
        self._room = asyncio.Semaphore(MOST)
        self._accepted: dict[int, asyncio.Future[ServiceJob[Any] | None]] = {}

    async def run(self) -> None:
        """Until each of its jobs has ended."""
        story = self._story
        async with (
            aj.connect(story.state, timeout=AWAY) as service,
            aj.connect(story.state, timeout=AWAY) as other,
            asyncio.TaskGroup() as tasks,
        ):
            await story.start.wait()
            for order in orders(story.seed, self._number):
                await self._room.acquire()
                if story.is_over():
                    break
                self._accepted[order.number] = asyncio.get_running_loop().create_future()
                self._accepted.pop(order.number - 100, None)
                tasks.create_task(self._carry_out(service, other, order))
                await asyncio.sleep(order.pause)

    async def _carry_out(self, service: ServiceClient, other: ServiceClient, order: Order) -> None:
        accepted = self._accepted[order.number]
        try:
            job = await self._submit(service.options(**order.options), order)
            accepted.set_result(job)
            if job is not None:
                await self._see_it_through(await other.attach(job.id) if order.is_left else job, order)
        except ServiceError as error:
            self._story.complaints.append(f"order {self._number}/{order.number}: {type(error).__name__}: {error}")
        finally:
            if not accepted.done():
                accepted.set_result(None)
            self._room.release()

    async def _submit(self, submitter: ServiceSubmitter, order: Order) -> ServiceJob[Any] | None:
        accepted = [self._accepted[number] for number in order.parents]  # all at once: the older ones are forgotten
        parents = [await future for future in accepted]
        if None in parents:
            return None
        args = [parents if arg is PARENT else arg for arg in order.args]
        jobs = [submitter.submit_nowait(order.fn, self._story.notes, *args) for _ in range(1 + order.is_repeated)]
        for job in jobs:
            await self._told(job, order)
        if len({job.id for job in jobs}) > 1:
            self._story.complaints.append(f"I3 one key, two jobs: {jobs}")
        return jobs[0]

    async def _told(self, job: ServiceJob[Any], order: Order) -> None:
        record = self._story.record
        call = record.invoke("submit", job.id, order.options.get("key"))
        try:
            await job.accepted()
        except ServiceError:
            record.unknown(call, "submit")
            raise
        record.ok(call, "submit", job.id, job.state.name)
        self._story.ordered[job.id] = order

    async def _see_it_through(self, job: ServiceJob[Any], order: Order) -> None:
        if order.cancel is not None:
            await asyncio.sleep(order.cancel)
            await self._cancel(job)
        error = await job.outcome()
        if error is None and job.result() != order.value:
            self._story.complaints.append(f"I8 {job!r} gave {str(job.result())[:80]!r}, not {str(order.value)[:80]!r}")
        call = self._story.record.invoke("result", job.id)
        reply = await job._desk.api.ask("GET", path_of(job.id, "/outcome?wait=0"))
        told = f"{job.state.name} {hashlib.sha256(reply.body).hexdigest()}"
        self._story.record.ok(call, "result", job.id, told)

    async def _cancel(self, job: ServiceJob[Any]) -> None:
        self._story.asked_to_stop.add(job.id)
        call = self._story.record.invoke("cancel", job.id)
        self._story.record.ok(call, "cancel", job.id, await job.cancel("the soak wants it"))


class Visitor:
    """Asks for other things than jobs, one after the other."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._done = 0

    async def run(self) -> None:
        """Until the time is over; nothing is paused or scheduled any more then."""
        story = self._story
        async with aj.connect(story.state, timeout=AWAY) as service:
            await story.start.wait()
            for errand in errands(story.seed):
                await asyncio.sleep(errand.after)
                if story.is_over():
                    break
                try:
                    await getattr(self, f"_{errand.kind}")(service, errand)
                except ServiceError as error:
                    story.complaints.append(f"errand {errand.kind}: {type(error).__name__}: {error}")
            for schedule in await service.schedules():
                await service.unschedule(schedule.name)

    async def _hold(self, service: ServiceClient, errand: Errand) -> None:
        await service.pause()
        await asyncio.sleep(errand.draw)
        await service.resume()

    async def _hold_a_function(self, service: ServiceClient, errand: Errand) -> None:
        name = ("plain", "flaky", "counting")[int(errand.draw * 3)]
        await service.pause(f"function:soak_jobs:{name}")
        await asyncio.sleep(3 * errand.draw)
        await service.resume(f"function:soak_jobs:{name}")

    async def _list_jobs(self, service: ServiceClient, errand: Errand) -> None:
        jobs = await service.jobs(limit=int(errand.draw * 1500))
        if len({job.id for job in jobs}) != len(jobs):
            self._story.complaints.append("a list shows a job twice")

    async def _look(self, service: ServiceClient, errand: Errand) -> None:
        await service.stats()
        for job in await service.jobs(limit=3):
            await job.refresh()

    async def _back_up(self, service: ServiceClient, errand: Errand) -> None:
        """The copy is sound too. A service that dies meanwhile breaks it off, so each has a name of its own."""
        self._done += 1
        target = self._story.folder / f"copy{self._done}"
        with contextlib.suppress(ServiceError):
            await service._intake.api.ask("POST", "/v1/backup", f'{{"path": "{target}"}}'.encode(), may_repeat=False)
            self._story.complaints += [f"in a backup: {found}" for found in check_database(target / "jobs.db")]

    async def _schedule(self, service: ServiceClient, errand: Errand) -> None:
        name = f"each-minute-{int(errand.draw * 3)}"
        submitter = service.options(name=name, max_crashes=1000)
        await submitter.schedule("* * * * *", soak_jobs.plain, self._story.notes, name, 0.01, [])

    async def _follow(self, service: ServiceClient, errand: Errand) -> None:
        """The events of a job, to its end; its log, to its end."""
        for job in await service.jobs(limit=1, state=[JobState.RUNNING, JobState.QUEUED]):
            async with asyncio.timeout(10 * AWAY):
                events = [event async for event in job.events()]
                _ = [line async for line in job.logs()]
            if not events or not JobState[(await job.refresh()).state].is_final:
                self._story.complaints.append(f"the events of {job!r} ended before it did: {events[-3:]}")

    async def _replay(self, service: ServiceClient, errand: Errand) -> None:
        jobs = [job for job in await service.jobs(limit=20, state="FAILED") if job.id in self._story.ordered]
        for job in Random(errand.draw).sample(jobs, min(1, len(jobs))):
            with contextlib.suppress(NotNow, ServiceError):
                self._story.replays[(await job.replay()).id] = job.id
