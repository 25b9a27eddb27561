"""An engine with its store and its workers in the test's own process, without doors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncjobs as aj
from asyncjobs.service import envelope, outcome
from asyncjobs.service.allow import Allow
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Event, NewJob, Row
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.store import Store
from asyncjobs.service.work.desk import Desk
from asyncjobs.service.work.ending import overdue
from asyncjobs.service.work.engine import Engine
from asyncjobs.service.work.performing import prepare
from asyncjobs.state import JobState

KEY = b"k" * 32
HERE = Path(__file__).parent


class Bench:
    """What a test asks of an engine; waits for the store's events, never for time."""

    def __init__(self, store: Store, engine: Engine, runner: aj.Runner, lane: aj.ProcessLane) -> None:
        self.store = store
        self.engine = engine
        self.runner = runner
        self.lane = lane
        self.seen: list[Event] = []
        self._bell = asyncio.Event()
        store.listen(self._heard)

    def _heard(self, events: Sequence[Event]) -> None:
        self.seen += events
        self._bell.set()

    def new(self, function: str, *args: Any, kwargs: dict[str, Any] | None = None, **fields: Any) -> NewJob:
        """A job that calls ``service_jobs:function``; `terms` as a mapping."""
        job = new_id()
        name = function if ":" in function else f"service_jobs:{function}"
        terms = json.dumps(fields.pop("terms", {})).encode()
        body = fields.pop("body", None) or outcome.encode_json_call(list(args), kwargs or {})
        digest = fields.pop("digest", b"d" * 32)
        fields.setdefault("deadline", json.loads(terms).get("deadline"))
        return NewJob(job, function, name, envelope.seal(KEY, job, body), digest, terms=terms, **fields)

    def new_by_value(self, fn: Any, *args: Any, **fields: Any) -> NewJob:
        """A job that brings its function."""
        body, after = outcome.encode_call(fn, args, {})
        return self.new("by_value", body=body, after=after, **fields)._replace(function="")

    async def submit(self, function: str, *args: Any, **fields: Any) -> str:
        """The id of a new job."""
        job = self.new(function, *args, **fields)
        await self.engine.submit([job])
        return job.id

    async def until(self, job: str, *kinds: str, within: float = 30.0) -> Event:
        """The first event of the job of one of these kinds; by default its end."""
        async with asyncio.timeout(within):
            while True:
                for event in self.seen:
                    if event.id == job and (event.kind in kinds if kinds else event.state.is_final):
                        return event
                self._bell.clear()
                await self._bell.wait()

    async def runs(self, job: str, within: float = 30.0) -> None:
        """Until a worker has begun it."""
        async with asyncio.timeout(within):
            while (attempt := self.engine._attempts.get(job)) is None or attempt.job.started_at is None:
                await asyncio.sleep(0.01)

    async def quiet(self, within: float = 60.0) -> None:
        """Until the engine has nothing to do."""
        async with asyncio.timeout(within):
            while self.engine._is_busy() or self.store.waiting("process"):
                self._bell.clear()
                await asyncio.wait([asyncio.ensure_future(self._bell.wait())], timeout=0.05)

    async def ended(self, job: str, within: float = 30.0) -> Row:
        """The job, once it has ended."""
        await self.until(job, within=within)
        return await self.store.row(job)

    async def value(self, job: str, within: float = 30.0) -> Any:
        """What it returned; raises what it raised."""
        await self.until(job, within=within)
        state, note, _, sealed = await self.store.outcome(job)
        if not sealed:
            raise outcome.error_without_outcome(job, state, note)
        value, error = outcome.decode_outcome(envelope.open(KEY, job, sealed))
        assert (error is None) == (state is JobState.SUCCEEDED), (state, error)
        if error is not None:
            raise error
        return value

    def kinds(self, job: str) -> list[str]:
        """What has happened to it."""
        return [event.kind for event in self.seen if event.id == job]


def reseal(old: str, new: str, payload: bytes) -> bytes:
    """What a schedule's or a replay's call becomes."""
    return envelope.seal(KEY, new, envelope.open(KEY, old, payload))


def too_late(id: str, name: str, attempts: int) -> tuple[str, bytes]:
    """The end of a job that waited beyond its deadline."""
    note, body = overdue(name, attempts)
    return note, envelope.seal(KEY, id, body)


@contextlib.asynccontextmanager
async def bench(
    folder: Path, processes: int = 2, start_method: str | None = None, **settings: Any
) -> AsyncIterator[Bench]:
    """An engine on the store in `folder`."""
    (folder / "results").mkdir(exist_ok=True)
    sealing = {"reseal": reseal, "too_late": too_late}
    store = await Store.open(StoreSettings(folder / "jobs.db", results=folder / "results", **{**sealing, **settings}))
    try:
        desk = Desk(store)
        patterns = ("service_jobs.*",)
        initargs = (desk.number, patterns, str(HERE))
        lane = aj.ProcessLane(processes, initializer=prepare, initargs=initargs, start_method=start_method)
        async with aj.Runner(lanes={"process": lane}, watchdog=None, drain_timeout=0) as runner:
            engine = Engine(store, runner, key=KEY, allow=Allow(patterns), folder=folder, desk=desk)
            async with engine:
                yield Bench(store, engine, runner, lane)
                await engine.drain(0)
    finally:
        await store.aclose()
