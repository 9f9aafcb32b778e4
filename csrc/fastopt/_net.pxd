# What _net.pyx offers _layers.pyx: rows of the kernels' table by name, what drops a layer's share.

from fastopt.kernels.table cimport ActivationRow, LossRow
from fastopt.net cimport Dropout
from libc.stdint cimport uint64_t

cdef const ActivationRow* activation_row(str name) except NULL
cdef const LossRow* loss_row(str name) except NULL
cdef Dropout dropout_of(double ratio, uint64_t layer)
