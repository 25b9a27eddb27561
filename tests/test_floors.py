"""The house rules as tests: imports go downward only, nothing is long, nothing is imported late without need.

The floors are those of docs/design.md. A module that is not in the table fails the
first test: decide where it stands before it grows.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "asyncjobs"

FACE = "asyncjobs"
"""What ``from asyncjobs import Runner`` means: the public names, above what they come from."""

# Lowest first. A row imports only from the rows above it; a name stands for a module or a whole subpackage,
# inside which the modules may import each other. `options` stands above the `token` and `retry` that it describes,
# `mapping` below the `runner` that makes maps, and the command line above the benchmarks that it starts.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "failpoint", "futures"}),
    frozenset({"state", "retry", "token", "processors", "spawning", "portal", "notebook", "lines", "resources"}),
    frozenset({"options", "context", "events", "memory", "tripwire", "echo", "printing", "progressbar", "claims"}),
    frozenset({"wire"}),
    frozenset({"shared", "stats", "page", "detach", "remote"}),
    frozenset({"station", "worker"}),
    frozenset({"lanes", "report", "watchdog"}),
    frozenset({"jobqueue", "flow"}),
    frozenset({"job"}),
    frozenset({"engine", "waiting"}),
    frozenset({"intake", "steering"}),
    frozenset({"mapping"}),
    frozenset({"submitter"}),
    frozenset({"runner"}),
    frozenset({"main", "sync"}),
    frozenset({"pipeline"}),
    frozenset({FACE}),
    frozenset({"plotting"}),
    frozenset({"service"}),
    frozenset({"testing"}),
    frozenset({"bench"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)

# Imported inside the function that needs them, so that the rest works without.
OPTIONAL = frozenset(
    {
        "aiomultiprocess",
        "anywidget",
        "choreographer",
        "dbos",
        "distributed",
        "flexiq",
        "fsspec",
        "grain",
        "huey",
        "joblib",
        "kaleido",
        "loky",
        "mlflow",
        "numpy",
        "pebble",
        "plotly",
        "ray",
        "rich",
        "spdl",
        "sqlalchemy",
        "tensorboard",
        "tensorboardX",
        "tensorflow",
        "torch",
        "tqdm",
        "trackio",
        "traitlets",
        "typer",
        "uvloop",
        "wandb",
    }
)
# Parts of the standard library that not every system has.
NOT_EVERYWHERE = frozenset({"fcntl", "resource", "termios"})
# The entry point says what to install when the command line's own libraries are missing.
GUARDED_IMPORTS = frozenset({"cli/__init__.py"})

FUNCTION_LINES = 50
CLASS_LINES = 313
FILE_LINES = 450


class Import(NamedTuple):
    """One imported module, where, and whether only a call of a function imports it."""

    module: str
    line: int
    late: bool


def sources() -> list[Path]:
    """All modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``lanes/slot.py`` for a module's path."""
    return path.relative_to(PACKAGE).as_posix()


def unit_of(module: str) -> str:
    """The row entry a dotted name belongs to: ``asyncjobs.lanes.slot`` -> ``lanes``, a public name -> the face."""
    parts = module.split(".")
    if len(parts) == 1:
        return FACE
    known = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists()
    return parts[1] if known else FACE


def unit_of_path(path: Path) -> str:
    """The row entry that a source file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return FACE if parts == ("__init__",) else parts[0]


def floor_of(unit: str) -> int | None:
    """The row's number from below; None if the table does not have it."""
    return next((number for number, row in enumerate(FLOORS) if unit in row), None)


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, those inside functions and behind TYPE_CHECKING too."""
    late = {inner for node in ast.walk(tree) if is_function(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node in late)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, node in late)


def is_function(node: ast.AST) -> bool:
    """Plain and async functions."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def upward(unit: str, imports: Iterator[Import]) -> Iterator[str]:
    """A sentence for each import of `unit` that does not go down."""
    for found in imports:
        target = unit_of(found.module)
        if not is_ours(found.module) or target == unit:
            continue
        here, there = floor_of(unit), floor_of(target)
        if here is None or there is None or there >= here:
            yield f"line {found.line}: {unit} (floor {here}) imports {found.module} (floor {there})"


def is_ours(module: str) -> bool:
    """Whether a dotted name is of this package."""
    return module == "asyncjobs" or module.startswith("asyncjobs.")


def without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """How many lines a function or class has, its docstring not counted."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    return length - ((docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0)


def too_long(tree: ast.Module) -> Iterator[str]:
    """A sentence for each function and class that has grown past its bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and without_docstring(node) > FUNCTION_LINES:
            yield f"line {node.lineno}: {node.name} has {without_docstring(node)} lines, {FUNCTION_LINES} are allowed"
        if isinstance(node, ast.ClassDef) and without_docstring(node) > CLASS_LINES:
            yield f"line {node.lineno}: {node.name} has {without_docstring(node)} lines, {CLASS_LINES} are allowed"


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_module_has_a_floor(path: Path) -> None:
    assert floor_of(unit_of_path(path)) is not None, f"{name_of(path)} is in no row of FLOORS"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_go_downward_only(path: Path) -> None:
    assert list(upward(unit_of_path(path), imports_of(parse(path)))) == []


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_only_optional_libraries_are_imported_late(path: Path) -> None:
    allowed = OPTIONAL | NOT_EVERYWHERE | ({"asyncjobs"} if name_of(path) in GUARDED_IMPORTS else set())
    late = [found for found in imports_of(parse(path)) if found.late and found.module.split(".")[0] not in allowed]
    assert late == []


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_functions_classes_and_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{lines} lines: look for the second thing that hides inside"
    assert list(too_long(parse(path))) == []


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_module_says_its_job(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree) or not tree.body


def test_an_upward_import_is_found() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    from asyncjobs.lanes import slot\n")
    assert list(upward("token", imports_of(tree))) == ["line 2: token (floor 1) imports asyncjobs.lanes.slot (floor 6)"]


def test_an_import_of_the_same_floor_is_found_but_not_inside_a_subpackage() -> None:
    tree = ast.parse("from asyncjobs.wire import frames\n")
    assert list(upward("context", imports_of(tree)))
    assert not list(upward("wire", imports_of(tree)))


def test_a_module_without_a_floor_may_not_be_imported() -> None:
    assert list(upward("novelty", iter([Import("asyncjobs.errors", 1, late=False)])))


def test_a_late_import_is_found() -> None:
    tree = ast.parse("import json\nasync def f():\n    if x:\n        import os.path\n")
    assert [(found.module, found.late) for found in imports_of(tree)] == [("json", False), ("os.path", True)]


def test_a_long_function_is_found_and_its_docstring_is_free() -> None:
    body = "\n".join(["    x = 1"] * FUNCTION_LINES)
    assert list(too_long(ast.parse(f"def f():\n{body}\n")))
    short = "\n".join(["    x = 1"] * (FUNCTION_LINES - 1))
    assert not list(too_long(ast.parse(f'def f():\n    """One.\n\n    Two.\n    """\n{short}\n')))
