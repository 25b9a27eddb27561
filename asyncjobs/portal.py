"""One event loop in a background thread, for callers who have none: `Portal`.

Knows loops and threads, nothing of jobs. A caller hands a function over and goes on (`post`), or
blocks until a coroutine has ended (`call`). The coroutine may meanwhile ask for things to be done
in the caller's own thread (`converse`): a generator of the user's belongs there.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from asyncjobs.errors import RunnerClosed, WouldDeadlock, WrongLoop
from asyncjobs.futures import fail, resolve, take

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # not on Windows
    new_event_loop = asyncio.new_event_loop

LAST_WAIT = 1.0
"""Seconds that coroutines on a closing portal get to end."""

P = ParamSpec("P")
T = TypeVar("T")

Ask = Callable[[Callable[[], Any]], Awaitable[Any]]
"""``await ask(fn)``: have the thread that waits run ``fn()``, and get what it returns or raises."""


class Portal:
    """A loop of its own in a daemon thread, from its making until `close`."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.is_foreign: bool = False
        """Whether we are a forked child's copy, which has no such thread. To ask for the process id takes longer."""
        _portals.add(self)
        self.at_end: Callable[[], object] | None = None
        """Called on the loop when it ends, whoever ended it; what is posted later may never run."""
        self._exchanges: set[_Exchange] = set()
        # Reentrant, for a signal handler or a finalizer may call us in the midst of our own call.
        self._ending = threading.RLock()
        self.is_over: bool = False
        """The loop has ended, or does: it begins nothing more."""
        self._is_wanted = True
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
            self._has_begun.wait()
        except BaseException as error:  # Ctrl-C, and the thread may run or be about to
            self._is_wanted = False
            if self._has_begun.is_set():
                self.end_soon()
            if isinstance(error.__context__, KeyboardInterrupt):  # of which threading's own lock made something else
                raise error.__context__ from None
            raise

    def _run(self) -> None:
        # Made here, where no Ctrl-C can come between its making and its closing.
        self.loop = new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._has_begun.set()
        if not self._is_wanted:
            self.end_soon()
        try:
            self.loop.run_forever()
        finally:
            # First of all: what begins before this is seen by the winding up, and nothing begins after it.
            with self._ending:
                self.is_over = True
            try:
                self._wind_up()
            finally:
                self.loop.close()
                for exchange in tuple(self._exchanges):
                    exchange.end(_Raise(RunnerClosed("the runner was closed meanwhile")))

    def _wind_up(self) -> None:
        winding = self.loop.create_task(_wind_up(self.at_end))
        winding.add_done_callback(lambda _: self.loop.stop())
        while not winding.done():  # a stop that came late, for what ran before, ends only this turn
            self.loop.run_forever()
        winding.result()

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the loop's own thread; never in a forked child, which may have its number."""
        # Not by its number, which the next thread may get once it has ended; and is_alive() is for an instant wrong
        # while another thread asks it, too.
        return threading.current_thread() is self._thread and not self.is_foreign

    def check(self, what: str) -> None:
        """Refuse to block where nothing would ever come.

        Raises:
            WouldDeadlock: in the loop's own thread; names `what` was called.
            WrongLoop: in a forked child.
        """
        if self.is_here:
            raise WouldDeadlock(
                f"{what} was called in the thread of the runner's own event loop, which it would block for ever. In a "
                "coroutine job await current_job().runner's methods instead; in a callback hand the work on: "
                "submit_nowait() never waits"
            )
        self.check_process(what)

    def check_process(self, what: str) -> None:
        """Refuse to be used in a forked child.

        Raises:
            WrongLoop: names `what` was called.
        """
        if self.is_foreign:
            raise WrongLoop(
                f"{what} was called in a forked child of the process that made the runner; a fork takes no threads "
                "along: make a runner of its own there, or start the child with 'spawn' or 'forkserver'"
            )

    # --- handing over -------------------------------------------------------------------

    def post(self, fn: Callable[..., object], *args: Any) -> bool:
        """Have the loop call ``fn(*args)`` soon; never waits. False: the loop is closed, or this is a forked child."""
        if self.is_foreign:
            return False
        try:
            self.loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            return False
        return True

    def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Block until ``await fn(*args, **kwargs)`` has ended on the loop.

        It runs with the caller's context variables. Interrupted (Ctrl-C), it is cancelled and
        not waited for.

        Raises:
            RunnerClosed: the loop is closed.
            WouldDeadlock: called in the loop's own thread.
            WrongLoop: called in a forked child.
        """
        return self.converse(lambda _: fn(*args, **kwargs), getattr(fn, "__name__", "a blocking call") + "()")

    def converse(self, fn: Callable[[Ask], Awaitable[T]], what: str, timeout: float | None = None) -> T:
        """As `call`, with ``fn(ask)``; `what` names the call in errors.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds, for which it is cancelled.
        """
        self.check(what)
        exchange = _Exchange(fn, self.post)
        try:
            self._begin(exchange, what)
            value: T = exchange.serve(timeout)
        except BaseException:
            self.post(exchange.cancel)
            raise
        finally:
            self._exchanges.discard(exchange)
        return value

    def _begin(self, exchange: _Exchange, what: str) -> None:
        with self._ending:
            if self.is_over or not self.post(exchange.start):
                raise RunnerClosed(f"{what}: the runner is closed; make a new one")
            self._exchanges.add(exchange)

    def do(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`, for a plain function that the loop's own thread has to run."""

        async def run(_: Ask) -> T:
            return fn(*args, **kwargs)

        return self.converse(run, f"{getattr(fn, '__name__', 'a blocking call')}()")

    def end_soon(self) -> None:
        """End the loop after what was posted before; never blocks."""
        self.post(self.loop.stop)

    def close(self, timeout: float | None = None) -> None:
        """End the loop and wait, at most `timeout` seconds, for its thread; a second call does nothing."""
        if self.post(self.loop.stop) and not self.is_here:
            self._thread.join(timeout)


async def _wind_up(at_end: Callable[[], object] | None) -> None:
    """End what still runs on the loop; whatever does not heed it is left."""
    loop = asyncio.get_running_loop()
    if at_end is not None:
        loop.call_soon(at_end)  # what it raises must not keep the rest from ending
        await asyncio.sleep(0)
    until = loop.time() + LAST_WAIT
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and loop.time() < until:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=LAST_WAIT)
    # Only now: a generator cannot be closed while a task is in it.
    await loop.shutdown_asyncgens()


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _disown() -> None:
    """In a forked child: none of the threads is here."""
    for portal in tuple(_portals):
        portal.is_foreign = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_disown)


class _Exchange:
    """One blocking call: the caller's thread serves what the coroutine asks for, until it has ended."""

    def __init__(self, fn: Callable[[Ask], Awaitable[Any]], post: Callable[..., bool]) -> None:
        self._fn = fn
        self._post = post
        self._task: asyncio.Task[None] | None = None
        self._to_caller: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any] | None]] = SimpleQueue()

    # --- in the caller's thread ---------------------------------------------------------

    def serve(self, timeout: float | None = None) -> Any:
        """Do what is asked for; the last of it is to return, or to raise."""
        until = None if timeout is None else monotonic() + timeout
        while True:
            try:
                request, reply = take(self._to_caller, None if until is None else until - monotonic())
            except Empty:
                raise TimeoutError(f"the runner's event loop has not answered within {timeout:g} s") from None
            if reply is None:
                return request()
            self._answer(request, reply)

    def _answer(self, request: Callable[[], Any], reply: asyncio.Future[Any]) -> None:
        # Posted in vain if the loop has ended meanwhile: then the last word comes, or has come.
        try:
            value = request()
        except StopIteration as error:  # no future takes it; a generator does the same to it
            problem = RuntimeError("a function that was called for the loop raised StopIteration")
            problem.__cause__ = error
            self._post(fail, reply, problem)
        except Exception as error:
            self._post(fail, reply, error)
        else:
            self._post(resolve, reply, value)

    # --- on the loop --------------------------------------------------------------------

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            value = await self._fn(self._ask)
        except asyncio.CancelledError:  # whoever waited was interrupted and is gone, or the loop ends
            self.end(_Raise(RunnerClosed("the runner was closed meanwhile")))
        # Whatever it is, it belongs to whoever waits; SystemExit must not end the loop.
        except BaseException as error:
            self.end(_Raise(error))
        else:
            self.end(lambda: value)

    def end(self, last: Callable[[], Any]) -> None:
        """Let the caller go with what ``last()`` returns or raises; from any thread, and only the first counts."""
        self._to_caller.put((last, None))

    def _ask(self, request: Callable[[], Any]) -> Awaitable[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._to_caller.put((request, reply))
        return reply


class _Raise:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self) -> None:
        try:
            raise self._error
        finally:
            del self._error  # no cycle of error, traceback and frame
