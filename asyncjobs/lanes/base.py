"""What every lane has in common: calls go in, outcomes come out.

A lane is a row of *places*. While a place is `hungry` it is fed from the lane's queue, by
whoever brings news: a submit that queues a call, a place that says it has `changed`. The place
tells its host when a call starts and how it ended. A lane knows nothing of jobs, retries or
events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import Context
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from asyncjobs.memory import Memory
from asyncjobs.notebook import Cell
from asyncjobs.options import Settled
from asyncjobs.resources import Amounts
from asyncjobs.shared import Shares
from asyncjobs.token import CancelToken, StopReason
from asyncjobs.wire.codec import Payload
from asyncjobs.wire.parcel import Parcel


class Plan:
    """What all calls of one function with one set of options share. Does not keep the function alive.

    `pace` is the moving average of the function's run time in seconds, None until a first
    answer came. `number` names the function on a process lane's wire.
    """

    __slots__ = (
        "__weakref__",
        "by_name",
        "chunked",
        "encodes",
        "function",
        "home",
        "is_coroutine",
        "is_plain",
        "keeps_output",
        "lane",
        "marks",
        "name",
        "needs",
        "number",
        "options",
        "pace",
        "starred",
    )

    def __init__(self, name: str, lane: str, options: Settled, is_coroutine: bool) -> None:
        self.name: str = name
        self.lane: str = lane
        self.options: Settled = options
        self.is_coroutine: bool = is_coroutine
        self.home: Any = None
        """The runner's own note; lanes never look."""
        self.is_plain: bool = options.is_plain
        self.needs: Amounts | None = options.resources
        """What each call holds while it runs."""
        self.keeps_output: bool = options.output != "pass"
        """What it prints is not passed on: it must not mix with that of the calls before and after it."""
        self.marks: bool = False
        """Where several of its calls are with a worker, that says in the output itself where each one's begins: short
        calls may follow each other at once, and what each prints is still known."""
        self.encodes: bool = False
        """Whether arguments are pickled at submit."""
        self.pace: float | None = None
        self.by_name: tuple[str, str] | None = None
        """Where a worker can import it from; None: it travels by value."""
        self.number: int = 0
        self.function: tuple[Parcel, tuple[Any, ...]] | None = None
        """The function pickled once and for all with its passengers, where it travels by value and
        all calls are of one map."""
        self.chunked: bool = False
        """Its calls carry a list of items, and return a `ChunkResult`."""
        self.starred: bool = False
        """In a chunk: each item is a tuple of arguments."""

    def measured(self, seconds: float) -> None:
        """Take one more run time into the moving average."""
        pace = self.pace
        self.pace = seconds if pace is None else pace + 0.2 * (seconds - pace)


class Owner(Protocol):
    """Whose call it is: what the running job may ask of it."""

    @property
    def id(self) -> str: ...
    @property
    def runner(self) -> Any: ...
    def report_progress(self, done: float, total: float | None, note: str) -> None: ...
    def on_stop(self, reason: StopReason) -> None: ...


class Output(Protocol):
    """Takes in what a process job says while it runs. Called on the loop; must not raise."""

    def write(self, stream: str, text: str) -> None:
        """It printed `text` to ``stdout`` or ``stderr``."""

    def report(self, done: float, total: float | None, note: str) -> None:
        """It said how far it is."""


class Call:
    """One function call on its way through a lane; it keeps its number over retries."""

    __slots__ = (
        "_token",
        "args",
        "attempt",
        "cell",
        "context",
        "fn",
        "grace",
        "in_queue",
        "is_last",
        "kwargs",
        "number",
        "output",
        "owner",
        "payload",
        "place",
        "plan",
        "priority",
        "seconds",
        "strikes",
    )

    def __init__(self, plan: Plan) -> None:
        self.number: int = 0
        """Given when the runner accepts it; grows: first in, first out among equals."""
        self.plan: Plan = plan
        self.priority: int = plan.options.priority
        self.owner: Owner
        """Whose call it is; lanes only show it to the running job."""
        self.attempt: int = 1
        self.fn: Any = None
        """What is called with `args` and `kwargs`, where it runs in this process."""
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] | None = None
        self.payload: Payload | None = None
        """Instead of `args` and `kwargs` where they travel to another process."""
        self.context: Context | None = None
        self.cell: Cell | None = None
        """In a notebook, where its output belongs that a worker prints."""
        self.output: Output | None = None
        """Where what the job prints goes, if it is to be captured or somebody else takes it."""
        self.grace: float = plan.options.grace
        self.place: Place | None = None
        """Where it was sent, from then until it ends."""
        self.in_queue: bool = False
        self.is_last: bool = False
        """No attempt may follow this one: the whole job was asked to stop."""
        self.strikes: int = 0
        """How many workers died when it was next, before they claimed it."""
        self.seconds: float = 0.0
        """How long the last attempt ran, as measured where it ran."""
        self._token: CancelToken | None = None

    @property
    def token(self) -> CancelToken:
        """Asks this attempt to stop. Made at first need: a million queued calls have none."""
        if self._token is None:
            self._token = CancelToken()
            self._token.add_callback(self.owner.on_stop)
        return self._token

    @property
    def stop(self) -> StopReason | None:
        """Why the attempt is to stop, or None."""
        return None if self._token is None else self._token.stop

    def end(self, reason: StopReason) -> bool:
        """Ask for the end of the whole job; safe from any thread. Whether the attempt was not stopping yet.

        The attempt may be stopping already, for its own time limit. That reason stands, as
        the first, but no other attempt may follow.
        """
        self.is_last = True
        return self.token.raise_for(reason)

    def shorten(self, grace: float) -> None:
        """From now on `grace` seconds; once the attempt is stopping they only get fewer."""
        self.grace = grace if self.stop is None else min(grace, self.grace)

    def renew(self) -> None:
        """Get ready for another attempt: a stop for the last one's time limit is over."""
        self.attempt += 1
        self._token = None
        self.place = None

    @property
    def nbytes(self) -> int:
        """Bytes of pickled arguments, and of the large data that they refer to."""
        return 0 if self.payload is None else self.payload.nbytes

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def id(self) -> str:
        return self.owner.id

    @property
    def runner(self) -> Any:
        return self.owner.runner

    def report_progress(self, done: float, total: float | None, note: str) -> None:
        if self.output is not None:
            self.output.report(done, total, note)
        try:
            self.owner.report_progress(done, total, note)
        except ReferenceError:
            return  # it has ended, and nobody holds its handle any more

    def __repr__(self) -> str:
        return f"<Call {self.number} {self.name} attempt {self.attempt}>"


# --- outcomes ---------------------------------------------------------------------------


class Done(NamedTuple):
    """The function returned."""

    value: Any
    seconds: float


class Failed(NamedTuple):
    """The function raised."""

    error: BaseException
    seconds: float


class Stopped(NamedTuple):
    """The call was asked to stop, and the work has ended without a value."""

    seconds: float
    how: str
    """``never started``, ``stopped`` or ``killed``."""
    reason: str = ""
    """What the job itself said, where it stopped without being asked."""


class Abandoned(NamedTuple):
    """The call was asked to stop, and the work goes on all the same."""

    seconds: float
    """The host measures it: from its start until now."""


class Lost(NamedTuple):
    """The worker died under the call."""

    error: BaseException
    seconds: float


class Refused(NamedTuple):
    """The call never started, and never will: no worker, no thread."""

    error: BaseException


Outcome = Done | Failed | Stopped | Abandoned | Lost | Refused


class ChunkResult(NamedTuple):
    """The value of a `Done` chunk: a value per item; errors by index."""

    values: list[Any]
    errors: dict[int, BaseException]


# --- the two sides of the contract ------------------------------------------------------


class Host(Protocol):
    """Whom a lane tells. Called on the loop; never blocks, never raises."""

    loop: asyncio.AbstractEventLoop
    runner_id: str
    memory: Memory
    shares: Shares
    threads: Executor
    """For what would hold the loop up."""

    def started(self, call: Call) -> None:
        """`call` runs now."""

    def finished(self, call: Call, outcome: Outcome) -> None:
        """`call` has ended; said exactly once for each call that was started."""

    def returned(self, call: Call, value: Any, seconds: float) -> None:
        """The same as ``finished(call, Done(value, seconds))``, without making the record."""

    def give_back(self, calls: Sequence[Call]) -> None:
        """These were taken and not started: back to where they stood in the queue."""

    def printed(self, stream: str, text: str, call: Call | None) -> None:
        """A worker printed `text` to ``stdout`` or ``stderr`` while `call` ran."""

    def crashed(self, place: str, cause: str) -> None:
        """A worker died by itself."""

    def refuse(self, error: Exception) -> None:
        """Nothing that waits in the queue can run: fail it with `error`."""


class Place(Protocol):
    """Something that runs one call, or a few, at once."""

    name: str
    leaving: bool
    """It takes nothing more, and is closed once it is idle."""
    changed: Callable[[], None]
    """Set by the runner, `nobody` before: call it whenever `hungry` or `is_down` may have changed."""

    @property
    def hungry(self) -> bool:
        """Whether it may take a call now."""

    @property
    def idle(self) -> bool:
        """Whether it runs nothing: an idle hungry place takes any call, others by `admits`."""

    @property
    def is_down(self) -> bool:
        """Whether it has to `restore` before it can take anything."""

    @property
    def is_cold(self) -> bool:
        """Whether it is down because it was never needed: it comes up when calls wait."""

    def admits(self, call: Call) -> bool:
        """Whether `call` may go behind what already runs here."""

    def start(self, call: Call) -> None:
        """Run `call`; the host hears of its start and its end."""

    def flush(self) -> None:
        """All calls that were at hand have been started."""

    def stop(self, call: Call) -> None:
        """`call`'s token was raised: see to it that the work ends, after `call.grace`."""

    def hurry(self, call: Call) -> None:
        """It was stopped, and asked once more: let it end `call.grace` from now, if that is sooner."""

    async def restore(self) -> None:
        """Come up, for the first time or after a death."""

    async def aclose(self) -> None:
        """Let go of everything; what still runs is killed or abandoned."""

    def abort(self) -> None:
        """The same at once, without a loop; a second call does nothing."""


def nobody() -> None:
    """What a place's `changed` is until somebody listens."""


IN_THIS_PROCESS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "output": "what jobs print here goes where the program prints; lane 'process' passes on, captures or drops it",
        "max_result": "results are not copied here, whatever their size; lane 'process' can bound them",
        "resources": "they are for lane 'process' and clusters; here bound the jobs by limiter=, or by the lane's size",
    }
)
"""What no lane honours that runs its jobs in this very process."""


class Capabilities(NamedTuple):
    """What a lane can do. The table in ``docs/clusters.md`` is made of these."""

    kills: bool = False
    """A call that does not listen can be ended."""
    kills_with: str = ""
    """What the lane has to be given for that, where it cannot do so by itself."""
    coroutines: bool = False
    """Takes coroutine functions, and only those."""
    encodes: bool = False
    """Arguments travel to another process: they are pickled at submit."""
    groups: bool = False
    """Several items of a map may share a call."""
    knows_job: bool = True
    """`current_job()` works inside, with its token and its progress."""
    context: bool = False
    """Jobs see the context variables of their submitter."""
    tokens: bool = True
    """A token may be an argument, and is the same token there."""
    queues: bool = True
    """So may a queue."""
    shares: str = "as it is"
    """How `Runner.share` brings an object to its jobs."""
    priorities: str = "in our queue"
    """Where higher priorities go first."""
    resources: str = "no"
    """Which resources a job may ask for."""
    falls_with_it: str = ""
    """What else ends when a job kills its process."""
    unsupported: Mapping[str, str] = MappingProxyType({})
    """Options that it cannot honour, and what to do instead."""


class Lane(Protocol):
    """A row of places."""

    kind: str
    capabilities: Capabilities

    def open(self, name: str, host: Host) -> None:
        """Get ready to make places; starts nothing that costs."""

    def places(self) -> Sequence[Place]:
        """The places there are now."""

    def size(self) -> int:
        """How many calls it may run at once."""

    def busy(self) -> int:
        """How many it runs now, those included that nobody waits for any more."""

    def abandoned(self) -> int:
        """How many of those could not be stopped."""

    def resize(self, size: int) -> None:
        """Change how many it may run at once."""

    def check(self, plan: Plan) -> None:
        """Raise if a call of `plan` cannot be taken now."""
