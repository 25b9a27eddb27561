"""The other durable queues: how their workers are started, and what a client of theirs does.

The workers are a process of their own, ``python -m asyncjobs.bench.servicepeers LIBRARY FOLDER ...``, that serves until
it is killed. huey and DBOS write each commit through to the disk, as we do; FlexiQ opens SQLite with
``synchronous=NORMAL`` and cannot be told otherwise, so that a power cut takes what it accepted last.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from asyncjobs.bench import peers, probes
from asyncjobs.bench.servicequeue import FUNCTIONS, PATIENCE, Client, Queue

POLL = 0.001
"""Seconds between the looks of workers that poll: the least that each takes, for a short way to the start."""
LOOK_AGAIN = 0.01
"""Seconds between two looks for the result of one job; the instant of its start is in the result."""
READY = "ready"
HUEY, DBOS, FLEXIQ = "huey", "DBOS", "FlexiQ, no fsync"


def all_settings() -> list[Queue]:
    """Every peer that is installed, with the settings that are worth trying on two cores."""
    found = [
        *(_queue("huey", f"{HUEY}, {count} {kind}", str(count), kind) for count, kind in _HUEYS),
        *(_queue("dbos", f"{DBOS}, {threads} at once", str(threads)) for threads in (10, 100)),
        *(_queue("flexiq", f"{FLEXIQ}, {threads} threads", str(threads)) for threads in (2, 16)),
    ]
    return [queue for queue in found if peers.installed(queue.library)]


_HUEYS = ((1, "process"), (2, "process"), (4, "thread"))


def best_guess() -> list[Queue]:
    """Every peer that is installed, with the settings that were best on two cores."""
    found = [
        _queue("huey", HUEY, "2", "process"),
        _queue("dbos", DBOS, "100"),
        _queue("flexiq", FLEXIQ, "16"),
    ]
    return [queue for queue in found if peers.installed(queue.library)]


def _queue(library: str, name: str, *settings: str) -> Queue:
    version = peers.version(library) if peers.installed(library) else ""
    return Queue(name, library, version, partial(_running, library, settings))


@contextmanager
def _running(library: str, settings: Sequence[str], folder: Path) -> Iterator[Client]:
    """Its workers in a process of their own, and a client in this one."""
    command = [sys.executable, "-m", "asyncjobs.bench.servicepeers", library, str(folder), *settings]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=probes.source_environment(),
        start_new_session=True,
    ) as workers:
        try:
            assert workers.stdout is not None
            if workers.stdout.readline().strip() != READY.encode():
                raise RuntimeError(f"the workers ended with {workers.wait()} before they were ready")
            with closing(_CLIENTS[library](folder, workers.pid)) as client:
                yield client
        finally:
            os.killpg(workers.pid, signal.SIGKILL)


# --- huey -------------------------------------------------------------------------------


def _huey(folder: Path) -> tuple[Any, dict[str, Any]]:
    from huey import SqliteHuey

    app = SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=True)
    return app, {fn.__name__: app.task()(fn) for fn in FUNCTIONS}


def _serve_huey(folder: Path, count: str, kind: str) -> None:
    app, _ = _huey(folder)
    consumer = app.create_consumer(
        workers=int(count), worker_type=kind, initial_delay=POLL, max_delay=POLL, periodic=False
    )
    print(READY, flush=True)
    consumer.run()


class HueyClient(Client):
    """Tasks are put in one by one: it has no batches."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(pid)
        self._app, self._tasks = _huey(folder)

    def submit(self, function: str, values: Sequence[int]) -> list[Any]:
        return list(self._tasks[function].map(values))

    def ended(self) -> int:
        count: int = self._app.result_count()
        return count

    def values(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get(blocking=True, preserve=True, timeout=PATIENCE, max_delay=LOOK_AGAIN) for handle in handles]

    def close(self) -> None:
        self._app.storage.close()


# --- DBOS -------------------------------------------------------------------------------

_QUEUE = "bench"
_APP_VERSION = "1"


def _dbos_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'dbos.db'}"


def _serve_dbos(folder: Path, at_once: str) -> None:
    """Workflows run in its threads; the database is in WAL, which it does not choose by itself, but is faster."""
    import dbos

    with closing(sqlite3.connect(folder / "dbos.db")) as database:
        database.execute("pragma journal_mode=wal")
    config: Any = {
        "name": "bench",
        "system_database_url": _dbos_url(folder),
        "run_admin_server": False,
        "log_level": "ERROR",
        "application_version": _APP_VERSION,
    }
    dbos.DBOS(config=config)
    for fn in FUNCTIONS:
        dbos.DBOS.workflow(name=fn.__name__)(fn)
    dbos.DBOS.launch()
    dbos.DBOS.register_queue(_QUEUE, polling_interval_sec=POLL, worker_concurrency=int(at_once))
    print(READY, flush=True)
    signal.pause()


class DbosClient(Client):
    """A batch is one transaction of the caller."""

    def __init__(self, folder: Path, pid: int) -> None:
        from dbos import DBOSClient
        from sqlalchemy import create_engine

        super().__init__(pid)
        self._client = DBOSClient(system_database_url=_dbos_url(folder))
        self._engine = create_engine(_dbos_url(folder))
        self._database = sqlite3.connect(f"file:{folder / 'dbos.db'}?mode=ro", uri=True)

    def submit(self, function: str, values: Sequence[int]) -> list[Any]:
        options: Any = {"workflow_name": function, "queue_name": _QUEUE, "app_version": _APP_VERSION}
        if len(values) == 1:
            return [self._client.enqueue(options, values[0])]
        with self._engine.begin() as transaction:
            return [self._client.enqueue_in_transaction(transaction, options, value) for value in values]

    def ended(self) -> int:
        rows = self._database.execute("select count(*) from workflow_status where status = 'SUCCESS'")
        count: int = rows.fetchone()[0]
        return count

    def values(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get_result(polling_interval_sec=LOOK_AGAIN) for handle in handles]

    def close(self) -> None:
        self._database.close()
        self._engine.dispose()
        self._client.destroy()


# --- FlexiQ -----------------------------------------------------------------------------


def _flexiq(folder: Path, threads: int = 1) -> tuple[Any, dict[str, Any]]:
    from flexiq import Queue as Flexiq

    # Its push wakes workers of the same process only; those of another one then look every two seconds.
    queue: Any = Flexiq(
        str(folder / "flexiq.db"),
        workers=threads,
        push_dispatch=False,
        scheduler_poll_interval_ms=round(POLL * 1000),
        scheduler_batch_size=100,
    )
    return queue, {fn.__name__: queue.task(name=fn.__name__)(fn) for fn in FUNCTIONS}


def _serve_flexiq(folder: Path, threads: str) -> None:
    queue, _ = _flexiq(folder, int(threads))
    print(READY, flush=True)
    os.dup2(2, 1)  # it greets
    queue.run_worker()


class FlexiqClient(Client):
    """A batch is one transaction."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(pid)
        self._queue, self._tasks = _flexiq(folder)

    def submit(self, function: str, values: Sequence[int]) -> list[Any]:
        if len(values) == 1:
            return [self._tasks[function].delay(values[0])]
        return list(self._queue.enqueue_many(function, [(value,) for value in values]))

    def ended(self) -> int:
        count: int = self._queue.stats()["completed"]
        return count

    def values(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result(timeout=PATIENCE) for handle in handles]

    def close(self) -> None:
        self._queue.close()


_CLIENTS: dict[str, Callable[[Path, int], Client]] = {"huey": HueyClient, "dbos": DbosClient, "flexiq": FlexiqClient}
_SERVERS: dict[str, Callable[..., None]] = {"huey": _serve_huey, "dbos": _serve_dbos, "flexiq": _serve_flexiq}


def main(library: str, folder: str, *settings: str) -> None:
    """Serve until somebody kills us."""
    _SERVERS[library](Path(folder), *settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
