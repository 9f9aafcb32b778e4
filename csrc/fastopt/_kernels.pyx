# The table of the kernels that were chosen, once for all modules that call through it. By what rule
# they are chosen is in fastopt/_instruction_sets.py, what the table holds in kernels/table.pxd.

from cpython.pycapsule cimport PyCapsule_GetPointer
from fastopt.kernels.table cimport KernelTable

import os

from fastopt import _cpu, _instruction_sets

# Of the instruction sets that this processor runs, weakest first, those in this build; and the one
# that was taken
available = _instruction_sets.built(_cpu.supports())
variant = _instruction_sets.choose(os.environ, available)

cdef const KernelTable* kernels = <const KernelTable*> PyCapsule_GetPointer(
    _instruction_sets.load(variant).table, "fastopt.kernel_table"
)
