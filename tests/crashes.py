"""What a process of a run with ``-n`` died of, and which tests ran beside it: xdist only says that it is gone.

A signal leaves no trace in the process that it kills, and the one who sent it may be the test next door.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import Any

import pytest

LAST_WAIT = 10.0
"""Seconds until a process has ended whose channel is closed."""


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
