"""What tests of plots share. Name the fixture `no_studio` in each module that plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from asyncjobs.plotting import studio


@pytest.fixture
def no_studio() -> Iterator[None]:
    """The loop behind all plots of this process ends with the test."""
    yield
    end_studio()


def end_studio() -> None:
    """As the exit of the interpreter does, but at once."""
    if studio._studio is not None:
        studio._studio.close(0)


def wait_until(is_so: Callable[[], object], what: str, within: float = 30.0) -> None:
    """Block until `is_so`; look again and again, for what is waited for tells nobody."""
    end = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.02)
