"""Pipelines that keep a model fed: items from a source, worked on by coroutines, threads and processes, in batches.

`pipeline` is the face: a description, which `stages` are the parts of, made by `building` and joined by `fusing`.
`stream` and `blocking` run it, for event loops and for threads. At work are `feeds` (no workers), `mapped` (functions,
the `steps`, by one of the `crews` or a `jobcrew`), `spread` (several items of each, in their `turns`), `sources` and
`sent` (from a worker process); `workshop` is what they share over all epochs, `passage` one loop over the items,
`position` where the consumer stands, `faults` decides about errors, `collating` makes batches. `account` measures who
waits for whom, `report` says so, `picture` draws it; `stall` warns when nothing moves, with the `stacks` of what does
not.

Imports nothing: a worker process loads only what its functions need.
"""
