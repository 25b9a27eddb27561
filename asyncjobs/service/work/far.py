"""In a worker of a cluster: carry out one order of the service. Several may run in one process, at once.

There is no desk to ask there: what needs one says so.
"""

from __future__ import annotations

import pickle
from typing import Any

from asyncjobs import context
from asyncjobs.context import Running
from asyncjobs.errors import JobStopped
from asyncjobs.service.allow import Allow
from asyncjobs.service.work import orders
from asyncjobs.service.work.orders import Order
from asyncjobs.service.work.performing import carried_out, without_our_frames
from asyncjobs.token import CancelToken
from asyncjobs.wire import failure


def perform_far(order: tuple[Any, ...], patterns: tuple[str, ...]) -> bytes:
    """Carry out the order, if its function is among `patterns`; what it raises goes into the answer.

    Raises:
        JobStopped: the job was asked to stop, and did.
    """
    job, running = Order(*order), context.running.get()
    assert running is not None
    mark = context.running.set(FarJob(job, running))
    try:
        return orders.returned(carried_out(job, Allow(patterns).resolve, lambda: running.token))
    except JobStopped:
        raise
    except BaseException as error:
        return orders.raised(error, failure.capture(without_our_frames(error, 2)))
    finally:
        context.running.reset(mark)


class FarJob:
    """The running job, as `current_job()` shows it: with its id and name in the service."""

    def __init__(self, job: Order, running: Running) -> None:
        self._running = running
        self._kept = job.checkpoint
        self.id: str = job.id
        self.name: str = job.name
        self.attempt: int = job.attempt
        self.fence: int = job.fence
        self.figures: str = job.figures

    @property
    def durable(self) -> FarJob:
        return self

    @property
    def token(self) -> CancelToken:
        return self._running.token

    @property
    def runner(self) -> Any:
        return self._running.runner

    def report_progress(self, done: float, total: float | None, note: str) -> None:
        self._running.report_progress(done, total, note)

    def checkpoint(self, state: Any) -> None:
        raise RuntimeError(f"checkpoint() works in lane 'process' of the service; job {self.name!r} runs on a cluster")

    def restore(self, default: Any = None) -> Any:
        return default if self._kept is None else pickle.loads(self._kept)
