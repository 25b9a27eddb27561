"""The soak itself: its seed decides, it finds nothing in a build that works, and it hears a broken one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice

import pytest
from services import HERE, ROOT
from soak_plan import POINTS, blows, errands, orders

from asyncjobs.state import JobState


def test_the_same_seed_submits_and_does_the_same() -> None:
    for draw in (lambda seed: orders(seed, 0), blows, errands):
        assert list(islice(draw(1), 200)) == list(islice(draw(1), 200)) != list(islice(draw(2), 200))
    assert list(islice(orders(1, 0), 9)) != list(islice(orders(1, 1), 9))


def test_every_kind_of_job_and_of_blow_comes() -> None:
    some = list(islice(orders(1, 0), 1000))
    assert {order.end for order in some} == {JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT}
    options = {name for order in some for name in order.options}
    assert options >= {"key", "delay", "limit", "retries", "timeout", "priority", "at_most_once", "max_crashes"}
    assert any(order.parents for order in some)
    assert any(order.is_left and order.cancel is not None for order in some)
    hits = list(islice(blows(1), 1000))
    assert {blow.point for blow in hits} == set(POINTS)
    assert len({blow.kind for blow in hits}) == 8


@pytest.fixture
def place() -> Iterator[str]:
    """Where it puts its folder."""
    with tempfile.TemporaryDirectory(prefix="aj") as folder:  # a socket's path has to be short
        yield folder


def soaked(place: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, HERE / "soak.py", "--minutes", "0.1", "--seed", "5"]
    more = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": place, **environment}
    return subprocess.run(command, env=more, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_short_soak_finds_nothing_and_leaves_nothing(place: str) -> None:
    done = soaked(place)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.endswith("seed 5: ok\n")
    assert os.listdir(place) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_soak_of_a_build_that_does_not_look_at_keys_finds_it(place: str) -> None:
    done = soaked(place, ASYNCJOBS_BROKEN="no_dedupe")
    assert done.returncode == 1, done.stdout
    assert "I3 " in done.stdout
    assert "promises were not kept; see " in done.stdout
