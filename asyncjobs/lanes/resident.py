"""The one resident call of a one-worker ProcessPoolExecutor, and the process under it.

The standard library starts, initialises and reaps worker processes well; all else happens
beside it, on channels of our own. Knows nothing of frames or calls.
"""

from __future__ import annotations

import asyncio
import multiprocessing.process
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from time import monotonic, sleep
from typing import Any, NamedTuple

from asyncjobs.failpoint import point
from asyncjobs.spawning import FarFunction, out_of_reach, start_context, without_main
from asyncjobs.wire.terms import Settings

CAUSE_WAIT = 1.0
"""Seconds to wait for the exit code of a dead worker: a grandchild may keep it from us."""

_asking = threading.Lock()
"""Two threads that ask multiprocessing for an exit code at once may both be told wrong, as
waitpid and the forkserver's pipe answer once; and to start a process is to ask for all. Runners
in several threads start their workers one after the other, too: environment and threads are everybody's."""


def _begin_anew() -> None:
    """In a forked child: the parent's forkserver and processes are not ours to wait for, and whoever held the lock
    is not here. multiprocessing forgets the same in the children that it forks itself."""
    global _asking
    _asking = threading.Lock()
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
    server.__init__()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)


class Recipe(NamedTuple):
    """How a lane's workers are started."""

    start_method: str
    runner_id: str
    early_env: dict[str, str]
    """Variables that must be there before the interpreter starts."""
    env: dict[str, str]
    preload: tuple[str, ...]
    initializer: bytes | None
    inherit_output: bool


class Resident:
    """The executor, its threads and its process; `on_ended` is called in a thread of the executor's."""

    def __init__(self, on_ended: Callable[[], None]) -> None:
        self._on_ended = on_ended
        self._executor: ProcessPoolExecutor | None = None
        self._threads: list[threading.Thread] = []
        self.newborn: list[Any] = []
        """What multiprocessing started for us: one process."""
        self.reason: str = ""
        """What the executor itself says of its end, if it does: ``RuntimeError: can't start new thread``."""

    def start(self, recipe: Recipe, settings: Settings) -> None:
        """Start the process; blocks for some milliseconds, the first time for some hundred."""
        point("spawn.before")
        with _asking, without_main(recipe.early_env):
            _start_helpers(recipe.start_method)
            context = start_context(recipe.start_method)
            self._executor = ProcessPoolExecutor(
                max_workers=1,
                mp_context=context,
                initializer=FarFunction("asyncjobs.worker", "boot"),
                initargs=(settings,),  # type: ignore[arg-type]  # what FarFunction takes is known over there
            )
            threads = set(threading.enumerate())
            try:
                with out_of_reach():
                    resident = self._executor.submit(FarFunction("asyncjobs.worker", "serve"))
            finally:
                self.newborn = context.take_made()
            self._threads = [
                thread for thread in threading.enumerate() if thread not in threads and _is_manager(thread)
            ]
        resident.add_done_callback(self._gave_up)

    def _gave_up(self, resident: Future[Any]) -> None:
        """In the executor's thread: it has given the worker up."""
        error = resident.exception()
        reason = str(error.__cause__ or "") if error is not None else ""
        self.reason = reason.strip(" '\"\n").rpartition("\n")[2]  # it comes in triple quotes
        with _asking:
            until = monotonic() + CAUSE_WAIT / 2
            while any(child.exitcode is None for child in self.newborn) and monotonic() < until:
                sleep(0.001)
        self._on_ended()

    def bury_stillborn(self) -> None:
        """The executor starts its process before its thread, and knows nothing of it if that fails."""
        for child in self.newborn:
            child.kill()
            child.join(CAUSE_WAIT)

    def is_working(self) -> bool:
        """Whether the executor still has a thread that would notice anything."""
        return any(thread.is_alive() for thread in self._threads)

    def exit_code(self, pid: int) -> int | None:
        """Of the process `pid`, or of the only one if it never said its number; negative for signals."""
        for child in self.newborn:
            if child.pid == pid or not pid:
                return child.exitcode  # type: ignore[no-any-return]
        return None

    def kill(self) -> None:
        """Kill a process that never said its number."""
        for child in self.newborn:
            child.kill()

    async def ended(self, within: float) -> None:
        """Wait at most `within` seconds for the executor's own threads, some milliseconds after the worker's end: the
        interpreter's exit hook writes to their pipe while they close it (CPython's race)."""
        until = monotonic() + within
        while self.is_working() and monotonic() < until:
            await asyncio.sleep(0.001)

    def join(self, timeout: float) -> None:
        """Block until the executor's threads have ended, at most `timeout` seconds each."""
        for thread in self._threads:
            thread.join(timeout)

    def release(self) -> None:
        """Let go of everything: records of processes and threads hold descriptors, too."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self.newborn, self._threads = [], []


def _is_manager(thread: threading.Thread) -> bool:
    """Whether it is an executor's own: other threads of the program start some at any time."""
    return type(thread).__module__ == ProcessPoolExecutor.__module__


def _start_helpers(start_method: str) -> None:
    """Start multiprocessing's own two processes while SIGINT is not blocked: the tracker would
    unblock it for us, and the forkserver would pass the block on to processes of the user's own."""
    resource_tracker.ensure_running()
    if start_method == "forkserver":
        forkserver.ensure_running()
