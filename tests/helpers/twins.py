"""A compiled optimizer beside its twin, over equal parameters of their own."""

import copy

import numpy as np
from numpy.testing import assert_array_equal

from helpers.arrays import over_many_magnitudes


def assert_same(optimizer, twin, params, twin_params):
    """Check that parameters, states and scalars are equal, bit for bit."""
    name_of_class = type(optimizer).__name__
    assert optimizer._states.keys() == twin._states.keys()
    for key, p in twin_params.items():
        assert_array_equal(params[key], p, err_msg=f"{name_of_class} {key!r}", strict=True)
        for name in twin._states:
            state, twin_state = getattr(optimizer, name)[key], getattr(twin, name)[key]
            assert_array_equal(state, twin_state, err_msg=f"{name}[{key!r}]", strict=True)
    for name in twin._states:
        assert getattr(optimizer, name).keys() == getattr(twin, name).keys()
    for name in twin._scalars:
        assert getattr(optimizer, name) == getattr(twin, name)


def run_both(row, params, twin_params, steps=12, settings=None, seed=0, scale=1.0):
    """Take both through the same steps and compare them; return both."""
    rng = np.random.default_rng(seed)
    settings = row.settings if settings is None else settings
    compiled, twin = row.compiled(**settings), row.twin(**settings)
    for _ in range(steps):
        grads = {
            key: over_many_magnitudes(rng, np.shape(p), np.asarray(p).dtype)
            * np.asarray(p).dtype.type(scale)
            for key, p in params.items()
        }
        kept = copy.deepcopy(grads)
        compiled.update(params, grads)
        for key, g in kept.items():
            assert_array_equal(grads[key], g, err_msg=f"the gradient of {key!r} was written")
        twin.update(twin_params, grads)
    assert_same(compiled, twin, params, twin_params)
    return compiled, twin
