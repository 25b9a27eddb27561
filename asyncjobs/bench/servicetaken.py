"""What ``asyncjobs bench service`` measures of one queue, once; called in an interpreter of its own (`flowlab`).

Every call has a folder of its own, below that for temporary files: set TMPDIR for another disk.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncjobs.bench import memory, processor_time, serviceload
from asyncjobs.bench.measure import spread
from asyncjobs.bench.servicedisk import Synced
from asyncjobs.bench.serviceload import Load
from asyncjobs.bench.serviceours import OurClient, Serving, serving
from asyncjobs.bench.servicequeue import ECHO, Client, Queue

Figures = dict[str, float]

WARM_UP = 20
SETTLE = 1.0
"""Seconds that a start leaves behind before something idle is looked at."""
STEPS = 20
"""Looks at the memory while jobs pile up."""
CHUNK = 1_000


@contextmanager
def _opened(queue: Queue) -> Iterator[Client]:
    with _folder() as folder, queue.open(folder) as client:
        handles = client.submit(ECHO, range(WARM_UP))
        if client.values(handles) != list(range(WARM_UP)):
            raise RuntimeError("wrong results")
        client.wait_for(WARM_UP)
        yield client


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="asyncjobs-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# --- jobs -------------------------------------------------------------------------------


def batches(queue: Queue, jobs: int, their_jobs: int, batch: int) -> Figures:
    """Jobs per second from the first submit until all results are on disk; workers warm."""
    jobs = jobs if queue.is_ours else their_jobs
    with _opened(queue) as client:
        before, handles = client.ended(), []
        began = time.perf_counter()
        for start in range(0, jobs, batch):
            handles = client.submit(ECHO, range(start, min(start + batch, jobs)))
        accepted = time.perf_counter() - began
        client.wait_for(before + jobs)
        done = time.perf_counter() - began
        if client.values(handles) != list(range(jobs - len(handles), jobs)):
            raise RuntimeError("wrong results")
    return {"done": jobs / done, "accepted": jobs / accepted}


def mapped(queue: Queue, jobs: int) -> Figures:
    """Jobs per second until every result is in the client's hands."""
    with _opened(queue) as client:
        assert isinstance(client, OurClient)
        began = time.perf_counter()
        values = client.mapped(ECHO, range(jobs))
        elapsed = time.perf_counter() - began
        if values != list(range(jobs)):
            raise RuntimeError("wrong results")
    return {"done": jobs / elapsed}


def one_by_one(queue: Queue, jobs: int) -> Figures:
    """Jobs per second, each submitted when the one before is on disk; they run meanwhile."""
    with _opened(queue) as client:
        began = time.perf_counter()
        client.submit_each(ECHO, range(jobs))
        elapsed = time.perf_counter() - began
        client.wait_for(WARM_UP + jobs)
    return {"accepted": jobs / elapsed}


def side_by_side(queue: Queue, jobs: int, width: int) -> Figures:
    """The same with so many submits in flight, each of one job."""
    with _opened(queue) as client:
        began = time.perf_counter()
        client.submit_beside(ECHO, range(jobs), width)
        elapsed = time.perf_counter() - began
        client.wait_for(WARM_UP + jobs)
    return {"accepted": jobs / elapsed}


def start(queue: Queue, jobs: int) -> Figures:
    """The median way from a submit to the start of the job, in turns with fdatasync on the same disk."""
    with _opened(queue) as client, _folder() as folder, Synced(folder) as synced:
        client.delays(3, lambda: None)
        delay = statistics.median(client.delays(jobs, synced.write))
        sync = statistics.median(synced.seconds)
    return {"delay": delay, "fdatasync": sync, "above": delay - 1.5 * sync}


# --- requests ---------------------------------------------------------------------------


def requests(queue: Queue, seconds: float, connections: int, paused: bool) -> Figures:
    """Answers per second to requests that submit one job each; every one that was answered is in the database."""
    how = queue.name
    with _folder() as folder, serving(folder, "--http", "127.0.0.1:0") as service:
        client = OurClient(service)
        try:
            client.values(client.submit(ECHO, range(WARM_UP)))
            if paused:
                client.pause()
            load = _loaded(how, service, seconds, connections)
            there = sum(client.states().values()) - WARM_UP
        finally:
            client.close()
    if not load.accepted <= there <= load.accepted + connections:
        raise RuntimeError(f"{load.accepted} jobs were accepted, and {there} are there")
    return {"accepted": load.rate}


def _loaded(how: str, service: Serving, seconds: float, connections: int) -> Load:
    if how == UNIX:
        return serviceload.over_socket(Path(service.about()["socket"]), connections, seconds)
    take = serviceload.wrk if how == WRK else serviceload.over_tcp
    return take(service.about()["url"], service.token(), connections, seconds)


WRK, TCP, UNIX = "wrk", "own generator, TCP", "own generator, unix socket"


# --- a million --------------------------------------------------------------------------


def queued(_: Queue, count: int) -> Figures:
    """So many jobs wait: the pace and the memory while they are accepted, and how long a restart takes."""
    _check_proc()
    with _folder() as folder:
        with serving(folder, "--queue-limit", str(2 * count)) as service:
            client = OurClient(service)
            try:
                client.values(client.submit(ECHO, range(WARM_UP)))
                client.pause()
                found = _piled_up(client, count)
            finally:
                client.close()
            found["stopped in"] = service.end()
        with serving(folder, "--queue-limit", str(2 * count)) as service:
            found["ready after a stop"] = service.ready_after
            service.end(signal.SIGKILL)
        with serving(folder, "--queue-limit", str(2 * count)) as service:
            found["ready after SIGKILL"] = service.ready_after
            found |= _worked_off(service, count)
        found["bytes on disk per job"] = (folder / "state" / "jobs.db").stat().st_size / count
    return found


def _piled_up(client: OurClient, count: int) -> Figures:
    step = count // STEPS
    rates, sizes = [], []
    for _ in range(STEPS):
        began = time.perf_counter()
        for start in range(0, step, CHUNK):
            client.submit(ECHO, range(start, min(start + CHUNK, step)))
        rates.append(step / (time.perf_counter() - began))
        sizes.append(memory.of_process(client.pid))
    quarter = STEPS // 4
    return {
        "accepted": STEPS / sum(1 / rate for rate in rates),
        "first quarter": spread(rates[:quarter]).median,
        "last quarter": spread(rates[-quarter:]).median,
        "flat": spread(rates[-quarter:]).median / spread(rates[:quarter]).median,
        # The first twentieth fills caches of a fixed size.
        "growth": float(max(sizes[1:]) - sizes[0]),
        "memory": float(sizes[-1]),
    }


def _worked_off(service: Serving, count: int) -> Figures:
    """How many jobs a second are done of so many, and what the service holds meanwhile."""
    client = OurClient(service)
    try:
        states = client.states()
        if states.get("QUEUED") != count:
            raise RuntimeError(f"of {count} jobs there are {states}")
        before, began = client.ended(), time.perf_counter()
        client.resume()
        time.sleep(min(5.0, count / 10_000))
        done = client.ended() - before
        elapsed = time.perf_counter() - began
        return {"worked off": done / elapsed, "memory at work": float(memory.of_process(service.pid))}
    finally:
        client.close()
        service.end(signal.SIGKILL)


# --- nothing to do ----------------------------------------------------------------------


def fresh(_: Queue, seconds: float) -> Figures:
    """A service that never had a job: processor time over time, memory of its process, processes beside it."""
    _check_proc()
    with _folder() as folder, serving(folder) as service:
        time.sleep(SETTLE)
        return {
            "share": _share(service.pid, seconds),
            "memory": float(memory.of_process(service.pid)),
            "workers": float(len(processor_time.family(service.pid)) - 1),
            "ready": service.ready_after,
        }


def used(queue: Queue, seconds: float) -> Figures:
    """A queue that has run jobs and has none: processor time over time, memory of all its processes."""
    _check_proc()
    with _opened(queue) as client:
        time.sleep(SETTLE)
        return {"share": _share(client.pid, seconds), "memory": float(memory.of_family(client.pid))}


def _share(pid: int, seconds: float) -> float:
    used, since = processor_time.of_family(pid), time.monotonic()
    time.sleep(seconds)
    return (processor_time.of_family(pid) - used) / (time.monotonic() - since)


def _check_proc() -> None:
    if not processor_time.available():
        raise RuntimeError("needs /proc to read the memory and the processor time of other processes")
