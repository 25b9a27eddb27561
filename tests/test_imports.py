"""Imports are light: each worker process pays for them. Fresh interpreters, since this one has loaded everything."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HEAVY = ("asyncio", "anyio", "uvloop", "sqlite3", "numpy", "plotly", "multiprocessing.pool", "typer", "rich", "tqdm")


@functools.cache
def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after one statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def public_names() -> list[str]:
    """What the package says it offers."""
    import asyncjobs

    return dir(asyncjobs)


@pytest.mark.parametrize("module", HEAVY)
def test_import_of_the_worker_leaves_out(module: str) -> None:
    assert module not in loaded_by("import asyncjobs.worker")


def test_import_of_the_package_alone_loads_none_of_its_modules() -> None:
    loaded = loaded_by("import asyncjobs")
    assert sorted(name for name in loaded if name.startswith("asyncjobs.")) == []
    assert "asyncio" not in loaded


@pytest.mark.parametrize("module", ["numpy", "plotly", "sqlite3", "typer", "rich", "tqdm", "asyncjobs.bench"])
def test_import_of_the_runner_leaves_out(module: str) -> None:
    assert module not in loaded_by("from asyncjobs import Runner")


def test_a_runner_that_comes_and_goes_does_not_load_the_backend_of_anyio() -> None:
    code = "import asyncjobs as aj\nasync def main():\n    async with aj.Runner(threads=1) as runner:\n"
    code += "        await runner.run(len, 'abc')\naj.run(main())"
    assert "anyio._backends._asyncio" not in loaded_by(code)


@pytest.mark.parametrize("module", ["numpy", "plotly", "prometheus_client", "urllib.request", "dask", "ray"])
def test_import_of_the_service_leaves_out(module: str) -> None:
    assert module not in loaded_by("import asyncjobs.service.host")


def test_import_of_the_command_line_loads_neither_numpy_nor_plotly() -> None:
    assert {"numpy", "plotly"} & loaded_by("import asyncjobs.cli") == set()


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_can_be_had(name: str) -> None:
    import asyncjobs

    assert getattr(asyncjobs, name) is not None


def test_a_public_name_stays_what_it_is_when_a_module_of_that_name_is_loaded() -> None:
    # Loading the submodule `asyncjobs.x` makes it the attribute `x` of the package, over any function of that name.
    code = """
import asyncjobs, pkgutil
from importlib import import_module
from types import ModuleType
for module in pkgutil.iter_modules(asyncjobs.__path__, "asyncjobs."):
    if module.name != "asyncjobs.__main__":
        import_module(module.name)
hidden = [name for name in asyncjobs.__all__ if isinstance(getattr(asyncjobs, name), ModuleType)]
assert not hidden, hidden
"""
    assert loaded_by(code)


def test_names_that_need_an_extra_are_no_part_of_a_star_import() -> None:
    assert "asyncjobs.service.client.client" not in loaded_by("from asyncjobs import *")
    assert "msgspec" not in loaded_by("from asyncjobs import *")


def test_public_names_are_listed_by_dir() -> None:
    import asyncjobs

    assert set(asyncjobs.__all__) <= set(dir(asyncjobs))


def test_an_unknown_name_raises_attribute_error_with_the_name() -> None:
    import asyncjobs

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncjobs.no_such_name  # type: ignore[attr-defined]


def test_star_import_gives_the_public_names() -> None:
    code = "from asyncjobs import *; import asyncjobs; assert all(name in globals() for name in asyncjobs.__all__)"
    assert loaded_by(code)


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "asyncjobs" / "py.typed").is_file()
