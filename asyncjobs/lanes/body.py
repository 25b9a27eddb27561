"""One worker process from its start to its death: executor, channels, output, end.

Starts the resident call of a one-worker ProcessPoolExecutor, moves frames, sees the death
at once (through a pidfd where there is one) and finds out what it died of. Knows nothing
of calls, windows or what frames mean: that is the slot's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from weakref import WeakSet

from asyncjobs.lanes.cell import Cell
from asyncjobs.lanes.channel import Channel
from asyncjobs.lanes.death import Death, strays_of
from asyncjobs.lanes.freight import Freight
from asyncjobs.lanes.output import OutputPipe
from asyncjobs.lanes.resident import CAUSE_WAIT, Recipe, Resident
from asyncjobs.lanes.signalling import signal_group
from asyncjobs.spawning import Descriptor
from asyncjobs.wire import frames
from asyncjobs.wire.terms import Settings

EOF_WAIT = 0.2
"""Seconds between the end of a channel and the end of its worker, before we help."""
THREAD_CHECK = 0.25
"""Seconds between two looks at the executor's threads, while a worker starts."""
AT_ONCE = 65536
"""Bytes that are joined and sent in one call; more goes out piece by piece, without a copy."""
CLOSE_WAIT = 1.0
"""Seconds that a worker is given to leave by itself before it is killed."""
CLEARED_WAIT = 0.1
"""Seconds that the executor under a dead worker is given to notice, before its job ends without that."""


logger: logging.Logger = logging.getLogger("asyncjobs")


class Body:
    """A worker process.

    `on_frames` gets the frames of either channel; `on_text(stream, text)` what is printed;
    `on_change` is called when it died or may be written to again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        recipe: Recipe,
        freight: Freight,
        shared: Descriptor,
        cap: int,
        on_frames: Callable[[Iterator[frames.Frame]], None],
        on_text: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._recipe = recipe
        self.freight: Freight = freight
        """What is in its two arenas."""
        self._shared = shared
        self._cap = cap
        self._on_frames = on_frames
        self._on_text = on_text
        self.on_change = on_change
        self.writable = True
        self.pid: int = 0
        self.cell: Cell
        self.is_dead: bool = False
        self._killed_for = ""
        self._hello: asyncio.Future[None] = loop.create_future()
        self._gone = asyncio.Event()
        self._resident = Resident(self._resident_ended)
        self._control: asyncio.Transport | None = None
        self._sockets: tuple[socket.socket, ...] = ()
        self._pidfd = -1
        self._closers: list[Callable[[], object]] = []

    # --- birth --------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process and connect; returns before it says hello.

        Raises:
            OSError: no descriptors or processes left; everything opened is closed again.
            EOFError: the forkserver died of it (no processes left, say).
            RuntimeError: no thread left for the executor.
        """
        try:
            await self._open()
        except BaseException:
            self._resident.bury_stillborn()
            self._close_all()
            raise

    async def _open(self) -> None:
        data, far_data = self._socket_pair()
        control, far_control = self._socket_pair()
        self.cell = cell = Cell()
        self._closers.append(cell.close)
        lifeline, near_lifeline = map(Descriptor, os.pipe())
        self._closers += [lifeline.close, near_lifeline.close]
        self._stdout = self._pipe("stdout")
        self._stderr = self._pipe("stderr")
        settings = Settings(
            far_data,
            far_control,
            cell.descriptor,
            lifeline,
            self._stdout.worker_end if self._stdout else None,
            self._stderr.worker_end if self._stderr else None,
            self._recipe.runner_id,
            self._recipe.env,
            self._recipe.preload,
            self._recipe.initializer,
            self.freight.inward,
            self.freight.outward,
            self._shared,
            self._cap,
        )
        self._resident.start(self._recipe, settings)
        lifeline.close()
        far_data.close()
        far_control.close()
        for pipe in (self._stdout, self._stderr):
            if pipe is not None:
                pipe.worker_end.close()
        self._data_socket = data
        self._data_channel = Channel(self, self._on_frames)
        self._data, _ = await self._loop.create_connection(lambda: self._data_channel, sock=data)
        self._hand_over(data, self._data)
        control_channel = Channel(self, self._on_frames)
        self._control, _ = await self._loop.create_connection(lambda: control_channel, sock=control)
        self._hand_over(control, self._control)
        _living.add(self)
        self._sockets = (control, data)

    def _socket_pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        self._closers += [near.close, far.close]
        near.setblocking(False)
        return near, far

    def _hand_over(self, near: socket.socket, transport: asyncio.Transport) -> None:
        """From here on the transport closes `near`. We must not do it, too: the number may
        belong to somebody else by the time the loop gets round to it."""
        self._closers.remove(near.close)
        self._closers.append(transport.abort)

    def _pipe(self, stream: str) -> OutputPipe | None:
        if self._recipe.inherit_output:
            return None
        pipe = OutputPipe(self._loop, lambda text: self._on_text(stream, text))
        self._closers.append(pipe.close)
        return pipe

    def _resident_ended(self) -> None:
        """In the executor's thread: it has given the worker up."""
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:
            if not self._loop.is_closed():  # else nobody is left to tell
                raise

    def _ended(self) -> None:
        """The executor has given the worker up: because it died, mostly. If the forkserver
        died, or a job closed the pipe that multiprocessing watches, it lives on."""
        lives_on = self._pidfd >= 0 and not _is_readable(self._pidfd)
        if lives_on:
            self._resident.newborn = []  # what is said of its end is made up
        self._gone.set()
        if not lives_on:
            self._died()

    async def hello(self, timeout: float) -> None:
        """Wait until the worker is ready.

        Raises:
            TimeoutError: it is not, after `timeout` seconds.
            ChildProcessError: it died first, or its executor could not work.
        """
        async with asyncio.timeout(timeout):
            while not self._hello.done():
                await asyncio.wait([self._hello], timeout=THREAD_CHECK)
                if not self._hello.done() and not self._resident.is_working():
                    # It starts a second one by itself, and nobody hears of that failure.
                    raise ChildProcessError("the executor's thread ended; there may be no more threads (EAGAIN)")
        if self.is_dead:
            reason = f"; {self._resident.reason}" if self._resident.reason else ""
            raise ChildProcessError(f"worker ended while it started ({self._death().cause}{reason})")

    def greeted(self, pid: int) -> None:
        """The worker said hello from process `pid`; what it printed before is of no call."""
        self.read_output()
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self._pidfd = -1  # no pidfd here: the resident call's end tells of the death
        else:
            self._loop.add_reader(self._pidfd, self._died)
        if not self._hello.done():
            self._hello.set_result(None)

    # --- life ---------------------------------------------------------------------------

    def write(self, parts: list[bytes]) -> None:
        """Send frames on the data channel: at once if nothing waits before them, for a loop may
        write only at its next turn, and the worker could have begun by then."""
        if self.is_dead:
            return
        if sum(map(len, parts)) > AT_ONCE or self._data.get_write_buffer_size():
            self._data.writelines(parts)
            return
        data = b"".join(parts)
        try:
            sent = self._data_socket.send(data)
        except OSError:  # no room now, or the end of the channel: the transport finds out
            sent = 0
        if sent < len(data):
            self._data.write(data[sent:])

    def tell(self, kind: int, ticket: int = 0, body: bytes = b"") -> None:
        """Send one frame on the control channel."""
        if not self.is_dead and self._control is not None and not self._control.is_closing():
            self._control.write(frames.encode(kind, ticket, body))

    def read_output(self) -> None:
        """Take in what has been printed up to now."""
        for pipe in (self._stdout, self._stderr):
            if pipe is not None:
                pipe.read()

    # --- death --------------------------------------------------------------------------

    def kill(self, why: str) -> None:
        """End the worker and its process group now; `why` becomes the cause of death."""
        if not self.is_dead:
            self._killed_for = self._killed_for or why
            self._name_strays()
            self._signal_group(signal.SIGKILL)

    @property
    def is_garbled(self) -> bool:
        """Whether it was killed for what came through its channels: answers are lost in there."""
        return self._killed_for.startswith("protocol")

    def channel_closed(self) -> None:
        """A channel has come to its end: the worker is dying, or its job closed the channel."""
        if not self.is_dead:
            self._loop.call_later(EOF_WAIT, self.kill, "protocol closed")

    def _signal_group(self, number: int) -> None:
        if not self.pid:  # it never said hello: only multiprocessing knows it
            self._resident.kill()
            return
        signal_group(self.pid, self._pidfd, number)

    def _name_strays(self) -> None:
        """Children of the worker in sessions of their own outlive it: say which."""
        strays = strays_of(self.pid)
        if strays:
            logger.warning("worker pid %d leaves processes behind that left its group: %s", self.pid, strays)

    def _died(self) -> None:
        if self.is_dead:
            self._close_pidfd()
            return
        if self.pid:
            self._data_channel.drain(self._data_socket)
        self.is_dead = True
        self._signal_group(signal.SIGKILL)  # leftovers of the job
        self._close_pidfd()
        if not self._hello.done():
            self._hello.set_result(None)
        self.on_change()

    @property
    def running(self) -> tuple[int, int]:
        """The ticket, and the item of a chunk, that the worker runs or died in; 0 if none."""
        return self.cell.read()

    async def autopsy(self) -> Death:
        """What it died of. Waits at most `CAUSE_WAIT` for an exit code."""
        try:
            async with asyncio.timeout(CAUSE_WAIT):
                await self._gone.wait()
        except TimeoutError:
            return self._death()
        return self._death()

    def _death(self) -> Death:
        self.read_output()
        code = self._resident.exit_code(self.pid)
        return Death(
            self.pid,
            -code if code is not None and code < 0 else None,
            code if code is not None and code >= 0 else None,
            self._stderr.tail() if self._stderr else "",
            self._killed_for,
        )

    async def cleared(self) -> None:
        """Wait until nothing of the executor runs any more, some milliseconds after the death
        if no grandchild hides it."""
        await self._resident.ended(CLEARED_WAIT)

    async def aclose(self) -> None:
        """Let the worker leave, kill it if it does not, release everything."""
        if self._control is None or self.is_dead:  # it was never there, or is gone
            self.abandon()
            return
        self._name_strays()
        self.tell(frames.EXIT)
        await self._wait_gone(CLOSE_WAIT)
        self.kill("closed")
        await self._wait_gone(CLOSE_WAIT)
        await self._resident.ended(CLOSE_WAIT)
        self.abandon()

    async def _wait_gone(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return

    def abandon(self) -> None:
        """Release everything without waiting."""
        self.is_dead = True
        _living.discard(self)
        self._close_all()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_all(self) -> None:
        self._close_pidfd()
        while self._closers:
            self._closers.pop()()
        self.freight.close()
        self._resident.release()

    def hang_up(self) -> None:
        """Make the worker leave, from any thread and without a loop."""
        for channel in self._sockets:  # none, if it is just being made
            try:
                channel.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# --- a runner that nobody closed --------------------------------------------------------

_living: WeakSet[Body] = WeakSet()
_home = os.getpid()


def _hang_up_all() -> None:
    if os.getpid() == _home:
        for body in tuple(_living):
            body.hang_up()
        for body in tuple(_living):
            body._resident.join(CLOSE_WAIT)


# The executor's own exit hook joins a thread that waits for the resident call, for ever.
# Hooks run last in, first out, and concurrent.futures.process has registered its own.
_register = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_hang_up_all)
