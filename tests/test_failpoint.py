"""Failpoints: named places where a test makes a process fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncjobs
from asyncjobs import failpoint
from asyncjobs.failpoint import FailpointReached, arm, point


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm("")


def hits(name: str, times: int) -> list[int]:
    """At which of so many passes it raised."""
    found = []
    for number in range(1, times + 1):
        try:
            point(name)
        except FailpointReached:
            found.append(number)
    return found


def run(
    spec: str, code: str = "point('a.b'); point('a.b'); print('alive')", **more: str
) -> subprocess.CompletedProcess[str]:
    """A process of its own with failpoints."""
    environment = {"ASYNCJOBS_FAILPOINTS": spec, "PYTHONPATH": str(Path(asyncjobs.__file__).parents[1]), **more}
    command = [sys.executable, "-c", f"from asyncjobs.failpoint import point; {code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_nothing_happens_unless_it_is_armed() -> None:
    assert hits("a.b", 3) == []
    arm("other=raise")
    assert hits("a.b", 3) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("a.b=raise", [1, 2, 3, 4]), ("a.b=raise@3", [3]), ("a.b=raise@3+", [3, 4]), ("x=kill; a.b=raise@1 ;", [1])],
)
def test_it_happens_always_once_or_from_then_on(spec: str, expected: list[int]) -> None:
    arm(spec)
    assert hits("a.b", 4) == expected


def test_chance_is_drawn_from_a_seed() -> None:
    arm("a.b=raise~0.5/7")
    first = hits("a.b", 100)
    arm("a.b=raise~0.5/7")
    assert hits("a.b", 100) == first
    assert 20 < len(first) < 80


def test_an_error_of_the_system_or_a_builtin_is_raised() -> None:
    arm("a=errno:ENOSPC;b=raise:ValueError")
    with pytest.raises(OSError) as caught:
        point("a")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match="failpoint b"):
        point("b")


def test_a_delay_takes_its_time() -> None:
    arm("a=delay:0.05")
    start = time.monotonic()
    point("a")
    assert time.monotonic() - start >= 0.05


def test_a_kill_and_an_exit_end_the_process_at_once() -> None:
    assert run("a.b=kill@2").returncode == -9
    assert run("a.b=exit:3").returncode == 3
    assert run("c=kill").stdout == "alive\n"


def test_a_pause_lasts_until_the_fifo_is_opened_and_closed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environment = {"ASYNCJOBS_FAILPOINTS": f"a=pause:{fifo}", "PYTHONPATH": str(Path(asyncjobs.__file__).parents[1])}
    code = "from asyncjobs.failpoint import point; point('a'); print('on')"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        with open(fifo, "wb"):  # waits until the process reads
            assert process.poll() is None
        assert process.communicate(timeout=30)[0] == "on\n"


@pytest.mark.parametrize(
    "spec", ["a", "a=", "a=fly", "a=raise@x", "a=errno:ENOSUCH", "a=raise:NoSuch", "a=delay:soon", "=kill"]
)
def test_what_is_not_understood_is_refused(spec: str) -> None:
    with pytest.raises((ValueError, AttributeError)):
        arm(spec)
    assert run(spec).returncode == 1


def test_points_that_were_passed_are_noted_once_per_process(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    assert run("", "point('a'); point('b'); point('a')", ASYNCJOBS_FAILPOINTS_SEEN=str(seen)).returncode == 0
    assert run("b=raise", "point('a')", ASYNCJOBS_FAILPOINTS_SEEN=str(seen)).returncode == 0
    assert seen.read_text().split() == ["a", "b", "a"]


def test_a_point_that_is_not_armed_costs_next_to_nothing() -> None:
    assert failpoint._is_quiet
    start = time.thread_time()
    for _ in range(100_000):
        point("a.b")
    assert time.thread_time() - start < 1.0
