"""Decide whether and when a failed attempt is tried again.

Pure: no clock, no sleeping, no job objects. The runner does the waiting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]

MAX_DELAY = 3600.0
"""No computed delay is longer than an hour, in seconds."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, when, and after which errors a job is tried again.

    Args:
        max: attempts after the first; ``Retry(3)`` calls the function at most four times.
        backoff: seconds before the second attempt, doubled before each later one and at
            most an hour; or a function from the attempt that failed (1, 2, ...) to seconds.
        jitter: share of each delay that is drawn at random, 0 to 1: with 0.5 a delay of
            8 s becomes 4 to 8 s. Keeps jobs that failed together from returning together.
        on: only these exceptions are worth another attempt.
        give_up_on: these never are; wins over `on`.

    Example: ``Retry(5, backoff=0.2, on=ConnectionError)`` waits about 0.2, 0.4, 0.8, 1.6, 3.2 s.
    """

    max: int
    backoff: float | Callable[[int], float] = 0.1
    jitter: float = 0.5
    on: ExceptionTypes = Exception
    give_up_on: ExceptionTypes = ()

    def __post_init__(self) -> None:
        if isinstance(self.max, bool) or not isinstance(self.max, int) or self.max < 0:
            raise ValueError(f"Retry.max is {self.max!r}; allowed: a whole number from 0")
        if not callable(self.backoff) and not (
            isinstance(self.backoff, (int, float)) and math.isfinite(self.backoff) and self.backoff >= 0
        ):
            raise ValueError(f"Retry.backoff is {self.backoff!r}; allowed: seconds from 0, or a function")
        if not (isinstance(self.jitter, (int, float)) and 0 <= self.jitter <= 1):
            raise ValueError(f"Retry.jitter is {self.jitter!r}; allowed: 0 to 1")
        for name, types in (("on", self.on), ("give_up_on", self.give_up_on)):
            _check_types(name, types)

    def decide(self, attempt: int, error: BaseException, random: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        Args:
            attempt: the one that failed, counted from 1.
            error: what it raised.
            random: a number drawn from [0, 1).

        Raises:
            TypeError: the backoff function returned no number; and whatever it raises itself.
        """
        if attempt > self.max or isinstance(error, self.give_up_on) or not isinstance(error, self.on):
            return None
        return self.delay(attempt, random)

    def delay(self, attempt: int, random: float) -> float:
        """Seconds between attempt `attempt` and the next."""
        plain = self.backoff(attempt) if callable(self.backoff) else self.backoff * 2.0 ** min(attempt - 1, 64)
        if not isinstance(plain, Real):
            raise TypeError(f"it returned {plain!r}; allowed: seconds from 0")
        return max(0.0, min(plain, MAX_DELAY)) * (1.0 - self.jitter * random)


def _check_types(name: str, types: object) -> None:
    members = types if isinstance(types, tuple) else (types,)
    for member in members:
        if not (isinstance(member, type) and issubclass(member, BaseException)):
            raise ValueError(f"Retry.{name} holds {member!r}; allowed: exception classes")
