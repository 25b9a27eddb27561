"""What every test gets: a leak check, the loop's complaints as failures, stacks when one hangs.

Fixtures: `runner` (2 processes, 4 threads; what is left in it is cancelled), `clock`.
Markers: ``both_loops`` runs an async test on asyncio's own loop and on uvloop;
``alone`` gives a test that bounds wall time the machine to itself; such tests come last.
``may_leak("reason")`` and ``may_complain("reason")`` switch one check off for a test.
``ASYNCJOBS_TEST_LOOP=uvloop`` runs every async test on uvloop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import crashes
import pytest
from hypothesis import settings
from leftovers import mark_this_run, strays, wait_for_no_strays
from machine import machine
from pauses import PauseClock

from asyncjobs import Runner
from asyncjobs.testing.leaks import start_helpers, take_census, wait_for_no_leaks

try:
    import uvloop
except ImportError:  # not on Windows
    uvloop = None

LEFT = 2.0
"""Seconds after which what a test left behind is a leak: what the contract gives."""
LOOK = 0.05
"""Seconds of these in a row, so that a machine that stops for a while does not use them up."""
STRAY = 10.0
"""Seconds in which processes end that are nobody's children any more."""

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop
# Python 3.13 colours what it prints to a terminal, and some tests read from one.
os.environ["PYTHON_COLORS"] = "0"
# Where Jupyter keeps its files; it warns of a change unless somebody has chosen.
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"

mark_this_run()

DEFAULT_LOOP = os.environ.get("ASYNCJOBS_TEST_LOOP", "asyncio")


# A shared machine may stop for longer than any deadline of one example.
settings.register_profile("asyncjobs", deadline=None)
settings.load_profile("asyncjobs")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(crashes)
    config.addinivalue_line("markers", "both_loops: run this async test on asyncio's own loop and on uvloop")
    config.addinivalue_line("markers", "alone: this test bounds wall time, and no other runs beside it")
    config.addinivalue_line("markers", "may_leak(reason): this test leaves threads, processes or files behind")
    config.addinivalue_line("markers", "may_complain(reason): loop and services may log errors in this test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_alone)  # last, so that the processes of a run wait for each other once


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Outermost: the wait is not counted in the test's time limit.
    with machine(alone=_is_alone(item)):
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_collection_finish() -> None:
    # The leak check collects after many a test: what the imports made need not be gone through each time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    wanted = ["asyncio", "uvloop"] if item.get_closest_marker("both_loops") else [DEFAULT_LOOP]
    return {name: LOOPS[name] for name in wanted if name in LOOPS}


@pytest.fixture(scope="session", autouse=True)
def _helpers() -> None:
    """What stays for good is there before the first test, so that none is blamed for it."""
    start_helpers()


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest, _stacks_when_it_hangs: None) -> Iterator[None]:
    """Threads, processes, descriptors and shared memory are back as they were within 2 s."""
    before = take_census()
    yield
    if request.node.get_closest_marker("may_leak") is None:
        for _ in range(round(LEFT / LOOK)):
            leaks = [leak for leak in wait_for_no_leaks(before, LOOK) if not _is_of_another_process(leak)]
            if not leaks:
                break
        else:
            pytest.fail(f"left behind after {LEFT:g} s:\n" + "\n".join(leaks), pytrace=False)


def _is_of_another_process(leak: str) -> bool:
    """Named semaphores are made by multiprocessing for peers, some of which run beside us in other
    processes of the suite; that we make none ourselves is for the tests of trap T1. Tests that want
    folders in memory make them there, too, and remove them themselves."""
    names = ("shared memory /dev/shm/sem.mp-", "shared memory /dev/shm/test-")
    return "PYTEST_XDIST_WORKER" in os.environ and leak.startswith(names)


@pytest.fixture(autouse=True)
def _services_end_and_are_silent(request: pytest.FixtureRequest, _no_leaks: None) -> Iterator[None]:
    """In tests of services: their processes are gone, orphans too, and none spoke of an error that nobody handled."""
    if not request.node.path.name.startswith("test_service"):
        yield
        return
    before = strays()
    yield
    wrong = [] if request.node.get_closest_marker("may_leak") else wait_for_no_strays(before, STRAY)
    if "services" in sys.modules and request.node.get_closest_marker("may_complain") is None:
        wrong += sys.modules["services"].complaints()
    if wrong:
        pytest.fail("services left behind or complained of:\n" + "\n".join(wrong), pytrace=False)


@pytest.fixture(autouse=True)
def _no_studio(_no_leaks: None) -> Iterator[None]:
    """The loop that all plots of a process share ends with the test."""
    yield
    studio = sys.modules.get("asyncjobs.plotting.studio")
    if studio is not None and studio._studio is not None:
        studio._studio.close(0)


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture(autouse=True)
def _no_complaints(request: pytest.FixtureRequest) -> Iterator[None]:
    """asyncio reports what nobody handled to its logger; here that is a failure."""
    handler = _Complaints()
    log = logging.getLogger("asyncio")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)
    if handler.texts and request.node.get_closest_marker("may_complain") is None:
        pytest.fail("the event loop complained:\n" + "\n".join(handler.texts), pytrace=False)


@pytest.fixture
def clock() -> Iterator[PauseClock]:
    """For bounds on wall time: ``clock()`` is in seconds, without those for which the machine stopped us."""
    clock = PauseClock()
    yield clock
    clock.close()


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    """A runner with 2 processes and 4 threads; what the test leaves in it is cancelled."""
    async with Runner(processes=2, threads=4) as opened:
        yield opened
        await opened.aclose(drain=0, grace=0.1)
