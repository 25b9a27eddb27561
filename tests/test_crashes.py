"""A process of the test run that dies says what of, and beside which tests; one that hangs says where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DIES = """
import os, signal, pytest

@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"], ids=["killed", "exits"])
def test_dies(end):
    exec(end)
"""
TOLD = [
    "\n[gw0] died of SIGKILL; tests under way:\n  gw0: test_a.py::test_dies[killed]\n",
    "\n[gw1] ended with code 3; tests under way:\n  gw1: test_a.py::test_dies[exits]\n",
]

HANGS = """
import time, pytest

@pytest.mark.timeout(3)
def test_hangs():
    time.sleep(600)
"""


def ran(tests: str, folder: Path) -> tuple[str, str]:
    """What a run of these tests in another process prints."""
    (folder / "test_a.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 60\n")
    command = ["-m", "pytest", "-n", "1", "--max-worker-restart", "1", "-p", "crashes", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, *command, "--timeout-method", "thread", "test_a.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return ended.stdout, ended.stderr


@pytest.mark.slow
def test_the_end_of_a_process_of_the_run_is_told(tmp_path: Path) -> None:
    said, _ = ran(DIES, tmp_path)
    assert all(told in said for told in TOLD), said


@pytest.mark.slow
def test_where_a_test_hangs_is_told_though_its_process_ends_at_the_time_limit(tmp_path: Path) -> None:
    said, stacks = ran(HANGS, tmp_path)
    assert "[gw0] ended with code 1; tests under way:\n  gw0: test_a.py::test_hangs\n" in said
    assert re.search(r"^Timeout \(0:00:02\.7", stacks, re.MULTILINE)
    assert re.search(r'test_a\.py", line 6 in test_hangs$', stacks, re.MULTILINE)
