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
    "BadRequest": "service.errors",
    "CancelToken": "token",
    "Coordinator": "flow.coordinator",
    "DaskLane": "lanes.dask",
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
    "KeyConflict": "service.errors",
    "LaneStalled": "errors",
    "Limit": "service.records",
    "Lines": "lines",
    "LoopLane": "lanes.loop",
    "NoSuchJob": "service.errors",
    "NotAllowed": "service.errors",
    "NotAuthorized": "service.errors",
    "NotNow": "service.errors",
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
    "RayLane": "lanes.ray",
    "RemoteError": "errors",
    "ResourceExhausted": "errors",
    "ResultNotSendable": "errors",
    "ResultTooLarge": "errors",
    "Retry": "retry",
    "Runner": "runner",
    "RunnerClosed": "errors",
    "ServiceClient": "service.client.client",
    "ServiceError": "service.errors",
    "ServiceFull": "service.errors",
    "ServiceGone": "service.errors",
    "ServiceJob": "service.client.job",
    "ServiceNotRunning": "service.errors",
    "Shared": "shared",
    "StateRefused": "service.errors",
    "Stats": "stats",
    "StorageBroken": "service.errors",
    "StorageFull": "service.errors",
    "SyncCoordinator": "flow.coordinator",
    "SyncQueue": "flow.blocking",
    "SyncRunner": "sync.runner",
    "SyncServiceClient": "service.client.sync",
    "SyncServiceJob": "service.client.syncjob",
    "TaskQueue": "sync.taskqueue",
    "ThreadLane": "lanes.thread",
    "ThreadPoolExecutor": "sync.executor",
    "UnknownFunction": "service.errors",
    "WorkerLost": "errors",
    "WorkerStartError": "errors",
    "WouldDeadlock": "errors",
    "WrongLoop": "errors",
    "as_completed": "waiting",
    "background": "sync.background",
    "connect": "service.client.connecting",
    "current_job": "context",
    "default_runner": "sync.background",
    "gather": "waiting",
    "job": "options",
    "plot": "plotting.opening",
    "run": "main",
}

# What needs the extra `service` is no part of `from asyncjobs import *`, which works without it.
__all__ = sorted(["__version__", *(name for name, home in _HOMES.items() if not home.startswith("service.client."))])


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncjobs' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"asyncjobs.{home}"), name)
    except ModuleNotFoundError as error:
        if not home.startswith("service.") or (error.name or "").startswith("asyncjobs"):
            raise
        hint = f"asyncjobs.{name} needs {error.name}: pip install 'asyncjobs-runner[service]'"
        raise ModuleNotFoundError(hint, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])


class _Package(ModuleType):
    """Keeps `asyncjobs.job` the decorator: importing the module `asyncjobs.job` would put itself there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)  # as any module pickles for cloudpickle


sys.modules[__name__].__class__ = _Package
