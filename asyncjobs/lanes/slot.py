"""One process slot: which calls its worker holds, who runs, who is stopped, who is to blame.

Invariants:
    `_calls` holds, in the order they were sent, the calls without an answer: the first of
    them is the one that runs. Tickets only grow and are never used twice, so a late word
    about an old ticket finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from asyncjobs.errors import ResultNotSendable
from asyncjobs.lanes.base import Call, Failed, Host, Lost, Stopped, nobody
from asyncjobs.lanes.body import Body
from asyncjobs.lanes.fitting import Fitting
from asyncjobs.lanes.outbox import HEARD_BY_OUTBOX, Outbox
from asyncjobs.lanes.outcomes import closed_under, lost, unsuccessful, value_of
from asyncjobs.lanes.output import Voices
from asyncjobs.lanes.overdue import Overdue
from asyncjobs.lanes.starting import Starter
from asyncjobs.lanes.stopping import Stopping
from asyncjobs.lanes.wear import Wear
from asyncjobs.token import StopReason, by_number
from asyncjobs.wire import codec, frames
from asyncjobs.wire.parcel import refuse

if TYPE_CHECKING:
    from asyncjobs.lanes.process import ProcessLane

WINDOW_SECONDS = 0.001
"""A slot may hold calls for about this much work beyond the one that runs."""
WINDOW_CALLS = 128
STRIKES = 3
"""After so many workers that died just before it, a call is to blame."""


class Slot:
    """A place that runs calls in a worker process of its own, one after the other."""

    def __init__(self, name: str, lane: ProcessLane) -> None:
        self.name = name
        self.changed: Callable[[], None] = nobody
        self.leaving: bool = False
        self._lane = lane
        self._host = lane.host
        self._body: Body | None = None
        self._up = self._retiring = self._alone = False
        self._calls: dict[int, Call] = {}
        self._load = 0.0
        self._ticket = self._begun = 0
        self._is_long = False
        """What runs has kept others waiting: those went back, for another slot to take."""
        self._outbox: Outbox
        self._stopping = Stopping(self._host.loop, self._calls)
        self._started_at = 0.0
        self._overdue = Overdue(self._host.loop, self._calls, self._share_out)
        self._starter = Starter(name)
        self.fitting: Fitting = Fitting(self, lane)
        self._wear = Wear(self._host.loop, lane.recycle_after, lane.max_rss)

    def __repr__(self) -> str:
        return f"<Slot {self.name} {'up' if self._up else 'down'} pid {self.pid} with {len(self._calls)} calls>"

    @property
    def pid(self) -> int:
        """The worker's process id, 0 while there is none."""
        return self._body.pid if self._body is not None else 0

    # --- the place's face ---------------------------------------------------------------

    @property
    def is_down(self) -> bool:
        body = self._body
        return not self._up or body is None or body.is_dead or (self._retiring and not self._calls)

    @property
    def is_cold(self) -> bool:
        """Whether it has no worker because none was needed yet."""
        return self._body is None and self.fitting.call is None

    @property
    def is_idle(self) -> bool:
        """Whether its worker waits for a call."""
        return self._up and not self._calls and not self._retiring

    @property
    def idle(self) -> bool:
        return not self._calls and self.fitting.call is None

    @property
    def hungry(self) -> bool:
        if not self._up or self._retiring or self.leaving or self._lane.is_full or self._outbox.is_loading:
            return False
        calls = self._calls
        if not calls:
            return True
        body = self._body
        if not self._wear.has_room(len(calls)):
            return False
        return not self._alone and len(calls) < WINDOW_CALLS and body is not None and body.writable

    @property
    def count(self) -> int:
        """How many calls its worker holds."""
        return len(self._calls)

    def admits(self, call: Call) -> bool:
        """Whether `call` may wait behind what runs: only if it is known to be short."""
        if self._is_long or self._lane.has_idle_slot():
            return False
        if self._wear.max_rss is not None or call.plan.needs is not None or _could_mix(call, self._calls):
            return False  # a call must not be killed for another's memory, hold while it waits, nor get others' output
        if call.plan.chunked:
            return len(self._calls) < 2
        pace = call.plan.pace
        return pace is not None and self._load + pace <= WINDOW_SECONDS

    def start(self, call: Call) -> None:
        """Put the call into the worker's window; it goes out at `flush`. One that holds devices may go elsewhere."""
        if call.plan.needs is not None and not self.fitting.suits(call):
            return
        self._ticket = ticket = self._ticket + 1
        if not self._outbox.add(ticket, call, self._voices.needs_mark(call, ticket), self._lane.may_wait):
            self._lane.wait_for_room()
            self._host.give_back([call])
            return
        if call.plan.keeps_output and self._body is not None:
            self._body.read_output()  # what is there now came from those before it
        self._calls[ticket] = call
        if call.plan.pace is None or call.plan.keeps_output or call.plan.needs is not None:
            self._alone = not call.plan.chunked
        else:
            self._load += call.plan.pace
        if len(self._calls) == 1:
            self._begin_first()

    def flush(self) -> None:
        """Send what `start` collected, in one write."""
        self._outbox.flush()
        self._overdue.watch()
        if self._body is not None and self._wear.max_rss is not None:
            self._wear.watch(self._body, lambda: bool(self._calls), self.retire)

    # --- answers ------------------------------------------------------------------------

    def _begin_first(self) -> None:
        """The first call without an answer is the one that runs; say so once."""
        for ticket, call in self._calls.items():
            if ticket != self._begun:
                self._begun = ticket
                self._is_long = False
                self._started_at = monotonic()
                self._host.started(call)
            return

    def on_frames(self, arrived: Iterator[frames.Frame]) -> None:
        """Take in what the worker sent."""
        calls = self._calls
        for kind, ticket, seconds, body in arrived:
            if frames.RETURNED <= kind <= frames.STOPPED:
                call = calls.get(ticket)
                if call is None:
                    if kind == frames.DELIVERED and self._body is not None:
                        refuse(body, self._body.freight.results)
                    continue
                if ticket != self._begun:  # let go of those before it: so it says on the other channel, but later
                    self._give_back([earlier for earlier in calls if earlier < ticket])
                if self._voices.must_read(call, arrived) and self._body is not None:
                    self._body.read_output()
                del calls[ticket]
                self._wear.served += 1
                call.plan.measured(seconds)
                if calls:
                    self._load = max(0.0, self._load - (call.plan.pace or 0.0))
                else:
                    self._load, self._alone = 0.0, False
                _answered(self._host, call, kind, seconds, body, self._body)
                if calls:
                    self._begin_first()
            else:
                self._special(kind, ticket, body)
        if not calls and self._body is not None:
            self._retiring = self._retiring or self._wear.is_over(self._body)
            if self._body.freight.nbytes:
                self._body.freight.rest()
        if self._lane.is_full:
            self._host.memory.room_came()
        self.changed()

    def _special(self, kind: int, ticket: int, body: memoryview) -> None:
        if kind == frames.PROGRESS:
            call = self._calls.get(ticket)
            if call is not None:
                call.report_progress(*codec.loads(body))
        elif kind == frames.REVOKED and self._body is not None:
            self._stopping.revoked(body, self._give_back, self._body)
        elif kind == frames.TOKEN_RAISED:
            _raise(ticket, body)
        elif kind == frames.RETIRED:
            self._retiring = True
            self._give_back(list(self._calls))
        elif kind == frames.HELLO and self._body is not None:
            self._body.greeted(codec.loads(body))
        elif kind in HEARD_BY_OUTBOX:
            self._outbox.hear(kind, ticket, body)
        elif self._body is not None:
            self._body.freight.hear(kind, ticket, body, self._body.tell)

    def on_text(self, stream: str, text: str) -> None:
        """The worker printed something."""
        self._voices.tell(stream, text, self._host.printed)

    # --- giving back --------------------------------------------------------------------

    def _share_out(self) -> None:
        """What runs takes long: those behind it are for other slots, if there are any."""
        if self._lane.has_spare_slot() and self._body is not None:
            self._is_long = True
            self._stopping.revoke(list(self._calls)[1:], self._body)

    def _give_back(self, tickets: list[int]) -> None:
        calls = [self._calls.pop(ticket) for ticket in tickets if ticket in self._calls]
        for call in calls:
            self._load = max(0.0, self._load - (call.plan.pace or 0.0))
        self._return(calls)
        self._begin_first()

    def _return(self, calls: list[Call]) -> None:
        for call in calls:
            if call.stop is not None:
                self._host.finished(call, Stopped(0.0, "never started"))
        self._host.give_back([call for call in calls if call.stop is None])

    # --- stopping -----------------------------------------------------------------------

    def stop(self, call: Call) -> None:
        if not self.fitting.withdraw(call) and self._body is not None:
            self._stopping.stop(call, self._body)

    def hurry(self, call: Call) -> None:
        if self._body is not None:
            self._stopping.hurry(call, self._body)

    # --- coming up and going down -------------------------------------------------------

    async def restore(self) -> None:
        """Bury a dead worker, let a used one leave, start a new one."""
        if self._body is not None and self._body.is_dead:
            await self._bury(self._body)
        elif self._body is not None:
            await self._body.aclose()
            self._outbox.close()
        self._reset()
        if self.leaving:
            self.fitting.let_go()
            return
        body = await self._starter.start(self._new_body)
        if isinstance(body, Body):
            self._up = True
            self.fitting.begin()
        else:
            self._body = None
            self.fitting.let_go()
            self._lane.could_not_start(body)

    def _new_body(self) -> Body:
        self._body, self._outbox = self._lane.new_body(self)
        return self._body

    def trim(self) -> None:
        """Have memory given back that is not in use; a busy worker is not asked."""
        if self._up:
            self._outbox.trim(ask=not self._calls)

    @property
    def may_free_memory(self) -> bool:
        """Whether shared memory may come free here without anybody's doing."""
        return self._up and self._body is not None and self._body.freight.may_come_free(bool(self._calls))

    def retire(self) -> None:
        """Have the worker replaced once it runs nothing."""
        self._retiring = True
        self.changed()

    def _reset(self) -> None:
        self._up = self._retiring = self._alone = False
        self._voices = Voices(self._calls)
        self._load = 0.0
        self._wear.renew()
        self._stopping.clear()

    def on_change(self) -> None:
        if self._body is not None and self._body.is_dead:
            self._up = False
        self.changed()

    async def _bury(self, body: Body) -> None:
        """Give back what never ran, settle what did."""
        self._stop_watching()
        self._outbox.close()
        body.read_output()  # its last words belong to what it ran
        ticket, item = body.running
        culprit = self._calls.pop(ticket, None) or _unheard(self._calls, self._begun, body)
        innocent = list(self._calls.values())
        self._calls.clear()
        self._return(innocent)
        death = await body.autopsy()
        await body.cleared()
        body.abandon()
        if not self.leaving and not self._stopping.killed_ticket:
            self._host.crashed(self.name, death.cause)
        if culprit is None:
            return
        seconds = monotonic() - self._started_at
        if ticket and ticket == self._stopping.killed_ticket:
            self._host.finished(culprit, Stopped(seconds, "killed"))
        else:
            self._host.finished(culprit, Lost(lost(self.name, culprit, death, item), seconds))

    def _stop_watching(self) -> None:
        self._wear.renew()
        self._overdue.stop()

    async def aclose(self) -> None:
        """End the worker; what it still runs is killed."""
        body = self._body
        if body is not None:
            await body.aclose()
            self._outbox.close()
        self._stop_watching()
        self._up = False
        self.fitting.let_go()
        calls = list(self._calls.values())
        self._calls.clear()
        self._return(calls[1:])
        if calls and calls[0].stop is not None:
            self._host.finished(calls[0], Stopped(0.0, "killed"))
        elif calls:
            self._host.finished(calls[0], Lost(closed_under(self.name, calls[0], self.pid), 0.0))

    def abort(self) -> None:
        """Hang up on the worker, which makes it leave; no other follows."""
        self.leaving = True
        if self._body is not None and not self._body.is_dead:
            self._body.hang_up()


def _could_mix(call: Call, calls: dict[int, Call]) -> bool:
    """Whether what these calls print could be taken for what `call` prints."""
    return call.plan.keeps_output or next(iter(calls.values()), call).cell is not call.cell


def _answered(host: Host, call: Call, kind: int, seconds: float, body: memoryview, worker: Body | None) -> None:
    """Tell how `call` ended."""
    if kind > frames.DELIVERED:
        host.finished(call, unsuccessful(kind, seconds, body))
        return
    results = worker.freight.results if kind == frames.DELIVERED and worker is not None else None
    try:
        value = value_of(body, call, results)
    except ResultNotSendable as error:
        host.finished(call, Failed(error, seconds))
    else:
        host.returned(call, value, seconds)


def _unheard(calls: dict[int, Call], begun: int, body: Body) -> Call | None:
    """Take out the call that broke its own channel: it may be over, but its answer cannot be read.

    So is a call to blame whose workers died again and again before they claimed it.
    """
    first = next(iter(calls), 0)
    if not first or first != begun:
        return None
    calls[first].strikes += 1
    return calls.pop(first) if body.is_garbled or calls[first].strikes >= STRIKES else None


def _raise(number: int, reason: memoryview) -> None:
    """The token that its worker has raised."""
    token = by_number(number)
    if token is not None:
        token.raise_for(StopReason(*codec.loads(reason)))


def stacks_of(slot: Slot) -> str:
    """Where the threads of its worker are now; empty if it cannot tell. Blocks for some 0.1 s, in any thread."""
    body = slot._body
    return body.cell.stacks(body.pid) if body is not None and body.pid and not body.is_dead else ""


def running_item(slot: Slot) -> int:
    """Which item of its group its worker is at."""
    return slot._body.running[1] if slot._body is not None else 0
