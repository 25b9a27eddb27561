"""The lane over a Dask cluster: `DaskLane`.

Each call is a Dask task of its own, pinned to one worker, so that the scheduler never starts it a second time: what
becomes of it when a worker dies is for our `lost=` to say. What jobs say meanwhile comes as events of a topic of ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count, groupby
from typing import Any

from asyncjobs import station
from asyncjobs.errors import WorkerStartError
from asyncjobs.lanes.base import Capabilities
from asyncjobs.lanes.cluster import ClusterLane
from asyncjobs.lanes.clusterengine import Listener, Sending
from asyncjobs.lanes.clusterfaults import public
from asyncjobs.lanes.daskgoods import opened, parts, perform, pickled
from asyncjobs.lanes.dasknanny import Nannies, claims_for, close_witnesses, open_witness
from asyncjobs.options import check_flag
from asyncjobs.resources import Amounts
from asyncjobs.station import NOT_STARTED, Answer, Cargo, Facts, Order
from asyncjobs.wire.failure import type_name

logger: logging.Logger = logging.getLogger("asyncjobs")

CONNECT = 10.0
"""Seconds for each try of Dask's own to connect."""
TOGETHER = 5.0
"""Seconds in which all workers enrol; those that take longer come later."""
LOOK = 5.0
"""Seconds between two looks at whether Dask has connected anew."""
CLOSE = 2.0
"""Seconds for a good-bye."""
NO_NANNY = "it has no nanny that could restart it, which restart_to_kill=True needs: start it without --no-nanny"


class DaskLane(ClusterLane):
    """Runs plain functions on a Dask cluster.

    Args:
        cluster: the scheduler's address (``"tcp://host:8786"``), a `distributed.Client`, or a cluster object such as
            `distributed.LocalCluster`. The lane makes a connection of its own, and closes it with the runner.
        security: a `distributed.Security` for TLS; that of the client or cluster if not given.
        size: how many jobs may run at once; as many as all workers have threads if not given.
        restart_to_kill: a job that does not heed its token is ended by a restart of its worker, once nothing else of
            ours runs there; other programs' tasks on that worker are run again by Dask. Each worker has to have a
            nanny, as it has unless it was started with ``--no-nanny``.

    The workers and the scheduler need asyncjobs, too: ``pip install 'asyncjobs-runner[dask]'``. Dask cannot end a
    running task: without `restart_to_kill` one that does not heed its token is abandoned after its grace.

    Example::

        async with aj.Runner(lanes={"cluster": aj.DaskLane("tcp://scheduler:8786")}) as runner:
            print(await runner.options(lane="cluster").run(fit, data))
    """

    def __init__(
        self, cluster: Any, *, security: Any = None, size: int | None = None, restart_to_kill: bool = False
    ) -> None:
        check_flag("restart_to_kill", restart_to_kill)
        super().__init__(DaskEngine(cluster, security, restarts=restart_to_kill), size)


class DaskEngine:
    """One connection to a Dask scheduler."""

    name = "Dask"
    package = "dask"
    doubt = shortage = ""
    capabilities: Capabilities = Capabilities(
        kills_with="restart_to_kill=True",
        encodes=True,
        groups=True,
        queues=False,
        shares="once, scattered: workers fetch it from each other",
        priorities="in our queue, and in Dask's",
        resources="those that workers were started with",
        falls_with_it="what its worker has, too",
    )

    def __init__(self, cluster: Any, security: Any, *, restarts: bool) -> None:
        self._address, self._security = _place_of(cluster, security)
        self.capabilities = DaskEngine.capabilities._replace(kills=restarts)
        self._client: Any = None
        self._link: Any = None
        """The connection that the client has made first."""
        self._nannies: Nannies
        self._connecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listener: Listener
        self._following: dict[int, tuple[Any, asyncio.Task[None]]] = {}
        """By ticket: Dask's future, and who waits for it."""
        self._known: dict[str, str] = {}
        """The station at each worker's address; empty while it is made."""
        self._untold: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        self._helpers: set[asyncio.Task[Any]] = set()
        self._numbers = count(1)
        """Of what was put into the cluster."""

    patience: float | None = None

    @property
    def address(self) -> str:
        """Of the scheduler, without credentials."""
        return public(self._address)

    # --- coming up and going down -------------------------------------------------------

    async def connect(self, listener: Listener, runner_id: str) -> None:
        """Connect, and enrol at all workers."""
        self._listener = listener
        self._runner_id = runner_id
        self._topic = f"asyncjobs-{runner_id}-{id(self):x}"
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        await asyncio.shield(self._connecting)

    async def _connect(self) -> None:
        from distributed import Client

        self._client = client = Client(
            self._address,
            asynchronous=True,
            security=self._security,
            set_as_default=False,
            timeout=CONNECT,
            name="asyncjobs",
        )
        await client
        self._link = client.scheduler_comm
        self._nannies = Nannies(client)
        client.subscribe_topic(self._topic, self._hear)
        client.subscribe_topic("all", self._see)
        enrolling = [self._start(self._enrol(address)) for address in await client.nthreads()]
        if enrolling:
            await asyncio.wait(enrolling, timeout=TOGETHER)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Where no worker is left nothing is sent, and nobody would ask."""
        while self.is_there():
            await asyncio.sleep(LOOK)

    async def _enrol(self, address: str) -> None:
        """At each by itself: one that does not answer keeps nobody waiting."""
        work = self._client.run(_enrol, self._topic, self._runner_id, workers=[address], on_error="return")
        result = (await work)[address]
        if isinstance(result, BaseException):
            self._listener.refused(address, _explained(result))
        elif address not in self._known:
            self._joined(address, *result)

    def _joined(self, address: str, threads: int, offers: Amounts, nanny: str, facts: tuple[Any, ...]) -> None:
        if nanny:
            self._nannies.know(address, nanny, facts[0])
        elif self.capabilities.kills:
            self._listener.refused(address, WorkerStartError(NO_NANNY))
            return
        self._known[address] = facts[0]
        self._listener.joined(address, threads, offers, Facts(*facts))

    async def close(self) -> None:
        """Say good-bye to the workers, and disconnect."""
        if self._connecting is not None:  # not cancelled at once: one that is just connecting leaves its socket behind
            await asyncio.wait([self._connecting], timeout=CLOSE)
            self._connecting.cancel()
        if self._watching is not None:
            self._watching.cancel()
        client, self._client = self._client, None
        if client is None:
            return
        for _, task in self._following.values():
            task.cancel()
        names = list(self._known.values())
        self._following.clear()
        self._known.clear()
        if self._helpers:
            await asyncio.wait(self._helpers, timeout=CLOSE)
        with suppress(Exception):
            client.unsubscribe_topic("all")
            client.unsubscribe_topic(self._topic)
            async with asyncio.timeout(CLOSE):
                if names and client.status == "running":
                    await client.run(_dismiss, names, on_error="ignore")
                    await client.run_on_scheduler(_forget_topic, self._topic)
        with suppress(Exception):
            await client.close(timeout=CLOSE)

    def abort(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        with suppress(Exception):
            client.scheduler_comm.comm.abort()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helped)
        return task

    def _helped(self, task: asyncio.Task[None]) -> None:
        """The cluster may go while it is told something: that is told elsewhere."""
        self._helpers.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
            logger.log(level, "the cluster could not be told something: %s", type_name(error))

    # --- what Dask tells ----------------------------------------------------------------

    def _hear(self, event: tuple[float, Any]) -> None:
        name, said = event[1]
        self._listener.heard(name, said)

    def _see(self, event: tuple[float, Any]) -> None:
        """Something has happened to the cluster."""
        told = event[1]
        action = told.get("action") if isinstance(told, dict) else None
        if action == "add-worker":
            self._start(self._enrol(told["worker"]))
        elif action == "remove-worker":
            worker, cause = told["worker"], "it was closed" if told.get("expected") else "it died, or was cut off"
            self._known.pop(worker, None)
            self._listener.left(worker, cause, self._nannies.left(worker))

    # --- calls --------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Dask connects anew by itself, perhaps to another scheduler: there nobody knows our topic and our workers."""
        client = self._client
        if client is not None and client.status == "running" and client.scheduler_comm is self._link:
            return True
        self._listener.broke("the connection to the scheduler is lost")
        return False

    def send(self, address: str, sendings: Sequence[Sending]) -> None:
        """As Dask tasks; many in one message, where that can be."""
        plain = [sending for sending in sendings if not sending.goods]
        for (priority, needs), group in groupby(plain, lambda sending: (sending.priority, sending.needs)):
            self._send_many([sending.order for sending in group], _terms(address, priority, needs))
        for sending in sendings:
            if sending.goods:
                self._send_one(sending.order, sending.goods, _terms(address, sending.priority, sending.needs))

    def _send_many(self, orders: list[Order], terms: dict[str, Any]) -> None:
        if len(orders) == 1:
            self._send_one(orders[0], (), terms)
            return
        keys = [self._key(order) for order in orders]
        futures = self._client.map(perform, [pickled(order) for order in orders], key=keys, **terms)
        for order, future in zip(orders, futures, strict=True):
            self._follow(order.ticket, future, ())

    def _send_one(self, order: Order, goods: Sequence[Any], terms: dict[str, Any]) -> None:
        future = self._client.submit(perform, pickled(order), *goods, key=self._key(order), **terms)
        self._follow(order.ticket, future, goods)

    def _key(self, order: Order) -> str:
        """Dask's dashboard shows what comes before the first digits: the job's name."""
        return f"{order.name}-{self._topic}-{order.ticket}"

    def _follow(self, ticket: int, future: Any, goods: Sequence[Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._wait(ticket, future, goods))
        self._following[ticket] = future, task

    async def _wait(self, ticket: int, future: Any, goods: Sequence[Any]) -> None:
        try:
            answer = await future
        except Exception as error:
            if self._following.pop(ticket, None) is not None:
                self._failed(ticket, future, goods, error)
        else:
            if self._following.pop(ticket, None) is not None:
                self._listener.answered(ticket, opened(answer))

    def _failed(self, ticket: int, future: Any, goods: Sequence[Any], error: Exception) -> None:
        if not future.cancelled():
            self._listener.failed(ticket, error)
        elif not self.is_there():
            return
        elif not all(map(self.keeps, goods)):  # it waited for them: a worker that runs it has them
            self._listener.answered(ticket, Answer(NOT_STARTED, 0.0, Cargo(b"")))
        else:
            self._listener.failed(ticket, WorkerStartError("somebody cancelled it at the Dask scheduler"))

    def forget(self, address: str, ticket: int) -> None:
        """Have the scheduler drop it."""
        followed = self._following.pop(ticket, None)
        if followed is not None and self._client is not None:
            future, task = followed
            task.cancel()
            self._start(self._client.cancel([future]))

    def kill(self, address: str) -> None:
        """Dask cannot end a task: its worker's nanny ends the worker, and starts another."""
        if self._client is not None:
            self._start(self._nannies.end(address))

    # --- saying something ---------------------------------------------------------------

    def tell(self, address: str, station: str, told: Sequence[tuple[Any, ...]]) -> None:
        """Collect what there is to say in this turn of the loop; one message for each worker."""
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._untold.setdefault((address, station), []).extend(told)

    def _tell_all(self) -> None:
        untold, self._untold = self._untold, {}
        for (address, name), told in untold.items():
            if self._client is not None:
                self._start(self._tell(address, name, told))

    async def _tell(self, address: str, name: str, told: list[tuple[Any, ...]]) -> None:
        try:
            await self._client.run(station.hear, name, told, workers=[address], on_error="ignore")
        # It is gone, and its end is told elsewhere.
        except Exception as error:
            logger.debug("a worker could not be told: %s", type_name(error))

    async def put(self, cargo: Cargo, address: str | None) -> Any:
        """Scatter it."""
        key = f"goods-{self._topic}-{next(self._numbers)}"
        found = await self._client.scatter({key: parts(cargo)}, workers=None if address is None else [address])
        return found[key]

    def keeps(self, stored: Any) -> bool:
        """Dask has what was scattered where somebody used it, and cannot make it again."""
        return bool(stored.status == "finished")


def _terms(address: str, priority: int, needs: Amounts) -> dict[str, Any]:
    return {
        "resources": dict(needs) or None,
        "pure": False,
        "retries": 0,
        "workers": [address],
        "allow_other_workers": False,
        "priority": priority,
    }


def _place_of(cluster: Any, security: Any) -> tuple[str, Any]:
    """Address and security of what the user gave."""
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        hint = "aj.DaskLane needs distributed: pip install 'asyncjobs-runner[dask]'"
        raise ModuleNotFoundError(hint, name=error.name) from error
    if isinstance(cluster, str) and cluster:
        return cluster, security
    address = getattr(cluster, "scheduler_address", None) or getattr(
        getattr(cluster, "scheduler", None), "address", None
    )
    if not isinstance(address, str) or not address:
        raise TypeError(
            f"cluster={cluster!r} is not allowed; allowed: a scheduler's address, a distributed.Client that is "
            "connected, or a cluster such as distributed.LocalCluster"
        )
    return address, security if security is not None else getattr(cluster, "security", None)


def _explained(error: BaseException) -> Exception:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "asyncjobs":
        return WorkerStartError(
            "its workers have no asyncjobs, or another version: pip install 'asyncjobs-runner[dask]' on each of them"
        )
    if isinstance(error, OSError):  # its text has the address
        return WorkerStartError("it does not answer")
    return error if isinstance(error, Exception) else WorkerStartError(repr(error))


# --- on the scheduler and the workers ---------------------------------------------------------------------


class _Voice:
    """Speaks through the scheduler, to whoever listens to our topic."""

    def __init__(self, worker: Any, topic: str) -> None:
        self._worker = worker
        self._topic = topic

    def say(self, station: str, said: list[tuple[Any, ...]]) -> None:
        self._worker.log_event(self._topic, (station, said))

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        loop = self._worker.loop
        loop.add_callback(loop.call_later, seconds, callback)


async def _enrol(topic: str, runner_id: str, dask_worker: Any) -> tuple[Any, ...]:
    claims = claims_for(dask_worker)
    facts = station.enrol(runner_id, _Voice(dask_worker, topic), claims)
    nanny = await open_witness(dask_worker, facts.station, claims)
    return dask_worker.state.nthreads, dict(dask_worker.state.total_resources), nanny, tuple(facts)


def _forget_topic(topic: str, dask_scheduler: Any) -> None:
    """What was said there is of no use any more; Dask would keep it as long as the scheduler lives."""
    dask_scheduler._broker.truncate(topic)


async def _dismiss(names: Sequence[str], dask_worker: Any) -> None:
    for name in names:
        station.dismiss(name)
    await close_witnesses(dask_worker, names)
