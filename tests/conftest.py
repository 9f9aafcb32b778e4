"""How much the property tests look for: a little and always the same, or much and always new.

`pytest tests/test_properties.py --hypothesis-profile=thorough` runs 10,000 examples, shared out
over the optimizers of the table. Also: the helpers' assertions show values, as those of tests do.
"""

import math

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest.register_assert_rewrite("helpers")

from optimizer_table import TABLE  # noqa: E402 - it imports what was just registered

EXAMPLES = 10_000  # in the thorough profile, of all optimizers together

# deadline: a shared machine may stop for a second at any time; database: nothing is left behind
COMMON = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("steady", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=math.ceil(EXAMPLES / len(TABLE)), **COMMON)
settings.load_profile("steady")
