# What _kernels.pyx offers: the table of the kernels that were chosen. Calls of its passes by dtype
# stand in pass_calls.pxd, of its products in _products.pxd.

from fastopt.kernels.table cimport KernelTable

cdef const KernelTable* kernels
