"""Background plotting: a training loop hands points and pictures over and goes on.

The way of a point: `Plot.log` writes it into the `journal` (memory mapped, it survives `kill -9`), the `studio` reads
it on a loop of its own at most twice a second, folds it into a `curve` of bounded length, and has what changed
rendered (`figures`) and sent (`sinks`) in threads.
"""
