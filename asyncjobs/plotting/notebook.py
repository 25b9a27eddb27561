"""A plot below the cell that opened it: live while the cell computes, and a still figure once it is closed.

The live view is a widget of a few kilobytes. It is made in the cell, updated only from the sink's thread, and pushed
to: what a front end asks of a kernel is heard when the cell has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

from asyncjobs.notebook import Notebook, find_notebook
from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.page import source
from asyncjobs.plotting.still import LARGEST, bundle, frame
from asyncjobs.sync.leaving import Leaver, leave_at_exit

CELL = "jupyter:"
"""The target; a plot that is opened in a kernel has it by itself."""
LINGER_IN_NOTEBOOK = 2.0
"""Seconds that the end of a plot in a kernel waits for its sinks."""
LAST_LINGER = 1.5
"""The same when the kernel shuts down: it is killed after 2.5 s, and what follows the waiting takes time as well."""
SLOWLY = 5.0
"""Seconds between two updates without anywidget, for each of them loads a page anew."""


def is_shown_in_cells() -> bool:
    """Whether this process is a kernel whose cells can show plots."""
    notebook = find_notebook()
    return notebook is not None and notebook.has_displays and find_spec("plotly") is not None


def open_cell(target: str) -> NotebookCell:
    """The sink of the cell that runs here and now; shows that a plot will be there.

    Raises:
        ValueError: something follows the colon, or this process is no kernel.
        ModuleNotFoundError: plotly is not installed.
    """
    if target != CELL:
        raise ValueError(f"{target!r} is not allowed; the plot of a cell is {CELL!r}, and its name is the plot's title")
    notebook = find_notebook()
    if notebook is None or not notebook.has_displays:
        raise ValueError(f"{CELL!r} needs a Jupyter kernel, and this process is none; take a file such as 'loss.html'")
    return NotebookCell(notebook)


class NotebookCell:
    """The place of a plot below one cell."""

    def __init__(self, notebook: Notebook) -> None:
        self.target: str = CELL
        self._notebook = notebook
        self._cell = notebook.cell()
        self._id = uuid4().hex
        self._edition: Edition | None = None
        self._next = 0.0
        self._widget = _new_widget()
        waiting = {"text/plain": "a plot: it waits for the first points"}
        view = {} if self._widget is None else self._widget._repr_mimebundle_()[0]
        self._notebook.show(view | waiting, self._id, self._cell)

    def send(self, edition: Edition) -> None:
        """Push the edition to whoever looks at the cell; without anywidget not every one."""
        self._edition = edition
        if self._widget is not None:
            self._cell.context.copy().run(setattr, self._widget, "edition", edition.to_json())
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + SLOWLY
            self._show({"text/html": frame(edition.title, edition.figures), "text/plain": edition.title})

    def close(self) -> None:
        """Leave the newest edition as still figures; a second call does nothing."""
        edition, self._edition = self._edition, None
        if edition is not None:
            self._leave_stills(edition)
        widget, self._widget = self._widget, None
        if widget is not None:
            self._cell.context.copy().run(_end, widget)

    def _leave_stills(self, edition: Edition) -> None:
        """The first figure instead of the live view, the others below it: one output cannot hold two of them."""
        for number, (name, figure) in enumerate(edition.figures.items()):
            still = bundle(name, figure, LARGEST // len(edition.figures))
            if number == 0:
                self._show(still)
            else:
                self._notebook.show(still, f"{self._id}-{number}", self._cell)

    def _show(self, data: dict[str, Any]) -> None:
        self._notebook.show(data, self._id, self._cell, update=True)


def _end(widget: Any) -> None:
    widget.edition = ""  # or a notebook that saves its widgets would hold the figures once more
    widget.layout.close()
    widget.close()


def _new_widget() -> Any:
    """None: anywidget is not installed."""
    widget = _widget_class()
    # Now, in the cell: in the background it would count as work, after which the plot rests for seconds.
    address, integrity = source() or ("", "")
    return None if widget is None else widget(source={"address": address, "integrity": integrity})


@cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class LivePlot(anywidget.AnyWidget):
        _esm = resources.files("asyncjobs.plotting").joinpath("cell.js").read_text(encoding="utf-8")
        source = traitlets.Dict().tag(sync=True)
        edition = traitlets.Unicode().tag(sync=True)

    return LivePlot


# --- the end of the kernel ----------------------------------------------------------------


class KernelEnd:
    """Has all `plots` leave when the kernel shuts down or restarts, within the time that it leaves them.

    The runner behind the plots hears of that end too, and takes no more then: listen before it is made.
    """

    def __init__(self, plots: Iterable[Leaver]) -> None:
        self.exit_drain: float | None = 0.0
        """At the exit, we come before the plots."""
        self._plots = plots
        self._leaving = threading.Lock()
        self._is_listening = False

    def listen(self) -> None:
        """In a kernel, wait for its end; a second call does nothing."""
        notebook = find_notebook()
        if notebook is not None and not self._is_listening:
            notebook.on_shutdown(self.leave_all)
            leave_at_exit(self)
            self._is_listening = True

    def leave_all(self) -> None:
        """Block until all plots are closed; they close at the same time."""
        with self._leaving:
            leaving = [threading.Thread(target=plot.leave, args=(_last_drain(plot),)) for plot in tuple(self._plots)]
            for thread in leaving:
                thread.start()
            for thread in leaving:
                thread.join()

    def leave(self, drain: float | None) -> None:
        """The interpreter exits: let the plots leave first, if they do so in the thread that heard of the shutdown.

        While a cell computes that is not the main thread. A restart interrupts the cell meanwhile, the main thread
        comes to its end, and after an interrupt it would give nobody any time.
        """
        with self._leaving:
            pass


def _last_drain(plot: Leaver) -> float:
    return LAST_LINGER if plot.exit_drain is None else min(plot.exit_drain, LAST_LINGER)
