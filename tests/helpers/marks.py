"""Parametrizations that tests of any subject share; those over optimizers are in the table."""

import pytest

import fastopt
from fastopt import reference

both = pytest.mark.parametrize("package", [fastopt, reference], ids=["compiled", "twin"])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
