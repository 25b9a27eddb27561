"""The loop's side of one plot: looks for news now and then, makes an edition of it, and gives it to the couriers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from asyncjobs.plotting.courier import Courier
from asyncjobs.plotting.drawing import Drawn, attempt
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.figures import Numbers, compose, gather, numbers
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.reading import PATIENCE, Frame
from asyncjobs.plotting.replay import Replay
from asyncjobs.plotting.resume import send_leftovers
from asyncjobs.plotting.rows import FromSpool
from asyncjobs.plotting.sinks.base import Sink
from asyncjobs.plotting.spool import Spool
from asyncjobs.plotting.studio import PICTURES, TEXT
from asyncjobs.plotting.targets import is_fleeting
from asyncjobs.runner import Runner

logger: logging.Logger = logging.getLogger("asyncjobs")

HEAVY = 1_000_000
"""Bytes of numbers that are made text in a worker process: here that would hold the training up for milliseconds."""
COMPOSING = ""
"""Among names of pictures, which are never empty: the figure of what was logged and written."""
LANES: Mapping[str, str] = {"thread": PICTURES, "process": "process"}
"""Of the plots' runner, by what `draw` calls them."""


@dataclass(frozen=True, slots=True)
class PlotStats:
    """What has become of what was handed over."""

    logged: int = 0
    """Rows of points that were accepted and read."""
    sent: int = 0
    """Editions that arrived, over all sinks."""
    coalesced: int = 0
    """Editions that a newer one overtook before they were sent."""
    retries: int = 0
    last_error: str | None = None
    """Of any picture, or any sink."""
    dropped: int = 0
    """Calls of `log` with values that are no numbers, and calls of any kind after the end."""
    cpu_share: float = 0.0
    """Share of one core that plotting has taken since the start, drawing in threads and sending what earlier plots
    have left counted; what worker processes and browsers do is not."""
    missing: tuple[str, ...] = ()
    """Targets that do not have the newest edition."""
    undrawn: tuple[str, ...] = ()
    """Pictures of which the newest call of `draw` failed: an earlier one is shown, or none."""


class Publisher:
    """Publishes what `journal` holds to `sinks`, at most once in `every` seconds.

    It keeps to `max_share` of one core: after work that took t seconds of processor time it rests t / max_share.
    """

    def __init__(
        self, spool: Spool, journal: Journal, sinks: Sequence[Sink], runner: Runner, every: float, max_share: float
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._replay = Replay(spool.folder, spool.about.max_points)
        self._runner = runner
        self._every = every
        self._max_share = max_share
        self.couriers: list[Courier] = [Courier(sink, runner, self._spend, self._delivered) for sink in sinks]
        self._composed: tuple[list[int], dict[str, str]] = ([0, 0], {})
        """What was logged and written as JSON, and what it shows: the replay's mark."""
        self._drawings: dict[str, tuple[int, str]] = {}
        """Serial number of what was drawn, and its JSON."""
        self._drawing: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, int] = {}
        """Serial number of what was drawn last, or could not be."""
        self._undrawn: dict[str, str] = {}
        """Why the newest call for a picture failed."""
        self._complaints: set[str] = set()
        self._edition: Edition | None = None
        self._has_news = False
        """Something was logged or written that no text shows yet."""
        self._is_stale = False
        """There is text that no edition shows yet."""
        self._is_over, self._has_ended = asyncio.Event(), asyncio.Event()
        self._unrested = 0.0
        self.spent: float = 0.0
        """Processor time in seconds that the threads of this process have spent on plotting."""

    async def run(self) -> None:
        """Until `finish`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                work = [tasks.create_task(courier.run()) for courier in self.couriers]
                work.append(tasks.create_task(self._send_what_others_left()))
                while not self._is_over.is_set():
                    self._look_or_complain()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._rest()):
                            await self._is_over.wait()
                for task in [*work, *self._drawing.values()]:
                    task.cancel()
        finally:
            self._replay.close()
            self._has_ended.set()

    async def finish(self, timeout: float) -> bool:
        """As `flush`, and end; a picture that could not be drawn is nothing that may arrive later."""
        if self._has_ended.is_set():  # whoever waited for that was interrupted
            return False
        try:
            return await self._arrival(timeout, False)
        finally:
            self._is_over.set()
            await self._has_ended.wait()

    async def flush(self, timeout: float | None, gives_up: bool = False) -> bool:
        """Send what was accepted so far; False: some sink does not have it within `timeout` seconds, it cannot be
        read, or a picture could not be drawn. One that `gives_up` waits for no second try of a sink."""
        return await self._arrival(timeout, gives_up) and not self._undrawn

    async def _arrival(self, timeout: float | None, gives_up: bool) -> bool:
        try:
            async with asyncio.timeout(timeout):
                # What is being drawn now, then the newer ones that had to wait for it. Not until nothing is: others
                # may go on writing.
                for _ in range(2):
                    is_complete = self._look_or_complain()
                    if self._drawing:
                        await asyncio.wait(self._drawing.values())
                is_complete = self._look_or_complain()
                while is_complete and self._replay.is_held_up:
                    await asyncio.sleep(PATIENCE / 4)
                    is_complete = self._look_or_complain()
                if self._edition is not None:
                    for courier in self.couriers:
                        courier.hurry(self._edition.number)
                    for courier in self.couriers:
                        is_complete &= await courier.arrival(self._edition.number, gives_up)
        except TimeoutError:
            return False
        return is_complete

    def stats(self, dropped: int, seconds: float) -> PlotStats:
        """What has become of everything in the `seconds` since the start; from any thread."""
        done = [courier.deliveries for courier in self.couriers]
        newest = 0 if self._edition is None else self._edition.number
        return PlotStats(
            logged=self._replay.rows - self._replay.voids,
            sent=sum(one.sent for one in done),
            coalesced=sum(one.coalesced for one in done),
            retries=sum(one.retries for one in done),
            last_error=next(filter(None, [*self._undrawn.values(), *(one.last_error for one in done)]), None),
            dropped=dropped,
            cpu_share=self.spent / seconds if seconds > 0 else 0.0,
            missing=tuple(courier.sink.target for courier in self.couriers if courier.arrived < newest),
            undrawn=tuple(self._undrawn),
        )

    # --- looking ------------------------------------------------------------------------

    def _look_or_complain(self) -> bool:
        """Whether there was nothing to complain of."""
        try:
            self._look()
        # Somebody has taken the folder away, or written nonsense into it: training goes on.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._complain(f"the spool of plot {self._spool.about.title!r} cannot be read: {reason}")
            return False
        return True

    def _look(self) -> None:
        """See what is new, and publish it."""
        began = time.thread_time()
        self._journal.write_late()
        self._has_news |= self._replay.refresh(self._journal.in_memory())
        while self._replay.exhausted:
            path = self._replay.exhausted.pop()
            if self._journal.forget(path):
                self._replay.forget(path)
        self._journal.make_spares()
        if self._journal.problem is not None:
            self._complain(f"the spool in {self._spool.folder} goes on in memory: {self._journal.problem}")
        for frame in self._replay.frames.values():
            name = frame.name
            if frame.kind == "draw" and name not in self._drawing and frame.serial > self._tried.get(name, 0):
                self._tried[name] = frame.serial
                self._drawing[name] = self._tasks.create_task(self._draw(name, frame))
        if self._has_news and COMPOSING not in self._drawing:
            self._compose()
        if self._is_stale:
            self._publish()
        self._spend(time.thread_time() - began)

    def _compose(self) -> None:
        self._has_news = False
        mark, known = self._replay.mark(), numbers(self._replay, self._spool.about.title)
        if known.nbytes > HEAVY:
            self._drawing[COMPOSING] = self._tasks.create_task(self._compose_elsewhere(mark, known))
        else:
            self._composed = mark, compose(known)
            self._is_stale = True

    async def _compose_elsewhere(self, mark: list[int], known: Numbers) -> None:
        try:
            figures = await self._runner.options(lane=TEXT, name=f"figure of {known.title}").run(compose, known)
        except Exception as error:  # there may be no memory for a worker, or the exit may have begun
            if self._is_over.is_set():
                return
            self._complain(
                f"the figure of plot {known.title!r} is made in this process: {type(error).__name__}: {error}"
            )
            figures = compose(known)
        finally:
            del self._drawing[COMPOSING]
        self._composed = mark, figures
        self._is_stale = True

    def _publish(self) -> None:
        self._is_stale = False
        about = self._spool.about
        mark, figures = self._composed
        figures = gather(about.title, figures, {name: text for name, (_, text) in self._drawings.items()})
        if not figures:
            return
        number = 1 if self._edition is None else self._edition.number + 1
        drawn = max((serial for serial, _ in self._drawings.values()), default=0)
        self._edition = Edition(about.plot, about.title, number, (*mark, drawn), figures)
        for courier in self.couriers:
            courier.offer(self._edition)

    async def _draw(self, name: str, frame: Frame) -> None:
        try:
            drawn = await self._runner.options(lane=LANES[frame.how], name=f"draw {name}").run(attempt, frame.x)
        except Exception as error:  # the worker may have died of it
            drawn = Drawn(0.0, None, f"{type(error).__name__}: {error}")
        finally:
            del self._drawing[name]
        if frame.how == "thread":
            self._spend(drawn.seconds)
        if drawn.figure is None:
            self._undrawn[name] = f"drawing {name!r} failed: {drawn.error}"
            self._complain(self._undrawn[name])
            return
        self._undrawn.pop(name, None)
        self._drawings[name] = (frame.serial, drawn.figure)
        self._is_stale = True

    async def _send_what_others_left(self) -> None:
        root = self._spool.folder.parent
        rest = partial(send_leftovers, root, self._replaced(), self._spool.about.plot)
        try:
            spent = await self._runner.options(lane="thread", name=f"rest of {root}").run(_timed, rest)
        except Exception as error:  # a spool may be damaged in any way, and training goes on
            self._complain(f"plots in {root} could not be resumed: {type(error).__name__}: {error}")
            return
        self._spend(spent)

    def _replaced(self) -> list[str]:
        """Targets at which an earlier plot would be overwritten at once; who wants every point wants its points too."""
        places = zip(self._spool.about.targets, self.couriers, strict=True)
        return [one for one, courier in places if not (is_fleeting(one) or isinstance(courier.sink, FromSpool))]

    # --- what it costs, what came of it -------------------------------------------------

    def _spend(self, seconds: float) -> None:
        self.spent += seconds
        self._unrested += seconds

    def _rest(self) -> float:
        rest, self._unrested = max(self._every, self._unrested / self._max_share), 0.0
        return rest

    def _delivered(self, courier: Courier, edition: Edition) -> None:
        try:
            self._spool.note_sent(self.couriers.index(courier), edition.mark)
        except OSError as error:
            self._complain(f"the spool in {self._spool.folder} cannot note what was sent: {error}")

    def _complain(self, text: str) -> None:
        """Say it once."""
        if text not in self._complaints:
            self._complaints.add(text)
            logger.warning("%s", text)


def _timed(work: Callable[[], object]) -> float:
    """The processor time in seconds that this thread spent on it."""
    began = time.thread_time()
    work()
    return time.thread_time() - began
