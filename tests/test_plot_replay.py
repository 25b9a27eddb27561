"""What the reading side of a plot makes of files that are written meanwhile, and of curves that lose points."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from asyncjobs.plotting import layout
from asyncjobs.plotting.curve import Curve
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.replay import Replay


def test_a_file_that_is_seen_before_it_is_whole_is_read_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(("loss",), 1.0, (2.0,))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(bytes(layout.KIND_NBYTES) + whole[layout.KIND_NBYTES :])
    replay = Replay(tmp_path, 100)
    assert not replay.refresh()
    with path.open("r+b") as file:
        file.write(whole[: layout.KIND_NBYTES])
    assert replay.refresh()
    assert [list(column) for column in replay.curves["loss"].points()] == [[1.0], [2.0]]
    replay.close()
    journal.close()


@pytest.mark.parametrize("last", [0.5, 99.0, nan])
@pytest.mark.parametrize("count", [20, 1000, 1024, 4096, 4097])
def test_a_curve_that_loses_points_keeps_the_last_one(count: int, last: float) -> None:
    curve = Curve(64)
    curve.extend(range(count), [step % 7 - 3.0 for step in range(count - 1)] + [last])
    xs, ys = curve.points()
    assert (xs[-1], str(ys[-1])) == (count - 1, str(last))
    assert len(xs) == len({*xs}) <= 64
