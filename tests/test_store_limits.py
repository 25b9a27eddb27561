"""Limits, rates, pauses and schedules: what may not start now, and when it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from stored import Clock, check_sound, claimed, ended, job, looked_at, opened, submitted

from asyncjobs.service.errors import BadRequest, NoSuchJob, NotNow
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Limit, Query, Schedule
from asyncjobs.service.store.schedules import next_time
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with opened(tmp_path / "jobs.db", clock=clock) as store:
        yield store
    check_sound(tmp_path / "jobs.db")


async def test_at_most_so_many_of_a_name_run_at_once_and_the_others_pass_them_by(store: Store) -> None:
    limited = await submitted(store, 5, limit=Limit("api", running=2))
    free = await submitted(store, 2)
    claims = await claimed(store, 9)
    assert [claim.id for claim in claims] == [*limited[:2], *free]
    assert not store.waiting("process")
    await store.finish([ended(claims[0])])
    assert store.waiting("process")
    assert [claim.id for claim in await claimed(store, 9)] == [limited[2]]
    await store.finish([ended(claims[1], JobState.QUEUED)])
    assert [claim.id for claim in await claimed(store, 9)] == [limited[1]]


async def test_priority_counts_among_those_that_wait_for_room(store: Store) -> None:
    await submitted(store, 3, limit=Limit("api", running=1))
    [claim] = await claimed(store, 9)
    [urgent] = await submitted(store, limit=Limit("api", running=1), priority=9)
    assert await claimed(store, 9) == []
    await store.finish([ended(claim)])
    assert [claim.id for claim in await claimed(store, 9)] == [urgent]


async def test_a_limit_holds_over_all_lanes_and_no_lane_starves(store: Store) -> None:
    await submitted(store, 2, limit=Limit("api", running=1), lane="a")
    [other] = await submitted(store, limit=Limit("api", running=1), lane="b")
    claims = await store.claim({"a": 5, "b": 5})
    assert [claim.lane for claim in claims] == ["a"]
    await store.finish([ended(claims[0])])
    assert [claim.id for claim in await claimed(store, 5, "b")] == [other]
    assert await claimed(store, 5, "a") == []


async def test_cancelling_what_was_let_through_lets_the_next_through(store: Store) -> None:
    ids = await submitted(store, 3, limit=Limit("api", running=1))
    [first] = await claimed(store, 9)
    await store.finish([ended(first)])
    await store.cancel(ids[1], "")
    assert [claim.id for claim in await claimed(store, 9)] == [ids[2]]


async def test_a_paused_function_under_a_limit_does_not_take_its_room(store: Store) -> None:
    limit = Limit("api", running=1)
    await submitted(store, 2, limit=limit, function="m:paused")
    [other] = await submitted(store, limit=limit, function="m:other")
    await store.pause("function:m:paused")
    assert [claim.id for claim in await claimed(store, 9)] == [other]


async def test_the_last_submitted_job_decides_about_the_limit(store: Store) -> None:
    await submitted(store, 4, limit=Limit("api", running=1))
    assert len(await claimed(store, 9)) == 1
    await submitted(store, limit=Limit("api", running=3))
    assert len(await claimed(store, 9)) == 2
    await submitted(store, limit=Limit("api"))
    assert len(await claimed(store, 9)) == 3


async def test_at_most_so_many_start_within_a_span_of_time(store: Store, clock: Clock) -> None:
    await submitted(store, 7, limit=Limit("api", starts=2, seconds=10.0))
    assert len(await claimed(store)) == 1
    clock.now += 4
    assert len(await claimed(store, 9)) == 1
    assert (store.next_due(), store.waiting("process")) == (clock.now + 6, False)
    clock.now += 6
    assert (len(await claimed(store, 9)), store.next_due()) == (1, clock.now + 4)
    clock.now += 4
    assert len(await claimed(store, 9)) == 1
    clock.now += 100
    assert len(await claimed(store, 9)) == 2


async def test_a_rate_holds_over_an_opening(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path, clock=clock) as store:
        await submitted(store, 5, limit=Limit("api", starts=2, seconds=10.0))
        assert len(await claimed(store, 9)) == 2
    clock.now += 5
    async with opened(path, clock=clock) as store:
        assert store.next_due() == clock.now + 5
        assert await claimed(store, 9) == []
        clock.now += 5
        assert len(await claimed(store, 9)) == 2


async def test_F81_a_clock_set_back_blocks_no_rate(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path, clock=clock) as store:
        await submitted(store, 2, limit=Limit("api", starts=1, seconds=10.0))
        assert len(await claimed(store, 9)) == 1
    clock.now -= 86_400 * 365
    async with opened(path, clock=clock) as store:
        assert len(await claimed(store, 9)) == 1


@pytest.mark.slow
async def test_ten_thousand_jobs_under_a_limit_are_put_aside_bit_by_bit(store: Store) -> None:
    await submitted(store, 10_000, limit=Limit("api", running=1), priority=1)
    [free] = await submitted(store)
    claims = []
    while store.waiting("process"):
        claims += await claimed(store, 2)
    assert [claim.id for claim in claims][1:] == [free]


@pytest.mark.parametrize("limit", [Limit(""), Limit("a", running=0), Limit("a", starts=-1), Limit("a", seconds=0.0)])
async def test_a_limit_that_cannot_be_is_refused(store: Store, limit: Limit) -> None:
    with pytest.raises(BadRequest):
        await store.submit([job(limit=limit)])


async def test_limits_that_nobody_uses_any_more_go(store: Store, clock: Clock, tmp_path: Path) -> None:
    await submitted(store, limit=Limit("gone", starts=1, seconds=5.0))
    await submitted(store, limit=Limit("stays"), due=clock.now + 100)
    await store.finish([ended(claim) for claim in await claimed(store)])
    await store.prune()
    clock.now += 6
    await store.prune()
    await store.aclose()
    assert looked_at(tmp_path / "jobs.db", "SELECT name FROM limits") == [("stays",)]
    assert looked_at(tmp_path / "jobs.db", "SELECT * FROM starts") == []


async def test_a_schedule_makes_a_job_each_time(store: Store, clock: Clock) -> None:
    await store.put_schedule(Schedule("beat", "every 60", "UTC", job(b"tick", tags=("t",)), 0.0))
    assert (await claimed(store), store.next_due()) == ([], clock.now + 60)
    clock.now += 60
    [claim] = await claimed(store, 9)
    row = await store.row(claim.id)
    assert (claim.payload, row.schedule, row.tags) == (b"tick", "beat", ("t",))
    assert store.next_due() == clock.now + 60
    assert [one.id for one in await store.rows(Query(schedule="beat"))] == [claim.id]


async def test_times_that_were_missed_run_once(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path, clock=clock) as store:
        await store.put_schedule(Schedule("beat", "*/5 * * * *", "UTC", job(), 0.0))
    clock.now += 86_400
    async with opened(path, clock=clock) as store:
        assert len(await claimed(store, 9)) == 1
        assert await claimed(store, 9) == []
        [schedule] = await store.schedules()
        assert clock.now < schedule.next_at <= clock.now + 300


async def test_a_schedule_is_paused_replaced_and_dropped(store: Store, clock: Clock) -> None:
    await store.put_schedule(Schedule("beat", "every 60", "UTC", job(), 0.0))
    await store.pause("schedule:beat")
    assert ([one.is_paused for one in await store.schedules()], store.next_due()) == ([True], None)
    clock.now += 1000
    assert await claimed(store, 9) == []
    await store.resume("schedule:beat")
    assert len(await claimed(store, 9)) == 1
    await store.put_schedule(Schedule("beat", "every 5", "UTC", job(), clock.now + 1))
    assert [(one.cron, one.next_at) for one in await store.schedules()] == [("every 5", clock.now + 1)]
    assert (await store.drop_schedule("beat"), await store.drop_schedule("beat")) == (True, False)
    assert (await store.schedules(), store.next_due()) == ([], None)


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("nonsense", "UTC"), ("every x", "UTC"), ("0 0 30 2 *", "UTC"), ("* * * * *", "Nowhere"), ("* * * * *", "")],
)
async def test_a_schedule_that_cannot_be_is_refused(store: Store, cron: str, zone: str) -> None:
    with pytest.raises(BadRequest):
        await store.put_schedule(Schedule("beat", cron, zone, job(), 0.0))


async def test_a_schedules_job_gets_a_seal_of_its_own(tmp_path: Path, clock: Clock) -> None:
    def reseal(old: str, new: str, payload: bytes) -> bytes:
        assert payload == old.encode()
        return new.encode()

    pattern = job()._replace(payload=b"")
    async with opened(tmp_path / "jobs.db", clock=clock, reseal=reseal) as store:
        await store.put_schedule(
            Schedule("beat", "every 60", "UTC", pattern._replace(payload=pattern.id.encode()), 0.0)
        )
        clock.now += 60
        [claim] = await claimed(store)
        assert claim.payload == claim.id.encode()
        await store.finish([ended(claim, JobState.FAILED)])
        again = await store.replay(claim.id)
        [second] = await claimed(store)
        assert (second.id, second.payload) == (again.id, again.id.encode())


@pytest.mark.parametrize(
    ("cron", "after", "times"),
    [
        # 02:30 does not exist on 29 March 2026 in Berlin, and exists twice on 25 October.
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T03:00", "2026-03-30T02:30"]),
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T02:30", "2026-10-26T02:30"]),
        ("0 12 * * *", "2026-03-28T13:00", ["2026-03-29T12:00", "2026-03-30T12:00"]),
    ],
)
def test_F81_a_daily_time_comes_once_a_day_when_the_clocks_change(cron: str, after: str, times: list[str]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    instant, found = datetime.fromisoformat(after).replace(tzinfo=zone).timestamp(), []
    for _ in times:
        instant = next_time(cron, "Europe/Berlin", instant)
        found.append(datetime.fromtimestamp(instant, zone).strftime("%Y-%m-%dT%H:%M"))
    assert found == times


def test_F81_hourly_times_are_an_hour_apart_when_the_clocks_change() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for day in ("2026-03-29", "2026-10-25"):
        instant = datetime.fromisoformat(f"{day}T00:30").replace(tzinfo=zone).timestamp()
        times = [instant := next_time("0 * * * *", "Europe/Berlin", instant) for _ in range(5)]
        assert [later - earlier for earlier, later in pairwise(times)] == [3600.0] * 4


async def test_a_job_that_ended_badly_runs_again_as_another(store: Store) -> None:
    [id] = await submitted(store, payload=b"do", tags=("t",), key="k", priority=3, limit=Limit("api", running=1))
    with pytest.raises(NotNow):
        await store.replay(id)
    [claim] = await claimed(store)
    await store.finish([ended(claim, JobState.FAILED, b"no")])
    accepted = await store.replay(id)
    [again] = await claimed(store)
    row = await store.row(again.id)
    assert (again.id, again.payload, again.attempt) == (accepted.id, b"do", 1)
    assert (row.tags, row.key, row.priority, row.limit) == (("t", f"replay:{id}"), None, 3, "api")
    assert (await store.outcome(id))[3] == b"no"
    await store.finish([ended(again)])
    with pytest.raises(NotNow):
        await store.replay(again.id)
    with pytest.raises(NoSuchJob):
        await store.replay(new_id())


@pytest.mark.parametrize("place", ["ready", "delayed", "after another", "limited", "paused", "stopped", "retried"])
async def test_a_deadline_ends_a_job_wherever_it_waits(store: Store, clock: Clock, place: str) -> None:
    limit = Limit("one", running=1)
    [parent] = await submitted(store, limit=limit, priority=9)
    [running] = await claimed(store)
    due = clock.now + 60 if place == "delayed" else None
    after = (parent,) if place == "after another" else ()
    fields = {"due": due, "after": after, "limit": limit if place == "limited" else None, "function": "m:f"}
    if place in ("paused", "stopped"):
        await store.pause("function:m:f" if place == "paused" else "all")
    [id] = await submitted(store, deadline=clock.now + 5, **fields)
    [child] = await submitted(store, after=(id,))
    assert store.next_due() == clock.now + 5
    if place in ("limited", "paused"):
        assert await claimed(store) == []
    if place == "retried":
        [claim] = await claimed(store)
        await store.finish([ended(claim, JobState.WAITING, b"", due=clock.now + 60)])
    clock.now += 4.9
    assert await store.claim({}) == []
    assert not (await store.row(id)).state.is_final
    clock.now += 0.2
    assert await store.claim({}) == []
    row = await store.row(id)
    assert (row.state, row.note) == (JobState.TIMED_OUT, "its deadline passed")
    assert (await store.row(child)).state is JobState.CANCELLED
    assert store.next_due() is None
    assert await store.finish([ended(running)]) == [JobState.SUCCEEDED]


async def test_a_deadline_is_none_of_a_job_that_runs(store: Store, clock: Clock) -> None:
    await submitted(store, deadline=clock.now + 5)
    [claim] = await claimed(store)
    assert claim.deadline == clock.now + 5
    assert store.next_due() is None
    clock.now += 6
    assert await store.claim({}) == []
    assert await store.finish([ended(claim)]) == [JobState.SUCCEEDED]


async def test_a_checkpoint_is_there_for_the_next_attempt_only(store: Store) -> None:
    await submitted(store)
    [first] = await claimed(store)
    assert first.checkpoint is None
    assert await store.checkpoint_job(first.id, first.attempt, first.epoch, b"half")
    assert await store.checkpoint_job(first.id, first.attempt, first.epoch, b"more")
    await store.finish([ended(first, JobState.WAITING, due=0.0)])
    [second] = await claimed(store)
    assert second.checkpoint == b"more"
    assert not await store.checkpoint_job(first.id, first.attempt, first.epoch, b"late")
    await store.finish([ended(second)])
    assert not await store.checkpoint_job(second.id, second.attempt, second.epoch, b"late")


async def test_figures_without_counting(store: Store) -> None:
    await submitted(store, 3)
    [claim] = await claimed(store)
    await store.finish([ended(claim, JobState.FAILED)])
    await store.pause("lane:gpu")
    stats = await store.stats()
    assert {state.name: number for state, number in stats.states.items() if number} == {"QUEUED": 2, "FAILED": 1}
    assert (stats.paused, stats.db_bytes > 0, stats.free > 0) == (("lane:gpu",), True, True)
