"""The night's sweep of examples/overnight.py: submitted by one program, looked at by another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import ROOT, eventually

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
ENVIRONMENT.pop("XDG_RUNTIME_DIR", None)

WINNERS = r"(?:\d\d\.\d%  width (?:16|64), rate 0\.01, decay 0\n){2}"
LOG = r"the log of the best one, [0-9a-z]{26}:\n(?:  epoch \d: \d\d\.\d% of the unseen digits are right, .*\n){3}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the example runs; its service is stopped afterwards."""
    yield tmp_path
    subprocess.run([sys.executable, "-m", "asyncjobs", "stop", "--dir", "overnight"], cwd=tmp_path, env=ENVIRONMENT)


def overnight(folder: Path, *arguments: str) -> str:
    """What the example prints, run as a script in `folder`."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "overnight.py", *arguments],
        capture_output=True, text=True, timeout=100, check=False, cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_one_program_submits_and_another_one_finds_the_results(folder: Path) -> None:
    assert overnight(folder, "--quick") == "2 trainings are on disk; this program ends, they go on\n"
    shown = overnight(folder, "attach")
    assert shown.startswith("2 trainings, ")
    assert re.search(WINNERS + LOG, shown), shown
    assert "93.2%  width 64, rate 0.01" in shown.splitlines()[1]
    figure = (folder / "overnight.html").read_text(encoding="utf-8")
    assert "A night of trainings" in figure
    assert {path.name for path in folder.iterdir()} == {"overnight", "overnight.html", "best.html"}
    assert "width 64, rate 0.01" in (folder / "best.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_night_in_which_the_service_is_killed_ends_with_the_same_results(folder: Path) -> None:
    overnight(folder, "--quick")
    pid = json.loads((folder / "overnight" / "lock").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    shown = overnight(folder, "attach")
    assert re.search(WINNERS, shown), shown
    assert "93.2%  width 64, rate 0.01" in shown  # as in a night without a crash
    # The log of one that was killed says where its next attempt began, and goes on with the epoch it had reached.
    log = shown.partition("the log of the best one")[2]
    assert set(re.findall(r"^  epoch (\d):", log, re.MULTILINE)) == {"1", "2", "3"}, shown
    assert set(re.findall(r"^  \[(.*)\]$", log, re.MULTILINE)) <= {"asyncjobs: attempt 2"}, shown
