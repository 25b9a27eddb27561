"""The client for scripts and notebooks: `SyncServiceClient`, the verbs of `ServiceClient` without `await`.

No second client: a `ServiceClient` lives on a portal's loop, and each verb is a way there.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from asyncjobs.portal import Portal
from asyncjobs.service.client.options import ServiceOptionFields
from asyncjobs.service.client.syncjob import SyncServiceJob
from asyncjobs.service.client.syncsubmitter import SyncServiceSubmitter
from asyncjobs.service.errors import ServiceError
from asyncjobs.service.protocol import ScheduleView, StatsView

if TYPE_CHECKING:
    from asyncjobs.service.client.client import JobFilters, ServiceClient

LAST_WAIT = 2.0
"""Seconds that the loop's thread is waited for at the end."""


class SyncServiceClient(SyncServiceSubmitter):
    """A way to a service for code without a loop, made by ``connect().sync``; open inside ``with``.

    In a notebook, `open` and `close` do what the block would. Its methods block, may be called from any
    thread, and raise `WouldDeadlock` in the thread of its own loop and `WrongLoop` in a forked child.

    Example::

        with connect(start=True).sync as service:
            job = service.submit(fit, part)
            for line in job.logs():
                print(line)
            print(job.result())
    """

    def __init__(self, client: ServiceClient) -> None:
        super().__init__(client, self._portal)
        self._client = client
        self._opened: Portal | None = None

    def __repr__(self) -> str:
        return repr(self._client).replace("<ServiceClient", "<SyncServiceClient", 1)

    # --- life ---------------------------------------------------------------------------

    def __enter__(self) -> SyncServiceClient:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> SyncServiceClient:
        """Find the service, or start it; the client itself.

        Raises:
            ServiceNotRunning: there is none.
        """
        if self._opened is not None:
            raise ServiceError("the client is open already")
        portal = Portal("asyncjobs-service")
        try:
            portal.call(self._client.__aenter__)
        except BaseException:
            portal.close(LAST_WAIT)
            raise
        self._opened = portal
        return self

    def close(self) -> None:
        """Block until what was submitted is accepted, and let go of the service; the jobs go on. Again: nothing."""
        portal, self._opened = self._opened, None
        if portal is None or portal.is_foreign:
            return
        try:
            portal.call(self._client.aclose)
        finally:
            portal.close(LAST_WAIT)

    def _portal(self) -> Portal:
        if self._opened is None:
            raise ServiceError("the client is not open; use it inside `with connect().sync as service:`")
        return self._opened

    # --- jobs ---------------------------------------------------------------------------

    def options(self, **options: Unpack[ServiceOptionFields]) -> SyncServiceSubmitter:
        """The same verbs with these options (see `ServiceOptions`) for every job."""
        return SyncServiceSubmitter(self._client.options(**options), self._portal)

    def attach(self, job_id: str) -> SyncServiceJob[Any]:
        """The job of that id, whoever submitted it, and whenever; see `ServiceClient.attach`."""
        portal = self._portal()
        return SyncServiceJob(portal, portal.call(self._client.attach, job_id))

    def jobs(self, *, limit: int | None = 100, **filters: Unpack[JobFilters]) -> list[SyncServiceJob[Any]]:
        """The jobs that the service has, newest first; see `ServiceClient.jobs`."""
        portal = self._portal()
        jobs = portal.converse(lambda _: self._client.jobs(limit=limit, **filters), "jobs()")
        return [SyncServiceJob(portal, job) for job in jobs]

    def cancel_all(self, reason: str = "cancelled", **filters: Unpack[JobFilters]) -> int:
        """Ask every job to stop that has not ended, and fits the filters; how many there were."""
        return self._portal().converse(lambda _: self._client.cancel_all(reason, **filters), "cancel_all()")

    # --- the service --------------------------------------------------------------------

    def pause(self, scope: str = "all") -> None:
        """Start no more jobs of `scope`; see `ServiceClient.pause`."""
        self._portal().call(self._client.pause, scope)

    def resume(self, scope: str = "all") -> None:
        """Start them again."""
        self._portal().call(self._client.resume, scope)

    def schedules(self) -> list[ScheduleView]:
        """What comes again, and when next."""
        return self._portal().call(self._client.schedules)

    def unschedule(self, name: str) -> None:
        """Let it come no more; jobs that it made go on."""
        self._portal().call(self._client.unschedule, name)

    def stats(self) -> StatsView:
        """The figures of this moment."""
        return self._portal().call(self._client.stats)

    def stop(self, drain: float | None = None) -> None:
        """Ask the service to end; see `ServiceClient.stop`."""
        self._portal().call(self._client.stop, drain)
