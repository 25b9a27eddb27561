"""The durable service: jobs that outlive the program, in a process of its own.

`records` are the values that cross its inner borders; `store/` writes them down, `work/` runs
jobs, `http/` lets callers in, `client/` is the callers' side.
"""
