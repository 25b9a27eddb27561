"""The far side of a process slot: read a frame, call, answer.

Runs in a worker process as the one resident call of its executor. Loads neither asyncio
nor numpy. Two threads: the main one runs jobs, the control one hears the runner at any
time. What they share is guarded by one lock, with which each ticket is claimed:

    claimed   the last ticket taken; tickets only grow
    running   the ticket whose function runs now, 0 between jobs
    revoked   tickets that were taken back before they were claimed

The cell is eight shared bytes that outlive us: the ticket that we run. After our death the
runner reads there who is to blame.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import threading
import traceback
from _thread import _count as _threads_alive  # as active_count(), in C: asked after each job
from collections.abc import Callable
from time import perf_counter, sleep
from types import FrameType
from typing import Any, NoReturn, cast

from asyncjobs import context, shared, token
from asyncjobs.detach import die_with_the_runner, leave_the_terminal, say_where_when_asked, take_over_output
from asyncjobs.errors import JobStopped
from asyncjobs.remote import hosted
from asyncjobs.remote.asking import Asking
from asyncjobs.remote.twins import Twins
from asyncjobs.remote.workerjob import WorkerJob
from asyncjobs.token import StopReason
from asyncjobs.tripwire import Tripwire
from asyncjobs.wire import codec, failure, frames, marks
from asyncjobs.wire.answers import encoded
from asyncjobs.wire.frames import CALL, CHUNK
from asyncjobs.wire.hold import Hold
from asyncjobs.wire.terms import CALL_HEAD, CELL_SIZE, KEYWORDS, MARKED, PARCEL, STARRED, Definition, Settings

RINGS = (0.001, 0.005, 0.025)
"""Seconds in which an interrupt is heard, before the next one."""


_settings: Settings | None = None


def boot(settings: Settings) -> None:
    """The executor's initializer: keeps the descriptors that only a starting process gets.

    From now on the worker dies with the runner. Were that left to `serve`, one whose runner was killed before it had
    sent that call would wait for it for ever: it holds the writing end of the executor's pipe itself.
    """
    global _settings
    _settings = settings
    die_with_the_runner(settings.lifeline)


def serve() -> NoReturn:
    """The resident call: runs jobs until the runner goes away. Never returns."""
    assert _settings is not None
    try:
        leave_the_terminal()
        take_over_output(_settings.stdout, _settings.stderr)
        say_where_when_asked(_settings.cell)
        worker = Worker(_settings)
        worker.prepare()
        worker.run()
    # A worker has nobody to raise to: say why on stderr, which the runner keeps.
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


class Worker:
    """One worker process: its channels, its functions and the job that it runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hold = Hold(settings, self._send)
        self._asking = Asking(self._hold, self._send, self._current)
        self._data = settings.data
        self._control = settings.control
        self._cell_map = mmap.mmap(settings.cell.number, CELL_SIZE)
        self._cell = memoryview(self._cell_map).cast("Q")
        self._definitions: dict[int, tuple[Definition, list[Callable[..., Any]]]] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._claimed = 0
        self._running = 0
        self._interrupted = 0
        self._revoked: set[int] = set()
        self._stops: dict[int, StopReason] = {}
        self._job: WorkerJob | None = None
        self._call: tuple[int, int, Definition, int] | None = None
        self._twins = Twins(self._send)
        self._forked = False
        self._retiring = False
        self._threads = 0
        self._streams = (sys.stdout, sys.stderr)
        self._marked: tuple[int, ...] | None = None

    # --- coming up ----------------------------------------------------------------------

    def prepare(self) -> None:
        """Environment, preloads, the user's initializer; then say hello."""
        os.environ.update(self._settings.env)
        context.resident(self._current)
        token.adopt_with(self._twins.twin)
        shared.adopt_with(self._hold.adopt)
        hosted.ask_with(self._asking.ask)
        for name in self._settings.preload:
            __import__(name)
        if self._settings.initializer is not None:
            initializer, args = self._hold.load_shared(memoryview(self._settings.initializer))
            initializer(*args)
        os.register_at_fork(after_in_child=self._in_a_fork)
        signal.signal(signal.SIGUSR1, self._interrupt)
        self._tripwire = Tripwire()
        self._tripwire.arm()
        threading.Thread(target=self._hear, name="asyncjobs-control", daemon=True).start()
        self._threads = _threads_alive()
        self._send(frames.HELLO, 0, pickle.dumps(os.getpid()))

    def _in_a_fork(self) -> None:
        # The copies must not hold our channels open after our death, and a child that
        # returns into the worker loop must not answer.
        self._forked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # The child shares the cell; this ends a loop over a chunk's items, too.
        self._cell.release()
        for descriptor in (self._data.fileno(), self._control.fileno(), self._settings.cell.number):
            if descriptor >= 0:
                os.close(descriptor)

    # --- the main thread ----------------------------------------------------------------

    def run(self) -> None:
        """Read frames and do what they say, until the runner goes away."""
        reader = frames.FrameReader()
        receive = self._data.recv_into
        while not self._retiring:
            nbytes = receive(reader.buffer())
            if not nbytes:
                os._exit(0)
            reader.filled(nbytes)
            for kind, ticket, _, body in reader.frames():
                if kind in (CALL, CHUNK):
                    self._take(kind, ticket, body)
                    if self._retiring:
                        break
                elif kind == frames.DEFINE:
                    self._definitions[ticket] = (Definition(*codec.loads(body)), [])
                elif kind == frames.FORGET:
                    self._forget(ticket)
                else:
                    self._hold.hear(kind, ticket, body)
            if self._hold.has_ended:
                self._hold.tell()
        self._send(frames.RETIRED, 0, b"")
        threading.Event().wait()  # the runner has the last word: EXIT, or the end of the channel

    def _forget(self, function: int) -> None:
        definition, resolved = self._definitions.pop(function, (None, ()))
        if definition is not None and definition.reference.is_parcel and not resolved:
            self._hold.refuse(memoryview(definition.reference.by_value or b""))

    def _take(self, kind: int, ticket: int, body: memoryview) -> None:
        with self._lock:
            if ticket in self._revoked:
                self._revoked.discard(ticket)
                if CALL_HEAD.unpack_from(body)[3] & PARCEL:
                    self._hold.refuse(body[CALL_HEAD.size :])
                return
            self._claimed = ticket
            self._cell[1] = 0
            self._cell[0] = ticket
        self._answer(kind, ticket, body)
        # The arguments are gone: from here on nobody is to blame.
        self._cell[0] = 0
        self._job = None
        if self._stops:
            self._stops.pop(ticket, None)
        if self._tripwire.tripped:
            self._tripwire.restore()
        if self._tripwire.spoilt or _threads_alive() > self._threads:
            self._retiring = True

    def _answer(self, kind: int, ticket: int, body: memoryview) -> None:
        function, attempt, number, flags = CALL_HEAD.unpack_from(body)
        definition, resolved = self._definitions[function]
        self._call = (ticket, number, definition, attempt)
        started = perf_counter()
        # Two layers: the interrupt may hit between the end of the function and `finally`,
        # but only once, so the outer layer runs undisturbed.
        try:
            try:
                self._running = ticket
                if self._interrupted == ticket:  # by `_break_off`, before we came to it
                    signal.raise_signal(signal.SIGUSR1)
                if flags & MARKED:
                    self._mark(ticket)
                if not resolved:
                    resolved.append(self._resolve(definition.reference))
                arguments = self._arguments(body[CALL_HEAD.size :], flags)
                if kind == frames.CHUNK:
                    value = self._each(resolved[0], arguments[0], flags & STARRED)
                elif flags & KEYWORDS:
                    value = resolved[0](*arguments[0], **arguments[1])
                else:
                    value = resolved[0](*arguments)
            finally:
                self._running = 0
        except JobStopped as stop:
            self._running = 0
            outcome, answer = frames.STOPPED, stop.reason.encode("utf-8", "backslashreplace")
        except BaseException as error:
            self._running = 0
            self._retiring = self._retiring or isinstance(error, MemoryError)
            outcome, answer = frames.RAISED, pickle.dumps(failure.capture(error, skip_frames=1), 5)
        else:
            self._stay_one()  # before anything is written to memory that the runner reads
            outcome, answer = encoded(kind, value, definition, self._hold)
        self._stay_one()
        self._flush()
        self._send(outcome, ticket, answer, perf_counter() - started)

    def _stay_one(self) -> None:
        """A child that the job forked, and that came back here, ends."""
        if self._forked:
            os._exit(0)

    def _resolve(self, reference: codec.Reference) -> Any:
        if reference.is_parcel:
            return self._hold.load(memoryview(reference.by_value or b""))
        return codec.resolve(reference)

    def _arguments(self, data: memoryview, flags: int) -> Any:
        try:
            return self._hold.load(data) if flags & PARCEL else codec.loads(data)
        except BaseException as error:
            _annotate(error, "raised while the arguments of the job were unpickled in the worker")
            raise

    def _each(self, fn: Callable[..., Any], items: list[Any], starred: int) -> tuple[list[Any], dict[int, Any]]:
        """One value per item; what an item raised stands beside, by its index."""
        values: list[Any] = []
        failures: dict[int, failure.Failure] = {}
        append, cell = values.append, self._cell
        call: Callable[[Any], Any] = (lambda args: fn(*args)) if starred else fn
        for index, item in enumerate(items):
            cell[1] = index
            try:
                append(call(item))
            except JobStopped:
                raise
            except BaseException as error:
                failures[index] = failure.capture(error, skip_frames=1)
                append(None)
        return values, failures

    def _mark(self, ticket: int) -> None:
        try:
            self._marked = self._marked or marks.distinct(1, 2)
            marks.write(self._marked, ticket)
        except OSError:
            self._retiring = True  # an earlier job closed them; the next one gets a fresh process

    def _flush(self) -> None:
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            sys.stdout, sys.stderr = self._streams
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            self._retiring = True  # the job closed them; the next one gets a fresh process

    def _send(self, kind: int, ticket: int, body: bytes, seconds: float = 0.0) -> None:
        head = frames.header(kind, ticket, body, seconds)
        try:
            with self._sending:
                if len(body) < 65536:
                    self._data.sendall(head + body)
                else:
                    self._data.sendall(head)
                    self._data.sendall(body)
        except OSError as error:
            # Said on stderr by `serve`, and so to the runner: there is no other way left.
            raise ConnectionError("protocol closed: the job closed the channel, or put something over it") from error

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """SIGUSR1, in the main thread: raise in the job, and only in that job, once."""
        if self._running and self._interrupted == self._running:
            self._interrupted = 0
            if self._asking.interrupt():
                return
            # A package that is broken off half-way stays broken for whoever imports it next.
            self._retiring = self._retiring or _is_importing(frame)
            raise JobStopped(reason.text if (reason := self._stops.get(self._running)) else "stopped")

    # --- what the running job sees ------------------------------------------------------

    def _current(self) -> WorkerJob | None:
        call = self._call
        if not self._running or call is None:
            return None
        with self._lock:
            if self._job is None or self._job.ticket != call[0]:
                ticket, number, definition, attempt = call
                self._job = WorkerJob(self, ticket, number, definition.name, attempt)
                reason = self._stops.get(call[0])
                if reason is not None:
                    self._job.token.raise_for(reason)
            return self._job

    def job_id(self, number: int) -> str:
        """As the runner writes it."""
        return f"{self._settings.runner_id}-{number}"

    def report(self, ticket: int, progress: tuple[float, float | None, str]) -> None:
        """Send a progress report."""
        self._send(frames.PROGRESS, ticket, pickle.dumps(progress, 5))

    # --- the control thread -------------------------------------------------------------

    def _hear(self) -> None:
        """A worker that cannot hear could never be stopped: it must not live on."""
        try:
            self._obey_all()
        except OSError:  # the runner is gone, or a job closed the channel
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    def _obey_all(self) -> None:
        reader = frames.FrameReader()
        while nbytes := self._control.recv_into(reader.buffer()):
            reader.filled(nbytes)
            for kind, ticket, _, body in reader.frames():
                self._obey(kind, ticket, bytes(body))

    def _obey(self, kind: int, ticket: int, body: bytes) -> None:
        if kind == frames.EXIT:
            os._exit(0)
        elif kind == frames.REVOKE:
            self._revoke(pickle.loads(body))
        elif kind == frames.CANCEL:
            self._stop(ticket, StopReason(*pickle.loads(body)))
        elif kind == frames.INTERRUPT:
            self._break_off(ticket)
        elif kind == frames.GRANT:
            self._hold.granted(bool(ticket))
        elif kind == frames.TOKEN:
            self._twins.raise_for(ticket, StopReason(*pickle.loads(body)))
        else:
            self._asking.hear(kind, ticket, body)

    def _revoke(self, tickets: list[int]) -> None:
        with self._lock:
            taken_back = [ticket for ticket in tickets if ticket > self._claimed]
            self._revoked.update(taken_back)
        body = pickle.dumps(taken_back, 5)
        self._control.sendall(frames.encode(frames.REVOKED, 0, body))

    def _stop(self, ticket: int, reason: StopReason) -> None:
        with self._lock:
            if ticket < self._claimed:
                return
            self._stops[ticket] = reason
            job = self._job
        if job is not None and job.ticket == ticket:
            job.token.raise_for(reason)

    def _break_off(self, ticket: int) -> None:
        # `_answer` says that the job runs, then looks for the mark: so one of us raises, and the other finds no mark.
        with self._lock:
            if ticket >= self._claimed:
                self._interrupted = ticket
            if self._running != ticket:
                return
        _ring_until(lambda: self._interrupted != ticket or self._running != ticket)


def _ring_until(is_heard: Callable[[], bool]) -> None:
    """SIGUSR1 to the main thread. One that comes between Python's last look at signals and the call of the system that
    the job is about to make does not end that call: so once more, as long as nobody has heard."""
    for seconds in RINGS:
        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGUSR1)
        sleep(seconds)
        if is_heard():
            return


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _annotate(error: BaseException, note: str) -> None:
    try:
        error.add_note(note)
    # The user's class may refuse; then its own words have to do.
    except Exception:
        return
