"""The jobs on disk: one SQLite database, one connection, one thread; `store.Store` is its face.

Everything in this folder runs on that one thread, except `store.py` and the waiting side of `database.py`.
"""
