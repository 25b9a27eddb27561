"""Show a tqdm bar, or nothing at all, behind one small face.

tqdm is optional (extra ``progress``) and is loaded only when a bar is asked for.
"""

from __future__ import annotations

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
            self._bar = tqdm(total=total, desc=name, unit="item")

    def update(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> progress_bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
