"""What a cluster lane needs of an engine such as Dask or Ray: `Engine`, and what it is told, `Listener`.

How an engine is added
----------------------

1. Write ``lanes/<engine>.py`` with a class that is an `Engine`, and a lane that is nothing but
   ``ClusterLane(that engine)`` with a signature of its own. Import the engine's package inside of functions, never
   at the top: the package works without it.
2. On each worker process of the engine call `asyncjobs.station.enrol(runner_id, voice)` once, and tell the listener
   of the worker by `Listener.joined`, with the `Facts` that it returns and the number of calls that it may run at
   once. The `Voice` is yours: it carries small messages from any thread of the worker to `Listener.heard`.
3. `Engine.send` has the engine run `asyncjobs.station.perform(order, goods)` for each `Sending`, on the worker that it
   names and on no other, once: the engine's own retries are off. It always returns an `Answer`: hand that to
   `Listener.answered`. What the engine itself could not do (unpickle, schedule) goes to `Listener.failed`.
4. `Engine.tell` has `asyncjobs.station.hear(station, messages)` called in that worker's process, while its jobs run.
5. `Engine.put` stores a `Cargo` where workers get it by themselves; what it returns may be among the goods of a
   `Sending`, and reaches `perform` as the `Cargo`.
6. When a worker process dies, or is cut off for good, say `Listener.left`, once; the lane judges what ran there.
   If some other process can tell what it had begun (`asyncjobs.claims`), say how to ask: what it had not is run
   elsewhere. When the whole cluster is gone, say `Listener.broke`.

All calls are made on the runner's loop, and `Listener` is told there too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from asyncjobs.lanes.base import Capabilities
from asyncjobs.resources import Amounts
from asyncjobs.station import Answer, Cargo, Facts, Order

Inquiry = Callable[[], Awaitable[Collection[int]]]
"""Finds out which tickets a dead worker had begun, among them all that have no answer; raises if nobody knows."""


class Sending(NamedTuple):
    """One call on its way to a worker."""

    order: Order
    goods: tuple[Any, ...]
    """What `Engine.put` returned for what is large."""
    priority: int
    needs: Amounts
    """Resources that the engine has to set aside for it, beside the place that it takes."""


class Listener(Protocol):
    """Whom an engine tells."""

    def joined(self, address: str, threads: int, offers: Amounts, facts: Facts) -> None:
        """A worker process is there, and runs so many calls at once; it offers these resources."""

    def refused(self, address: str, error: Exception) -> None:
        """A worker process is there that cannot be enrolled."""

    def left(self, address: str, cause: str, inquiry: Inquiry | None = None) -> None:
        """It is there no more; `inquiry` says which calls it had begun."""

    def heard(self, station: str, said: Sequence[Sequence[Any]]) -> None:
        """What the station of a worker said."""

    def answered(self, ticket: int, answer: Answer) -> None:
        """How a call has ended."""

    def failed(self, ticket: int, error: BaseException) -> None:
        """The engine could not have it run, and never will."""

    def broke(self, cause: str) -> None:
        """The cluster is gone."""


class Engine(Protocol):
    """A cluster."""

    name: str
    """``Dask``, as people write it."""
    capabilities: Capabilities
    package: str
    """What to install: the name of our extra."""
    doubt: str
    """What else it may be if it does not answer: ``..., or wants another token``; or nothing."""
    shortage: str
    """Why no worker may come though it answers, and what to do; or nothing."""

    @property
    def patience(self) -> float | None:
        """Seconds in which it has to come up, where the lane's own limit would not do."""

    @property
    def address(self) -> str:
        """Where it is, for people: without credentials."""

    async def connect(self, listener: Listener, runner_id: str) -> None:
        """Come up, and enrol at the workers that there are; those that come later are told, too.

        Raises whatever goes wrong; may be cancelled, and is closed then.
        """

    def is_there(self) -> bool:
        """Whether something can be sent now; if not, `Listener.broke` was said. Asked before each call."""

    def send(self, address: str, sendings: Sequence[Sending]) -> None:
        """Have these calls run by that worker, each by itself."""

    def tell(self, address: str, station: str, told: Sequence[tuple[Any, ...]]) -> None:
        """Tell the station of that worker something; if it is gone, nobody minds."""

    def forget(self, address: str, ticket: int) -> None:
        """Nobody waits for the answer of that call any more; the engine may leave it out if it has not begun."""

    def kill(self, address: str) -> None:
        """End that worker by force, with what it runs; `Listener.left` follows. Only if `capabilities.kills`."""

    async def put(self, cargo: Cargo, address: str | None) -> Any:
        """Store it: for that worker, or once for all of them."""

    def keeps(self, stored: Any) -> bool:
        """Whether what `put` returned is still there; who had it may have died."""

    async def close(self) -> None:
        """Let go of the cluster. A second call does nothing."""

    def abort(self) -> None:
        """The same at once, without a loop."""
