"""The client without `await`: the same verbs, blocking, for scripts and notebooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import service_jobs
from programs import launching
from services import eventually
from stand_in import Stand, standing

import asyncjobs as aj


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path / "state") as stand:
        yield stand


@pytest.fixture
def client(stand: Stand) -> Iterator[aj.SyncServiceClient]:
    with aj.connect(stand.state.path, timeout=5).sync as client:
        yield client


def test_the_verbs_block(client: aj.SyncServiceClient) -> None:
    job = client.submit(service_jobs.add, 2, y=3)
    assert job.result() == 5
    assert job.exception() is None
    assert job.done()
    assert job.state is aj.JobState.SUCCEEDED
    assert client.run(service_jobs.add, 1) == 1
    assert client.submit_nowait(service_jobs.add, 7).accepted().result(timeout=10) == 7
    assert [one.result() for one in client.submit_many(service_jobs.add, range(3), range(3))] == [0, 2, 4]
    assert client.submit_many(service_jobs.add, []) == []
    assert client.options(name="second").submit(service_jobs.add, job).result() == 5


def test_errors_come_with_the_traceback_of_the_other_side(client: aj.SyncServiceClient) -> None:
    job = client.submit(service_jobs.fail, "no such luck")
    with pytest.raises(ValueError, match="no such luck") as caught:
        job.result()
    assert "raise ValueError" in str(caught.value.__cause__)
    with pytest.raises(ValueError):
        client.run(service_jobs.fail)


def test_a_parameter_may_be_called_as_it_likes(client: aj.SyncServiceClient) -> None:
    def work(self: int, fn: int, timeout: int, what: int) -> int:
        return self + fn + timeout + what

    assert client.submit(work, self=1, fn=2, timeout=3, what=4).result() == 10
    assert client.run(work, self=1, fn=2, timeout=3, what=4) == 10


def test_a_result_that_does_not_come_in_time_leaves_the_job_alone(client: aj.SyncServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = client.submit(service_jobs.add, 1)
    assert job.wait(timeout=0.05) is False
    with pytest.raises(TimeoutError, match=r"within 0\.05 s; it goes on"):
        job.result(timeout=0.05)
    stand.holds.set()
    assert job.wait() is True
    assert job.result(timeout=5) == 1


def test_cancel_says_what_it_did(client: aj.SyncServiceClient, stand: Stand) -> None:
    stand.holds.clear()
    job = client.submit(service_jobs.add, 1)
    assert job.cancel("enough") == "cancelled"
    with pytest.raises(aj.JobCancelled, match="enough"):
        job.result()
    stand.holds.set()


def test_maps_advance_their_source_in_the_callers_thread(client: aj.SyncServiceClient) -> None:
    here = threading.get_ident()
    threads: set[int] = set()

    def numbers() -> Iterator[int]:
        for n in range(50):
            threads.add(threading.get_ident())
            yield n

    assert list(client.map(service_jobs.add, numbers(), lookahead=8)) == list(range(50))
    assert sorted(client.map(service_jobs.add, numbers(), ordered=False)) == list(range(50))
    assert client.map(service_jobs.add, numbers()).collect() == list(range(50))
    assert threads == {here}


def test_a_map_that_is_left_cancels_what_is_in_flight(client: aj.SyncServiceClient, stand: Stand) -> None:
    with client.map(service_jobs.add, range(100), lookahead=50) as run:
        assert next(run) == 0
        stand.holds.clear()
        assert next(run) == 1
    assert all(row.state != "QUEUED" for row in stand.rows.values())
    stand.holds.set()


def test_logs_and_events_are_plain_iterators(client: aj.SyncServiceClient, stand: Stand) -> None:
    job = client.submit(service_jobs.add, 1)
    stand.rows[job.id].log = b"one\ntwo\n"
    assert list(job.logs()) == ["one", "two"]
    assert [event.state for event in job.events() if isinstance(event, aj.service.protocol.EventView)][-1]
    for line in job.logs():
        assert line == "one"
        break
    assert job.progress is not None
    assert job.progress.note == "half"


def test_several_threads_share_a_client(client: aj.SyncServiceClient) -> None:
    results: list[int] = []

    def work(first: int) -> None:
        results.extend(client.run(service_jobs.add, n) for n in range(first, first + 20))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(60))


def test_attach_and_jobs(client: aj.SyncServiceClient) -> None:
    job = client.submit(service_jobs.add, 1)
    assert job.result() == 1
    assert client.attach(job.id).result() == 1
    assert [one.id for one in client.jobs(name="add")] == [job.id]
    with pytest.raises(aj.NoSuchJob):
        client.attach("0" * 26)


def test_it_opens_and_closes_without_a_block_too(stand: Stand) -> None:
    client = aj.connect(stand.state.path).sync
    with pytest.raises(aj.ServiceError, match="not open"):
        client.stats()
    client.open()
    job = client.submit_nowait(service_jobs.add, 3)
    with pytest.raises(aj.ServiceError, match="open already"):
        client.open()
    client.close()
    client.close()
    assert job.id in stand.rows
    with client:
        assert client.attach(job.id).result() == 3


def test_the_environment_names_the_directory_as_for_the_commands(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCJOBS_DIR", str(stand.state.path))
    with aj.connect().sync as client:
        assert client.submit(service_jobs.add, 3).id in stand.rows
    with pytest.raises(aj.ServiceNotRunning, match="nowhere"), aj.connect(stand.state.path / "nowhere").sync:
        pass


def test_with_no_service_no_thread_is_left(tmp_path: Path) -> None:
    with pytest.raises(aj.ServiceNotRunning, match=r"asyncjobs serve --dir .*nowhere`, or connect\(start=True\)"):
        aj.connect(tmp_path / "nowhere").sync.open()


@pytest.mark.slow
def test_ctrl_c_cancels_the_job_that_is_waited_for(stand: Stand, tmp_path: Path) -> None:
    stand.holds.clear()
    with launching(tmp_path, "import asyncjobs as aj\n") as launch:
        program = launch(
            f"""
            with aj.connect({str(stand.state.path)!r}).sync as service:
                kept = service.submit(abs, -1)
                print("waits", flush=True)
                service.run(abs, -2)
            """,
            terminal=True,
        )
        program.read_until("waits")
        eventually(lambda: len(stand.rows) == 2)
        program.interrupt()
        assert program.ends() != 0
        assert "KeyboardInterrupt" in program.output
    assert sorted(row.state for row in stand.rows.values()) == ["CANCELLED", "QUEUED"]
    stand.holds.set()


async def test_it_blocks_no_loop_of_its_own(stand: Stand) -> None:
    def use() -> int:
        with aj.connect(stand.state.path).sync as client:
            return client.run(service_jobs.add, 1)

    assert await asyncio.to_thread(use) == 1
