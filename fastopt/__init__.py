"""fastopt: optimizers, layers and nets on plain NumPy arrays, compiled."""

from fastopt._version import __version__ as __version__
