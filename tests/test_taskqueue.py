"""`TaskQueue`, against each fault of the little thread queue that people start with.

That is: daemon threads over a `queue.Queue`, ``while True: fn, args = queue.get(); fn(*args)``.
"""

from __future__ import annotations

import gc
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import runner_jobs as jobs
import test_faults_lifecycle

import asyncjobs as aj
from asyncjobs.testing import Gate

launch = test_faults_lifecycle.launch

SOON = 60.0
"""Seconds after which something that should come at once has failed."""


def append(path: str, text: object) -> None:
    jobs.write_line(path, str(text))


def raise_this(error: BaseException) -> None:
    raise error


# --- it runs every task ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_runs_once_and_join_waits_for_all(workers: int) -> None:
    seen: list[int] = []
    with aj.TaskQueue(workers) as tasks:
        for number in range(500):
            tasks.add_task(seen.append, number)
        tasks.join()
        assert sorted(seen) == list(range(500))
        tasks.join()


def test_one_worker_keeps_the_order() -> None:
    seen: list[int] = []
    with aj.TaskQueue() as tasks:
        for number in range(500):
            tasks.add_task(seen.append, number)
    assert seen == list(range(500))


def test_as_many_tasks_run_at_once_as_there_are_workers() -> None:
    with Gate() as gate, aj.TaskQueue(3) as tasks:
        for _ in range(3):
            tasks.add_task(gate_through, pass_on(gate))
        gate.wait_for_arrival(3)
        gate.open()


class pass_on:  # noqa: N801 - reads as a function
    """Something that a snapshot leaves as it is."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __deepcopy__(self, _: object) -> pass_on:
        return self


def gate_through(passed: pass_on) -> None:
    passed.thing.pass_through()


@pytest.mark.slow
def test_adding_never_waits() -> None:
    with Gate() as gate, aj.TaskQueue() as tasks:
        tasks.add_task(gate.pass_through)
        made = [tasks.add_task(jobs.square, number) for number in range(5000)]
        assert not any(job.done() for job in made)
        gate.open()
        tasks.join()
        assert made[-1].result(0) == 4999**2


def test_tasks_may_be_added_from_many_threads() -> None:
    seen: list[int] = []
    with aj.TaskQueue(2) as tasks:
        adders = [
            threading.Thread(target=lambda: [tasks.add_task(seen.append, number) for number in range(100)])
            for _ in range(5)
        ]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
        tasks.join()
        assert len(seen) == 500


def test_a_task_may_add_more() -> None:
    seen: list[str] = []
    tasks = aj.TaskQueue()
    tasks.add_task(lambda: tasks.add_task(lambda: tasks.add_task(seen.append, "third")).result and None)
    while not seen:
        tasks.join()
    tasks.close()
    assert seen == ["third"]


# --- an exception ends its own task only -------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_a_task_that_raises_ends_no_worker_and_is_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    with aj.TaskQueue() as tasks:
        for number in range(3):
            tasks.add_task(raise_this, error)
            tasks.add_task(seen.append, number)
        tasks.join()
        gc.collect()
        assert seen == [0, 1, 2]
        assert caplog.text.count("job 'raise_this' failed and nobody looked at it") == 3


class Told(Exception):
    """A user's error that has the attribute by which one of ours says what a log may have."""

    logged = "something else"


def test_what_is_logged_of_a_users_error_is_that_error(caplog: pytest.LogCaptureFixture) -> None:
    with aj.TaskQueue() as tasks:
        tasks.add_task(raise_this, Told("boom"))
        tasks.join()
        gc.collect()
    assert "job 'raise_this' failed and nobody looked at it: Told('boom')" in caplog.text


@pytest.mark.slow
def test_the_job_tells_what_became_of_a_task() -> None:
    with aj.TaskQueue() as tasks:
        good, bad = tasks.add_task(jobs.square, 3), tasks.add_task(jobs.fail)
        assert good.result(SOON) == 9
        with pytest.raises(ValueError, match="on purpose"):
            bad.result(SOON)


# --- arguments are those of the call -----------------------------------------------------


def test_loop_variables_are_those_of_the_call() -> None:
    with Gate() as gate, aj.TaskQueue() as tasks:
        tasks.add_task(gate.pass_through)
        made = []
        for number in range(3):
            made.append(tasks.add_task(jobs.echo, number))
        gate.open()
        assert [job.result(SOON) for job in made] == [0, 1, 2]


def test_arguments_that_change_after_the_call_do_not_change_for_the_task() -> None:
    with Gate() as gate, aj.TaskQueue() as tasks:
        tasks.add_task(gate.pass_through)
        batch, named = [1, 2, [3]], {"key": [4]}
        job = tasks.add_task(lambda batch, named: (batch, named), batch, named=named)
        batch[2].append("later")  # type: ignore[attr-defined]
        batch.clear()
        named["key"].append(5)
        gate.open()
        assert job.result(SOON) == ([1, 2, [3]], {"key": [4]})


def test_what_cannot_be_copied_is_refused_at_the_call() -> None:
    with aj.TaskQueue() as tasks, pytest.raises(TypeError, match="cannot be copied"):
        tasks.add_task(jobs.echo, threading.Lock())


# --- bad input, and the end --------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", None, True])
def test_bad_numbers_of_workers_are_refused(workers: Any) -> None:
    with pytest.raises(ValueError, match="num_workers="):
        aj.TaskQueue(workers)


def test_what_is_no_plain_function_is_refused_at_the_call() -> None:
    with aj.TaskQueue() as tasks:
        with pytest.raises(TypeError, match="not callable"):
            tasks.add_task(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="coroutine function"):
            tasks.add_task(jobs.aecho)


@pytest.mark.slow
def test_a_closed_queue_takes_nothing_and_closes_again() -> None:
    tasks = aj.TaskQueue()
    job = tasks.add_task(jobs.square, 3)
    tasks.close()
    assert job.result(0) == 9
    tasks.close()
    tasks.join()
    with pytest.raises(aj.RunnerClosed):
        tasks.add_task(jobs.square, 3)


@pytest.mark.slow
def test_a_task_that_waits_for_its_own_end_is_told_so() -> None:
    with aj.TaskQueue() as tasks:
        for wait in (tasks.join, tasks.close):
            with pytest.raises(aj.WouldDeadlock):
                tasks.add_task(wait).result(SOON)
        assert tasks.add_task(jobs.square, 3).result(SOON) == 9


def test_a_queue_that_is_dropped_finishes_its_tasks() -> None:
    seen: list[int] = []
    with Gate() as gate:
        tasks = aj.TaskQueue()
        tasks.add_task(gate.pass_through)
        last = [tasks.add_task(seen.append, number) for number in range(10)][-1]
        del tasks
        gc.collect()
        gate.open()
        last.result(SOON)
    assert seen == list(range(10))


def test_an_error_in_the_block_loses_no_task() -> None:
    seen: list[int] = []

    def fill_and_fail() -> None:
        with aj.TaskQueue() as tasks:
            for number in range(100):
                tasks.add_task(seen.append, number)
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        fill_and_fail()
    assert seen == list(range(100))


# --- real programs -----------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_lost_at_the_end_of_the_program(launch: Any, tmp_path: Path) -> None:
    program = launch(f"""
        def work(number):
            with open({str(tmp_path / "done")!r}, "a") as file:
                file.write(f"{{number}}\\n")

        tasks = aj.TaskQueue(2)
        for number in range(200):
            tasks.add_task(work, number)
    """)
    assert program.ends(SOON) == 0
    assert program.output == ""
    assert sorted(map(int, jobs.lines(tmp_path / "done"))) == list(range(200))


@pytest.mark.slow
@pytest.mark.parametrize(("last", "code"), [("sys.exit(3)", 3), ("raise ValueError('the script')", 1)])
def test_nothing_is_lost_when_the_program_fails_and_its_exit_code_stands(
    launch: Any, tmp_path: Path, last: str, code: int
) -> None:
    program = launch(f"""
        tasks = aj.TaskQueue()
        for _ in range(50):
            tasks.add_task(open, {str(tmp_path / "done")!r}, "a")
        tasks.add_task(os.mkdir, {str(tmp_path / "last")!r})
        {last}
    """)
    assert program.ends(SOON) == code
    assert (tmp_path / "last").is_dir()


@pytest.mark.slow
def test_a_task_that_fails_does_not_change_the_exit_code_and_is_told_of(launch: Any) -> None:
    program = launch("""
        tasks = aj.TaskQueue()
        tasks.add_task(sys.exit, 5)
        tasks.add_task(int, "no number")
        tasks.add_task(say, "the last")
    """)
    assert program.ends(SOON) == 0
    assert "the last" in program.output
    assert "job 'int' failed and nobody looked at it" in program.output
    assert "no number" in program.output
    assert "Traceback" not in program.output


@pytest.mark.slow
def test_f48_ctrl_c_ends_a_program_that_waits(launch: Any) -> None:
    program = launch(
        """
        def work():
            time.sleep(0.3)  # by now the main thread waits
            say("waits")
            listener()

        with aj.TaskQueue() as tasks:
            tasks.add_task(work)
            tasks.add_task(say, "never")
            tasks.join()
    """,
        terminal=True,
    )
    program.read_until("waits")
    program.interrupt()
    assert program.ends(SOON) in (130, -signal.SIGINT)
    assert "never" not in program.output
    assert program.output.count("Traceback") == 1, program.output


@pytest.mark.slow
def test_a_forked_child_is_inert(launch: Any) -> None:
    program = launch("""
        tasks = aj.TaskQueue()
        tasks.add_task(int).result(20)
        __import__("warnings").simplefilter("ignore")  # newer interpreters warn of a fork beside threads
        pid = os.fork()
        if pid == 0:
            for what in (lambda: tasks.add_task(say, "never"), tasks.join):
                try:
                    what()
                except (aj.WrongLoop, aj.RunnerClosed):
                    say("refused")
            tasks.close()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        say("child", status, "parent", tasks.add_task(int, "3").result(20))
    """)
    assert program.ends(SOON) == 0
    assert program.output == "refused\nrefused\nchild 0 parent 3\n"
