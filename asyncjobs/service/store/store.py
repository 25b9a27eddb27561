"""The store as the rest of the service sees it: jobs, kept on disk. `Store`.

Methods that are awaited return after the commit is on disk; called on the loop on which it was opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from asyncjobs.service.clock import SteadyClock
from asyncjobs.service.errors import NoSuchJob, StorageBroken, StorageFull
from asyncjobs.service.records import (
    Accepted,
    CancelAnswer,
    Claim,
    Ending,
    Event,
    NewJob,
    Query,
    Row,
    Schedule,
    Scope,
    StoredEnd,
)
from asyncjobs.service.store import (
    backup,
    cancelling,
    checkpointing,
    claiming,
    finishing,
    limits,
    pausing,
    pruning,
    reading,
    replaying,
    schedules,
)
from asyncjobs.service.store.database import Database
from asyncjobs.service.store.ending import settle_more
from asyncjobs.service.store.faults import is_out_of_space
from asyncjobs.service.store.finishing import Written
from asyncjobs.service.store.outlook import EMPTY, Outlook
from asyncjobs.service.store.requests import Kind
from asyncjobs.service.store.results import Results
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.submission import Submission, submit_together
from asyncjobs.state import JobState

_SUBMIT = Kind("submit")
_CLAIM = Kind("claim")
_RESULT = Kind("result", is_owed=True)
_CANCEL = Kind("cancel", is_owed=True)
_CHECKPOINT = Kind("keep")
_BEGIN = Kind("begin")
_SCHEDULE = Kind("schedule")
_PAUSE = Kind("pause", is_owed=True)
_PRUNE = Kind("prune", makes_room=True)
_READ = Kind("read", writes=False)

Listener = Callable[[Sequence[Event]], None]


class StoreStats(NamedTuple):
    """How much there is."""

    states: dict[JobState, int]
    paused: tuple[str, ...]
    db_bytes: int
    free: int
    """Bytes on the disk that are free to us."""


class Store:
    """Made by `open`, closed by `aclose`.

    What is awaited raises `StorageFull` or `StorageBroken` where the disk does not serve, `ServiceGone` once closed.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self.epoch = 0
        """Which opening this is."""
        self.recovered: tuple[Event, ...] = ()
        """What the opening did with jobs that were running when the last process died."""
        self._listeners: list[Listener] = []
        self._enders: list[Callable[[Sequence[StoredEnd]], None]] = []
        self._outlook: Outlook = EMPTY
        self._swept = ""
        """The last limit that `prune` has looked at."""
        self._results = Results(settings.results)
        self._database = Database(settings, settle_more, self._hear)

    @classmethod
    async def open(cls, settings: StoreSettings) -> Self:
        """Open the database, or make it: migrated, recovered, ready.

        Raises:
            StateRefused: it cannot be used; nothing was changed.
            StorageFull, StorageBroken: the disk does not serve.
        """
        store = cls(settings)
        opened = await store._database.start()
        store.epoch, store.recovered = opened.epoch, opened.recovered
        # Files that were written for a commit that never came.
        await asyncio.to_thread(store._results.forget, [event.id for event in opened.recovered])
        return store

    async def aclose(self) -> None:
        """Answer what has been asked for, and close. May be called again."""
        await self._database.close()

    # -- jobs

    async def submit(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Take all of them, or none; once it returns they are on disk.

        One whose id or whose key is known already is not taken again: the answer names the job that stands for it.

        Raises:
            BadRequest: a value is not allowed, or `after` names a job that there is not.
            KeyConflict: a key, or an id, stands for another call.
            ServiceFull: too many wait.
        """
        accepted, _ = await self.submit_and_claim(jobs, {})
        return accepted

    async def submit_and_claim(
        self, jobs: Sequence[NewJob], wants: Mapping[str, int]
    ) -> tuple[list[Accepted], list[Claim]]:
        """Both in one transaction, so that a job for which there is room starts after one wait for the disk.

        The claims may be those of others that were submitted at the same time; theirs come with another call then.
        """
        submission = Submission(self._timed(jobs), wants)
        return await self._database.run(_SUBMIT, submission, lambda both: self._return(both[1]), submit_together)

    async def claim(self, wants: Mapping[str, int]) -> list[Claim]:
        """Start the next jobs: for each lane at most so many, highest priority first, then the oldest."""
        return await self._database.run(_CLAIM, lambda tx: claiming.claim(tx, wants), self._return)

    async def finish(self, ends: Sequence[Ending], patience: float = 0.0) -> list[JobState | None]:
        """Write down what became of attempts; the state that each job has now.

        With `patience` it may wait so many seconds for the next request of any kind, to share a commit with it.

        None: another attempt of it was claimed meanwhile, or it has ended; an event says so, nothing changed.
        """
        written = [await self._write(ending) for ending in ends]
        return await self._database.run(_RESULT, lambda tx: finishing.finish(tx, written), patience=patience)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """These never started: QUEUED again, uncounted."""
        await self._database.run(_RESULT, lambda tx: finishing.give_back(tx, claims))

    async def cancel(self, id: str, reason: str) -> tuple[CancelAnswer, JobState]:
        """End it if it has not started; mark it as STOPPING if it runs, for whoever runs it to stop it.

        Raises:
            NoSuchJob: there is none of that id.
        """
        return await self._database.run(_CANCEL, lambda tx: cancelling.cancel(tx, id, reason))

    async def replay(self, id: str, *, again: bool = True) -> Accepted:
        """Run the call of a job that ended otherwise than well again, as a new job with a new id.

        Args:
            again: also if that was done before.

        Raises:
            NoSuchJob, NotNow: there is none, it has not ended, it succeeded, or it was run again before.
            BadRequest, ServiceFull: as `submit`.
        """
        return await self._database.run(_SUBMIT, lambda tx: replaying.replay(tx, id, again=again))

    async def check_replay(self, id: str, *, again: bool = True) -> None:
        """Raise what stands against a `replay`, as far as it is known now."""
        await self._database.run(_READ, lambda tx: replaying.look(tx, id, again=again))

    async def checkpoint_job(self, id: str, attempt: int, epoch: int, data: bytes) -> bool:
        """Keep `data` for the job's next attempt, in the place of the last; False: that attempt does not run."""
        return await self._database.run(_CHECKPOINT, lambda tx: checkpointing.put(tx, id, attempt, epoch, data))

    async def begin_job(self, id: str, fence: int) -> bool:
        """Write down that the attempt with that `fence` starts, for one that may start at most once; False: it may
        not, for another one has taken its place."""
        return await self._database.run(_BEGIN, lambda tx: claiming.begin(tx, id, fence))

    # -- questions

    async def row(self, id: str) -> Row:
        """The job. Raises NoSuchJob."""
        return await self._database.run(_READ, lambda tx: reading.row(tx, id))

    async def rows(self, query: Query) -> list[Row]:
        """A page of jobs, newest first."""
        rows: list[Row] = []
        rest: Query | None = query
        while rest is not None:
            asked = rest
            page = await self._database.run(_READ, lambda tx, asked=asked: reading.stretch(tx, asked))  # type: ignore[misc]
            rows += page.rows
            missing = query.limit - len(rows)
            rest = None if page.before is None or missing <= 0 else query._replace(before=page.before, limit=missing)
        return rows

    async def outcome(self, id: str) -> tuple[JobState, str, int, bytes]:
        """State, note, attempt and the outcome's bytes; none if it has not ended. Raises NoSuchJob."""
        found = await self.outcomes([id])
        if not found:
            raise NoSuchJob(f"there is no job {id} (any more)")
        return found[0][1:]

    async def outcomes(self, ids: Sequence[str]) -> list[tuple[str, JobState, str, int, bytes]]:
        """Id, state, note, attempt and bytes of those that there are, in the order asked for."""
        found = await self._database.run(_READ, lambda tx: reading.outcomes(tx, ids))
        return [(one.id, one.state, one.note, one.attempt, await self._bytes_of(one)) for one in found]

    async def ends(self, ids: Sequence[str]) -> list[tuple[str, JobState, str, int, bytes | None]]:
        """The same, with None for the bytes of a large outcome, which is a file: nothing large is read."""
        found = await self._database.run(_READ, lambda tx: reading.outcomes(tx, ids))
        return [(one.id, one.state, one.note, one.attempt, one.body if one.file is None else None) for one in found]

    async def open_outcome(self, id: str) -> tuple[JobState, int, int, bytes | BinaryIO]:
        """State, attempt, how many bytes, and the bytes, or a file of them, for the caller to close.

        Raises:
            NoSuchJob: there is none of that id.
            OSError: somebody took the file away.
        """
        found = await self._database.run(_READ, lambda tx: reading.outcomes(tx, [id]))
        if not found:
            raise NoSuchJob(f"there is no job {id} (any more)")
        one = found[0]
        body = one.body if one.file is None else await asyncio.to_thread(self._results.open, one.file)
        return one.state, one.attempt, one.size, body

    async def events(self, id: str | None, after: int = 0, limit: int = 1000) -> list[Event]:
        """The log after number `after`: of one job (raises NoSuchJob), or of all."""
        return await self._database.run(_READ, lambda tx: reading.events(tx, id, after, limit))

    def listen(self, callback: Listener) -> None:
        """Call it on the loop after each commit with its events, in order, before whoever waits for it goes on; with
        none after one that changes what is to be started, and when."""
        self._listeners.append(callback)

    def listen_to_ends(self, callback: Callable[[Sequence[StoredEnd]], None]) -> None:
        """Call it on the loop after each commit that ended jobs, with their outcomes; after the listeners above."""
        self._enders.append(callback)

    def next_due(self) -> float | None:
        """When a claim may find something that it would not find now; None: only news helps."""
        return self._outlook.next_due

    def waiting(self, lane: str) -> bool:
        """Whether a claim for the lane may find something now."""
        return self._outlook.may_find(lane)

    @property
    def has_queued(self) -> bool:
        """Whether any job is QUEUED, as of the last commit."""
        return self._outlook.has_queued

    @property
    def broken(self) -> asyncio.Future[BaseException]:
        """Done when the disk has failed: every method raises `StorageBroken`, and the process has to end."""
        return self._database.broken

    # -- running it

    async def pause(self, scope: Scope) -> None:
        """Start nothing more of ``all``, ``lane:NAME``, ``function:MODULE:NAME`` or ``schedule:NAME``."""
        await self._database.run(_PAUSE, lambda tx: pausing.pause(tx, scope))

    async def resume(self, scope: Scope) -> None:
        """End that pause."""
        await self._database.run(_PAUSE, lambda tx: pausing.resume(tx, scope))

    async def pauses(self) -> tuple[str, ...]:
        """What is paused."""
        return await self._database.run(_READ, pausing.pauses)

    async def put_schedule(self, schedule: Schedule) -> None:
        """Have its job again and again; one of that name is replaced. A `next_at` of 0 means its next time.

        Raises:
            BadRequest: no cron expression, no time zone, or a job with a key, a time or parents of its own.
        """
        await self._database.run(_SCHEDULE, lambda tx: schedules.put(tx, schedule))

    async def schedules(self) -> list[Schedule]:
        """All, by name."""
        return await self._database.run(_READ, schedules.all_of)

    async def drop_schedule(self, name: str) -> bool:
        """Have it no more; the jobs that it made stay. False: there was none."""
        return await self._database.run(_SCHEDULE, lambda tx: schedules.drop(tx, name))

    async def stats(self) -> StoreStats:
        """How much there is, without counting it."""
        states, paused = await self._database.run(_READ, lambda tx: (reading.tallies(tx), pausing.pauses(tx)))
        return StoreStats(states, paused, *await asyncio.to_thread(_space, self.settings.path))

    async def prune(self) -> int:
        """Remove some jobs whose time is over; how many went. 0: there are no more for now."""
        swept = self._swept
        pruned, self._swept = await self._database.run(_PRUNE, lambda tx: (pruning.prune(tx), limits.sweep(tx, swept)))
        files = await self._database.run(_READ, pruning.trash)
        if files:
            await asyncio.to_thread(self._results.remove, files)
            await self._database.run(_PRUNE, lambda tx: pruning.thrown_away(tx, files))
        return pruned

    async def backup(self, path: Path, *, has_logs: bool = True, tell: backup.Tell = lambda nbytes: None) -> None:
        """Copy the database and all that belongs to it to `path`, a new folder; others are served meanwhile.

        Args:
            has_logs: logs and figures of jobs, too.
            tell: told of so many bytes more, on whatever thread copies; of 0 when it begins.

        Raises:
            BadRequest: `path` exists, is no absolute path, or cannot be made.
            StorageFull, StorageBroken: of the disk under `path`.
        """
        partial = await asyncio.to_thread(backup.start, path)
        source = backup.Source(self.settings.path.parent, self.settings.results, has_logs)
        tell(0)
        try:
            await self._database.run_outside(
                lambda connection, between: backup.copy_database(connection, partial, between, tell)
            )
            await asyncio.to_thread(backup.finish, partial, path, source, tell)
        except BaseException:
            await asyncio.to_thread(backup.abandon, partial)
            raise

    # -- inside

    def _hear(self, events: Sequence[Event], ends: Sequence[StoredEnd], outlook: Outlook | None) -> None:
        if outlook is not None:
            self._outlook = outlook
        # With no events, too: whoever starts jobs has to know when the next one comes due.
        if events or outlook is not None:
            for listener in self._listeners:
                listener(events)
        if ends:
            for hear in self._enders:
                hear(ends)

    def _return(self, claims: Sequence[Claim]) -> None:
        # Whoever asked for them was cancelled meanwhile.
        if claims:
            self._database.post(_RESULT, lambda tx: finishing.give_back(tx, claims))

    async def _write(self, ending: Ending) -> Written:
        size = len(ending.outcome)
        if not self._results.is_large(ending.outcome):
            return Written(ending, None, size)
        try:
            name = await self._write_file(ending)
        except OSError as error:
            if not is_out_of_space(error):
                raise self._database.fail(error) from error
            if not await self._database.make_room():
                raise StorageFull("the disk is full; the outcome was not taken") from error
            name = await self._write_file(ending)
        return Written(ending._replace(outcome=b""), name, size)

    async def _write_file(self, ending: Ending) -> str:
        return await asyncio.to_thread(self._results.write, ending.id, ending.attempt, ending.epoch, ending.outcome)

    async def _bytes_of(self, outcome: reading.StoredOutcome) -> bytes:
        if outcome.file is None:
            return outcome.body
        try:
            return await asyncio.to_thread(self._results.read, outcome.file)
        except OSError as error:
            raise StorageBroken(f"the outcome of job {outcome.id} cannot be read: {error}") from error

    def _timed(self, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        # The wall clock is looked at once; from here on these are instants of a clock that nobody can set.
        clock = self.settings.clock
        if not isinstance(clock, SteadyClock):
            return jobs
        return [job if job.due is None and job.deadline is None else _steady(job, clock) for job in jobs]


def _steady(job: NewJob, clock: SteadyClock) -> NewJob:
    due, deadline = (None if wall is None else clock.from_wall(wall) for wall in (job.due, job.deadline))
    return job._replace(due=due, deadline=deadline)


def _space(path: Path) -> tuple[int, int]:
    # Bytes of the database with its log, and bytes that are free to us.
    log = path.with_name(f"{path.name}-wal")
    system = os.statvfs(path)
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0), system.f_bavail * system.f_frsize
