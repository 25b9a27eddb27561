"""`Portal` alone: posts, calls, what is asked of the caller's thread, and the end of its loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncjobs import RunnerClosed, WouldDeadlock
from asyncjobs.portal import Ask, Portal
from asyncjobs.testing import Gate

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal("test-portal")
    yield portal
    portal.close(5)
    assert not portal._thread.is_alive()


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def fail() -> None:
    raise LookupError("the coroutine's own")


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run `work` in so many threads at once; each has to end."""
    threads = [threading.Thread(target=work, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_call_blocks_for_the_value_or_raises_the_coroutine_s_own_error(portal: Portal) -> None:
    assert portal.call(double, 21) == 42
    assert portal.do(lambda: threading.current_thread().name) == "test-portal"
    with pytest.raises(LookupError, match="the coroutine's own"):
        portal.call(fail)
    with pytest.raises(ZeroDivisionError):
        portal.do(lambda: 1 // 0)


def test_what_ends_a_program_belongs_to_the_caller_and_not_to_the_loop(portal: Portal) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        portal.call(leave)
    assert portal.call(double, 1) == 2


def test_calls_of_many_threads_do_not_mix(portal: Portal) -> None:
    got: dict[int, list[int]] = {}
    in_threads(8, lambda number: got.update({number: [portal.call(double, number * n) for n in range(50)]}))
    assert got == {number: [2 * number * n for n in range(50)] for number in range(8)}


def test_a_call_runs_with_the_caller_s_context_variables(portal: Portal) -> None:
    async def look() -> str:
        return colour.get()

    colour.set("red")
    assert (portal.call(look), portal.do(colour.get)) == ("red", "red")


def test_what_the_coroutine_asks_for_is_done_in_the_caller_s_thread_in_turn(portal: Portal) -> None:
    async def talk(ask: Ask) -> list[Any]:
        answers = [await ask(threading.get_ident)]
        try:
            await ask(lambda: 1 // 0)
        except ZeroDivisionError as error:
            answers.append(type(error))
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await ask(lambda: next(iter(())))
        return answers

    assert portal.converse(talk, "talk()") == [threading.get_ident(), ZeroDivisionError]


def test_an_interrupt_in_the_caller_s_thread_cancels_the_coroutine(portal: Portal) -> None:
    ended = Gate()

    async def talk(ask: Ask) -> None:
        try:
            await ask(interrupt)
        finally:
            ended.open()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        portal.converse(talk, "talk()")
    ended.pass_through()
    assert portal.call(double, 1) == 2


def test_a_call_with_a_timeout_says_so_and_cancels_the_coroutine(portal: Portal) -> None:
    ended = Gate()

    async def long(_: Ask) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.open()

    with pytest.raises(TimeoutError, match=r"has not answered within 0\.01 s"):
        portal.converse(long, "long()", timeout=0.01)
    ended.pass_through()


def test_to_block_in_the_loop_s_own_thread_is_refused_with_what_to_do(portal: Portal) -> None:
    def inside() -> None:
        assert portal.is_here
        portal.call(double, 1)

    with pytest.raises(WouldDeadlock, match=r"double\(\) was called in the thread of .* submit_nowait\(\) never waits"):
        portal.do(inside)
    assert not portal.is_here


def test_after_the_close_a_post_says_no_and_a_call_raises() -> None:
    portal = Portal("test-portal")
    portal.close()
    portal.close()
    assert portal.post(print) is False
    with pytest.raises(RunnerClosed, match="make a new one"):
        portal.call(double, 1)


def test_a_close_ends_calls_that_are_under_way_and_what_runs_beside_them() -> None:
    portal = Portal("test-portal")
    gate, cancelled = Gate(), Gate()

    async def beside() -> None:
        try:
            await gate.passed()
        finally:
            cancelled.open()

    def wait(_: int) -> None:
        with pytest.raises(RunnerClosed, match="closed meanwhile"):
            portal.call(gate.passed)

    task: list[Any] = []
    portal.do(lambda: task.append(asyncio.ensure_future(beside())))
    waiting = [threading.Thread(target=wait, args=[0]) for _ in range(3)]
    for thread in waiting:
        thread.start()
    gate.wait_for_arrival(4)
    portal.close(5)
    for thread in waiting:
        thread.join(20)
    assert cancelled.is_open
    assert not portal._thread.is_alive()


def test_whoever_ends_the_loop_its_last_function_is_called_once_and_on_it() -> None:
    for end in (Portal.close, Portal.end_soon, lambda portal: portal.post(portal.loop.stop)):
        portal = Portal("test-portal")
        told: list[Any] = []
        portal.at_end = lambda told=told: told.append(asyncio.get_running_loop())
        end(portal)
        portal._thread.join(20)
        assert told == [portal.loop]
        assert portal.loop.is_closed()


@pytest.mark.may_complain("what the last function raises goes to the loop's log")
def test_a_last_function_that_raises_keeps_nothing_from_ending() -> None:
    portal = Portal("test-portal")
    portal.at_end = lambda: 1 // 0
    portal.close(5)
    assert portal.loop.is_closed()
    assert not portal._thread.is_alive()


def test_stops_that_come_while_the_loop_ends_do_not_leave_it_open() -> None:
    for _ in range(50):
        portal = Portal("test-portal")
        portal.at_end = portal.loop.stop
        gate = Gate()

        def close(_: int, portal: Portal = portal, gate: Gate = gate) -> None:
            gate.wait_for_arrival()
            portal.close(10)
            portal.end_soon()

        portal.post(gate.pass_through)
        portal.post(portal.loop.stop)
        gate.open()
        in_threads(3, close)
        portal._thread.join(10)
        assert portal.loop.is_closed()


def test_calls_that_race_with_the_end_return_or_raise_and_none_hangs() -> None:
    for _ in range(50):
        portal = Portal("test-portal")
        gate = Gate()
        outcomes: list[int] = []

        def storm(number: int, portal: Portal = portal, gate: Gate = gate, outcomes: list[int] = outcomes) -> None:
            gate.pass_through()
            try:
                while True:
                    outcomes.append(portal.call(double, number))
            except RunnerClosed:
                outcomes.append(-1)

        threads = [threading.Thread(target=storm, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        gate.wait_for_arrival(4)
        gate.open()
        portal.close(10)
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert outcomes.count(-1) == 4


def test_a_reply_that_comes_after_the_end_is_dropped_and_the_caller_hears_of_the_end() -> None:
    portal = Portal("test-portal")

    async def talk(ask: Ask) -> None:
        await ask(portal.close)

    with pytest.raises(RunnerClosed, match="closed meanwhile"):
        portal.converse(talk, "talk()")
