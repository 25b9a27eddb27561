"""Faults F41 to F57 for `SyncRunner` and `background`: scripts that are interrupted, killed, forgotten, forked."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runner_jobs as jobs
from pauses import PauseClock
from programs import Program, launching, starts_workers_at_the_exit
from runner_jobs import ECHO, LANES, ended_once

import asyncjobs as aj
from asyncjobs import CancelToken, JobState, SyncRunner
from asyncjobs.testing import Gate

each_lane = pytest.mark.parametrize("lane", LANES)
each_start_method = pytest.mark.parametrize("start_method", ["forkserver", "spawn"])

PREAMBLE = """
import asyncio, gc, multiprocessing, os, signal, sys, threading, time, warnings
import asyncjobs as aj


def say(*words):
    print(*words, flush=True)

def report():
    aj.current_job().progress(0)

def sleeper(seconds=60):
    report()
    time.sleep(seconds)
    return "slept"

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

def hold(go):
    report()
    go.wait(60)
    return "untouched"

def started(runner, *made):
    with runner.events(4096) as events:
        waiting = {job.id for job in made if job.progress is None}
        while waiting:
            event = next(events)
            if event.progress is not None:
                waiting.discard(event.job_id)
    say("workers", *runner._runner._lanes["process"].pids())

def busy(runner, job=listener):
    made = [runner.submit(coroutine), runner.submit(listener), runner.options(lane="process").submit(listener),
            runner.options(lane="process").submit(job)]
    for one in made:
        one.add_done_callback(lambda job: say("ended", job.name, job.state.name))
    started(runner, *made)
    return made

"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a script: ``launch(text, terminal=True)``."""
    with launching(tmp_path, PREAMBLE) as start:
        yield start


@pytest.fixture
def runner() -> Iterator[SyncRunner]:
    """A runner with 2 processes and 4 threads; what the test leaves in it is cancelled."""
    runner = SyncRunner(processes=2, threads=4)
    yield runner
    runner.close(drain=0, grace=0.1)


def one_interrupt(output: str) -> None:
    """Exactly one traceback of one KeyboardInterrupt, and nothing from anybody else."""
    assert output.count("KeyboardInterrupt") == 1, output
    assert output.count("Traceback") == 1, output
    assert "never here" not in output, output
    assert "Process " not in output, output  # multiprocessing's heading over a worker's traceback
    assert "never retrieved" not in output, output
    assert "Event loop is closed" not in output, output
    assert "ResourceWarning" not in output, output


# --- F41: whoever waits is cancelled ----------------------------------------------------


@each_lane
def test_f41_a_cancelled_waiter_of_another_loop_does_not_harm_the_job(runner: SyncRunner, lane: str) -> None:
    go = CancelToken()
    job = runner.options(lane=lane).submit(jobs.HOLD[lane], go, "value")

    async def impatient() -> None:
        task = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await job

    asyncio.run(impatient())
    assert not job.done()
    go.cancel()
    assert job.result(20) == "value"
    ended_once(job)


# --- F42: what a done callback does -----------------------------------------------------


def test_f42_callbacks_that_raise_exit_submit_or_block_harm_nobody(
    runner: SyncRunner, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    heard = Gate()

    def fails(_: object) -> None:
        raise ValueError("a callback's own")

    def leaves(_: object) -> None:
        raise SystemExit(3)

    def submits(_: object) -> None:
        told.append(runner.submit(jobs.echo, "from a callback"))

    def blocks(_: object) -> None:
        with pytest.raises(aj.WouldDeadlock, match="submit_nowait"):
            runner.join()
        with pytest.raises(asyncio.InvalidStateError, match="await it"):
            told[0].result()
        told.append("refused")

    job = runner.submit(jobs.echo, 1)
    for callback in (fails, leaves, submits, blocks, lambda _: heard.open()):
        job.add_done_callback(callback)
    heard.pass_through(20)
    child, refused = told
    assert refused == "refused"
    assert child.result(20) == "from a callback"
    assert runner.run(jobs.echo, 2) == 2
    assert caplog.text.count("a done callback of job 'echo' raised") == 2


# --- F44: the loop ends under it --------------------------------------------------------


@pytest.mark.parametrize("lane", ["thread", "process", "loop"])
def test_f44_when_its_loop_is_stopped_every_job_ends_and_every_verb_says_so(lane: str) -> None:
    runner = SyncRunner(processes=1, threads=1, coroutines=1)
    made = [runner.options(lane=lane).submit(jobs.LISTEN[lane]) for _ in range(3)]
    runner._portal.post(runner._portal.loop.stop)
    for job in made:
        assert isinstance(job.exception(20), aj.RunnerClosed)
    runner._portal._thread.join(20)
    for verb in (runner.join, runner.cancel_all, lambda: runner.share([1]), lambda: runner.lane(lane).pause()):
        with pytest.raises(aj.RunnerClosed):
            verb()
    with pytest.raises(aj.RunnerClosed):
        runner.submit(jobs.echo)
    with pytest.raises(aj.RunnerClosed):
        runner.map(jobs.echo, [1]).collect()
    assert runner.close() == []
    ended_once(*made)


def test_f44_submits_and_calls_race_with_the_end_of_the_loop() -> None:
    for _ in range(20):
        runner = SyncRunner(threads=2)
        accepted: list[aj.Job[Any]] = []
        gate = Gate()

        def storm(runner: SyncRunner = runner, accepted: list[Any] = accepted, gate: Gate = gate) -> None:
            gate.pass_through()
            try:
                while True:
                    accepted.append(runner.submit(jobs.echo, 1))
                    runner.cancel_all()
            except aj.RunnerClosed:
                return

        threads = [threading.Thread(target=storm) for _ in range(3)]
        for thread in threads:
            thread.start()
        gate.wait_for_arrival(3)
        gate.open()
        runner._portal.post(runner._portal.loop.stop)
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        for job in accepted:
            job.exception(20)
        ended_once(*accepted)
        runner.close()


def test_f44_a_coroutine_that_stops_the_loop_ends_the_runner_and_nothing_hangs() -> None:
    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

    runner = SyncRunner()
    job = runner.submit(stop)
    assert isinstance(job.exception(20), aj.RunnerClosed)
    runner.close()


def test_a_coroutine_that_exits_ends_itself_and_not_the_loop(runner: SyncRunner) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(aj.RemoteError) as caught:
        runner.run(leave)
    assert isinstance(caught.value.original, SystemExit)
    assert runner.run(jobs.aecho, 1) == 1


# --- F45, F46: leaving the block --------------------------------------------------------


@each_lane
def test_f45_leaving_the_block_drains_and_an_exception_cancels(lane: str) -> None:
    with SyncRunner(processes=1, threads=1, coroutines=1) as runner:
        made = [runner.options(lane=lane).submit(ECHO[lane], n) for n in range(5)]
    assert [job.result() for job in made] == list(range(5))
    runner = SyncRunner(processes=1, options={"grace": 0.5})
    job = runner.options(lane=lane).submit(jobs.LISTEN[lane])
    error = ZeroDivisionError("the body's own")
    with pytest.raises(ZeroDivisionError), runner:
        raise error
    assert error.__context__ is None
    assert job.state is JobState.CANCELLED
    ended_once(job, *made)


@pytest.mark.slow
def test_close_inside_a_job_is_refused_and_harms_nobody(runner: SyncRunner) -> None:
    neighbour = runner.options(lane="process").submit(jobs.echo, "untouched")
    with pytest.raises(aj.WouldDeadlock, match="from outside its jobs"):
        runner.run(runner.close)
    assert neighbour.result(20) == "untouched"
    assert runner.run(jobs.echo, 1) == 1


# --- F47: Ctrl-C ------------------------------------------------------------------------

WAITS = {
    "sleep": "time.sleep(60)",
    "result": "made[0].result()",
    "result with a timeout": "made[0].result(60)",
    "as_completed": "list(runner.as_completed(made))",
    "join": "runner.join()",
    "run": "runner.run(sleeper)",
    "map": "list(runner.map(sleeper, [60] * 100))",
    "map's source": "list(runner.map(len, (time.sleep(60) for _ in range(3))))",
    "collect": "runner.options(lane='process').map(sleeper, [60] * 100).collect()",
    "events": "list(runner.events())",
    "submit": "[runner.options(lane='full').submit(sleeper) for _ in range(9)]",
}


@pytest.mark.slow
@pytest.mark.parametrize("wait", WAITS)
def test_f47_ctrl_c_wherever_the_script_blocks_is_one_keyboard_interrupt(launch: Any, wait: str) -> None:
    program = launch(
        f"""
        if __name__ == "__main__":
            lanes = {{"full": aj.ThreadLane(1)}}
            with aj.SyncRunner(processes=2, lanes=lanes, queue_size=2, options={{"grace": 0.3}}) as runner:
                made = busy(runner)
                threading.Thread(target=say, args=["ready"]).start()
                {WAITS[wait]}
                say("never here")
            say("never here")
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    assert program.ends(within=30) in (-signal.SIGINT, 130), program.output
    one_interrupt(program.output)
    assert program.output.count("CANCELLED") == 4, program.output


@pytest.mark.slow
def test_f47_a_second_ctrl_c_ends_at_once(launch: Any, clock: PauseClock) -> None:
    program = launch(
        """
        if __name__ == "__main__":
            with aj.SyncRunner(processes=2, options={"grace": 30.0}) as runner:
                busy(runner, stubborn)
                say("ready")
                time.sleep(60)
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    program.read_until("are cancelled")
    program.interrupt()
    began = clock()
    assert program.ends(within=30) in (-signal.SIGINT, 130), program.output
    assert clock() - began < 4, program.output
    one_interrupt(program.output)


@pytest.mark.slow
@pytest.mark.parametrize("interrupts", [1, 2])
def test_f47_ctrl_c_during_the_close_cuts_the_drain_short(launch: Any, interrupts: int) -> None:
    program = launch(
        f"""
        if __name__ == "__main__":
            runner = aj.SyncRunner(processes=2, options={{"grace": {[1.0, 30.0][interrupts - 1]}}})
            busy(runner, {["listener", "stubborn"][interrupts - 1]})
            def watch():
                while not runner._hosted.doorway.is_closed:
                    pass
                say("ready")
            threading.Thread(target=watch).start()
            runner.close()
            say("never here")
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    if interrupts == 2:
        program.read_until("are cancelled")
        program.interrupt()
    assert program.ends(within=6) in (-signal.SIGINT, 130)
    one_interrupt(program.output)


@pytest.mark.slow
@each_start_method
def test_f47_ctrl_c_while_workers_start_leaves_no_tracebacks_of_theirs(launch: Any, start_method: str) -> None:
    program = launch(
        f"""
        if __name__ == "__main__":
            lanes = {{"process": aj.ProcessLane(2, start_method="{start_method}")}}
            with aj.SyncRunner(lanes=lanes) as runner:
                made = [runner.options(lane="process").submit(sleeper) for _ in range(2)]
                slots = runner._runner._lanes["process"].places()
                while not any(slot._body and slot._body._resident.newborn for slot in slots):
                    pass
                say("ready")
                made[0].result()
    """,
        terminal=True,
    )
    program.read_until("ready")
    program.interrupt()
    assert program.ends(within=6) in (-signal.SIGINT, 130)
    one_interrupt(program.output)


@pytest.mark.slow
def test_f47_ctrl_c_while_a_runner_opens_leaves_nothing_behind(launch: Any) -> None:
    """A timer interrupts at another instant of the start each time."""
    program = launch("""
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        hit = 0
        aj.SyncRunner(threads=1).close()  # what is loaded late is not what this is about
        before = set(threading.enumerate())
        for step in range(1, 150):
            runner = None
            try:
                signal.setitimer(signal.ITIMER_REAL, step * 20e-6)
                runner = aj.SyncRunner(threads=1)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hit += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if runner is not None:
                runner.close()
        del runner
        gc.collect()
        for thread in set(threading.enumerate()) - before:
            if thread.is_alive():  # an interrupt may have hit it before it was started
                thread.join(5)
        left = list(set(threading.enumerate()) - before)
        say("hit" if hit else "missed", len(left) < 4, *left[4:])
        say("end")
    """)
    program.read_until("end\n", within=40)
    assert program.ends() == 0
    # One that is open before its name is bound is closed by nobody: it leaves with the interpreter, like any other.
    assert "hit True\n" in program.output, program.output
    for complaint in ("asyncjobs failed", "never retrieved", "destroyed but", "in thread"):
        assert complaint not in program.output, program.output


@pytest.mark.slow
def test_f47_interrupted_submits_do_not_stop_the_ones_after_them(launch: Any) -> None:
    """As in a notebook: the runner lives on after a Ctrl-C in a hot loop of submits."""
    program = launch("""
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        sys.setswitchinterval(1e-5)
        hit = 0
        with aj.SyncRunner(threads=1, queue_size=100) as runner:
            for step in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 3e-4 + step * 1e-6)
                    for _ in range(2000):  # an interrupt in a finalizer is lost, and that is no fault of ours
                        runner.submit(len, "x")
                except KeyboardInterrupt:
                    hit += 1
                assert runner.submit(len, "abc").result(10) == 3
            say("hit", hit > 250)
        say("end")
    """)
    program.read_until("end\n", within=40)
    assert program.ends() == 0
    assert "hit True" in program.output, program.output


# --- F48, F52: other signals ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@each_start_method
def test_f48_f52_a_script_that_is_killed_takes_its_workers_along(
    launch: Any, start_method: str, number: signal.Signals
) -> None:
    program = launch(f"""
        if __name__ == "__main__":
            lanes = {{"process": aj.ProcessLane(2, start_method="{start_method}")}}
            with aj.SyncRunner(lanes=lanes) as runner:
                busy(runner, stubborn)
                say("ready")
                runner.join()
    """)
    program.read_until("ready")
    assert program.pids
    program.process.send_signal(number)
    assert program.ends(within=5) == -number


@pytest.mark.slow
def test_f48_a_handler_that_uses_the_runner_in_the_midst_of_a_submit_does_not_hang(launch: Any) -> None:
    program = launch("""
        sys.setswitchinterval(1e-5)
        told = []
        def handler(*_):
            told.append(runner.submit(len, "abc"))
            runner.cancel_all("by the handler")
            runner.stats()
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
        signal.signal(signal.SIGALRM, handler)
        with aj.SyncRunner(threads=1, queue_size=100) as runner:
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
            while len(told) < 300:
                runner.submit(len, "x")
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert all(job.done() for job in told)
        runner = aj.SyncRunner(threads=1, queue_size=100)
        signal.signal(signal.SIGALRM, lambda *_: runner.close())
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            while True:
                runner.submit(len, "x")
        except aj.RunnerClosed:
            say("closed")
        say("end")
    """)
    program.read_until("end\n", within=40)
    assert program.ends() == 0
    assert "closed\nend" in program.output, program.output


# --- F49: forgotten, left in a hurry ----------------------------------------------------

FORGOTTEN = """
    if __name__ == "__main__":
        runner = aj.SyncRunner(processes=2, exit_drain={drain})
        made = busy(runner, {job})
        say("ready")
        {end}
"""
ENDS = {
    "": 0,
    "sys.exit(3)": 3,
    "raise LookupError('mine')": 1,
    "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)": -signal.SIGINT,
    "asyncio.run(asyncio.sleep(0)); sys.exit('words')": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_f49_a_forgotten_close_is_a_warning_a_bounded_drain_and_the_script_s_own_exit_code(
    launch: Any, end: str, clock: PauseClock
) -> None:
    program = launch(FORGOTTEN.format(drain=0.3, end=end, job="stubborn"))
    program.read_until("ready")
    ready = clock()
    code = program.ends(within=8)
    assert code == ENDS[end], program.output
    assert clock() - ready < 6
    assert "ResourceWarning" in program.output, program.output
    assert "SyncRunner" in program.output.split("was never closed")[0], program.output
    own = ("LookupError" in program.output) + ("KeyboardInterrupt" in program.output)
    assert program.output.count("Traceback") == own, program.output


@pytest.mark.slow
@starts_workers_at_the_exit
def test_f49_jobs_that_end_within_the_drain_do_end(launch: Any) -> None:
    program = launch("""
        if __name__ == "__main__":
            runner = aj.SyncRunner(processes=1)
            made = [runner.submit(sleeper, 0.3), runner.options(lane="process").submit(sleeper, 0.3)]
            behind = [runner.options(lane="process").submit(len, "abc") for _ in range(20)]
            aj.background(sleeper, 0.3).add_done_callback(lambda job: say("background", job.result()))
            for job in made + behind:
                job.add_done_callback(lambda job: say("job", job.result()))
            sys.exit(7)
    """)
    assert program.ends(within=10) == 7
    assert program.output.count("job slept") == 2, program.output
    assert program.output.count("job 3") == 20, program.output
    assert "background slept" in program.output, program.output
    assert program.output.count("was never closed") == 1, program.output
    assert "Traceback" not in program.output, program.output


@pytest.mark.slow
@starts_workers_at_the_exit
def test_f49_a_warning_that_is_an_error_does_not_cut_the_drain_short(launch: Any) -> None:
    program = launch(
        """
        if __name__ == "__main__":
            first, second = aj.SyncRunner(processes=1), aj.SyncRunner(processes=1)
            for runner in (first, second):
                job = runner.options(lane="process").submit(sleeper, 0.2)
                job.add_done_callback(lambda job: say("job", job.result()))
            sys.exit(7)
    """,
        warnings="error::ResourceWarning",
    )
    assert program.ends(within=10) == 7
    assert program.output.count("job slept") == 2, program.output
    assert program.output.count("ResourceWarning: <SyncRunner") == 2, program.output


@pytest.mark.slow
def test_f49_a_coroutine_that_holds_the_loop_up_does_not_hold_up_the_exit(launch: Any) -> None:
    program = launch("""
        async def blocks():
            say("ready")
            time.sleep(60)

        if __name__ == "__main__":
            runner = aj.SyncRunner(processes=1, exit_drain=0.2)
            runner.options(lane="process").run(len, "abc")
            runner.submit(blocks)
    """)
    program.read_until("ready")
    assert program.ends(within=9) == 0


@pytest.mark.slow
def test_f49_ctrl_c_during_the_exit_s_drain_ends_it_without_a_traceback(launch: Any) -> None:
    program = launch(
        """
        if __name__ == "__main__":
            runner = aj.SyncRunner(processes=2, exit_drain=30.0)
            busy(runner)
            sys.exit(3)
    """,
        terminal=True,
    )
    program.read_until("was never closed")
    program.interrupt()
    assert program.ends(within=6) == 3
    assert "Traceback" not in program.output, program.output


# --- F50: garbage -----------------------------------------------------------------------


@each_lane
def test_f50_jobs_of_a_runner_that_is_garbage_fail_with_runner_closed(lane: str) -> None:
    runner = SyncRunner(processes=1, threads=1, coroutines=1)
    made = [runner.options(lane=lane).submit(jobs.LISTEN[lane]) for _ in range(3)]
    thread = runner._portal._thread
    gone = weakref.ref(runner)
    with pytest.warns(ResourceWarning, match="was never closed; use `with`, or close"):
        del runner
    assert gone() is None
    for job in made:
        assert isinstance(job.exception(20), aj.RunnerClosed)
    thread.join(20)
    assert not thread.is_alive()
    ended_once(*made)


def test_f50_a_runner_that_is_collected_in_its_own_loop_s_thread_ends_in_order() -> None:
    class Holder:
        pass

    def collect(told: list[Any]) -> None:
        gc.collect()
        told.append(threading.current_thread().name)

    async def collects(told: list[Any]) -> None:
        collect(told)

    told: list[Any] = []
    gc.disable()
    try:
        holder: Any = Holder()
        holder.itself, holder.runner = holder, SyncRunner()
        thread = holder.runner._portal._thread
        job = holder.runner.submit(jobs.alisten)
        gate = Gate()
        holder.runner._portal.post(gate.pass_through)
        holder.runner.submit(collects, told)
        gate.wait_for_arrival()
        del holder
        gate.open()
        with pytest.warns(ResourceWarning, match="was never closed"):
            thread.join(20)
    finally:
        gc.enable()
    assert told == ["asyncjobs-loop"]
    assert isinstance(job.exception(20), aj.RunnerClosed)
    assert not thread.is_alive()


def test_a_map_or_a_submitter_keeps_its_runner_alive() -> None:
    submitter = SyncRunner(threads=1).options(name="kept")
    gc.collect()
    assert submitter.run(jobs.echo, 1) == 1
    values = submitter.map(jobs.echo, range(3))
    runner: Any = submitter._keeper
    del submitter
    gc.collect()
    assert list(values) == [0, 1, 2]
    runner.close()


# --- F51: fork --------------------------------------------------------------------------


def unharmed_but_for_multiprocessing(output: str) -> None:
    """No traceback, except that multiprocessing's own exit hook tries to join its parent's processes."""
    assert output.count("Traceback") == output.count("AssertionError: can only join a child process"), output


@pytest.mark.slow
def test_f51_a_forked_child_s_handles_are_inert_and_say_so(launch: Any) -> None:
    program = launch("""
        warnings.simplefilter("ignore", DeprecationWarning)

        def in_child(runner, made, handle, values, events):
            verbs = {
                "submit": lambda: runner.submit(len, "x"), "submit_nowait": lambda: runner.submit_nowait(len, "x"),
                "key": lambda: runner.options(key="k").submit(len, "x"), "run": lambda: runner.run(len, "x"),
                "map": lambda: list(runner.map(len, ["x"])), "collect": lambda: runner.map(len, ["x"]).collect(),
                "cancel_all": runner.cancel_all, "join": runner.join, "stats": runner.stats, "jobs": runner.jobs,
                "share": lambda: runner.share([1]), "pause": runner.lane("thread").pause,
                "as_completed": lambda: list(runner.as_completed(made)), "events": runner.events,
                "result": made[0].result, "await": lambda: asyncio.run(made[0].wait()), "next": lambda: next(events),
            }
            for name, verb in verbs.items():
                try:
                    verb()
                    say("allowed", name)
                except aj.WrongLoop:
                    say("refused", name)
            for job in made:
                job.cancel()
            say("close", runner.close())
            with values:
                pass
            with runner:
                pass
            del runner, made, handle, values
            gc.collect()
            say("own", aj.background(len, "abc").result(20))
            say("done")

        if __name__ == "__main__":
            aj.background(len, "x").result()
            go = aj.CancelToken()
            with aj.SyncRunner(processes=1) as runner:
                made = [runner.options(lane="process").submit(hold, go), runner.submit(hold, go)]
                behind = runner.options(lane="process").submit(len, "behind")
                started(runner, *made)
                values = runner.map(len, ["a", "bc", "def"], lookahead=1)
                next(values)
                handle = runner.share(list(range(100)))
                events = runner.events()
                child = os.fork()
                if child == 0:
                    in_child(runner, made, handle, values, events)
                    sys.exit(5)
                say("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                assert list(values) == [2, 3]
                go.cancel()
                say("values", *[job.result(20) for job in made], behind.result(20))
                say("next", runner.options(lane="process").run(len, handle), aj.background(len, "next").result(20))
            say("end")
    """)
    program.read_until("\nend\n", within=40)
    assert program.ends() == 0
    assert "allowed" not in program.output, program.output
    assert program.output.count("refused") == 17, program.output
    assert "close []\nown 3\ndone\n" in program.output, program.output
    assert "code 5\n" in program.output, program.output
    assert "values untouched untouched 6\nnext 100 4\n" in program.output, program.output
    unharmed_but_for_multiprocessing(program.output)
    assert "Warning" not in program.output, program.output


@pytest.mark.slow
def test_f51_a_fork_within_the_block_leaves_it_in_the_child_without_harm(launch: Any) -> None:
    program = launch("""
        warnings.simplefilter("ignore", DeprecationWarning)
        here = os.getpid()
        with aj.SyncRunner(processes=1) as runner:
            job = runner.options(lane="process").submit(sleeper, 0.5)
            started(runner, job)
            with runner.map(sleeper, [0.1] * 4) as values:
                child = os.fork()
                if child:
                    say(*list(values))
            if child:
                say("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                say(job.result(20))
        say("end" if here == os.getpid() else "child")
    """)
    program.read_until("\nend\n", within=30)
    assert program.ends() == 0
    assert "slept slept slept slept\n" in program.output
    assert "code 0\nslept\nend\n" in program.output, program.output
    unharmed_but_for_multiprocessing(program.output)


@pytest.mark.slow
def test_f51_a_forked_child_starts_workers_of_its_own(launch: Any) -> None:
    program = launch("""
        warnings.simplefilter("ignore", DeprecationWarning)

        if __name__ == "__main__":
            with aj.SyncRunner(processes=1) as runner:
                processes = runner.options(lane="process")
                own = processes.run(os.getpid)
                child = os.fork()
                if not child:
                    with aj.SyncRunner(processes=1) as second:
                        say("child", second.options(lane="process").run(os.getpid) != own)
                    sys.exit(3)
                say("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                say("parent", processes.run(os.getpid) == own)
    """)
    assert program.ends(within=20) == 0
    assert program.output.split("\n")[:3] == ["child True", "code 3", "parent True"], program.output
    assert "Traceback" not in program.output, program.output


@pytest.mark.slow
def test_f51_multiprocessing_with_fork_beside_an_open_runner_works(launch: Any) -> None:
    program = launch("""
        warnings.simplefilter("ignore", DeprecationWarning)

        def child(queue):
            gc.collect()
            queue.put(aj.background(len, "abc").result(20))

        if __name__ == "__main__":
            with aj.SyncRunner(processes=1) as runner:
                aj.background(len, "x").result()
                say(runner.options(lane="process").run(len, "abc"))
                context = multiprocessing.get_context("fork")
                queue = context.SimpleQueue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                say("child", queue.get())
                process.join()
                say("code", process.exitcode)
                say("next", runner.options(lane="process").run(len, "next"))
            say("end")
    """)
    program.read_until("end\n")
    assert program.ends() == 0
    assert "child 3\ncode 0\nnext 4\n" in program.output, program.output


# --- F57: submits and the close ---------------------------------------------------------


@each_lane
@pytest.mark.parametrize("drain", [None, 0])
def test_f57_a_storm_of_submits_during_the_close_leaves_none_in_limbo(lane: str, drain: float | None) -> None:
    runner = SyncRunner(processes=1, queue_size=20)
    on_lane = runner.options(lane=lane)
    on_lane.run(ECHO[lane])
    accepted: list[aj.Job[Any]] = []
    refused: list[BaseException] = []
    storming = Gate()

    def storm() -> None:
        for n in range(100_000):
            try:
                accepted.append(on_lane.submit(ECHO[lane], n))
            except aj.RunnerClosed as error:
                refused.append(error)
                return
            if len(accepted) > 100:
                storming.open()

    threads = [threading.Thread(target=storm) for _ in range(4)]
    for thread in threads:
        thread.start()
    storming.pass_through()
    runner.close(drain=drain, grace=0.1)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(refused) == 4
    for job in accepted:
        job.exception(20)
    ended_once(*accepted)
    if drain is None:
        assert {job.state for job in accepted} == {JobState.SUCCEEDED}


def test_f57_two_threads_and_a_third_close_at_once() -> None:
    for _ in range(30):
        runner = SyncRunner(threads=2)
        job = runner.submit(jobs.echo, 1)
        gate = Gate()

        def close(runner: SyncRunner = runner, gate: Gate = gate) -> None:
            gate.pass_through()
            assert runner.close() == []

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        gate.wait_for_arrival(3)
        gate.open()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert not runner._portal._thread.is_alive()
        assert job.result() == 1


@each_lane
def test_f57_submits_that_wait_for_room_when_the_runner_closes_are_refused(
    lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    runner = SyncRunner(processes=1, threads=1, coroutines=1, queue_size=1, lanes={"other": aj.ThreadLane(2)})
    go = CancelToken()
    job = runner.options(lane=lane).submit(jobs.HOLD[lane], go, "ran")
    queued = runner.options(lane=lane).submit(ECHO[lane], "queued")
    outcomes: list[Any] = []

    def wait_for_room() -> None:
        try:
            outcomes.append(runner.options(lane=lane).submit(ECHO[lane]))
        except aj.RunnerClosed as error:
            outcomes.append(error)

    threads = [threading.Thread(target=wait_for_room) for _ in range(3)]
    for thread in threads:
        thread.start()
    closing = threading.Thread(target=runner.close)
    while runner._portal.do(lambda: len(runner._runner._engine.dispatchers[lane].queue._putters)) < 3:
        pass
    closing.start()
    for thread in threads:
        thread.join(20)
    assert [type(one) for one in outcomes] == [aj.RunnerClosed] * 3
    go.cancel()
    closing.join(20)
    assert (job.result(), queued.result()) == ("ran", "queued")
    assert caplog.text == ""


def test_f57_a_source_that_outlives_the_runner_hears_that_it_was_closed() -> None:
    runner = SyncRunner()
    gate, done = Gate(), Gate()

    def source() -> Iterator[int]:
        yield 1
        gate.pass_through()
        yield 2

    def consume() -> None:
        with pytest.raises(aj.RunnerClosed):
            list(runner.map(jobs.echo, source()))
        done.open()

    thread = threading.Thread(target=consume)
    thread.start()
    gate.wait_for_arrival()
    runner.close(drain=0)
    gate.open()
    thread.join(20)
    assert done.is_open


def test_the_test_s_own_programs_are_of_this_package(launch: Any) -> None:
    program = launch("say(os.path.dirname(aj.__file__)); say('end')")
    program.read_until("end\n")
    assert program.ends() == 0
    assert program.output.splitlines()[0] == os.path.dirname(aj.__file__)
