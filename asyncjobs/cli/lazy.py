"""A group of commands that loads a command's module only when that command is called.

``asyncjobs jobs`` shall not pay for the benchmarks, and runs where plotly is missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """What `PLACES` names is listed by its line of help, and loaded when it is resolved."""

    PLACES: ClassVar[dict[str, str]] = {}
    """Command -> the module whose `app` has it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Swap the command's stand-in for the command itself, then go on as ever."""
        if args and args[0] in self.PLACES:
            module = import_module(self.PLACES[args[0]])
            self.commands[args[0]] = typer.main.get_group(module.app).commands[args[0]]
        return super().resolve_command(ctx, args)


def announce(app: typer.Typer, panel: str, module: str, commands: dict[str, str]) -> None:
    """Put the commands of a module, with one line of help each, under a heading of the overview."""
    for name, line in commands.items():
        LazyGroup.PLACES[name] = module
        app.command(name, help=line, rich_help_panel=panel)(_stand_in)


def _stand_in() -> None:
    """Never called: the group swaps it before it runs."""
