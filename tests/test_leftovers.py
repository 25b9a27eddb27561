"""The checks after each test of a service hear what is left behind, and what a service complained of (I12, I14)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from leftovers import strays, wait_for_no_strays
from services import ServiceProcess, complaints, eventually

LEAVES = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid)"


def test_a_process_that_has_outlived_its_parent_is_found_and_killed() -> None:
    before = strays()
    done = subprocess.run([sys.executable, "-c", LEAVES], stdout=subprocess.PIPE, text=True, check=True)
    pid = int(done.stdout)
    try:
        assert wait_for_no_strays(before, 0.0) == [f"process {pid}: sleep 600 "]
        eventually(lambda: not psutil.pid_exists(pid))
        assert wait_for_no_strays(before, 0.0) == []
    finally:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()


def test_our_own_children_are_no_strays() -> None:
    before = strays()
    with subprocess.Popen(["sleep", "600"]) as child:
        assert wait_for_no_strays(before, 0.0) == []
        child.kill()


def test_what_a_service_says_of_errors_is_told_once(tmp_path: Path) -> None:
    complaints()
    with ServiceProcess(tmp_path / "s", under=(sys.executable, "-c", "1 / 0"), ready=False) as service:
        assert service.process.wait(30) == 1
    assert complaints()[0] == "Traceback (most recent call last):"
    assert complaints() == []


def test_who_gets_the_number_of_a_service_that_has_ended_is_none_of_its_family(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        with ServiceProcess(tmp_path / "s", under=(sys.executable, "-c", ""), ready=False) as service:
            service.process.wait(30)
            service.process.pid = other.pid
            assert service.family() == set()
        assert other.poll() is None
        other.kill()
