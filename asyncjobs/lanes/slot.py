"""One process slot: which calls its worker holds, who runs, who is stopped, who is to blame.

Invariants:
    `_calls` holds, in the order they were sent, the calls without an answer: the first of
    them is the one that runs. Tickets only grow and are never used twice, so a late word
    about an old ticket finds nothing. At most one REVOKE is unanswered at any time.
"""

from __future__ import annotations

import asyncio
import errno
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from asyncjobs.errors import ResourceExhausted, ResultNotSendable, WorkerLost, WorkerStartError
from asyncjobs.lanes.base import Call, ChunkResult, Failed, Lost, Outcome, Plan, Stopped
from asyncjobs.lanes.body import Body
from asyncjobs.lanes.death import Death, private_memory
from asyncjobs.token import CancelToken, StopReason, by_number
from asyncjobs.wire import codec, failure, frames
from asyncjobs.wire.terms import CALL_HEAD, KEYWORDS, STARRED, Definition

if TYPE_CHECKING:
    from asyncjobs.lanes.process import ProcessLane

WINDOW_SECONDS = 0.001
"""A slot may hold calls for about this much work beyond the one that runs."""
WINDOW_CALLS = 128
OVERDUE = 0.005
"""After so many seconds with one call, those behind it are given to idle slots."""
KILL_AFTER_INTERRUPT = 1.0
KNOWN_FUNCTIONS = 512
LARGE_FUNCTION = 64 * 1024
"""A by-value function above this size is not kept by the worker."""
START_TIMEOUT = 60.0
START_TRIES = 3
RSS_INTERVAL = 0.25


class Slot:
    """A place that runs calls in a worker process of its own, one after the other."""

    def __init__(self, name: str, lane: ProcessLane) -> None:
        self.name = name
        self.changed: Callable[[], None] = _nobody
        self.leaving = False
        self._lane = lane
        self._host = lane.host
        self._body: Body | None = None
        self._up = False
        self._calls: dict[int, Call] = {}
        self._load = 0.0
        self._alone = False
        self._outbox: list[bytes] = []
        self._ticket = 0
        self._begun = 0
        self._is_long = False
        """What runs has kept others waiting: those went back, for another slot to take."""
        self._known: OrderedDict[int, None] = OrderedDict()
        self._served = 0
        self._retiring = False
        self._started_at = 0.0
        self._tried_at = -1e9
        self._revoking: list[int] = []
        self._to_revoke: set[int] = set()
        self._killed_ticket = 0
        self._watched: set[int] = set()
        self._overdue_check: asyncio.TimerHandle | None = None
        self._rss_check: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "up" if self._up else "down"
        return f"<Slot {self.name} {state} pid {self.pid} with {len(self._calls)} calls>"

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
        return self._body is None

    @property
    def is_idle(self) -> bool:
        """Whether its worker waits for a call."""
        return self._up and not self._calls and not self._retiring

    @property
    def idle(self) -> bool:
        return not self._calls

    @property
    def hungry(self) -> bool:
        if not self._up or self._retiring or self.leaving:
            return False
        calls = self._calls
        if not calls:
            return True
        recycle_after = self._lane.recycle_after
        if recycle_after is not None and self._served + len(calls) >= recycle_after:
            return False
        body = self._body
        return not self._alone and len(calls) < WINDOW_CALLS and body is not None and body.writable

    @property
    def count(self) -> int:
        """How many calls its worker holds."""
        return len(self._calls)

    def admits(self, call: Call) -> bool:
        """Whether `call` may wait behind what runs: only if it is known to be short."""
        if self._is_long or self._lane.has_idle_slot():
            return False
        if self._lane.max_rss is not None:
            return False  # a call must not be killed for what another one used
        if call.plan.chunked:
            return len(self._calls) < 2
        pace = call.plan.pace
        return pace is not None and self._load + pace <= WINDOW_SECONDS

    def start(self, call: Call) -> None:
        """Put the call into the worker's window; it goes out at `flush`."""
        self._ticket = ticket = self._ticket + 1
        plan, payload = call.plan, call.payload
        assert payload is not None
        forget = 0
        number = plan.number
        if number not in self._known:
            number, forget = self._define(plan, payload)
        if payload.tokens:
            self._watch_all(payload.tokens)
        flags = (KEYWORDS if payload.keywords else 0) | (STARRED if plan.starred else 0)
        body = CALL_HEAD.pack(number, call.attempt, call.number, flags) + payload.data
        self._outbox.append(frames.header(frames.CHUNK if plan.chunked else frames.CALL, ticket, body))
        self._outbox.append(body)
        if forget:
            self._outbox.append(frames.encode(frames.FORGET, forget))
        self._calls[ticket] = call
        pace = plan.pace
        if pace is None:
            self._alone = not plan.chunked
        else:
            self._load += pace
        if len(self._calls) == 1:
            self._begin_first()

    def flush(self) -> None:
        """Send what `start` collected, in one write."""
        if self._outbox and self._body is not None:
            outbox, self._outbox = self._outbox, []
            self._body.write(outbox if len(outbox) < 3 or sum(map(len, outbox)) > 65536 else [b"".join(outbox)])
        if len(self._calls) > 1 and self._overdue_check is None:
            self._watch_first()
        if self._lane.max_rss is not None and self._rss_check is None:
            self._rss_check = self._host.loop.call_later(RSS_INTERVAL, self._check_rss)

    def _define(self, plan: Plan, payload: codec.Payload) -> tuple[int, int]:
        """Tell the worker of a function; its number, and the number to forget afterwards."""
        by_value = payload.function
        number = self._lane.number_for(plan, by_value)
        if by_value is None:
            plan.number = number
        elif number in self._known:
            return number, 0
        reference = codec.Reference(plan.by_name, by_value)
        definition = Definition(plan.name, reference, plan.options.max_result)
        self._outbox.append(frames.encode(frames.DEFINE, number, pickle.dumps(tuple(definition), 5)))
        if by_value is not None and len(by_value) > LARGE_FUNCTION:
            return number, number
        self._known[number] = None
        if len(self._known) > KNOWN_FUNCTIONS:
            oldest, _ = self._known.popitem(last=False)
            self._outbox.append(frames.encode(frames.FORGET, oldest))
        return number, 0

    def _watch_all(self, tokens: tuple[CancelToken, ...]) -> None:
        for token in tokens:
            self._watch(token)

    def _watch(self, token: CancelToken) -> None:
        """Raise the worker's twin of `token` when it is raised here."""
        number = token.number
        if number in self._watched:
            return
        self._watched.add(number)
        body = self._body

        def pass_on(reason: StopReason) -> None:
            self._host.loop.call_soon_threadsafe(tell, reason)

        def tell(reason: StopReason) -> None:
            if body is not None:
                body.tell(frames.TOKEN, number, pickle.dumps(tuple(reason), 5))

        token.add_callback(pass_on)

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
                call = calls.pop(ticket, None)
                if call is None:
                    continue
                self._served += 1
                call.plan.measured(seconds)
                if calls:
                    self._load = max(0.0, self._load - (call.plan.pace or 0.0))
                else:
                    self._load, self._alone = 0.0, False
                if call.plan.captures and self._body is not None:
                    self._body.read_output()
                self._end(call, kind, seconds, body)
                if calls:
                    self._begin_first()
            else:
                self._special(kind, ticket, body)
        if not calls and self._is_used_up():
            self._retiring = True
        self.changed()

    def _end(self, call: Call, kind: int, seconds: float, body: memoryview) -> None:
        if kind != frames.RETURNED:
            self._host.finished(call, _outcome(kind, seconds, body))
            return
        try:
            value = codec.loads(body)
        # The user's own class may raise anything while it is rebuilt.
        except BaseException as error:
            self._host.finished(call, Failed(_not_rebuilt(call, error), seconds))
            return
        self._host.returned(call, _chunk(value) if call.plan.chunked else value, seconds)

    def _is_used_up(self) -> bool:
        lane = self._lane
        if lane.recycle_after is not None and self._served >= lane.recycle_after:
            return True
        return lane.max_rss is not None and self._body is not None and private_memory(self._body.pid) > lane.max_rss

    def _special(self, kind: int, ticket: int, body: memoryview) -> None:
        if kind == frames.PROGRESS:
            call = self._calls.get(ticket)
            if call is not None:
                call.report_progress(*codec.loads(body))
        elif kind == frames.REVOKED:
            self._on_revoked(codec.loads(body))
        elif kind == frames.TOKEN_RAISED:
            token = by_number(ticket)
            if token is not None:
                token.raise_for(StopReason(*codec.loads(body)))
        elif kind == frames.RETIRED:
            self._retiring = True
            self._give_back(list(self._calls))
        elif kind == frames.HELLO and self._body is not None:
            self._body.greeted(codec.loads(body))

    def on_text(self, stream: str, text: str) -> None:
        """The worker printed something."""
        call = next(iter(self._calls.values()), None)
        self._host.printed(stream, text, call)

    # --- giving back --------------------------------------------------------------------

    def _watch_first(self) -> None:
        self._overdue_check = self._host.loop.call_later(OVERDUE, self._check_overdue, next(iter(self._calls)))

    def _check_overdue(self, first: int) -> None:
        self._overdue_check = None
        if len(self._calls) < 2:
            return
        if next(iter(self._calls)) == first and self._lane.has_spare_slot():
            self._is_long = True
            self._revoke(list(self._calls)[1:])
        self._watch_first()

    def _revoke(self, tickets: list[int]) -> None:
        self._to_revoke.update(tickets)
        if not self._revoking and self._body is not None:
            self._revoking = sorted(ticket for ticket in self._to_revoke if ticket in self._calls)
            self._to_revoke.clear()
            if self._revoking:
                self._body.tell(frames.REVOKE, 0, pickle.dumps(self._revoking, 5))

    def _on_revoked(self, taken_back: list[int]) -> None:
        asked, self._revoking = self._revoking, []
        self._give_back(taken_back)
        for ticket in asked:
            call = self._calls.get(ticket)
            if call is not None and call.stop is not None:
                self._climb(ticket, call)  # too late: it runs already
        if self._to_revoke:
            self._revoke([])

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
        ticket = next((ticket for ticket, candidate in self._calls.items() if candidate is call), None)
        if ticket is None:
            return
        if ticket == next(iter(self._calls)):
            self._climb(ticket, call)
        else:
            self._revoke([ticket])

    def _climb(self, ticket: int, call: Call) -> None:
        """The ladder: the token now, an exception at the grace, the end a second later."""
        if self._body is None or call.stop is None:
            return
        grace = call.grace
        self._body.tell(frames.CANCEL, ticket, pickle.dumps(tuple(call.stop), 5))
        loop = self._host.loop
        loop.call_later(grace, self._interrupt, ticket)
        loop.call_later(grace + KILL_AFTER_INTERRUPT, self._kill, ticket)

    def _interrupt(self, ticket: int) -> None:
        if ticket in self._calls and self._body is not None:
            self._body.tell(frames.INTERRUPT, ticket)

    def _kill(self, ticket: int) -> None:
        if ticket in self._calls and self._body is not None:
            self._killed_ticket = ticket
            self._body.kill("stopped")

    def _check_rss(self) -> None:
        self._rss_check = None
        limit, body = self._lane.max_rss, self._body
        if limit is None or body is None or body.is_dead:
            return
        used = private_memory(body.pid)
        if used > limit and self._calls:
            body.kill(f"max_rss: {used / 2**20:.0f} MiB used, {limit / 2**20:.0f} MiB allowed")
        elif used > limit:
            self._retiring = True
            self.changed()
        elif self._calls:
            self._rss_check = self._host.loop.call_later(RSS_INTERVAL, self._check_rss)

    # --- coming up and going down -------------------------------------------------------

    async def restore(self) -> None:
        """Bury a dead worker, let a used one leave, start a new one."""
        if self._body is not None and self._body.is_dead:
            await self._bury(self._body)
        elif self._body is not None:
            await self._body.aclose()
        self._reset()
        if not self.leaving:
            await self._bring_up()

    def _reset(self) -> None:
        self._up = self._retiring = self._alone = False
        self._load, self._served, self._killed_ticket = 0.0, 0, 0
        self._known.clear()
        self._watched.clear()
        self._outbox.clear()
        self._revoking = []
        self._to_revoke.clear()

    async def _bring_up(self) -> None:
        error: Exception | None = None
        for attempt in range(START_TRIES):
            wait = self._tried_at + min(1.0, 0.1 * 2**attempt if attempt else 0.0) - monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self._tried_at = monotonic()
            error = await self._try_once()
            if error is None:
                self._up = True
                return
        self._tried_at = monotonic() + 1.0
        self._body = None
        assert error is not None
        self._lane.could_not_start(error)

    async def _try_once(self) -> Exception | None:
        body = self._body = Body(self._host.loop, self._lane.recipe, self.on_frames, self.on_text, self._body_changed)
        try:
            await body.start()
        except (OSError, EOFError, RuntimeError) as error:
            self._body = None
            return _no_process(self.name, error)
        try:
            await body.hello(START_TIMEOUT)
        except (TimeoutError, ChildProcessError) as error:
            body.kill("never said hello")
            death = await body.autopsy()
            body.abandon()
            return _start_error(self.name, error, death)
        return None

    def _body_changed(self) -> None:
        if self._body is not None and self._body.is_dead:
            self._up = False
        self.changed()

    async def _bury(self, body: Body) -> None:
        """Give back what never ran, settle what did."""
        for timer in (self._overdue_check, self._rss_check):
            if timer is not None:
                timer.cancel()
        self._overdue_check = self._rss_check = None
        ticket, item = body.running
        culprit = self._calls.pop(ticket, None)
        innocent = list(self._calls.values())
        self._calls.clear()
        self._return(innocent)
        death = await body.autopsy()
        await body.cleared()
        body.abandon()
        if not self.leaving and not self._killed_ticket:
            self._host.crashed(self.name, death.cause)
        if culprit is None:
            return
        seconds = monotonic() - self._started_at
        if ticket == self._killed_ticket:
            self._host.finished(culprit, Stopped(seconds, "killed"))
        else:
            self._host.finished(culprit, Lost(_lost(self.name, culprit, death, item), seconds))

    async def aclose(self) -> None:
        """End the worker; what it still runs is killed."""
        body = self._body
        if body is not None and not body.is_dead:
            await body.aclose()
        elif body is not None:
            body.abandon()
        for timer in (self._overdue_check, self._rss_check):
            if timer is not None:
                timer.cancel()
        for call in self._calls.values():
            self._host.finished(call, Stopped(0.0, "killed"))
        self._calls.clear()
        self._up = False

    def abort(self) -> None:
        """Hang up on the worker, which makes it leave."""
        if self._body is not None and not self._body.is_dead:
            self._body.hang_up()


def _outcome(kind: int, seconds: float, body: memoryview) -> Outcome:
    if kind == frames.RAISED:
        return Failed(failure.rebuild(codec.loads(body)), seconds)
    return Stopped(seconds, "stopped", str(body, "utf-8"))


def _not_rebuilt(call: Call, error: BaseException) -> ResultNotSendable:
    problem = ResultNotSendable(
        f"the result of {call.name!r} could not be unpickled here: {failure.type_name(error)}: {failure.text_of(error)}"
    )
    problem.__cause__ = error
    return problem


def _chunk(value: tuple[list[Any], dict[int, failure.Failure]]) -> ChunkResult:
    values, failures = value
    return ChunkResult(values, {index: failure.rebuild(failed) for index, failed in failures.items()})


def _lost(name: str, call: Call, death: Death, item: int) -> WorkerLost:
    likely = "; possibly out of memory" if death.cause == "SIGKILL" else ""
    stderr = f"\nIts last words:\n{death.stderr[-4000:]}" if death.stderr else ""
    error = WorkerLost(
        f"worker {name} (pid {death.pid}) died ({death.cause}) while it ran {call.name!r}, "
        f"attempt {call.attempt}{likely}{stderr}"
    )
    error.lane, error.attempt = call.plan.lane, call.attempt
    error.pid, error.signal, error.exit_code = death.pid, death.signal, death.exit_code
    error.stderr, error.cause, error.item = death.stderr, death.cause, item
    return error


def _no_process(name: str, error: Exception) -> Exception:
    number = error.errno if isinstance(error, OSError) else errno.EAGAIN
    text = f"worker {name} could not be started: {errno.errorcode.get(number or 0, 'unknown')}: {error}"
    if number not in (errno.EMFILE, errno.ENFILE):
        return WorkerStartError(f"{text}; the limit of processes and threads may be reached")
    problem = ResourceExhausted(f"{text}; no descriptors are left")
    problem.resource = "descriptors"
    return problem


def _start_error(name: str, error: Exception, death: Death) -> WorkerStartError:
    problem = WorkerStartError(
        f"worker {name} did not start: {error or type(error).__name__}; {START_TRIES} tries. "
        f"Its last words:\n{death.stderr[-4000:] or '(none)'}"
    )
    problem.stderr = death.stderr
    return problem


def _nobody() -> None:
    """Before a consumer listens."""
