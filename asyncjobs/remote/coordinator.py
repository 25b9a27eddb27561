"""A coordinator in a worker process: `RemoteCoordinator`. Its token is there; a request to stop it passes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyncjobs.remote.hosted import arrive, ask
from asyncjobs.token import CancelToken, passenger
from asyncjobs.wire import failure


class RemoteCoordinator:
    """What a process job gets for a coordinator: who does the work asks and reports, who coordinates joins."""

    def __init__(self, number: int, token: CancelToken) -> None:
        self._number = number
        self.token: CancelToken = token
        """The flag itself; after a `clear_stop` it is that of before."""

    def should_stop(self) -> bool:
        """Whether a stop has been requested; one memory read."""
        return self.token.cancelled

    def wait_for_stop(self, timeout: float | None = None) -> bool:
        """Block until a stop is requested, at most `timeout` seconds; whether it was."""
        return self.token.wait(timeout)

    def request_stop(self, exception: Any = None) -> None:
        """Ask all to stop; with an exception, or a ``sys.exc_info()``, say why.

        Raises:
            BaseException: the exception itself after `join`, when nobody else would ever see it.
        """
        error = exception[1] if isinstance(exception, tuple) else exception
        ask(self._number, "a coordinator", "request_stop", None if error is None else failure.capture(error))
        # The flag's own news is still on its way here.
        self.token.cancel("a stop was requested" if error is None else f"{type(error).__name__}: {error}")

    @contextmanager
    def stop_on_exception(self) -> Iterator[None]:
        """Report what the block raises, and go on behind it; the job's own stop passes through."""
        try:
            yield
        except Exception as error:
            self.request_stop(error)

    def __reduce__(self) -> tuple[Any, ...]:
        passenger(self)
        return arrive, (self._number, type(self), ())  # it goes home, where it is itself
