"""How long the tests of damaged files and killed processes are: short and always the same, or not.

FASTOPT_LONG_KILLS=1, which .ci/kills sets, makes them long, and new at each run.
"""

import os
import random

IS_LONG = os.environ.get("FASTOPT_LONG_KILLS", "0") != "0"
SEED = random.randrange(2**32) if IS_LONG else 0
CORRUPTIONS = 10_000 if IS_LONG else 300
KILLS = 200 if IS_LONG else 15
KILLS_OF_TRAININGS = 50 if IS_LONG else 5  # by each signal
