"""Requests that share a transaction; a disk that fails beside the database; clocks that jump."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from stored import Clock, check_sound, claimed, ended, job, looked_at, opened, submitted

from asyncjobs import portal
from asyncjobs.failpoint import arm
from asyncjobs.service.clock import SteadyClock
from asyncjobs.service.errors import BadRequest, KeyConflict, ServiceFull, ServiceGone, StorageBroken, StorageFull
from asyncjobs.service.records import Event, Query
from asyncjobs.service.store.requests import Item
from asyncjobs.service.store.turn import Turn
from asyncjobs.state import JobState


async def test_what_one_turn_of_the_loop_asks_for_shares_a_commit(tmp_path: Path) -> None:
    commits: list[int] = []
    async with opened(tmp_path / "jobs.db") as store:
        store.listen(lambda events: commits.append(len(events)))
        await asyncio.gather(*[submitted(store) for _ in range(200)])
        assert commits == [200]


async def test_tasks_that_submit_one_by_one_share_commits(tmp_path: Path) -> None:
    commits: list[int] = []

    async def one_by_one() -> None:
        for _ in range(25):
            await submitted(store)

    async with opened(tmp_path / "jobs.db") as store:
        store.listen(lambda events: commits.append(len(events)))
        await asyncio.gather(*[one_by_one() for _ in range(8)])
        assert sum(commits) == 200
        assert len(commits) < 100


async def test_submits_of_one_turn_are_written_as_one_and_start_what_they_want_together(tmp_path: Path) -> None:
    commits: list[list[str]] = []
    async with opened(tmp_path / "jobs.db") as store:
        store.listen(lambda events: commits.append([event.kind for event in events]))
        jobs = [[job(), job()] for _ in range(8)]
        answers = await asyncio.gather(*[store.submit_and_claim(some, {"process": 1}) for some in jobs])
        assert [[answer.id for answer in accepted] for accepted, _ in answers] == [
            [one.id for one in some] for some in jobs
        ]
        begun = [claim.id for _, claims in answers for claim in claims]
        assert begun == [one.id for some in jobs for one in some][:8]
        assert commits == [["submitted"] * 16 + ["claimed"] * 8]


async def test_of_submits_of_one_turn_the_first_gets_the_room_that_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db", queue_limit=5) as store:
        answers = await asyncio.gather(*[submitted(store, 2) for _ in range(4)], return_exceptions=True)
        assert [type(answer) for answer in answers] == [list, list, ServiceFull, ServiceFull]
        assert len(await store.rows(Query())) == 4
    check_sound(tmp_path / "jobs.db")


async def test_of_submits_of_one_turn_the_first_has_a_key_and_another_call_is_refused(tmp_path: Path) -> None:
    calls = [b"one", b"one", b"another"]
    async with opened(tmp_path / "jobs.db") as store:
        asked = [store.submit([job(call, key="a key"), job()]) for call in calls]
        first, again, other = await asyncio.gather(*asked, return_exceptions=True)
        assert not isinstance(first, BaseException)
        assert not isinstance(again, BaseException)
        assert [answer.is_new for answer in (*first, *again)] == [True, True, False, True]
        assert again[0].id == first[0].id
        assert isinstance(other, KeyConflict)
        assert other.id == first[0].id
        assert len(await store.rows(Query())) == 3
    check_sound(tmp_path / "jobs.db")


async def test_a_submit_may_name_jobs_of_another_one_of_its_turn(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        parent = job()
        child = job(after=(parent.id,))
        both = await asyncio.gather(*[store.submit_and_claim([one], {"process": 1}) for one in (parent, child)])
        assert [claim.id for _, claims in both for claim in claims] == [parent.id]
        await store.finish([ended(claim) for _, claims in both for claim in claims])
        assert [claim.id for claim in await claimed(store)] == [child.id]


async def test_claims_of_a_turn_whose_first_caller_is_gone_go_back(tmp_path: Path) -> None:
    def hear(events: Sequence[Event]) -> None:  # between the commit and the answers
        gone.cancel()

    async with opened(tmp_path / "jobs.db") as store:
        gone, other = (asyncio.ensure_future(store.submit_and_claim([job()], {"process": 1})) for _ in range(2))
        store.listen(hear)
        assert (await other)[1] == []
        assert len(await claimed(store, 2)) == 2


async def test_what_has_patience_goes_with_the_next_request(tmp_path: Path) -> None:
    commits: list[list[str]] = []
    async with opened(tmp_path / "jobs.db") as store:
        await submitted(store, 3)
        first, second, third = await claimed(store, 3)
        store.listen(lambda events: commits.append([event.kind for event in events]))
        writing = asyncio.ensure_future(store.finish([ended(first)], patience=3600))
        await asyncio.sleep(0)
        await submitted(store)
        assert await writing == [JobState.SUCCEEDED]
        assert commits == [["succeeded", "submitted"]]
        # Nobody came for so long; and what waits when the store is closed is written.
        assert await store.finish([ended(second)], patience=0.001) == [JobState.SUCCEEDED]
        writing = asyncio.ensure_future(store.finish([ended(third)], patience=3600))
        await asyncio.sleep(0)
    assert await writing == [JobState.SUCCEEDED]
    assert looked_at(tmp_path / "jobs.db", "SELECT count(*) FROM events WHERE kind = 'succeeded'") == [(3,)]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, portal.new_event_loop])
def test_what_has_patience_is_sent_once_though_its_time_is_over_when_a_request_comes(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    sent: list[list[Item]] = []

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        turn = Turn(loop, sent.append)
        turn.add(None, patience=0.001)
        began = time.monotonic()
        while time.monotonic() < began + 0.005:  # the loop stands still meanwhile
            pass
        turn.add(None)
        for _ in range(20):
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask())
    assert sent == [[None, None]]


async def test_of_what_shares_a_commit_only_what_is_refused_is_undone(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        asked = [submitted(store, 2, after=("0" * 26,) if number % 3 == 0 else ()) for number in range(9)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [isinstance(answer, BadRequest) for answer in answers]
        assert refused == [True, False, False] * 3
        kept = {id for answer in answers if not isinstance(answer, BaseException) for id in answer}
        assert {row.id for row in await store.rows(Query())} == kept
        assert len(await store.events(None)) == len(kept) == 12
    check_sound(tmp_path / "jobs.db")


@pytest.mark.parametrize("number", [1, 2, 17, 50])
async def test_of_many_that_start_and_end_at_once_each_gets_its_own(tmp_path: Path, number: int) -> None:
    states = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    async with opened(tmp_path / "jobs.db") as store:
        await store.submit([job(priority=place % 7) for place in range(number)])
        claims = await claimed(store, number)
        starts = {event.id: event.seq for event in await store.events(None) if event.kind == "claimed"}
        assert {claim.id: claim.fence for claim in claims} == starts
        ends = [
            ended(claim, states[place % 3], bytes(place + 1), note=f"note {place}")
            for place, claim in enumerate(claims)
        ]
        assert await store.finish(ends) == [end.state for end in ends]
        rows = {row.id: (row.state, row.note, row.size, row.attempt) for row in await store.rows(Query())}
        assert rows == {end.id: (end.state, end.note, len(end.outcome), 1) for end in ends}
    fences = looked_at(tmp_path / "jobs.db", "SELECT id, fence FROM jobs")
    assert dict(fences) == starts
    check_sound(tmp_path / "jobs.db")


async def test_whoever_waits_goes_on_after_the_events_were_heard(tmp_path: Path) -> None:
    heard: list[str] = []

    async def submit_and_look() -> bool:
        [id] = await submitted(store)
        return id in heard

    def hear(events: Sequence[Event]) -> None:
        heard.extend(event.id for event in events)

    async with opened(tmp_path / "jobs.db") as store:
        store.listen(hear)
        assert all(await asyncio.gather(*[submit_and_look() for _ in range(20)]))


async def test_a_request_that_is_cancelled_before_its_turn_is_not_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        arm("submit.before_commit=delay:0.05@1")
        first = asyncio.ensure_future(submitted(store))
        await asyncio.sleep(0.01)  # the thread is in its first commit
        second = asyncio.ensure_future(submitted(store))
        await asyncio.sleep(0)
        second.cancel()
        await first
        arm("")
        assert len(await store.rows(Query())) == 1


async def test_closing_answers_what_was_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        tasks = [asyncio.ensure_future(submitted(store)) for _ in range(300)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(isinstance(answer, BaseException) for answer in answers)
    assert looked_at(tmp_path / "jobs.db", "SELECT count(*) FROM jobs") == [(300,)]
    with pytest.raises(ServiceGone):
        await submitted(store)


async def test_nobody_else_can_open_the_database(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db"):
        connection = sqlite3.connect(tmp_path / "jobs.db", timeout=0.0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("SELECT * FROM jobs")
        connection.close()


class Unknowable:
    """A request of which nobody can find out what it is."""

    future = error = None

    @property
    def __class__(self) -> Any:
        raise MemoryError("no room to look at it")


async def test_what_came_before_a_request_that_the_thread_fails_to_take_is_answered(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        asked = [asyncio.ensure_future(submitted(store)) for _ in range(3)]
        await asyncio.sleep(0)
        store._database._turn.items.append(Unknowable())  # type: ignore[arg-type]
        refusals = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(one) for one in refusals] == ["the database failed: no room to look at it"] * 3


async def test_a_fault_of_our_own_ends_the_store_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        arm("submit.before_commit=raise@2")
        await submitted(store)
        with pytest.raises(StorageBroken):
            await submitted(store)
        assert store.broken.done()
        with pytest.raises(StorageBroken):
            await store.rows(Query())
        arm("")
    assert looked_at(tmp_path / "jobs.db", "SELECT count(*) FROM jobs") == [(1,)]
    check_sound(tmp_path / "jobs.db")


class Ballast:
    """Space that is given once, by taking away a failpoint."""

    def __init__(self, times: int) -> None:
        self.times = times

    def release(self) -> bool:
        self.times -= 1
        return self.times >= 0

    def restore(self) -> bool:
        return True


@pytest.fixture
def full_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir(mode=0o700)
    return folder


async def test_F75_a_large_outcome_for_which_there_is_no_space_is_not_taken(tmp_path: Path, full_folder: Path) -> None:
    async with opened(tmp_path / "jobs.db", results=full_folder, ballast=Ballast(1)) as store:
        await submitted(store, 2)
        claims = await claimed(store, 2)
        arm("result.file=errno:ENOSPC@1")
        assert await store.finish([ended(claims[0], outcome=bytes(300_000))]) == [JobState.SUCCEEDED]
        arm("result.file=errno:ENOSPC")
        with pytest.raises(StorageFull):
            await store.finish([ended(claims[1], outcome=bytes(300_000))])
        assert (await store.row(claims[1].id)).state == JobState.RUNNING
        arm("")
        assert await store.finish([ended(claims[1], outcome=bytes(300_000))]) == [JobState.SUCCEEDED]
        assert not store.broken.done()


async def test_F76_a_disk_that_fails_under_a_large_outcome_ends_the_service(tmp_path: Path, full_folder: Path) -> None:
    async with opened(tmp_path / "jobs.db", results=full_folder) as store:
        await submitted(store)
        claims = await claimed(store)
        arm("result.file=errno:EIO")
        with pytest.raises(StorageBroken):
            await store.finish([ended(claims[0], outcome=bytes(300_000))])
        arm("")
        assert isinstance(store.broken.result(), StorageBroken)


@pytest.mark.slow
async def test_files_of_commits_that_never_came_go_at_the_next_opening(tmp_path: Path, full_folder: Path) -> None:
    async with opened(tmp_path / "jobs.db", results=full_folder) as store:
        await submitted(store)
        [claim] = await claimed(store)
        store._results.write(claim.id, claim.attempt, claim.epoch, b"as far as it came")
        assert [*full_folder.rglob(f"{claim.id}.*")]
    async with opened(tmp_path / "jobs.db", results=full_folder):
        assert not [*full_folder.rglob(f"{claim.id}.*")]


class Times:
    """A wall clock that can be set and a clock that cannot."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.ticks = 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


YEAR = 365 * 86_400.0


@pytest.mark.slow
@pytest.mark.parametrize("jump", [YEAR, -YEAR, 3600.0, -3600.0])
async def test_F81_a_wall_clock_that_jumps_moves_no_delay_and_no_order(tmp_path: Path, jump: float) -> None:
    times = Times()
    clock = SteadyClock(lambda: times.wall, lambda: times.ticks)
    async with opened(tmp_path / "jobs.db", clock=clock) as store:
        [before] = await submitted(store, due=times.wall + 10)
        times.wall += jump
        [after] = await submitted(store, due=times.wall + 10)
        [now] = await submitted(store)
        assert [claim.id for claim in await claimed(store, 3)] == [now]
        times.pass_by(11)
        assert [claim.id for claim in await claimed(store, 3)] == [before, after]
        rows = await store.rows(Query())
        assert [row.id for row in rows] == [now, after, before]
        assert all(row.submitted_at < 1_000_100 for row in rows)


def test_F81_a_steady_clock_shows_instants_as_they_were_given_while_nothing_jumps() -> None:
    times = Times()
    clock = SteadyClock(lambda: times.wall, lambda: times.ticks)
    times.pass_by(5)
    times.wall += 0.01
    assert clock.from_wall(1_000_123.25) == 1_000_123.25
    times.wall += 100
    assert clock.from_wall(times.wall + 7) == pytest.approx(clock() + 7)


async def test_time_never_goes_back_in_the_log(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "jobs.db", clock=clock) as store:
        await submitted(store)
        clock.now -= 1000
        await submitted(store)
        assert len({event.at for event in await store.events(None)}) == 1


async def test_an_idle_store_uses_no_processor(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        await submitted(store, due=9e9)
        before = sum(os.times()[:2])
        await asyncio.sleep(0.5)
        assert sum(os.times()[:2]) - before < 0.05
        assert store.next_due() is not None


async def test_a_key_that_was_submitted_again_and_again_costs_no_second_row(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as store:
        batch = [job(str(number).encode(), key=str(number)) for number in range(50)]
        answers = await asyncio.gather(*[store.submit(batch) for _ in range(10)])
        assert sum(answer.is_new for some in answers for answer in some) == 50
        assert {tuple(answer.id for answer in some) for some in answers} == {tuple(one.id for one in batch)}
