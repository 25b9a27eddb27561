"""What travels to a cluster with a call: its order, and what is large beside it, shared objects once.

Small things are in the order itself. Large ones are put into the cluster first, and the engine brings them to the
worker.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from asyncjobs.lanes.base import Call, Host, Plan
from asyncjobs.lanes.clusterengine import Engine, Sending
from asyncjobs.lanes.members import Member
from asyncjobs.shared import SharedObject
from asyncjobs.station import CHUNK, DROP, Cargo, Order
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import KEYWORDS, STARRED

LARGE = 256 * 1024
"""Bytes from which on something is put into the cluster, and does not go through its scheduler with the call."""


Failed = Callable[[int, BaseException], None]


class Goods:
    """What one lane has put into its cluster."""

    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host
        # Invariant: an object stays in the cluster as long as its handle is open or a call that took it is on its way.
        self._shared: weakref.WeakKeyDictionary[SharedObject, asyncio.Task[Any]] = weakref.WeakKeyDictionary()
        self._holders: dict[int, set[Member]] = {}
        """The workers that were sent a shared object, by its number: they keep it for the next call."""
        self._functions: weakref.WeakKeyDictionary[Plan, asyncio.Task[Any]] = weakref.WeakKeyDictionary()
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._outgoing: dict[Member, list[Sending]] = {}

    def send(self, ticket: int, call: Call, member: Member, failed: Failed) -> None:
        """Send it with the next `flush`; later, if anything of it has to be put into the cluster first."""
        if _must_travel(call):
            self._loading[ticket] = self._host.loop.create_task(self._load(ticket, call, member, failed))
        else:
            self._outgoing.setdefault(member, []).append(self._sending(ticket, call, member, {}))

    def flush(self) -> None:
        """Send what was collected."""
        outgoing, self._outgoing = self._outgoing, {}
        for member, sendings in outgoing.items():
            self._engine.send(member.address, sendings)

    async def _load(self, ticket: int, call: Call, member: Member, failed: Failed) -> None:
        try:
            refs = await self._put(call, member)
        except Exception as error:
            if self._engine.is_there():
                failed(ticket, error)
            return
        if self._engine.is_there():
            self._engine.send(member.address, [self._sending(ticket, call, member, refs)])

    async def _put(self, call: Call, member: Member) -> dict[Any, Any]:
        """What `put` returned for: the arguments, the function, shared objects by number."""
        payload = call.payload
        assert payload is not None
        refs: dict[Any, Any] = {}
        cargo = Cargo(payload.data, payload.buffers)
        if cargo.nbytes >= LARGE:
            refs["arguments"] = await self._engine.put(cargo, member.address)
        if payload.function is not None and payload.function.nbytes >= LARGE:
            refs["function"] = await self._function(call, payload.function, member)
        for one in payload.passengers:
            if isinstance(one, SharedObject):
                refs[one.number] = await self._share(one, member)
        return refs

    async def _function(self, call: Call, function: Parcel, member: Member) -> Any:
        if call.plan.function is None:  # what it captured may have changed since the last call
            return await self._engine.put(Cargo(*function), member.address)
        putting = self._functions.get(call.plan)
        if putting is None or self._is_lost(putting):
            putting = self._host.loop.create_task(self._engine.put(Cargo(*function), None))
            self._functions[call.plan] = putting
        return await asyncio.shield(putting)

    async def _share(self, shared: SharedObject, member: Member) -> Any:
        """Put there once, when the first call takes it; and again if whoever had it died."""
        self._holders.setdefault(shared.number, set()).add(member)
        putting = self._shared.get(shared)
        if putting is None:
            weakref.finalize(shared, self._let_go_soon, shared.number).atexit = False
        if putting is None or self._is_lost(putting):
            putting = self._shared[shared] = self._host.loop.create_task(self._put_shared(shared))
        return await asyncio.shield(putting)

    def _is_lost(self, putting: asyncio.Task[Any]) -> bool:
        if not putting.done():
            return False
        return putting.cancelled() or putting.exception() is not None or not self._engine.keeps(putting.result())

    async def _put_shared(self, shared: SharedObject) -> Any:
        return await self._engine.put(Cargo(*shared.shares.parcel_of(shared)), None)

    def _let_go_soon(self, number: int) -> None:
        """Nobody looks at that shared object any more; said in any thread."""
        with suppress(RuntimeError):  # the loop is closed, or is this very moment
            self._host.loop.call_soon_threadsafe(self._let_go, number)

    def _let_go(self, number: int) -> None:
        for member in self._holders.pop(number, ()):
            self._engine.tell(member.address, member.facts.station, [(DROP, number)])

    def _sending(self, ticket: int, call: Call, member: Member, refs: Mapping[Any, Any]) -> Sending:
        """The call as it goes out, with what was put into the cluster for it."""
        payload, plan = call.payload, call.plan
        assert payload is not None
        goods = list(refs.values())
        at = {key: index for index, key in enumerate(refs)}
        arguments: Cargo | int = at.pop("arguments", -1)
        function: Cargo | int | None = at.pop("function", None)
        if arguments == -1:
            arguments = Cargo(payload.data, payload.buffers)
        if function is None and payload.function is not None:
            function = Cargo(*payload.function)
        flags = (
            (KEYWORDS if payload.keywords else 0) | (CHUNK if plan.chunked else 0) | (STARRED if plan.starred else 0)
        )
        order = Order(
            member.facts.station,
            ticket,
            call.number,
            call.attempt,
            plan.name,
            plan.by_name,
            function,
            arguments,
            flags,
            at,
            plan.options.max_result,
        )
        return Sending(order, tuple(goods), call.priority, plan.needs or {})

    def holds(self, ticket: int) -> bool:
        """Whether that call was not sent yet."""
        loading = self._loading.get(ticket)
        return loading is not None and not loading.done()

    def ended(self, ticket: int) -> None:
        """That call is over."""
        loading = self._loading.pop(ticket, None)
        if loading is not None and not loading.done():
            loading.cancel()

    def close(self) -> None:
        """The lane is closed, or the cluster is gone: another one will need everything anew."""
        self._holders.clear()
        for task in (*self._loading.values(), *self._shared.values(), *self._functions.values()):
            task.cancel()
        for kept in (self._loading, self._shared, self._functions):
            kept.clear()


def _must_travel(call: Call) -> bool:
    """Whether anything of it has to be put into the cluster first."""
    payload = call.payload
    assert payload is not None
    return payload.nbytes >= LARGE or any(isinstance(one, SharedObject) for one in payload.passengers)
