"""The console script: it imports the package, and tells in one line where that fails.

It stands beside the package, for whatever is within imports all of it. Nothing else belongs here.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line and return its exit status, as `fastopt._cli.main` does.

    Returns
    -------
    int
        1 also if an environment variable has a value that fastopt refuses, or its compiled modules
        are not there; 130 also after Ctrl-C while it is imported.
    """
    try:
        from fastopt._cli import main as run
    except KeyboardInterrupt:
        return _end("interrupted", 130)
    except (ImportError, ValueError) as error:
        return _end(f"error: {error}", 1)
    return run()


def _end(message: str, status: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"fastopt: {' '.join(message.split())}\n")
    return status
