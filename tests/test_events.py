"""The bus of events: nobody waits for a subscriber."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import JobState, Progress, Runner
from asyncjobs.events import EventBus, JobEvent, Subscription


def event(number: int) -> JobEvent:
    return JobEvent(f"job-{number}", "work", "loop", JobState.RUNNING, 1, float(number))


async def drain(subscription: Subscription) -> list[str]:
    return [each.job_id async for each in subscription]


async def test_every_subscriber_gets_every_event_from_its_subscription_on() -> None:
    bus = EventBus()
    early = bus.subscribe(10)
    bus.publish(event(1))
    late = bus.subscribe(10)
    bus.publish(event(2))
    bus.close()
    assert await drain(early) == ["job-1", "job-2"]
    assert await drain(late) == ["job-2"]


async def test_a_slow_subscriber_loses_the_oldest_and_counts_them() -> None:
    bus = EventBus()
    slow = bus.subscribe(3)
    for number in range(10):
        bus.publish(event(number))
    slow.close()
    assert slow.dropped == 7
    assert await drain(slow) == ["job-7", "job-8", "job-9"]


async def test_a_slow_subscriber_costs_a_quick_one_nothing() -> None:
    bus = EventBus()
    slow, quick = bus.subscribe(1), bus.subscribe(100)
    for number in range(50):
        bus.publish(event(number))
    bus.close()
    assert (slow.dropped, quick.dropped) == (49, 0)
    assert len(await drain(quick)) == 50


async def test_a_waiting_subscriber_is_woken_by_the_next_event() -> None:
    bus = EventBus()
    subscription = bus.subscribe(10)
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.publish(event(1))
    assert (await waiting).job_id == "job-1"


async def test_a_waiting_subscriber_is_woken_by_the_close() -> None:
    bus = EventBus()
    subscription = bus.subscribe(10)
    waiting = asyncio.ensure_future(drain(subscription))
    await asyncio.sleep(0)
    bus.close()
    assert await waiting == []


async def test_a_cancelled_waiter_loses_no_event() -> None:
    bus = EventBus()
    subscription = bus.subscribe(10)
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    bus.publish(event(1))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (await anext(subscription)).job_id == "job-1"


async def test_a_closed_subscription_gets_nothing_more_and_may_be_closed_again() -> None:
    bus = EventBus()
    with bus.subscribe(10) as subscription:
        bus.publish(event(1))
    bus.publish(event(2))
    subscription.close()
    assert await drain(subscription) == ["job-1"]
    assert bus.subscriptions == []


@given(size=st.integers(1, 20), count=st.integers(0, 60))
def test_what_was_kept_and_what_was_dropped_add_up(size: int, count: int) -> None:
    bus = EventBus()
    subscription = bus.subscribe(size)
    for number in range(count):
        bus.publish(event(number))
    subscription.close()
    kept = asyncio.run(drain(subscription))
    assert len(kept) + subscription.dropped == count
    assert kept == [f"job-{number}" for number in range(count)][-size:]


@pytest.mark.parametrize(
    ("progress", "share"),
    [(Progress(1, 4), 0.25), (Progress(0, 3), 0.0), (Progress(5), None), (Progress(5, 0), None), (Progress(4, 4), 1.0)],
)
def test_share_of_a_progress_report(progress: Progress, share: float | None) -> None:
    assert progress.share == share


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        event(1).state = JobState.FAILED  # type: ignore[misc]


async def test_a_runner_tells_each_state_of_a_job_in_order() -> None:
    async def fail_once(seen: list[int]) -> str:
        seen.append(1)
        if len(seen) == 1:
            raise OSError("once")
        return "fine"

    async with Runner() as runner:
        with runner.events() as events:
            job = await runner.options(retries=1, name="told").submit(fail_once, [])
            await job
        told = [each async for each in events]
    assert [each.state.name for each in told] == ["QUEUED", "RUNNING", "WAITING", "QUEUED", "RUNNING", "SUCCEEDED"]
    assert [each.state for each in told] == [mark.state for mark in job.history]
    assert {(each.job_id, each.name, each.lane) for each in told} == {(job.id, "told", "loop")}
    assert [each.attempt for each in told][-1] == 2
    assert [each.at for each in told] == sorted(each.at for each in told)


async def test_the_end_of_a_runner_ends_its_subscriptions() -> None:
    async with Runner() as runner:
        events = runner.events()
    assert await drain(events) == []
