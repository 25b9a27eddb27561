"""`TaskQueue`: the little thread queue that people start with, without its faults."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from asyncjobs.errors import RunnerClosed
from asyncjobs.job import Job
from asyncjobs.options import check_count
from asyncjobs.runner import Runner
from asyncjobs.sync.executor import UNBOUNDED
from asyncjobs.sync.hosted import HostedRunner
from asyncjobs.sync.submitter import SyncSubmitter


class TaskQueue:
    """Runs tasks in `num_workers` threads, in the order in which they were added.

    Every task runs with its arguments as they were at the call; one that raises is logged, and harms no
    other. The end of the program waits for what was added.

    Raises:
        ValueError: `num_workers` is no whole number from 1.

    Example::

        tasks = TaskQueue(2)
        for step in range(100):
            tasks.add_task(upload, weights, step)
        tasks.join()
    """

    def __init__(self, num_workers: int = 1) -> None:
        check_count("num_workers", num_workers, 1)
        runner = Runner(threads=num_workers, queue_size=UNBOUNDED, options={"snapshot": True, "lane": "thread"})
        self._hosted = HostedRunner(runner, "TaskQueue", exit_drain=None, is_silent=True)
        self._submitter = SyncSubmitter(None, self._hosted.doorway, runner)

    def add_task(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Job[Any]:
        """Have ``fn(*args, **kwargs)`` run; never waits. The job tells what becomes of it, if you want to know.

        Raises:
            TypeError: `fn` is no plain function, or an argument cannot be copied.
            RunnerClosed: the queue is closed.
        """
        return self._submitter.submit_nowait(fn, *args, **kwargs)

    def join(self) -> None:
        """Block until every task that was added so far has ended.

        Raises:
            WouldDeadlock: called by a task, or in a done callback.
        """
        try:
            self._hosted.portal.call(self._hosted.runner.join)
        except RunnerClosed:  # then they have
            return

    def close(self) -> None:
        """Take no more and block until every task has ended."""
        self._hosted.close(None)

    def __enter__(self) -> TaskQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hosted.leave_block(kind, None)

    def __del__(self) -> None:
        hosted = getattr(self, "_hosted", None)
        if hosted is not None and hosted.is_usable:
            hosted.close_soon()
