"""One open transaction as the requests in it see it: statements by name, the log, numbers, tallies.

What a transaction keeps outside the database (the next numbers, events that are not written yet) goes back
with it: `mark` and `back_to` go with a savepoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from asyncjobs.service.records import Event, StoredEnd
from asyncjobs.service.store.queries import MOST_ROWS, SQL, WIDE, widened
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.state import JobState

Values = Sequence[Any] | Mapping[str, Any]


class Numbers(NamedTuple):
    """The highest numbers given so far, and how many jobs are in each state."""

    job: int
    event: int
    tallies: tuple[int, ...] = (0,) * len(JobState)


class Mark(NamedTuple):
    """Where `Transaction.back_to` leads."""

    numbers: Numbers
    is_first: bool
    """Nothing was written before it: it needs no savepoint."""
    events: int
    ends: int
    written: int
    removals: int
    weight: int


class Transaction:
    """Lives from BEGIN to COMMIT, on the store's thread."""

    def __init__(
        self, connection: sqlite3.Connection, settings: StoreSettings, numbers: Numbers, epoch: int, now: float
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.epoch = epoch
        """Which opening of the store this is."""
        self.now = now
        self.events: list[Event] = []
        """Written and to be written, in order."""
        self.ends: list[StoredEnd] = []
        """Jobs that got their final state, for those who wait for it."""
        self.removals: list[str] = []
        """Files below results/ that nobody needs once this is committed."""
        self.has_more = False
        """Whether work is left over for a transaction of its own (`settling`)."""
        self.weight: int = 0
        """Bytes of calls and outcomes that it writes."""
        self._job = numbers.job
        self._event = numbers.event
        self._tallies = list(numbers.tallies)
        self._tallies_on_disk = numbers.tallies
        # One row per event; the first `_written` of them are in the database.
        self._rows: list[tuple[Any, ...]] = []
        self._written = 0
        self._began_at = connection.total_changes

    # -- statements

    def run(self, name: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute the statement of that name."""
        return self.connection.execute(SQL[name], values)

    def run_many(self, name: str, rows: Collection[Sequence[Any]]) -> None:
        """Execute it for every row; many rows at once where they stand after VALUES.

        Each execution lets other threads have the interpreter, and whoever uses it too gives it back late.
        """
        if len(rows) < 2 or name not in WIDE:
            self.connection.executemany(SQL[name], rows)
            return
        pending = tuple(rows)
        for start in range(0, len(pending), MOST_ROWS):
            some = pending[start : start + MOST_ROWS]
            self.connection.execute(widened(name, len(some)), tuple(chain.from_iterable(some)))

    def one(self, name: str, values: Values = ()) -> Any:
        """The first row of its answer, or None."""
        return self.connection.execute(SQL[name], values).fetchone()

    def all(self, name: str, values: Values = ()) -> list[Any]:
        """Every row of its answer."""
        return self.connection.execute(SQL[name], values).fetchall()

    def each(self, name: str, *fixed: Any) -> list[str]:
        """The answers of a statement that gives the next text after its last question mark, from the first on.

        So SQLite steps from value to value in an index, where DISTINCT would read all of it.
        """
        values: list[str] = []
        row = self.one(name, (*fixed, ""))
        while row is not None:
            values.append(row[0])
            row = self.one(name, (*fixed, row[0]))
        return values

    # -- what every move leaves behind

    def next_job(self) -> int:
        """The sequence number of a new job."""
        self._job += 1
        return self._job

    @property
    def last_job(self) -> int:
        """The highest number given to a job so far."""
        return self._job

    @property
    def next_event(self) -> int:
        """The number that the next event will have."""
        return self._event + 1

    def log(self, job: int, id: str, kind: str, state: JobState, attempt: int, note: str = "") -> int:
        """Add an event; its number."""
        self._event = seq = self._event + 1
        self.events.append(Event(seq, id, kind, state, attempt, self.epoch, self.now, note))
        self._rows.append((seq, job, kind, int(state), attempt, self.epoch, self.now, note))
        return seq

    def count(self, before: JobState | None, after: JobState | None, jobs: int = 1) -> None:
        """Keep the tallies in step with `jobs` that go from `before` (None: new) to `after` (None: pruned)."""
        if before is not None:
            self._tallies[before] -= jobs
        if after is not None:
            self._tallies[after] += jobs

    def tally(self, *states: JobState) -> int:
        """How many jobs are in one of the states now."""
        return sum(self._tallies[state] for state in states)

    def write_log(self) -> None:
        """Put the events into the database that are not there yet: before it is read or cut."""
        if self._written < len(self._rows):
            self.run_many("add_event", self._rows[self._written :])
            self._written = len(self._rows)

    # -- savepoints and the end

    def mark(self) -> Mark:
        """Begin a savepoint. What the transaction begins with needs none: the transaction itself is one."""
        is_first = self.connection.total_changes == self._began_at
        if not is_first:
            self.connection.execute("SAVEPOINT request")
        numbers = Numbers(self._job, self._event, tuple(self._tallies))
        lengths = len(self.events), len(self.ends), self._written, len(self.removals)
        return Mark(numbers, is_first, *lengths, self.weight)

    def keep(self, mark: Mark) -> None:
        """End the savepoint; what happened since stands."""
        if not mark.is_first:
            self.connection.execute("RELEASE request")

    def back_to(self, mark: Mark) -> None:
        """Undo all since `mark`, and end its savepoint."""
        if mark.is_first:
            self.connection.execute("ROLLBACK")
            self.connection.execute("BEGIN IMMEDIATE")
            self._began_at = self.connection.total_changes
        else:
            self.connection.execute("ROLLBACK TO request")
            self.connection.execute("RELEASE request")
        self._job, self._event, self._tallies = mark.numbers.job, mark.numbers.event, list(mark.numbers.tallies)
        self._written, self.weight = mark.written, mark.weight
        del self.events[mark.events :]
        del self._rows[mark.events :]
        del self.ends[mark.ends :]
        del self.removals[mark.removals :]

    def finish(self) -> Numbers:
        """Write what is pending; the numbers for the next transaction. COMMIT comes next."""
        self.write_log()
        tallies = tuple(self._tallies)
        if tallies != self._tallies_on_disk:
            pairs = zip(tallies, self._tallies_on_disk, strict=True)
            self.run_many("set_tally", [(new, state) for state, (new, old) in enumerate(pairs) if new != old])
        return Numbers(self._job, self._event, tallies)
