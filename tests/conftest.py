"""How much the property tests look for: a little and always the same, or much and always new.

`pytest tests/test_properties.py --hypothesis-profile=thorough` runs 10,000 examples.
"""

from hypothesis import HealthCheck, Phase, settings

# deadline: a shared machine may stop for a second at any time; database: nothing is left behind
COMMON = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("steady", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=1670, **COMMON)  # for each of six optimizers
settings.load_profile("steady")
