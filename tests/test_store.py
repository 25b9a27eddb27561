"""Jobs on disk: accepted, claimed, ended, cancelled, listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stored import Clock, check_sound, claimed, ended, job, opened, path_of, submitted

from asyncjobs.service.errors import BadRequest, KeyConflict, NoSuchJob, ServiceFull, ServiceGone
from asyncjobs.service.ids import new_id
from asyncjobs.service.records import Event, Query
from asyncjobs.service.store import reading
from asyncjobs.service.store.requests import Kind
from asyncjobs.service.store.store import Store
from asyncjobs.state import JobState


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with opened(tmp_path / "jobs.db", clock=clock, results=tmp_path / "results") as store:
        yield store
    check_sound(tmp_path / "jobs.db")


async def test_a_job_goes_from_submit_over_claim_to_its_one_end(store: Store) -> None:
    [id] = await submitted(store, payload=b"what to do", terms=b'{"timeout":3}')
    [claim] = await claimed(store, 5)
    assert (claim.id, claim.payload, claim.terms) == (id, b"what to do", b'{"timeout":3}')
    assert (claim.attempt, claim.failures, claim.crashes, claim.epoch) == (1, 0, 0, store.epoch)
    assert await store.finish([ended(claim, outcome=b"42", note="fine")]) == [JobState.SUCCEEDED]
    assert await store.outcome(id) == (JobState.SUCCEEDED, "fine", 1, b"42")
    row = await store.row(id)
    assert (row.state, row.size, row.started_at, row.ended_at) == (JobState.SUCCEEDED, 2, 1e6, 1e6)
    assert await path_of(store, id) == ["submitted", "claimed", "succeeded"]


async def test_the_same_id_again_is_the_same_job(store: Store) -> None:
    first = job(b"a")
    assert (await store.submit([first]))[0].is_new
    await claimed(store)
    assert await store.submit([first, first]) == [(first.id, JobState.RUNNING, False)] * 2
    with pytest.raises(KeyConflict):
        await store.submit([job(b"b", id=first.id)])


async def test_a_request_is_taken_as_a_whole_or_not_at_all(store: Store) -> None:
    good, bad = job(), job(after=(new_id(),))
    with pytest.raises(BadRequest, match="no such job"):
        await store.submit([good, bad])
    with pytest.raises(NoSuchJob):
        await store.row(good.id)
    assert await store.events(None) == []


async def test_a_refused_request_takes_nothing_of_its_neighbours_along(store: Store) -> None:
    jobs = [job(), job(after=(new_id(),)), job(), job(id="no id"), job()]
    answers = await asyncio.gather(*[store.submit([one]) for one in jobs], return_exceptions=True)
    assert [isinstance(answer, BadRequest) for answer in answers] == [False, True, False, True, False]
    assert [event.seq for event in await store.events(None)] == [1, 2, 3]
    assert [row.id for row in await store.rows(Query())] == [jobs[4].id, jobs[2].id, jobs[0].id]


async def test_higher_priority_first_then_the_older(store: Store) -> None:
    jobs = [job(priority=priority) for priority in (0, 5, 0, 5, -1)]
    await store.submit(jobs)
    order = [claim.id for _ in range(2) for claim in await claimed(store, 3)]
    assert order == [jobs[number].id for number in (1, 3, 0, 2, 4)]


async def test_a_claim_takes_only_of_the_lanes_that_were_asked_for(store: Store) -> None:
    await submitted(store, 2, lane="gpu")
    await submitted(store, 2)
    assert (store.waiting("gpu"), store.waiting("process"), store.waiting("other")) == (True, True, False)
    claims = await store.claim({"gpu": 1, "process": 9, "other": 1})
    assert sorted(claim.lane for claim in claims) == ["gpu", "process", "process"]
    assert (store.waiting("gpu"), store.waiting("process")) == (True, False)


async def test_fences_grow_over_all_jobs(store: Store) -> None:
    await submitted(store, 3)
    claims = await claimed(store, 3)
    await store.finish([ended(claims[0], JobState.QUEUED)])
    claims += await claimed(store)
    assert [claim.fence for claim in claims] == sorted({claim.fence for claim in claims})


async def test_submit_and_claim_is_one_transaction(store: Store) -> None:
    heard: list[list[str]] = []
    store.listen(lambda events: heard.append([event.kind for event in events]))
    [answer], [claim] = await store.submit_and_claim([job()], {"process": 4})
    assert (answer.id, answer.is_new) == (claim.id, True)
    assert heard == [["submitted", "claimed"]]


async def test_the_first_end_stands_and_a_late_one_is_an_event(store: Store) -> None:
    [id] = await submitted(store)
    [claim] = await claimed(store)
    await store.finish([ended(claim, outcome=b"first")])
    assert await store.finish([ended(claim, JobState.FAILED, b"second")]) == [None]
    assert (await store.outcome(id))[3] == b"first"
    assert await path_of(store, id) == ["submitted", "claimed", "succeeded", "late_outcome_discarded"]


async def test_the_end_of_an_older_attempt_is_fenced_off(store: Store) -> None:
    [id] = await submitted(store)
    [old] = await claimed(store)
    await store.finish([ended(old, JobState.WAITING, due=0.0)])
    [new] = await claimed(store)
    assert (new.attempt, new.failures) == (2, 1)
    assert await store.finish([ended(old, outcome=b"old")]) == [None]
    assert await store.finish([ended(new, outcome=b"new")]) == [JobState.SUCCEEDED]
    assert (await store.outcome(id))[2:] == (2, b"new")


async def test_an_end_of_a_job_that_is_gone_is_no_error(store: Store) -> None:
    await submitted(store)
    [claim] = await claimed(store)
    assert await store.finish([ended(claim._replace(id=new_id()))]) == [None]


async def test_a_job_that_never_started_is_queued_again_uncounted(store: Store) -> None:
    [id] = await submitted(store)
    await store.give_back(await claimed(store))
    row = await store.row(id)
    assert (row.state, row.attempt) == (JobState.QUEUED, 0)
    assert [claim.attempt for claim in await claimed(store)] == [1]


async def test_claims_that_nobody_waits_for_any_more_go_back(store: Store) -> None:
    [id] = await submitted(store)
    task = asyncio.ensure_future(claimed(store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while (await store.row(id)).state != JobState.QUEUED:
        await asyncio.sleep(0.001)
    assert (await store.row(id)).attempt == 0


async def test_a_retry_waits_until_it_is_due(store: Store, clock: Clock) -> None:
    [id] = await submitted(store)
    [claim] = await claimed(store)
    assert await store.finish([ended(claim, JobState.WAITING, due=clock.now + 5, note="OSError")]) == [JobState.WAITING]
    assert (await claimed(store), store.waiting("process"), store.next_due()) == ([], False, clock.now + 5)
    clock.now += 5
    [again] = await claimed(store)
    assert (again.attempt, again.failures, again.crashes) == (2, 1, 0)
    assert await path_of(store, id) == ["submitted", "claimed", "waiting", "queued", "claimed"]
    assert store.next_due() is None


async def test_a_delayed_job_starts_when_it_is_due(store: Store, clock: Clock) -> None:
    [late] = await submitted(store, due=clock.now + 60)
    [soon] = await submitted(store, due=clock.now + 30)
    assert (await claimed(store, 2), store.next_due()) == ([], clock.now + 30)
    clock.now += 40
    assert [claim.id for claim in await claimed(store, 2)] == [soon]
    clock.now += 40
    assert [claim.id for claim in await claimed(store, 2)] == [late]


async def test_F82_the_same_key_a_hundred_times_is_one_row(store: Store) -> None:
    answers = await asyncio.gather(*[store.submit([job(b"same", key="k")]) for _ in range(100)])
    assert len({answer.id for [answer] in answers}) == 1
    assert sum(answer.is_new for [answer] in answers) == 1
    assert len(await store.rows(Query(limit=200))) == 1


async def test_F82_the_same_key_twice_in_one_request_is_one_row(store: Store) -> None:
    first, second = await store.submit([job(b"same", key="k"), job(b"same", key="k")])
    assert (first.id == second.id, first.is_new, second.is_new) == (True, True, False)


async def test_P1_a_key_stands_for_one_call_only(store: Store) -> None:
    [id] = await submitted(store, payload=b"one", key="k")
    with pytest.raises(KeyConflict) as caught:
        await store.submit([job(b"two", key="k")])
    assert caught.value.id == id


async def test_F83_a_full_queue_takes_no_more_but_knows_what_it_has(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db", queue_limit=3) as store:
        known = job()
        await store.submit([known, job()])
        with pytest.raises(ServiceFull):
            await store.submit([job(), job()])
        assert not (await store.submit([known]))[0].is_new
        await submitted(store)
        await claimed(store)
        assert await submitted(store)


async def test_P5_cancel_of_a_queued_job_ends_it_at_once(store: Store) -> None:
    [id] = await submitted(store)
    assert await store.cancel(id, "enough") == ("cancelled", JobState.CANCELLED)
    assert await claimed(store) == []
    assert await store.cancel(id, "again") == ("ended", JobState.CANCELLED)
    assert await store.outcome(id) == (JobState.CANCELLED, "enough", 0, b"")
    with pytest.raises(NoSuchJob):
        await store.cancel(new_id(), "who")


async def test_P5_cancel_of_a_running_job_is_a_request(store: Store) -> None:
    [id] = await submitted(store)
    [claim] = await claimed(store)
    assert await store.cancel(id, "enough") == ("requested", JobState.STOPPING)
    assert await store.cancel(id, "more") == ("requested", JobState.STOPPING)
    assert (await store.row(id)).stop == "enough"
    assert await store.finish([ended(claim, outcome=b"in time")]) == [JobState.SUCCEEDED]


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.QUEUED])
async def test_a_job_that_is_stopping_never_goes_back_to_the_queue(store: Store, state: JobState) -> None:
    [id] = await submitted(store)
    [claim] = await claimed(store)
    await store.cancel(id, "enough")
    assert await store.finish([ended(claim, state, b"", due=0.0)]) == [JobState.CANCELLED]


async def test_P3_crashes_are_bounded_and_apart_from_failures(store: Store) -> None:
    [id] = await submitted(store, max_crashes=2)
    states = []
    for _ in range(3):
        [claim] = await claimed(store)
        states += await store.finish([ended(claim, JobState.LOST, b"", has_crashed=True)])
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.LOST]
    row = await store.row(id)
    assert (row.crashes, row.failures, row.attempt) == (3, 0, 3)


async def test_P3_a_job_that_may_start_once_is_lost_with_its_worker(store: Store) -> None:
    await submitted(store, at_most_once=True)
    [claim] = await claimed(store)
    assert await store.begin_job(claim.id, claim.fence)
    assert await store.finish([ended(claim, JobState.QUEUED, b"", has_crashed=True)]) == [JobState.LOST]


async def test_P3_what_may_start_once_and_had_not_begun_goes_back_to_the_queue(store: Store) -> None:
    [id] = await submitted(store, at_most_once=True, max_crashes=1)
    [first] = await claimed(store)
    assert (await store.row(id)).started_at is None
    assert await store.finish([ended(first, JobState.LOST, b"", has_crashed=True)]) == [JobState.QUEUED]
    assert not await store.begin_job(id, first.fence)
    [second] = await claimed(store)
    assert (second.attempt, second.crashes) == (1, 1)
    assert not await store.begin_job(id, first.fence)
    assert await store.begin_job(id, second.fence)
    row = await store.row(id)
    assert (row.attempt, row.started_at) == (1, store.settings.clock())
    assert await store.finish([ended(second)]) == [JobState.SUCCEEDED]


async def test_P3_what_may_start_once_cannot_kill_workers_without_end(store: Store) -> None:
    await submitted(store, at_most_once=True, max_crashes=1)
    states = []
    for _ in range(2):
        [claim] = await claimed(store)
        states += await store.finish([ended(claim, JobState.LOST, b"", has_crashed=True)])
    assert states == [JobState.QUEUED, JobState.LOST]


async def test_a_job_comes_after_those_that_it_needs(store: Store) -> None:
    a, b = job(), job()
    c = job(after=(a.id, b.id, a.id))
    await store.submit([a, b, c])
    claims = await claimed(store, 9)
    assert [claim.id for claim in claims] == [a.id, b.id]
    await store.finish([ended(claims[0])])
    assert await claimed(store) == []
    await store.finish([ended(claims[1])])
    assert store.waiting("process")
    [last] = await claimed(store)
    assert (last.id, last.after) == (c.id, (a.id, b.id, a.id))
    assert [outcome[4] for outcome in await store.outcomes(last.after)] == [b"value"] * 3


async def test_a_dependent_of_a_failed_job_is_cancelled_down_the_line(store: Store) -> None:
    a = job()
    b = job(after=(a.id,))
    c = job(after=(b.id,))
    await store.submit([a, b, c])
    [claim] = await claimed(store)
    await store.finish([ended(claim, JobState.FAILED, b"no")])
    assert [(await store.row(id)).state for id in (b.id, c.id)] == [JobState.CANCELLED] * 2
    assert a.id in (await store.row(b.id)).note
    assert b.id in (await store.row(c.id)).note
    [answer] = await store.submit([job(after=(c.id,))])
    assert answer.state == JobState.CANCELLED


@pytest.mark.slow
async def test_thousands_of_dependents_are_told_bit_by_bit(store: Store) -> None:
    for state, expected in ((JobState.SUCCEEDED, JobState.QUEUED), (JobState.TIMED_OUT, JobState.CANCELLED)):
        [parent] = await submitted(store)
        children = await submitted(store, 1300, after=(parent,), lane=state.name)
        [claim] = await claimed(store)
        await store.finish([ended(claim, state)])
        await submitted(store, lane="elsewhere")  # the rest is told in transactions that were asked for before
        while len(await store.rows(Query(states=(JobState.CANCELLED,), limit=2000))) % 1300:
            await asyncio.sleep(0.001)
        rows = [await store.row(id) for id in (children[0], children[-1])]
        assert [row.state for row in rows] == [expected] * 2
    assert len(await claimed(store, 1300, "SUCCEEDED")) == 1300


async def test_events_are_heard_in_order_after_their_commit(store: Store) -> None:
    heard: list[Event] = []
    store.listen(heard.extend)
    await asyncio.gather(*[submitted(store, 3) for _ in range(10)])
    await store.finish([ended(claim) for claim in await claimed(store, 30)])
    assert [event.seq for event in heard] == list(range(1, 91))
    assert heard == await store.events(None)
    assert await store.events(None, after=88, limit=1) == [heard[88]]


async def test_pages_of_jobs_by_state_name_and_tag(store: Store) -> None:
    ids = [(await submitted(store, name=f"n{number % 3}", tags=(f"t{number % 2}",)))[0] for number in range(12)]
    await store.cancel(ids[4], "")
    await store.cancel(ids[7], "")
    newest = ids[::-1]
    assert [row.id for row in await store.rows(Query(limit=5))] == newest[:5]
    before = (await store.rows(Query(limit=5)))[-1].seq
    assert [row.id for row in await store.rows(Query(limit=5, before=before))] == newest[5:10]
    assert [row.id for row in await store.rows(Query(states=(JobState.CANCELLED,)))] == [ids[7], ids[4]]
    assert len(await store.rows(Query(states=tuple(JobState), limit=50))) == 12
    assert [row.id for row in await store.rows(Query(name="n1"))] == [ids[10], ids[7], ids[4], ids[1]]
    assert [row.id for row in await store.rows(Query(tag="t1", name="n1", limit=1))] == [ids[7]]
    assert [row.id for row in await store.rows(Query(tag="t0", states=(JobState.CANCELLED,)))] == [ids[4]]
    assert await store.rows(Query(lane="gpu")) == []


async def test_a_pause_holds_jobs_back_until_it_is_over(store: Store) -> None:
    await submitted(store, 2, function="m:slow")
    [other] = await submitted(store, function="m:other")
    await store.pause("function:m:slow")
    assert [claim.id for claim in await claimed(store, 3)] == [other]
    assert (await store.pauses(), store.waiting("process")) == (("function:m:slow",), False)
    await store.resume("function:m:slow")
    assert store.waiting("process")
    await store.pause("lane:process")
    assert (await claimed(store), store.waiting("process")) == ([], False)
    await store.pause("all")
    await store.resume("lane:process")
    assert (await claimed(store), store.waiting("process")) == ([], False)
    await store.resume("all")
    assert len(await claimed(store, 3)) == 2
    with pytest.raises(BadRequest):
        await store.pause("everything")


async def test_a_large_outcome_is_a_file(store: Store, tmp_path: Path) -> None:
    [id] = await submitted(store)
    [claim] = await claimed(store)
    large = bytes(300_000)
    await store.finish([ended(claim, outcome=large)])
    assert await store.outcome(id) == (JobState.SUCCEEDED, "", 1, large)
    [file] = (tmp_path / "results").rglob(f"{id}*")
    assert file.stat().st_mode & 0o777 == 0o600
    await store.finish([ended(claim, outcome=large)])
    assert [*(tmp_path / "results").rglob(f"{id}*")] == [file]


async def test_jobs_go_when_their_time_is_over(store: Store, clock: Clock, tmp_path: Path) -> None:
    ids = await submitted(store, 3, keep=10.0, key=None, tags=("t",))
    await submitted(store)
    claims = await claimed(store, 2)
    await store.finish([ended(claims[0], outcome=bytes(300_000)), ended(claims[1])])
    assert await store.prune() == 0
    clock.now += 11
    assert (await store.prune(), await store.prune()) == (2, 0)
    assert [row.id for row in await store.rows(Query(tag="t"))] == [ids[2]]
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    with pytest.raises(NoSuchJob):
        await store.events(ids[0])


async def test_a_closed_store_refuses(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        pass
    await store.aclose()
    with pytest.raises(ServiceGone):
        await submitted(store)


@pytest.mark.parametrize("field", ["name", "function"])
async def test_a_list_by_a_name_looks_only_where_such_jobs_may_be(
    store: Store, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(reading, "STRETCH", 5)
    [early] = await submitted(store, **{field: "early"})
    ids = await submitted(store, 30, **{field: "many"})
    [late] = await submitted(store, **{field: "late"})

    async def first_look(value: str, **more: Any) -> tuple[list[str], bool]:
        query = Query(**{field: value}, **more)
        page = await store._database.run(Kind("read", writes=False), lambda tx: reading.stretch(tx, query))
        return [row.id for row in page.rows], page.before is None

    assert await first_look("nobody") == ([], True)
    assert await first_look("early") == ([early], True)
    assert (await first_look("late"))[0] == [late]
    assert await first_look("late", before=3) == ([], True)
    assert await first_look("many") == (ids[:-6:-1], False)
    assert [row.id for row in await store.rows(Query(**{field: "many"}))] == ids[::-1]
    both = Query(name="early", function="late") if field == "name" else Query(name="late", function="early")
    assert await store.rows(both) == []


async def test_F85_what_is_over_goes_in_small_portions_and_others_are_served_between(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    await submitted(store, 3000, keep=10.0, payload=bytes(2000))
    await store.finish([ended(claim) for claim in await claimed(store, 3000)])
    [stays] = await submitted(store)
    clock.now += 11
    database = tmp_path / "jobs.db"
    portions, size = [], database.stat().st_size

    async def prune() -> None:
        while number := await store.prune():
            portions.append(number)

    pruning, waited = asyncio.create_task(prune()), []
    while not pruning.done():
        before = len(portions)
        assert (await store.row(stays)).state is JobState.QUEUED
        waited.append(len(portions) - before)
    await pruning
    assert sum(portions) == 3000
    assert max(portions) <= 200
    assert len(waited) >= len(portions)
    assert max(waited) <= 1, "a reader had to wait for more than the portion that was under way"
    # Nothing is vacuumed: the file keeps its size, and the next jobs take the room.
    kept = database.stat().st_size
    assert kept >= size
    await submitted(store, 3000, payload=bytes(2000))
    assert database.stat().st_size <= 1.1 * kept


async def test_a_name_whose_jobs_are_pruned_is_forgotten(store: Store, clock: Clock) -> None:
    await submitted(store, 3, name="gone", keep=1.0)
    await submitted(store, name="gone", keep=100.0)
    for claim in await claimed(store, 4):
        await store.finish([ended(claim)])
    clock.now += 2
    assert await store.prune() == 3
    assert len(await store.rows(Query(name="gone"))) == 1
    clock.now += 200
    assert await store.prune() == 1
    assert await store.rows(Query(name="gone")) == []
