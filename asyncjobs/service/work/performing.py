"""In a worker process: carry out one order, and say how it ended.

Loads little, as every worker pays for it: asyncio only for a coroutine function.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from types import CoroutineType
from typing import Any

from asyncjobs import context
from asyncjobs.context import Running
from asyncjobs.errors import JobStopped, ResultTooLarge
from asyncjobs.failpoint import point
from asyncjobs.remote import hosted
from asyncjobs.service import outcome
from asyncjobs.service.allow import Allow
from asyncjobs.service.errors import NotAllowed, UnknownFunction
from asyncjobs.service.work import orders
from asyncjobs.service.work.orders import Order
from asyncjobs.token import CancelToken
from asyncjobs.wire import failure

CHECKPOINT = "checkpoint"
BEGIN = "begin"
"""What a job asks of the service's desk."""

_desk = 0
_allow = Allow()
_worker_job: Callable[[], Running | None] = context.running.get
_performance: Performance | None = None
_known: dict[str, Callable[..., Any]] = {}
"""Functions by name; they stay as they were first imported, as their modules do."""


def prepare(desk: int, patterns: tuple[str, ...], folder: str, umask: int | None = None) -> None:
    """The worker's initializer.

    Args:
        desk: the number of the object of the service that jobs may ask.
        patterns: which functions may be run by name.
        folder: where modules are looked for besides.
        umask: what jobs make files with; the service's own is stricter.
    """
    global _desk, _allow, _worker_job
    point("spawn.after")
    _desk, _allow = desk, Allow(patterns)
    if umask is not None:
        os.umask(umask)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # One pipe for both, or the order of what a job prints would be lost on the way to its log.
    sys.stdout.flush()
    os.dup2(2, 1)
    _worker_job = context.resident(_current) or _worker_job


def perform(order: tuple[Any, ...]) -> bytes:
    """Carry out the order; what it raises goes into the answer, for the service must not unpickle it.

    Raises:
        JobStopped: the job was asked to stop, and did.
        MemoryError: as the job did; the worker is replaced.
    """
    global _performance
    point("run.started")
    job = Order(*order)
    _performance = Performance(job)
    try:
        return orders.returned(_body(job))
    except (JobStopped, MemoryError):
        raise
    except BaseException as error:
        return orders.raised(error, failure.capture(without_our_frames(error, 3)))
    finally:
        _close_plots()
        _performance = None


def without_our_frames(error: BaseException, count: int) -> BaseException:
    """Without the first `count`, which are ours; none is left where the function was not found, or not called."""
    trace = error.__traceback__
    for _ in range(count):
        trace = trace.tb_next if trace is not None else None
    return error.with_traceback(trace)


def _body(job: Order) -> bytes:
    if job.at_most_once:  # before its arguments are loaded: that may be the user's code already
        hosted.ask(_desk, "the service", BEGIN, (job.id, job.fence))
    return carried_out(job, _function, _token)


def carried_out(job: Order, find: Callable[[str], Callable[..., Any]], token: Callable[[], CancelToken]) -> bytes:
    """The encoded value of the call; `find` knows functions by name, and `token` is the running job's."""
    fn, args, kwargs = outcome.decode_call(job.call, _results(job))
    try:
        fn = fn or find(job.function)
    except (NotAllowed, UnknownFunction) as error:
        raise error.with_traceback(None) from None  # it says all; how we came to it helps nobody
    value = fn(*args, **kwargs)
    if type(value) is CoroutineType:
        run = import_module("asyncjobs.service.work.coroutines").run
        value = run(value, token())
    body = outcome.encode_value(value, as_json=job.call[:1] == outcome.JSON)
    if job.max_result is not None and len(body) > job.max_result:
        raise ResultTooLarge(
            f"the result of {job.name!r} has {len(body):,} bytes pickled; max_result allows {job.max_result:,}"
        )
    return body


def _function(name: str) -> Callable[..., Any]:
    known = _known.get(name)
    if known is None:
        known = _known[name] = _allow.resolve(name)
    return known


def _results(job: Order) -> Callable[[str], Any]:
    def result(parent: str) -> Any:
        if parent not in job.results:
            raise LookupError(f"job {parent} is none of those that {job.name!r} comes after")
        return outcome.decode_outcome(job.results[parent])[0]

    return result


def _token() -> CancelToken:
    running = _worker_job()
    return CancelToken() if running is None else running.token


def _close_plots() -> None:
    """Those that the job left open: what they were given is to be seen by whoever attaches."""
    plots = sys.modules.get("asyncjobs.plotting.plot")
    if plots is not None:
        for plot in tuple(plots._open_plots):
            plot.leave(None)


def _current() -> Running | None:
    """What `current_job()` shows, in any thread of the job."""
    return None if _worker_job() is None else _performance


class Performance:
    """The running job, as `current_job()` shows it: with its id and name in the service."""

    def __init__(self, job: Order) -> None:
        self._job = job
        self.id: str = job.id
        self.name: str = job.name
        self.attempt: int = job.attempt
        self.fence: int = job.fence
        self.figures: str = job.figures
        self._kept = job.checkpoint

    @property
    def durable(self) -> Performance:
        return self

    @property
    def token(self) -> CancelToken:
        return _token()

    @property
    def runner(self) -> Any:
        running = _worker_job()
        return None if running is None else running.runner

    def report_progress(self, done: float, total: float | None, note: str) -> None:
        running = _worker_job()
        if running is not None:
            running.report_progress(done, total, note)

    def checkpoint(self, state: Any) -> None:
        data = outcome.pickled(state)
        hosted.ask(_desk, "the service", CHECKPOINT, (self.id, self.attempt, self._job.epoch, data))
        self._kept = data

    def restore(self, default: Any) -> Any:
        return default if self._kept is None else pickle.loads(self._kept)
