"""What type checkers make of the public face: `submit` keeps parameters and results, options are checked."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncjobs

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "asyncjobs" / "__init__.pyi"

pytestmark = pytest.mark.timeout(300)
PATIENCE = 280.0
"""Seconds in which a checker has ended, on a busy machine and with nothing cached."""
COMPLETENESS = 100.0
"""Per cent of the exported symbols whose type pyright knows without guessing."""

HEAD = """
from functools import partial

import asyncjobs as aj


def fit(steps: int, *, name: str = "") -> int:
    return steps


async def fetch(page: int) -> str:
    return str(page)


@aj.job(lane="process", timeout=3)
def kernel(x: float) -> float:
    return x


async def main(
    runner: aj.Runner,
    job: aj.Job[int],
    sync: aj.SyncRunner,
    processes: aj.ProcessPoolExecutor,
    pool: aj.Pool,
    service: aj.ServiceClient,
    waits: aj.SyncServiceClient,
) -> None:
"""

# An expression, and its type as both checkers write it once modules are left out.
TYPES = {
    'await runner.submit(fit, 1, name="x")': "Job[int]",
    "await runner.submit(fetch, 1)": "Job[str]",
    "await runner.submit(kernel, 1.0)": "Job[float]",
    "await runner.submit(partial(fit, 1))": "Job[int]",
    "await runner.submit(lambda: 3)": "Job[int]",
    "runner.submit_nowait(fit, 1)": "Job[int]",
    "runner.submit_nowait(fetch, 1)": "Job[str]",
    "await runner.run(fit, 1)": "int",
    "await runner.run(fetch, 1)": "str",
    "await runner.options(timeout=3, retries=aj.Retry(3)).submit(fit, 1)": "Job[int]",
    "await runner.options(priority=2).run(fetch, 1)": "str",
    "runner.map(fit, [1])": "MapRun[int]",
    "runner.map(fetch, [1])": "MapRun[str]",
    "await runner.map(fetch, [1]).collect()": "list[str]",
    "[value async for value in runner.map(fit, [1])]": "list[int]",
    "await job": "int",
    "job.result()": "int",
    "job.state": "JobState",
    "await aj.gather([job])": "list[int]",
    "[done async for done in aj.as_completed([job])]": "list[Job[int]]",
    "kernel(1.0)": "float",
    "runner.stats().submitted": "int",
    'sync.submit(fit, 1, name="x")': "Job[int]",
    "sync.submit(fetch, 1)": "Job[str]",
    "sync.submit(fit, 1).result(timeout=3)": "int",
    "sync.run(fetch, 1)": "str",
    "sync.options(priority=2).submit_nowait(kernel, 1.0)": "Job[float]",
    "sync.map(fetch, [1])": "SyncMap[str]",
    "list(sync.map(fit, [1]))": "list[int]",
    "list(sync.as_completed([job]))": "list[Job[int]]",
    "aj.background(fit, 1)": "Job[int]",
    "processes.submit(fit, 1)": "JobFuture[int]",
    "processes.submit(fit, 1).result()": "int",
    "list(processes.map(fit, [1]))": "list[int]",
    "pool.map(fit, [1])": "list[int]",
    "pool.apply_async(fit, (1,))": "AsyncResult[int]",
    "next(pool.imap(fit, [1]))": "int",
    "aj.TaskQueue(2).add_task(fit, 1)": "Job[Any]",
    'await service.submit(fit, 1, name="x")': "ServiceJob[int]",
    "await service.submit(fetch, 1)": "ServiceJob[str]",
    "service.submit_nowait(kernel, 1.0)": "ServiceJob[float]",
    "await service.submit_many(fetch, [1])": "list[ServiceJob[str]]",
    "await service.run(fetch, 1)": "str",
    "await service.options(retries=aj.Retry(3), tags='night').submit(fit, 1)": "ServiceJob[int]",
    "await service.submit(fit, service.submit_nowait(fit, 1).later)": "ServiceJob[int]",
    "service.map(fetch, [1])": "ServiceMap[str]",
    "await service.map(fit, [1]).collect()": "list[int]",
    "await (await service.submit(fetch, 1))": "str",
    "(await service.submit(fit, 1)).result()": "int",
    "await service.attach('x')": "ServiceJob[Any]",
    "await service.jobs(state='FAILED')": "list[ServiceJob[Any]]",
    "service.sync": "SyncServiceClient",
    "waits.submit(fit, 1).result(timeout=3)": "int",
    "waits.run(fetch, 1)": "str",
    "waits.options(key='x').submit(kernel, 1.0)": "SyncServiceJob[float]",
    "list(waits.map(fetch, [1]))": "list[str]",
}

MISTAKES = (
    'await runner.submit(fit, "one")',
    "await runner.submit(fit)",
    'await runner.submit(fetch, "one")',
    'await runner.submit(fit, 1, nam="x")',
    "await runner.submit(fit, 1, timeout=3)",
    'runner.submit_nowait(fetch, "one")',
    'await runner.run(kernel, "one")',
    'runner.options(timeout="x")',
    "runner.options(timout=3)",
    'runner.options(lost="maybe")',
    "runner.options(retries=2.5)",
    "aj.job(nonsense=1)",
    'aj.Runner(processes="two")',
    'runner.map(fit, [1], on_error="ignore")',
    "runner.map(fit, 1)",
    'sync.submit(fit, "one")',
    'sync.run(fetch, "one")',
    "sync.options(timout=3)",
    "aj.SyncRunner(proceses=2)",
    "aj.background(fit)",
    'processes.submit(fit, "one")',
    'aj.ThreadPoolExecutor(max_workers="two")',
    'aj.Pool("two")',
    "aj.no_such_name",
    'await service.submit(fit, "one")',
    "await service.submit(fit, 1, timeout=3)",
    "service.options(timout=3)",
    "service.options(lost='retry')",
    'await service.schedule("* * * * *", fit, "one")',
    'service.map(fit, [1], on_error="ignore")',
    'waits.submit(fit, "one")',
    "aj.connect(start=1.5)",
)


def write(path: Path, statements: list[str]) -> Path:
    """A module with these statements in an async function."""
    path.write_text(HEAD + "".join(f"    {statement}\n" for statement in statements), encoding="utf-8")
    return path


def first_line() -> int:
    """The line of the first statement."""
    return HEAD.count("\n") + 1


def check(command: list[str], folder: Path) -> str:
    """What a checker says."""
    # To verify types pyright asks the python of the path for its packages, whatever --pythonpath says.
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder, env=environment
    )
    return done.stdout + done.stderr


def mypy(path: Path, cache: Path) -> str:
    """What mypy says of a file, strictly."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed (extra: lint)")
    return check([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), path.name], path.parent)


def pyright(folder: Path, *arguments: str) -> str:
    """What pyright says; it brings a program of its own from the network at its first start."""
    program = Path(sys.executable).with_name("pyright")
    found = str(program) if program.exists() else shutil.which("pyright")
    if found is None:
        pytest.skip("pyright is not installed (extra: lint)")
    said = check([found, "--pythonpath", sys.executable, *arguments], folder)
    if not re.search(r"\d+ errors?, |Type completeness score", said):
        pytest.skip(f"pyright could not start: {said.strip()[-200:]}")
    return said


def plain(kind: str) -> str:
    """A type without the modules of its names."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", kind)


def errors_by_line(said: str) -> set[int]:
    """The lines of which a checker complains."""
    return {int(line) for line in re.findall(r"\.py:(\d+)(?::\d+)?(?: -|:) error", said)}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy-cache")


@pytest.mark.slow
def test_mypy_sees_the_types_of_results(tmp_path: Path, cache: Path) -> None:
    said = mypy(write(tmp_path / "results.py", [f"reveal_type({expression})" for expression in TYPES]), cache)
    assert errors_by_line(said) == set(), said
    revealed = [plain(kind) for kind in re.findall(r'Revealed type is "(.*)"', said)]
    assert dict(zip(TYPES, revealed, strict=True)) == TYPES


@pytest.mark.slow
def test_pyright_sees_the_types_of_results(tmp_path: Path) -> None:
    path = write(tmp_path / "results.py", [f"reveal_type({expression})" for expression in TYPES])
    said = pyright(tmp_path, str(path))
    assert errors_by_line(said) == set(), said
    revealed = [plain(kind) for kind in re.findall(r'Type of ".*" is "(.*)"', said)]
    assert dict(zip(TYPES, revealed, strict=True)) == TYPES


@pytest.mark.slow
def test_mypy_finds_every_mistake(tmp_path: Path, cache: Path) -> None:
    said = mypy(write(tmp_path / "mistakes.py", list(MISTAKES)), cache)
    missed = [m for line, m in enumerate(MISTAKES, first_line()) if line not in errors_by_line(said)]
    assert missed == [], said


@pytest.mark.slow
def test_pyright_finds_every_mistake(tmp_path: Path) -> None:
    said = pyright(tmp_path, str(write(tmp_path / "mistakes.py", list(MISTAKES))))
    missed = [m for line, m in enumerate(MISTAKES, first_line()) if line not in errors_by_line(said)]
    assert missed == [], said


@pytest.mark.slow
def test_types_of_the_package_are_complete(tmp_path: Path) -> None:
    said = pyright(tmp_path, "--verifytypes", "asyncjobs", "--ignoreexternal")
    score = re.search(r"Type completeness score: ([\d.]+)%", said)
    assert score
    assert float(score[1]) >= COMPLETENESS, said
    assert not re.search(r"With unknown type: [1-9]", said)


def test_stub_offers_the_same_names_as_the_package() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    homes = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*homes, "__version__"]) == dir(asyncjobs)
    assert homes == {name: f"asyncjobs.{home}.{name}" for name, home in asyncjobs._HOMES.items()}
    listed = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == asyncjobs.__all__
