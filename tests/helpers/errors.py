"""What an error must leave alone: the objects that dicts hold, their bytes, counters, settings.

And a dict that gives rise to one.
"""

import contextlib

import numpy as np
import pytest


def contents(mapping):
    """Return what a mapping holds: keys, the very objects, bytes of arrays or what is printed."""
    return [
        (key, v, v.tobytes() if issubclass(type(v), np.ndarray) else repr(v))
        for key, v in mapping.items()
    ]


def assert_same_contents(old, new):
    assert [key for key, *_ in new] == [key for key, *_ in old]
    for (key, value, kept), (new_key, new_value, new_kept) in zip(old, new, strict=True):
        assert new_key is key
        assert new_value is value, f"{key!r} was replaced"
        assert new_kept == kept, f"{key!r} was changed"


@contextlib.contextmanager
def refused(exception, message, *dicts):
    """Expect an error that leaves what the dicts hold as it was: the objects and their bytes."""
    before = [contents(each) for each in dicts]
    with pytest.raises(exception, match=message) as caught:
        yield caught
    for old, each in zip(before, dicts, strict=True):
        assert_same_contents(old, contents(each))


def counters(optimizer):
    """Return what an optimizer has counted and measured, by name."""
    is_compiled = hasattr(optimizer, "_stepper")
    return {
        "iter": optimizer.iter,
        "calls": optimizer._stepper.calls if is_compiled else optimizer._calls,
        "skipped": optimizer.skipped,
        "norm": repr(optimizer.norm),  # of which NaN equals NaN
    }


def snapshot(optimizer, params, grads=()):
    """Return all that an error in a step must leave as it was."""
    states = {name: getattr(optimizer, name) for name in optimizer._states}
    return (
        [contents(params), contents(dict(grads)), *map(contents, states.values())],
        [contents(optimizer.average), contents(optimizer.accumulated)],
        [*states.values(), optimizer.average],
        {name: getattr(optimizer, name) for name in (*optimizer._settings, *optimizer._scalars)},
        counters(optimizer),
    )


def assert_unchanged(before, optimizer, params, grads=(), skipped=0):
    """Check that all is as it was, after so many calls that were skipped."""
    now = snapshot(optimizer, params, grads)
    for old, new in zip([*before[0], *before[1]], [*now[0], *now[1]], strict=True):
        assert_same_contents(old, new)
    assert all(old is new for old, new in zip(before[2], now[2], strict=True))
    assert now[3] == before[3]
    assert now[4] == {**before[4], "skipped": before[4]["skipped"] + skipped}


@contextlib.contextmanager
def step_refused(exception, message, optimizer, params, grads):
    """Expect an error after which neither parameters, states, counters nor gradients changed."""
    before = snapshot(optimizer, params, grads)
    with pytest.raises(exception, match=message) as caught:
        yield caught
    assert_unchanged(before, optimizer, params, grads)


class Refusing(dict):
    """A dict that takes so many items anew, and then refuses one."""

    most = 99

    def __setitem__(self, key, value):
        if self.most == 0:
            self.most = 99
            raise TypeError(f"{key!r} stays as it is")
        self.most -= 1
        super().__setitem__(key, value)
