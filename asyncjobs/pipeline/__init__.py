"""Pipelines that keep a model fed: items from a source, worked on by coroutines, threads and processes, in batches.

`pipeline` is the face: a description, which `stages` are the parts of; `functions` makes some of them. `stream` and
`blocking` run it, for event loops and for threads. At work are `feeds` (no workers), `mapped` (a function, by one of
the `crews`), `spread` (several items of each, whose `turns` it is), `sources` and `sent` (items from a worker process);
`workshop` is what they share over all epochs, `position` where the consumer stands, `faults` decides about errors,
`collating` makes batches, `account` says who waited for whom.
"""

from asyncjobs.pipeline.blocking import SyncStream
from asyncjobs.pipeline.faults import ErrorBudget, Fault
from asyncjobs.pipeline.pipeline import Pipeline
from asyncjobs.pipeline.stream import Stream

__all__ = ["ErrorBudget", "Fault", "Pipeline", "Stream", "SyncStream"]
