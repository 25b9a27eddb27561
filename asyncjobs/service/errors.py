"""What the service refuses, one class each, with the HTTP status that says it over the wire.

AsyncJobsError
└── ServiceError
    ├── ServiceNotRunning      nobody answers (client)
    ├── ServiceGone            it stopped answering, or is stopping; what was accepted stands (503)
    ├── ServiceRunning         another one serves this state directory (start; exit code 75)
    ├── StateRefused           the state directory or its database cannot be used (start; exit code 65)
    ├── BadRequest             a value is not allowed; says which (400, also a ValueError)
    ├── NotAuthorized          no token, or a wrong one (401, also a PermissionError)
    ├── NotAllowed             the function is on no list, the seal is wrong (403, also a PermissionError)
    ├── UnknownFunction        no such module, or nothing of that name in it (400, also a LookupError)
    ├── NoSuchJob              (404, also a LookupError)
    ├── KeyConflict            the key stands for another call already (409)
    ├── NotNow                 the job's state does not allow it (409)
    ├── ServiceFull            the queue's limit is reached; `retry_after` seconds (429)
    ├── StorageFull            the disk is full; nothing was taken (507, also an OSError)
    └── StorageBroken          the disk failed; the service ends and has to be started anew (500)
"""

from __future__ import annotations

from asyncjobs.errors import AsyncJobsError


class ServiceError(AsyncJobsError):
    """Base of what the service and its client raise."""

    status: int = 500


class ServiceNotRunning(ServiceError, ConnectionError):
    """Nobody answers at the service's address."""


class ServiceGone(ServiceError, ConnectionError):
    """The service stopped answering, or is stopping."""

    status = 503


class ServiceRunning(ServiceError):
    """Another service holds the state directory."""

    pid: int = 0


class StateRefused(ServiceError):
    """The state directory, or the database in it, cannot be used; the text says why and what to do."""


class BadRequest(ServiceError, ValueError):
    """A value is not allowed."""

    status = 400


class NotAuthorized(ServiceError, PermissionError):
    """No token, or a wrong one."""

    status = 401


class NotAllowed(ServiceError, PermissionError):
    """The function may not be run here, or the call was not sealed with this service's key."""

    status = 403


class UnknownFunction(ServiceError, LookupError):
    """There is no module of that name, or nothing of that name in it (any more)."""

    status = 400


class NoSuchJob(ServiceError, LookupError):
    """The store has no job of that id (any more)."""

    status = 404


class KeyConflict(ServiceError):
    """The idempotency key stands for another call already; `id` is that job."""

    status = 409
    id: str = ""


class NotNow(ServiceError):
    """The job's state does not allow it."""

    status = 409


class ServiceFull(ServiceError):
    """So many jobs wait that no more are taken."""

    status = 429
    retry_after: float = 1.0


class StorageFull(ServiceError, OSError):
    """The disk is full; nothing of the request was taken."""

    status = 507


class StorageBroken(ServiceError, OSError):
    """The disk failed under the database."""

    status = 500
