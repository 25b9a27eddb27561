"""The way in: one gate before every request, a table of routes, thin handlers.

`connection` reads and writes HTTP, `gate` says who may come in, `api` finds the handler; nothing here
knows how jobs are stored or run (`desk` names what is asked of those who do).
"""
