"""A reader may come upon a file of a plot in the midst of its making."""

from __future__ import annotations

from pathlib import Path

from asyncjobs.plotting import layout
from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.replay import Replay


def test_a_file_that_was_seen_before_it_was_whole_is_read_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(("loss",), 0.0, (1.0,))
    (path,) = tmp_path.glob("*.points")
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    replay = Replay(tmp_path, 100)
    assert not replay.refresh()
    # All but the first bytes, as its maker writes them.
    path.write_bytes(bytes(len(layout.POINTS)) + whole[len(layout.POINTS) :])
    assert not replay.refresh()
    path.write_bytes(whole)
    assert replay.refresh()
    assert replay.rows == 1
    replay.close()
    journal.close()
