# What _net_inputs.pyx offers _net.pyx and _layers.pyx. Whoever describes an array must hold on to
# the array that is returned for as long as the description is used.

cimport numpy as cnp

from fastopt.matrix cimport Matrix
from fastopt.net cimport NetCall

# Arrays
cdef object as_plain(a)
cdef cnp.ndarray as_floats(str name, x, int type_num=*)
cdef cnp.ndarray as_c_order(cnp.ndarray x)
cdef cnp.ndarray as_matrix(cnp.ndarray a, Matrix* matrix)
cdef cnp.ndarray empty_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_num)
cdef int as_int(Py_ssize_t n) except -1
cdef int check_real(str name, cnp.ndarray a) except -1
cdef int check_matrix(str name, cnp.ndarray a, Py_ssize_t rows, Py_ssize_t columns) except -1
cdef int check_shape(str name, cnp.ndarray a, tuple wanted) except -1

# Parameters and outputs of a single layer
cdef tuple check_weights(W, b)
cdef cnp.ndarray as_output(str name, out, like, tuple inputs)

# Samples, scores and row numbers
cdef cnp.ndarray as_samples(x, Py_ssize_t d, int type_num)
cdef cnp.ndarray as_scores(x)
cdef cnp.ndarray as_row_numbers(cnp.ndarray numbers)
cdef int read_rows(cnp.ndarray numbers, Py_ssize_t n_samples, Py_ssize_t* to) except -1

# Those of a net's call that takes rows by number; targets and weights also of one that takes all
cdef cnp.ndarray find_samples(
    NetCall* call, cnp.ndarray samples, cnp.ndarray numbers, Py_ssize_t n_samples, Py_ssize_t d,
    int type_num,
)

# The range of a loss's targets, and whether they are shares of classes, which sum to 1
cdef struct Range:
    double least
    double largest
    bint are_shares

cdef Range range_of(str loss)
cdef int find_targets(
    NetCall* call, str loss, Range wanted, cnp.ndarray given, Py_ssize_t n_samples, int type_num,
) except -1
cdef int find_weights(NetCall* call, cnp.ndarray given, Py_ssize_t n_samples) except -1
