"""Talk to a service from async code: `ServiceClient`, the runner's verbs for jobs that outlive the program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

import msgspec

from asyncjobs.errors import WrongLoop
from asyncjobs.options import check_count
from asyncjobs.service.client.api import Api, path_of
from asyncjobs.service.client.intake import Intake
from asyncjobs.service.client.job import ServiceJob
from asyncjobs.service.client.options import ServiceOptionFields, ServiceOptions, make_service_options
from asyncjobs.service.client.place import Place
from asyncjobs.service.client.starting import ensure_started
from asyncjobs.service.client.submitter import ServiceSubmitter
from asyncjobs.service.client.sync import SyncServiceClient
from asyncjobs.service.errors import BadRequest, NoSuchJob, ServiceError
from asyncjobs.service.protocol import (
    VERSION,
    Health,
    JobView,
    ListAnswer,
    ScheduleView,
    ScopeRequest,
    StatsView,
    StopRequest,
)
from asyncjobs.service.records import ID
from asyncjobs.state import FINAL, JobState

PAGE = 500
"""Jobs that a list asks for at once."""


class JobFilters(TypedDict, total=False):
    """What `ServiceClient.jobs` looks for; all that is given has to fit."""

    state: JobState | str | Sequence[JobState | str]
    """One, or several."""
    name: str
    function: str
    """``module:qualname``."""
    lane: str
    tag: str
    schedule: str
    """The name of the schedule that made it."""


class ServiceClient(ServiceSubmitter):
    """A way to a service, made by `asyncjobs.connect`; open inside ``async with``.

    The service runs the jobs; they go on when the block ends, or the program. A client belongs to the event
    loop in which it was opened; `sync` is the same without `await`, for scripts and notebooks.

    Example::

        async with connect(start=True) as service:
            job = await service.options(retries=3, timeout=3600).submit(fit, part)
            print(job.id)                # enough to attach to it tomorrow
            print(await job)
    """

    def __init__(self, place: Place, *, start: bool, timeout: float) -> None:
        super().__init__(self, ServiceOptions())
        self._place = place
        self._start = start
        self._timeout = timeout
        self._open: Intake | None = None

    @property
    def sync(self) -> SyncServiceClient:
        """The same verbs without `await`, on a loop of their own; open inside ``with``."""
        return SyncServiceClient(self)

    def __repr__(self) -> str:
        return f"<ServiceClient of {self._place.name}, {'open' if self._open is not None else 'closed'}>"

    # --- life ---------------------------------------------------------------------------

    async def __aenter__(self) -> ServiceClient:
        """Find the service, or start it.

        Raises:
            ServiceNotRunning: there is none.
            StateRefused: its directory is not ours alone.
        """
        if self._open is not None:
            raise WrongLoop("the client is open already; make another one with connect()")
        if self._start:
            await ensure_started(self._place, self._timeout)
        api = Api(self._place, self._timeout)
        try:
            api.key = self._place.key()
            health = await api.get_once("/health", Health)
            if health.protocol != VERSION:
                raise ServiceError(
                    f"the service at {self._place.name} (asyncjobs {health.version}) speaks version {health.protocol} "
                    f"of the protocol, this client {VERSION}; use the same version of asyncjobs for both"
                )
            api.python = health.python
        except BaseException:
            await api.aclose()
            raise
        self._open = Intake(api)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait until what was submitted is accepted, and let go of the service; the jobs go on. Again: nothing."""
        intake = self._open
        if intake is not None:
            await intake.aclose()
            self._open = None

    @property
    def _intake(self) -> Intake:
        if self._open is None:
            raise ServiceError("the client is not open; use it inside `async with connect() as service:`")
        return self._open

    # --- jobs ---------------------------------------------------------------------------

    def options(self, **options: Unpack[ServiceOptionFields]) -> ServiceSubmitter:
        """The same verbs with these options (see `ServiceOptions`) for every job.

        Example: ``service.options(priority=5, retries=3, after=[first]).submit(fit, x)``

        Raises:
            TypeError: an unknown option.
            ValueError: a value that is not allowed.
        """
        return ServiceSubmitter(self, make_service_options(options))

    async def attach(self, job_id: str) -> ServiceJob[Any]:
        """The job of that id, whoever submitted it, and whenever.

        Raises:
            NoSuchJob: the service does not know it (any more).
        """
        if not (isinstance(job_id, str) and ID.fullmatch(job_id)):
            raise NoSuchJob(f"{job_id!r} is no id of a job: it has 26 digits and lower-case letters")
        intake = self._intake
        intake.check_loop()
        return _handle(intake, await intake.api.get(path_of(job_id), JobView))

    async def jobs(self, *, limit: int | None = 100, **filters: Unpack[JobFilters]) -> list[ServiceJob[Any]]:
        """The jobs that the service has, newest first; those that fit all that is given.

        Args:
            limit: the most that are listed; None: all, which may be a lot.
            filters: see `JobFilters`.
        """
        check_count("limit", limit, 0, or_none=True)
        jobs: list[ServiceJob[Any]] = []
        asked = {**filters, "state": _names(filters.get("state"))}
        async with aclosing(self._pages(asked, limit)) as pages:
            async for page in pages:
                jobs += [_handle(self._intake, view) for view in page]
        return jobs

    async def _pages(self, filters: dict[str, Any], limit: int | None) -> AsyncGenerator[list[JobView], None]:
        before: int | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            answer = await self._intake.api.get("/v1/jobs", ListAnswer, **filters, before=before, limit=size)
            yield answer.jobs
            before = answer.next
            left = None if left is None else left - len(answer.jobs)
            if before is None:
                return

    async def cancel_all(self, reason: str = "cancelled", **filters: Unpack[JobFilters]) -> int:
        """Ask every job to stop that has not ended, and fits the filters of `jobs`; how many there were."""
        filters.setdefault("state", [state for state in JobState if state not in FINAL])
        jobs = await self.jobs(limit=None, **filters)
        task = self._intake.cancel_soon(jobs, reason)
        if task is not None:
            await task
        return len(jobs)

    # --- the service --------------------------------------------------------------------

    async def pause(self, scope: str = "all") -> None:
        """Start no more jobs of `scope`: ``all``, ``lane:NAME``, ``function:MODULE:NAME`` or ``schedule:NAME``."""
        await self._intake.api.ask("POST", "/v1/pause", msgspec.json.encode(ScopeRequest(scope)))

    async def resume(self, scope: str = "all") -> None:
        """Start them again; `scope` as it was paused."""
        await self._intake.api.ask("POST", "/v1/resume", msgspec.json.encode(ScopeRequest(scope)))

    async def schedules(self) -> list[ScheduleView]:
        """What comes again, and when next."""
        return await self._intake.api.get("/v1/schedules", list[ScheduleView])

    async def unschedule(self, name: str) -> None:
        """Let it come no more; jobs that it made go on."""
        await self._intake.api.ask("DELETE", f"/v1/schedules/{quote(name, safe='')}")

    async def stats(self) -> StatsView:
        """The figures of this moment."""
        return await self._intake.api.get("/v1/stats", StatsView)

    async def stop(self, drain: float | None = None) -> None:
        """Ask the service to end; what has not ended by then goes on when it is started again.

        Args:
            drain: seconds that running jobs may go on; the service's own limit if not given.
        """
        await self._intake.api.ask("POST", "/v1/stop", msgspec.json.encode(StopRequest(drain)))


def _handle(intake: Intake, view: JobView) -> ServiceJob[Any]:
    job = intake.handle(view.id, view.name)
    job.saw(view)
    return job


def _names(state: JobState | str | Sequence[JobState | str] | None) -> list[str] | None:
    if state is None:
        return None
    members = [state] if isinstance(state, (JobState, str)) else state
    names = [member.name if isinstance(member, JobState) else str(member).upper() for member in members]
    unknown = [name for name in names if name not in JobState.__members__]
    if unknown:
        raise BadRequest(f"state={unknown[0]!r} is not allowed; allowed: {', '.join(JobState.__members__)}")
    return names
