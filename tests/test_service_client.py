"""The client in async code: what it sends, what it makes of answers, and what it does when the service is away.

Against `stand_in`, which is real HTTP; at the end against a real service.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import service_jobs
from stand_in import Row, Stand, standing

import asyncjobs as aj
from asyncjobs.service.client import endings
from asyncjobs.service.protocol import ErrorView, EventView, JobRequest, ProgressView, RetryTerms
from asyncjobs.service.records import ID


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path / "state") as stand:
        yield stand


@pytest.fixture
async def client(stand: Stand) -> AsyncIterator[aj.ServiceClient]:
    async with aj.connect(stand.state.path, timeout=5) as client:
        yield client


def request_of(stand: Stand, job: aj.ServiceJob[Any]) -> JobRequest:
    return stand.rows[job.id].request


class Unloadable:
    """Goes there, and does not come back."""

    def __reduce__(self) -> Any:
        return exec, ("raise RuntimeError('not here')",)


def make_unloadable() -> Unloadable:
    return Unloadable()


# --- jobs -------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_job_is_awaited_any_number_of_times(client: aj.ServiceClient) -> None:
    job = await client.submit(service_jobs.add, 2, y=3)
    assert ID.fullmatch(job.id)
    assert [await job, await job, job.result()] == [5, 5, 5]
    assert job.done()
    assert job.exception() is None
    assert job.state is aj.JobState.SUCCEEDED
    assert job.name == "add"


async def test_before_its_end_a_job_has_no_result_and_says_so(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = await client.submit(service_jobs.add, 1)
    assert not job.done()
    with pytest.raises(asyncio.InvalidStateError, match="await it"):
        job.result()
    stand.holds.set()
    assert await job == 1


async def test_an_error_comes_with_its_type_and_the_traceback_of_the_other_side(client: aj.ServiceClient) -> None:
    job = await client.submit(service_jobs.fail, "no such luck")
    with pytest.raises(ValueError, match="no such luck") as caught:
        await job
    assert "raise ValueError(text)" in str(caught.value.__cause__)
    assert job.state is aj.JobState.FAILED
    assert isinstance(job.exception(), ValueError)


async def test_what_cannot_be_raised_here_comes_as_remote_error(client: aj.ServiceClient) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(aj.RemoteError) as caught:
        await client.run(leave)
    assert caught.value.type_name == "SystemExit"
    assert isinstance(caught.value.original, SystemExit)


async def test_a_function_without_a_name_travels_by_value(client: aj.ServiceClient, stand: Stand) -> None:
    factor = 3
    job = await client.submit(lambda x: factor * x, 5)
    assert request_of(stand, job).function == ""
    assert await job == 15
    assert await client.run(partial(math.pow, 2), 3) == 8.0


@pytest.mark.parametrize("has_name", [True, False])
async def test_no_function_travels_by_value_to_another_version_of_python(stand: Stand, has_name: bool) -> None:
    stand.python, stand.allows = "3.4", not has_name
    async with aj.connect(stand.state.path) as client:
        fn = service_jobs.add if has_name else lambda x: x
        with pytest.raises(aj.NotSendable, match=r"which runs Python 3\.4, and this program 3\.[0-9]+"):
            await client.run(fn, 1)
        if not has_name:
            with pytest.raises(aj.NotSendable, match="--allow"):
                await client.schedule("0 3 * * *", fn, 1)
        stand.allows = True
        assert await client.run(service_jobs.sha, "x"), "one that goes by its name is no matter of versions"


async def test_a_function_that_the_service_does_not_allow_by_name_travels_by_value(
    client: aj.ServiceClient, stand: Stand
) -> None:
    stand.allows = False
    items = [1]
    job = client.submit_nowait(service_jobs.echo, items)
    items.append(2)  # too late: the arguments were copied by the submit, for the second request as well
    assert await job == [1]
    assert request_of(stand, job).function == ""
    assert await client.run(service_jobs.add, 1, 1) == 2
    assert sum(stand.sizes) == len(stand.rows) + 2
    assert await client.run(service_jobs.add, 1, 1) == 2
    assert sum(stand.sizes) == len(stand.rows) + 2, "what it learnt of a function it remembers"


async def test_a_job_among_the_arguments_stands_for_its_result(client: aj.ServiceClient, stand: Stand) -> None:
    first = await client.submit(service_jobs.add, 1)
    second = await client.submit(service_jobs.add, 2)
    both = await client.submit(service_jobs.echo, {"sums": [first, second], "n": 2})
    assert set(request_of(stand, both).after) == {first.id, second.id}
    assert await both == {"sums": [1, 2], "n": 2}


async def test_an_argument_that_does_not_pickle_is_named_at_the_submit(client: aj.ServiceClient, stand: Stand) -> None:
    with pytest.raises(aj.NotSendable, match=r"argument 'y'\['lock'\]") as caught:
        await client.submit(service_jobs.add, 1, y={"lock": threading.Lock()})  # type: ignore[arg-type]
    assert "service" in str(caught.value)
    lock = threading.Lock()
    with pytest.raises(aj.NotSendable, match="the function"):
        await client.submit(lambda: lock.locked())
    with pytest.raises(TypeError, match="not callable"):
        await client.submit("add")  # type: ignore[call-overload]
    assert not stand.rows


async def test_a_call_that_is_too_large_is_refused_before_it_is_sent_with_its_size(
    client: aj.ServiceClient, stand: Stand
) -> None:
    with pytest.raises(aj.NotSendable, match=r"the call of 'echo' has 50,000,\d+ bytes, and the service takes"):
        await client.submit(service_jobs.echo, bytes(50_000_000))
    assert not stand.rows
    with pytest.raises(ValueError, match="limit=-1"):
        await client.jobs(limit=-1)


async def test_a_result_that_cannot_be_loaded_here_says_why(client: aj.ServiceClient) -> None:
    job = await client.submit(make_unloadable)
    with pytest.raises(aj.ResultNotSendable, match="not here"):
        await job


async def test_an_outcome_with_a_wrong_seal_is_not_loaded(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = await client.submit(service_jobs.add, 1)
    row = stand.rows[job.id]
    row.outcome = b"AJ1\n" + bytes(40) + b"P" + pickle.dumps(Unloadable())
    row.state = "SUCCEEDED"
    with pytest.raises(aj.NotAllowed):
        await job
    stand.holds.set()


async def test_an_outcome_that_does_not_come_along_is_fetched(client: aj.ServiceClient, stand: Stand) -> None:
    # What the service leaves out of the stream, for it is large.
    Row.ended, ended = lambda row: msgspec.structs.replace(ended(row), outcome=None), Row.ended  # type: ignore
    try:
        job = await client.submit(service_jobs.large, 300_000)
        assert len(await job) == 300_000
        assert stand.requests[f"GET /v1/jobs/{job.id}/outcome"] == 1
    finally:
        Row.ended = ended  # type: ignore[method-assign]


async def test_cancelling_who_awaits_does_not_cancel_the_job(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = await client.submit(service_jobs.add, 1)
    waiting = [asyncio.ensure_future(job.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    stand.holds.set()
    await waiting[1]
    assert await job == 1


async def test_cancelling_who_runs_cancels_the_job(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    running = asyncio.ensure_future(client.run(service_jobs.add, 1))
    while not stand.rows:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (row,) = stand.rows.values()
    while row.state != "CANCELLED":
        await asyncio.sleep(0.001)


async def test_a_cancelled_job_says_the_reason(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = await client.submit(service_jobs.add, 1)
    assert await job.cancel("enough") == "cancelled"
    assert await job.cancel() == "ended"
    with pytest.raises(aj.JobCancelled, match="enough"):
        await job
    stand.holds.set()


async def test_a_job_that_the_service_does_not_know_is_no_such_job(client: aj.ServiceClient, stand: Stand) -> None:
    with pytest.raises(aj.NoSuchJob):
        await client.attach("0" * 26)
    with pytest.raises(aj.NoSuchJob):
        await client.attach("../../etc/passwd")
    stand.holds.clear()
    job = await client.submit(service_jobs.add, 1)
    del stand.rows[job.id]
    with pytest.raises(aj.NoSuchJob):
        await asyncio.ensure_future(_anew(client, job.id, stand))


async def _anew(client: aj.ServiceClient, job: str, stand: Stand) -> None:
    async with aj.connect(stand.state.path) as other:
        handle: aj.ServiceJob[int] = aj.ServiceJob(other._intake, job, "add")
        await handle


async def test_logs_come_line_by_line_from_an_offset(client: aj.ServiceClient, stand: Stand) -> None:
    job = await client.submit(service_jobs.add, 1)
    stand.rows[job.id].log = "eins\nzwölf\r\nund ein Rest".encode()
    assert [line async for line in job.logs()] == ["eins", "zwölf\r", "und ein Rest"]
    assert [line async for line in job.logs(offset=5)] == ["zwölf\r", "und ein Rest"]


async def test_a_flood_without_a_new_line_is_one_line_and_costs_no_more_than_its_length(
    client: aj.ServiceClient, stand: Stand
) -> None:
    job = await client.submit(service_jobs.add, 1)
    await job
    stand.rows[job.id].log = b"x" * 2**26
    began = time.thread_time()
    assert [len(line) async for line in job.logs()] == [2**26]
    assert time.thread_time() - began < 5  # of processor time; copied with each piece it is some thirty


async def test_events_end_with_the_last(client: aj.ServiceClient) -> None:
    job = await client.submit(service_jobs.add, 1)
    await job
    events = [event async for event in job.events()]
    assert [type(event) for event in events] == [EventView, ProgressView, EventView]
    assert events[-1].state == "SUCCEEDED"  # type: ignore[union-attr]


async def test_refresh_tells_where_it_is(client: aj.ServiceClient) -> None:
    job = await client.submit(service_jobs.add, 1)
    assert job.progress is None
    view = await job.refresh()
    assert view.id == job.id
    assert job.progress == ProgressView(1.0, 2.0, "half")


async def test_two_handles_of_one_job_both_hear_of_its_end(client: aj.ServiceClient, stand: Stand) -> None:
    await client.run(service_jobs.add, 1)  # the stream is open
    stand.holds.clear()
    keyed = client.options(key="night")
    first, second = await keyed.submit(service_jobs.add, 1), await keyed.submit(service_jobs.add, 1)
    waiting = asyncio.ensure_future(first.wait())
    await asyncio.sleep(0.01)
    third = await keyed.submit(service_jobs.add, 1)
    stand.holds.set()
    assert [await job for job in (second, third, first)] == [1, 1, 1]
    await waiting
    fourth = await keyed.submit(service_jobs.add, 1)
    assert await fourth == 1


async def test_attaching_twice_gives_the_same_handle(client: aj.ServiceClient) -> None:
    job = await client.submit(service_jobs.add, 1)
    assert await client.attach(job.id) is job


# --- options ----------------------------------------------------------------------------


async def test_options_travel_with_the_request(client: aj.ServiceClient, stand: Stand) -> None:
    first = await client.submit(service_jobs.add, 1)
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    job = await client.options(
        name="fit",
        lane="gpu",
        priority=3,
        timeout=5,
        retries=aj.Retry(2, backoff=0.5, on=(OSError, KeyError), give_up_on=FileNotFoundError),
        grace=1,
        at=at,
        after=[first],
        limit=aj.Limit("db", running=2),
        at_most_once=True,
        max_crashes=1,
        keep=60,
        tags=("a", "b"),
        max_result=1000,
    ).submit(service_jobs.add, 1)
    request = request_of(stand, job)
    assert (request.name, request.lane, request.priority, request.at) == ("fit", "gpu", 3, at.timestamp())
    assert request.after == (first.id,)
    assert request.limit is not None
    assert (request.limit.name, request.limit.running) == ("db", 2)
    assert (request.at_most_once, request.max_crashes, request.keep) == (True, 1, 60)
    assert request.tags == ("a", "b")
    assert (request.terms.timeout, request.terms.grace, request.terms.max_result) == (5, 1, 1000)
    assert request.terms.retry == RetryTerms(
        2, 0.5, 0.5, ("builtins.OSError", "builtins.KeyError"), ("builtins.FileNotFoundError",)
    )
    await job


async def test_the_decorator_of_a_function_holds_unless_options_say_otherwise(
    client: aj.ServiceClient, stand: Stand
) -> None:
    @aj.job(timeout=7, retries=2, lane="process", name="decorated")
    def work() -> int:
        return 1

    request = request_of(stand, await client.options(timeout=9).submit(work))
    assert (request.terms.timeout, request.terms.retry.max, request.name) == (9, 2, "decorated")


async def test_a_key_gives_the_job_that_has_it(client: aj.ServiceClient) -> None:
    keyed = client.options(key="night")
    first = await keyed.submit(service_jobs.add, 1)
    assert await first == 1
    second = await keyed.submit(service_jobs.add, 1)
    assert (first.is_new, second.is_new) == (True, False)
    assert second.id == first.id
    assert await second == 1, "it had ended before the second submit"


async def test_a_zone_is_for_schedules_and_refused_elsewhere(client: aj.ServiceClient) -> None:
    there = client.options(zone="Europe/Berlin")
    said = "zone='Europe/Berlin' is not allowed here: it is for schedule()"
    with pytest.raises(ValueError, match=re.escape(said)):
        await there.submit(service_jobs.add, 1)
    with pytest.raises(ValueError, match="zone="):
        there.submit_nowait(service_jobs.add, 1)
    with pytest.raises(ValueError, match="zone="):
        there.map(service_jobs.add, [1])


@pytest.mark.parametrize("name", [5, "", None, b"loss.html"])
async def test_what_is_no_name_of_a_figure_is_refused_at_the_call(client: aj.ServiceClient, name: Any) -> None:
    job = await client.submit(service_jobs.add, 1)
    with pytest.raises(ValueError, match=re.escape(f"name={name!r} is not allowed; allowed: text")):
        await job.figure(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timout": 3}, "did you mean 'timeout'"),
        ({"timeout": 0}, "timeout=0"),
        ({"priority": "high"}, "priority='high'"),
        ({"retries": aj.Retry(2, backoff=lambda attempt: 1.0)}, "backoff is a function"),
        ({"after": "nobody"}, "after='nobody'"),
        ({"limit": 3}, "limit=3"),
        ({"at": 1.0, "delay": 1.0}, "one of them"),
        ({"zone": "Atlantis"}, "zone='Atlantis'"),
        ({"keep": -1}, "keep=-1"),
        ({"name": "n" * 501}, "at most 500 characters"),
        ({"key": "k" * 201}, "at most 200 characters"),
        ({"tags": ["t" * 201]}, "at most 200 characters"),
        ({"tags": ["t"] * 101}, "at most 100 words"),
        ({"limit": aj.Limit("l" * 201, running=1)}, "limit=Limit"),
        ({"delay": 1e10}, r"seconds from 0 to 1e\+09"),
        ({"at": datetime(1, 1, 1)}, "at=datetime"),
        ({"at": datetime(9999, 1, 1)}, "at=datetime"),
        ({"at": -1}, "at=-1"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_where_it_is_given(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        aj.connect(tmp_path).options(**options)


# --- how they are sent ------------------------------------------------------------------


async def test_submits_at_the_same_time_share_requests_and_a_single_one_goes_at_once(
    client: aj.ServiceClient, stand: Stand
) -> None:
    await client.submit(service_jobs.add, 0)
    jobs = await asyncio.gather(*(client.submit(service_jobs.add, n) for n in range(200)))
    assert [await job for job in jobs] == list(range(200))
    assert stand.sizes[0] == 1
    assert sum(stand.sizes) == 201
    assert len(stand.sizes) <= 4


async def test_one_that_is_refused_does_not_take_the_others_of_its_request_along(
    client: aj.ServiceClient, stand: Stand
) -> None:
    conflict = ErrorView("KeyConflict", "another call has that key", id="7" * 26)
    stand.refusal = lambda path, job: (409, conflict) if job is not None and job.key == "taken" else None
    jobs = [client.submit_nowait(service_jobs.add, n) for n in range(50)]
    bad = client.options(key="taken").submit_nowait(service_jobs.add, 1)
    jobs += [client.submit_nowait(service_jobs.add, n) for n in range(50, 100)]
    assert [await job for job in jobs] == list(range(100))
    with pytest.raises(aj.KeyConflict) as caught:
        await bad.accepted()
    assert caught.value.id == "7" * 26
    with pytest.raises(aj.KeyConflict):
        await bad


async def test_F83_a_full_queue_is_waited_for_and_nothing_is_lost(client: aj.ServiceClient, stand: Stand) -> None:
    refused: list[str] = []

    def refuse(path: str, job: JobRequest | None) -> tuple[int, ErrorView] | None:
        refused.append(path)
        return (429, ErrorView("ServiceFull", "full", retry_after=0.05)) if len(refused) <= 3 else None

    stand.refusal = refuse
    assert await client.run(service_jobs.add, 1) == 1
    assert len(refused) == 4


async def test_F68_a_submit_without_an_answer_is_repeated_under_its_id(client: aj.ServiceClient, stand: Stand) -> None:
    breaks = iter([True, True])
    stand.breaks = lambda path: path == "/v1/jobs" and next(breaks, False)
    jobs = [client.submit_nowait(service_jobs.add, n) for n in range(3)]
    assert [await job for job in jobs] == [0, 1, 2]
    assert len(stand.rows) == 3
    assert stand.requests["POST /v1/jobs"] == 3


@pytest.mark.both_loops
@pytest.mark.parametrize("fault", ["truncated", "reset", "garbage", "twice", "trickle", "closing"])
async def test_an_answer_that_goes_wrong_leaves_each_job_there_once(
    client: aj.ServiceClient, stand: Stand, fault: str
) -> None:
    stand.faults = [fault] * 3
    for n in range(4):
        assert await client.run(service_jobs.add, n) == n
    assert len(stand.rows) == 4
    assert stand.faults == []


async def test_a_service_that_is_away_for_a_moment_is_waited_for(client: aj.ServiceClient, stand: Stand) -> None:
    stand.stop()
    submitting = asyncio.ensure_future(client.submit(service_jobs.add, 4))
    await asyncio.sleep(0.05)
    stand.start()
    assert await (await submitting) == 4


async def test_a_service_that_stays_away_is_an_error_after_the_timeout(stand: Stand) -> None:
    async with aj.connect(stand.state.path, timeout=0.2) as client:
        stand.holds.clear()
        job = await client.submit(service_jobs.add, 1)
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0.05)
        stand.stop()
        with pytest.raises((aj.ServiceNotRunning, aj.ServiceGone)):
            await client.submit(service_jobs.add, 1)
        with pytest.raises((aj.ServiceNotRunning, aj.ServiceGone)):
            await waiting
        stand.holds.set()
        stand.start()
        assert await job == 1, "the job stands, and can be waited for again"


async def test_a_quiet_log_is_followed_over_any_number_of_short_absences(stand: Stand) -> None:
    """Each has the whole of `timeout`: what was away before, and came back, does not count."""
    stand.holds.clear()
    breaks: list[float] = []

    def breaks_now_and_much_later(path: str) -> bool:
        is_due = path.endswith("/log") and (not breaks or (len(breaks) == 1 and time.monotonic() > breaks[0] + 0.3))
        if is_due:
            breaks.append(time.monotonic())
        return is_due

    stand.breaks = breaks_now_and_much_later
    async with aj.connect(stand.state.path, timeout=0.2) as client:
        job = await client.submit(service_jobs.add, 1)
        following = asyncio.ensure_future(_all_of(job.logs()))
        while len(breaks) < 2 and not following.done():
            await asyncio.sleep(0.001)
        stand.holds.set()
        assert await following == []


async def _all_of(lines: AsyncIterator[str]) -> list[str]:
    return [line async for line in lines]


async def test_F72_an_end_while_nobody_listened_is_heard_of_after_the_restart(
    client: aj.ServiceClient, stand: Stand
) -> None:
    stand.holds.clear()
    jobs = [await client.submit(service_jobs.add, n) for n in range(3)]
    waiting = [asyncio.ensure_future(job.wait()) for job in jobs]
    while not stand.requests["GET /v1/ended"]:
        await asyncio.sleep(0.001)
    stand.stop()
    for row in stand.rows.values():  # they end, and whoever would have told us is gone
        row.state, body = stand.perform(row)
        row.outcome = stand.seal(row, body)
    stand.start()
    await asyncio.gather(*waiting)
    assert [await job for job in jobs] == [0, 1, 2]
    stand.holds.set()


async def test_one_stream_serves_all_who_wait_and_ends_some_time_after_the_last(
    client: aj.ServiceClient, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LINGER", 0.02)
    jobs = await client.submit_many(service_jobs.add, range(20), range(20))
    assert await asyncio.gather(*jobs) == [2 * n for n in range(20)]
    assert stand.requests["GET /v1/ended"] == 1
    while client._intake.endings.stream is not None:
        await asyncio.sleep(0.005)
    while stand.streams():
        await asyncio.sleep(0.005)
    assert await client.run(service_jobs.add, 1) == 1
    assert stand.requests["GET /v1/ended"] == 2


async def test_a_stream_that_tells_what_nobody_waits_for_is_closed(
    client: aj.ServiceClient, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LINGER", 3600.0)
    assert await client.run(service_jobs.add, 1) == 1
    few = await client.submit_many(service_jobs.add, range(endings.UNWANTED - 1))
    while not all(job.done() for job in few):
        await asyncio.sleep(0.005)
    assert await client.run(service_jobs.add, 2) == 2
    assert stand.requests["GET /v1/ended"] == 1
    jobs = await client.submit_many(service_jobs.add, range(2 * endings.UNWANTED))
    while stand.streams():
        await asyncio.sleep(0.005)
    assert await asyncio.gather(*jobs) == list(range(2 * endings.UNWANTED))
    assert await client.run(service_jobs.add, 3) == 3
    assert stand.requests["GET /v1/ended"] == 2


async def test_a_job_that_was_sent_while_the_stream_was_open_is_not_asked_for(
    client: aj.ServiceClient, stand: Stand
) -> None:
    await client.run(service_jobs.add, 1)
    asked = stand.requests["POST /v1/outcomes"]
    for n in range(5):
        assert await client.run(service_jobs.add, n) == n
    assert stand.requests["POST /v1/outcomes"] == asked


@pytest.mark.slow
async def test_what_was_submitted_without_waiting_is_accepted_when_the_client_closes(stand: Stand) -> None:
    async with aj.connect(stand.state.path) as client:
        for n in range(1000):
            client.submit_nowait(service_jobs.add, n)
    assert len(stand.rows) == 1000


async def test_what_was_refused_and_nobody_asked_for_is_logged(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.refusal = lambda path, job: (409, ErrorView("KeyConflict", "another call has that key"))
    async with aj.connect(stand.state.path) as client:
        client.submit_nowait(service_jobs.add, 1)
        with pytest.raises(aj.KeyConflict):
            await client.submit_nowait(service_jobs.echo, 1)
        with pytest.raises(aj.KeyConflict):
            await client.submit(service_jobs.fail)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the service did not accept job 'add': another call has that key"
    ]


async def test_of_many_that_were_refused_some_are_logged_and_the_others_counted(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    stand.refusal = lambda path, job: (409, ErrorView("KeyConflict", "another call has that key"))
    async with aj.connect(stand.state.path) as client:
        for number in range(25):
            client.submit_nowait(service_jobs.add, number)
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert (len(told), told[-1]) == (11, "the service did not accept 15 more jobs either")


async def test_a_submit_that_is_cancelled_before_it_was_sent_is_not_sent(
    client: aj.ServiceClient, stand: Stand
) -> None:
    first = client.submit_nowait(service_jobs.add, 1)  # its request is under way at the next turn
    await asyncio.sleep(0)
    submitting = asyncio.ensure_future(client.submit(service_jobs.add, 2))
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert await first == 1
    await client.run(service_jobs.add, 3)
    assert len(stand.rows) == 2


@pytest.mark.slow
async def test_a_closed_client_says_so_at_once(stand: Stand) -> None:
    client = aj.connect(stand.state.path, timeout=1000.0)
    with pytest.raises(aj.ServiceError, match="not open"):
        await client.submit(service_jobs.add, 1)
    async with client:
        stand.holds.clear()
        job = await client.submit(service_jobs.add, 1)
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0.01)
    with pytest.raises(aj.ServiceGone, match="attach"):
        await waiting
    with pytest.raises(aj.ServiceGone, match="attach"):
        await job
    for ask in (job.cancel, job.refresh, job.figures, lambda: anext(job.logs()), lambda: anext(job.events())):
        with pytest.raises(aj.ServiceGone, match="attach"):  # and opens no connection that nobody would close
            await ask()
    stand.holds.set()


async def test_with_no_service_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(aj.ServiceNotRunning):
        async with aj.connect(tmp_path / "nowhere"):
            pass
    with standing(tmp_path / "state"):
        pass
    with pytest.raises(aj.ServiceNotRunning):
        async with aj.connect(tmp_path / "state"):
            pass


async def test_another_loop_is_refused(client: aj.ServiceClient) -> None:
    def elsewhere() -> None:
        with pytest.raises(aj.WrongLoop, match="sync"):
            asyncio.run(client.submit(service_jobs.add, 1))  # type: ignore[arg-type]

    await asyncio.to_thread(elsewhere)


def test_arguments_of_connect_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(aj.BadRequest):
        aj.connect(tmp_path, token="x")
    with pytest.raises(aj.BadRequest):
        aj.connect(url="ftp://somewhere")
    with pytest.raises(aj.BadRequest):
        aj.connect(url="http://127.0.0.1:1", start=True)
    with pytest.raises(aj.BadRequest, match=r"url='http://127\.0\.0\.1:99999' is not allowed"):
        aj.connect(url="http://127.0.0.1:99999", token="x")
    for token in ("", "a token", "token\r\nX-Asyncjobs: 1", "tök"):
        with pytest.raises(aj.BadRequest, match="token= is not allowed") as caught:
            aj.connect(url="http://127.0.0.1:1", token=token)
        assert "tok\r" not in str(caught.value), "a secret is not repeated"
    with pytest.raises(ValueError):
        aj.connect(timeout=-1)


# --- maps -------------------------------------------------------------------------------


async def test_a_map_is_in_the_order_of_its_items(client: aj.ServiceClient) -> None:
    assert await client.map(service_jobs.add, range(50), range(50)).collect() == [2 * n for n in range(50)]
    assert [value async for value in client.map(service_jobs.add, range(5))] == list(range(5))


async def test_a_map_as_they_come_has_them_all(client: aj.ServiceClient) -> None:
    values = [value async for value in client.map(service_jobs.add, range(300), ordered=False)]
    assert sorted(values) == list(range(300))


async def test_a_map_over_an_endless_source_takes_no_more_than_its_look_ahead(
    client: aj.ServiceClient, stand: Stand
) -> None:
    taken: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    async with client.map(service_jobs.add, numbers(), lookahead=10) as run:
        results = [await anext(run) for _ in range(5)]
    assert results == [0, 1, 2, 3, 4]
    assert len(taken) <= 16
    assert len(stand.rows) <= 16


@pytest.mark.parametrize("ordered", [True, False])
async def test_what_a_map_makes_of_errors(client: aj.ServiceClient, ordered: bool) -> None:
    def odd(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n

    assert sorted(await client.map(odd, range(6), ordered=ordered, on_error="skip").collect()) == [0, 2, 4]
    values = await client.map(odd, range(4), ordered=ordered, on_error="return").collect()
    assert sorted(type(value).__name__ for value in values) == ["ValueError", "ValueError", "int", "int"]
    with pytest.raises(ValueError):
        await client.map(odd, range(6), ordered=ordered).collect()
    with pytest.raises(ValueError, match="on_error"):
        client.map(odd, range(6), on_error="ignore")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="key"):
        client.options(key="x").map(odd, range(6))


async def test_a_map_that_is_left_cancels_what_is_in_flight(client: aj.ServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    async with client.map(service_jobs.add, range(20), lookahead=20) as run:
        waiting = asyncio.ensure_future(anext(run))
        while len(stand.rows) < 20:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert {row.state for row in stand.rows.values()} == {"CANCELLED"}
    stand.holds.set()


async def test_an_error_of_the_source_comes_after_the_items_before_it(client: aj.ServiceClient) -> None:
    def three() -> Iterator[int]:
        yield from range(3)
        raise KeyError("the source")

    seen: list[int] = []

    async def go_through() -> None:
        async for value in client.map(service_jobs.add, three()):
            seen.append(value)

    with pytest.raises(KeyError, match="the source"):
        await go_through()
    assert seen == [0, 1, 2]


async def test_jobs_lists_handles_with_their_states(client: aj.ServiceClient) -> None:
    good, bad = await client.submit(service_jobs.add, 1), await client.submit(service_jobs.fail)
    await asyncio.wait([asyncio.ensure_future(job.wait()) for job in (good, bad)])
    assert [job.id for job in await client.jobs()] == [bad.id, good.id]
    assert [job.id for job in await client.jobs(state=aj.JobState.FAILED)] == [bad.id]
    with pytest.raises(aj.BadRequest, match="state='BORED'"):
        await client.jobs(state="bored")
