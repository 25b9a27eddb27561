"""A worker's end of what its job asks of the loop: send, wait, take the answer.

A request is a frame on the data channel, its answer one on the control channel, which the control thread hears at any
time; so any thread of the job may ask. What was taken for the job counts as got once the worker says TAKEN: until
then the loop keeps it, and puts it back if the worker dies or says WITHDRAWN.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NoReturn, Protocol

from asyncjobs.errors import JobStopped
from asyncjobs.memory import arena_full
from asyncjobs.token import CancelToken
from asyncjobs.wire import codec, failure, frames
from asyncjobs.wire.hold import Hold
from asyncjobs.wire.parcel import Parcel
from asyncjobs.wire.terms import ASK_HEAD, HELD, NO_WAIT, PARCEL, REFUSED


class Job(Protocol):
    """The running job."""

    @property
    def token(self) -> CancelToken: ...


Answer = tuple[int, memoryview]
"""Flags, and what they say of it."""


class Asking:
    """What the jobs of one worker ask; `send` writes a frame, `current` is the running job."""

    def __init__(self, hold: Hold, send: Callable[[int, int, bytes], None], current: Callable[[], Job | None]) -> None:
        self._hold = hold
        self._send = send
        self._current = current
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, SimpleQueue[Answer | None]] = {}
        """Of those who wait. Whoever takes one out, the control thread or its owner, decides who has the answer."""
        # While the main thread asks, the exception of the stop ladder must not hit it: a frame could be half sent, an
        # answer half taken. It is put into the inbox instead, and raised in the end.
        self._in_main: SimpleQueue[Answer | None] | None = None
        self._is_interrupted = False

    # --- in the threads of the job ------------------------------------------------------

    def ask(self, number: int, name: str, verb: str, argument: Any) -> Any:
        """What the object `number` answers to `verb`; blocks.

        Raises:
            RuntimeError: no job runs here.
            JobStopped: it would wait, and the job is asked to stop.
        """
        job = self._current()
        if job is None or os.getpid() != self._pid:
            raise RuntimeError(f"{name} was used outside of a job: it can be asked only while a job runs here")
        parcel = codec.encode_sent((verb, argument), f"what is given to {verb}() of {name}")
        if parcel.nbytes > self._hold.cap:
            raise arena_full(f"what is given to {verb}() of {name}", parcel.nbytes, 0, self._hold.cap)
        inbox: SimpleQueue[Answer | None] = SimpleQueue()
        if threading.current_thread() is not threading.main_thread():
            return self._asked(number, job, parcel, inbox)
        self._in_main = inbox
        try:
            return self._asked(number, job, parcel, inbox)
        finally:
            self._in_main = None
            if self._is_interrupted:
                self._is_interrupted = False
                _stop(job)

    def _asked(self, host: int, job: Job, parcel: Parcel, inbox: SimpleQueue[Answer | None]) -> Any:
        number = next(self._numbers)
        self._inboxes[number] = inbox
        answer: Answer | None = None
        may_wait = not job.token.cancelled  # looked at once: the stop may come between here and the answer
        try:
            self._send_request(number, host, parcel, may_wait=may_wait)
            answer = self._answer(job, inbox) if may_wait else inbox.get()
            if answer is None:
                _stop(job)
            flags, body = answer
            if not flags & REFUSED:
                return self._taken(number, job, flags, body)
        except BaseException:
            self._withdraw(number, inbox, answer)
            raise
        if not body:
            _stop(job)
        raise failure.rebuild(codec.loads(body)) from None

    def _send_request(self, number: int, host: int, parcel: Parcel, *, may_wait: bool) -> None:
        if self._hold.has_ended:
            self._hold.tell()
        flags = 0 if may_wait else NO_WAIT
        body = parcel.stream
        if parcel.is_large:
            body, flags = self._hold.pack(parcel), flags | PARCEL
        self._send(frames.ASK, number, ASK_HEAD.pack(host, flags) + body)

    def _answer(self, job: Job, inbox: SimpleQueue[Answer | None]) -> Answer | None:
        """What came, None if the job is to stop first."""
        forget = job.token.add_callback(lambda _: inbox.put(None))
        try:
            return inbox.get()
        finally:
            forget()

    def _taken(self, number: int, job: Job, flags: int, body: memoryview) -> Any:
        value = self._hold.load(body) if flags & PARCEL else codec.loads(body)
        if flags & HELD:
            if self._is_interrupted or self._current() is not job:  # nobody would look at it
                _stop(job)
            self._send(frames.TAKEN, number, b"")
        return value

    def _withdraw(self, number: int, inbox: SimpleQueue[Answer | None], answer: Answer | None) -> None:
        if answer is None and self._inboxes.pop(number, None) is None:
            # It was answered in the same instant.
            while answer is None:
                answer = inbox.get()
            self._refuse(answer)
        self._send(frames.WITHDRAWN, number, b"")

    def _refuse(self, answer: Answer) -> None:
        flags, body = answer
        if flags & PARCEL:
            self._hold.refuse(body)

    def interrupt(self) -> bool:
        """In the signal handler: whether the main thread asks, and will raise by itself."""
        if self._in_main is None:
            return False
        self._is_interrupted = True
        self._in_main.put(None)
        return True

    # --- in the control thread ----------------------------------------------------------

    def hear(self, kind: int, number: int, body: bytes) -> None:
        """An answer has come, or the word that memory may be used again."""
        if kind == frames.ENDED:
            self._hold.hear_ended(body)
            return
        answer = body[0], memoryview(body)[1:]
        inbox = self._inboxes.pop(number, None)
        if inbox is not None:
            inbox.put(answer)
        else:
            self._refuse(answer)


def _stop(job: Job) -> NoReturn:
    raise JobStopped(job.token.reason or "stopped")
