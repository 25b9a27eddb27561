"""Asking work to stop, from anywhere, once."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import CancelToken, JobStopped
from asyncjobs.testing import Gate
from asyncjobs.token import StopReason, by_number, travelling


def test_a_fresh_token_asks_for_nothing() -> None:
    token = CancelToken()
    assert (token.cancelled, token.reason, token.stop) == (False, None, None)
    token.check()
    assert repr(token) == "<CancelToken open>"


def test_the_first_reason_wins() -> None:
    token = CancelToken()
    assert token.cancel("first") is True
    assert token.cancel("second") is False
    assert token.raise_for(StopReason("timeout", "third")) is False
    assert (token.cancelled, token.reason, token.stop) == (True, "first", StopReason("cancel", "first"))
    assert repr(token) == "<CancelToken cancelled: 'first'>"


def test_check_raises_with_the_reason_and_no_except_exception_eats_it() -> None:
    token = CancelToken()
    token.cancel("enough")

    def stubborn() -> None:
        try:
            token.check()
        except Exception:
            pytest.fail("a stop is no Exception")

    with pytest.raises(JobStopped) as caught:
        stubborn()
    assert caught.value.reason == "enough"


# --- the tree ---------------------------------------------------------------------------


def test_cancelling_a_parent_reaches_every_descendant() -> None:
    root = CancelToken()
    children = [CancelToken(root) for _ in range(3)]
    grandchildren = [CancelToken(child) for child in children for _ in range(3)]
    root.cancel("all of you")
    assert {token.reason for token in (*children, *grandchildren)} == {"all of you"}


def test_cancelling_a_child_leaves_its_parent_and_siblings_alone() -> None:
    root = CancelToken()
    one, other = CancelToken(root), CancelToken(root)
    one.cancel()
    assert (one.cancelled, other.cancelled, root.cancelled) == (True, False, False)


def test_a_child_that_was_cancelled_before_keeps_its_own_reason() -> None:
    root = CancelToken()
    child = CancelToken(root)
    child.cancel("mine")
    root.cancel("yours")
    assert child.reason == "mine"


def test_a_child_of_a_cancelled_parent_is_born_cancelled() -> None:
    root = CancelToken()
    root.raise_for(StopReason("deadline", "too late"))
    assert CancelToken(root).stop == StopReason("deadline", "too late")


@settings(max_examples=50)
@given(
    parents=st.lists(st.integers(0, 30), max_size=30),
    cancels=st.lists(st.integers(0, 30), max_size=10),
)
def test_a_token_has_the_reason_of_the_first_cancelled_among_itself_and_its_ancestors(
    parents: list[int], cancels: list[int]
) -> None:
    tokens, above = [CancelToken()], [[0]]
    for index, parent in enumerate(parents, 1):
        tokens.append(CancelToken(tokens[parent % index]))
        above.append([index, *above[parent % index]])
    expected: dict[int, str] = {}
    for number, at in enumerate(cancels):
        chosen = at % len(tokens)
        tokens[chosen].cancel(str(number))
        for index, line in enumerate(above):
            if chosen in line:
                expected.setdefault(index, str(number))
    assert {index: token.reason for index, token in enumerate(tokens) if token.cancelled} == expected


def test_children_that_are_dropped_leave_nothing_in_their_parent() -> None:
    root = CancelToken()
    for _ in range(10_000):
        CancelToken(root)
    gc.collect()
    assert len(root._callbacks or ()) == 0


@pytest.mark.slow
def test_a_million_children_do_not_pile_up() -> None:
    root = CancelToken()
    most = 0
    for number in range(1_000_000):
        CancelToken(root)
        if number % 10_000 == 0:
            most = max(most, len(root._callbacks or ()))
    assert most < 1_000
    root.cancel()


# --- callbacks --------------------------------------------------------------------------


def test_callbacks_run_once_in_the_order_they_came_with_the_reason() -> None:
    token, heard = CancelToken(), []
    for name in "abc":
        token.add_callback(lambda reason, name=name: heard.append((name, reason.text)))
    token.cancel("now")
    token.cancel("again")
    assert heard == [("a", "now"), ("b", "now"), ("c", "now")]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    token, heard = CancelToken(), []
    token.cancel("before")
    take_back = token.add_callback(heard.append)
    assert heard == [StopReason("cancel", "before")]
    take_back()


def test_a_callback_that_was_taken_back_is_not_called() -> None:
    token, heard = CancelToken(), []
    take_back = token.add_callback(heard.append)
    take_back()
    take_back()
    token.cancel()
    take_back()
    assert heard == []


def test_a_callback_sees_the_token_raised_and_may_add_another() -> None:
    token, heard = CancelToken(), []

    def first(reason: StopReason) -> None:
        heard.append(token.cancelled)
        token.add_callback(lambda late: heard.append(late.text))

    token.add_callback(first)
    token.cancel("deep")
    assert heard == [True, "deep"]


# --- threads ----------------------------------------------------------------------------


def test_of_many_threads_exactly_one_is_the_first() -> None:
    token, heard = CancelToken(), []
    token.add_callback(heard.append)
    start = threading.Barrier(8)

    def race(number: int) -> bool:
        start.wait(10)
        return token.cancel(str(number))

    with ThreadPoolExecutor(8) as threads:
        firsts = list(threads.map(race, range(8)))
    assert firsts.count(True) == 1
    assert heard == [StopReason("cancel", str(firsts.index(True)))]


def test_wait_ends_as_soon_as_another_thread_cancels() -> None:
    token = CancelToken()
    with ThreadPoolExecutor(2) as threads, Gate() as gate:

        def waiter() -> bool:
            gate.open()
            return token.wait(30)

        waiting = threads.submit(waiter)
        gate.pass_through()
        token.cancel()
        assert waiting.result(10) is True


def test_wait_says_whether_a_stop_was_asked_for() -> None:
    token = CancelToken()
    assert token.wait(0.0) is False
    assert token.wait(0.001) is False
    token.cancel()
    assert token.wait(0.0) is True
    assert token.wait() is True


def test_adding_callbacks_races_with_a_cancel_and_each_is_called_exactly_once() -> None:
    for _ in range(50):
        token, heard = CancelToken(), []
        start = threading.Barrier(2)

        def add(token: CancelToken = token, heard: list[int] = heard, start: threading.Barrier = start) -> None:
            start.wait(10)
            for number in range(50):
                token.add_callback(lambda _, number=number: heard.append(number))

        adding = threading.Thread(target=add)
        adding.start()
        start.wait(10)
        token.cancel()
        adding.join(10)
        assert sorted(heard) == list(range(50))


# --- in coroutines ----------------------------------------------------------------------


@pytest.mark.both_loops
async def test_stopped_ends_with_the_reason_when_another_thread_cancels() -> None:
    token = CancelToken()
    waiting = asyncio.ensure_future(_stopped(token))
    await asyncio.sleep(0)
    threading.Thread(target=token.cancel, args=("from afar",)).start()
    assert await waiting == "from afar"


async def test_stopped_ends_at_once_if_the_stop_was_asked_for_before() -> None:
    token = CancelToken()
    token.cancel("long ago")
    assert await token.stopped() == "long ago"


async def test_a_cancelled_waiter_leaves_no_callback_behind() -> None:
    token = CancelToken()
    waiting = asyncio.ensure_future(_stopped(token))
    await asyncio.sleep(0)
    assert len(token._callbacks or ()) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(token._callbacks or ()) == 0


async def test_many_coroutines_may_wait_for_one_token() -> None:
    token = CancelToken()
    waiting = [asyncio.ensure_future(_stopped(token)) for _ in range(100)]
    await asyncio.sleep(0)
    token.cancel("all")
    assert await asyncio.gather(*waiting) == ["all"] * 100


async def _stopped(token: CancelToken) -> str:
    return await token.stopped()


# --- travelling -------------------------------------------------------------------------


def test_a_token_does_not_pickle_by_itself() -> None:
    with pytest.raises(TypeError, match="travels only as an argument or result of a job"):
        pickle.dumps(CancelToken())


def test_a_token_that_comes_back_is_the_same_token() -> None:
    token = CancelToken()
    with travelling() as tokens:
        data = pickle.dumps([token, token])
    assert tokens == [token]
    assert pickle.loads(data)[0] is token
    assert by_number(token.number) is token


def test_a_token_that_no_longer_exists_cannot_come_back() -> None:
    with travelling():
        data = pickle.dumps(CancelToken())
    gc.collect()
    with pytest.raises(LookupError, match="no longer exists"):
        pickle.loads(data)


def test_travelling_lists_what_goes_out_in_its_own_block_only() -> None:
    one, two = CancelToken(), CancelToken()
    with travelling() as outer:
        pickle.dumps(one)
        with travelling() as inner:
            pickle.dumps(two)
        pickle.dumps(one)
    assert inner == [two]
    assert outer == [one, one]
    with pytest.raises(TypeError):
        pickle.dumps(one)


def test_workers_can_have_tokens_without_asyncio() -> None:
    code = "import sys, asyncjobs.token, asyncjobs.context; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
