"""In a real Jupyter kernel: which cell gets what, what goes on while no cell runs, and what a kernel's end leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar
from io import StringIO
from pathlib import Path

import pytest

pytest.importorskip("ipykernel", reason="there is no kernel to test in")

import nbformat
from kernels import ROOT, Kernel, all_gone, new_kernel

import asyncjobs as aj
from asyncjobs.echo import Echo
from asyncjobs.notebook import Notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leak("a kernel, whose own end is looked at, serves many tests"),
]

SETUP = r"""
import asyncio, contextvars, logging.handlers, os, queue, sys, threading, time
import asyncjobs as aj

runner = aj.SyncRunner(processes=2)
kernels = runner.options(lane="process")

class Door:
    # A FIFO: each byte lets one through, in whichever process it waits.
    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self.held = os.open(path, os.O_RDWR)
    def wait(self):
        end = os.open(self.path, os.O_RDWR)
        os.read(end, 1)
        os.close(end)
    def open(self, count=1):
        os.write(self.held, b"." * count)

def say(text, door=None):
    if door is not None:
        door.wait()
    print(f"{text}\n", end="")  # in one piece: threads print at the same time
    print(f"{text} to stderr\n", end="", file=sys.stderr)

async def asay(text, door=None):
    if door is not None:
        await asyncio.to_thread(door.wait)
    print(f"{text}\n", end="")  # in one piece: threads print at the same time
    print(f"{text} to stderr\n", end="", file=sys.stderr)

said = {"thread": (runner, say), "loop": (runner, asay), "process": (kernels, say)}
"""

GONE_WITHIN = 2.0
"""Seconds after the end of a kernel in which its workers have to be gone."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Kernel]:
    """One kernel for all tests that leave it as they found it."""
    with new_kernel(SETUP) as kernel:
        yield kernel
        kernel.run("runner.close()")


@pytest.fixture
def kernel(shared: Kernel, tmp_path: Path) -> Kernel:
    """The same, with a door that nobody has been through."""
    shared.run(f"door = Door({str(tmp_path / 'door')!r})")
    return shared


# --- output -----------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["thread", "loop", "process"])
def test_a_job_prints_in_the_cell_that_submitted_it(kernel: Kernel, lane: str) -> None:
    first = kernel.run(f"submitter, fn = said['{lane}']; one = submitter.submit(fn, 'one', door)")
    second = kernel.run("two = submitter.submit(fn, 'two', door)")
    third = kernel.run("door.open(2); one.result(), two.result()\nprint('three')")
    for cell, text in ((first, "one"), (second, "two")):
        kernel.wait_until(lambda cell=cell: bool(kernel.text(cell) and kernel.text(cell, "stderr")))  # type: ignore[misc]
        assert kernel.text(cell) == f"{text}\n"
        assert kernel.text(cell, "stderr") == f"{text} to stderr\n"
    assert (kernel.text(third), kernel.text(third, "stderr")) == ("three\n", "")


@pytest.mark.parametrize("lane", ["thread", "loop", "process"])
def test_what_a_job_printed_is_there_when_the_cell_ends_that_waited_for_it(kernel: Kernel, lane: str) -> None:
    cell = kernel.run(f"submitter, fn = said['{lane}']; submitter.run(fn, 'at once')")
    assert kernel.text(cell) == "at once\n"
    assert kernel.text(cell, "stderr") == "at once to stderr\n"


def test_jobs_of_two_cells_that_wait_for_one_worker_do_not_mix(kernel: Kernel) -> None:
    kernel.run("narrow = aj.SyncRunner(processes=1); small = narrow.options(lane='process')")
    kernel.run("[small.run(say, n) for n in range(30)]; narrow.lane('process').pause()")  # known to be short
    first = kernel.run("jobs = [small.submit(say, f'first {n}') for n in range(100)]")
    second = kernel.run("jobs += [small.submit(say, f'second {n}') for n in range(100)]")
    third = kernel.run("narrow.lane('process').resume(); narrow.close()")
    assert kernel.lines(first) == sorted(f"first {n}" for n in range(100))
    assert kernel.lines(second) == sorted(f"second {n}" for n in range(100))
    assert (kernel.text(third), kernel.text(third, "stderr")) == ("", "")


@pytest.mark.parametrize("lane", ["thread", "loop", "process"])
def test_items_of_a_map_print_in_the_cell_that_asked_for_them(kernel: Kernel, lane: str) -> None:
    cell = kernel.run(f"submitter, fn = said['{lane}']; done = submitter.map(fn, range(50)).collect()")
    assert kernel.lines(cell) == sorted(map(str, range(50)))


def test_what_a_worker_printed_last_before_it_died_is_in_the_cell(kernel: Kernel) -> None:
    kernel.run("def die(): print('last words', flush=True); os._exit(3)")
    cell = kernel.end(kernel.begin("kernels.run(die)"))
    assert (kernel.error(cell), kernel.text(cell)) == ("WorkerLost", "last words\n")


def test_text_that_belongs_to_no_call_is_logged_and_shown_in_no_cell(kernel: Kernel) -> None:
    cell = kernel.run("""
records = queue.SimpleQueue()
handler = logging.handlers.QueueHandler(records)
shown = logging.StreamHandler(sys.stderr)
log = logging.getLogger("asyncjobs")
log.addHandler(handler); log.addHandler(shown); log.setLevel(logging.INFO)
lane = aj.ProcessLane(1, initializer=lambda: print("a worker starts", flush=True))
with aj.SyncRunner(lanes={"process": lane}) as other:
    other.options(lane="process").run(say, "a job")
record = records.get()
print(record.levelname, record.getMessage())
""")
    assert kernel.text(cell) == "a job\nINFO a worker starts\n"
    # The log may well go to the kernel's stderr: it belongs to no cell there either.
    kernel.wait_until(lambda: "a worker starts" in kernel.text("", "stderr"))
    assert kernel.text(cell, "stderr") == "a job to stderr\n"
    kernel.run("log.removeHandler(handler); log.removeHandler(shown); log.setLevel(logging.NOTSET)")


def test_jobs_that_a_thread_of_no_cell_submits_are_logged(kernel: Kernel) -> None:
    cell = kernel.run("""
records = queue.SimpleQueue()
handler = logging.handlers.QueueHandler(records)
log = logging.getLogger("asyncjobs")
log.addHandler(handler); log.setLevel(logging.INFO)
thread = threading.Thread(target=kernels.run, args=[say, "whose?"])
thread.start(); thread.join()
found = sorted(records.get().getMessage() for _ in range(2))
log.removeHandler(handler); log.setLevel(logging.NOTSET)
found
""")
    assert kernel.value(cell) == "['whose?', 'whose? to stderr']"
    assert (kernel.text(cell), kernel.text(cell, "stderr")) == ("", "")


def test_output_of_a_cell_that_is_captured_is_captured_even_when_it_comes_later(kernel: Kernel) -> None:
    first = kernel.run("%%capture caught\njob = kernels.submit(say, 'quietly', door)")
    second = kernel.run("door.open(); job.result()")
    third = kernel.run("[runner.run(say, 'x')]\nwhile not caught.stderr: time.sleep(0)\ncaught.stdout, caught.stderr")
    assert kernel.value(third) == r"('quietly\n', 'quietly to stderr\n')"
    assert kernel.text(first) + kernel.text(second) == ""


@pytest.mark.parametrize("lane", ["thread", "process"])
def test_a_done_callback_prints_in_the_cell_that_added_it(kernel: Kernel, lane: str) -> None:
    kernel.run(f"submitter, fn = said['{lane}']; job = submitter.submit(fn, 'job', door)")
    added = kernel.run("job.add_done_callback(lambda job: print('told', job.state.name))")
    kernel.run("door.open(); job.result()")
    kernel.wait_until(lambda: bool(kernel.text(added)))
    assert kernel.text(added) == "told SUCCEEDED\n"


def test_what_a_job_prints_as_a_flood_does_not_hold_up_the_kernel(kernel: Kernel) -> None:
    cell = kernel.run("print(kernels.run(lambda: print('y' * 20_000_000)))")
    assert kernel.text(cell).startswith("yyy")
    assert "None" in kernel.text(cell)


# --- progress bars ----------------------------------------------------------------------


def test_a_progress_bar_stays_in_the_cell_where_it_appeared(kernel: Kernel) -> None:
    first = kernel.run("items = iter(kernels.map(abs, range(300), progress=True)); next(items)")
    second = kernel.run("sum(items)")
    assert kernel.value(second) == str(sum(range(300)))
    assert [text.partition(":")[0] for text in kernel.shown(first)] == ["abs"]
    assert 300.0 in kernel.widget_values(first)
    assert (kernel.shown(second), kernel.widget_values(second)) == ([], [])


def test_a_progress_bar_of_a_map_that_is_awaited_is_in_its_cell(kernel: Kernel) -> None:
    cell = kernel.run("""
async with aj.Runner(processes=1) as other:
    print(await other.options(lane="process").map(abs, [-1, -2], progress=True).collect())
""")
    assert kernel.text(cell) == "[1, 2]\n"
    assert len(kernel.shown(cell)) == 1
    assert 2.0 in kernel.widget_values(cell)


@pytest.mark.slow
def test_a_progress_bar_of_text_stays_in_its_cell_too() -> None:
    without = "import sys, warnings; sys.modules['ipywidgets'] = None; warnings.simplefilter('ignore')"
    with new_kernel(without) as kernel:
        kernel.run("import asyncjobs as aj; runner = aj.SyncRunner(processes=1)")
        first = kernel.run("items = iter(runner.map(abs, range(40), progress=True)); next(items)")
        second = kernel.run("sum(items)")
        kernel.wait_until(lambda: "40/40" in kernel.text(first, "stderr"))
        assert kernel.text(second, "stderr") == ""
        kernel.run("runner.close()")


# --- cells and jobs ---------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["thread", "loop", "process"])
def test_a_job_is_awaited_at_the_top_level_of_a_cell(kernel: Kernel, lane: str) -> None:
    kernel.run("def double(x): return 2 * x\nasync def adouble(x): return 2 * x")
    code = f"job = runner.options(lane='{lane}').submit({'adouble' if lane == 'loop' else 'double'}, 21)\nawait job"
    assert kernel.value(kernel.run(code)) == "42"
    assert kernel.error(kernel.end(kernel.begin("await kernels.submit(divmod, 1, 0)"))) == "ZeroDivisionError"


def test_a_runner_lives_on_the_loop_of_the_kernel_over_several_cells(kernel: Kernel) -> None:
    kernel.run(
        "other = await aj.Runner(processes=1).__aenter__()\njob = await other.submit(asay, 'on your loop', door)"
    )
    cell = kernel.run("door.open(); await job\nawait other.options(lane='process').run(say, 'in a worker')")
    assert kernel.text(cell) == "in a worker\n"
    assert kernel.value(kernel.run("await other.aclose()")) == "[]"


def test_work_goes_on_while_a_cell_computes(kernel: Kernel) -> None:
    cell = kernel.run("""
jobs = [runner.submit(len, "abc"), runner.submit(asay, "x"), kernels.submit(len, "abc")]
while not all(job.done() for job in jobs):  # never gives the kernel's loop a turn
    pass
[job.result() for job in jobs]
""")
    assert kernel.value(cell) == "[3, None, 3]"


def test_work_goes_on_after_the_cell_has_ended(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"""
back = Door({str(tmp_path / "back")!r})
def step(door, back):
    door.wait()
    os.write(os.open(back.path, os.O_RDWR), b".")
chain = [submitter.submit(step, door, back) for submitter in (runner, kernels, kernels, kernels)]
""")
    there, back = (os.open(tmp_path / name, os.O_RDWR) for name in ("door", "back"))
    for _ in range(4):  # while no cell is executed
        os.write(there, b".")
        assert os.read(back, 1) == b"."
    os.close(there)
    os.close(back)
    assert kernel.value(kernel.run("[job.result() for job in chain]")) == "[None, None, None, None]"


def test_a_function_of_a_cell_that_is_defined_anew_is_used_as_it_is_now(kernel: Kernel) -> None:
    kernel.run("scale = 10\ndef scaled(x): return scale * x")
    assert kernel.value(kernel.run("kernels.run(scaled, 1), kernels.map(scaled, [1, 2]).collect()")) == "(10, [10, 20])"
    kernel.run("scale = 100")
    assert kernel.value(kernel.run("kernels.run(scaled, 1)")) == "100"
    kernel.run("def scaled(x): return -scale * x")
    cell = kernel.run("kernels.run(scaled, 1), kernels.map(scaled, [1, 2]).collect()")
    assert kernel.value(cell) == "(-100, [-100, -200])"


def test_a_class_of_a_cell_comes_back_as_that_class(kernel: Kernel) -> None:
    kernel.run("from dataclasses import dataclass\n@dataclass\nclass Fit:\n    loss: float")
    assert kernel.value(kernel.run("fit = kernels.run(Fit, 0.5)\nfit, type(fit) is Fit")) == "(Fit(loss=0.5), True)"


def test_background_needs_no_runner(kernel: Kernel) -> None:
    assert kernel.value(kernel.run("await aj.background(len, 'abcd')")) == "4"


# --- interrupts, restarts, ends ---------------------------------------------------------


@pytest.mark.parametrize("lane", ["thread", "process"])
def test_an_interrupted_wait_leaves_the_job_and_the_runner_as_they_were(kernel: Kernel, lane: str) -> None:
    kernel.run(f"""
submitter, fn = said['{lane}']
workers = runner._runner._lanes["process"]
kernels.run(len, "abc")
pids = workers.pids()
job = submitter.submit(fn, 'not interrupted', door)
""")
    waits = kernel.begin("print('waiting', flush=True) or job.result()")
    kernel.wait_until(lambda: kernel.text(waits) == "waiting\n")
    kernel.manager.interrupt_kernel()
    assert kernel.error(kernel.end(waits)) == "KeyboardInterrupt"
    after = kernel.run("door.open(); job.result(timeout=20); {*pids} <= {*workers.pids()}, kernels.run(len, 'abc')")
    assert kernel.value(after) == "(True, 3)"


def test_an_interrupted_run_cancels_its_job(kernel: Kernel) -> None:
    kernel.run("""
def tell():
    while not any(job._listeners for job in runner.jobs()):  # until somebody waits
        time.sleep(0)
    runner.submit(print, "somebody waits")
teller = threading.Thread(target=contextvars.copy_context().run, args=[tell])
""")
    waits = kernel.begin("teller.start(); kernels.run(say, 'never', door)")
    kernel.wait_until(lambda: "somebody waits" in "".join(map(kernel.text, kernel.cells)))
    kernel.manager.interrupt_kernel()
    assert kernel.error(kernel.end(waits)) == "KeyboardInterrupt"
    assert kernel.value(kernel.run("teller.join(); runner.join(); kernels.run(len, 'abc')")) == "3"


BUSY = """
# One that sleeps, one that computes, and two that wait in threads.
jobs = [kernels.submit(say, "never", door), kernels.submit(lambda: sum(iter(int, 1)))]
jobs += [runner.submit(say, "never", door), aj.background(say, "never", door)]
kernels_of_background = aj.background(len, "abc").result()
while not all(job.state.name == "RUNNING" for job in jobs): time.sleep(0)
"""


def _restart(kernel: Kernel) -> None:
    kernel.manager.restart_kernel()


def _shut_down(kernel: Kernel) -> None:
    kernel.manager.shutdown_kernel()


def _shut_down_while_a_cell_computes(kernel: Kernel) -> None:
    busy = kernel.begin("print('busy', flush=True)\nwhile True: pass")
    kernel.wait_until(lambda: kernel.text(busy) == "busy\n")
    kernel.manager.shutdown_kernel()


def _kill(kernel: Kernel) -> None:
    os.kill(kernel.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("end", [_restart, _shut_down, _shut_down_while_a_cell_computes, _kill])
def test_the_end_of_a_kernel_ends_its_workers(end: Callable[[Kernel], None], tmp_path: Path) -> None:
    with new_kernel(SETUP) as kernel:
        kernel.run(f"door = Door({str(tmp_path / 'door')!r})" + BUSY)
        family = kernel.family()
        workers = [pid for pid in family if os.getpgid(pid) == pid]
        assert len(workers) == 2
        with (
            all_gone([kernel.pid]) as kernel_gone,
            all_gone(workers) as workers_gone,
            all_gone(family) as family_gone,
            ThreadPoolExecutor(1) as beside,
        ):
            # Looked at beside it: the manager may wait longer for the kernel than its workers have.
            waiting = beside.submit(lambda: kernel_gone(30.0) and workers_gone(GONE_WITHIN))
            end(kernel)
            assert waiting.result()
            assert family_gone(GONE_WITHIN)


# --- the example ------------------------------------------------------------------------

EXAMPLE = ROOT / "examples" / "notebook.ipynb"


def test_the_example_is_valid_and_has_no_outputs() -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=50).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
def test_the_example_shows_what_it_promises(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}
    done = tmp_path / "done.ipynb"
    subprocess.run([sys.executable, "-c", EXECUTE, EXAMPLE, done], env=environment, timeout=50, check=True)
    notebook = nbformat.read(done, as_version=4)
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    printed = {name: "".join(each.get("text", "") for each in outputs[name]) for name in outputs}
    assert re.search(r"^trained: y = 2\.99 x \+ 0\.49$", printed["train"], re.MULTILINE)
    names = [f"step-{step}.json" for step in range(0, 401, 100)]
    assert printed["await"] == "".join(f"there is {name}\n" for name in names)
    assert re.search(r"^slope (2\.9|3\.0)\d ± 0\.0\d$", printed["map"], re.MULTILINE)
    assert [each["data"]["text/plain"][:6] for each in outputs["map"] if each.output_type == "display_data"] == [
        "slope:"
    ]
    assert printed["close"] == ""


# --- where the kernel cannot tell -------------------------------------------------------


class OldStream(StringIO):
    """As the streams of kernels before ipykernel 6.29: one cell for all."""

    parent_header: dict[str, str] = {}  # noqa: RUF012


class NewStream(StringIO):
    """As those since."""

    _parent_header: ContextVar[dict[str, str]] = ContextVar("parent_header")


def _echoed(stream: StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is in `stream` after a worker's text for the cell of here and now has been passed on."""
    monkeypatch.setattr("sys.stdout", stream)
    notebook = Notebook()
    echo = Echo(notebook)
    echo.write("stdout", "text\n", notebook.cell())
    echo.close()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "header", "shown"),
    [(OldStream, None, False), (NewStream, None, False), (NewStream, {}, False), (NewStream, {"msg_id": "1"}, True)],
)
def test_text_is_written_only_where_the_stream_finds_its_cell(
    stream: type[StringIO],
    header: dict[str, str] | None,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asyncjobs")

    def in_cell() -> str:
        if header is not None:
            NewStream._parent_header.set(header)
        return _echoed(stream(), monkeypatch)

    assert Context().run(in_cell) == ("text\n" if shown else "")
    assert caplog.messages == ([] if shown else ["text"])


async def test_outside_of_a_kernel_no_cell_is_looked_for(runner: aj.Runner) -> None:
    job = await runner.options(lane="process").submit(len, "abc")
    assert (runner._engine.notebook, job._call.cell) == (None, None)
    await job
