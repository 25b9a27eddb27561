"""Jobs from the store through real workers to their ends: `work.engine`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from damaged import small_disk
from engines import KEY, bench
from pauses import PauseClock
from stored import Clock

import asyncjobs as aj
from asyncjobs.errors import JobCancelled, JobTimeout, WorkerLost
from asyncjobs.service import envelope, outcome
from asyncjobs.service.errors import BadRequest, NotAllowed, ServiceGone, UnknownFunction
from asyncjobs.service.records import Limit, NewJob, Query, Schedule
from asyncjobs.service.store.checking import check_database
from asyncjobs.service.work import engine, joblog, window
from asyncjobs.service.work.sweeping import prune, sweep
from asyncjobs.service.work.window import MOST_AHEAD, Window
from asyncjobs.state import JobState


@pytest.mark.slow
async def test_a_job_by_name_and_a_job_by_value_give_their_values(tmp_path: Path) -> None:
    offset = 10

    async with bench(tmp_path) as b:
        by_name = await b.submit("add", 1, kwargs={"y": 2})
        by_value = b.new_by_value(lambda x: {"sum": (x, offset)}, 5)
        await b.engine.submit([by_value])
        assert await b.value(by_name) == 3
        assert await b.value(by_value.id) == {"sum": (5, 10)}
        assert b.kinds(by_name) == ["submitted", "claimed", "succeeded"]


@pytest.mark.slow
async def test_what_json_cannot_say_exactly_comes_back_as_it_was(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        values = [1, 2.5, "text", None, True, [1, [2]], {"a": {"b": []}}]
        job = await b.submit("echo", values)
        assert await b.value(job) == values
        _, _, _, sealed = await b.store.outcome(job)
        assert envelope.open(KEY, job, sealed)[:1] == outcome.JSON
        job = await b.submit("large", 1000)
        assert await b.value(job) == b"x" * 1000


@pytest.mark.slow
async def test_an_error_comes_back_with_its_type_text_and_traceback(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        job = await b.submit("fail", "no such luck")
        with pytest.raises(ValueError, match="no such luck") as caught:
            await b.value(job)
        assert "in fail" in str(caught.value.__cause__)
        row = await b.store.row(job)
        assert (row.state, row.note, row.failures) == (JobState.FAILED, "ValueError: no such luck", 1)


@pytest.mark.slow
async def test_F84_an_unknown_function_fails_once_and_is_not_tried_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        job = await b.submit("gone", terms={"retry": {"max": 0}})
        with pytest.raises(UnknownFunction):
            await b.value(job)
        assert b.kinds(job) == ["submitted", "claimed", "failed"]


async def test_F96_what_is_on_no_list_or_no_function_never_runs(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for name in ("os:system", "builtins:eval", "service_jobs:__builtins__", "service_jobs:a.b.c"):
            with pytest.raises(NotAllowed):
                await b.submit(name, "true")
        job = await b.submit("Shelf")
        with pytest.raises(NotAllowed):
            await b.value(job)


async def test_F95_a_call_with_a_wrong_seal_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        good, bad = b.new("add", 1), b.new("add", 1)
        bad = bad._replace(payload=envelope.seal(b"another key" * 3, bad.id, b"P"))
        with pytest.raises(NotAllowed):
            await b.engine.submit([good, bad])
        with pytest.raises(NotAllowed):
            await b.engine.submit([good._replace(payload=b"P no seal")])
        with pytest.raises(BadRequest):
            await b.engine.submit([good._replace(lane="gpu")])
        assert (await b.store.stats()).states.get(JobState.QUEUED, 0) == 0
        assert not b.seen


@pytest.mark.slow
async def test_failures_are_retried_with_backoff_and_only_where_the_type_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        retry = {"max": 3, "backoff": 0.01}
        succeeds = await b.submit("fail_until", 3, terms={"retry": retry})
        only_os = {**retry, "on": ["builtins.OSError"]}
        other = await b.submit("fail_until", 3, terms={"retry": only_os})
        derived = await b.submit("fail_until", 2, "ConnectionError", terms={"retry": only_os})
        gives_up = await b.submit("fail_until", 3, terms={"retry": {**retry, "give_up_on": ["builtins.ValueError"]}})
        assert await b.value(succeeds) == 3
        assert b.kinds(succeeds).count("claimed") == 3
        assert (await b.store.row(succeeds)).failures == 2
        assert await b.value(derived) == 2
        for job in (other, gives_up):
            assert (await b.ended(job)).attempt == 1


@pytest.mark.slow
async def test_F69_a_worker_that_dies_costs_a_crash_and_the_job_runs_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        again = await b.submit("die_until", 3)
        neighbour = await b.submit("note", str(tmp_path / "notes"))
        assert await b.value(again) == 3
        assert await b.value(neighbour)
        row = await b.store.row(again)
        assert (row.attempt, row.crashes, row.failures) == (3, 2, 0)


@pytest.mark.slow
async def test_a_job_that_kills_every_worker_is_lost_after_its_crashes_are_used_up(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        lost = await b.submit("exit_with", 7, max_crashes=1)
        once = await b.submit("kill_self", at_most_once=True)
        with pytest.raises(WorkerLost, match=r"exit code 7.*, attempt 2") as caught:
            await b.value(lost)
        assert (caught.value.exit_code, caught.value.attempt) == (7, 2)
        assert (await b.ended(lost)).attempt == 2
        with pytest.raises(WorkerLost, match="SIGKILL"):
            await b.value(once)
        assert b.kinds(once).count("claimed") == 1


async def test_F75_a_checkpoint_for_which_the_disk_has_no_room_is_refused_and_the_service_goes_on(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "small", "8m") as disk:
        async with bench(disk, processes=1) as b:
            large, small = await b.submit("checkpoint_of", 20_000_000), await b.submit("checkpoint_of", 20)
            assert await b.value(large) == "StorageFull"
            assert await b.value(small) == "kept"


@pytest.mark.slow
async def test_a_time_limit_ends_the_attempt_and_retries_may_follow(tmp_path: Path, clock: PauseClock) -> None:
    async with bench(tmp_path) as b:
        started = clock()
        late = await b.submit("sleep", 30, terms={"timeout": 0.1, "grace": 0.1})
        asked = await b.submit("wait", 30, terms={"timeout": 0.1, "retry": {"max": 1, "backoff": 0.01}})
        with pytest.raises(JobTimeout, match=r"timeout of 0\.1 s"):
            await b.value(late)
        with pytest.raises(JobTimeout, match="attempt 2"):
            await b.value(asked)
        assert b.kinds(asked).count("claimed") == 2
        assert clock() - started < 10


@pytest.mark.slow
async def test_a_deadline_ends_the_job_wherever_it_is(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        now = time.time()
        passed = await b.submit("add", 1, terms={"deadline": now - 1})
        running = await b.submit("wait", 30, terms={"deadline": now + 0.5, "retry": {"max": 5}})
        for job in (passed, running):
            with pytest.raises(JobTimeout, match="deadline"):
                await b.value(job)
        assert b.kinds(running).count("claimed") == 1


async def test_a_deadline_ends_what_waits_while_all_places_are_busy_or_everything_is_paused(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with bench(tmp_path, processes=1) as b:
        running = await b.submit("wait_for", str(gate))
        await b.runs(running)
        late = await b.submit("add", 1, terms={"deadline": time.time() + 0.3})
        retried = await b.submit("add", 1, due=time.time() + 0.2)
        with pytest.raises(JobTimeout, match="'add' had not started when its deadline passed") as caught:
            await b.value(late)
        assert caught.value.limit == "deadline"
        assert "claimed" not in b.kinds(late)
        # What has come due meanwhile is no reason to look again and again.
        assert b.store.next_due() is None
        await b.engine.pause("all")
        paused = await b.submit("add", 1, terms={"deadline": time.time() + 0.3})
        assert (await b.ended(paused)).state is JobState.TIMED_OUT
        await b.engine.resume("all")
        gate.touch()
        assert await b.value(retried) == 1


async def test_a_deadline_ends_what_waits_for_another_attempt(tmp_path: Path) -> None:
    clock = Clock()
    async with bench(tmp_path, processes=1, clock=clock) as b:
        retry = {"max": 3, "backoff": 600.0, "jitter": 0.0}
        job = await b.submit("fail", terms={"deadline": clock() + 60.0, "retry": retry})
        await b.until(job, "waiting")
        clock.now += 60.0
        assert await b.value(await b.submit("add", 1)) == 1  # with its end the engine looks at the time
        with pytest.raises(JobTimeout, match="waiting for attempt 2 when its deadline passed"):
            await b.value(job)


@pytest.mark.slow
async def test_P5_cancel_says_what_it_did_and_stops_what_runs(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        running = await b.submit("wait", 60)
        await b.until(running, "claimed")
        queued = await b.submit("add", 1)
        assert await b.engine.cancel(queued, "not wanted") == ("cancelled", JobState.CANCELLED)
        assert (await b.engine.cancel(running, "enough"))[0] == "requested"
        with pytest.raises(JobCancelled, match="enough"):
            await b.value(running)
        assert (await b.engine.cancel(running, "enough"))[0] == "ended"
        assert "claimed" not in b.kinds(queued)


@pytest.mark.slow
async def test_a_job_that_does_not_listen_is_ended_after_its_grace(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        deaf = await b.submit("sleep", 60)
        coroutine = await b.submit("wait_async")
        await b.runs(deaf)
        await b.engine.cancel(deaf, "now", grace=0.1)
        assert (await b.ended(deaf, 10)).state is JobState.CANCELLED
        await b.runs(coroutine)
        await b.engine.cancel(coroutine, "now")
        assert (await b.ended(coroutine, 10)).state is JobState.CANCELLED


@pytest.mark.slow
async def test_results_of_others_come_as_arguments(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        one, two = await b.submit("add", 1, kwargs={"y": 2}), await b.submit("echo", {"x": [5]})
        by_json = await b.submit("echo", [{"$result": one}, {"deep": [{"$result": two}]}], after=(one, two))
        by_value = b.new_by_value(lambda a, more: (a, more), outcome.ResultOf(one), [outcome.ResultOf(two)])
        assert set(by_value.after) == {one, two}
        await b.engine.submit([by_value])
        assert await b.value(by_json) == [3, {"deep": [{"x": [5]}]}]
        assert await b.value(by_value.id) == (3, [{"x": [5]}])


@pytest.mark.slow
async def test_a_job_after_one_that_failed_never_starts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        parent = await b.submit("fail")
        child = await b.submit("add", 1, after=(parent,))
        assert (await b.ended(child)).state is JobState.CANCELLED
        assert "claimed" not in b.kinds(child)


@pytest.mark.slow
async def test_what_a_job_prints_is_in_its_own_log_even_where_short_jobs_follow_each_other(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        jobs = [b.new("say", f"out {number}", f"err {number}") for number in range(300)]
        await b.engine.submit([b.new("say", "warm"), *jobs])
        await b.quiet()
        for number, job in enumerate(jobs):
            piece = joblog.read(tmp_path / "logs" / "jobs", job.id, 0, 1000)
            assert piece.data.decode() == f"out {number}\nerr {number}\n"


@pytest.mark.slow
async def test_progress_and_log_growth_are_told_to_who_listens(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        job = b.new("progress", 5, 0.06)
        with b.engine.news.subscribe(job.id) as mine, b.engine.news.subscribe(None) as all_:
            await b.engine.submit([job, b.new("say", "hello")])
            await b.until(job.id)
            await b.quiet()
            said = [one for one in mine.take() if one.progress is not None]
            assert said[-1].progress is not None
            assert (said[-1].progress.done, said[-1].progress.note) == (5, "step 5")
            assert 6 in [one.log for one in all_.take()]
        assert b.engine.progress_of(job.id) is None


@pytest.mark.slow
async def test_a_checkpoint_carries_a_job_over_the_death_of_its_worker(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        steps = tmp_path / "steps"
        job = await b.submit("count_on", str(steps), 6, 4)
        assert await b.value(job) == [0, 1, 2, 3, 4, 5]
        assert steps.read_text().split("\n")[:-1] == ["1 0", "1 1", "1 2", "1 3", "2 4", "2 5"]


@pytest.mark.slow
async def test_P7_a_job_knows_its_id_attempt_and_a_fence_that_grows(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        first, second = await b.submit("context"), await b.submit("context")
        one, two = await b.value(first), await b.value(second)
        assert (one["id"], one["name"], one["attempt"]) == (first, "context", 1)
        assert two["fence"] > one["fence"] > 0


@pytest.mark.slow
async def test_a_pause_lets_nothing_start_and_a_resume_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.engine.pause("all")
        job = await b.submit("add", 1)
        running = await b.submit("add", 2)
        await b.store.stats()
        assert b.kinds(job) == ["submitted"]
        await b.engine.resume("all")
        assert await b.value(job) == 1
        assert await b.value(running) == 2


@pytest.mark.slow
async def test_delays_end_without_anybody_asking_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        job = await b.submit("add", 1, due=time.time() + 0.3)
        row = await b.ended(job)
        assert row.started_at is not None
        assert 0.25 <= row.started_at - row.submitted_at < 5


@pytest.mark.slow
async def test_large_arguments_and_results_travel_whole(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        job = b.new_by_value(lambda data: data[::-1], b"ab" * 2_000_000)
        await b.engine.submit([job])
        assert await b.value(job.id) == b"ba" * 2_000_000
        large = await b.submit("large", 100, terms={"max_result": 50})
        with pytest.raises(aj.ResultTooLarge):
            await b.value(large)


@pytest.mark.slow
async def test_a_drain_gives_back_what_has_not_started_and_interrupts_what_runs_too_long(
    tmp_path: Path, clock: PauseClock
) -> None:
    async with bench(tmp_path, processes=1) as b:
        short = await b.submit("sleep", 0.2)
        await b.runs(short)
        queued = await b.submit("add", 1)
        await b.engine.drain(10)
        assert (await b.store.row(short)).state is JobState.SUCCEEDED
        assert (await b.store.row(queued)).state is JobState.QUEUED
        with pytest.raises(ServiceGone):
            await b.submit("add", 1)
    async with bench(tmp_path, processes=1) as b:
        assert await b.value(queued) == 1
        long, once = await b.submit("wait", 60), await b.submit("wait", 60, at_most_once=True)
        await b.runs(long)
        started = clock()
        await b.engine.drain(0)
        assert clock() - started < 7
        row = await b.store.row(long)
        assert (row.state, row.attempt, row.crashes) == (JobState.QUEUED, 1, 0)
        assert row.note == "the service was stopped while attempt 1 ran"
        assert b.kinds(long)[-1] == "interrupted"
        assert (await b.store.row(once)).state in (JobState.QUEUED, JobState.LOST)


async def test_a_planned_stop_is_no_crash_however_often_it_comes(tmp_path: Path) -> None:
    job = ""
    for number in range(1, 3):
        async with bench(tmp_path, processes=1) as b:
            job = job or await b.submit("wait", 60, max_crashes=0)
            await b.runs(job)
            await b.engine.drain(0)
            row = await b.store.row(job)
            assert (row.state, row.attempt, row.crashes) == (JobState.QUEUED, number, 0)
    assert check_database(tmp_path / "jobs.db") == []


async def test_a_planned_stop_of_what_may_start_once_is_LOST_and_says_why(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        once = await b.submit("wait", 60, at_most_once=True)
        await b.runs(once)
        await b.engine.drain(0)
        row = await b.store.row(once)
        assert (row.state, row.crashes) == (JobState.LOST, 0)
        assert row.note == "the service was stopped while attempt 1 ran; it may be started at most once"


async def test_a_job_that_is_cancelled_and_then_interrupted_is_cancelled(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        once = await b.submit("sleep", 60, at_most_once=True)
        await b.runs(once)
        await b.engine.cancel(once, "enough", 60)
        await b.engine.drain(0)
        row = await b.store.row(once)
        assert (row.state, row.crashes, row.note) == (JobState.CANCELLED, 0, "enough")


async def test_what_a_job_raises_while_it_is_interrupted_is_its_own_failure_and_retries_follow(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        job = await b.submit("raise_when_stopped", terms={"retry": {"max": 1, "backoff": 0.0}})
        await b.runs(job)
        await b.engine.drain(0)
        row = await b.store.row(job)
        assert (row.state, row.failures, row.note) == (JobState.WAITING, 1, "OSError: stopped in the middle")


@pytest.mark.slow
async def test_what_is_claimed_ahead_goes_back_when_a_long_job_holds_the_worker(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        await b.engine.submit([b.new("sha", str(number)) for number in range(50)])
        await b.quiet()
        gate = tmp_path / "gate"
        long = await b.submit("wait_for", str(gate))
        await b.runs(long)
        short = await b.submit("add", 1)
        await b.until(short, "claimed")
        await b.until(short, "queued")
        row = await b.store.row(short)
        assert (row.state, row.attempt) == (JobState.QUEUED, 0)
        gate.touch()
        assert await b.value(short) == 1
        assert b.kinds(short).count("claimed") == 2


@pytest.mark.slow
async def test_without_a_worker_jobs_wait_and_are_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCJOBS_FAILPOINTS", "spawn.after=exit:3")  # read by workers, as each starts
    monkeypatch.setattr(window, "FIRST_HOLD", 0.2)
    async with bench(tmp_path, processes=1, start_method="spawn") as b:
        job = await b.submit("add", 1)
        await b.until(job, "queued")
        monkeypatch.delenv("ASYNCJOBS_FAILPOINTS")
        assert await b.value(job) == 1
        row = await b.store.row(job)
        assert (row.attempt, row.crashes, row.failures) == (1, 0, 0)


@pytest.mark.slow
async def test_a_schedule_makes_jobs_without_anybody_asking(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.engine.submit([b.new("add", 0)])
        await b.quiet()
        pattern = b.new("add", 7)
        await b.store.put_schedule(Schedule("often", "* * * * *", "UTC", pattern, time.time() + 0.3))
        async with asyncio.timeout(20):
            while not (made := [row for row in await b.store.rows(Query(schedule="often")) if row.state.is_final]):
                await asyncio.sleep(0.05)
        assert await b.value(made[0].id) == 7


@pytest.mark.slow
async def test_what_a_job_left_goes_with_the_job(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        gone, stays = await b.submit("say", "x", keep=0.0), await b.submit("say", "y")
        await b.quiet()
        (tmp_path / "figures" / gone).mkdir(parents=True)
        assert await prune(b.store) == 1
        logs = tmp_path / "logs" / "jobs"
        assert await sweep(b.store, logs, tmp_path / "figures") == 1
        assert not joblog.path_of(logs, gone).exists()
        assert joblog.path_of(logs, stays).exists()
        assert not (tmp_path / "figures" / gone).exists()


async def test_an_end_that_nobody_waits_for_needs_no_commit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 3600.0)
    async with bench(tmp_path, processes=1) as b:
        commits: list[list[str]] = []
        b.store.listen(lambda events: commits.append([event.kind for event in events]))
        watched = await b.submit("add", 1)
        assert await b.value(watched) == 1
        b.engine.is_watched = lambda: False
        job = await b.submit("add", 2)
        async with asyncio.timeout(30):
            while not b.engine._writer.is_busy:
                await asyncio.sleep(0.01)
        assert b.kinds(job) == ["submitted", "claimed"]
        b.engine.is_watched = lambda: True
        other = await b.submit("add", 3)
        assert any({"succeeded", "submitted"} <= set(commit) for commit in commits), "the next request takes it along"
        assert (await b.value(job), await b.value(other)) == (2, 3)


@pytest.mark.slow
async def test_an_end_that_another_job_may_wait_for_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 3600.0)
    async with bench(tmp_path, processes=1) as b:
        b.engine.is_watched = lambda: False
        first = b.new("add", 1)
        second = b.new("add", 2)._replace(after=(first.id,))
        await b.engine.submit([first, second])
        await b.until(second.id, "claimed")


@pytest.mark.slow
async def test_whoever_submits_is_answered_before_the_job_goes_to_a_worker(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert await b.value(await b.submit("echo", 1)) == 1
        await b.quiet()
        job = await b.submit("echo", 2)
        assert b.engine.busy() == 0
        assert await b.value(job) == 2


@pytest.mark.slow
async def test_a_thousand_short_jobs_end_each_with_its_own_value(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        jobs = [b.new("sha", str(number)) for number in range(1000)]
        for start in range(0, 1000, 250):
            await b.engine.submit(jobs[start : start + 250])
        await b.quiet()
        found = await b.store.outcomes([job.id for job in jobs])
        values: list[Any] = [json.loads(envelope.open(KEY, one[0], one[4])[1:]) for one in found]
        assert values == [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
        assert all(one[1] is JobState.SUCCEEDED for one in found)


def test_the_window_grows_for_short_jobs_only() -> None:
    bound = Window()
    assert bound.room(2, 0.0) == 2
    bound.measured(10.0)
    assert bound.room(2, 0.0) == 2
    for _ in range(200):
        bound.measured(0.0001)
    assert bound.room(2, 0.0) == 2 * (1 + MOST_AHEAD)
    bound.claimed = 250
    assert bound.room(2, 0.0) == 8
    bound.stalled()
    assert bound.room(2, 0.0) == 0
    bound.measured(0.0001)
    assert bound.room(2, 0.0) == 8


KINDS_AFTER = {
    "": {"submitted"},
    "submitted": {"claimed", "cancelled"},
    "claimed": {"succeeded", "failed", "timed_out", "cancelled", "lost", "waiting", "queued", "stopping"},
    "waiting": {"queued", "claimed", "cancelled"},
    "queued": {"claimed", "cancelled"},
    "stopping": {"succeeded", "failed", "timed_out", "cancelled", "lost"},
}
"""What may come after what, in the log of one job."""


def mixed(b: Any, random: Random, notes: str) -> NewJob:
    """A job of any kind, good or bad."""
    retry = {"retry": {"max": 2, "backoff": 0.01}}
    makers: list[Callable[[], NewJob]] = [
        lambda: b.new("add", 1, at_most_once=True),
        lambda: b.new("note", notes, "x", 0.005),
        lambda: b.new("fail_until", random.randrange(1, 5), terms=retry),
        lambda: b.new("kill_self", max_crashes=1),
        lambda: b.new("wait", 30, terms={"timeout": 0.05, **retry}),
        lambda: b.new("sleep", 30, terms={"timeout": 0.05, "grace": 0.05}),
        lambda: b.new("say", "a", "b", priority=random.randrange(3)),
        lambda: b.new("add", 2, due=time.time() + random.random()),
        lambda: b.new("wait", 0.2),
        lambda: b.new("context", limit=Limit("few", running=1)),
    ]
    weights = [30, 20, 6, 2, 3, 2, 15, 8, 5, 6]
    return random.choices(makers, weights)[0]()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_each_job_ends_once_by_legal_moves(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    async with bench(tmp_path, processes=3) as b:
        jobs: list[NewJob] = []
        for _ in range(60):
            group = [mixed(b, random, str(tmp_path / "notes")) for _ in range(random.randrange(1, 8))]
            if jobs and random.random() < 0.3:
                group[0] = group[0]._replace(after=(random.choice(jobs).id,))
            jobs += group
            await b.engine.submit(group)
            if random.random() < 0.3:
                await b.engine.cancel(random.choice(jobs).id, "by chance", random.choice([None, 0.0, 0.05]))
            if random.random() < 0.05:
                await b.engine.pause("all")
                await b.engine.resume("all")
            if random.random() < 0.1 and b.lane.pids():
                with contextlib.suppress(ProcessLookupError):  # one that has just been killed
                    os.kill(random.choice(b.lane.pids()), signal.SIGKILL)
            await asyncio.sleep(random.random() * 0.03)
        for job in jobs:
            await b.until(job.id, within=60)
        await b.quiet()
        logged = b.seen
        for job in jobs:
            kinds = [event.kind for event in logged if event.id == job.id]
            for before, after in zip(["", *kinds], kinds, strict=False):
                assert after in KINDS_AFTER[before], kinds
            row = await b.store.row(job.id)
            assert row.state.is_final
            assert row.attempt <= 1 + 2 + 4
            if job.at_most_once:
                assert row.crashes == 0 or row.state is JobState.LOST
        assert [event.seq for event in logged] == sorted(event.seq for event in logged)
        assert not b.engine._attempts
        assert b.engine._claims.count == 0
        assert not b.engine._stops
