"""Open the outcome of a job for people: the value as JSON or as Python shows it, the traceback of an error.

An outcome is loaded only after its seal was checked: the workers of this very service made it. Of a service that is
reached by its URL, whose key is not ours, it is what the service says of it.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, NamedTuple

from asyncjobs.cli.asking import Desk, job_path
from asyncjobs.service import envelope, outcome
from asyncjobs.service.protocol import ResultView
from asyncjobs.wire.failure import Failure

LARGEST = 64 * 2**20
"""Bytes beyond which a pickled value is not loaded only to be shown."""


class Opened(NamedTuple):
    """What became of a job."""

    value: Any = None
    """What JSON can say of it."""
    text: str = ""
    """How Python shows a value that JSON cannot say."""
    traceback: str = ""
    """Of a job that raised."""


def open_outcome(desk: Desk, job_id: str) -> Opened:
    """Fetch and open the outcome of a job that has ended.

    Raises:
        ServiceError: the service has it no more, or the seal is wrong.
    """
    key = desk.door.key()
    if key is None:
        return _told(desk, job_id)
    sealed = desk.get_raw(job_path(job_id, "outcome"))
    if not sealed:  # it ended before it ran
        return Opened()
    body = envelope.open(key, job_id, sealed)
    kind, content = body[:1], body[1:]
    if kind == outcome.JSON:
        return Opened(value=json.loads(content))
    if kind == outcome.FAILURE:
        return Opened(traceback=Failure(*pickle.loads(content)).traceback)
    return Opened(text=_shown(content))


def _told(desk: Desk, job_id: str) -> Opened:
    # Without the key: what the service itself says of it. The note of a job that raised says what.
    view = desk.get(job_path(job_id, "result"), ResultView)
    return Opened(value=view.value, text=view.repr or "")


def result_json(opened: Opened) -> dict[str, Any]:
    """The same for programs: ``value``, or ``repr`` where JSON cannot say it, or ``traceback``."""
    if opened.traceback:
        return {"traceback": opened.traceback}
    return {"repr": opened.text} if opened.text else {"value": opened.value}


def _shown(content: bytes) -> str:
    if len(content) > LARGEST:
        return f"a pickled value of {len(content):,} bytes"
    try:
        return repr(pickle.loads(content))
    # Whatever its class does wrong while it is loaded or shown, or that its module is not here.
    except Exception as error:
        return (
            f"a pickled value of {len(content):,} bytes, which cannot be shown here ({type(error).__name__}: {error})"
        )
