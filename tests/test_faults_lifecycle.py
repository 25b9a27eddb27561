"""Beginnings and ends, F44 to F57: real programs that are interrupted, killed, forgotten or forked."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runner_jobs as jobs
from pauses import PauseClock
from programs import Program, launching
from runner_jobs import ECHO, LANES, LISTEN, STUBBORN, ended_once, held, running, still_works

import asyncjobs as aj
from asyncjobs import CancelToken, JobState, Runner
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)
each_start_method = pytest.mark.parametrize("start_method", ["forkserver", "spawn"])

PREAMBLE = """
import asyncio, gc, os, signal, sys, threading, time
import asyncjobs as aj

def say(*words):
    print(*words, flush=True)

def report():
    aj.current_job().progress(0)

def sleeper(seconds=60):
    report()
    time.sleep(seconds)

def listener():
    report()
    aj.current_job().token.wait(60)
    aj.current_job().token.check()

async def coroutine():
    report()
    await asyncio.sleep(60)

def stubborn():
    report()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            time.sleep(60)
        except BaseException:
            pass

async def started(runner, *made):
    with runner.events(4096) as events:
        waiting = {job.id for job in made if job.progress is None}
        while waiting:
            event = await anext(events)
            if event.progress is not None:
                waiting.discard(event.job_id)
    say("workers", *runner._lanes["process"].pids())

"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Any]:
    """Start a script: ``launch(text, terminal=True)``."""
    with launching(tmp_path, PREAMBLE) as start:

        def start_on(text: str, *, terminal: bool = False, loop: str = "") -> Program:
            return start(text.replace("aj.run(", "asyncio.run(") if loop == "asyncio" else text, terminal=terminal)

        yield start_on


# --- F44: the wrong loop, a closed loop -------------------------------------------------


async def test_f44_every_verb_from_another_thread_or_loop_is_refused(runner: Runner) -> None:
    job, go = await held(runner, "thread", 1)

    async def elsewhere() -> None:
        for verb in (runner.submit, runner.run):
            with pytest.raises(aj.WrongLoop, match="another event loop"):
                await verb(jobs.echo)
        with pytest.raises(aj.WrongLoop, match="another event loop"):
            await runner.map(jobs.echo, [1]).collect()
        with pytest.raises(aj.WrongLoop, match="another event loop"):
            await runner.aclose()

    def without_loop() -> None:
        with pytest.raises(aj.WrongLoop, match=r"use asyncio\.run_coroutine_threadsafe"):
            runner.submit_nowait(jobs.echo)

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.to_thread(without_loop)
    assert runner.jobs() == [job]
    go.cancel()
    assert await job == 1
    await still_works(runner)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["asyncio.new_event_loop()", "__import__('uvloop').new_event_loop()"])
def test_f44_when_the_loop_is_closed_under_it_jobs_end_and_workers_go(launch: Any, kind: str) -> None:
    program = launch(f"""
        async def main():
            runner = await aj.Runner(processes=1).__aenter__()
            made = [await runner.submit(coroutine), await runner.options(lane="process").submit(sleeper),
                    await runner.submit(sleeper)]
            queued = await runner.options(lane="process").submit(sleeper)
            await started(runner, *made)
            return runner, [*made, queued]

        async def outcome(job):
            return await job

        if __name__ == "__main__":
            loop = {kind}
            runner, made = loop.run_until_complete(main())
            loop.close()
            for job in made:
                job.add_done_callback(lambda job: say("told", job.state.name))
            say("answers", *(job.cancel() for job in made))
            del runner
            for job in made:
                try:
                    asyncio.run(outcome(job))
                except aj.RunnerClosed as error:
                    say("closed", job.state.name, error)
            say("end")
    """)
    output = program.read_until("end\n")
    assert program.ends() == 0
    assert output.count("closed FAILED") == 4, program.output
    assert program.output.count("told FAILED") == 4, program.output
    assert "Event loop is closed" not in program.output
    assert "Traceback" not in program.output


# --- F45, F46: leaving the block --------------------------------------------------------


@each_lane
async def test_f45_a_clean_exit_drains_what_runs_and_what_waits(lane: str) -> None:
    async with Runner(processes=1, threads=1, coroutines=1) as runner:
        first, go = await held(runner, lane, "ran")
        behind = [await runner.options(lane=lane).submit(ECHO[lane], n) for n in range(5)]
        asyncio.get_running_loop().call_soon(go.cancel)
    assert [first.result(), *(job.result() for job in behind)] == ["ran", 0, 1, 2, 3, 4]
    ended_once(first, *behind)


@each_lane
async def test_f45_after_the_drain_deadline_the_rest_is_cancelled_and_named(
    lane: str, caplog: pytest.LogCaptureFixture, clock: PauseClock
) -> None:
    runner = await Runner(processes=1, threads=1, coroutines=1).__aenter__()
    done = await runner.options(lane=lane).submit(ECHO[lane], "done")
    await done
    running_one = await runner.options(lane=lane, name="runs", grace=1.0).submit(LISTEN[lane])
    await running(runner, running_one)
    queued = await runner.options(lane=lane, name="waits").submit(ECHO[lane])
    started, counted = time.monotonic(), clock()
    assert await runner.aclose(drain=0.2) == ["runs", "waits"]
    assert time.monotonic() - started >= 0.2
    assert clock() - counted < 0.2 + 5
    assert (running_one.state, queued.state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert "2 jobs are cancelled: runs, waits" in caplog.text
    ended_once(done, running_one, queued)


@pytest.mark.slow
@each_lane
async def test_f45_without_a_drain_everything_is_cancelled_at_once(lane: str) -> None:
    runner = await Runner(processes=1).__aenter__()
    job = await runner.options(lane=lane).submit(LISTEN[lane])
    await running(runner, job)
    async with asyncio.timeout(5):
        assert await runner.aclose(drain=0) == [job.name]
    assert job.state is JobState.CANCELLED
    ended_once(job)


@pytest.mark.parametrize("lane", ["loop", "thread"])
async def test_f45_a_job_that_cannot_be_stopped_does_not_hold_up_the_close(lane: str, clock: PauseClock) -> None:
    go = CancelToken()
    runner = await Runner().__aenter__()
    job = await runner.options(lane=lane).submit(STUBBORN[lane], go)
    await running(runner, job)
    started = clock()
    await runner.aclose(drain=0, grace=0.1)
    assert clock() - started < 2
    assert job.state is JobState.CANCELLED
    ended_once(job)
    go.cancel()


@pytest.mark.slow
async def test_f45_a_process_job_that_cannot_be_stopped_is_killed_in_the_close(clock: PauseClock) -> None:
    runner = await Runner(processes=1).__aenter__()
    job = await runner.options(lane="process").submit(jobs.stubborn, CancelToken())
    await running(runner, job)
    started = clock()
    await runner.aclose(drain=0, grace=0.1)
    assert clock() - started < 0.1 + 1 + 2
    assert job.state is JobState.CANCELLED
    ended_once(job)


@each_lane
async def test_f46_an_exception_in_the_body_wins_and_the_jobs_are_cancelled(lane: str) -> None:
    made = []

    async def body() -> None:
        async with Runner(processes=1) as runner:
            job = await runner.options(lane=lane, grace=0.5).submit(LISTEN[lane])
            await running(runner, job)
            made.extend([job, await runner.options(lane=lane).submit(LISTEN[lane])])
            raise ZeroDivisionError("the body's own")

    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError, match="the body's own") as caught:
            await body()
    assert caught.value.__context__ is None
    assert {job.state for job in made} == {JobState.CANCELLED}
    ended_once(*made)


@pytest.mark.slow
async def test_f46_a_cancelled_body_is_cancelled_and_cleans_up() -> None:
    made = []
    gate = Gate()

    async def body() -> None:
        async with Runner(processes=1) as runner:
            for lane in LANES:
                made.append(await runner.options(lane=lane, grace=0.5).submit(LISTEN[lane]))
                await running(runner, made[-1])
            await gate.passed()

    task = asyncio.create_task(body())
    await gate.arrival()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {job.state for job in made} == {JobState.CANCELLED}
    ended_once(*made)


@pytest.mark.slow
async def test_f46_a_cancel_during_the_drain_cuts_it_short() -> None:
    made = []
    gate = Gate()

    async def body() -> None:
        async with Runner(processes=1) as runner:
            for lane in LANES:
                made.append(await runner.options(lane=lane, grace=0.5).submit(LISTEN[lane]))
                await running(runner, made[-1])
            gate.open()

    task = asyncio.create_task(body())
    while not gate.is_open:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert {job.state for job in made} == {JobState.CANCELLED}
    ended_once(*made)


# --- F47: Ctrl-C ------------------------------------------------------------------------

BUSY = """
    async def main():
        async with aj.Runner(processes=2) as runner:
            made = [await runner.submit(coroutine), await runner.submit(listener),
                    await runner.options(lane="process").submit(listener),
                    await runner.options(lane="process").submit({job})]
            await started(runner, *made)
            say("ready")
            try:
                await asyncio.sleep(60)
            finally:
                say("leaving")
        say("never here")
    if __name__ == "__main__":
        aj.run(main())
"""


def _one_interrupt(output: str) -> None:
    assert output.count("\nKeyboardInterrupt\n") == 1, output
    assert "never here" not in output, output
    assert "Process " not in output, output  # multiprocessing's heading over a worker's traceback
    assert "never retrieved" not in output, output
    assert "Event loop is closed" not in output, output


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_f47_one_ctrl_c_cancels_gracefully_with_one_keyboard_interrupt(launch: Any, loop: str) -> None:
    program = launch(BUSY.format(job="listener"), terminal=True, loop=loop)
    program.read_until("ready")
    program.interrupt()
    assert program.ends(within=5) in (-signal.SIGINT, 130)
    assert "4 jobs are cancelled" in program.output
    _one_interrupt(program.output)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_f47_a_second_ctrl_c_ends_at_once(launch: Any, loop: str) -> None:
    program = launch(
        BUSY.format(job="stubborn").replace("processes=2", "processes=2, options={'grace': 30.0}"),
        terminal=True,
        loop=loop,
    )
    program.read_until("ready")
    program.interrupt()
    program.read_until("are cancelled")
    program.interrupt()
    assert program.ends(within=4) != 0
    assert "never here" not in program.output
    assert "Process " not in program.output


@each_start_method
def test_f47_ctrl_c_while_workers_start_leaves_no_tracebacks_of_theirs(launch: Any, start_method: str) -> None:
    program = launch(
        f"""
        async def main():
            lanes = {{"process": aj.ProcessLane(2, start_method="{start_method}")}}
            async with aj.Runner(lanes=lanes) as runner:
                made = [await runner.options(lane="process").submit(sleeper) for _ in range(2)]
                slots = runner._lanes["process"].places()
                while not any(slot._body and slot._body._resident.newborn for slot in slots):
                    await asyncio.sleep(0)
                say("ready")
                await asyncio.sleep(60)
        if __name__ == "__main__":
            aj.run(main())
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    assert program.ends(within=6) in (-signal.SIGINT, 130)
    _one_interrupt(program.output)


def test_f47_ctrl_c_during_the_close_cuts_the_drain_short(launch: Any) -> None:
    program = launch(
        """
        async def main():
            async with aj.Runner(processes=1) as runner:
                made = [await runner.submit(listener), await runner.options(lane="process").submit(listener)]
                await started(runner, *made)
                say("ready")
            say("never here")
        if __name__ == "__main__":
            aj.run(main())
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    assert program.ends(within=5) in (-signal.SIGINT, 130)
    _one_interrupt(program.output)


# --- F48: other signals -----------------------------------------------------------------


@pytest.mark.slow
def test_f48_sigterm_drains_and_exits_with_143(launch: Any) -> None:
    program = launch("""
        def finishes():
            report()
            time.sleep(0.5)
            return "finished"

        async def main():
            async with aj.Runner(processes=1) as runner:
                made = [await runner.submit(finishes), await runner.options(lane="process").submit(finishes)]
                for job in made:
                    job.add_done_callback(lambda job: say("job", job.state.name))
                await started(runner, *made)
                say("ready")
                await asyncio.sleep(60)
            say("never here")
        if __name__ == "__main__":
            aj.run(main())
    """)
    program.read_until("ready")
    program.process.send_signal(signal.SIGTERM)
    assert program.ends(within=6) == 143
    assert program.output.count("job SUCCEEDED") == 2, program.output
    assert "never here" not in program.output
    assert "Traceback" not in program.output


@pytest.mark.slow
def test_f48_sigterm_drains_no_longer_than_the_drain_timeout(launch: Any) -> None:
    program = launch("""
        async def main():
            async with aj.Runner(processes=1, drain_timeout=0.3, options={"grace": 0.3}) as runner:
                made = [await runner.submit(coroutine), await runner.options(lane="process").submit(sleeper)]
                await started(runner, *made)
                say("ready")
                await asyncio.sleep(60)
        if __name__ == "__main__":
            aj.run(main())
    """)
    program.read_until("ready")
    program.process.send_signal(signal.SIGTERM)
    assert program.ends(within=0.3 + 5) == 143
    assert "2 jobs are cancelled" in program.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_f48_a_signal_that_nobody_handles_takes_the_workers_along(launch: Any, number: signal.Signals) -> None:
    program = launch(BUSY.format(job="sleeper"), loop="asyncio")
    program.read_until("ready")
    program.process.send_signal(number)
    assert program.ends(within=5) == -number


# --- F49: forgotten, left in a hurry ----------------------------------------------------

FORGOTTEN = """
    async def main():
        runner = await aj.Runner(processes=1).__aenter__()
        made = [await runner.submit(coroutine), await runner.submit(sleeper),
                await runner.options(lane="process").submit(sleeper)]
        await started(runner, *made)
        say("ready")
        {end}
    if __name__ == "__main__":
        aj.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_f49_a_forgotten_close_is_a_resource_warning_and_the_program_ends(launch: Any, loop: str) -> None:
    program = launch(FORGOTTEN.format(end="return"), loop=loop)
    program.read_until("ready")
    assert program.ends(within=5) == 0
    assert "ResourceWarning" in program.output, program.output
    assert "was never closed; use `async with`" in program.output
    assert "Traceback" not in program.output, program.output


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("forgotten", [True, False])
@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("raise LookupError('mine')", 1)])
def test_f49_an_exit_or_an_exception_in_main_ends_the_program(
    launch: Any, loop: str, forgotten: bool, end: str, code: int
) -> None:
    text = FORGOTTEN.format(end=end)
    if not forgotten:
        text = text.replace(
            "runner = await aj.Runner(processes=1).__aenter__()",
            "runner = await stack.enter_async_context(aj.Runner(processes=1))",
        )
        text = text.replace(
            "async def main():",
            "import contextlib\n    async def main():\n      async with contextlib.AsyncExitStack() as stack:",
        )
    program = launch(text, loop=loop)
    program.read_until("ready")
    assert program.ends(within=7) == code
    assert program.output.count("Traceback") == (code == 1), program.output
    assert ("LookupError: mine" in program.output) == (code == 1)


@pytest.mark.slow
def test_f49_a_thread_that_hangs_after_its_time_limit_does_not_hold_up_the_exit(launch: Any) -> None:
    program = launch("""
        async def main():
            async with aj.Runner() as runner:
                job = await runner.options(timeout=0.2, grace=0.1).submit(sleeper)
                try:
                    await job
                except aj.JobTimeout:
                    say("ready")
        if __name__ == "__main__":
            aj.run(main())
    """)
    program.read_until("ready")
    assert program.ends(within=3) == 0


# --- F50: garbage -----------------------------------------------------------------------


@pytest.mark.slow
def test_f50_jobs_of_a_runner_that_is_garbage_fail_with_runner_closed(launch: Any) -> None:
    program = launch("""
        async def main():
            runner = await aj.Runner(processes=1).__aenter__()
            for lane in ("thread", "process"):
                runner.lane(lane).pause()
                for _ in range(2):
                    job = await runner.options(lane=lane).submit(sleeper)
                    job.add_done_callback(lambda job: say("told", job.state.name, type(job.exception()).__name__))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        while any(thread.name == "asyncjobs-watchdog" for thread in threading.enumerate()):
            time.sleep(0.01)
        gc.collect()
        say("end")
    """)
    program.read_until("end\n")
    assert program.ends() == 0
    assert program.output.count("told FAILED RunnerClosed") == 4, program.output
    assert "was never closed" in program.output
    assert "Traceback" not in program.output, program.output


# --- F51: fork --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_f51_a_forked_child_cannot_harm_its_parents_runner(launch: Any, loop: str) -> None:
    program = launch(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        async def main():
            go = aj.CancelToken()

            def hold(go):
                report()
                go.wait(60)
                return "untouched"

            async with aj.Runner(processes=1) as runner:
                made = [await runner.options(lane="process").submit(hold, go), await runner.submit(hold, go)]
                behind = await runner.options(lane="process").submit(len, "behind")
                await started(runner, *made)
                child = os.fork()
                if child == 0:
                    for verb in (lambda: runner.submit_nowait(len, "x"), runner.cancel_all):
                        try:
                            verb()
                        except aj.WrongLoop:
                            say("refused")
                    for job in (*made, behind):
                        say("answer", job.cancel())
                    runner.__del__()
                    os._exit(0)
                os.waitpid(child, 0)
                go.cancel()
                say("values", *[await job for job in made], await behind)
                say("next", await runner.options(lane="process").run(len, "next"))
            say("states", *[job.state.name for job in made])
        if __name__ == "__main__":
            here = os.getpid()
            try:
                aj.run(main())
            finally:
                if os.getpid() == here:
                    say("end")
    """,
        loop=loop,
    )
    program.read_until("end\n", within=30)
    assert program.ends() == 0
    assert program.output.count("refused") == 2
    assert "values untouched untouched 6" in program.output, program.output
    assert "next 4" in program.output
    assert "states SUCCEEDED SUCCEEDED" in program.output


@pytest.mark.slow
def test_f51_multiprocessing_with_fork_beside_an_open_runner_works(launch: Any) -> None:
    program = launch("""
        import multiprocessing, warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        def child(queue):
            gc.collect()
            queue.put("from the child")

        async def main():
            async with aj.Runner(processes=1) as runner:
                say(await runner.options(lane="process").run(len, "abc"))
                context = multiprocessing.get_context("fork")
                queue = context.SimpleQueue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                say(queue.get())
                await runner.run(process.join)
                say("code", process.exitcode)
                say("next", await runner.options(lane="process").run(len, "next"))
        aj.run(main())
        say("end")
    """)
    program.read_until("end\n")
    assert program.ends() == 0
    assert "from the child\ncode 0\nnext 4\n" in program.output


# --- F52: kill -9 -----------------------------------------------------------------------


@pytest.mark.slow
@each_start_method
@pytest.mark.parametrize("job", ["sleeper", "stubborn", "None"])
def test_f52_kill_9_of_the_script_takes_the_workers_along(launch: Any, start_method: str, job: str) -> None:
    program = launch(f"""
        async def main():
            lanes = {{"process": aj.ProcessLane(2, start_method="{start_method}")}}
            async with aj.Runner(lanes=lanes) as runner:
                process = runner.options(lane="process")
                await process.run(len, "x")
                made = [await process.submit(job) for job in ({job}, {job}) if job]
                await started(runner, *made)
                say("ready")
                await asyncio.sleep(60)
        if __name__ == "__main__":
            aj.run(main())
    """)
    program.read_until("ready")
    assert program.pids
    program.process.kill()
    assert program.ends(within=5) == -signal.SIGKILL
    assert [name for name in os.listdir("/dev/shm") if name.startswith("aj")] == []


BOOTED = """
from concurrent.futures import ProcessPoolExecutor
from asyncjobs import spawning
from asyncjobs.wire.terms import Settings

far, near = map(spawning.Descriptor, os.pipe())
settings = Settings(*[None] * len(Settings._fields))._replace(lifeline=far)
executor = ProcessPoolExecutor(
    1, spawning.start_context("forkserver"), spawning.FarFunction("asyncjobs.worker", "boot"), (settings,)
)

def first_call():
    with spawning.without_main({}):
        return executor.submit(os.getpid)

"""
"""A worker as the executor has started it: the call that never returns is not on its way yet."""


@pytest.mark.slow
def test_f52_a_worker_that_was_not_told_yet_what_to_do_dies_with_the_script(launch: Any) -> None:
    program = launch(BOOTED + 'print("workers", first_call().result(), "\\nready", flush=True)\ntime.sleep(60)')
    program.read_until("ready")
    assert program.pids
    program.process.kill()
    assert program.ends(within=5) == -signal.SIGKILL


def test_f52_a_worker_that_starts_when_the_script_is_gone_does_not_stay(launch: Any) -> None:
    program = launch(BOOTED + "near.close()\nprint(type(first_call().exception()).__name__, flush=True)")
    program.read_until("BrokenProcessPool")
    assert program.ends() == 0


# --- F57: submits and the close ---------------------------------------------------------


@each_lane
async def test_f57_a_storm_of_submits_during_the_close_leaves_none_in_limbo(lane: str) -> None:
    runner = await Runner(processes=1, queue_size=20).__aenter__()
    await runner.options(lane=lane).run(ECHO[lane])
    accepted: list[Any] = []
    refused: list[BaseException] = []
    storming = asyncio.Event()

    async def storm(start: int) -> None:
        for n in range(start, start + 200):
            try:
                accepted.append(await runner.options(lane=lane).submit(ECHO[lane], n))
            except aj.RunnerClosed as error:
                refused.append(error)
            if n % 10 == 0:
                await asyncio.sleep(0)
            if len(accepted) > 100:
                storming.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as storms:
        for start in range(0, 1000, 200):
            storms.create_task(storm(start))
        await storming.wait()
        await runner.aclose()
    assert len(accepted) + len(refused) == 1000
    assert accepted
    assert refused
    ended_once(*accepted)
    assert {job.state for job in accepted} == {JobState.SUCCEEDED}
    with pytest.raises(aj.RunnerClosed, match="the runner is closed"):
        await runner.submit(jobs.echo)


@each_lane
async def test_f57_submits_that_wait_for_room_when_the_runner_closes_are_refused(lane: str) -> None:
    runner = await Runner(processes=1, threads=1, coroutines=1, queue_size=1).__aenter__()
    job, go = await held(runner, lane, "ran")
    queued = await runner.options(lane=lane).submit(ECHO[lane], "queued")
    waiting = [asyncio.create_task(runner.options(lane=lane).submit(ECHO[lane], n)) for n in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(runner.aclose())
    async with asyncio.timeout(5):
        await asyncio.wait(waiting)
    assert all(isinstance(task.exception(), aj.RunnerClosed) for task in waiting)
    go.cancel()
    assert await closing == []
    assert (job.result(), queued.result()) == ("ran", "queued")
    ended_once(job, queued)


async def test_f57_a_job_that_submits_while_the_runner_drains_is_refused_and_ends() -> None:
    gate = Gate()

    async def parent() -> str:
        await gate.passed()
        with pytest.raises(aj.RunnerClosed, match=r"the runner is clos(ing|ed)"):
            await aj.current_job().runner.submit(jobs.echo)
        return "refused"

    runner = await Runner().__aenter__()
    job = await runner.submit(parent)
    await gate.arrival()
    closing = asyncio.create_task(runner.aclose())
    await asyncio.sleep(0)
    gate.open()
    await closing
    assert job.result() == "refused"
