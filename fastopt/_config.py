"""What this build of fastopt is and what it uses: for bug reports and `fastopt info`.

It only tells; nothing is chosen here.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np

from fastopt import _cpu, _kernels
from fastopt._subnormals import get_flush_subnormals
from fastopt._threads import get_num_threads
from fastopt._version import __version__


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...


def show_config(mode: str = "stdout") -> dict[str, dict[str, Any]] | None:
    """Print or return what this build is and what it uses.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}
        Print it, or return it as nested dicts.

    Returns
    -------
    dict of str to dict, or None
        For `mode` 'dicts' versions; the kernels' instruction set in use and those available; whose
        matrix products layers and nets use, ``'fastopt'`` or ``'BLAS'``; number of threads; whether
        subnormal numbers are flushed; the compiler; SciPy's BLAS; the machine. Else None.

    Raises
    ------
    ValueError
        For another mode.

    Examples
    --------
    >>> import fastopt
    >>> config = fastopt.show_config(mode="dicts")
    >>> list(config)
    ['versions', 'kernels', 'blas', 'machine']
    >>> config["kernels"]["variant"] in config["kernels"]["available"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = _config()
    if mode == "dicts":
        return config
    for section, entries in config.items():
        print(f"{section}:")
        for name, value in entries.items():
            text = ", ".join(value) if isinstance(value, list) else value
            print(f"  {name}: {text}")
    return None


def _config() -> dict[str, dict[str, Any]]:
    import platform  # as scipy, no part of what it costs to import fastopt

    import scipy

    from fastopt import _products

    blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "versions": {
            "fastopt": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "kernels": {
            "variant": _kernels.variant,
            "available": _kernels.available,
            "products": "BLAS" if _products.uses_blas else "fastopt",
            "threads": get_num_threads(),
            "flush_subnormals": get_flush_subnormals(),
            "compiler": _cpu.compiler,
        },
        "blas": {"name": blas["name"], "version": blas["version"]},
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }
