"""Trackio: every point that was logged, in the local database of a project."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from asyncjobs.plotting.rows import Rows
from asyncjobs.plotting.sinks.runs import parsed, require, spelled

RESERVED = frozenset({"metrics", "project", "run", "step", "time", "timestamp"})
"""Names that Trackio keeps for itself; as it does, we put two underscores before them."""


class Trackio:
    """``trackio:`` is the run that is active in this program.

    Points go into the database of its project, past the queue of the run, which tells nobody what it has lost.
    Trackio's steps are whole numbers: of others it gets the whole part, of those that are not finite nothing.
    """

    def __init__(self, target: str) -> None:
        require("trackio", target)
        (self._project, self._name), where = parsed(target)
        self.target: str = f"trackio:{self._project}/{self._name}"
        self._run = where["run"]
        here = _folder()
        if where["folder"] != here:
            raise ValueError(
                f"{self.target} is in {where['folder']}, and this program's trackio works in {here}: set TRACKIO_DIR"
            )
        run = _active()
        # Trackio writes it beside the first point of its own, which may never come.
        self._config = run.config if run is not None and run.id == self._run else None

    def add(self, rows: Rows) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        names = {name: f"__{name}" if name in RESERVED or name.startswith("__") else name for name in rows.names}
        points = [
            (int(step), {names[name]: value for name, value in values.items()})
            for step, values in rows.records()
            if isfinite(step)
        ]
        SQLiteStorage.bulk_log(
            project=self._project,
            run=self._name,
            run_id=self._run,
            metrics_list=[values for _, values in points],
            steps=[step for step, _ in points],
            config=self._config,
        )
        self._config = None

    def close(self) -> None: ...


def with_trackio_run(target: str) -> str:
    """The target with the run that is active, and the folder of its database.

    Raises:
        ValueError: there is none, it is not in a database on this machine, or the target names another.
        ModuleNotFoundError: trackio is not here.
    """
    require("trackio", target)
    names, where = parsed(target)
    if where:
        return target
    if names:
        raise ValueError(f"{target!r} is not allowed; allowed: 'trackio:', which means the run that is active")
    run = _active()
    if run is None:
        raise ValueError(f"{target!r} needs an active run: call trackio.init() before")
    if run.url is not None or _is_of_fragments():
        raise ValueError(
            f"{target!r} goes to a run in a database on this machine, which {run.name!r} is not: call trackio.init() "
            "without space_id and server_url, with TRACKIO_STORAGE_MODE=sqlite, and `trackio sync` later"
        )
    return spelled("trackio", run.project, run.name, run=run.id, folder=_folder())


def _active() -> Any:
    from trackio.context_vars import current_run

    return current_run.get()


def _is_of_fragments() -> bool:
    """Whether it keeps files for later instead of a database, as on a file system of a network."""
    from trackio.utils import get_storage_mode

    return bool(get_storage_mode() != "sqlite")


def _folder() -> str:
    from trackio.utils import TRACKIO_DIR

    return str(Path(TRACKIO_DIR).absolute())
