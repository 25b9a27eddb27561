"""The command line, started as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plots import figures_of, traces


def asyncjobs(*args: str, before: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh interpreter; `before` is a statement that runs first."""
    program = f"import sys; {before or 'pass'}; sys.argv[1:] = {list(args)!r}; from asyncjobs.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.slow
def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "asyncjobs", "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert ended.stdout.startswith("asyncjobs ")


@pytest.mark.slow
def test_without_a_command_it_lists_the_commands() -> None:
    ended = asyncjobs()
    for command in ("demo", "bench", "doctor"):
        assert command in ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_benchmarks_and_their_options_are_there() -> None:
    assert {"arrays", "flow", "jobs", "parzen", "sync"} <= set(asyncjobs("bench").stdout.split())
    for name in ("arrays", "flow", "jobs", "parzen", "sync"):
        shown = asyncjobs("bench", name, "--help").stdout
        assert all(option in shown for option in ("--json", "--html", "--quick"))


@pytest.mark.slow
def test_an_unknown_command_is_refused_by_name() -> None:
    ended = asyncjobs("demoo")
    assert ended.returncode == 2
    assert "demoo" in ended.stderr


@pytest.mark.slow
def test_the_doctor_prints_facts_and_leaves_with_zero() -> None:
    ended = asyncjobs("doctor")
    assert ended.returncode == 0
    for label in ("Python", "cores", "/dev/shm", "descriptors", "temporary files"):
        assert label in ended.stdout


def test_the_doctor_speaks_json() -> None:
    read = json.loads(asyncjobs("doctor", "--json").stdout)
    assert read["facts"]["cores"] >= 1
    assert isinstance(read["findings"], list)


def test_the_doctor_works_without_numpy_and_plotly() -> None:
    ended = asyncjobs("doctor", before="sys.modules['numpy'] = sys.modules['plotly'] = None")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_doctor_sees_that_it_was_called_from_a_notebook() -> None:
    ended = asyncjobs("doctor", "--json", before="import os; os.environ['JPY_PARENT_PID'] = '1'")
    assert json.loads(ended.stdout)["facts"]["jupyter"] is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "args", "extra"),
    [
        ("typer", ("doctor",), "cli"),
        ("rich", ("doctor",), "cli"),
        ("plotly", ("demo",), "demo"),
        ("numpy", ("demo",), "demo"),
        ("kaleido", ("bench", "clusters", "--simulate", "--image", "picture.svg"), "demo,image"),
        ("distributed", ("bench", "clusters"), "dask"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    missing: str, args: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    without = f"sys.modules[{missing!r}] = sys.modules['ray'] = None"
    ended = asyncjobs(*args, before=without, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.strip() == f'this command needs {missing}: pip install "asyncjobs-runner[{extra}]"'


def test_a_missing_module_of_our_own_is_not_hidden_behind_that_message() -> None:
    ended = asyncjobs("doctor", before="sys.modules['asyncjobs.cli.machine'] = None")
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr


def test_the_demo_says_where_it_cannot_write_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    ended = asyncjobs("demo", "--out", str(tmp_path / "taken" / "inside"))
    assert ended.returncode == 1
    assert "cannot write the report" in ended.stderr
    assert "Gradient descent" not in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "-1", "many", "257"])
def test_the_demo_refuses_impossible_numbers_of_workers(workers: str) -> None:
    ended = asyncjobs("demo", "--workers", workers)
    assert ended.returncode == 2
    assert "--workers" in ended.stderr


@pytest.mark.slow
def test_the_demo_runs_where_nothing_was_prepared_and_names_its_page(tmp_path: Path) -> None:
    ended = asyncjobs("demo", "--workers", "2", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "asyncjobs-demo" / "report.html").stat().st_size > 4_000_000
    assert "asyncjobs-demo/report.html" in ended.stdout.replace("\n", "")
    (figure,) = figures_of(tmp_path / "asyncjobs-demo" / "loss.html")
    found = traces(figure)
    assert (len(found["loss"][0]), len(found["countries"][0])) == (200, 142)
    # Not empty: on a busy machine the watchdog may say that the loop was slow.
    assert "Traceback" not in ended.stderr
