"""The handle of a job that a service has: `ServiceJob`.

It knows what it was told last; what only the service knows is asked for with `await`. The job does not
depend on it: whoever has the id can attach to it from another program.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any, Generic, Protocol, TypeVar, cast
from urllib.parse import quote

import msgspec

from asyncjobs.errors import JobError, ResultNotSendable
from asyncjobs.job import CancelAnswer
from asyncjobs.options import check_seconds, check_text
from asyncjobs.service import envelope
from asyncjobs.service import outcome as coding
from asyncjobs.service.client.api import Api, path_of
from asyncjobs.service.client.endings import EndedLine, Endings
from asyncjobs.service.client.following import follow_events, follow_lines
from asyncjobs.service.errors import NotAllowed, ServiceGone
from asyncjobs.service.protocol import (
    AcceptedAnswer,
    CancelRequest,
    CancelView,
    EventView,
    FigureView,
    JobView,
    ProgressView,
)
from asyncjobs.state import JobState
from asyncjobs.token import check_reason
from asyncjobs.wire.failure import safe_to_raise

R_co = TypeVar("R_co", covariant=True)


class Desk(Protocol):
    """The client, as a job sees it."""

    api: Api
    endings: Endings
    refused: dict[str, str]

    def check_loop(self) -> None: ...
    def handle(self, job: str, name: str) -> ServiceJob[Any]: ...


class ServiceJob(coding.StandsForResult, Generic[R_co]):
    """A job that a service accepted.

    Await it, any number of times, for the value or the job's own exception. Cancelling one that awaits does
    not cancel the job, and nor does the end of the program. Among the arguments of another job, at any
    depth, it stands for its result.
    """

    __slots__ = (
        "__weakref__",
        "_desk",
        "_error",
        "_id",
        "_is_loaded",
        "_line",
        "_name",
        "_note",
        "_progress",
        "_state",
        "_value",
        "accepting",
        "covered",
        "is_new",
    )

    def __init__(self, desk: Desk, job: str, name: str, state: JobState = JobState.QUEUED) -> None:
        self._desk = desk
        self._id = job
        self._name = name
        self._state = state
        self._line: EndedLine | None = None
        self._note = ""
        """One line of the service about its end."""
        self._is_loaded = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._progress: ProgressView | None = None
        self.accepting: asyncio.Future[AcceptedAnswer] | None = None
        """The answer to its submit, where that was ours."""
        self.covered: object = None
        """The stream of ends that tells of it in any case; see `Endings`."""
        self.is_new: bool = True
        """Whether the submit made it; False: it was there under its `key`."""

    # --- what it is ---------------------------------------------------------------------

    @property
    def id(self) -> str:
        """26 digits; with it any program of yours can attach to the job."""
        return self._id

    @property
    def name(self) -> str:
        """The option `name`, or the function's."""
        return self._name

    @property
    def state(self) -> JobState:
        """Where it was when the service last told us; `refresh` asks."""
        return self._state

    @property
    def progress(self) -> ProgressView | None:
        """The last that we were told of what the job says of itself; `refresh` asks."""
        return self._progress

    def done(self) -> bool:
        """Whether we were told that it has ended."""
        return self._state.is_final

    def __repr__(self) -> str:
        return f"<ServiceJob {self._id} {self._name!r} {self._state.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return coding.ResultOf(self._id).__reduce__()

    async def refresh(self) -> JobView:
        """Ask where it is; `state` and `progress` are up to date then."""
        await self.accepted()
        view = await self._desk.api.get(path_of(self._id), JobView)
        self.saw(view)
        return view

    def saw(self, view: JobView) -> None:
        """The service said this of it."""
        self._name, self._progress, self._note = view.name, view.progress, view.note
        if not self._state.is_final:
            self._state = JobState[view.state]

    # --- what became of it --------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._get().__await__()

    async def _get(self) -> R_co:
        error = await self.outcome()
        if error is not None:
            raise safe_to_raise(error)
        return self._value  # type: ignore[no-any-return]

    async def wait(self) -> None:
        """Wait until it has ended, whatever became of it.

        Raises:
            NoSuchJob: the service has forgotten it.
            ServiceGone: the service is away, and did not come back in time. The job stands: wait again.
        """
        await self.accepted()
        if not self._state.is_final:
            self._desk.check_loop()
            await self._desk.endings.wait(self)

    async def accepted(self) -> ServiceJob[R_co]:
        """The job itself, once it is on the service's disk; only after `submit_nowait` is there anything to wait for.

        Raises:
            ServiceError: the service refused it.
        """
        accepting = self.accepting
        if accepting is not None:
            if not accepting.done():
                self._desk.check_loop()
                await asyncio.wait([accepting])
            if accepting.cancelled():
                raise ServiceGone(f"the client was closed before job {self._name!r} was accepted")
            self._desk.refused.pop(self._id, None)
            accepting.result()
            self.accepting = None
        return self

    async def outcome(self) -> BaseException | None:
        """Wait for its end and its outcome; the error, if it is one (see `exception`)."""
        if not self._is_loaded:
            await self.wait()
            await self._load()
        return self._error

    def result(self) -> R_co:
        """The value, or the job's own exception raised, if it is here; see `done`.

        Raises:
            asyncio.InvalidStateError: it is not: await the job.
        """
        error = self.exception()
        if error is not None:
            raise safe_to_raise(error)
        return self._value  # type: ignore[no-any-return]

    def exception(self) -> BaseException | None:
        """What it raised, or the `JobError` that says what became of it; None if it succeeded.

        Raises:
            asyncio.InvalidStateError: its outcome is not here: await the job.
        """
        if not self._is_loaded and not self._open_line():
            raise asyncio.InvalidStateError(f"the outcome of {self!r} is not here; await it")
        return self._error

    def settle(self, line: EndedLine) -> None:
        """It has ended, as the service says."""
        self._state = JobState[line.state]
        self._note = line.note
        self._line = line

    def take_answer(self, answer: AcceptedAnswer) -> bool:
        """It was accepted; whether another stands for it, under its key."""
        self.is_new = answer.is_new
        if answer.id == self._id:
            return False
        self._id = answer.id
        self.covered = None  # it may have ended long ago
        return True

    def _open_line(self) -> bool:
        """Open the outcome that came with the news of the end, if it did."""
        line = self._line
        if line is None:
            return False
        sealed = msgspec.json.decode(line.outcome, type=bytes | None)
        if sealed is None:
            return False
        self._open(sealed)
        return True

    async def _load(self) -> None:
        if self._is_loaded or self._open_line():
            return
        reply = await self._desk.api.ask("GET", path_of(self._id, "/outcome?wait=0"))
        if not self._is_loaded:
            self._open(reply.body)

    def _open(self, sealed: bytes) -> None:
        """Load the outcome, once its seal is checked: nobody else can have written it."""
        key = self._desk.api.key
        try:
            if not sealed:
                self._error = coding.error_without_outcome(self._name, self._state, self._note)
            else:
                self._value, self._error = _decoded(self._id, key, sealed, self._note)
        except NotAllowed:
            raise
        # Whatever a class's own loading does wrong.
        except Exception as error:
            problem = ResultNotSendable(
                f"the result of job {self._name!r} cannot be loaded here ({type(error).__name__}: {error}); the "
                "service keeps it"
            )
            problem.__cause__ = error
            self._error = problem
        self._is_loaded = True
        self._line = None

    @property
    def later(self) -> R_co:
        """The job itself, for type checkers the value that it will have: to be an argument of another job.

        Example: ``await service.submit(fit, prepared.later, 0.1)``
        """
        return cast(R_co, self)

    # --- asking for more ----------------------------------------------------------------

    async def cancel(self, reason: str = "cancelled", *, grace: float | None = None) -> CancelAnswer:
        """Ask it to stop.

        Args:
            reason: shown in `JobCancelled`, and by the job's token.
            grace: seconds until it is stopped by force; the job's option if not given.

        Returns:
            ``"cancelled"``: it had not started, and never will. ``"requested"``: it runs and is told.
            ``"ended"``: it was over already.
        """
        check_reason(reason)
        check_seconds("grace", grace, or_none=True)
        await self.accepted()
        view = await self._desk.api.post(path_of(self._id, "/cancel"), CancelRequest(reason, grace), CancelView)
        return view.answer  # type: ignore[return-value]

    async def replay(self) -> ServiceJob[R_co]:
        """Run the same call again, as a new job, whatever became of this one.

        Raises:
            NotNow: it has not ended, or it succeeded.
        """
        await self.accepted()
        path = path_of(self._id, "/replay")
        answer = await self._desk.api.post(path, {}, AcceptedAnswer, may_repeat=False)
        return self._desk.handle(answer.id, self._name)

    def logs(self, *, follow: bool = True, offset: int = 0) -> AsyncGenerator[str, None]:
        """What it printed and logged, line by line.

        Args:
            follow: go on until the job has ended; else up to what there is now.
            offset: bytes of the log to leave out.
        """
        return follow_lines(self._desk.api, self.accepted, self._id, follow=follow, offset=offset)

    def events(self, *, after: int = 0) -> AsyncGenerator[EventView | ProgressView, None]:
        """What happened and happens to it, up to its end; `after` is the `seq` of the last that is known."""
        return follow_events(self._desk.api, self.accepted, self._id, after)

    async def figures(self) -> list[str]:
        """The names of the files that `plot` has made in it, so far."""
        await self.accepted()
        return [found.name for found in await self._desk.api.get(path_of(self._id, "/figures"), list[FigureView])]

    async def figure(self, name: str) -> bytes:
        """One of those files, as it is now.

        Raises:
            NoSuchJob: there is none of that name.
            ValueError: it is no name.
        """
        check_text("name", name)
        await self.accepted()
        return (await self._desk.api.ask("GET", path_of(self._id, f"/figures/{quote(name, safe='')}"))).body


def _decoded(job: str, key: bytes | None, sealed: bytes, note: str) -> tuple[Any, BaseException | None]:
    """The value or error in a sealed outcome; `note` is what the service says of its end.

    Raises:
        NotAllowed: the seal is not the service's, or we cannot tell and it would have to be unpickled.
    """
    if key is not None:
        return coding.decode_outcome(envelope.open(key, job, sealed))
    body = sealed[envelope.OVERHEAD :]
    if body[:1] == coding.JSON:  # harmless, whoever wrote it
        return coding.decode_outcome(body)
    if body[:1] == coding.FAILURE:
        what = f": {note}" if note else ""
        return None, JobError(
            f"job {job} failed{what}; connect(dir=) where the service runs raises the exception itself"
        )
    raise NotAllowed(
        f"the result of job {job} is pickled, and is loaded only by who has the service's key: connect(dir=) on the "
        "service's machine, or have the job return what JSON can say"
    )
