"""What a run tells of its own processes: where one hangs, what one with ``-n`` died of, and which tests ran beside it.

xdist only says that a process is gone, and with it what pytest-timeout says goes, too. A signal leaves no trace in the
process that it kills, and the one who sent it may be the test next door.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

HANGS = 0.9
"""The share of its time limit after which a test hangs, and every thread's stack is printed."""
LAST_WAIT = 10.0
"""Seconds until a process has ended whose channel is closed."""

_terminal = pytest.StashKey[TextIO]()


def pytest_configure(config: pytest.Config) -> None:
    # While a test runs, its number 2 is a file that goes with the process.
    config.stash[_terminal] = open(os.dup(2), "w")  # noqa: SIM115


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_terminal].close()


@pytest.fixture(autouse=True)
def _stacks_when_it_hangs(request: pytest.FixtureRequest) -> Iterator[None]:
    faulthandler.dump_traceback_later(HANGS * _limit(request.node), file=request.config.stash[_terminal])
    yield
    faulthandler.cancel_dump_traceback_later()


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker is not None else item.config.getini("timeout"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Called in the process that hands out the tests."""
    if not error:
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.gateway._io.popen.wait(LAST_WAIT)
    terminal = node.config.pluginmanager.getplugin("terminalreporter")
    terminal.write_line(f"[{node.gateway.id}] {_end(node.gateway._io.popen.returncode)}; tests under way:")
    scheduled = node.config.pluginmanager.getplugin("dsession").sched
    for each, pending in scheduled.node2pending.items():
        if pending:
            terminal.write_line(f"  {each.gateway.id}: {scheduled.collection[pending[0]]}")


def _end(code: int | None) -> str:
    if code is None:
        return "has closed its channel and not ended"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
