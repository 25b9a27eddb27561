"""Read what a worker's answer, or its end, means for the call.

Pure: bytes and facts in, values and errors out.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from asyncjobs.errors import ResourceExhausted, ResultNotSendable, WorkerLost, WorkerStartError
from asyncjobs.lanes.base import Call, ChunkResult, Failed, Outcome, Stopped
from asyncjobs.lanes.death import Death
from asyncjobs.wire import codec, failure, frames, parcel
from asyncjobs.wire.arena import Reader


def value_of(body: memoryview, call: Call, results: Reader | None) -> Any:
    """The value that an answer carries; a parcel, if it is to be found among the worker's `results`.

    Raises:
        ResultNotSendable: it cannot be rebuilt in this process.
    """
    return rebuilt(*_opened(body, call, results), call)


def _opened(body: memoryview, call: Call, results: Reader | None) -> tuple[memoryview, list[memoryview | bytearray]]:
    try:
        return (body, []) if results is None else parcel.unpack(body, results)
    except (OSError, ValueError) as error:
        raise _not_rebuilt(call, error) from error


def rebuilt(stream: bytes | memoryview, buffers: Sequence[memoryview | bytearray], call: Call) -> Any:
    """The value that was pickled as `stream`, with the buffers that were left out.

    Raises:
        ResultNotSendable: it cannot be rebuilt in this process.
    """
    try:
        value = codec.loads(stream, buffers=buffers)
    # The user's own class may raise anything while it is rebuilt.
    except BaseException as error:
        stream, buffers = b"", ()  # the traceback would keep them
        raise _not_rebuilt(call, error) from error
    return _chunk(value) if call.plan.chunked else value


def unsuccessful(kind: int, seconds: float, body: memoryview) -> Outcome:
    """What an answer other than a value means."""
    if kind == frames.RAISED:
        return Failed(failure.rebuild(codec.loads(body)), seconds)
    return Stopped(seconds, "stopped", str(body, "utf-8"))


def _not_rebuilt(call: Call, error: BaseException) -> ResultNotSendable:
    return ResultNotSendable(
        f"the result of {call.name!r} could not be unpickled here: {failure.type_name(error)}: {failure.text_of(error)}"
    )


def _chunk(value: tuple[list[Any], dict[int, failure.Failure]]) -> ChunkResult:
    values, failures = value
    return ChunkResult(values, {index: failure.rebuild(failed) for index, failed in failures.items()})


def lost(name: str, call: Call, death: Death, item: int) -> WorkerLost:
    """The error for the call that ran when its worker died."""
    likely = "; possibly out of memory" if death.cause == "SIGKILL" else ""
    stderr = f"{failure.LAST_WORDS}{death.stderr[-4000:]}" if death.stderr else ""
    error = WorkerLost(
        f"worker {name} (pid {death.pid}) died ({death.cause}) while it ran {call.name!r}, "
        f"attempt {call.attempt}{likely}{stderr}"
    )
    error.lane, error.attempt = call.plan.lane, call.attempt
    error.pid, error.signal, error.exit_code = death.pid, death.signal, death.exit_code
    error.stderr, error.cause, error.item = death.stderr, death.cause, item
    return error


def closed_under(name: str, call: Call, pid: int) -> WorkerLost:
    """The error for the call that ran when its worker was closed, though nobody had asked it to stop."""
    error = WorkerLost(f"worker {name} (pid {pid}) was closed while it ran {call.name!r}, attempt {call.attempt}")
    error.lane, error.attempt, error.pid, error.cause = call.plan.lane, call.attempt, pid, "closed"
    return error


def no_process(name: str, error: Exception) -> Exception:
    """The error for a worker that the system did not let us start."""
    number = error.errno if isinstance(error, OSError) else errno.EAGAIN
    text = f"worker {name} could not be started: {errno.errorcode.get(number or 0, 'unknown')}: {error}"
    if number == errno.EAGAIN and "shutdown" not in str(error):
        return WorkerStartError(f"{text}; the limit of processes and threads may be reached")
    if number not in (errno.EMFILE, errno.ENFILE):
        return WorkerStartError(text)
    problem = ResourceExhausted(f"{text}; no descriptors are left")
    problem.resource = "descriptors"
    return problem


def no_children(name: str) -> WorkerStartError:
    """The error for a worker that multiprocessing does not let us start."""
    return WorkerStartError(
        f"worker {name} could not be started: this process is a daemonic one of multiprocessing, and such may have no "
        "children. If it is a worker of Dask: set DASK_DISTRIBUTED__WORKER__DAEMON=False where you start that"
    )


def no_hello(name: str, error: Exception, death: Death, tries: int) -> WorkerStartError:
    """The error for a worker that started and never got ready."""
    problem = WorkerStartError(
        f"worker {name} did not start: {error or type(error).__name__}; {tries} tries."
        f"{failure.LAST_WORDS}{death.stderr[-4000:] or '(none)'}"
    )
    problem.stderr = death.stderr
    return problem
