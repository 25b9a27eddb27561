"""Which notebook cell asked for something: what is printed for it carries on to that cell.

All that is known of Jupyter kernels is known here. A kernel's streams find the cell in a context variable; without one
they write to the newest cell, so text that belongs to no cell is logged instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakMethod

logger: logging.Logger = logging.getLogger("asyncjobs")

LAST_DRAIN = 0.5
"""Seconds that jobs get to end when their kernel is shut down or restarted."""
LAST_GRACE = 0.2
"""Seconds that they get to stop after that."""


class Cell:
    """Where the output belongs of what is submitted here and now: the streams, and the context that names the cell."""

    __slots__ = ("context", "header", "streams")

    def __init__(self, header: object) -> None:
        self.header: object = header
        self.streams: dict[str, Any] = {"stdout": sys.stdout, "stderr": sys.stderr}
        self.context: Context = copy_context()


class Run(NamedTuple):
    """One execution of a cell."""

    cell: str
    """What the front end calls it; its code, if it does not say."""
    request: str


class Notebook:
    """The kernel that we run in: where the output of workers goes, and when it ends."""

    def __init__(self, shell: Any = None) -> None:
        self._shell = shell
        self._latest: Cell | None = None

    def cell(self) -> Cell:
        """The cell that the caller runs for; one object for all that one cell submits in a row."""
        latest = self._latest
        variable = _variable(sys.stdout)
        header = None if variable is None else variable.get(None)
        if (
            latest is None
            or variable is None
            or header is not latest.header
            or sys.stdout is not latest.streams["stdout"]
            or sys.stderr is not latest.streams["stderr"]
        ):
            latest = self._latest = Cell(header)
        return latest

    def begin(self, stream: str, text: str, cell: Cell | None) -> Callable[[], object]:
        """Write `text` to its cell, and return what is left to do, which may block.

        A kernel's stream takes text without waiting: whoever hears that a job has ended finds
        there what it printed, and the kernel sends it before it says that the cell has ended.
        """
        target = None if cell is None else cell.streams[stream]
        if cell is None or target is None or not _finds_cell(target, cell.context):
            return partial(_log, text)
        # Copies, for a context is entered by one at a time.
        if _variable(target) is None:
            return partial(cell.context.copy().run, _write, target, text)
        cell.context.copy().run(target.write, text)
        return target.flush  # type: ignore[no-any-return]

    @property
    def has_displays(self) -> bool:
        """Whether a cell can show more than text."""
        return self._shell is not None

    def run(self) -> Run | None:
        """The execution that the caller belongs to; None: the kernel does not tell."""
        parent = self._shell.kernel.get_parent("shell") if self.has_displays else {}
        cell = parent.get("metadata", {}).get("cellId") or parent.get("content", {}).get("code")
        return Run(cell, parent["header"]["msg_id"]) if cell else None

    def show(self, data: dict[str, Any], display_id: str, cell: Cell, *, update: bool = False) -> None:
        """Show the MIME bundle `data` in its cell, or instead of what has that id already; from any thread."""
        publish = partial(self._shell.display_pub.publish, data=data, transient={"display_id": display_id})
        cell.context.copy().run(publish, update=update)

    def on_shutdown(self, method: Callable[[], object]) -> Callable[[], object]:
        """Call the bound `method`, in any thread, when the kernel begins to shut down; the answer takes that back.

        An exit hook would be too late: a kernel first sees to the end of the processes in its group, and
        multiprocessing's resource tracker, one of them, does not heed it for seconds. Keeps nothing alive.
        """
        if self._shell is None:
            return bool
        weak = WeakMethod(method)

        def heard(change: Any) -> None:
            still = weak()
            if change["new"] and still is not None:
                still()

        self._shell.observe(heard, names="exit_now")
        return partial(self._shell.unobserve, heard, names="exit_now")


def find_notebook() -> Notebook | None:
    """The kernel that this process is, if it is one."""
    kernelbase = sys.modules.get("ipykernel.kernelbase")
    if kernelbase is None or not kernelbase.Kernel.initialized():
        return None
    return Notebook(getattr(kernelbase.Kernel.instance(), "shell", None))


def _variable(target: object) -> ContextVar[Any] | None:
    """Where a kernel's stream looks for the cell; None: it is another stream, or one of before ipykernel 6.29."""
    found = getattr(target, "_parent_header", None)
    return found if isinstance(found, ContextVar) else None


def _finds_cell(target: object, context: Context) -> bool:
    """Whether what is written to `target` in `context` can only reach the cell that the context is of."""
    variable = _variable(target)
    if variable is not None:
        return bool(context.get(variable))
    return not hasattr(target, "parent_header")  # an old kernel's stream has the newest cell; what is no kernel's, none


def _write(target: Any, text: str) -> None:
    target.write(text)
    target.flush()


def _log(text: str) -> None:
    """Log `text`, in no cell even if the log goes to the kernel's streams."""
    Context().run(_log_nowhere, text)


def _log_nowhere(text: str) -> None:
    for target in (sys.stdout, sys.stderr):
        variable = _variable(target)
        if variable is not None:
            variable.set({})
    logger.info("%s", text.rstrip("\n"))
