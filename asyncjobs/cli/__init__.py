"""Start the command line, or say which extra to install when its libraries are missing.

The commands themselves are in `app`.
"""

from __future__ import annotations

import sys

_LIBRARIES = {
    **dict.fromkeys(("rich", "typer", "click"), "cli"),
    **dict.fromkeys(("plotly", "numpy"), "demo"),
    "kaleido": "demo,image",
    "distributed": "dask",
    **dict.fromkeys(("cronsim", "httptools", "msgspec"), "cli,service"),
}
"""What may be missing, and the extras that bring it."""


def main() -> None:
    """Run the command line with `sys.argv`; exits with 2 when an extra is missing."""
    try:
        # Typer and rich come with an extra; without them this very line is what fails.
        from asyncjobs.cli.app import app

        app(prog_name="asyncjobs")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _LIBRARIES:
            raise
        print(f'this command needs {missing}: pip install "asyncjobs-runner[{_LIBRARIES[missing]}]"', file=sys.stderr)
        sys.exit(2)
