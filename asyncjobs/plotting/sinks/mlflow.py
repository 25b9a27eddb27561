"""MLflow: every point that was logged, as a metric of a run."""

from __future__ import annotations

import os
import re
import time
from math import isfinite
from pathlib import Path
from urllib.parse import urlsplit

from asyncjobs.plotting.rows import Rows
from asyncjobs.plotting.sinks.runs import parsed, require, spelled

MOST_VALUES = 1000
"""MLflow takes no more in one request, and takes all of a request or nothing."""

_SQLITE = "sqlite:///"


class MLflow:
    """``mlflow:`` is the run that is active in this program, ``mlflow:RUN_ID`` any other on the same tracking server.

    MLflow's steps are whole numbers: of others it gets the whole part, of those that are not finite nothing. A sign
    that it does not allow in the name of a metric becomes an underscore. Its times are those at which points are sent.
    """

    most_values: int = MOST_VALUES

    def __init__(self, target: str) -> None:
        require("mlflow", target)
        from mlflow import MlflowClient

        (self._run,), where = parsed(target)
        self.target: str = f"mlflow:{self._run}"
        self._client = MlflowClient(tracking_uri=_opened(where["tracking_uri"]))

    def add(self, rows: Rows) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        keys = {name: _key(name) for name in rows.names}
        metrics = [
            Metric(keys[name], value, now, int(step))
            for step, values in rows.records()
            if isfinite(step)
            for name, value in values.items()
        ]
        # In a program that has MLflow log in the background it would do so here, and lose what it could not send.
        self._client.log_batch(self._run, metrics=metrics, synchronous=True)

    def close(self) -> None: ...


def with_mlflow_run(target: str) -> str:
    """The target with its run, and where that is kept.

    Raises:
        ValueError: no run is active in this thread, or the one that it names is not there.
        ModuleNotFoundError: MLflow is not here.
    """
    require("mlflow", target)
    import mlflow

    names, where = parsed(target)
    if where:
        return target
    if names:
        run = _known("/".join(names), target)
    else:
        active = mlflow.active_run()
        if active is None:
            raise ValueError(
                f"{target!r} needs a run that is active in this thread: call mlflow.start_run() before, or name one, "
                "as in 'mlflow:RUN_ID'"
            )
        run = active.info.run_id
    return spelled("mlflow", run, tracking_uri=_kept(mlflow.get_tracking_uri()))


def _known(run: str, target: str) -> str:
    import mlflow

    try:
        mlflow.MlflowClient().get_run(run)
    except mlflow.MlflowException as error:
        raise ValueError(f"{target!r}: {error}") from None
    return run


def _kept(uri: str) -> str:
    """The tracking server as any process on this machine would understand it, without user and password."""
    path = uri.removeprefix(_SQLITE)
    if uri.startswith(_SQLITE) and not path.startswith((":", "file:")):
        return _SQLITE + os.path.abspath(path)
    if ":" not in uri:
        return Path(uri).absolute().as_uri()
    place = urlsplit(uri).netloc
    return uri.replace(place, place.rpartition("@")[2], 1) if "@" in place else uri


def _opened(kept: str) -> str:
    """What was kept, or what this process calls the same server: it may know user and password."""
    import mlflow

    here: str = mlflow.get_tracking_uri()
    return here if _kept(here) == kept else kept


def _key(name: str) -> str:
    """The name as MLflow allows it: it takes those that could be the path of a file in a folder of its own."""
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"
