"""Programs end, kernels die, laptops close: the job goes on, and whoever comes later gets its log and its result."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import service_jobs
from programs import Program, launching
from services import ServiceProcess, eventually, service

import asyncjobs as aj
from asyncjobs.service.access import StateDir
from asyncjobs.service.protocol import EventView


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ServiceProcess]:
    with service(tmp_path / "state") as running:
        yield running


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    preamble = f"import asyncjobs as aj\nSTATE = {str(tmp_path / 'state')!r}\n"
    with launching(tmp_path, preamble) as start:
        yield start


def printed(program: Program, word: str) -> str:
    """What a program printed after a word."""
    program.read_until(f"<{word} ", within=60)
    program.read_until(f" {word}>")
    return re.findall(rf"<{word} (\S+) {word}>", program.output)[0]


OVERNIGHT = """
import os, sys, time

def overnight(gate):
    print("it begins")
    aj.current_job().progress(1, 2, "half")
    while not os.path.exists(gate):
        time.sleep(0.01)
    print("it ends")
    return {"gate": os.path.basename(gate)}

"""


@pytest.mark.slow
def test_F74_the_program_ends_and_another_attaches(
    running: ServiceProcess, launch: Callable[..., Program], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = launch(
        OVERNIGHT
        + f"""
with aj.connect(STATE).sync as service:
    print("<job", service.submit(overnight, {str(gate)!r}).id, "job>")
"""
    )
    job = printed(first, "job")
    assert first.ends() == 0
    second = launch(
        f"""
with aj.connect(STATE).sync as service:
    job = service.attach({job!r})
    for line in job.logs():
        print("log:", line, flush=True)
    print("result", job.result(), job.state.name, job.name)
"""
    )
    second.read_until("log: it begins")
    gate.touch()
    assert second.ends() == 0
    assert "log: it ends" in second.output
    assert "result {'gate': 'gate'} SUCCEEDED overnight" in second.output


@pytest.mark.slow
@pytest.mark.parametrize("run", ["asyncio.run", "aj.run"])
def test_streams_that_are_left_open_end_with_the_loop_without_a_word(
    running: ServiceProcess, launch: Callable[..., Program], run: str
) -> None:
    program = launch(
        f"""
import asyncio, time

def talk():
    print("begun", flush=True)
    time.sleep(0.5)

held = []

async def main():
    async with aj.connect(STATE) as service:
        job = await service.submit(talk)
        held.extend([job.events(), job.logs()])
        for stream in held:
            async for one in stream:
                break
    print("left")

{run}(main())
"""
    )
    assert program.ends() == 0
    assert program.output.split() == ["left"]


@pytest.mark.slow
def test_F74_the_submitter_is_killed_in_the_middle_of_waiting(
    running: ServiceProcess, launch: Callable[..., Program], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    kernel = launch(
        OVERNIGHT
        + f"""
import asyncio

async def cell():
    async with aj.connect(STATE) as service:
        job = await service.submit(overnight, {str(gate)!r})
        async for line in job.logs():
            print("log:", line, flush=True)
            print("<job", job.id, "job>", flush=True)

asyncio.run(cell())
"""
    )
    job = printed(kernel, "job")
    os.kill(kernel.process.pid, signal.SIGKILL)
    assert kernel.ends() == -signal.SIGKILL
    with aj.connect(running.folder).sync as client:
        attached = client.attach(job)
        eventually(lambda: attached.progress is not None)
        assert not attached.done()
        gate.touch()
        assert attached.result(timeout=30) == {"gate": "gate"}
        assert list(attached.logs()) == ["it begins", "it ends"]
        states = [event.state for event in attached.events() if hasattr(event, "state")]
    assert states == ["QUEUED", "RUNNING", "SUCCEEDED"]


@pytest.mark.slow
async def test_F72_a_waiter_outlives_the_service(running: ServiceProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with aj.connect(running.folder, timeout=30) as client:
        jobs = [await client.submit(service_jobs.add, n) for n in range(5)]
        slow = await client.submit(service_jobs.wait_for, str(gate))
        waiting = [asyncio.ensure_future(job.wait()) for job in (*jobs, slow)]
        await asyncio.gather(*waiting[:5])
        await asyncio.to_thread(running.kill)
        submitting = asyncio.ensure_future(client.submit(service_jobs.add, 100))
        await asyncio.to_thread(running.restart)
        late = await submitting
        assert await late == 100
        gate.touch()
        await waiting[5]
        assert slow.state is aj.JobState.SUCCEEDED
        assert (await slow.refresh()).attempt == 2, "the kill cost an attempt"


@pytest.mark.slow
async def test_logs_and_events_go_on_over_a_restart(running: ServiceProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with aj.connect(running.folder, timeout=30) as client:
        job = await client.submit(service_jobs.note_and_wait, str(tmp_path / "notes"), str(gate))
        await asyncio.to_thread(running.reaches, job.id, "RUNNING")
        events = job.events()
        first = await anext(events)
        await asyncio.to_thread(running.kill)
        await asyncio.to_thread(running.restart)
        gate.touch()
        kinds = [first.kind] + [event.kind async for event in events if hasattr(event, "kind")]  # type: ignore[union-attr]
    assert kinds[0] == "submitted"
    assert kinds[-1] == "succeeded"
    assert kinds.count("claimed") == 2


async def test_events_behind_the_last_of_a_job_that_has_ended_are_none_at_once(running: ServiceProcess) -> None:
    async with aj.connect(running.folder) as client:
        job = await client.submit(service_jobs.add, 1)
        told = [event async for event in job.events() if isinstance(event, EventView)]
        assert [event.state for event in told][-1] == "SUCCEEDED"
        assert [event async for event in job.events(after=told[-1].seq)] == []


async def test_what_is_submitted_in_a_row_keeps_its_order_when_its_functions_turn_out_to_go_by_value(
    tmp_path: Path,
) -> None:
    notes = tmp_path / "notes"
    with service(tmp_path / "state", allow=(), processes=1) as running:
        async with aj.connect(running.folder) as client:
            lines = [client.submit_nowait(service_jobs.append, str(notes), str(number)) for number in range(20)]
            last = client.submit_nowait(service_jobs.add, 0)
            for _ in range(20):
                last = client.submit_nowait(service_jobs.add, last.later, 1)
            assert await last == 20
            for line in lines:
                await line
    assert notes.read_text().split() == [str(number) for number in range(20)]


async def test_F83_more_at_once_than_may_wait_are_accepted_as_there_is_room(tmp_path: Path) -> None:
    with service(tmp_path / "state", "--queue-limit", "3", processes=1) as running:
        async with aj.connect(running.folder) as client, asyncio.timeout(100):
            jobs = [client.submit_nowait(service_jobs.echo, number) for number in range(12)]
            assert [await job for job in jobs] == list(range(12))


@pytest.mark.slow
async def test_a_log_that_the_end_of_the_service_cuts_is_gone_on_with(running: ServiceProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def talk(gate: str) -> None:
        print("attempt", aj.current_job().attempt)
        while not os.path.exists(gate):
            time.sleep(0.01)
        print("the end")

    async with aj.connect(running.folder, timeout=30) as client:
        job = await client.submit(talk, str(gate))
        logs = job.logs()
        lines = [await anext(logs)]
        await client.stop(0.1)
        assert await asyncio.to_thread(running.ends) == 0
        await asyncio.to_thread(running.restart)
        lines.append(await anext(logs))
        gate.touch()
        lines += [line async for line in logs]
    assert lines[0] == "attempt 1"
    assert lines[-1] == "the end"
    assert "attempt 2" in lines


@pytest.mark.slow
async def test_options_do_what_they_say(running: ServiceProcess, tmp_path: Path) -> None:
    async with aj.connect(running.folder) as client:
        assert await client.options(retries=2).run(service_jobs.fail_until, 3) == 3
        with pytest.raises(aj.JobTimeout):
            await client.options(timeout=0.2, grace=0.2).run(service_jobs.sleep, 60)
        with pytest.raises(aj.ResultTooLarge):
            await client.options(max_result=1000).run(service_jobs.large, 5000)
        retry = aj.Retry(3, backoff=0.01, on=ValueError)
        with pytest.raises(OSError, match="attempt 2"):
            await client.options(retries=retry).run(_value_then_os_error)
        first = await client.options(key="night", tags="sweep").submit(service_jobs.add, 1)
        again = await client.options(key="night", tags="sweep").submit(service_jobs.add, 1)
        assert (again.id, again.is_new) == (first.id, False)
        timed = client.options(key="timed", deadline=60)
        assert (await timed.submit(service_jobs.add, 1)).id == (await timed.submit(service_jobs.add, 1)).id
        with pytest.raises(aj.KeyConflict) as caught:
            await client.options(key="night").submit(service_jobs.add, 2)
        assert caught.value.id == first.id
        assert await first == 1
        assert [job.id for job in await client.jobs(tag="sweep")] == [first.id]
        total = await client.submit(service_jobs.add, first, y=2)  # type: ignore[arg-type]
        assert await total == 3


def _value_then_os_error() -> None:
    attempt = aj.current_job().attempt
    raise (ValueError if attempt == 1 else OSError)(f"attempt {attempt}")


@pytest.mark.slow
async def test_cancel_pause_and_resume(running: ServiceProcess) -> None:
    async with aj.connect(running.folder) as client:
        job = await client.submit(service_jobs.wait)
        await asyncio.to_thread(running.reaches, job.id, "RUNNING")
        assert await job.cancel("enough", grace=0.5) == "requested"
        with pytest.raises(aj.JobCancelled, match="enough"):
            await job
        await client.pause()
        queued = await client.submit_many(service_jobs.add, range(5))
        assert (await client.stats()).states["QUEUED"] == 5
        assert await client.cancel_all("never mind") == 5
        with pytest.raises(aj.JobCancelled, match="never mind"):
            await queued[0]
        kept = await client.submit(service_jobs.add, 1)
        await client.resume()
        assert await kept == 1


async def test_a_schedule_makes_jobs(running: ServiceProcess) -> None:
    async with aj.connect(running.folder) as client:
        made = await client.options(name="nightly", zone="Europe/Berlin").schedule("0 3 * * *", service_jobs.add, 1)
        assert (made.name, made.cron, made.zone) == ("nightly", "0 3 * * *", "Europe/Berlin")
        assert [one.name for one in await client.schedules()] == ["nightly"]
        with pytest.raises(aj.BadRequest):
            await client.options(name="never").schedule("61 * * * *", service_jobs.add, 1)
        await client.unschedule("nightly")
        assert await client.schedules() == []


@pytest.mark.slow
async def test_a_schedule_of_what_may_not_run_by_name_brings_it_along_or_is_refused(tmp_path: Path) -> None:
    with service(tmp_path / "state", "--http", "127.0.0.1:0", allow=()) as running:
        async with aj.connect(running.folder) as client:
            made = await client.options(name="often").schedule("every 1", service_jobs.add, 1)
            assert made.function == ""
            while not (jobs := await client.jobs(schedule="often")):
                await asyncio.sleep(0.05)
            assert await jobs[0] == 1
        state = StateDir.open(running.folder)
        address = state.read_address()
        assert address is not None
        async with aj.connect(url=address.url, token=state.token()) as client:
            with pytest.raises(aj.NotAllowed, match="service_jobs:add is not allowed here"):
                await client.options(name="never").schedule("every 1", service_jobs.add, 1)
            assert [one.name for one in await client.schedules()] == ["often"]


async def test_a_large_result_arrives(running: ServiceProcess) -> None:
    async with aj.connect(running.folder) as client:
        assert await client.run(service_jobs.large, 3_000_000) == b"x" * 3_000_000


@pytest.mark.slow
async def test_a_failed_job_is_replayed_as_a_new_one(running: ServiceProcess) -> None:
    async with aj.connect(running.folder) as client:
        job = await client.submit(service_jobs.fail)
        with pytest.raises(ValueError):
            await job
        again = await job.replay()
        assert again.id != job.id
        with pytest.raises(ValueError):
            await again


@pytest.mark.slow
async def test_over_tcp_with_a_token_json_is_enough(tmp_path: Path) -> None:
    with service(tmp_path / "state", "--http", "127.0.0.1:0") as running:
        state = StateDir.open(running.folder)
        address = state.read_address()
        assert address is not None
        with pytest.raises(aj.NotAuthorized):
            async with aj.connect(url=address.url, token="wrong"):
                pass
        async with aj.connect(url=address.url, token=state.token()) as client:
            assert await client.run(service_jobs.add, 1, y=2) == 3
            with pytest.raises(aj.NotSendable, match="JSON"):
                await client.submit(service_jobs.echo, {1, 2})
            with pytest.raises(aj.NotSendable, match="name"):
                await client.submit(lambda: 1)
            with pytest.raises(aj.NotAllowed):
                await client.submit(os.path.basename, "x/y")
            with pytest.raises(aj.JobError, match="failed: ValueError: it failed"):
                await client.run(service_jobs.fail)
            first = await client.submit(service_jobs.add, 1)
            assert await client.run(service_jobs.echo, {"of": [first, 5]}) == {"of": [1, 5]}
            with pytest.raises(aj.NotSendable, match="argument 1 is not what JSON can say exactly"):
                await client.submit(service_jobs.echo, {"$result": "not a reference, but a value"})
        async with aj.connect(running.folder, url=address.url, token=state.token()) as client:
            assert await client.run(service_jobs.echo, {1, 2}) == {1, 2}


# --- connect(start=True) ----------------------------------------------------------------


STARTER = """
import os
with aj.connect(STATE, start=True).sync as service:
    print("<pid", service.stats().pid, "pid>", flush=True)
    print("answer", service.run(abs, -3), flush=True)
"""


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_F79_ten_programs_at_once_start_one_service(launch: Callable[..., Program], tmp_path: Path) -> None:
    programs = [launch(STARTER) for _ in range(10)]
    pids = {int(printed(program, "pid")) for program in programs}
    try:
        assert [program.ends() for program in programs] == [0] * 10
        assert len(pids) == 1
        (pid,) = pids
        assert not gone(pid), "it outlives those who started it"
        assert psutil.Process(pid).terminal() is None
        assert os.getsid(pid) != os.getsid(0)
    finally:
        with aj.connect(tmp_path / "state").sync as client:
            client.stop(0)
        for pid in pids:
            eventually(lambda pid=pid: gone(pid), 20)  # type: ignore[misc]


async def test_a_service_is_started_where_none_runs_and_stops_when_told(tmp_path: Path) -> None:
    async with aj.connect(tmp_path / "state", start=True) as client:
        pid = (await client.stats()).pid
        assert await client.run(lambda: 7) == 7
        async with aj.connect(tmp_path / "state", start=True) as other:
            assert (await other.stats()).pid == pid
        await client.stop(0)
        await asyncio.to_thread(eventually, lambda: gone(pid), 20)
    assert "ready" in (tmp_path / "state" / "logs" / "service.out").read_text()


async def test_a_service_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    StateDir.open(folder, create=True)
    (folder / "jobs.db").write_bytes(b"this is no database, and long enough to be looked at" * 100)
    (folder / "jobs.db").chmod(0o600)
    with pytest.raises(aj.StateRefused, match=r"jobs\.db"):
        async with aj.connect(folder, start=True):
            pass
