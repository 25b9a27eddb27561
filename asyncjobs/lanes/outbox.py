"""What is on its way to one worker: calls as frames, and the large parts that are copied before them.

Many frames go out in one write. A large copy is made by a thread, so that the loop goes on
meanwhile; what comes after it waits. Knows no order of calls and no answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from asyncjobs.lanes.base import Call
from asyncjobs.lanes.body import Body
from asyncjobs.lanes.errands import OFF_LOOP, Errands
from asyncjobs.lanes.vocabulary import Vocabulary
from asyncjobs.shared import SharedObject, Shares
from asyncjobs.wire import frames
from asyncjobs.wire.parcel import LARGE, Packed, Parcel
from asyncjobs.wire.terms import CALL_HEAD, KEYWORDS, MARKED, PARCEL, STARRED

HEARD_BY_OUTBOX = frozenset({frames.DROPPED, frames.ASK, frames.TAKEN, frames.WITHDRAWN})


class Outbox:
    """Frames for one worker, collected until `flush`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        body: Body,
        vocabulary: Vocabulary,
        shares: Shares,
        threads: Executor,
        on_sent: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._body = body
        self._freight = body.freight
        self._vocabulary = vocabulary
        self._known = vocabulary.known
        self._shares = shares
        self._threads = threads
        self._on_sent = on_sent
        self._frames: list[bytes] = []
        self._copies: list[Packed] = []
        self.is_loading: bool = False
        """A thread copies: nothing more may be added."""
        # Shared objects that the worker may have mapped, and how often it was told to drop each.
        self._adopted: dict[int, tuple[SharedObject, int]] = {}
        shares.on_close.add(self._drop)
        self._errands = Errands(loop, body, threads, self._look_after)

    def add(self, ticket: int, call: Call, is_marked: bool, may_wait: Callable[[], bool]) -> bool:
        """Add a call; False: there is no room for its large arguments, and it `may_wait()` for some.

        Its output begins with a mark where it `is_marked`.
        """
        plan, payload = call.plan, call.payload
        assert payload is not None
        flags = (KEYWORDS if payload.keywords else 0) | (STARRED if plan.starred else 0) | (MARKED if is_marked else 0)
        data = payload.data
        if payload.buffers or len(data) >= LARGE:
            packed = self._packed(Parcel(data, payload.buffers), may_wait)
            if packed is None:
                return False
            data, flags = packed, flags | PARCEL
        self._freight.has_news = True
        number, forget = plan.number, 0
        if number not in self._known:
            number, forget = self._vocabulary.define(plan, payload, self._frames, self._packed_function)
        body = CALL_HEAD.pack(number, call.attempt, call.number, flags) + data
        self._frames.append(frames.header(frames.CHUNK if plan.chunked else frames.CALL, ticket, body))
        self._frames.append(body)
        if forget:
            self._frames.append(frames.encode(frames.FORGET, forget))
        if payload.passengers:
            self._look_after(payload.passengers)
        return True

    def _packed(self, parcel: Parcel, may_wait: Callable[[], bool] = bool) -> bytes | None:
        packed = self._freight.pack(parcel)
        if packed is not None:
            self._copies.append(packed)
            return packed.body
        return None if may_wait() else self._freight.pack_inline(parcel)

    def _packed_function(self, parcel: Parcel) -> bytes:
        packed = self._packed(parcel)
        assert packed is not None
        return packed

    # --- sending ------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was added, in one write, after its large parts have been copied."""
        if self.is_loading or not self._frames:
            return
        if self._copies and sum(packed.nbytes for packed in self._copies) >= OFF_LOOP:
            self.is_loading = True
            self._freight.begin_copy()
            copying = self._loop.run_in_executor(self._threads, self._freight.copy, self._copies)
            copying.add_done_callback(self._copied)
            return
        if self._copies:
            self._freight.copy(self._copies)
        self._send()

    def _copied(self, copying: asyncio.Future[None]) -> None:
        self.is_loading = False
        self._freight.end_copy()
        error = copying.exception()
        if error is not None:
            self._body.kill(f"no memory for the arguments: {error}")
        self._send()
        self._on_sent()

    def _send(self) -> None:
        if self._vocabulary.obsolete:
            self._vocabulary.forget(self._frames)
        if self._freight.ended:
            self._frames.insert(0, frames.encode(frames.ENDED, 0, self._freight.to_tell()))
        outgoing, self._frames = self._frames, []
        self._copies = []
        self._body.write(outgoing)

    def trim(self, *, ask: bool) -> None:
        """Have unused memory given back here, and if we `ask` it, by the worker too."""
        freight = self._freight
        freight.arguments.trim()
        self._vocabulary.forget(self._frames)
        if ask and freight.has_news and not freight.is_trimming and (freight.granted or freight.arguments.in_use):
            freight.is_trimming, freight.has_news = True, False
            self._frames.append(frames.encode(frames.TRIM))
        if not self._copies:  # else a call is being added, and goes out whole
            self.flush()

    # --- tokens and shared objects ------------------------------------------------------

    def _look_after(self, passengers: tuple[Any, ...]) -> None:
        """The worker may map these from now on: they stay until it says that it looks at them no more."""
        self._vocabulary.watch(passengers, self._body)
        for shared in passengers:
            if not isinstance(shared, SharedObject):
                continue
            self._adopted.setdefault(shared.number, (shared, 0))
            if shared.is_closed:
                self._tell_drop(shared)

    def _drop(self, shared: SharedObject) -> None:
        """A handle was closed."""
        if shared.number in self._adopted:
            self._tell_drop(shared)
            self.flush()

    def _tell_drop(self, shared: SharedObject) -> None:
        told = self._adopted[shared.number][1]
        self._adopted[shared.number] = shared, told + 1
        self._frames.append(frames.encode(frames.DROP, shared.number))

    def hear(self, kind: int, number: int, body: memoryview) -> None:
        """What the worker says of shared objects, and what its jobs ask."""
        if kind == frames.DROPPED:
            self._dropped(number)
        else:
            self._errands.hear(kind, number, body)

    def _dropped(self, number: int) -> None:
        """The worker looks at a shared object no more; unless a later call brings it there again."""
        shared, told = self._adopted.get(number, (None, 0))
        if shared is None:
            return  # a last word of a worker that is let go
        if told > 1:
            self._adopted[number] = shared, told - 1
        else:
            del self._adopted[number]

    def close(self) -> None:
        """The worker is gone."""
        self._errands.close()
        self._shares.on_close.discard(self._drop)
        self._adopted.clear()
