# The table of the kernels that were chosen, once for all modules that call through it. It is chosen
# in fastopt/_instruction_sets.py; what it holds is in kernels/table.pxd.

from cpython.pycapsule cimport PyCapsule_GetPointer
from fastopt.kernels.table cimport KernelTable

from fastopt import _instruction_sets

cdef const KernelTable* kernels = <const KernelTable*> PyCapsule_GetPointer(
    _instruction_sets.kernels.table, "fastopt.kernel_table"
)
