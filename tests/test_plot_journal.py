"""What is written is read, whole and once, by whoever opens the folder: the journal and its replay."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncjobs.bench import probes
from asyncjobs.plotting import layout
from asyncjobs.plotting.arrays import column
from asyncjobs.plotting.journal import Journal, Segment
from asyncjobs.plotting.reading import PATIENCE, PIECE, PointsFile, batches, open_file, paths
from asyncjobs.plotting.replay import Replay


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    opened = Replay(tmp_path, 2000)
    yield opened
    opened.close()


def columns(replay: Replay, name: str) -> tuple[list[float], list[float]]:
    xs, ys = replay.curves[name].points()
    return xs.tolist(), ys.tolist()


def test_rows_come_back_in_order_and_once(journal: Journal, replay: Replay) -> None:
    assert not replay.refresh()
    journal.add(("train", "val"), 0.0, (3.0, 4.0))
    journal.add(("train", "val"), 1.0, (1.0, 2.0))
    journal.add(("val",), 2.0, (0.5,))
    assert replay.refresh()
    assert columns(replay, "train") == ([0.0, 1.0], [3.0, 1.0])
    assert columns(replay, "val") == ([0.0, 1.0, 2.0], [4.0, 2.0, 0.5])
    assert not replay.refresh()
    assert replay.rows == 3


@pytest.mark.parametrize("count", [1, PIECE - 1, PIECE, PIECE + 1, 50_000])
@pytest.mark.parametrize("with_spares", [False, True])
def test_segments_follow_each_other_without_a_gap(
    journal: Journal, replay: Replay, count: int, with_spares: bool
) -> None:
    for step in range(count):
        journal.add(("y",), step, (2.0 * step,))
        if with_spares and step % 500 == 0:
            journal.make_spares()
    assert replay.refresh()
    assert replay.rows == count
    xs, ys = columns(replay, "y")
    assert (xs[-1], ys[-1]) == (count - 1, 2.0 * (count - 1))
    assert replay.curves["y"].count == count


@pytest.mark.slow
def test_files_that_are_made_ahead_are_read_in_the_order_in_which_they_are_filled(
    journal: Journal, tmp_path: Path
) -> None:
    count, is_over = 120_000, threading.Event()

    def look() -> None:
        while not is_over.is_set():
            journal.make_spares()

    ahead = threading.Thread(target=look)
    ahead.start()
    for step in range(count):
        journal.add(("y",), step, (float(step),))
    is_over.set()
    ahead.join()
    steps: list[float] = []
    found = [(path, open_file(path, 0.0)) for path in paths(tmp_path)]
    for batch in batches(lambda: [(path, file) for path, file in found if isinstance(file, PointsFile)]):
        steps += batch.steps
        batch.accept()
    assert steps == [float(step) for step in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 7, 3 * PIECE])
def test_curves_whose_names_come_in_changing_company_keep_their_order(
    journal: Journal, replay: Replay, tmp_path: Path, every: int
) -> None:
    count = 5 * PIECE
    for step in range(count):
        if step % every:
            journal.add(("train",), step, (float(step),))
        else:
            journal.add(("train", "val"), step, (float(step), -float(step)))
        if step == count // 3:
            replay.refresh()
    replay.refresh()
    assert replay.rows == count
    for name, total in (("train", count), ("val", len(range(0, count, every)))):
        xs, _ = columns(replay, name)
        assert xs == sorted(xs)
        assert replay.curves[name].count == total
    found = [(path, open_file(path, 0.0)) for path in paths(tmp_path)]
    files = [(path, file) for path, file in found if isinstance(file, PointsFile)]
    rows: list[tuple[float, float | None]] = []
    for batch in batches(lambda: files):
        by_name = dict(zip(batch.names, batch.columns, strict=True))
        rows += zip(by_name["train"], by_name.get("val", [None] * len(batch.steps)), strict=True)
        batch.accept()
    assert rows == [(float(step), None if step % every else -float(step)) for step in range(count)]


@pytest.mark.slow
def test_changing_company_keeps_its_order_while_it_is_written(journal: Journal, tmp_path: Path) -> None:
    count, steps = 200_000, list[float]()

    def write() -> None:
        for step in range(count):
            names = ("a",) if step % 3 else ("a", "b")
            journal.add(names, step, (1.0,) * len(names))

    files: dict[str, PointsFile] = {}

    def look() -> list[tuple[str, PointsFile]]:
        for path in paths(tmp_path):
            file = files.get(path) or open_file(path, PATIENCE)
            if isinstance(file, PointsFile):
                files[path] = file
        return sorted(files.items())

    writer = threading.Thread(target=write)
    writer.start()
    while len(steps) < count:
        for batch in batches(look):
            steps += batch.steps
            batch.accept()
    writer.join()
    assert steps == [*map(float, range(count))]


def test_many_rows_that_nobody_writes_are_left_out_at_once(journal: Journal, replay: Replay) -> None:
    for step in range(100):
        journal.add(("y",), step, (1.0,))
        for _ in range(step % 3):
            next(journal.segments[("y",)].rows)
    settled = Replay(journal.folder, 2000, is_settled=True)
    settled.refresh()
    assert columns(settled, "y")[0] == [*map(float, range(100))]
    settled.close()


@pytest.mark.slow
def test_many_tables_of_many_files_are_read_in_few_rounds(journal: Journal, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(60)]
    for step in range(60_000):
        journal.add(("all", names[step % 60]), step, (1.0, 1.0))
    files = [(path, file) for path in paths(tmp_path) if isinstance(file := open_file(path, 0.0), PointsFile)]
    assert len(files) > 100
    steps, rounds = list[float](), 0
    for batch in batches(lambda: files):
        steps += batch.steps
        rounds += 1
        batch.accept()
    assert steps == [*map(float, range(60_000))]
    assert rounds < 30


def test_a_batch_that_nobody_accepts_comes_again(journal: Journal, tmp_path: Path) -> None:
    for names in (("a",), ("a", "b")):
        journal.add(names, 0.0, (1.0,) * len(names))
    files = [(path, file) for path in paths(tmp_path) if isinstance(file := open_file(path, 0.0), PointsFile)]
    first, again = next(batches(lambda: files)), next(batches(lambda: files))
    assert first == again
    again.accept()
    assert [*batches(lambda: files)] == []


def test_several_threads_lose_nothing(journal: Journal, replay: Replay) -> None:
    def write(first: int) -> None:
        for step in range(first, first + 5000):
            journal.add(("y",), step, (float(step),))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 5000, 10_000, 15_000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        replay.refresh()
    replay.refresh()
    assert replay.rows == 20_000
    assert max(columns(replay, "y")[1]) == 19_999


def test_a_row_whose_writer_was_interrupted_holds_up_nobody_for_long(journal: Journal, tmp_path: Path) -> None:
    journal.add(("y",), 0.0, (0.0,))
    next(journal.segments[("y",)].rows)  # drawn, and never written
    journal.add(("y",), 2.0, (2.0,))
    live, settled = Replay(tmp_path, 2000), Replay(tmp_path, 2000, is_settled=True)
    settled.refresh()
    assert columns(settled, "y")[0] == [0.0, 2.0]
    live.refresh()
    assert columns(live, "y")[0] == [0.0]
    for _ in itertools.takewhile(lambda _: live.rows < 2, itertools.count()):
        live.refresh()
    assert columns(live, "y")[0] == [0.0, 2.0]
    live.close()
    settled.close()


def full(journal: Journal) -> tuple[Segment, int, int]:
    """Fill a file of points but for its last row, which is drawn and not written; where it is, and its number."""
    journal.add(("y",), 0.0, (0.0,))
    segment = journal.segments[("y",)]
    for step in range(1, segment.capacity - 1):
        journal.add(("y",), step, (0.0,))
    return segment, next(segment.rows), next(segment.serials)


def test_a_new_file_waits_for_the_last_row_of_the_one_before(journal: Journal, tmp_path: Path) -> None:
    replay = Replay(tmp_path, 5000)
    segment, place, serial = full(journal)
    journal.add(("y",), 1e6, (2.0,))  # in the next file
    replay.refresh()
    assert columns(replay, "y")[0][-1] == segment.capacity - 2
    segment.pack(segment.memory, place, segment.capacity - 1, 1.0, serial)
    replay.refresh()
    xs, _ = columns(replay, "y")
    assert xs == sorted(xs)
    assert xs[-2:] == [segment.capacity - 1, 1e6]
    replay.close()


def test_a_last_row_whose_writer_was_interrupted_does_not_hold_up_the_next_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    segment, *_ = full(journal)
    journal.add(("y",), 1e6, (2.0,))
    live, settled = Replay(tmp_path, 5000), Replay(tmp_path, 5000, is_settled=True)
    for replay in (live, settled):
        while replay.rows < segment.capacity:
            replay.refresh()
        assert columns(replay, "y")[0][-1] == 1e6
        replay.close()
    journal.close()


def test_the_newest_frame_of_a_name_wins(journal: Journal, replay: Replay) -> None:
    for size in (1, 5, 4000, 2):
        x = array("d", range(size))
        journal.put("trace", "fit", "lines", column(x, "x"), column(x, "y"))
    other = array("f", [1.5])
    journal.put("trace", "other", "lines", column(other, "x"), column(other, "y"))
    assert replay.refresh()
    assert array("d", replay.frames["trace", "fit"].y).tolist() == [0.0, 1.0]
    assert (replay.frames["trace", "other"].x_type, array("f", replay.frames["trace", "other"].x).tolist()) == (
        "f4",
        [1.5],
    )
    assert not replay.refresh()


@pytest.mark.slow
def test_a_frame_that_changes_while_it_is_read_is_never_half_of_two(journal: Journal, replay: Replay) -> None:
    is_over = threading.Event()

    def write() -> None:
        for value in itertools.count():
            x = array("d", [value]) * 2000
            journal.put("trace", "fit", "lines", column(x, "x"), column(x, "y"))
            if is_over.is_set():
                return

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while seen < 30:
        if replay.refresh():
            frame = replay.frames["trace", "fit"]
            assert len(set(array("d", frame.x)) | set(array("d", frame.y))) == 1
            seen += 1
    is_over.set()
    thread.join()


WRITER = """
import os, signal, sys
from array import array
from pathlib import Path
from asyncjobs.plotting.arrays import column
from asyncjobs.plotting.journal import Journal

journal = Journal(Path(sys.argv[1]))
for step in range(20_000):
    journal.add(("y",), step, (step * 0.5,))
x = array("d", [1.0, 2.0])
journal.put("trace", "fit", "lines", column(x, "x"), column(x, "y"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_all_that_was_written_survives_kill_9(tmp_path: Path, replay: Replay) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    done = subprocess.run(command, env=probes.source_environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert replay.refresh()
    assert replay.rows == 20_000
    assert columns(replay, "y")[1][-1] == 19_999 * 0.5
    assert array("d", replay.frames["trace", "fit"].x).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("size", [0, 7, 4096])
def test_a_file_that_never_became_whole_is_passed_over(
    journal: Journal, replay: Replay, tmp_path: Path, size: int
) -> None:
    (tmp_path / "0-0.points").write_bytes(bytes(size))
    journal.add(("y",), 0.0, (1.0,))
    assert replay.refresh()
    assert replay.rows == 1


def test_a_file_that_was_seen_before_it_was_whole_is_read_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(("loss",), 0.0, (1.0,))
    (path,) = tmp_path.glob("*.points")
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    replay = Replay(tmp_path, 100)
    assert not replay.refresh()
    # All but the first bytes, as its maker writes them.
    path.write_bytes(bytes(len(layout.POINTS)) + whole[len(layout.POINTS) :])
    assert not replay.refresh()
    path.write_bytes(whole)
    assert replay.refresh()
    assert replay.rows == 1
    replay.close()
    journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_the_journal_goes_on_in_memory_of_bounded_size(small_disk: Path) -> None:
    journal, replay = Journal(small_disk), Replay(small_disk, 2000)
    most = 0
    for step in range(100_000):
        journal.add(("y",), step, (float(step),))
        if step % 5000 == 0:
            replay.refresh(journal.in_memory())
            most = max(most, len(journal.in_memory()))
            while replay.exhausted:
                path = replay.exhausted.pop()
                assert journal.forget(path) is path.startswith("/proc/")
                if path.startswith("/proc/"):
                    replay.forget(path)
    replay.refresh(journal.in_memory())
    assert journal.problem is not None
    assert replay.rows == 100_000
    assert most <= 3
    replay.close()
    journal.close()
