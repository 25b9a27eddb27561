"""What a sink is: one place that editions of a plot are sent to."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from asyncjobs.plotting.edition import Edition


@runtime_checkable
class Sink(Protocol):
    """One place that editions of a plot are sent to.

    Its methods run in a thread, one call at a time. A sink gets the newest edition, not every one. One with a number
    `every` is given none for so many seconds after each, unless the plot waits for it, as at its end.
    """

    target: str
    """What it was made from, fit to be shown: no passwords."""

    def send(self, edition: Edition) -> None:
        """Block until the edition has arrived.

        Raises:
            Refused: it did not, and says when to try again.
            Exception: it did not; it is tried again later.
        """

    def close(self) -> None:
        """Let go of what is open; nothing is sent later. A call that has not ended in time may still run meanwhile."""


class Refused(Exception):
    """A sink's server has said no: `retry_after` seconds are to pass before the next try, None if it did not say."""

    def __init__(self, text: str, retry_after: float | None = None, *, is_final: bool = False) -> None:
        super().__init__(text, retry_after, is_final)
        self.retry_after = retry_after
        self.is_final = is_final
        """The same again would be refused again: wait as long as a sink ever waits."""

    def __str__(self) -> str:
        return str(self.args[0])
