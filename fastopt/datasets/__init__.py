"""Data to train on: the public names only; how a set is read or fetched stands in the modules."""

from fastopt.datasets._mnist import load_mnist

__all__ = ["load_mnist"]
