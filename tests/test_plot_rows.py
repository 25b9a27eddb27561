"""Sinks that get every point once: whatever fails, and whoever is killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Program, launching

import asyncjobs as aj
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.reading import PIECE
from asyncjobs.plotting.resume import resume
from asyncjobs.plotting.rows import FromSpool, Rows, RowSink
from asyncjobs.plotting.spool import About, Spool, create, home

PATIENCE = 60.0
COUNT = 2 * PIECE + 100


class Kept:
    """Keeps the steps that it gets, unless it is told to fail."""

    target = "kept:"

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.failures: list[Exception] = []

    def add(self, rows: Rows) -> None:
        assert [len(column) for column in rows.columns] == [len(rows.steps)] * len(rows.names)
        if self.steps and self.failures:
            raise self.failures.pop()
        self.steps += rows.steps

    def close(self) -> None: ...


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = create(tmp_path, About("plot", "title", ["kept:"], False, 100, 0.0))
    yield opened
    opened.close()


def edition(rows: int) -> Edition:
    """The news that there are so many."""
    return Edition("plot", "title", 1, (rows, 0, 0), {})


def test_a_sink_that_fails_in_the_midst_gets_the_rest_and_nothing_twice(spool: Spool) -> None:
    journal, kept = Journal(spool.folder), Kept()
    for step in range(COUNT):
        journal.add(("loss",), step, (1.0,))
    assert isinstance(kept, RowSink)
    kept.failures = [ConnectionError("gone")]
    sink = FromSpool(kept, spool, 0)
    with pytest.raises(ConnectionError):
        sink.send(edition(COUNT))
    assert 0 < len(kept.steps) < COUNT
    sink.send(edition(COUNT))
    assert kept.steps == list(range(COUNT))
    sink.close()
    # In a later process.
    journal.add(("loss",), COUNT, (1.0,))
    later = FromSpool(kept, spool, 0, is_settled=True)
    later.send(edition(COUNT + 1))
    assert kept.steps == list(range(COUNT + 1))
    later.close()
    journal.close()


def test_a_sink_gets_no_more_numbers_at_a_time_than_it_takes(spool: Spool) -> None:
    class Small(Kept):
        most_values = 300

        def add(self, rows: Rows) -> None:
            super().add(rows)
            sizes.append(len(rows.steps))

    journal, small, sizes = Journal(spool.folder), Small(), list[int]()
    for step in range(PIECE + 10):
        journal.add(("loss", "rate"), step, (1.0, 2.0))
    small.failures = [ConnectionError("gone")]
    sink = FromSpool(small, spool, 0)
    with pytest.raises(ConnectionError):
        sink.send(edition(PIECE + 10))
    assert small.steps == list(range(150))
    sink.send(edition(PIECE + 10))
    assert small.steps == list(range(PIECE + 10))
    assert max(sizes) == 150
    journal.add(tuple(f"n{number}" for number in range(301)), 0, (1.0,) * 301)
    sink.send(edition(PIECE + 11))
    assert sizes[-1] == 1
    sink.close()
    journal.close()


def test_rows_of_changing_names_come_in_their_order_and_with_their_own_names(spool: Spool) -> None:
    class Records(Kept):
        most_values = 100

        def __init__(self) -> None:
            super().__init__()
            self.records: list[tuple[float, dict[str, float]]] = []

        def add(self, rows: Rows) -> None:
            super().add(rows)
            found = [*rows.records()]
            assert sum(len(values) for _, values in found) <= self.most_values
            self.records += found

    journal, records = Journal(spool.folder), Records()
    expected: list[tuple[float, dict[str, float]]] = []
    for step in range(1000):
        values = {"train": 1.0 * step} if step % 5 else {"train": 1.0 * step, "val": -1.0 * step}
        journal.add((*values,), step, (*values.values(),))
        expected.append((step, values))
    sink = FromSpool(records, spool, 0)
    sink.send(edition(1000))
    assert records.records == expected
    sink.close()
    journal.close()


def test_a_row_that_nobody_writes_keeps_none_back(spool: Spool) -> None:
    journal, kept = Journal(spool.folder), Kept()
    journal.add(("loss",), 0.0, (1.0,))
    next(journal.segments["loss",].rows)  # whoever drew this place was killed
    journal.add(("loss",), 2.0, (1.0,))
    sink = FromSpool(kept, spool, 0)
    sink.send(edition(2))
    assert kept.steps == [0.0, 2.0]
    sink.close()
    journal.close()


def test_rows_that_are_on_no_disk_are_said_to_be_missing(spool: Spool) -> None:
    sink = FromSpool(Kept(), spool, 0)
    with pytest.raises(OSError, match="3 rows are not in"):
        sink.send(edition(3))
    sink.close()


def test_a_plot_closes_while_a_sink_still_takes_rows(spool: Spool) -> None:
    class Stuck(Kept):
        def add(self, rows: Rows) -> None:
            is_in.set()
            assert may_go.wait(PATIENCE)
            super().add(rows)

    is_in, may_go, problems = threading.Event(), threading.Event(), list[BaseException]()
    journal = Journal(spool.folder)
    for step in range(COUNT):
        journal.add(("loss",), step, (1.0,))
    stuck = Stuck()
    sink = FromSpool(stuck, spool, 0)

    def send() -> None:
        try:
            sink.send(edition(COUNT))
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    assert is_in.wait(PATIENCE)
    sink.close()
    assert stuck.steps == []
    may_go.set()
    thread.join(PATIENCE)
    assert [type(problem) for problem in problems] == [aj.RunnerClosed]
    assert spool.taken(0).rows == len(stuck.steps) < COUNT
    journal.close()


# --- TensorBoard ----------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each point of each tag, as TensorBoard itself reads the folder."""
    pytest.importorskip("tensorboard", reason="tensorboard reads what it is to show")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.fixture
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("_home")
def test_tensorboard_shows_every_point_once(tmp_path: Path) -> None:
    with aj.plot("tensorboard:runs/7") as plot:
        assert plot.targets == (f"tensorboard:{tmp_path}/runs/7",)
        for step in range(COUNT):
            plot.log(step, loss=step / 4.0, rate=0.5)
            if step == PIECE:
                assert plot.flush(PATIENCE)
        plot.log(float("nan"), loss=0.0)
        plot.log(7, other=float("inf"))
        assert plot.flush(PATIENCE)
    assert scalars(tmp_path / "runs" / "7") == {
        "loss": [(step, step / 4.0) for step in range(COUNT)],
        "rate": [(step, 0.5) for step in range(COUNT)],
        "other": [(7, float("inf"))],
    }


SCRIPT = """
import time
import asyncjobs as aj

plot = aj.plot("tensorboard:runs", every=0.5)
for step in range(10):
    plot.log(step, loss=step / 4.0)
assert plot.flush(60)
for step in range(10, 20):
    plot.log(step, loss=step / 4.0)
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_home")
def test_a_later_start_brings_what_a_killed_program_had_not_and_nothing_twice(tmp_path: Path) -> None:
    with launching(tmp_path, "") as launch:
        program: Program = launch(SCRIPT)
        program.read_until("ready", PATIENCE)
        program.process.kill()
        program.ends(PATIENCE)
    assert [outcome.error for outcome in resume(home())] == [None]
    found = scalars(tmp_path / "runs")["loss"]
    assert sorted(found) == [(step, step / 4.0) for step in range(20)]
    assert not any(home().glob("*"))


def test_tensorboard_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="must name a folder, as in 'tensorboard:runs/7'"):
        aj.plot("tensorboard:")


def test_without_tensorboard_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'asyncjobs-runner\[tensorboard\]'"):
        aj.plot(f"tensorboard:{tmp_path}")
