"""What happens to an order in a worker, and how calls and outcomes are written: `work.performing`, `outcome`."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import bench
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncjobs as aj
from asyncjobs.errors import JobCancelled, JobTimeout, NotSendable, WorkerLost
from asyncjobs.lanes.base import Call, Plan
from asyncjobs.lanes.output import Marks, Voices
from asyncjobs.options import JobOptions, settle
from asyncjobs.service import outcome
from asyncjobs.service.errors import UnknownFunction
from asyncjobs.service.outcome import ResultOf
from asyncjobs.service.protocol import RetryTerms
from asyncjobs.service.work import ending, orders
from asyncjobs.state import JobState
from asyncjobs.wire import failure


def no_results(job: str) -> Any:
    raise LookupError(job)


# --- calls and outcomes -----------------------------------------------------------------


def test_a_worker_loads_neither_asyncio_nor_sqlite_nor_msgspec() -> None:
    program = (
        "import sys, asyncjobs.worker\nbefore = set(sys.modules)\nimport asyncjobs.service.work.performing\n"
        "print([name for name in ('asyncio', 'sqlite3', 'msgspec', 'numpy', 'uvloop') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(json_values)
def test_what_json_can_say_exactly_goes_as_json_and_comes_back_equal(value: Any) -> None:
    body = outcome.encode_value(value, as_json=True)
    assert body[:1] == outcome.JSON
    assert outcome.decode_outcome(body) == (value, None)


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: 2}, math.inf, math.nan, b"x", {"a": (1,)}, JobState.QUEUED, np.float64(1.5), 10**6000, {"x": {1, 2}}],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_exactly_is_pickled(value: Any) -> None:
    body = outcome.encode_value(value, as_json=True)
    assert body[:1] == outcome.PICKLE
    found, _ = outcome.decode_outcome(body)
    assert type(found) is type(value)
    assert found == value or value != value


def test_large_plain_results_are_pickled_unless_json_was_asked_for() -> None:
    values = list(range(5000))
    assert outcome.encode_value(values, as_json=False)[:1] == outcome.PICKLE
    assert outcome.encode_value(values, as_json=True)[:1] == outcome.JSON


def test_results_of_others_stand_anywhere_in_a_call_and_say_which_they_are() -> None:
    body, after = outcome.encode_call(None, (ResultOf("a"), [{"x": ResultOf("b")}]), {"k": ResultOf("a")})
    assert after == ("a", "b")
    assert outcome.needs_results(body)
    results = {"a": 1, "b": [2]}
    assert outcome.decode_call(body, results.__getitem__) == (None, (1, [{"x": [2]}]), {"k": 1})
    plain, after = outcome.encode_call(None, (1,), {})
    assert (after, outcome.needs_results(plain)) == ((), False)
    assert not outcome.needs_results(outcome.encode_json_call([1], {}))


def test_a_function_by_value_takes_what_it_captured_along() -> None:
    factor = 3
    body, _ = outcome.encode_call(lambda x: x * factor, (2,), {})
    fn, args, kwargs = outcome.decode_call(body, no_results)
    assert fn is not None
    assert fn(*args, **kwargs) == 6


def test_what_lives_in_this_program_only_is_refused_with_a_reason() -> None:
    with pytest.raises(NotSendable, match="argument 2"):
        outcome.encode_call(None, (1, iter([1]).__class__ and (x for x in ())), {})
    with pytest.raises(NotSendable, match="CancelToken"):
        outcome.encode_call(None, (aj.CancelToken(),), {})


def test_an_answer_tells_an_error_without_its_pickle() -> None:
    class Evil(ConnectionError):
        def __reduce__(self) -> Any:
            return print, ("never",)

    error = Evil("line one\nline two \x1b[2J\u202e")
    answer = orders.raised(error, failure.capture(error))
    body, raised = orders.read(answer)
    assert raised is not None
    assert "builtins.OSError" in raised.names
    assert "builtins.object" not in raised.names
    assert raised.note.endswith("Evil: line one line two [2J")
    assert outcome.decode_outcome(body)[1] is not None
    assert orders.read(orders.returned(b"Jnull")) == (b"Jnull", None)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (JobState.CANCELLED, JobCancelled),
        (JobState.TIMED_OUT, JobTimeout),
        (JobState.LOST, WorkerLost),
        (JobState.FAILED, aj.JobError),
    ],
)
def test_a_job_that_ended_before_it_ran_has_an_error_all_the_same(state: JobState, kind: type[Exception]) -> None:
    error = outcome.error_without_outcome("fit", state, "the reason")
    assert type(error) is kind
    assert "the reason" in str(error)


def test_the_note_of_a_lost_job_is_a_line_without_the_stacks_that_its_worker_left() -> None:
    lost = WorkerLost(f"worker process-0 died (SIGSEGV){failure.LAST_WORDS}Fatal Python error\n  File x, line 1")
    assert orders.note_of(failure.capture(lost)) == "asyncjobs.errors.WorkerLost: worker process-0 died (SIGSEGV)"


def test_retries_are_told_by_the_names_of_types() -> None:
    names = tuple(orders.names_of(ConnectionResetError))
    assert ending.next_delay(RetryTerms(0), 1, names, 0.0) is None
    assert ending.next_delay(RetryTerms(3, 0.5, 0.0), 3, names, 0.0) == 2.0
    assert ending.next_delay(RetryTerms(3, 0.5, 0.5), 1, names, 0.5) == 0.375
    assert ending.next_delay(RetryTerms(2), 3, names, 0.0) is None
    assert ending.next_delay(RetryTerms(3, on=("builtins.OSError",)), 1, names, 0.0) is not None
    assert ending.next_delay(RetryTerms(3, on=("builtins.ValueError",)), 1, names, 0.0) is None
    assert ending.next_delay(RetryTerms(3, give_up_on=("builtins.ConnectionError",)), 1, names, 0.0) is None
    assert ending.next_delay(RetryTerms(99, 1e6), 90, names, 0.0) == 3600.0


# --- output by calls --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_output_is_told_apart_wherever_a_read_cuts_it(size: int) -> None:
    text = "before" + "".join(f"\0aj:{number}\0of {number}\0\n" for number in range(1, 20))
    marks, found = Marks(), dict[int, str]()
    for start in range(0, len(text), size):
        for ticket, piece in marks.split(text[start : start + size]):
            found[ticket] = found.get(ticket, "") + piece
    assert found == {0: "before"} | {number: f"of {number}\0\n" for number in range(1, 20)}


def marked_call() -> Call:
    plan = Plan("echo", "process", settle(JobOptions()), is_coroutine=False)
    plan.marks = True
    return Call(plan)


def test_a_call_needs_a_mark_only_behind_another_one() -> None:
    calls: dict[int, Call] = {}
    voices, told = Voices(calls), list[tuple[str, Call | None]]()

    def begin(ticket: int) -> tuple[Call, bool]:
        needs = voices.needs_mark(call := marked_call(), ticket)
        calls[ticket] = call
        return call, needs

    def said(text: str) -> None:
        voices.tell("stderr", text, lambda stream, piece, call: told.append((piece, call)))

    (first, alone), (second, behind) = begin(1), begin(2)
    assert (alone, behind) == (False, True)
    said("of the first\0aj:2\0of the second")
    calls.clear()
    said("of nobody")
    third, alone = begin(3)
    said("of the third")
    assert not alone
    assert told == [
        ("of the first", first),
        ("of the second", second),
        ("of nobody", None),
        ("of the third", third),
    ]


# --- outside the service ----------------------------------------------------------------


def in_a_runner(path: str) -> list[str]:
    job = aj.current_job()
    said = []
    for ask in (lambda: job.checkpoint(1), job.restore):
        try:
            ask()
        except RuntimeError as error:
            said.append(str(error))
    temporary = Path(path).with_suffix(".tmp")
    temporary.write_text("whole")
    job.commit_file(temporary, path)
    return [*said, str(job.fence), str(temporary.exists())]


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_outside_the_service_checkpoints_say_where_they_work(tmp_path: Path, lane: str) -> None:
    async with aj.Runner(processes=1) as runner:
        said = await runner.options(lane=lane).run(in_a_runner, str(tmp_path / "out"))
        assert [("asyncjobs serve" in text) for text in said[:2]] == [True, True]
        assert said[2:] == ["1", "False"]
        assert (tmp_path / "out").read_text() == "whole"


# --- in a worker of the service ---------------------------------------------------------


async def test_a_coroutine_function_runs_to_its_end_and_hears_of_a_cancel(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        assert await b.value(await b.submit("sleep_async", 0.01)) == "slept"
        waiting = await b.submit("wait_async")
        await b.runs(waiting)
        while not b.engine._attempts[waiting].job._call.attempt:
            await asyncio.sleep(0.01)
        await b.engine.cancel(waiting, "enough")
        with pytest.raises(JobCancelled, match="enough"):
            await b.value(waiting)


@pytest.mark.parametrize(("name", "error"), [("no_such", UnknownFunction), ("pid", TypeError)])
async def test_what_goes_wrong_before_the_function_begins_shows_no_frames_of_ours(
    tmp_path: Path, name: str, error: type[Exception]
) -> None:
    async with bench(tmp_path, processes=1) as b:
        with pytest.raises(error) as caught:
            await b.value(await b.submit(name, "an argument"))
        assert name in str(caught.value.__cause__)
        assert "File" not in str(caught.value.__cause__)


@pytest.mark.slow
async def test_a_plot_of_a_job_lies_in_the_folder_of_its_job(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        job = await b.submit("draw", 5)
        assert await b.value(job, 60) == 5
        figure = json.loads((tmp_path / "figures" / job / "loss.json").read_text())
        assert "data" in json.dumps(figure)
        assert not (Path.cwd() / "loss.json").exists()


async def test_a_result_or_argument_that_does_not_travel_fails_the_job_and_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path, processes=1) as b:
        job = b.new_by_value(lambda: (x for x in ()))
        missing = await b.submit("echo", {"$result": "0" * 26})
        await b.engine.submit([job])
        with pytest.raises(NotSendable, match="generator"):
            await b.value(job.id)
        with pytest.raises(LookupError):
            await b.value(missing)
