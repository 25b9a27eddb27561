"""Name the states of a job and decide every move between them.

Pure: the table, and one function that reads it. Nothing else names a next state; the
documentation's table and the durable store's guards come from the same dict.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType


class JobState(IntEnum):
    """Where a job is; the last five are final."""

    QUEUED = 0
    """Accepted; not started (it may already lie in a worker's window)."""
    RUNNING = 1
    """Its function is running."""
    WAITING = 2
    """Between two attempts."""
    STOPPING = 3
    """Asked to stop while running; it has not ended yet."""
    SUCCEEDED = 4
    FAILED = 5
    TIMED_OUT = 6
    CANCELLED = 7
    LOST = 8
    """The machinery under it died: see the error's `cause`."""

    def __str__(self) -> str:
        return self.name

    @property
    def is_final(self) -> bool:
        """Whether no move leads out of it."""
        return self >= JobState.SUCCEEDED


FINAL = frozenset(state for state in JobState if state.is_final)


class Event(IntEnum):
    """What can happen to a job."""

    START = 0
    STOP = 1
    RETRY = 2
    DUE = 3
    SUCCEED = 4
    FAIL = 5
    TIME_OUT = 6
    CANCEL = 7
    LOSE = 8
    GIVE_BACK = 9
    """Its worker turns out not to have started it."""


class IllegalMove(AssertionError):
    """A move that the table does not have: a fault in asyncjobs itself."""


_ENDS_OF_AN_ATTEMPT = {
    Event.SUCCEED: JobState.SUCCEEDED,
    Event.FAIL: JobState.FAILED,
    Event.TIME_OUT: JobState.TIMED_OUT,
    Event.CANCEL: JobState.CANCELLED,
    Event.LOSE: JobState.LOST,
}

# Before it starts a job can be refused (FAIL: no worker comes up, RunnerClosed), run out
# of time or be cancelled; it can succeed or be lost only after a START.
_ENDS_BEFORE_START = {event: _ENDS_OF_AN_ATTEMPT[event] for event in (Event.FAIL, Event.TIME_OUT, Event.CANCEL)}

MOVES: MappingProxyType[JobState, MappingProxyType[Event, JobState]] = MappingProxyType(
    {
        JobState.QUEUED: MappingProxyType({Event.START: JobState.RUNNING, **_ENDS_BEFORE_START}),
        JobState.RUNNING: MappingProxyType(
            {
                Event.STOP: JobState.STOPPING,
                Event.RETRY: JobState.WAITING,
                Event.GIVE_BACK: JobState.QUEUED,
                **_ENDS_OF_AN_ATTEMPT,
            }
        ),
        JobState.WAITING: MappingProxyType({Event.DUE: JobState.QUEUED, **_ENDS_BEFORE_START}),
        # An attempt that was stopped for its own time limit may be tried again.
        JobState.STOPPING: MappingProxyType({Event.RETRY: JobState.WAITING, **_ENDS_OF_AN_ATTEMPT}),
        **{state: MappingProxyType({}) for state in FINAL},
    }
)

# The same table as rows, for a look-up without hashing.
_ROWS = tuple(tuple(MOVES[state].get(event) for event in Event) for state in JobState)


def advance(state: JobState, event: Event) -> JobState:
    """The state after `event`.

    Raises:
        IllegalMove: the table has no such move.
    """
    after = _ROWS[state][event]
    if after is None:
        allowed = ", ".join(move.name for move in MOVES[state]) or "none, it is final"
        raise IllegalMove(f"{event.name} while {state.name}; moves from there: {allowed}")
    return after
