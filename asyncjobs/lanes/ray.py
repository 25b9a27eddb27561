"""The lane over a Ray cluster: `RayLane`.

Each worker is a Ray actor with one seat: it is told what to do, and says what became of it, in as few messages as
there are turns. So it is known what ran where when one dies, and a worker that has to be ended is killed with its
process, and replaced.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any, Final

from asyncjobs.errors import WorkerStartError
from asyncjobs.futures import call_soon
from asyncjobs.lanes.base import Capabilities
from asyncjobs.lanes.cluster import ClusterLane
from asyncjobs.lanes.clusterengine import Listener, Sending
from asyncjobs.lanes.clusterfaults import public
from asyncjobs.lanes.rayconnection import Connection, package
from asyncjobs.lanes.rayseat import Seat
from asyncjobs.lanes.supply import declared
from asyncjobs.options import check_count
from asyncjobs.resources import Amounts
from asyncjobs.station import Answer, Cargo, Facts

logger: logging.Logger = logging.getLogger("asyncjobs")

TOGETHER: Final = 5.0
"""Seconds in which all actors come up; those that have no room yet come later."""
LOOK: Final = 5.0
"""Seconds between two looks at how large the cluster is."""
DRAIN: Final = 0.25
"""Seconds in which a worker that is to be killed gives back what it has not begun."""
OWN_START: Final = 60.0
"""Seconds in which a cluster of our own comes up."""
OWN_OPTIONS: Final = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory"}


class RayLane(ClusterLane):
    """Runs plain functions on a Ray cluster, each in an actor of its own that stays.

    Args:
        address: the cluster's address (``"host:6379"``, or ``"auto"`` for one on this machine). Without one: the
            cluster that this program has connected to already; else one of its own on this machine, on loopback only.
        workers: how many actors; as many as the cluster has room for if not given.
        resources: what each actor holds, as in ``{"cpu": 2, "gpu": 1}``; one processor if not given. A job may need at
            most that: for jobs that need more, make a second lane.

    The nodes need asyncjobs, too: ``pip install 'asyncjobs-runner[ray]'``. Jobs run in a thread of their actor.

    Example::

        async with aj.Runner(lanes={"cluster": aj.RayLane("auto")}) as runner:
            print(await runner.options(lane="cluster").run(fit, data))
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        resources: Mapping[str, float | str] | None = None,
    ) -> None:
        if not (address is None or (isinstance(address, str) and address)):
            raise TypeError(f"address={address!r} is not allowed; allowed: None, or an address such as 'host:6379'")
        check_count("workers", workers, 1, or_none=True)
        super().__init__(RayEngine(address, workers, {"cpu": 1, **declared(resources)}))


class RayEngine:
    """The actors of one lane."""

    name = "Ray"
    package = "ray"
    doubt = "wants another token than this program's (RAY_AUTH_TOKEN, or the file ~/.ray/auth_token)"
    shortage = "Others may hold all of its room: each lane and program that shares it has to say workers="
    capabilities: Capabilities = Capabilities(
        kills=True,
        encodes=True,
        groups=True,
        queues=False,
        shares="once, put: each node has one copy, which its workers map",
        resources="at most what its worker holds",
        falls_with_it="nothing else",
    )

    def __init__(self, address: str | None, workers: int | None, seat: Amounts) -> None:
        package()
        self._address = address
        self._workers = workers
        self._seat = seat
        self._connection: Connection | None = None
        self._is_open = False
        self._actors: dict[str, Any] = {}
        self._coming: set[str] = set()
        """Actors that have not said hello."""
        self._news = asyncio.Event()
        self._unsent: dict[str, list[Sending]] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: Listener
        self._loop: asyncio.AbstractEventLoop

    @property
    def patience(self) -> float | None:
        """More than others have, for a cluster of our own: Ray starts half a dozen programs for it."""
        return OWN_START if self._address is None else None

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return public(self._address or "this machine")

    # --- coming up and going down -------------------------------------------------------

    async def connect(self, listener: Listener, runner_id: str) -> None:
        """Connect this program, and hire actors for the whole cluster."""
        self._listener, self._runner_id = listener, runner_id
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(self._address)
        await asyncio.wrap_future(self._connection.up)
        self._is_open = True
        await self._hire_more()
        await self._all_up()
        if self._workers is None:
            self._start(self._watch())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _all_up(self) -> None:
        """Wait for all actors, but not long for those that Ray has no room for now."""
        until = self._loop.time() + TOGETHER
        while self._coming and self._loop.time() < until:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._news.wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._hire_more()

    async def _hire_more(self) -> None:
        wanted = self._workers
        if wanted is None:
            wanted = await self._loop.run_in_executor(None, _room_for, self._seat)
        while self._is_open and len(self._actors) < wanted:
            await self._hire()

    async def _hire(self) -> None:
        """One more actor; it waits in Ray until there is room for it."""
        address = f"seat-{next(self._numbers)}"
        self._coming.add(address)
        self._actors[address] = None
        # In a thread: the first one sends the class to the cluster, and waits for that.
        actor = self._actors[address] = await self._loop.run_in_executor(None, self._new_actor)
        if not self._is_open:
            self._dismiss(address)
            return
        self._then(actor.enrol.remote(self._runner_id), self._enrolled, address)

    def _new_actor(self) -> Any:
        options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"talk": 1, "listen": 1}}
        return package().remote(**options, **terms(self._seat))(Seat).remote()

    def _then(self, ref: Any, callback: Callable[..., None], *args: Any) -> None:
        """Call back on the loop with the future of `ref`."""

        ref.future().add_done_callback(lambda future: call_soon(self._loop, callback, *args, future))

    def _enrolled(self, address: str, future: Future[Any]) -> None:
        self._coming.discard(address)
        self._news.set()
        if address not in self._actors:
            return
        error = future.exception()
        if error is None:
            self._listener.joined(address, 1, self._seat, Facts(*future.result()))
            self._listen(address)
        else:
            self._dismiss(address)
            self._listener.refused(address, _explained(error))

    def _dismiss(self, address: str) -> None:
        self._coming.discard(address)
        actor = self._actors.pop(address, None)
        if actor is not None:
            with suppress(Exception):
                package().kill(actor)

    async def close(self) -> None:
        """End the actors, and disconnect if it was us who connected; at once if we have not come that far."""
        self._is_open = False
        for task in self._tasks:
            task.cancel()
        for address in list(self._actors):
            self._dismiss(address)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()
            if connection.up.done() and not connection.up.cancelled():
                await asyncio.wrap_future(connection.gone)

    def abort(self) -> None:
        """Ray ends what belongs to a program when that ends."""
        self._is_open = False
        if self._connection is not None:
            self._connection.leave()

    # --- what the actors say ------------------------------------------------------------

    def _listen(self, address: str) -> None:
        actor = self._actors[address]
        self._then(actor.listen.options(concurrency_group="listen").remote(), self._heard, address)

    def _heard(self, address: str, future: Future[Any]) -> None:
        if address not in self._actors:
            return
        error = future.exception()
        if error is not None:
            self._dismiss(address)
            self._listener.left(address, _cause(error))
            if self._is_open:
                self._start(self._hire())
            return
        self._listen(address)
        for name, *said in pickle.loads(future.result()):
            if name:
                self._listener.heard(name, said)
            else:
                self._listener.answered(said[0], Answer(*said[1]))

    # --- calls --------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Without its cluster Ray ends the program."""
        return True

    def send(self, address: str, sendings: Sequence[Sending]) -> None:
        """At the end of this turn of the loop: many in one message, where that can be."""
        if not self._unsent:
            self._loop.call_soon(self._send_all)
        self._unsent.setdefault(address, []).extend(sendings)

    def _send_all(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for address, sendings in unsent.items():
            actor = self._actors.get(address)
            if actor is None:
                continue  # its end is told elsewhere
            plain = [tuple(sending.order) for sending in sendings if not sending.goods]
            if plain:
                actor.take.remote(pickle.dumps(plain, 5))
            for sending in sendings:
                if sending.goods:
                    taken = actor.take.remote(pickle.dumps([tuple(sending.order)], 5), *sending.goods)
                    self._then(taken, self._taken, sending.order.ticket)

    def _taken(self, ticket: int, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None and not _is_death(error):  # what it takes is lost, or does not unpickle
            self._listener.failed(ticket, _explained(error))

    def forget(self, address: str, ticket: int) -> None:
        """Its answer goes nowhere, by itself."""

    def kill(self, address: str) -> None:
        """End the actor and its process; what it has not begun comes back first."""
        actor = self._actors.get(address)
        if actor is not None:
            actor.drain.options(concurrency_group="talk").remote()
            self._loop.call_later(DRAIN, self._end, address)

    def _end(self, address: str) -> None:
        """Unless it is gone by now: where nobody is connected any more, `ray.kill` would start a cluster to ask."""
        actor = self._actors.get(address)
        if actor is not None:
            with suppress(Exception):
                package().kill(actor)

    def tell(self, address: str, station: str, told: Sequence[tuple[Any, ...]]) -> None:
        """While its jobs run."""
        actor = self._actors.get(address)
        if actor is not None:
            actor.hear.options(concurrency_group="talk").remote(station, list(told))

    async def put(self, cargo: Cargo, address: str | None) -> Any:
        """Into the object store of this node; Ray brings it to where it is used."""
        return await self._loop.run_in_executor(None, package().put, cargo)

    def keeps(self, stored: Any) -> bool:
        """This program owns it: it is there as long as we are."""
        return True


# --- in Ray's words ---------------------------------------------------------------------


def terms(amounts: Amounts) -> dict[str, Any]:
    """Amounts as Ray's own options: ``{"cpu": 2, "disk": 1}`` -> ``{"num_cpus": 2, "resources": {"disk": 1}}``."""
    known = {OWN_OPTIONS[name]: amount for name, amount in amounts.items() if name in OWN_OPTIONS}
    return {**known, "resources": {name: amount for name, amount in amounts.items() if name not in OWN_OPTIONS}}


def _room_for(seat: Amounts) -> int:
    """How many actors the cluster has room for: at least one, which waits in Ray if need be."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    there = package().cluster_resources()
    return max(1, min(int(there.get(names.get(name, name), 0) // amount) for name, amount in seat.items() if amount))


def _is_death(error: BaseException) -> bool:
    return isinstance(error, package().exceptions.RayActorError)


def _cause(error: BaseException) -> str:
    """In our words: Ray's name addresses."""
    if not _is_death(error):
        return f"it cannot be heard: {type(error).__name__}"
    text = str(error)
    if "owner has died" in text:
        return "its owner died"
    return "its node died" if re.search(r"node (has )?died|node .*dead", text) else "its process died"


def _explained(error: BaseException) -> Exception:
    missing = re.search(r"No module named '(asyncjobs[\w.]*)'", str(error))
    if missing:
        return WorkerStartError(
            "its nodes have no asyncjobs, or another version: pip install 'asyncjobs-runner[ray]' on each of them"
        )
    return error if isinstance(error, Exception) else WorkerStartError(repr(error))
