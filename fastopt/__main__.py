"""`python -m fastopt`: the command line and nothing else."""

import sys

from fastopt._cli import main

sys.exit(main())
