"""Show a tqdm bar, or nothing at all, behind one small face.

All of a bar is drawn in the context in which it was made: in a notebook that is the cell where it appeared, whichever
cell asks for the rest of the results. tqdm is optional (extra ``progress``) and is loaded only when a bar is asked for.
"""

from __future__ import annotations

from contextvars import copy_context
from types import TracebackType
from typing import Any


class progress_bar:  # noqa: N801 - a context manager used as a statement
    """``with progress_bar(True, "fit", 100) as bar: bar.update(1)``."""

    def __init__(self, show: bool, name: str, total: int | None) -> None:
        self._bar: Any = None
        if show:
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                raise ImportError('progress=True needs tqdm: pip install "asyncjobs-runner[progress]"') from error
            self._context = copy_context()
            # With `miniters` of its own no thread of tqdm's draws it, which would know of no cell.
            self._bar = self._context.run(tqdm, total=total, desc=name, unit="item", miniters=1)

    def update(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._context.run(self._bar.update, count)

    def __enter__(self) -> progress_bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._context.run(self._bar.close)
