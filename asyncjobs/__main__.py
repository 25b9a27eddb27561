"""``python -m asyncjobs``: the command line."""

from asyncjobs.cli import main

if __name__ == "__main__":
    main()
