"""The runner without `await`: thin faces on one `Portal`, for scripts, notebooks and old programs."""
