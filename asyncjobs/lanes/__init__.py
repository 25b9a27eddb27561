"""Where calls run: on the loop, in threads, in processes, in any Executor."""
