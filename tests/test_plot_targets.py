"""From what a user names to where it goes, and what is left if it cannot go there: nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path

import pytest
from plots import shown, small_disk

import asyncjobs as aj
from asyncjobs.plotting.spool import About, create, new_id

NOWHERE = "http://127.0.0.1:9"
"""The port of the discard service, which nobody runs."""


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def names() -> list[str]:
    return sorted(os.listdir())


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["file:a b.json", "file:a%20b.json", "FILE://{}/a%20b.json", "file://localhost{}/a b.json", "./a b.json"]
)
def test_a_file_may_be_named_as_an_address(target: str) -> None:
    with aj.plot(target.format(os.getcwd())) as p:
        p.log(0, y=1.0)
    assert names() == ["a b.json"]


def test_a_name_with_a_colon_is_a_file_if_it_says_so() -> None:
    with aj.plot("./loss-12:30.json") as p:
        p.log(0, y=1.0)
    assert names() == ["loss-12:30.json"]


def test_a_name_that_is_no_text_is_a_title_all_the_same() -> None:
    path = Path(os.fsdecode(b"caf\xe9.html"))
    with aj.plot(path, linger=20) as p:
        p.log(0, y=1.0)
        assert p.flush(20)
    assert "<title>caf?</title>" in path.read_text()


def test_a_link_stays_and_its_file_is_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    real = tmp_path / "www" / "today.json"
    Path("loss.json").symlink_to(real)
    Path("late.json").symlink_to(tmp_path / "not" / "yet.json")
    with aj.plot("loss.json", "late.json") as p:
        p.log(0, y=1.0)
    assert [Path(name).is_symlink() for name in names()] == [True, True]
    assert shown(real) == shown(tmp_path / "not" / "yet.json") == {"y": ([0.0], [1.0])}
    assert [path.name for path in (tmp_path / "www").iterdir()] == ["today.json"]


def test_a_relative_spool_stays_where_it_is_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    p = aj.plot(f"{NOWHERE}/loss.json", spool="kept", linger=0.0)
    monkeypatch.chdir(tmp_path)
    p.log(0, y=1.0)
    p.log(0, other=1.0)
    assert not p.close()
    assert f"the rest is in {tmp_path}/here/kept/" in capsys.readouterr().err
    assert len([*(tmp_path / "here" / "kept").glob("*/*.points")]) == 2


# --- what cannot be had -----------------------------------------------------------------


def test_pages_and_images_without_plotly_are_errors_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    for target in ("loss.html", "loss.png", f"{NOWHERE}/loss.html", "live:"):
        with pytest.raises(ModuleNotFoundError, match=r"needs plotly\.js: pip install 'asyncjobs-runner\[plot\]'"):
            aj.plot(target)
    with aj.plot("loss.json") as p:
        p.log(0, y=1.0)
    assert names() == ["loss.json"]


def test_nothing_is_shown_or_left_open_if_another_target_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=r"bad\.gif"):
        aj.plot("live:", "bad.gif")
    assert capsys.readouterr().err == ""
    assert threading.active_count() == before


def test_sinks_that_are_open_are_closed_if_a_later_one_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr("asyncjobs.plotting.sinks.files.LocalFile.close", lambda sink: closed.append(sink.target))
    with pytest.raises(ValueError, match="live:nonsense"):
        aj.plot("loss.json", "live:nonsense")
    assert closed == [str(tmp_path / "here" / "loss.json")]
    assert names() == [], "no spool either"


def test_a_spool_on_a_disk_that_is_full_is_an_error_that_names_it(tmp_path: Path) -> None:
    with small_disk(tmp_path, "16k") as disk:
        with contextlib.suppress(OSError):
            (disk / "full").write_bytes(bytes(16384))
        with pytest.raises(OSError, match="No space left") as caught:
            aj.plot("loss.json", spool=disk / "spool")
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value.filename).startswith(str(disk / "spool"))
        assert [path.name for path in disk.iterdir()] == ["full"]


@pytest.mark.slow
def test_plots_that_begin_and_end_in_one_folder_are_not_in_each_others_way(tmp_path: Path) -> None:
    made: list[str] = []

    def begin_and_end() -> None:
        for _ in range(300):
            spool = create(tmp_path / "spool", About(new_id(), "loss", ["loss.json"], False, 100, 0.0))
            made.append(spool.about.plot)
            spool.remove()

    threads = [threading.Thread(target=begin_and_end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1200


# --- programs without a terminal --------------------------------------------------------


def test_a_program_without_standard_error_plots(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with aj.plot("live:", f"{NOWHERE}/loss.json", linger=0.0) as p:
        p.log(0, y=1.0)
    assert "the live page is at http" in caplog.text
    assert "plot 'plot' is not complete at" in caplog.text
    assert capsys.readouterr().out == ""
