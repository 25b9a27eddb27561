from asyncjobs.context import JobContext as JobContext
from asyncjobs.context import current_job as current_job
from asyncjobs.errors import ArenaFull as ArenaFull
from asyncjobs.errors import AsyncJobsError as AsyncJobsError
from asyncjobs.errors import JobCancelled as JobCancelled
from asyncjobs.errors import JobError as JobError
from asyncjobs.errors import JobStopped as JobStopped
from asyncjobs.errors import JobTimeout as JobTimeout
from asyncjobs.errors import LaneStalled as LaneStalled
from asyncjobs.errors import NotSendable as NotSendable
from asyncjobs.errors import OutOfRangeError as OutOfRangeError
from asyncjobs.errors import PlotIncomplete as PlotIncomplete
from asyncjobs.errors import QueueClosedError as QueueClosedError
from asyncjobs.errors import RemoteError as RemoteError
from asyncjobs.errors import ResourceExhausted as ResourceExhausted
from asyncjobs.errors import ResultNotSendable as ResultNotSendable
from asyncjobs.errors import ResultTooLarge as ResultTooLarge
from asyncjobs.errors import RunnerClosed as RunnerClosed
from asyncjobs.errors import WorkerLost as WorkerLost
from asyncjobs.errors import WorkerStartError as WorkerStartError
from asyncjobs.errors import WouldDeadlock as WouldDeadlock
from asyncjobs.errors import WrongLoop as WrongLoop
from asyncjobs.events import JobEvent as JobEvent
from asyncjobs.events import Progress as Progress
from asyncjobs.flow.base import QueueStats as QueueStats
from asyncjobs.flow.blocking import SyncQueue as SyncQueue
from asyncjobs.flow.coordinator import Coordinator as Coordinator
from asyncjobs.flow.coordinator import SyncCoordinator as SyncCoordinator
from asyncjobs.flow.queuerunner import QueueRunner as QueueRunner
from asyncjobs.flow.queues import FIFOQueue as FIFOQueue
from asyncjobs.flow.queues import PaddingFIFOQueue as PaddingFIFOQueue
from asyncjobs.flow.queues import PriorityQueue as PriorityQueue
from asyncjobs.flow.queues import RandomShuffleQueue as RandomShuffleQueue
from asyncjobs.job import Job as Job
from asyncjobs.jobqueue import QueueFull as QueueFull
from asyncjobs.lanes.dask import DaskLane as DaskLane
from asyncjobs.lanes.executor import ExecutorLane as ExecutorLane
from asyncjobs.lanes.loop import LoopLane as LoopLane
from asyncjobs.lanes.process import ProcessLane as ProcessLane
from asyncjobs.lanes.ray import RayLane as RayLane
from asyncjobs.lanes.thread import ThreadLane as ThreadLane
from asyncjobs.lines import Lines as Lines
from asyncjobs.main import run as run
from asyncjobs.options import JobOptions as JobOptions
from asyncjobs.options import job as job
from asyncjobs.pipeline.faults import ErrorBudget as ErrorBudget
from asyncjobs.pipeline.pipeline import Pipeline as Pipeline
from asyncjobs.pipeline.report import PipelineReport as PipelineReport
from asyncjobs.plotting.opening import plot as plot
from asyncjobs.plotting.plot import Plot as Plot
from asyncjobs.retry import Retry as Retry
from asyncjobs.runner import Runner as Runner
from asyncjobs.service.client.client import ServiceClient as ServiceClient
from asyncjobs.service.client.connecting import connect as connect
from asyncjobs.service.client.job import ServiceJob as ServiceJob
from asyncjobs.service.client.sync import SyncServiceClient as SyncServiceClient
from asyncjobs.service.client.syncjob import SyncServiceJob as SyncServiceJob
from asyncjobs.service.errors import BadRequest as BadRequest
from asyncjobs.service.errors import KeyConflict as KeyConflict
from asyncjobs.service.errors import NoSuchJob as NoSuchJob
from asyncjobs.service.errors import NotAllowed as NotAllowed
from asyncjobs.service.errors import NotAuthorized as NotAuthorized
from asyncjobs.service.errors import NotNow as NotNow
from asyncjobs.service.errors import ServiceError as ServiceError
from asyncjobs.service.errors import ServiceFull as ServiceFull
from asyncjobs.service.errors import ServiceGone as ServiceGone
from asyncjobs.service.errors import ServiceNotRunning as ServiceNotRunning
from asyncjobs.service.errors import StateRefused as StateRefused
from asyncjobs.service.errors import StorageBroken as StorageBroken
from asyncjobs.service.errors import StorageFull as StorageFull
from asyncjobs.service.errors import UnknownFunction as UnknownFunction
from asyncjobs.service.records import Limit as Limit
from asyncjobs.shared import Shared as Shared
from asyncjobs.state import JobState as JobState
from asyncjobs.stats import Stats as Stats
from asyncjobs.sync.background import background as background
from asyncjobs.sync.background import default_runner as default_runner
from asyncjobs.sync.executor import ProcessPoolExecutor as ProcessPoolExecutor
from asyncjobs.sync.executor import ThreadPoolExecutor as ThreadPoolExecutor
from asyncjobs.sync.pool import Pool as Pool
from asyncjobs.sync.runner import SyncRunner as SyncRunner
from asyncjobs.sync.taskqueue import TaskQueue as TaskQueue
from asyncjobs.token import CancelToken as CancelToken
from asyncjobs.waiting import as_completed as as_completed
from asyncjobs.waiting import gather as gather

__version__: str

__all__ = [
    "ArenaFull",
    "AsyncJobsError",
    "BadRequest",
    "CancelToken",
    "Coordinator",
    "DaskLane",
    "ErrorBudget",
    "ExecutorLane",
    "FIFOQueue",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobEvent",
    "JobOptions",
    "JobState",
    "JobStopped",
    "JobTimeout",
    "KeyConflict",
    "LaneStalled",
    "Limit",
    "Lines",
    "LoopLane",
    "NoSuchJob",
    "NotAllowed",
    "NotAuthorized",
    "NotNow",
    "NotSendable",
    "OutOfRangeError",
    "PaddingFIFOQueue",
    "Pipeline",
    "PipelineReport",
    "Plot",
    "PlotIncomplete",
    "Pool",
    "PriorityQueue",
    "ProcessLane",
    "ProcessPoolExecutor",
    "Progress",
    "QueueClosedError",
    "QueueFull",
    "QueueRunner",
    "QueueStats",
    "RandomShuffleQueue",
    "RayLane",
    "RemoteError",
    "ResourceExhausted",
    "ResultNotSendable",
    "ResultTooLarge",
    "Retry",
    "Runner",
    "RunnerClosed",
    "ServiceError",
    "ServiceFull",
    "ServiceGone",
    "ServiceNotRunning",
    "Shared",
    "StateRefused",
    "Stats",
    "StorageBroken",
    "StorageFull",
    "SyncCoordinator",
    "SyncQueue",
    "SyncRunner",
    "TaskQueue",
    "ThreadLane",
    "ThreadPoolExecutor",
    "UnknownFunction",
    "WorkerLost",
    "WorkerStartError",
    "WouldDeadlock",
    "WrongLoop",
    "__version__",
    "as_completed",
    "background",
    "current_job",
    "default_runner",
    "gather",
    "job",
    "plot",
    "run",
]
