"""Every error that asyncjobs raises, as one tree.

    AsyncJobsError
    ├── JobError                  what became of a job; `await job` raises it
    │   ├── JobCancelled          somebody asked it to stop, and it did
    │   ├── JobTimeout            it ran past a limit (also a TimeoutError)
    │   ├── WorkerLost            its worker process died (also a BrokenProcessPool)
    │   ├── WorkerStartError      no worker could be started for it (also a BrokenProcessPool)
    │   ├── ResultNotSendable     its result cannot travel between processes
    │   ├── ResultTooLarge        its result exceeds `max_result`
    │   └── RemoteError           it raised something that cannot be raised here unharmed
    ├── NotSendable               an argument cannot travel to a process (also a TypeError and a PicklingError)
    ├── ArenaFull                 large data can never fit into the shared memory (also a MemoryError)
    ├── ResourceExhausted         the system gives no more threads, processes or descriptors
    ├── RunnerClosed              the runner takes no more jobs
    ├── WrongLoop                 called from another event loop or thread
    ├── LaneStalled               too many threads were abandoned
    ├── PlotIncomplete            a plot has not arrived everywhere, and was opened with `on_error="raise"`
    ├── WouldDeadlock             a job waits for a job that only its own end could start
    ├── OutOfRangeError           a closed queue of `asyncjobs.flow` has too few elements (also an EOFError)
    ├── QueueClosedError          a closed queue of `asyncjobs.flow` takes no more elements
    └── QueueFull                 in `asyncjobs.jobqueue` (also an asyncio.QueueFull)

    JobStopped (BaseException)    raised *inside* a job that is asked to stop

Every class pickles; fields are attributes. Knows nothing of asyncio: workers import it.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from pickle import PicklingError


class AsyncJobsError(Exception):
    """Base of everything that asyncjobs raises by itself."""


class JobError(AsyncJobsError):
    """What became of one job."""


class JobCancelled(JobError):
    """The job was asked to stop before it had a result.

    Deliberately an ordinary exception: `asyncio.CancelledError` means that the *awaiting*
    task is cancelled.
    """

    reason: str = ""


class JobTimeout(JobError, TimeoutError):
    """The job ran past one of its limits; `limit` says which, `seconds` how long it was."""

    limit: str = "timeout"
    seconds: float = 0.0


class WorkerLost(JobError, BrokenProcessPool):
    """The worker process died while it ran the job.

    Attributes:
        lane: the name of the job's lane.
        attempt: which attempt it was.
        pid: the worker's process id.
        signal: the signal's number, None if it was no signal or is unknown.
        exit_code: the exit code, None if it was a signal or is unknown.
        stderr: the last of what the worker wrote to its standard error, the stack that
            faulthandler printed included.
        cause: one line for people: ``SIGSEGV``, ``exit code 3``, ``max_rss``, ``unknown``.
        item: in a group of a map's items, the one that ran.
    """

    lane: str = ""
    attempt: int = 0
    pid: int | None = None
    signal: int | None = None
    exit_code: int | None = None
    stderr: str = ""
    cause: str = "unknown"
    item: int = 0


class WorkerStartError(JobError, BrokenProcessPool):
    """A worker did not come up.

    Attributes:
        stderr: the last of what its process printed.
        logged: what a log may say instead, where the error names an address.
    """

    stderr: str = ""
    logged: str = ""


class ResultNotSendable(JobError):
    """The function returned, but its result does not survive the trip between processes."""


class ResultTooLarge(JobError):
    """The pickled result has `nbytes`, more than the `limit` set by `max_result`."""

    nbytes: int = 0
    limit: int = 0


class ArenaFull(MemoryError, AsyncJobsError):
    """Large data would need more shared memory than the runner may ever use (`arena_bytes`).

    Attributes:
        need: bytes that it would take.
        used: bytes in use at that moment.
        cap: bytes that may be used.
    """

    need: int = 0
    used: int = 0
    cap: int = 0


class RemoteError(JobError):
    """A job raised what cannot be raised here as it is.

    `StopIteration`, `CancelledError`, `SystemExit` and every other `BaseException` would do
    harm when they travel through an await; other exceptions cannot be rebuilt here.

    Attributes:
        type_name: the exception's qualified name, such as ``json.decoder.JSONDecodeError``.
        text: its message.
        remote_traceback: the formatted traceback, at most 64 KiB.
        original: the exception itself where it could be rebuilt, else None.
    """

    type_name: str = ""
    text: str = ""
    remote_traceback: str = ""
    original: BaseException | None = None


class NotSendable(AsyncJobsError, TypeError, PicklingError):
    """An argument, or the function, cannot be pickled; `argument` is its path."""

    argument: str = ""


class ResourceExhausted(AsyncJobsError, RuntimeError):
    """The operating system refuses another thread, process or descriptor; `resource` says which."""

    resource: str = ""


class RunnerClosed(AsyncJobsError, RuntimeError):
    """The runner is closed or closing, or it broke down; then the cause is the fault."""


class WrongLoop(AsyncJobsError, RuntimeError):
    """The runner belongs to another event loop, thread or process."""


class LaneStalled(AsyncJobsError, RuntimeError):
    """So many jobs could not be stopped that the lane takes no more (see `max_abandoned`)."""


class WouldDeadlock(AsyncJobsError, RuntimeError):
    """What a job waits for can come only after the job itself has ended."""


class PlotIncomplete(AsyncJobsError, RuntimeError):
    """A plot that was opened with ``on_error="raise"`` has not arrived everywhere; what is missing is kept."""


class OutOfRangeError(AsyncJobsError, EOFError):
    """A queue is closed and has fewer elements than were to be taken; the end of its data.

    Attributes:
        requested: how many were to be taken.
        size: how many there are; they can still be taken.
    """

    requested: int = 0
    size: int = 0


class QueueClosedError(AsyncJobsError, RuntimeError):
    """A queue is closed, or was closed while an enqueue waited; `left` is how many elements did not go in."""

    left: int = 0


class JobStopped(BaseException):
    """Raised inside a job that was asked to stop: by `token.check()`, or by the stop ladder.

    A BaseException, so that a retry loop's ``except Exception`` does not eat it.
    """

    @property
    def reason(self) -> str:
        """Why the job is asked to stop."""
        return str(self.args[0]) if self.args else ""


class RemoteTraceback(Exception):
    """Shows, as the cause of a job's exception, the traceback text from where it happened."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""
