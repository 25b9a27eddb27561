"""A process of the test run that dies says what of, and beside which tests."""

from __future__ import annotations

import os
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
    "\n[gw0] died of SIGKILL; tests under way:\n  gw0: test_dies.py::test_dies[killed]\n",
    "\n[gw1] ended with code 3; tests under way:\n  gw1: test_dies.py::test_dies[exits]\n",
]


@pytest.mark.slow
def test_the_end_of_a_process_of_the_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_dies.py").write_text(DIES)
    command = ["-m", "pytest", "-n", "1", "-p", "crashes", "-p", "no:cacheprovider", "--rootdir", ".", "test_dies.py"]
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=100
    )
    assert "2 failed" in ended.stdout
    assert all(told in ended.stdout for told in TOLD), ended.stdout
