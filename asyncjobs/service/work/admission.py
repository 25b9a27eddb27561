"""What may come in: jobs that this service can and may run, and pauses that can hold something."""

from __future__ import annotations

from collections.abc import Sequence

from asyncjobs.service import envelope, outcome
from asyncjobs.service.allow import Allow
from asyncjobs.service.errors import BadRequest
from asyncjobs.service.records import NEAR, NewJob

MOST_NAMES = 10_000
"""Functions that are remembered as allowed."""


class Admission:
    """Looks at what is asked for before anything of it is written down."""

    def __init__(self, lanes: Sequence[str], allow: Allow, key: bytes) -> None:
        self._lanes = tuple(lanes)
        self._allow = allow
        self._key = key
        self._allowed: set[str] = set()

    def check_job(self, job: NewJob) -> None:
        """Whether it may run here.

        Raises:
            BadRequest: there is no such lane, or the call does not say what to run.
            NotAllowed: the function is on no list, or the call was not sealed with this service's key.
        """
        if job.lane not in self._lanes:
            raise BadRequest(f"there is no lane {job.lane!r} here: {', '.join(self._lanes)}")
        if job.at_most_once and job.lane != NEAR:
            raise BadRequest(
                f"at_most_once=True needs lane {NEAR!r}: from a cluster nothing is written down before it starts"
            )
        if job.function and job.function not in self._allowed:
            self._allow.check(job.function)
            if len(self._allowed) < MOST_NAMES:
                self._allowed.add(job.function)
        body = envelope.open(self._key, job.id, job.payload)
        if not job.function and body[:1] == outcome.JSON:
            raise BadRequest("a call by JSON has to name its function")

    def check_pause(self, scope: str) -> None:
        """Whether there is such a lane, if it is about one.

        Raises:
            BadRequest: there is not.
        """
        if scope.startswith("lane:") and scope.removeprefix("lane:") not in self._lanes:
            raise BadRequest(f"scope={scope!r} is not allowed: lanes here are {', '.join(self._lanes)}")
