# The public names only; how a set is read or fetched stands in the modules.
"""Data to train on."""

from fastopt.datasets._mnist import load_mnist

__all__ = ["load_mnist"]
