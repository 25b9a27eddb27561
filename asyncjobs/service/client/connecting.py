"""`connect`: the way to a service."""

from __future__ import annotations

import os

from asyncjobs.options import check_flag, check_seconds
from asyncjobs.service.client.client import ServiceClient
from asyncjobs.service.client.place import place_of
from asyncjobs.service.errors import BadRequest


def connect(
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the command line calls it --dir
    *,
    url: str | None = None,
    token: str | None = None,
    start: bool = False,
    timeout: float = 10.0,
) -> ServiceClient:
    """A client of the service whose state directory is `dir`; of yours, if nothing is said.

    Nothing happens before ``async with``, or ``with connect().sync``.

    Args:
        dir: the state directory; if not given, what the variable ``ASYNCJOBS_DIR`` says, as for the commands, or
            else ``~/.local/state/asyncjobs/default``.
        url: ``http://HOST:PORT`` of a service that is reached over TCP. Without `dir`, whose key seals what is
            pickled, only functions with names, and arguments and results that JSON can say, travel.
        token: what that service wants to be shown.
        start: start a service if none runs; it goes on when the program ends (see `ServiceClient.stop`).
        timeout: seconds that the service may be away, as when it is started again, before a call fails.

    Raises:
        BadRequest: the arguments contradict each other (a ValueError).

    Example::

        with connect(start=True).sync as service:
            job = service.submit(fit, part)
            print(job.id, job.result())
    """
    check_flag("start", start)
    check_seconds("timeout", timeout)
    if start and url is not None:
        raise BadRequest("start=True starts a service on this machine, in a directory: not one at a url")
    return ServiceClient(place_of(dir, url, token), start=start, timeout=timeout)
