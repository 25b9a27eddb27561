"""The README keeps its promises: two commands, one line each, examples that are Python, links that lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

COMMAND = re.compile(r"^<!-- command: (\w+) -->\n```sh\n(.*?)```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def examples() -> list[str]:
    """The Python blocks."""
    return [body for language, body in FENCE.findall(README) if language == "python"]


def test_there_are_exactly_two_commands_of_one_line() -> None:
    commands = dict(COMMAND.findall(README))
    assert list(commands) == ["demo", "test"]
    assert all(body.count("\n") == 1 for body in commands.values())
    assert README.count("```sh\n") == 2


def test_each_command_does_its_own_set_up() -> None:
    for name, command in COMMAND.findall(README):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install "), name


@pytest.mark.parametrize("example", examples())
def test_example_compiles(example: str) -> None:
    compile(example, "README.md", "exec")


PRINTS = (["a blocking call, in a thread", "[1.0, 4.0, 9.0]"], ["9.0"])


@pytest.mark.slow
@pytest.mark.parametrize(("example", "prints"), [*zip(examples(), PRINTS, strict=True)])
def test_example_runs_as_a_script_without_a_main_guard(example: str, prints: list[str], tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == prints
    assert done.stderr == ""


def test_example_is_short() -> None:
    assert all(len(example.splitlines()) <= 15 for example in examples())


@pytest.mark.parametrize("target", sorted(set(LINK.findall(README))))
def test_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()
