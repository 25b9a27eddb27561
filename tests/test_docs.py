"""The pages keep their promises: every Python block runs and prints what stands below it, every public name is
mentioned, links lead somewhere, and the tables that repeat the code agree with it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from test_floors import FLOORS

import asyncjobs
import asyncjobs.testing
from asyncjobs import ProcessLane, errors
from asyncjobs.cli import app, exits
from asyncjobs.cli.lazy import LazyGroup
from asyncjobs.options import NAMES
from asyncjobs.service import errors as service_errors
from asyncjobs.service import host
from asyncjobs.service.client.options import ServiceOptions
from asyncjobs.service.http.routes import ROUTES
from asyncjobs.state import MOVES, Event
from asyncjobs.stats import LaneStats, Stats

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"\s*It prints(?P<how>[^:\n]*):\n\n```text\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
MOVES_TABLE = re.compile(r"<!-- moves -->\n(.*)<!-- /moves -->", re.DOTALL)


COMMAND = re.compile(r"\basyncjobs ([a-z]+(?: [a-z]+)?)\b([^`\n|]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")


class Block(NamedTuple):
    """A Python block, and what the page says that it prints."""

    name: str
    code: str
    prints: list[str] | None
    any_order: bool


def text_of(page: Path) -> str:
    """A page as it is."""
    return page.read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """The Python blocks of all pages."""
    found = []
    for page in PAGES:
        text = text_of(page)
        for number, fence in enumerate((match for match in FENCE.finditer(text) if match[1] == "python"), 1):
            said = PRINTS.match(text, fence.end())
            lines = stripped(said["text"]) if said else None
            found.append(Block(f"{page.stem}-{number}", fence[2], lines, bool(said) and "order" in said["how"]))
    return found


def options_in(page: Path) -> list[tuple[str, str]]:
    """The options that a page gives to commands of ours, beside the commands."""
    text = text_of(page).replace("\\\n", " ")
    return [(words, option) for words, rest in COMMAND.findall(text) for option in OPTION.findall(rest)]


def _known_to(words: list[str]) -> set[str]:
    """The options of the innermost command that the words name; what follows is an argument of it."""
    command = typer.main.get_command(app.app)
    context = typer.Context(command)
    while words and hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
        context = typer.Context(command, parent=context)
    return {name for parameter in command.get_params(context) for name in parameter.opts}


def stripped(text: str) -> list[str]:
    """The lines, without blanks at their ends: editors remove those."""
    return [line.rstrip() for line in text.splitlines()]


def moves_table() -> str:
    """The state table in Markdown, made from the dict that the code moves by."""
    rows = [["from", *(event.name for event in Event)], ["---"] * (len(Event) + 1)]
    for state, moves in MOVES.items():
        if moves:
            rows.append([state.name, *(moves[event].name if event in moves else "" for event in Event)])
    return "".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in row) + "|\n" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in blocks()])
def test_block_runs_and_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    if block.prints is not None:
        printed, promised = stripped(done.stdout), block.prints
        if block.any_order:
            printed, promised = sorted(printed), sorted(promised)
        assert printed == promised


def test_most_blocks_say_what_they_print() -> None:
    assert sum(block.prints is not None for block in blocks()) >= 15


@pytest.mark.parametrize("name", dir(asyncjobs))
def test_public_name_is_in_the_docs(name: str) -> None:
    pages = "\n".join(text_of(page) for page in PAGES)
    assert re.search(rf"\b{name}\b", pages), f"{name} is on no page"


@pytest.mark.parametrize("name", asyncjobs.testing.__all__)
def test_name_of_the_test_kit_is_in_the_docs(name: str) -> None:
    assert re.search(rf"\b{name}\b", text_of(ROOT / "docs" / "testing.md"))


@pytest.mark.parametrize("option", NAMES)
def test_option_is_in_the_quickstart(option: str) -> None:
    assert f"| `{option}` |" in text_of(ROOT / "docs" / "quickstart.md")


@pytest.mark.parametrize("record", [LaneStats, Stats], ids=lambda record: record.__name__)
def test_every_figure_is_in_the_statistics(record: type[LaneStats | Stats]) -> None:
    page = text_of(ROOT / "docs" / "statistics.md")
    names = {*record.__annotations__} - {"lane", "kind"}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("setting", inspect.signature(ProcessLane).parameters)
def test_setting_of_the_process_lane_is_in_its_table(setting: str) -> None:
    table = text_of(ROOT / "docs" / "lanes.md").partition("setting of `aj.ProcessLane`")[2]
    assert re.search(rf"^\| .*`{setting}`", table, re.MULTILINE)


def test_table_of_moves_is_the_code() -> None:
    """When this fails, put the text that it shows between the two markers."""
    written = MOVES_TABLE.search(text_of(ROOT / "docs" / "errors.md"))
    assert written
    assert written[1] == moves_table()


def test_tree_of_errors_is_the_code() -> None:
    page = text_of(ROOT / "docs" / "errors.md")
    assert errors.__doc__
    tree = [line.strip() for line in errors.__doc__.splitlines() if "── " in line and "QueueFull" not in line]
    assert len(tree) > 10
    assert [line for line in tree if line not in page] == []


def test_the_house_in_the_docs_is_the_one_that_the_tests_hold() -> None:
    house = text_of(ROOT / "docs" / "design.md").partition("## The house")[2].partition("## One job's path")[0]
    rows = re.findall(r"^\| (\w+) \| ([^|]*) \|", house, re.MULTILINE)
    drawn = {name: floor for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    package = ROOT / "asyncjobs"
    standing = {path.stem for path in package.glob("*.py")}
    standing |= {path.parent.name for path in package.glob("*/__init__.py")}
    floors = {name: str(number) for number, row in enumerate(FLOORS) for name in row & standing - {"__main__"}}
    floors |= dict.fromkeys(("testing", "bench", "cli"), "above")
    assert drawn == floors


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", text_of(page))
    targets = {link.partition("#")[0] for link in LINK.findall(prose)} - {""}
    here = {target for target in targets if "://" not in target}
    assert [target for target in sorted(here) if not (page.parent / target).is_file()] == []


def test_tree_of_the_services_errors_is_the_code() -> None:
    page = text_of(ROOT / "docs" / "errors.md")
    assert service_errors.__doc__
    tree = [line.strip() for line in service_errors.__doc__.splitlines() if "── " in line]
    assert len(tree) > 10
    assert [line for line in tree if line not in page] == []
    kinds = [kind.__name__ for kind in vars(service_errors).values() if isinstance(kind, type)]
    told = page.partition("exit code of the command line:")[2].partition("## Final states")[0]
    assert {name for name in kinds if f"| `{name}` |" not in told} == {"AsyncJobsError", "ServiceError"}


def test_exit_codes_of_the_service_are_the_code() -> None:
    table = text_of(ROOT / "docs" / "service.md").partition("| code | meaning |")[2].partition("\n\n")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    known = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert told == known | {host.NOT_MADE}


def test_every_command_is_in_the_docs() -> None:
    pages = "\n".join(text_of(page) for page in PAGES)
    assert app.app.registered_commands
    for name in LazyGroup.PLACES:
        assert re.search(rf"(?:asyncjobs |\| |, )`?{name}\b", pages), f"{name} is on no page"


@pytest.mark.parametrize(
    ("command", "option"), sorted({(words, option) for page in PAGES for words, option in options_in(page)})
)
def test_every_option_of_a_command_in_the_docs_exists(command: str, option: str) -> None:
    assert option in _known_to(command.split()), f"asyncjobs {command} has no option {option}"


def test_every_route_is_in_the_docs() -> None:
    api = text_of(ROOT / "docs" / "service.md").partition("| route | |")[2].partition("\n\n")[0]
    for route in ROUTES:
        path = route.path.replace("{id}", "ID").replace("{name}", "NAME").removeprefix("/v1/jobs/ID")
        assert path in api, f"{route.method} {route.path} is not in the table"


def test_every_option_of_a_service_job_is_in_its_table() -> None:
    table = text_of(ROOT / "docs" / "service.md").partition("| option | meaning |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert told == set(ServiceOptions._fields)
