"""Write requests into the log: one event, one line, and nothing of a caller's secrets.

No header, no query and no body is ever written. What a caller chose (the path) is capped; the log's JSON escapes
it. Answers that went well are of level DEBUG: thousands come in a second.
"""

from __future__ import annotations

import logging

from asyncjobs.service.http.message import Request

_LOG = logging.getLogger("asyncjobs.service.http")
_PATH = 200
_SLOW = 1.0


class RequestLog:
    """Notes answers; the fields are in the record's `fields`, for a formatter that writes JSON."""

    def note(self, request: Request, status: int, seconds: float) -> None:
        """A request was answered."""
        level = logging.DEBUG if status < 400 and seconds < _SLOW else logging.INFO
        if status == 500:
            level = logging.WARNING
        if _LOG.isEnabledFor(level):
            _LOG.log(level, "request", extra={"fields": fields_of(request, status, seconds)})

    def broke(self, request: Request, error: BaseException) -> None:
        """A stream ended in an error."""
        _LOG.error("stream broke", exc_info=error, extra={"fields": fields_of(request, 200, 0.0)})


def fields_of(request: Request, status: int, seconds: float) -> dict[str, object]:
    """What is written of a request."""
    path = ascii(request.path)[1:-1]
    return {
        "method": request.method,
        "path": path if len(path) <= _PATH else f"{path[:_PATH]}...",
        "status": status,
        "seconds": round(seconds, 6),
        "nbytes": request.size,
        "peer": request.peer.label,
    }
