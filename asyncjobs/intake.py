"""Turn functions and their arguments into jobs, and hand them to the engine.

Decides lane and options, pickles what travels, waits for room. Runs nothing.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import copy_context
from time import monotonic
from typing import Any

from asyncjobs.context import running
from asyncjobs.engine.engine import Engine
from asyncjobs.errors import NotSendable
from asyncjobs.job import Job
from asyncjobs.lanes.base import Call, Lane, Output, Plan
from asyncjobs.lanes.output import Tail
from asyncjobs.options import JobOptions, OptionFields, make_options, options_of, settle
from asyncjobs.remote.hosted import Hosted, faces
from asyncjobs.shared import SharedObject, unwrapped
from asyncjobs.wire import codec
from asyncjobs.wire.parcel import LARGE

BREATH = 0.001
"""Seconds of submitting after which `submit` gives the loop a turn: what was submitted starts
while more is, and a loop that computes between submits does not hold its own jobs up."""

NOTHING_GIVEN = JobOptions()


def check_lane(name: str, lanes: Mapping[str, Lane]) -> None:
    """Raise if there is no lane of that name."""
    if name not in lanes:
        raise ValueError(f"lane={name!r} is not allowed; allowed: {', '.join(sorted(lanes))}")


def check_lanes(lanes: Mapping[str, Lane]) -> None:
    """Raise unless each is a lane of its own, under a name."""
    names: dict[int, str] = {}
    for name, lane in lanes.items():
        if not (isinstance(name, str) and name):
            raise ValueError(f"lanes={{{name!r}: ...}} is not allowed; allowed: a name that is not empty")
        if not hasattr(lane, "capabilities") or isinstance(lane, type):
            raise TypeError(f"lanes={{{name!r}: {lane!r}}} is not allowed; allowed: a lane, such as ThreadLane(4)")
        if id(lane) in names:
            raise ValueError(f"lanes {names[id(lane)]!r} and {name!r} are one object; make a lane for each name")
        names[id(lane)] = name


def options_of_lane(name: str, values: OptionFields, lanes: Mapping[str, Lane]) -> JobOptions:
    """Default options of one lane's jobs; refuses those that could never take effect there."""
    check_lane(name, lanes)
    what = f"lane_options={{{name!r}: {values!r}}}"
    if not isinstance(values, Mapping):
        raise TypeError(f"{what} is not allowed; allowed: a mapping of options to their values")
    options = make_options(values)
    if "lane" in options.given():
        raise ValueError(f"{what} is not allowed; allowed: options other than lane, which these are for")
    check_honoured(name, lanes[name], options)
    return options


def check_honoured(name: str, lane: Lane, options: JobOptions) -> None:
    """Raise if the lane cannot honour one of these options, and say what to do instead."""
    unsupported = lane.capabilities.unsupported
    refused = [option for option in options.given() if option in unsupported]
    if refused:
        advice = "; ".join(f"{option}: {unsupported[option]}" for option in refused)
        raise ValueError(
            f"lane {name!r} cannot honour the options {', '.join(refused)}, for it is {lane.kind}. {advice}"
        )


class Intake:
    """Where the jobs of one open runner come in."""

    def __init__(
        self, engine: Engine, lanes: Mapping[str, Lane], defaults: JobOptions, lane_options: Mapping[str, JobOptions]
    ) -> None:
        self.engine: Engine = engine
        self.breath_due: float = 0.0
        self._lanes = lanes
        self._defaults = defaults
        self._lane_options = lane_options

    def plan(self, fn: Callable[..., Any], options: JobOptions) -> Plan:
        """Decide lane and options for `fn`: options() over @job over lane over runner."""
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable; submit takes a function and its arguments")
        is_coroutine = _is_coroutine_function(fn)
        own = options.over(options_of(fn) or NOTHING_GIVEN)
        name = own.over(self._defaults).lane
        if not isinstance(name, str):
            name = "loop" if is_coroutine else "thread"
        check_lane(name, self._lanes)
        settled = settle(own.over(self._lane_options.get(name, NOTHING_GIVEN)).over(self._defaults))
        plan = Plan(settled.name or _name_of(fn), name, settled, is_coroutine)
        self._check_plan(fn, plan, own)
        plan.home = self.engine.dispatchers[name]
        return plan

    def _check_plan(self, fn: Callable[..., Any], plan: Plan, options: JobOptions) -> None:
        capabilities = self._lanes[plan.lane].capabilities
        if plan.is_coroutine and not capabilities.coroutines:
            raise TypeError(
                f"{plan.name} is a coroutine function; lane {plan.lane!r} runs plain functions, 'loop' these"
            )
        if capabilities.coroutines and not plan.is_coroutine:
            raise TypeError(
                f"{plan.name} is a plain function and would block lane {plan.lane!r}; use 'thread' or 'process'"
            )
        check_honoured(plan.lane, self._lanes[plan.lane], options)
        plan.encodes = capabilities.encodes
        if plan.encodes:
            plan.by_name = codec.importable(fn)

    def make(self, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """A job that is not yet in the queue, or the living one with the same key."""
        engine = self.engine
        if engine.is_open:  # what is closed says so, wherever it is called from
            engine.check_loop()
            if not plan.is_plain and plan.options.key in engine.keys:
                return engine.keys[plan.options.key]
        return self.draft(fn, plan, args, kwargs)

    def draft(
        self,
        fn: Callable[..., Any],
        plan: Plan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Output | None = None,
        payload: codec.Payload | None = None,
    ) -> Job[Any]:
        """A job that is not yet in the queue; from any thread, for nothing is changed.

        What it says while it runs goes to `output`, if there is one; see `Plan.marks`. Where arguments travel they
        may come pickled, as a `payload`.
        """
        engine = self.engine
        if not engine.is_open:
            raise engine.refusal("the runner is closed; it takes jobs inside `async with Runner() as runner:`")
        plan.home.lane.check(plan)
        call = Call(plan)
        call.output = Tail() if output is None and plan.options.output == "capture" else output
        if plan.encodes:
            call.payload = self._payload(fn, plan, args, kwargs) if payload is None else payload
            if payload is not None and len(payload.data) >= LARGE:
                self._check_payload(plan, payload)
            if engine.notebook is not None:
                call.cell = engine.notebook.cell()
        else:
            if engine.shares.count:
                args = tuple(map(unwrapped, args))
                kwargs = {name: unwrapped(value) for name, value in kwargs.items()}
            if plan.options.snapshot:
                args, kwargs = _snapshot(plan, args, kwargs)
            if not plan.is_coroutine:
                args = faces(args, engine.loop)
                kwargs = kwargs and dict(zip(kwargs, faces(tuple(kwargs.values()), engine.loop), strict=True))
            call.fn = fn
            call.args = args
            call.kwargs = kwargs or None
            call.context = copy_context()
        return Job(plan.home, call, monotonic())

    def _payload(
        self, fn: Callable[..., Any], plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> codec.Payload:
        payload = codec.encode_arguments(fn, args, kwargs)
        if plan.by_name is None:
            # Captured values may have changed since the last submit: pickled each time.
            function, passengers = plan.function or codec.encode_function(fn)
            payload = payload._replace(function=function, passengers=payload.passengers + passengers)
        if payload.buffers or payload.passengers or payload.function is not None or len(payload.data) >= LARGE:
            self._check_payload(plan, payload)
            if plan.options.snapshot:
                payload = payload._replace(buffers=tuple(memoryview(bytes(buffer)) for buffer in payload.buffers))
        return payload

    def _check_payload(self, plan: Plan, payload: codec.Payload) -> None:
        self.engine.memory.check(f"the arguments of {plan.name}", payload.nbytes)
        for passenger in payload.passengers:
            if isinstance(passenger, Hosted):
                if not self._lanes[plan.lane].capabilities.queues:
                    raise _stays_here(plan, passenger)
                passenger.settle_on(self.engine.loop)
            if isinstance(passenger, SharedObject) and passenger.shares is not self.engine.shares:
                raise ValueError(f"{plan.name} takes a shared object of another runner; share it with this one")

    def must_wait(self, job: Job[Any]) -> bool:
        """Whether `job` is to be admitted only after `room_for` it: there is none, or the loop needs a turn."""
        return not job._call.number and (job._marks[1] > self.breath_due or not job._desk.queue.may_enter(job._call))

    async def room_for(self, job: Job[Any]) -> Job[Any]:
        """The job, once there is room for it; or the one with its key that came meanwhile.

        All waiting is here, before the job is admitted: whoever is cancelled has submitted nothing.
        """
        engine = self.engine
        dispatcher = engine.dispatchers[job.lane]
        waiter = running.get()
        if job._marks[1] > self.breath_due:
            await asyncio.sleep(0)
            self.breath_due = monotonic() + BREATH
        queue = dispatcher.queue
        has_waited = False
        while engine.is_open and not (queue.has_room(job._call) if has_waited else queue.may_enter(job._call)):
            future: asyncio.Future[None] = engine.loop.create_future()
            forget = engine.waits(waiter, None, job.lane, future) if isinstance(waiter, Call) else None
            try:
                await queue.room(future, again=has_waited)
                has_waited = True
            finally:
                if forget is not None:
                    forget()
        if not engine.is_open:
            raise engine.refusal(f"the runner is closing; job {job.name!r} was not accepted")
        return engine.keys.get(job._call.plan.options.key, job)

    async def entered(self, job: Job[Any]) -> Job[Any]:
        """The job, accepted once there is room for it."""
        if self.must_wait(job):
            job = await self.room_for(job)
        return self.admit(job)

    def admit(self, job: Job[Any]) -> Job[Any]:
        """Accept `job`; one with a key may have been accepted before.

        Raises:
            QueueFull: its lane's queue has no room.
        """
        if not job._call.number:
            self.engine.accept(job)
        return job


def _stays_here(plan: Plan, hosted: Hosted) -> NotSendable:
    kind = type(hosted).__name__
    error = NotSendable(
        f"an argument of {plan.name} is a {kind}, which jobs of lane {plan.lane!r} ({plan.home.lane.kind}) cannot "
        "reach: take from it here and give the job the elements, or use lane 'process'"
    )
    error.argument = kind
    return error


def _snapshot(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return copy.deepcopy((args, kwargs))
    except Exception as error:
        raise TypeError(
            f"an argument of {plan.name} cannot be copied for snapshot=True: {type(error).__name__}: {error}"
        ) from error


def _is_coroutine_function(fn: Any) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isasyncgenfunction(fn):
        raise TypeError(f"{_name_of(fn)} is an async generator function; iterate over it inside a coroutine")
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the method itself is wanted
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", None) or type(fn).__name__)
