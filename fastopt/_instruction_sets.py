"""Which variant of the kernels is taken: the best that this processor runs, or the one asked for.

A variant's module is imported only after the processor was found to support it, so that no
instruction of another runs. csrc/fastopt/_kernels.pyx asks; what a variant contains is in
csrc/fastopt/kernels/kernels.pxi.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

VARIANTS = ("baseline", "avx2", "avx512")
VARIABLE = "FASTOPT_ISA"


def built(names: Iterable[str]) -> list[str]:
    """Return which of these variants are in this build."""
    return [
        name for name in names if importlib.util.find_spec(f"fastopt._kernels_{name}") is not None
    ]


def choose(environ: Mapping[str, str], available: Sequence[str]) -> str:
    """Return the variant to take of those available, weakest first.

    Raises
    ------
    ValueError
        If FASTOPT_ISA names no variant, or one that can't run here.
    """
    wanted = environ.get(VARIABLE, "").strip().lower()
    if not wanted:
        return available[-1]
    if wanted not in VARIANTS:
        raise ValueError(f"{VARIABLE}={wanted} is none of {', '.join(VARIANTS)}")
    if wanted not in available:
        raise ValueError(
            f"{VARIABLE}={wanted} can't be had: this build on this processor runs "
            f"{', '.join(available)}"
        )
    return wanted


def load(name: str) -> ModuleType:
    """Import the module of a variant, whose `table` steps and nets call through."""
    return importlib.import_module(f"fastopt._kernels_{name}")
