"""The reading side of a plot: all that its spool holds, folded into curves and frames of bounded size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asyncjobs.plotting.curve import Curve
from asyncjobs.plotting.reading import PATIENCE, Frame, FramesFile, PointsFile, batches, open_file, paths


class Replay:
    """What a spool holds; each `refresh` reads what was added since the last one.

    One thread at a time may use it. Other threads and processes may write meanwhile, unless it `is_settled`.
    """

    def __init__(self, folder: Path, max_points: int, *, is_settled: bool = False) -> None:
        self.curves: dict[str, Curve] = {}
        """By name, in the order in which they came up."""
        self.frames: dict[tuple[str, str], Frame] = {}
        """By kind and name."""
        self.rows: int = 0
        """Rows of points that were read."""
        self.voids: int = 0
        """Of these with nothing in them."""
        self.exhausted: list[str] = []
        """Files of points that were read to their very end."""
        self._folder = folder
        self._max_points = max_points
        self._patience = 0.0 if is_settled else PATIENCE
        self._files: dict[str, PointsFile | FramesFile] = {}
        self._done: set[str] = set()

    def refresh(self, beside: Iterable[str] = ()) -> bool:
        """Read what is new, in the folder and in the files `beside` it; whether there was anything.

        Raises:
            OSError: something there cannot be read.
        """
        has_points = self._read_points(beside)
        there = [*paths(self._folder), *beside]  # in the order in which they were made, as pictures are shown
        for path in self._files.keys() - there:  # another has taken its place
            self._files.pop(path).close()
        frames = [file for path in there if isinstance(file := self._opened(path), FramesFile)]
        has_frames = [self._read_frame(file) for file in frames]
        return has_points or any(has_frames)

    @property
    def is_held_up(self) -> bool:
        """Whether rows are there that wait for one before them; it is given up a moment later."""
        return any(isinstance(file, PointsFile) and file.is_held_up for file in self._files.values())

    def forget(self, path: str) -> None:
        """The file is gone, and its name may come to mean another."""
        self._done.discard(path)

    def mark(self) -> list[int]:
        """What tells this state from an earlier one of the same spool."""
        return [self.rows, max((frame.serial for frame in self.frames.values()), default=0)]

    def close(self) -> None:
        """Let the files go."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _opened(self, path: str) -> PointsFile | FramesFile | None:
        if path in self._done:
            return None
        file = self._files.get(path) or open_file(path, self._patience)
        if file is not None:  # or perhaps it is being made: look again the next time
            self._files[path] = file
        return file

    def _points(self, beside: Iterable[str]) -> list[tuple[str, PointsFile]]:
        found = [(path, self._opened(path)) for path in [*paths(self._folder), *beside]]
        return [(path, file) for path, file in found if isinstance(file, PointsFile)]

    def _read_points(self, beside: Iterable[str]) -> bool:
        before = self.rows
        for batch in batches(lambda: self._points(beside)):
            for name, steps, values in batch.points():
                self.curves.setdefault(name, Curve(self._max_points)).extend(steps, values)
            self.rows += batch.places
            self.voids += batch.places - len(batch.steps)
            batch.accept()
            self._let_go(batch.files())
        self._let_go(self._points(beside))
        return self.rows > before

    def _let_go(self, files: Iterable[tuple[str, PointsFile]]) -> None:
        """Of those that were read to their end: their memory counts as ours."""
        for path, file in files:
            if file.is_exhausted and path in self._files:
                self._files.pop(path).close()
                self._done.add(path)
                self.exhausted.append(path)

    def _read_frame(self, file: FramesFile) -> bool:
        frame = file.read()
        if frame is None:
            return False
        before = self.frames.get((frame.kind, frame.name))
        if before is not None and before.serial >= frame.serial:
            return False
        self.frames[frame.kind, frame.name] = frame
        return True
