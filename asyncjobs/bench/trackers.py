"""The trackers that people log scalars to, each as its documentation says is fastest; nothing leaves the machine."""

from __future__ import annotations

import functools
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from asyncjobs.bench import peers

Log = Callable[[int, float, float, float], object]
"""Take the step's number and three scalars."""


class Tracker(NamedTuple):
    """One of them."""

    packages: Sequence[str]
    """What it needs, itself first."""
    start: Callable[[], AbstractContextManager[Log]]
    """Leaving it waits until all is written."""

    @property
    def is_here(self) -> bool:
        return all(map(peers.installed, self.packages))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """One for the whole process: MLflow takes seconds to make a database, Trackio learns of its folder once."""
    return tempfile.TemporaryDirectory(prefix="asyncjobs-trackers-", ignore_cleanup_errors=True)


@contextmanager
def _tensorboard() -> Iterator[Log]:
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder, max_queue=100_000) as writer:

        def log(step: int, train: float, val: float, rate: float) -> None:
            writer.add_scalar("train", train, step)
            writer.add_scalar("val", val, step)
            writer.add_scalar("rate", rate, step)

        yield log


@contextmanager
def _mlflow() -> Iterator[Log]:
    # Without it every call becomes a transaction of its own: 3,000 calls were 56 s behind.
    os.environ["MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS"] = "1"
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{_folder().name}/runs.db")
    with mlflow.start_run():
        yield lambda step, train, val, rate: mlflow.log_metrics(
            {"train": train, "val": val, "rate": rate}, step=step, synchronous=False
        )
        mlflow.flush_async_logging()


@contextmanager
def _wandb() -> Iterator[Log]:
    import wandb

    quiet = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
    with wandb.init(mode="offline", dir=_folder().name, settings=quiet) as run:
        yield lambda step, train, val, rate: run.log({"train": train, "val": val, "rate": rate})


@contextmanager
def _trackio() -> Iterator[Log]:
    os.environ["TRACKIO_DIR"] = str(Path(_folder().name) / "trackio")
    import trackio

    with redirect_stdout(io.StringIO()):
        trackio.init("bench", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    yield lambda step, train, val, rate: trackio.log({"train": train, "val": val, "rate": rate}, step=step)
    with redirect_stdout(io.StringIO()):
        trackio.finish()


TRACKERS: Mapping[str, Tracker] = {
    "tensorboardX": Tracker(["tensorboardX"], _tensorboard),
    "mlflow, asynchronous": Tracker(["mlflow", "sqlalchemy", "alembic"], _mlflow),
    "wandb, offline": Tracker(["wandb"], _wandb),
    "trackio, local": Tracker(["trackio"], _trackio),
}


def here() -> dict[str, Tracker]:
    """Those that are installed."""
    return {name: tracker for name, tracker in TRACKERS.items() if tracker.is_here}


def absent() -> str:
    """A sentence for the note of a measurement, which names the others; empty if there are none."""
    missing = [tracker.packages[0] for tracker in TRACKERS.values() if not tracker.is_here]
    return f" Not installed here: {', '.join(missing)}." if missing else ""
