"""The callers' side of the service: `aj.connect`, the verbs, and the jobs that they hand out.

`transport` speaks HTTP, `api` repeats what may be repeated, `outbox` sends jobs and `endings` hears of
their ends; `client` and `job` are what users hold, `sync` the same without `await`.
"""
