"""docs/asyncjobs.service: systemd takes it, and what it says of exit codes and times is what the service does."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from services import ROOT

from asyncjobs.cli import app
from asyncjobs.service import host
from asyncjobs.service.work import engine

UNIT = ROOT / "docs" / "asyncjobs.service"


@pytest.fixture
def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_it_starts_a_command_that_there_is(unit: ConfigParser) -> None:
    program, command, *_ = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/bin/asyncjobs")
    assert command in app.LazyGroup.PLACES


def test_what_does_not_get_better_is_not_tried_again_and_what_may_is(unit: ConfigParser) -> None:
    never = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    assert never == {host.USAGE, host.REFUSED, host.NOT_MADE, host.RUNNING}
    assert unit["Service"]["Restart"] == "on-failure"


def test_systemd_waits_longer_for_its_end_than_that_takes(unit: ConfigParser) -> None:
    longest = host.DRAIN + engine.LONGEST_GRACE + engine.LAST_WAIT + 5
    assert int(unit["Service"]["TimeoutStopSec"]) > longest


def test_one_that_never_starts_is_left_alone_after_a_while(unit: ConfigParser) -> None:
    """As many starts as that, each with the pause before it, fit into the span in which they are counted."""
    a_start = 5.0
    needed = int(unit["Unit"]["StartLimitBurst"]) * (int(unit["Service"]["RestartSec"]) + a_start)
    assert needed <= int(unit["Unit"]["StartLimitIntervalSec"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "asyncjobs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o700)
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", UNIT], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
