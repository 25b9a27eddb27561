"""Background jobs for people who train, fit, simulate and plot in Python.

Names are loaded when they are first used: every worker process runs this file first, and
must not pay for the runner.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ArenaFull": "errors",
    "AsyncJobsError": "errors",
    "CancelToken": "token",
    "Coordinator": "flow.coordinator",
    "ErrorBudget": "pipeline.faults",
    "ExecutorLane": "lanes.executor",
    "FIFOQueue": "flow.queues",
    "Job": "job",
    "JobCancelled": "errors",
    "JobContext": "context",
    "JobError": "errors",
    "JobEvent": "events",
    "JobOptions": "options",
    "JobState": "state",
    "JobStopped": "errors",
    "JobTimeout": "errors",
    "LaneStalled": "errors",
    "Lines": "lines",
    "LoopLane": "lanes.loop",
    "NotSendable": "errors",
    "OutOfRangeError": "errors",
    "PaddingFIFOQueue": "flow.queues",
    "Pipeline": "pipeline.pipeline",
    "PipelineReport": "pipeline.report",
    "Plot": "plotting.plot",
    "PlotIncomplete": "errors",
    "Pool": "sync.pool",
    "PriorityQueue": "flow.queues",
    "ProcessLane": "lanes.process",
    "ProcessPoolExecutor": "sync.executor",
    "Progress": "events",
    "QueueClosedError": "errors",
    "QueueFull": "jobqueue",
    "QueueRunner": "flow.queuerunner",
    "QueueStats": "flow.base",
    "RandomShuffleQueue": "flow.queues",
    "RemoteError": "errors",
    "ResourceExhausted": "errors",
    "ResultNotSendable": "errors",
    "ResultTooLarge": "errors",
    "Retry": "retry",
    "Runner": "runner",
    "RunnerClosed": "errors",
    "Shared": "shared",
    "Stats": "stats",
    "SyncCoordinator": "flow.coordinator",
    "SyncQueue": "flow.blocking",
    "SyncRunner": "sync.runner",
    "TaskQueue": "sync.taskqueue",
    "ThreadLane": "lanes.thread",
    "ThreadPoolExecutor": "sync.executor",
    "WorkerLost": "errors",
    "WorkerStartError": "errors",
    "WouldDeadlock": "errors",
    "WrongLoop": "errors",
    "as_completed": "waiting",
    "background": "sync.background",
    "current_job": "context",
    "default_runner": "sync.background",
    "gather": "waiting",
    "job": "options",
    "plot": "plotting.opening",
    "run": "main",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncjobs' has no attribute {name!r}")
    value = getattr(import_module(f"asyncjobs.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `asyncjobs.job` the decorator: importing the module `asyncjobs.job` would put itself there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)  # as any module pickles for cloudpickle


sys.modules[__name__].__class__ = _Package
