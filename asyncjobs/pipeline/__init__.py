"""Pipelines that keep a model fed: items from a source, worked on by coroutines, threads and processes, in batches.

`pipeline` is the face: a description, which `stages` are the parts of; `fusing` makes one trip of neighbours. `stream`
and `blocking` run it, for event loops and for threads. At work are `feeds` (no workers), `mapped` (functions, the
`steps`, by one of the `crews` or a `jobcrew`), `spread` and `sources`; `workshop` is what they share over all epochs,
`position` where the consumer stands, `faults` decides about errors, `collating` makes batches, `account` says who
waited for whom.

Imports nothing: a worker process loads only what its functions need.
"""
