"""The lane's queue: priorities, places in line, bound and wake-ups."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncjobs import JobOptions, QueueFull
from asyncjobs.jobqueue import JobQueue
from asyncjobs.lanes.base import Call, Plan
from asyncjobs.options import settle
from asyncjobs.testing import ShuffledLoop

numbers = itertools.count(1)


def call(priority: int = 0) -> Call:
    made = Call(Plan("len", "thread", settle(JobOptions(priority=priority)), is_coroutine=False))
    made.number = next(numbers)
    return made


def take_all(queue: JobQueue) -> list[Call]:
    return list(iter(queue.take, None))


def in_order(calls: list[Call]) -> list[Call]:
    return sorted(calls, key=lambda each: (-each.priority, each.number))


# --- order ------------------------------------------------------------------------------


def test_higher_priority_goes_first_and_equals_in_the_order_they_came() -> None:
    queue = JobQueue(100)
    calls = [call(priority) for priority in (0, 5, 0, -3, 5, 9, 0)]
    for each in calls:
        queue.put_nowait(each)
    assert take_all(queue) == in_order(calls)


def test_what_is_given_back_stands_where_it_stood() -> None:
    queue = JobQueue(100)
    calls = [call() for _ in range(6)]
    for each in calls:
        queue.put_nowait(each)
    taken = [queue.take() for _ in range(4)]
    queue.give_back([taken[3], taken[1]])  # type: ignore[list-item]
    assert take_all(queue) == [calls[1], calls[3], calls[4], calls[5]]


def test_what_is_given_back_stands_before_all_that_came_later_even_if_the_queue_is_full() -> None:
    queue = JobQueue(2)
    first = call()
    queue.put_nowait(first)
    assert queue.take() is first
    for each in (later := [call(), call()]):
        queue.put_nowait(each)
    queue.give_back([first])
    assert (queue.qsize(), queue.full()) == (3, True)
    assert take_all(queue) == [first, *later]


def test_what_a_place_does_not_admit_stays_in_front() -> None:
    queue = JobQueue(10)
    one, other = call(), call()
    queue.put_nowait(one)
    queue.put_nowait(other)
    asked: list[Call] = []
    assert queue.take(lambda each: asked.append(each) or False) is None
    assert asked == [one]
    assert queue.take(lambda each: True) is one


def test_a_withdrawn_call_is_never_taken_and_frees_its_place() -> None:
    queue = JobQueue(2)
    one, other = call(), call()
    queue.put_nowait(one)
    queue.put_nowait(other)
    assert queue.withdraw(one) is True
    assert queue.withdraw(one) is False
    queue.put_nowait(third := call())
    assert take_all(queue) == [other, third]
    assert queue.withdraw(other) is False


@pytest.mark.slow
def test_many_withdrawn_calls_are_swept_away() -> None:
    queue = JobQueue(1_000_000)
    queue.put_nowait(keeper := call(9))
    calls = [call(number % 3) for number in range(20_000)]
    for each in calls:
        queue.put_nowait(each)
    for each in reversed(calls):
        assert queue.withdraw(each)
    assert sum(map(len, queue._buckets.values())) < 2_000
    assert take_all(queue) == [keeper]


def test_a_full_queue_refuses_and_says_how_long_it_is() -> None:
    queue = JobQueue(1)
    queue.put_nowait(call())
    with pytest.raises(QueueFull, match="1 jobs wait, and queue_size is 1"):
        queue.put_nowait(call())
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait(call())


async def test_it_is_an_asyncio_queue_for_whoever_wants_one() -> None:
    queue = JobQueue(3)
    calls = [call(), call(5), call()]
    for each in calls:
        await queue.put(each)
    assert isinstance(queue, asyncio.Queue)
    assert [await queue.get(), queue.get_nowait(), await queue.get()] == in_order(calls)
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


# --- waiting ----------------------------------------------------------------------------


async def test_put_waits_for_room_and_a_withdrawal_makes_some() -> None:
    queue = JobQueue(1)
    queue.put_nowait(first := call())
    waiting = asyncio.ensure_future(queue.put(second := call()))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.withdraw(first)
    await waiting
    assert take_all(queue) == [second]


async def test_a_cancelled_putter_that_was_woken_passes_its_place_on() -> None:
    queue = JobQueue(1)
    queue.put_nowait(call())
    first, second = (asyncio.ensure_future(queue.put(call())) for _ in range(2))
    await asyncio.sleep(0)
    queue.take()
    first.cancel()  # in the very tick in which it was woken
    async with asyncio.timeout(5):
        await second
    assert first.cancelled()


class Ear:
    """A listener that takes what it is offered, or says no; and counts how often it is woken."""

    def __init__(self, accepts: bool = False) -> None:
        self.accepts = accepts
        self.offered: list[Call] = []
        self.woken = 0

    def offer(self, each: Call) -> bool:
        self.offered.append(each)
        return self.accepts

    def wake(self) -> None:
        self.woken += 1


async def test_a_call_is_offered_to_a_listener_and_queued_if_it_says_no() -> None:
    queue, willing, unwilling = JobQueue(10), Ear(accepts=True), Ear()
    queue.listen(willing)
    first, second = call(), call()
    queue.put_nowait(first)
    assert (willing.offered, queue.qsize(), first.in_queue) == ([first], 0, False)
    queue.listen(unwilling)
    queue.put_nowait(second)
    assert (unwilling.offered, queue.qsize(), second.in_queue) == ([second], 1, True)
    assert unwilling.woken == 0, "it has said no"


async def test_nothing_is_offered_while_older_calls_wait() -> None:
    queue, ear = JobQueue(10), Ear(accepts=True)
    queue.put_nowait(call())
    queue.listen(ear)
    queue.put_nowait(call(5))
    assert (ear.offered, ear.woken, queue.qsize()) == ([], 1, 2)


async def test_a_putter_whose_call_is_taken_at_once_leaves_its_room_to_the_next() -> None:
    queue, ears = JobQueue(1), [Ear(accepts=True) for _ in range(2)]
    queue.put_nowait(call())
    putters = [asyncio.ensure_future(queue.put(call())) for _ in range(2)]
    await asyncio.sleep(0)
    for ear in ears:
        queue.listen(ear)
    queue.take()
    async with asyncio.timeout(5):
        await asyncio.gather(*putters)
    assert [len(ear.offered) for ear in ears] == [1, 1]


async def test_reserves_are_woken_only_when_nobody_else_listens() -> None:
    queue, reserve, listener = JobQueue(10), Ear(), Ear(accepts=True)
    queue.listen(reserve, reserve=True)
    queue.listen(listener)
    queue.put_nowait(call())
    assert (len(listener.offered), reserve.woken) == (1, 0)
    queue.put_nowait(call())
    assert reserve.woken == 1


async def test_the_last_to_listen_is_told_first_and_reserves_in_their_order() -> None:
    queue, ears = JobQueue(10), [Ear() for _ in range(4)]
    queue.put_nowait(call())
    for ear in ears[:2]:
        queue.listen(ear)
    for ear in ears[2:]:
        queue.listen(ear, reserve=True)
    told = []
    for _ in range(5):
        queue.wake()
        told.append([ear.woken for ear in ears])
    assert told == [[0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


async def test_whoever_listens_twice_is_told_once_and_whoever_has_left_never() -> None:
    queue, stays, leaves = JobQueue(10), Ear(), Ear()
    for ear in (stays, stays, leaves):
        queue.listen(ear)
    queue.unlisten(leaves)
    queue.unlisten(leaves)
    queue.put_nowait(call())
    queue.put_nowait(call())
    assert (len(stays.offered), stays.woken, leaves.offered, leaves.woken) == (1, 0, [], 0)


class Sleeper:
    """A listener that says no to offers, and resolves a future instead."""

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def offer(self, each: Call) -> bool:
        asyncio.get_running_loop().call_soon(self.wake)
        return False

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


@pytest.mark.parametrize("seed", range(200))
def test_no_wake_up_is_lost_and_no_call_is_doubled(seed: int) -> None:
    """Producers that wait for room and are cancelled, consumers that listen and are cancelled, in any order."""
    chance = random.Random(seed)
    queue = JobQueue(chance.randint(1, 3))
    calls = [call(chance.randint(0, 2)) for _ in range(12)]
    entered: list[Call] = []
    taken: list[Call] = []

    async def produce(each: Call) -> None:
        await asyncio.sleep(chance.random())
        await queue.put(each)
        entered.append(each)

    async def consume() -> None:
        while True:
            while (each := queue.take()) is not None:
                taken.append(each)
                await asyncio.sleep(chance.choice((0.0, 0.01)))
            listener = Sleeper()
            queue.listen(listener)
            try:
                await listener.woken
            finally:
                queue.unlisten(listener)
                if not queue.empty():
                    queue.wake()  # whoever is woken and does not take wakes the next

    async def race() -> None:
        async with asyncio.TaskGroup() as group:
            consumers = [group.create_task(consume()) for _ in range(3)]
            producers = [group.create_task(produce(each)) for each in calls]
            for doomed in chance.sample(producers, 3):
                asyncio.get_running_loop().call_later(chance.random(), doomed.cancel)
            asyncio.get_running_loop().call_later(chance.random(), consumers[0].cancel)
            await asyncio.wait(producers)
            await asyncio.sleep(1.0)
            for consumer in consumers:
                consumer.cancel()

    with asyncio.Runner(loop_factory=lambda: ShuffledLoop(seed)) as loops:
        loops.run(race())
    assert sorted(each.number for each in taken) == sorted(each.number for each in entered)
    assert len(entered) >= len(calls) - 3
    assert queue.empty()


# --- against a model --------------------------------------------------------------------


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a plain sorted list, and its listeners beside two plain lines."""

    @initialize(bound=st.integers(0, 6))
    def start(self, bound: int) -> None:
        self.bound = bound
        self.queue = JobQueue(bound)
        self.waiting: list[Call] = []
        self.taken: list[Call] = []
        self.listeners: list[Ear] = []
        self.reserves: list[Ear] = []

    def entered(self, each: Call) -> None:
        self.waiting.append(each)
        if self.listeners or self.reserves:
            ear = self.listeners.pop() if self.listeners else self.reserves.pop(0)
            assert ear.woken == 1, "the wake-up was lost, or went to another"

    @rule(priority=st.integers(-2, 2))
    def put(self, priority: int) -> None:
        each = call(priority)
        if self.bound and len(self.waiting) >= self.bound:
            with pytest.raises(QueueFull):
                self.queue.put_nowait(each)
        else:
            ear = self.listeners.pop() if self.listeners and not self.waiting else None
            self.queue.put_nowait(each)
            assert ear is None or ear.offered == [each]
            if ear is None or not ear.accepts:
                self.entered(each)
            else:
                self.taken.append(each)

    @rule()
    def take(self) -> None:
        found = self.queue.take()
        assert found is (in_order(self.waiting)[0] if self.waiting else None)
        if found is not None:
            self.waiting.remove(found)
            self.taken.append(found)

    @rule(least=st.integers(-2, 3))
    def take_if_admitted(self, least: int) -> None:
        front = in_order(self.waiting)[0] if self.waiting else None
        found = self.queue.take(lambda each: each.priority >= least)
        if front is None or front.priority < least:
            assert found is None
        else:
            assert found is front
            self.waiting.remove(front)
            self.taken.append(front)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.waiting))
        assert self.queue.withdraw(each)
        self.waiting.remove(each)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        back = data.draw(st.lists(st.sampled_from(self.taken), unique_by=id))
        self.queue.give_back(back)
        for each in back:
            self.taken.remove(each)
            self.entered(each)

    @rule(reserve=st.booleans(), accepts=st.booleans())
    def listen(self, reserve: bool, accepts: bool) -> None:
        ear = Ear(accepts)
        self.queue.listen(ear, reserve=reserve)
        (self.reserves if reserve else self.listeners).append(ear)

    @precondition(lambda self: self.listeners)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ear = data.draw(st.sampled_from(self.listeners))
        self.queue.unlisten(ear)
        self.listeners.remove(ear)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.qsize() == len(self.waiting)
        assert self.queue.empty() == (not self.waiting)
        assert self.queue.full() == (0 < self.bound <= len(self.waiting))
        assert all(each.in_queue for each in self.waiting)
        assert not any(each.in_queue for each in self.taken)
        assert not any(ear.woken or ear.offered for ear in (*self.listeners, *self.reserves)), "woken without need"


TestQueueMachine: Any = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
