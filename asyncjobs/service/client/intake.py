"""Where the jobs of one client go out: drafts them, sends them, keeps what is known of them together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from asyncjobs.errors import WrongLoop
from asyncjobs.service.client.api import Api
from asyncjobs.service.client.drafts import Plan, by_value, check_python, draft
from asyncjobs.service.client.endings import Endings
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.service.client.outbox import Outbox
from asyncjobs.service.errors import NotAllowed, ServiceError, ServiceGone
from asyncjobs.service.protocol import AcceptedAnswer, JobRequest, ScheduleRequest, ScheduleView

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("asyncjobs")

TOLD = 10
"""Refused jobs that are named, of all that nobody asked for."""
CANCELS = 16
"""Requests to cancel that are under way at once."""


class Intake:
    """One open client, as its submitters and its jobs see it."""

    def __init__(self, api: Api) -> None:
        self.api: Api = api
        self.endings: Endings = Endings(api)
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._outbox = Outbox(api)
        self._not_by_name: set[str] = set()
        """Functions that the service does not run by name: they travel in a sealed call."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancels: set[asyncio.Task[None]] = set()
        self.refused: dict[str, str] = {}
        """Jobs that the service did not accept, and nobody has asked; told at the end."""
        self._is_closed = False

    def check_loop(self) -> None:
        """Refuse to be used from another loop or thread, or after the end.

        Raises:
            WrongLoop: another loop, or none.
            ServiceGone: the client is closed.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise WrongLoop("a client of the service belongs to the event loop in which it was opened; use `.sync`")
        if self._is_closed:
            raise ServiceGone("the client is closed; what the service accepted goes on: connect again, and attach")

    # --- jobs ---------------------------------------------------------------------------

    def send(
        self, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ServiceJob[Any]:
        """The job, on its way."""
        self.check_loop()
        if plan.function in self._not_by_name:
            plan = plan._replace(function="")
        if not plan.function:
            check_python(fn, self.api.python)
        request = draft(fn, plan, args, kwargs, self.api.key)
        job: ServiceJob[Any] = ServiceJob(self, request.id, request.name)
        # Known before it is sent, or its end could come before us.
        self.endings.add(job)
        job.covered = self.endings.stream
        otherwise = partial(self._by_value, fn, plan.function, request) if plan.function and self.api.key else None
        job.accepting = self._outbox.post(request, otherwise)
        job.accepting.add_done_callback(partial(self._answered, job))
        return job

    def _by_value(self, fn: Callable[..., Any], function: str, request: JobRequest) -> JobRequest:
        assert self.api.key is not None
        check_python(fn, self.api.python)
        self._not_by_name.add(function)
        return by_value(fn, request, self.api.key)

    def _answered(self, job: ServiceJob[Any], answer: asyncio.Future[AcceptedAnswer]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            self.refused[job.id] = f"{job.name!r}: {error}"
            return
        if job.take_answer(answer.result()):
            self.endings.add(job)

    def handle(self, job: str, name: str) -> ServiceJob[Any]:
        """The handle of a job that is there already."""
        known = self.endings.known(job)
        return known if isinstance(known, ServiceJob) else ServiceJob(self, job, name)

    async def schedule(
        self, cron: str, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ScheduleView:
        """Make or replace a schedule."""
        self.check_loop()
        if not plan.function:
            check_python(fn, self.api.python)
        request = draft(fn, plan, args, kwargs, self.api.key)
        asked = ScheduleRequest(plan.settled.name, cron, request, plan.settled.zone)
        try:
            return await self.api.post("/v1/schedules", asked, ScheduleView)
        except NotAllowed:
            if not plan.function or self.api.key is None:
                raise
            check_python(fn, self.api.python)
            asked = ScheduleRequest(plan.settled.name, cron, by_value(fn, request, self.api.key), plan.settled.zone)
            return await self.api.post("/v1/schedules", asked, ScheduleView)

    # --- beside the caller --------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` until it has ended, or the client closes, which cancels it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel_soon(self, jobs: Iterable[ServiceJob[Any]], reason: str) -> asyncio.Task[None] | None:
        """Have these jobs cancelled; the client's end waits for that."""
        left = [job for job in jobs if not job.done()]
        if not left or self._is_closed:
            return None
        task = self.start(self._cancel(left, reason))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)
        return task

    async def _cancel(self, jobs: list[ServiceJob[Any]], reason: str) -> None:
        waiting = iter(jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CANCELS, len(jobs))):
                group.create_task(_cancel_each(waiting, reason))

    async def aclose(self) -> None:
        """Wait until what was submitted is accepted, and let go of the service; the jobs go on."""
        if self._is_closed:
            return
        try:
            await self._outbox.aclose()
            while self._cancels:
                await asyncio.wait(tuple(self._cancels))
        finally:
            self._is_closed = True
            self._outbox.abandon()
            self._tell_refused()
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self.endings.aclose()
            await self.api.aclose()

    def _tell_refused(self) -> None:
        for job in tuple(self.refused.values())[:TOLD]:
            logger.error("the service did not accept job %s", job)
        if len(self.refused) > TOLD:
            logger.error("the service did not accept %d more jobs either", len(self.refused) - TOLD)


async def _cancel_each(jobs: Iterator[ServiceJob[Any]], reason: str) -> None:
    for job in jobs:
        try:
            await job.cancel(reason)
        except ServiceError as error:
            logger.warning("job %r could not be cancelled: %s", job.name, error)
