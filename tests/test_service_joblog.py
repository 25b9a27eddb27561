"""A log file per job, with a bound: `work.joblog`, `work.news`."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from asyncjobs.service.ids import new_id
from asyncjobs.service.protocol import ProgressView
from asyncjobs.service.work import joblog, news
from asyncjobs.service.work.joblog import JobLog
from asyncjobs.service.work.news import News, Said


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "HEAD", 100)
    monkeypatch.setattr(joblog, "PART", 50)


def all_of(folder: Path, job: str, offset: int = 0, limit: int = 7) -> tuple[int, bytes]:
    """Read like a reader: where the first piece begins, and all bytes."""
    first, data = -1, b""
    while (piece := joblog.read(folder, job, offset, limit)).data:
        first = piece.offset if first < 0 else first
        data += piece.data
        offset = piece.offset + len(piece.data)
    return first, data


def test_what_is_written_is_read_from_any_offset_and_the_files_are_private(tmp_path: Path) -> None:
    job = new_id()
    log = JobLog(tmp_path / "logs", job)
    assert not (tmp_path / "logs").exists()
    log.write("hällo\n")
    log.write("second\n")
    assert log.end == len("hällo\nsecond\n".encode())
    assert all_of(tmp_path / "logs", job) == (0, "hällo\nsecond\n".encode())
    assert all_of(tmp_path / "logs", job, 7)[1] == b"second\n"
    assert all_of(tmp_path / "logs", job, 99) == (-1, b"")
    path = joblog.path_of(tmp_path / "logs", job)
    assert path.parent.name == job[-2:]
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    log.close()


def test_another_attempt_goes_on_at_the_end(tmp_path: Path) -> None:
    job = new_id()
    for text in ("one", "two"):
        log = JobLog(tmp_path, job)
        log.write(text)
        log.close()
        log.close()
    assert all_of(tmp_path, job) == (0, b"onetwo")


def test_of_a_very_long_log_the_beginning_and_the_end_stay(tmp_path: Path, small: None) -> None:
    job = new_id()
    log = JobLog(tmp_path, job)
    written = b""
    for number in range(200):
        line = f"line {number:04}\n"
        log.write(line)
        written += line.encode()
    kept = sum(path.stat().st_size for _, path in joblog.parts_of(joblog.path_of(tmp_path, job)))
    assert kept <= 100 + 2 * 50
    assert log.end == len(written)
    first, data = all_of(tmp_path, job)
    assert first == 0
    assert data[:100] == written[:100]
    assert written.endswith(data[100:])
    assert len(data) - 100 > 50
    piece = joblog.read(tmp_path, job, 150, 1000)
    assert piece.offset > 150
    assert written[piece.offset :].startswith(piece.data)
    again = JobLog(tmp_path, job)
    again.write("x")
    assert again.end == len(written) + 1
    log.close()
    again.close()
    joblog.remove(tmp_path, job)
    assert not list(tmp_path.rglob("*.log*"))


def test_F75_a_full_disk_loses_output_and_says_how_much_but_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_id()
    log = JobLog(tmp_path, job)
    log.write("before\n")
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.write("lost")
    log.write(" too")
    monkeypatch.setattr(os, "write", write)
    log.write("after\n")
    log.close()
    assert all_of(tmp_path, job, limit=1000)[1] == (
        b"before\n\n[asyncjobs: 8 bytes found no room on the disk]\nafter\n"
    )


def test_F97_no_link_is_followed(tmp_path: Path) -> None:
    job = new_id()
    path = joblog.path_of(tmp_path, job)
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    log = JobLog(tmp_path, job)
    log.write("overwritten?")
    assert victim.read_text() == "mine"


def test_a_slow_reader_gets_the_newest_of_each_job_and_hears_what_it_missed() -> None:
    board = News()
    with board.subscribe("a") as mine, board.subscribe(None) as all_:
        for done in range(100):
            board.progressed("a", ProgressView(done, 100, ""))
            board.logged("a", done * 10)
            board.logged("b", done)
        assert mine.take() == [Said("a", ProgressView(99, 100, ""), 990)]
        assert [said.id for said in all_.take()] == ["a", "b"]
        for number in range(news.MOST + 5):
            board.logged(str(number), 1)
        assert len(all_.take()) == news.MOST
        assert all_.missed == 5
    board.logged("a", 1)
    assert mine.take() == []
