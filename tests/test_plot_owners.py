"""Spools in folders that several users share: none runs what another has left there, and none is in another's way."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plots import shown, wait_until
from programs import launching

import asyncjobs as aj
from asyncjobs.plotting.resume import resume
from asyncjobs.plotting.spool import HIDDEN, home

NOBODY = 65534
AS_NOBODY = f"""
import os, signal, sys, tempfile
from pathlib import Path
import asyncjobs as aj

with tempfile.TemporaryDirectory() as first, aj.plot(Path(first) / "w.json") as p:  # all is loaded that it takes
    p.draw({{"data": []}}, name="x")
    p.flush(20)
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})

class Evil:
    def __init__(self, command):
        self.command = command
    def __call__(self): ...
    def __reduce__(self):
        return os.system, (self.command,)

"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a program of another user."""
    with launching(tmp_path, AS_NOBODY) as start:
        yield start


@pytest.fixture
def everybodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder like /tmp."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o1777)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield folder
    shutil.rmtree(folder)


def hidden_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(HIDDEN))


@pytest.mark.slow
@only_root
def test_a_spool_of_somebody_else_is_left_alone(as_nobody: Any, everybodys: Path) -> None:
    program = as_nobody(
        f"""
        p = aj.plot("{everybodys}/theirs.json", spool="{everybodys}/{HIDDEN}", every=60)
        p.draw(Evil("touch {everybodys}/run-by-$(id -u)"), name="x")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert program.ends() == -signal.SIGKILL, program.output
    theirs = next((everybodys / HIDDEN).glob("*/plot.json")).parent
    assert list(theirs.glob("*.frame"))
    assert resume(everybodys / HIDDEN) == resume(theirs) == resume(everybodys) == []
    with aj.plot(everybodys / "mine.json", spool=everybodys / HIDDEN) as p:
        p.log(0, y=1.0)
        assert p.flush(20)
    assert shown(everybodys / "mine.json") == {"y": ([0.0], [1.0])}
    assert not (everybodys / "run-by-0").exists()


@pytest.mark.slow
@only_root
def test_a_picture_that_somebody_else_puts_into_a_spool_of_ours_is_not_drawn(
    as_nobody: Any, everybodys: Path, tmp_path: Path
) -> None:
    with aj.plot(tmp_path / "mine.json", every=0.5) as p:
        p.log(0, y=1.0)
        assert p.flush(20)
        (folder,) = (tmp_path / HIDDEN).iterdir()
        program = as_nobody(
            f"""
            p = aj.plot("{everybodys}/theirs.json", spool="{everybodys}/{HIDDEN}", every=60)
            p.draw(Evil("touch {everybodys}/run-by-$(id -u)"), name="x")
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
        assert program.ends() == -signal.SIGKILL, program.output
        (frame,) = everybodys.glob(f"{HIDDEN}/*/*.frame")
        # As if the folder had been exchanged for another, which the owner of the one around it can do.
        os.rename(frame, folder / frame.name)
        p.log(1, y=2.0)
        assert p.flush(20)
    assert sorted(path.name for path in tmp_path.glob("mine*.json")) == ["mine.json"]
    assert not (everybodys / "run-by-0").exists()


@pytest.mark.slow
@only_root
def test_two_users_plot_into_one_folder(as_nobody: Any, everybodys: Path) -> None:
    with aj.plot(everybodys / "mine.json") as p:
        p.log(0, y=1.0)
        assert hidden_in(everybodys) == [f"{HIDDEN}-0"]
        program = as_nobody(
            f"""
            with aj.plot("{everybodys}/theirs.json") as p:
                p.log(0, y=2.0)
                print(sorted(name for name in os.listdir("{everybodys}") if name.startswith(".")))
            """
        )
        assert program.ends() == 0, program.output
        assert program.output.strip() == f"['{HIDDEN}-0', '{HIDDEN}-{NOBODY}']"
    assert shown(everybodys / "theirs.json") == {"y": ([0.0], [2.0])}
    assert hidden_in(everybodys) == []


@only_root
def test_a_folder_that_somebody_else_has_made_ahead_is_not_taken(everybodys: Path) -> None:
    trap = everybodys / f"{HIDDEN}-0"
    trap.mkdir()
    os.chown(trap, NOBODY, NOBODY)
    with aj.plot(everybodys / "mine.json") as p:
        p.log(0, y=1.0)
        assert list(home().iterdir())
    assert list(trap.iterdir()) == []


def test_a_pipe_in_place_of_a_spool_holds_nobody_up(everybodys: Path) -> None:
    (everybodys / HIDDEN / "trap").mkdir(parents=True)
    os.mkfifo(everybodys / HIDDEN / "trap" / "plot.json")
    assert resume(everybodys) == []


def test_a_spool_that_others_may_write_to_is_left_alone(everybodys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = aj.plot(everybodys / "mine.json", "http://127.0.0.1:9/loss.json", linger=0.0)
    p.log(0, y=1.0)
    wait_until(lambda: p.stats.last_error, "nobody is there")
    assert not p.close()
    assert "is not complete" in capsys.readouterr().err
    (folder,) = everybodys.glob(f"{HIDDEN}*/*")
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    folder.chmod(0o777)
    assert resume(folder) == []
    folder.chmod(0o700)
    assert len(resume(folder)) == 2
