"""`python -m fastopt`: the command line and nothing else."""

import sys

from fastopt._cli import main

if __name__ == "__main__":
    sys.exit(main())
