"""The benchmark of the durable service: every row once, with a few jobs; and its load generators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asyncjobs.bench import service, serviceload, servicetaken
from asyncjobs.bench.flowlab import Lab
from asyncjobs.bench.measure import judge
from asyncjobs.bench.servicedisk import Synced, table
from asyncjobs.bench.serviceours import OURS, OurClient, ours, serving
from asyncjobs.bench.servicepeers import all_settings
from asyncjobs.bench.servicequeue import ECHO
from asyncjobs.bench.servicescale import QUICK

TINY = replace(QUICK, jobs=200, their_jobs=30, batch=50, single=20, starts=3, load=1.0, queued=2_000, idle=0.5)


def test_the_disk_says_its_kind_and_how_long_it_takes(tmp_path: Path) -> None:
    assert "fdatasync" in table()["disk"]
    with Synced(tmp_path) as synced:
        synced.write()
    assert (tmp_path / "synced").stat().st_size == 4096
    assert synced.seconds[0] > 0


@pytest.mark.slow
def test_every_row_of_the_service_is_measured() -> None:
    rows = service.measure_all(TINY)
    assert {row.title: row.failures for row in rows if row.failures} == {}
    verdicts = [verdict for row in rows for verdict in judge(row)]
    missing = [verdict.goal.what for verdict in verdicts if verdict.measured is None]
    assert missing in ([], ["tiny jobs until results are on disk"])  # huey is an extra
    assert len(verdicts) == 15


@pytest.mark.slow
def test_each_answered_request_is_a_job(tmp_path: Path) -> None:
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        client = OurClient(running)
        client.pause()
        load = serviceload.over_socket(Path(running.about()["socket"]), 2, 0.3)
        there = sum(client.states().values())
        client.close()
    assert load.accepted <= there <= load.accepted + 2
    assert load.rate > 0


@pytest.mark.slow
def test_a_refused_request_is_no_figure(tmp_path: Path) -> None:
    with serving(tmp_path, "--http", "127.0.0.1:0") as running, pytest.raises(RuntimeError, match="401"):
        serviceload.over_tcp(running.about()["url"], "wrong", 1, 0.1)


@pytest.mark.slow
def test_peers_give_right_results_with_every_setting() -> None:
    queues = all_settings()
    with Lab(lambda _: None) as lab:
        results = lab.race("t", [*queues, ours()], 1, servicetaken.batches, 100, 20, 10)
    assert results.failures == {}
    assert all(values[0] > 0 for values in results.of("done").values())
    assert results.best("done") in {OURS, *(queue.name for queue in queues)}


@pytest.mark.slow
def test_map_gives_what_the_batches_give(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        client = OurClient(running)
        assert client.mapped(ECHO, range(30)) == client.values(client.submit(ECHO, range(30)))
        assert client.ended() == 60
        client.close()


@pytest.mark.slow
def test_submits_side_by_side_are_one_job_each(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        client = OurClient(running)
        client.submit_beside(ECHO, range(30), 4)
        client.wait_for(30)
        assert sum(client.states().values()) == client.ended() == 30
        client.close()
