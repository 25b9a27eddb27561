"""The exit codes of the service's commands, for scripts; those above 63 are those of sysexits.h."""

from __future__ import annotations

from asyncjobs.service import errors

OK = 0
JOB_FAILED = 1
"""The job FAILED, TIMED_OUT or was LOST."""
USAGE = 2
"""An option or a value is not allowed; also a key that stands for another call, and a job whose state forbids it."""
NO_SUCH_JOB = 3
JOB_CANCELLED = 4
BAD_STATE = 65
"""The state directory or the database cannot be used."""
NOT_RUNNING = 69
BROKEN = 70
"""The service answered what it never should."""
STORAGE_BROKEN = 74
TRY_LATER = 75
"""The queue or the disk is full, the service is stopping, or it runs already."""
NOT_ALLOWED = 77
DETACHED = 130
"""Ctrl-C: the command ended, the job goes on."""

_CODES: tuple[tuple[type[errors.ServiceError], int], ...] = (
    (errors.ServiceNotRunning, NOT_RUNNING),
    (errors.ServiceGone, TRY_LATER),
    (errors.ServiceRunning, TRY_LATER),
    (errors.ServiceFull, TRY_LATER),
    (errors.StorageFull, TRY_LATER),
    (errors.StorageBroken, STORAGE_BROKEN),
    (errors.StateRefused, BAD_STATE),
    (errors.NoSuchJob, NO_SUCH_JOB),
    (errors.BadRequest, USAGE),
    (errors.UnknownFunction, USAGE),
    (errors.KeyConflict, USAGE),
    (errors.NotNow, USAGE),
    (errors.NotAuthorized, NOT_ALLOWED),
    (errors.NotAllowed, NOT_ALLOWED),
)


def code_of(error: errors.ServiceError) -> int:
    """What a command exits with that this error ended."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), BROKEN)


def code_for(state: str) -> int:
    """What `run` exits with for a job's final state."""
    return {"SUCCEEDED": OK, "CANCELLED": JOB_CANCELLED}.get(state, JOB_FAILED)
