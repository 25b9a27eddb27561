"""CPython's own tests of `concurrent.futures`, run on our executors, as far as they are about behaviour.

They are those that the running interpreter ships (here from 3.13 on). What is left out is listed with the reason;
what an interpreter of its own has to show is in test_executors.py, in our words.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

import asyncjobs as aj

PACKAGE = "test.test_concurrent_futures"
pytest.importorskip(f"{PACKAGE}.executor", reason="this interpreter ships no tests of concurrent.futures")

PRIVATE = "looks at private attributes"
STOCK = "starts an interpreter with the standard executor, by name"
AT_ONCE = "holds that no frame of ours has the result in hand any more at that very moment; see test_executors"
BAD_INPUT = "what does not pickle is refused by the call that brings it, not later by its future"

LEFT_OUT = {
    "ExecutorShutdownTest": {
        "test_interpreter_shutdown": STOCK,
        "test_submit_after_interpreter_shutdown": STOCK,
        "test_hang_gh83386": STOCK,
    },
    "ProcessPoolShutdownTest": {
        "test_interpreter_shutdown": STOCK,
        "test_submit_after_interpreter_shutdown": STOCK,
        "test_hang_gh83386": STOCK,
        "test_cancel_futures": "holds that one call has begun; ours cancels all that no worker has begun",
        "test_processes_terminate": PRIVATE,
        "test_context_manager_shutdown": PRIVATE,
        "test_del_shutdown": PRIVATE,
        "test_shutdown_no_wait": PRIVATE,
    },
    "ThreadPoolExecutorTest": {
        "test_free_reference": AT_ONCE,
        "test_saturation": PRIVATE,
        "test_idle_thread_reuse": PRIVATE,
        "test_hang_global_shutdown_lock": "forks with the standard executor's private lock",
        "test_executor_map_current_future_cancel": "patches the standard executor",
    },
    "ProcessPoolExecutorTest": {
        "test_max_workers_too_large": "is for Windows",
        "test_killed_child": PRIVATE + ", and holds that one crash ends every call",
        "test_free_reference": AT_ONCE,
        "test_traceback": "names a private class; ours is asyncjobs.errors.RemoteTraceback, see test_executors",
        "test_saturation": PRIVATE,
        "test_idle_process_reuse_one": PRIVATE,
        "test_idle_process_reuse_multiple": PRIVATE,
        "test_max_tasks_per_child": PRIVATE,
        "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE,
        "test_python_finalization_error": "patches the standard threads",
    },
    "AsCompletedTests": {},
    "WaitTests": {},
    "InitializerMixin": {},
    "ExecutorDeadlockTest": {
        "test_error_at_task_pickle": BAD_INPUT,
        "test_shutdown_deadlock_pickle": BAD_INPUT,
        "test_error_at_task_unpickle": "an error while arguments are unpickled is that call's own, and breaks nothing",
        "test_exit_at_task_unpickle": "the same",
        "test_error_during_result_unpickle_in_result_handler": "the same for a result",
        "test_exit_during_result_unpickle_in_result_handler": "the same for a result",
        "test_error_during_result_pickle_on_worker": "a result that does not pickle is a ResultNotSendable",
        "test_exit_during_result_pickle_on_worker": "the same",
        "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "patches the standard executor",
    },
}
"""By class what is not run, and why. Classes that are not here only test the standard executors' insides, or look
into them: `FailingInitializerMixin` waits for ``_broken``; see test_executors."""

HOMES = {
    "ExecutorShutdownTest": "test_shutdown",
    "ProcessPoolShutdownTest": "test_shutdown",
    "ThreadPoolExecutorTest": "test_thread_pool",
    "ProcessPoolExecutorTest": "test_process_pool",
    "AsCompletedTests": "test_as_completed",
    "WaitTests": "test_wait",
    "InitializerMixin": "test_init",
    "ExecutorDeadlockTest": "test_deadlock",
}
THREADS = ("ExecutorShutdownTest", "ThreadPoolExecutorTest", "AsCompletedTests", "WaitTests", "InitializerMixin")
PROCESSES = (
    "ProcessPoolShutdownTest",
    "ProcessPoolExecutorTest",
    "AsCompletedTests",
    "WaitTests",
    "InitializerMixin",
    "ExecutorDeadlockTest",
)


def shipped(name: str, home: str) -> Any:
    """A class of CPython's tests."""
    return getattr(import_module(f"{PACKAGE}.{home}"), name)


def on_ours(name: str, mixin: str, executor: type) -> type:
    """CPython's class `name` with its `mixin`, on our `executor`, without what is left out."""
    hidden = dict.fromkeys(LEFT_OUT[name])
    wanted = shipped(name, HOMES[name])
    base = shipped("BaseTestCase", "util")
    own = {"executor_type": executor, "__module__": __name__, **hidden}
    if issubclass(wanted, base):  # the thread pool's tests have their mixin in them
        return type(f"Ours{name}", (wanted,), own)
    return type(f"Ours{mixin}{name}", (wanted, shipped(mixin, "util"), base), own)


for _name in THREADS:
    globals()[f"TestThreads{_name}"] = on_ours(_name, "ThreadPoolMixin", aj.ThreadPoolExecutor)
for _name in PROCESSES:
    for _mixin in ("ProcessPoolForkserverMixin", "ProcessPoolSpawnMixin"):
        _made = on_ours(_name, _mixin, aj.ProcessPoolExecutor)
        globals()[f"Test{_mixin}{_name}"] = _made if "Fork" in _mixin else pytest.mark.slow(_made)


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_is_left_out_exists(name: str) -> None:
    wanted = shipped(name, HOMES[name])
    assert [test for test in LEFT_OUT[name] if not callable(getattr(wanted, test, None))] == []
