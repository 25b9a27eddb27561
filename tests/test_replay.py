"""What is read of files that somebody else is about to write."""

from __future__ import annotations

from pathlib import Path

from asyncjobs.plotting.journal import Journal
from asyncjobs.plotting.replay import Replay


def test_a_file_that_is_seen_before_its_head_is_written_is_read_once_it_is(tmp_path: Path) -> None:
    written, seen = tmp_path / "written", tmp_path / "seen"
    written.mkdir()
    seen.mkdir()
    journal = Journal(written)
    journal.add(("loss",), 3.0, (0.5,))
    (source,) = written.iterdir()
    content = source.read_bytes()
    file = seen / source.name
    file.write_bytes(bytes(len(content)))
    replay = Replay(seen, 100)
    assert not replay.refresh()
    with file.open("r+b") as out:
        out.write(content)
    assert replay.refresh()
    assert replay.curves["loss"].points()[1].tolist() == [0.5]
    replay.close()
    journal.close()
