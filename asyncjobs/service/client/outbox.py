"""Send jobs to the service: what is submitted while a request is under way shares the next one.

A single submit goes at once. Each request is one transaction over there, so a program that submits a lot is
not held up by the disk's time for each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from asyncjobs.futures import fail, resolve
from asyncjobs.service.client.api import Api
from asyncjobs.service.errors import NotAllowed, ServiceError, ServiceGone, ServiceNotRunning, StorageFull
from asyncjobs.service.protocol import AcceptedAnswer, JobRequest, JobsAnswer, JobsRequest

MOST = 500
"""Jobs in one request."""
MOST_BYTES = 2 * 1024 * 1024
"""Of payload in one request, unless a single job has more."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(JobsAnswer)


class Letter(NamedTuple):
    """A job that is to be sent, and who waits for the answer."""

    request: JobRequest
    answer: asyncio.Future[AcceptedAnswer]
    otherwise: Callable[[], JobRequest] | None = None
    """What to send if the service does not allow it as it is."""


class Outbox:
    """Where jobs wait to be sent."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._letters: deque[Letter] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._not_by_name: set[str] = set()
        """Functions that the service answered `NotAllowed` to."""

    def post(
        self, request: JobRequest, otherwise: Callable[[], JobRequest] | None = None
    ) -> asyncio.Future[AcceptedAnswer]:
        """Send `request` soon, once, under its id; the answer, once it is on the service's disk.

        Cancel the future and it is not sent, unless it is under way.

        Args:
            otherwise: makes what is sent in its place if the service answers with `NotAllowed`.
        """
        answer: asyncio.Future[AcceptedAnswer] = asyncio.get_running_loop().create_future()
        self._letters.append(Letter(request, answer, otherwise))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all())
        return answer

    async def aclose(self) -> None:
        """Wait until everything is sent."""
        while self._sending is not None:
            await asyncio.wait([self._sending])

    def abandon(self) -> None:
        """Send nothing more; what is under way may be accepted or not."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_all(self) -> None:
        try:
            while letters := self._next():
                await self._send(letters)
        finally:
            self._sending = None
            while self._letters:  # we were cancelled
                self._letters.popleft().answer.cancel()

    def _next(self) -> list[Letter]:
        taken: list[Letter] = []
        size = 0
        while self._letters and len(taken) < MOST and size < MOST_BYTES:
            letter = self._letters.popleft()
            if not letter.answer.done():
                taken.append(letter)
                size += len(letter.request.payload)
        return taken

    async def _send(self, letters: list[Letter]) -> None:
        """One request; what it does not take goes in further ones, in the same order: some come after others."""
        if self._not_by_name:
            letters = [known for letter in letters if (known := self._as_known(letter)) is not None]
        if not letters:
            return
        try:
            body = _encoder.encode(JobsRequest([letter.request for letter in letters]))
            # There may never be room for all at once: then they go in halves, and a single one waits.
            reply = await self._api.ask("POST", "/v1/jobs", body, awaits_room=len(letters) == 1)
            answers = _decoder.decode(reply.body).jobs
        except ServiceError as error:
            await self._send_apart(letters, error)
        except BaseException as error:
            for letter in letters:
                if isinstance(error, asyncio.CancelledError):
                    letter.answer.cancel()
                else:
                    fail(letter.answer, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for letter, answer in zip(letters, answers, strict=True):
                resolve(letter.answer, answer)

    async def _send_apart(self, letters: list[Letter], error: ServiceError) -> None:
        """None of them was taken: find those to blame or without room, for the others are worth another request."""
        if len(letters) == 1 and isinstance(error, NotAllowed) and letters[0].otherwise is not None:
            self._not_by_name.add(letters[0].request.function)
            await self._send(letters)
            return
        is_about_all = isinstance(error, (ServiceGone, ServiceNotRunning, StorageFull))
        if len(letters) == 1 or is_about_all:
            for letter in letters:
                fail(letter.answer, error)
            return
        middle = len(letters) // 2
        try:
            await self._send(letters[:middle])
            await self._send(letters[middle:])
        except asyncio.CancelledError:  # nobody answers those that were not sent
            for letter in letters:
                letter.answer.cancel()
            raise

    def _as_known(self, letter: Letter) -> Letter | None:
        """What is sent in its place, now that its function is known to be refused; None: that cannot be made."""
        if letter.otherwise is None or letter.request.function not in self._not_by_name:
            return letter
        try:
            return Letter(letter.otherwise(), letter.answer)
        # The function itself may not pickle.
        except Exception as problem:
            fail(letter.answer, problem)
            return None
