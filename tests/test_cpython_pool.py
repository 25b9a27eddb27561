"""CPython's own tests of `multiprocessing.Pool`, run on ours, as far as they are about behaviour.

They are those that the running interpreter ships; what is left out is listed with the reason.
"""

from __future__ import annotations

import multiprocessing
import unittest
from typing import Any

import pytest

import asyncjobs as aj

suite: Any = pytest.importorskip("test._test_multiprocessing", reason="this interpreter ships no tests of its own")

ITEMS = "holds that the items before an error in the same chunk are lost; ours hands them out"
LEFT_OUT = {
    "_TestPool": {
        "test_make_pool": "looks at private attributes",
        "test_resource_warning": "sets a private attribute; see test_pool",
        "test_traceback": "names a private class; see test_pool",
        "test_map_unplicklable": "ours raises NotSendable from that error; see test_pool",
        "test_imap_handle_iterable_exception": ITEMS,
    },
    "_TestPoolWorkerErrors": {
        "test_unpickleable_result": "names a private class; ours is ResultNotSendable, see test_pool",
    },
    "_TestPoolWorkerLifetime": {
        "test_pool_worker_lifetime": "looks at private attributes; see test_pool",
        "test_worker_finalization_via_atexit_handler_of_multiprocessing": "starts an interpreter with a standard pool",
    },
}


@pytest.fixture(autouse=True)
def ours_in_place_of_the_standard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests that make a `multiprocessing.Pool` by name."""
    monkeypatch.setattr(multiprocessing, "Pool", aj.Pool)


def on_ours(name: str) -> type:
    """CPython's class `name` on our pool, without what is left out."""
    own = {"TYPE": "processes", "Pool": staticmethod(aj.Pool), "__module__": __name__}
    # Under the name it has here, so that a worker can import it.
    return type(name[1:], (getattr(suite, name), unittest.TestCase), own | dict.fromkeys(LEFT_OUT[name]))


TestPool = pytest.mark.may_leak("the workers of the class's one pool start when they are first needed")(
    on_ours("_TestPool")
)
TestPoolWorkerErrors = on_ours("_TestPoolWorkerErrors")
TestPoolWorkerLifetime = on_ours("_TestPoolWorkerLifetime")


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_exists(name: str) -> None:
    assert [test for test in LEFT_OUT[name] if not callable(getattr(getattr(suite, name), test, None))] == []
