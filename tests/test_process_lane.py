"""The process lane as its users set it up: settings, output, functions by name and by value, giving back."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jobs
import pytest
from doors import BOUND, assert_failed, assert_lost, common_outcome, gone, new_door

import asyncjobs as aj
from asyncjobs.lanes import wear
from asyncjobs.lanes.process import THREAD_CAPS
from asyncjobs.processors import usable_processors
from asyncjobs.worker import Worker

METHODS = ["forkserver", "spawn"]


def process(runner: aj.Runner, **options: Any) -> Any:
    return runner.options(lane="process", **options)


def lane_runner(*args: Any, **settings: Any) -> aj.Runner:
    return aj.Runner(lanes={"process": aj.ProcessLane(*args, **settings)})


# --- settings ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
async def test_as_many_jobs_run_at_once_as_there_are_workers(workers: int) -> None:
    async with lane_runner(workers) as runner, new_door() as door, asyncio.timeout(BOUND):
        work = [await process(runner).submit(jobs.wait_at, door.path) for _ in range(workers + 2)]
        pids = {await door.arrival() for _ in range(workers)}
        assert len(pids) == workers
        assert [job.state.name for job in work].count("RUNNING") == workers
        door.open(workers + 2)
        await aj.gather(work)


async def test_workers_start_only_when_they_are_needed() -> None:
    async with lane_runner(4) as runner:
        lane = runner._lanes["process"]
        assert lane.pids() == []
        for _ in range(5):
            await process(runner).run(jobs.pid)
        assert len(lane.pids()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("start_method", METHODS)
async def test_the_initializer_runs_in_every_worker_before_its_first_job(start_method: str) -> None:
    settings: dict[str, Any] = {"initializer": jobs.remember, "initargs": ("ready", 7), "start_method": start_method}
    async with lane_runner(2, **settings) as runner, common_outcome(runner):
        assert await process(runner).run(jobs.kept) == ["ready", 7]
        await assert_lost(await process(runner).submit(jobs.exit_at_once, 3), exit_code=3)
        assert await process(runner).run(jobs.kept) == ["ready", 7], "in the worker that came after it, too"


@pytest.mark.slow
async def test_an_initializer_may_be_a_closure_and_import_what_it_likes() -> None:
    word = "captured"

    def initializer() -> None:
        import jobs as module

        module.KEPT.append(word)

    async with lane_runner(1, initializer=initializer) as runner:
        assert await process(runner).run(jobs.kept) == ["captured"]


async def test_an_initializer_that_cannot_be_sent_is_refused_by_name() -> None:
    with pytest.raises(aj.NotSendable, match="initializer or initargs"):
        async with lane_runner(1, initializer=jobs.remember, initargs=(threading.Lock(),)):
            pass


@pytest.mark.slow
async def test_variables_reach_the_workers_and_not_this_process() -> None:
    async with lane_runner(1, env={"ASYNCJOBS_TEST": "there"}) as runner:
        assert await process(runner).run(jobs.variable, "ASYNCJOBS_TEST") == "there"
        assert "ASYNCJOBS_TEST" not in os.environ


@pytest.mark.slow
async def test_early_variables_are_not_left_behind_in_this_process() -> None:
    async with lane_runner(1, env={"MALLOC_ARENA_MAX": "2"}) as runner:
        assert await process(runner).run(jobs.initial_environment, "MALLOC_ARENA_MAX") == "2"
        assert "MALLOC_ARENA_MAX" not in os.environ


@pytest.mark.slow
async def test_two_lanes_have_two_environments() -> None:
    lanes = {f"gpu{n}": aj.ProcessLane(1, env={"CUDA_VISIBLE_DEVICES": str(n)}) for n in range(2)}
    async with aj.Runner(lanes=lanes) as runner:
        seen = [await runner.options(lane=name).run(jobs.variable, "CUDA_VISIBLE_DEVICES") for name in lanes]
        assert seen == ["0", "1"]


@pytest.mark.parametrize("start_method", METHODS)
async def test_preloaded_modules_are_there_before_the_first_job(start_method: str) -> None:
    async with lane_runner(1, preload=["colorsys", "wave"], start_method=start_method) as runner:
        assert await process(runner).run(jobs.is_loaded, "colorsys", "wave", "chess") == [True, True, False]


@pytest.mark.slow
async def test_a_worker_is_replaced_after_so_many_jobs() -> None:
    async with lane_runner(1, recycle_after=3) as runner:
        pids = [await process(runner).run(jobs.pid) for _ in range(9)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


@pytest.mark.slow
async def test_recycling_holds_under_a_burst_of_jobs() -> None:
    async with lane_runner(2, recycle_after=10) as runner, asyncio.timeout(BOUND):
        work = [await process(runner).submit(jobs.pid, n) for n in range(100)]
        pids = await aj.gather(work)
        assert max(pids.count(pid) for pid in set(pids)) <= 10
        assert {job.attempt for job in work} == {1}


@pytest.mark.slow
async def test_a_job_above_max_rss_is_killed_while_it_runs_and_the_cause_says_so() -> None:
    async with lane_runner(2, max_rss=120 * 2**20) as runner, common_outcome(runner), new_door() as door:
        job = await process(runner).submit(jobs.grow_and_wait, 200 * 2**20, door.path)
        error = await assert_lost(job, signal=9, cause="max_rss")
        assert "120 MiB allowed" in error.cause
        assert "out of memory" not in str(error), "we know better"
        await gone(error.pid or 0)


@pytest.mark.slow
async def test_a_worker_above_max_rss_after_its_job_is_replaced_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wear, "RSS_INTERVAL", 3600.0)  # else a slow machine may catch the job while it runs
    async with lane_runner(2, max_rss=60 * 2**20) as runner, common_outcome(runner):
        for _ in range(3):
            fat = await process(runner).run(jobs.leak_memory, 60 * 2**20)
            slim = await process(runner).submit(jobs.pid)
            assert await slim != fat
            assert slim.attempt == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_numerical_libraries_do_not_oversubscribe_the_processors(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_CAPS:
        monkeypatch.delenv(name, raising=False)
    async with lane_runner(workers) as runner:
        caps = await process(runner).run(jobs.variables, THREAD_CAPS)
        assert caps == [str(max(1, usable_processors() // workers))] * len(THREAD_CAPS)


async def test_a_cap_that_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    async with lane_runner(2, env={"MKL_NUM_THREADS": "5"}) as runner:
        assert await process(runner).run(jobs.variables, ("OMP_NUM_THREADS", "MKL_NUM_THREADS")) == ["7", "5"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": True}, "workers=True"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"recycle_after": 0}, "recycle_after=0"),
        ({"max_rss": -1}, "max_rss=-1"),
        ({"start_method": "fork"}, "start_method='fork'"),
        ({"output": "capture"}, "output='capture'"),
        ({"initializer": "setup"}, "initializer='setup'"),
        ({"preload": "numpy"}, "preload='numpy'"),
    ],
)
def test_wrong_settings_raise_at_the_call_and_name_the_value(settings: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match="allowed") as caught:
        aj.ProcessLane(**settings)
    assert named in str(caught.value)


# --- output -----------------------------------------------------------------------------


async def test_output_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with lane_runner(1) as runner:
        await process(runner).run(jobs.print_both, "hello")
    seen = capsys.readouterr()
    assert "out hello\n" in seen.out
    assert "err hello\n" in seen.err


async def test_output_is_captured_for_its_own_job(capsys: pytest.CaptureFixture[str]) -> None:
    async with lane_runner(1) as runner:
        work = [await process(runner, output="capture").submit(jobs.print_both, str(n)) for n in range(20)]
        await aj.gather(work)
        for number, job in enumerate(work):
            assert sorted(job.output.splitlines()) == [f"err {number}", f"out {number}"]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
async def test_output_of_a_job_that_dies_is_captured_to_its_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    def die() -> None:
        print("last words", flush=True)
        os._exit(3)

    async with lane_runner(1) as runner:
        for _ in range(5):
            job = await process(runner, output="capture").submit(die)
            await job.wait()
            assert (job.state.name, job.output) == ("LOST", "last words\n")
            job.exception()
    assert capsys.readouterr().out == ""


async def test_output_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    async with lane_runner(1) as runner:
        job = await process(runner, output="drop").submit(jobs.print_both, "hello")
        await job
        assert job.output == ""
    assert capsys.readouterr() == ("", "")


async def test_output_is_inherited(capfd: pytest.CaptureFixture[str]) -> None:
    async with lane_runner(1, output="inherit", start_method="spawn") as runner:
        await process(runner).run(jobs.print_both, "hello")
    seen = capfd.readouterr()
    assert "out hello\n" in seen.out
    assert "err hello\n" in seen.err


async def test_a_character_cut_in_two_arrives_whole() -> None:
    async with lane_runner(1) as runner:
        job = await process(runner, output="capture").submit(jobs.write_lone_byte_then_text)
        await job
        assert job.output == "café\n"


# --- functions --------------------------------------------------------------------------


async def test_functions_of_modules_travel_by_name_and_methods_and_partials_arrive(runner: aj.Runner) -> None:
    submit = process(runner)
    assert await submit.run(jobs.add, 1, b=2) == 3
    assert await submit.run(functools.partial(jobs.add, 1), 2) == 3
    assert await submit.run("a-b".split, "-") == ["a", "b"]
    assert await submit.run(len, [1, 2, 3]) == 3
    assert await submit.run(dict.fromkeys, "ab") == {"a": None, "b": None}


async def test_a_lambda_and_a_closure_travel_by_value(runner: aj.Runner) -> None:
    factor = 3

    def scaled(x: int) -> int:
        return factor * x

    assert await process(runner).run(lambda x: x + 1, 1) == 2
    assert await process(runner).run(scaled, 2) == 6


async def test_a_captured_value_that_changes_between_submits_is_taken_each_time_as_it_is_then(
    runner: aj.Runner,
) -> None:
    weights = [0]

    def read() -> int:
        return weights[0]

    work = []
    for step in range(30):
        weights[0] = step
        work.append(await process(runner).submit(read))
    weights[0] = -1
    assert await aj.gather(work) == list(range(30))


async def test_an_argument_is_a_snapshot_of_the_moment_of_submit(runner: aj.Runner) -> None:
    items = [1]
    job = await process(runner).submit(jobs.add, *items, 0)
    listed = await process(runner).submit(sum, items)
    items.append(100)
    assert (await job, await listed) == (1, 1)


@pytest.mark.slow
async def test_many_different_functions_do_not_pile_up(runner: aj.Runner) -> None:
    for number in range(600):
        assert await process(runner).run(lambda number=number: number) == number


async def test_a_large_closure_runs_more_than_once(runner: aj.Runner) -> None:
    ballast = os.urandom(200_000)

    def size() -> int:
        return len(ballast)

    assert [await process(runner).run(size) for _ in range(3)] == [200_000] * 3


@pytest.mark.slow
async def test_a_function_whose_module_workers_cannot_import_fails_its_job_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def fn():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    async with lane_runner(2) as runner, common_outcome(runner):
        (tmp_path / "only_here.py").unlink()
        for cached in (tmp_path / "__pycache__").glob("*"):
            cached.unlink()
        job = await process(runner).submit(only_here.fn)
        await assert_failed(job, ModuleNotFoundError, "only_here")


BODY = """
import asyncio
import asyncjobs as aj

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(other) is type(self) and other.x == self.x

class Wrong(Exception):
    pass

shift = 10

def move(point):
    return Point(point.x + shift)

def fail(text):
    raise Wrong(text)

async def main():
    async with aj.Runner(processes=2) as runner:
        submit = runner.options(lane="process")
        point = await submit.run(move, Point(1))
        print(type(point) is Point, point.x)
        try:
            await submit.run(fail, "as it is")
        except Wrong as error:
            print("Wrong:", error)
        print(await submit.map(lambda n: n * shift, range(4)).collect())

LAST
"""
EXPECTED = ["True 11", "Wrong: as it is", "[0, 10, 20, 30]"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def _run(*command: str, text: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, *command], input=text, capture_output=True, text=True, timeout=50, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("last", ["asyncio.run(main())", "aj.run(main())"])
def test_functions_classes_and_errors_of_a_script_without_a_main_guard_travel(tmp_path: Path, last: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(BODY.replace("LAST", last))
    assert _run(str(script)) == EXPECTED


@pytest.mark.slow
def test_a_program_from_standard_input_works() -> None:
    assert _run("-", text=BODY.replace("LAST", "aj.run(main())")) == EXPECTED


@pytest.mark.slow
def test_a_program_from_the_command_line_works() -> None:
    assert _run("-c", BODY.replace("LAST", "aj.run(main())")) == EXPECTED


@pytest.mark.slow
def test_a_module_run_as_a_program_works(tmp_path: Path) -> None:
    (tmp_path / "as_program.py").write_text(BODY.replace("LAST", "aj.run(main())"))
    done = subprocess.run(
        [sys.executable, "-m", "as_program"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env=_environment(),
    )
    assert done.stdout.splitlines() == EXPECTED, done.stderr


@pytest.mark.slow
def test_the_interactive_prompt_works_on_a_terminal() -> None:
    # A blank line ends a block at the prompt, so there may be none inside.
    blocks = BODY.replace("LAST", "").strip().split("\n\n")
    text = "\n\n".join(block.replace("\n\n", "\n") for block in blocks)
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-i", "-q"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # 3.13's own prompt indents what is pasted.
        env={**_environment(), "PYTHON_BASIC_REPL": "1"},
    )
    os.close(theirs)
    for line in [*text.splitlines(), "", "", "asyncio.run(main())", "raise SystemExit(0)"]:
        os.write(ours, line.encode() + b"\n")
    written, errors = shell.communicate(timeout=50)
    os.close(ours)
    assert shell.returncode == 0, errors.decode()
    lines = [line.removeprefix(">>> ") for line in written.decode().splitlines()]
    assert [line for line in lines if line] == EXPECTED, errors.decode()


# --- giving back, tokens, progress, limits ----------------------------------------------


@pytest.mark.slow
async def test_short_jobs_behind_one_that_turns_out_long_go_to_another_worker(runner: aj.Runner) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        for number in range(100):
            await process(runner).run(jobs.tick_or_wait, number)
        long = await process(runner).submit(jobs.tick_or_wait, -1, door.path)
        behind = [await process(runner).submit(jobs.tick_or_wait, number) for number in range(50)]
        await door.arrival()
        assert await aj.gather(behind) == list(range(50))
        assert not long.done()
        door.open()
        assert await long == -1
        assert {job.attempt for job in behind} == {1}


@pytest.mark.slow
async def test_jobs_behind_a_long_one_do_not_wait_for_it_even_if_no_other_worker_was_ever_needed() -> None:
    async with lane_runner(2) as runner, new_door() as door, asyncio.timeout(BOUND):
        for number in range(100):
            await process(runner).run(jobs.tick_or_wait, number)
        assert len(runner._lanes["process"].pids()) == 1
        long = await process(runner).submit(jobs.tick_or_wait, -1, door.path)
        short = await process(runner).submit(jobs.tick_or_wait, 1)
        await door.arrival()
        assert await short == 1
        door.open()
        await long


async def test_a_cancelled_job_in_the_window_never_starts(tmp_path: Path) -> None:
    async with lane_runner(1) as runner, new_door() as door, asyncio.timeout(BOUND):
        for number in range(100):
            await process(runner).run(jobs.tick_or_wait, number)
        long = await process(runner).submit(jobs.tick_or_wait, -1, door.path)
        behind = [await process(runner).submit(jobs.tick_or_wait, number) for number in range(20)]
        await door.arrival()
        for job in behind[::2]:
            job.cancel("not needed")
        await asyncio.wait([asyncio.ensure_future(job.wait()) for job in behind[::2]])
        assert not long.done()
        door.open()
        assert [await job for job in behind[1::2]] == list(range(1, 20, 2))
        for job in behind[::2]:
            assert job.state.name == "CANCELLED"
            assert "RUNNING" not in [mark.state.name for mark in job.history]


@pytest.mark.slow
async def test_only_the_first_job_in_a_window_shows_as_running(runner: aj.Runner) -> None:
    async with lane_runner(1) as single, new_door() as door, asyncio.timeout(BOUND):
        for number in range(100):
            await process(single).run(jobs.tick_or_wait, number)
        work = [await process(single).submit(jobs.tick_or_wait, -1, door.path)]
        work += [await process(single).submit(jobs.tick_or_wait, number) for number in range(10)]
        await door.arrival()
        assert [job.state.name for job in work] == ["RUNNING", *["QUEUED"] * 10]
        door.open()
        await aj.gather(work)


async def test_a_function_never_seen_before_is_sent_alone() -> None:
    async with lane_runner(1) as runner, new_door() as door, asyncio.timeout(BOUND):
        await process(runner).run(jobs.add, 1, 2)
        long = await process(runner).submit(jobs.wait_at, door.path)
        behind = await process(runner).submit(jobs.add, 1, 2)
        await door.arrival()
        assert runner.stats().lanes["process"].queued == 1
        door.open()
        await aj.gather([long, behind])


@pytest.mark.slow
@pytest.mark.parametrize("start_method", METHODS)
async def test_a_token_as_an_argument_is_heard_in_a_process(start_method: str) -> None:
    async with lane_runner(2, start_method=start_method) as runner, new_door() as door, asyncio.timeout(BOUND):
        token = aj.CancelToken()
        work = [await process(runner).submit(jobs.wait_for_token, token, door.path) for _ in range(2)]
        for _ in work:
            await door.arrival()
        token.cancel("that is enough")
        assert await aj.gather(work) == ["that is enough"] * 2


@pytest.mark.slow
async def test_a_token_raised_in_one_process_is_heard_here_and_in_another(runner: aj.Runner) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        token = aj.CancelToken()
        listening = await process(runner).submit(jobs.wait_for_token, token, door.path)
        await door.arrival()
        assert await process(runner).run(jobs.raise_token, token, "found it")
        assert await listening == "found it"
        assert (token.cancelled, token.reason) == (True, "found it")
        assert not await process(runner).run(jobs.raise_token, token, "too late")


async def test_a_token_that_was_raised_before_is_raised_on_arrival(runner: aj.Runner) -> None:
    token = aj.CancelToken()
    token.cancel("long ago")
    async with new_door() as door, asyncio.timeout(BOUND):
        assert await process(runner).run(jobs.wait_for_token, token, door.path) == "long ago"


@pytest.mark.slow
async def test_a_job_s_own_token_ends_its_waiting(runner: aj.Runner) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        job = await process(runner).submit(jobs.look_at_the_token, door.path)
        await door.arrival()
        assert job.cancel("please") == "requested"
        assert await job == "asked", "a value within the grace stands"


@pytest.mark.slow
async def test_progress_of_a_process_job_is_seen_here(runner: aj.Runner) -> None:
    async with new_door() as door, asyncio.timeout(BOUND):
        job = await process(runner).submit(jobs.steps, 500, door.path)
        await door.arrival()
        while job.progress is None or job.progress.done < 500:
            await asyncio.sleep(0.001)
        assert (job.progress.done, job.progress.total, job.progress.note) == (500, 500, "step 500")
        door.open()
        await job


@pytest.mark.slow
async def test_a_process_job_knows_its_id_name_and_attempt(runner: aj.Runner) -> None:
    job = await process(runner, name="the fit").submit(jobs.job_facts)
    assert await job == (job.id, "the fit", 1)


@pytest.mark.parametrize(("nbytes", "fits"), [(900, True), (1100, False)])
async def test_max_result_counts_bytes(runner: aj.Runner, nbytes: int, fits: bool) -> None:
    job = await process(runner, max_result=1000).submit(jobs.big, nbytes)
    if fits:
        assert len(await job) == nbytes
    else:
        await assert_failed(job, aj.ResultTooLarge, "max_result is 1000")


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda submit, bad: submit.submit(jobs.take, bad), "argument 1"),
        (lambda submit, bad: submit.submit(jobs.take, 1, [0, bad]), "argument 2[1]"),
        (lambda submit, bad: submit.submit(jobs.take, key={"a": {"b": bad}}), "argument 'key'['a']['b']"),
    ],
)
async def test_not_sendable_names_the_path_of_the_argument(
    runner: aj.Runner, call: Callable[[Any, Any], Any], path: str
) -> None:
    with pytest.raises(aj.NotSendable) as caught:
        await call(process(runner), threading.Lock())
    assert caught.value.argument == f"{path} of take"
    assert "lock" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.slow
async def test_a_lane_can_be_resized_while_jobs_run() -> None:
    async with lane_runner(1) as runner, new_door() as door, asyncio.timeout(BOUND):
        work = [await process(runner).submit(jobs.wait_at, door.path, n) for n in range(3)]
        await door.arrival()
        runner.lane("process").resize(3)
        await door.arrival()
        await door.arrival()
        runner.lane("process").resize(1)
        door.open(3)
        assert await aj.gather(work) == [0, 1, 2]
        while len(runner._lanes["process"].pids()) > 1:
            await asyncio.sleep(0.01)
        assert await process(runner).run(jobs.add, 1, 2) == 3


# --- calls that are taken back ----------------------------------------------------------


def answer_late_to_revocations() -> None:
    """In a worker: what it says on one channel comes long after what it has done is seen on the other."""
    revoke = Worker._revoke

    def late(self: Worker, tickets: list[int]) -> None:
        send, self._control = self._control, Late(self._control)  # type: ignore[assignment]
        try:
            revoke(self, tickets)
        finally:
            self._control = send

    Worker._revoke = late  # type: ignore[method-assign]


class Late:
    """A socket that takes its time to send."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def sendall(self, data: bytes) -> None:
        time.sleep(0.05)
        self._channel.sendall(data)


def now_and_then_long(number: int) -> int:
    sum(range(400_000 if number % 50 == 0 else 20_000))
    return number


@pytest.mark.slow
async def test_an_answer_that_overtakes_the_word_of_a_revocation_loses_nothing() -> None:
    lane = aj.ProcessLane(4, initializer=answer_late_to_revocations)
    async with aj.Runner(lanes={"process": lane}, options={"lane": "process"}) as runner:
        # Few at once: what waits behind a long one is for workers that have nothing to do.
        pipeline = aj.Pipeline(range(1500), runner=runner).map(
            now_and_then_long, lane="process", concurrency=8, ordered=False
        )
        for _ in range(3):
            assert sorted([number async for number in pipeline]) == list(range(1500))
        assert runner.stats().lanes["process"].crashes == 0


def try_a_worker(answers: Connection) -> None:
    with aj.SyncRunner(processes=1, watchdog=None) as runner:
        job = runner.options(lane="process").submit(jobs.pid)
        answers.send(repr(job.exception(timeout=BOUND)))


@pytest.mark.slow
def test_a_daemonic_process_such_as_a_worker_of_dask_hears_why_it_can_have_no_workers() -> None:
    near, far = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=try_a_worker, args=(far,), daemon=True)
    process.start()
    far.close()
    answer = near.recv()
    process.join()
    near.close()
    assert answer.startswith("WorkerStartError(")
    assert "a daemonic one of multiprocessing, and such may have no children. If it is a worker of Dask: set" in answer
