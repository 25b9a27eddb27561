"""The commands: each module reads the options of some, calls what does the work, and sets the exit code."""
