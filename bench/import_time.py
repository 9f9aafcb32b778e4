"""What `import fastopt` costs beyond `import numpy`: python bench/import_time.py [ROUNDS].

Fresh interpreters in turn, and the medians of what python -X importtime says of each; what is
imported later, on first use, is not counted. It belongs on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median


def milliseconds(module: str) -> float:
    """Return the time that a fresh interpreter takes to import a module and all it needs."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _self, cumulative, name = done.stderr.splitlines()[-1].removeprefix("import time:").split("|")
    assert name.strip() == module
    return int(cumulative) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=21)
    rounds = parser.parse_args().rounds
    milliseconds("fastopt")  # from now on everything is in the system's file cache
    pairs = [(milliseconds("numpy"), milliseconds("fastopt")) for _ in range(rounds)]
    numpy, fastopt = (median(times) for times in zip(*pairs, strict=True))
    more = median(ours - theirs for theirs, ours in pairs)
    print(f"import numpy {numpy:.1f} ms, import fastopt {fastopt:.1f} ms, in pairs {more:.1f} more")


if __name__ == "__main__":
    main()
