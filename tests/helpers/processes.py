"""Code in fresh interpreters, in forked children and in several threads at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
may_warn_of_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def run(code, **environ):
    """Run code in a fresh interpreter, which finds these helpers; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environ},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def status_of_child(work):
    """Call something in a forked child; return the child's exit status, negative if it hung."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
