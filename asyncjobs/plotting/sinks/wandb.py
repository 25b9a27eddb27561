"""Weights & Biases: every point that was logged, as a row of the history of this program's run."""

from __future__ import annotations

from math import isfinite
from typing import Any

from asyncjobs.plotting.rows import Rows
from asyncjobs.plotting.sinks.runs import parsed, require, spelled

STEP = "plot/step"
"""The column with the steps of `log`."""
MOST_VALUES = 30
"""So few that little comes again if the run is finished in the midst of them."""


class WandB:
    """``wandb:`` is the run that is active in this program.

    wandb numbers the rows of a run by itself and drops what comes with an earlier number. So that several plots, which
    bring their points seconds after they were logged, can share a run, each point gets a row of its own, and its step
    is a column: the curves are defined over that.

    Nobody but the program that has started a run can add to it: after its end a later one has to go on with it first.
    """

    most_values: int = MOST_VALUES

    def __init__(self, target: str) -> None:
        require("wandb", target)
        names, where = parsed(target)
        self.target: str = f"wandb:{'/'.join(names)}"
        run = _active()
        if run is None or run.path != "/".join(names):
            raise ValueError(
                f"the run of {self.target} is not active in this program{_whereabouts(where)}; a program that begins "
                f"with wandb.init(project={names[-2]!r}, id={names[-1]!r}, resume='allow') can send it what is left"
            )
        self._run = run
        self._defined: set[str] = set()

    def add(self, rows: Rows) -> None:
        self._define(rows.names)
        for step, values in rows.records():
            if isfinite(step):
                self._run.log({**values, STEP: int(step) if step.is_integer() else step})

    def close(self) -> None: ...

    def _define(self, names: list[str]) -> None:
        if not self._defined:
            self._run.define_metric(STEP, hidden=True)
        for name in names:
            if name not in self._defined and "*" not in name:  # which would mean many names
                self._run.define_metric(name, step_metric=STEP)
            self._defined.add(name)


def with_wandb_run(target: str) -> str:
    """The target with the run that is active.

    Raises:
        ValueError: there is none, or it names another.
        ModuleNotFoundError: wandb is not here.
    """
    require("wandb", target)
    names, where = parsed(target)
    if where:
        return target
    run = _active()
    if run is None:
        raise ValueError(f"{target!r} needs an active run: call wandb.init() before")
    if names and names[-1] != run.id:
        raise ValueError(f"{target!r} is not the run that is active, which is {run.id}; 'wandb:' means that one")
    return spelled("wandb", *run.path.split("/"), offline=str(run.settings.sync_dir) if run.offline else "")


def _active() -> Any:
    import wandb

    return wandb.run


def _whereabouts(where: dict[str, str]) -> str:
    folder = where.get("offline")
    return f", and it was offline: what it has is in {folder}" if folder else ""
