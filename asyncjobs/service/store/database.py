"""One connection on one thread, and group commit: what arrives while a commit runs shares the next transaction.

What one turn of the loop asks for comes in one piece. A request is a function of the open transaction. Each that does
not come first has a savepoint, so that one that is refused takes nothing of its neighbours along; all are answered
after the COMMIT is on disk. On a full disk the group is taken apart and each request tried alone. After an error of
the disk nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from asyncjobs.failpoint import has_flaw, point
from asyncjobs.service.errors import ServiceError, ServiceGone, StorageBroken, StorageFull
from asyncjobs.service.records import Event, StoredEnd
from asyncjobs.service.store.connecting import LOG_BYTES, checkpoint, close, connect
from asyncjobs.service.store.faults import is_full
from asyncjobs.service.store.mark import Mark
from asyncjobs.service.store.opening import Opened, look_first, make_ready
from asyncjobs.service.store.outlook import Outlook, look_ahead
from asyncjobs.service.store.requests import Errand, Item, Kind, News, R, Request, Together, Work, answer, perform
from asyncjobs.service.store.settings import StoreSettings
from asyncjobs.service.store.transaction import Numbers, Transaction
from asyncjobs.service.store.turn import Turn

GROUP = 256
"""So many requests share a transaction at most."""

CHECKPOINT_BYTES = LOG_BYTES
"""About so much is written to the log beside the database before it is copied over."""
_COMMIT_BYTES = 32_000
_CHANGE_BYTES = 600

_SETTLE = Kind("settle", is_owed=True)
_ROOM = Kind("room", writes=False)


class Database:
    """The thread and its queue.

    Args:
        settings: see there.
        leftover: a transaction for what others have left over (`Transaction.has_more`).
        hear: called on the loop after each commit with its events, what ended, and what may be claimed now.
    """

    def __init__(
        self,
        settings: StoreSettings,
        leftover: Work[None],
        hear: Callable[[Sequence[Event], Sequence[StoredEnd], Outlook | None], None],
    ) -> None:
        self.settings = settings
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Done when the disk failed: the process has to end."""
        self._loop = asyncio.get_running_loop()
        self._leftover = leftover
        self._hear = hear
        self._queue: SimpleQueue[list[Item]] = SimpleQueue()
        self._turn = Turn(self._loop, self._queue.put)
        self._is_closing = False
        self._failure: BaseException | None = None
        self._opened: asyncio.Future[Opened] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._group: list[Request[Any]] = []
        """What the thread works on, and has not answered yet."""
        self._inbox: deque[Item] = deque()
        """What the thread has not looked at yet."""
        self._errands: deque[Errand[Any]] = deque()
        self._is_last = False
        """Whether `close` was met in the queue."""
        self._thread = threading.Thread(target=self._serve, name="asyncjobs-store", daemon=True)
        self._mark: Mark | None = None
        self._numbers = Numbers(0, 0)
        self._epoch = 0
        self._weight = 0
        self._last_now = 0.0
        self._is_room_given = False
        """Whether the ballast was released, and is to be taken back when there is space again."""

    # -- on the loop

    async def start(self) -> Opened:
        """Open the database; raises what stands against it (see `opening`)."""
        self._thread.start()
        return await self._opened

    async def run(
        self,
        kind: Kind,
        work: Work[R],
        undo: Callable[[R], None] | None = None,
        together: Together | None = None,
        patience: float = 0.0,
    ) -> R:
        """The result of `work`, once it is on disk; see `Request` for the others.

        Args:
            patience: seconds that it may wait for others to share its transaction.

        Raises:
            StorageFull: the disk is full; nothing was written.
            StorageBroken: the disk failed, now or before.
            ServiceGone: the store is closed.
        """
        if self._is_closing:
            raise self._refusal()
        future: asyncio.Future[R] = self._loop.create_future()
        self._turn.add(Request(kind, work, future, undo, together), patience)
        return await future

    async def run_outside(self, work: Callable[[sqlite3.Connection, Callable[[], None]], R]) -> R:
        """The result of `work`, which has the connection outside of transactions (`Errand`).

        Raises:
            ServiceError: what `work` raises.
            StorageBroken, ServiceGone: as `run` does.
        """
        if self._is_closing:
            raise self._refusal()
        future: asyncio.Future[R] = self._loop.create_future()
        self._turn.add(Errand(work, future))
        return await future

    async def make_room(self) -> bool:
        """Give the ballast free for something beside the database; False: there is none any more."""
        return await self.run(_ROOM, lambda tx: self._release())

    def fail(self, error: BaseException) -> StorageBroken:
        """What to raise when the disk failed beside the database: the process has to end."""
        problem = StorageBroken(f"the disk failed: {error}")
        problem.__cause__ = error
        if not self.broken.done():
            self.broken.set_result(problem)
        return problem

    def post(self, kind: Kind, work: Work[Any]) -> None:
        """Have it done, without waiting for it."""
        if not self._is_closing:
            self._turn.add(Request(kind, work, None))

    async def close(self) -> None:
        """Finish what has been asked for, and close the database. May be called again."""
        if not self._is_closing:
            self._is_closing = True
            self._turn.add(None)
        await asyncio.shield(self._ended)

    def _deliver(self, news: News) -> None:
        if (news.outlook is not None or news.events) and not has_flaw("lost_wakeup"):
            self._hear(news.events, news.ends, news.outlook)
        for request in news.requests:
            answer(request)

    def _tell_opened(self, opened: Opened, outlook: Outlook) -> None:
        self._hear((), (), outlook)
        self._opened.set_result(opened)

    def _end(self, error: BaseException | None, unanswered: Sequence[Request[Any] | Errand[Any]]) -> None:
        # The thread has ended: by `close`, or because the disk or asyncjobs itself failed.
        self._thread.join()
        self._failure = error
        self._is_closing = True
        if error is not None and not self._opened.done():
            self._opened.set_exception(error)
        elif error is not None and not self.broken.done():
            self.broken.set_result(self._refusal() if isinstance(error, (sqlite3.Error, OSError)) else error)
        for request in [*unanswered, *self._drain()]:
            request.error = self._refusal()
            answer(request)
        if not self._ended.done():
            self._ended.set_result(None)

    def _drain(self) -> list[Request[Any] | Errand[Any]]:
        items = [*self._inbox]
        while not self._queue.empty():
            items += self._queue.get_nowait()
        items += self._turn.items
        return [item for item in items if item is not None]

    def _refusal(self) -> Exception:
        if self._failure is None:
            return ServiceGone("the store is closed")
        refusal = StorageBroken(f"the database failed: {self._failure}")
        refusal.__cause__ = self._failure
        return refusal

    # -- on the thread

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        error: BaseException | None = None
        try:
            self._mark = look_first(self.settings)
            connection = connect(self.settings.path)
            opened = make_ready(connection, self.settings)
            self._numbers, self._epoch = opened.numbers, opened.epoch
            self._mark.set(self._numbers.event)
            if self.settings.ballast is not None:
                self._is_room_given = not self.settings.ballast.restore()
            if opened.has_more:
                self._queue.put([Request(_SETTLE, self._leftover, None)])
            self._call(self._tell_opened, opened, look_ahead(connection))
            self._work(connection)
        except BaseException as failure:
            error = failure
        try:
            if connection is not None:
                close(connection, is_sound=error is None)
            if self._mark is not None:
                self._mark.close(self._numbers.event, is_clean=connection is not None and error is None)
        except (sqlite3.Error, OSError) as failure:
            error = error or failure
        self._call(self._end, error, [*self._group, *self._errands])

    def _work(self, connection: sqlite3.Connection) -> None:
        while not self._is_last:
            self._serve_group(connection, self._take(waits=True))
            while self._errands:
                self._run(connection, self._errands[0])
                self._errands.popleft()

    def _serve_group(self, connection: sqlite3.Connection, group: list[Request[Any]]) -> None:
        if not group:
            return
        self._take_room_back()
        self._commit(connection, group)
        self._group = []
        self._copy_log(connection)
        if any(request.kind.makes_room for request in group):
            self._take_room_back()

    def _take(self, *, waits: bool) -> list[Request[Any]]:
        # All that has come by now; waits, without a look now and then, if that is nothing. Whatever goes wrong in here,
        # each request is in the inbox or in the group, to be answered at the end; no group is being served now.
        group = self._group
        with contextlib.suppress(Empty):
            if not self._inbox:
                self._inbox.extend(self._queue.get(block=waits))
            while len(group) < GROUP and not self._is_last:
                if not self._inbox:
                    self._inbox.extend(self._queue.get_nowait())
                self._sort(self._inbox[0], group)
                self._inbox.popleft()
        return group

    def _sort(self, item: Item, group: list[Request[Any]]) -> None:
        if item is None:
            self._is_last = True
        elif isinstance(item, Errand):
            self._errands.append(item)
        else:
            group.append(item)

    def _run(self, connection: sqlite3.Connection, errand: Errand[Any]) -> None:
        # What it raises itself is its own; what others raise meanwhile is not of that class, and ends the thread.
        try:
            errand.result = errand.work(connection, lambda: self._serve_meanwhile(connection))
        except ServiceError as error:
            errand.error = error
        self._call(answer, errand)

    def _serve_meanwhile(self, connection: sqlite3.Connection) -> None:
        self._serve_group(connection, self._take(waits=False))
        if self._is_last:
            raise ServiceGone("the store is closed")

    def _commit(self, connection: sqlite3.Connection, group: list[Request[Any]]) -> None:
        try:
            if not self._is_room_given:
                return self._try(connection, group)
        except sqlite3.Error as error:
            if not is_full(error):
                raise
            _roll_back(connection)
        while self._group:
            self._commit_alone(connection, self._group[0])
            del self._group[0]
        return None

    def _commit_alone(self, connection: sqlite3.Connection, request: Request[Any]) -> None:
        # What the ballast left is for what is owed: a claim or a submit would use it up.
        tries = 0 if self._is_room_given and request.kind.may_wait else 2
        for _ in range(tries):
            try:
                return self._try(connection, [request])
            except sqlite3.Error as error:
                if not is_full(error):
                    raise
                _roll_back(connection)
                if not (request.kind.is_owed and self._release()):
                    break
        request.error = StorageFull("the disk is full; nothing of the request was taken")
        return self._post(News([request]))

    def _release(self) -> bool:
        is_given = self.settings.ballast is not None and self.settings.ballast.release()
        self._is_room_given = self._is_room_given or is_given
        return is_given

    def _try(self, connection: sqlite3.Connection, group: list[Request[Any]]) -> None:
        # One transaction for all of `group`; whatever sqlite3 raises that is not one request's own fault comes out.
        self._last_now = max(self._last_now, self.settings.clock())
        tx = Transaction(connection, self.settings, self._numbers, self._epoch, self._last_now)
        connection.execute("BEGIN IMMEDIATE")
        before = connection.total_changes
        perform(tx, group)
        numbers = tx.finish()
        has_written = connection.total_changes != before
        kinds = {request.kind for request in group if request.kind.writes}
        if has_flaw("ack_before_commit"):
            self._post(News(group))
            group = []
        for kind in kinds:
            point(kind.before)
        connection.execute("COMMIT")
        self._numbers = numbers
        assert self._mark is not None
        self._mark.set(numbers.event)
        for kind in kinds:
            point(kind.after)
        self._weight += has_written * _COMMIT_BYTES + (connection.total_changes - before) * _CHANGE_BYTES + tx.weight
        outlook = look_ahead(connection) if has_written else None
        if tx.has_more:
            self._queue.put([Request(_SETTLE, self._leftover, None)])
        point("notify.before")
        self._post(News(group, tx.events, tx.ends, outlook))

    def _copy_log(self, connection: sqlite3.Connection) -> None:
        # After the answers, so that nobody waits for it. A full disk is no harm here: the log goes on growing.
        is_idle = self._queue.empty() and not self._inbox
        bound = CHECKPOINT_BYTES if is_idle else 4 * CHECKPOINT_BYTES
        if self._weight < bound:
            return
        self._weight = 0
        try:
            checkpoint(connection)
        except sqlite3.Error as error:
            if not is_full(error):
                raise

    def _take_room_back(self) -> None:
        # Looked at when something is asked, not by the clock: an idle service uses no room.
        if self._is_room_given and self.settings.ballast is not None:
            self._is_room_given = not self.settings.ballast.restore()

    def _post(self, news: News) -> None:
        self._call(self._deliver, news)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        # A loop that was closed without `close` has nobody who could wait.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite may have rolled back by itself.
    if connection.in_transaction:
        connection.rollback()
