"""When jobs are claimed: as soon as there is room and something to be found, and never just to see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from stored import Clock, opened, submitted

from asyncjobs.errors import WorkerStartError
from asyncjobs.service.records import Claim
from asyncjobs.service.store.store import Store
from asyncjobs.service.work.claims import Claims


class Counted:
    """A store that says how often it was asked for jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.claims = 0

    async def claim(self, wants: Mapping[str, int]) -> list[Claim]:
        self.claims += 1
        return await self._store.claim(wants)

    def waiting(self, lane: str) -> bool:
        return self._store.waiting(lane)

    def next_due(self) -> float | None:
        return self._store.next_due()


class Desk:
    """One worker for each lane, the claims for them, and what was begun."""

    def __init__(self, store: Store, clock: Clock, lanes: Sequence[str]) -> None:
        self.counted = Counted(store)
        self.begun: list[Claim] = []
        self._is_begun = asyncio.Event()
        self.claims = Claims(self.counted, clock, lanes, lambda lane: 1, self._begin)
        store.listen(lambda events: self.claims.wake())

    def _begin(self, claims: Sequence[Claim]) -> None:
        self.begun += claims
        self._is_begun.set()

    async def has_begun(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.begun) < number:
                self._is_begun.clear()
                await self._is_begun.wait()


@asynccontextmanager
async def at_work(path: Path, *lanes: str) -> AsyncIterator[tuple[Store, Desk, Clock]]:
    clock = Clock()
    async with opened(path / "jobs.db", clock=clock) as store:
        desk = Desk(store, clock, lanes or ("process",))
        task = asyncio.create_task(desk.claims.run())
        yield store, desk, clock
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_is_submitted_is_claimed_without_anybody_asking(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (store, desk, _):
        await submitted(store)
        await desk.has_begun(1)
        assert desk.counted.claims == 1


async def test_who_ends_makes_room_for_the_next(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (store, desk, _):
        ids = await submitted(store, 3)
        for number in (1, 2, 3):
            await desk.has_begun(number)
            desk.claims.left("process")
        assert [claim.id for claim in desk.begun] == ids


async def test_nobody_is_asked_where_nothing_can_be_found(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (store, desk, _):
        await submitted(store)
        await desk.has_begun(1)
        await turns()
        desk.claims.left("process")
        desk.claims.wake()
        assert not desk.claims._bell.is_set()
        await turns()
        assert desk.counted.claims == 1


async def test_a_job_that_comes_due_while_all_are_busy_waits_for_room_and_not_for_a_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    async with at_work(tmp_path) as (store, desk, clock):
        await submitted(store)
        await desk.has_begun(1)
        await submitted(store, due=clock.now + 5)
        await turns()
        call_later: Any = loop.call_later
        monkeypatch.setattr(
            loop, "call_later", lambda seconds, *rest: delays.append(seconds) or call_later(seconds, *rest)
        )
        clock.now += 10
        await submitted(store)  # whatever happens, it looks
        await turns()
        monkeypatch.undo()
        assert delays == []
        desk.claims.left("process")
        await desk.has_begun(2)
        desk.claims.left("process")
        await desk.has_begun(3)


async def test_what_comes_due_earlier_than_all_others_is_waited_for(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (store, desk, clock):
        await submitted(store, due=clock.now + 3600)
        await turns()
        [early] = await submitted(store, due=clock.now + 0.05)
        clock.now += 0.1
        await desk.has_begun(1)
        assert [claim.id for claim in desk.begun] == [early]


async def test_room_that_was_kept_for_nothing_is_for_who_came_meanwhile(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (store, desk, _):
        with desk.claims.reserved({"process": 1}):
            await submitted(store)
            await turns()
            assert desk.begun == []
        await desk.has_begun(1)


async def test_a_lane_without_workers_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    problem = WorkerStartError("the Dask cluster at tcp://host:1 did not come up")
    problem.logged = "the Dask cluster did not come up"
    async with at_work(tmp_path, "process", "cluster") as (store, desk, _):
        desk.claims.hold("cluster", problem)
        await submitted(store, lane="cluster")
        await submitted(store)
        await desk.has_begun(1)
        await turns()
        assert [claim.lane for claim in desk.begun] == ["process"]
        desk.claims.ran("process", 1.0)
        why = "no worker could be started, jobs of lane 'cluster' wait: the Dask cluster did not come up"
        assert desk.claims.trouble({"process"}) == why
        assert desk.claims.trouble({"cluster"}) == ""
        desk.claims.ran("cluster", 1.0)
        assert caplog.messages == [why]
