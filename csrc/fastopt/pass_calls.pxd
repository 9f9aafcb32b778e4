# Calls of the passes through the table of kernels that was chosen. Nothing but the choice of the
# dtype belongs here; what the passes compute stands in kernels/passes.pxi.

from fastopt._kernels cimport kernels
from fastopt.matrix cimport Matrix, column_stride, row_stride


cdef inline void activate(
    bint is_double, int kind, Py_ssize_t n, Py_ssize_t m, const void* b, void* out,
) noexcept nogil:
    if is_double:
        kernels.float64.activate(kind, n, m, <const double*> b, <double*> out)
    else:
        kernels.float32.activate(kind, n, m, <const float*> b, <float*> out)


cdef inline void activate_backward(
    bint is_double, int kind, Py_ssize_t n, Py_ssize_t m, const void* out, void* dout, void* db,
) noexcept nogil:
    if is_double:
        kernels.float64.activate_backward(
            kind, n, m, <const double*> out, <double*> dout, <double*> db
        )
    else:
        kernels.float32.activate_backward(
            kind, n, m, <const float*> out, <float*> dout, <float*> db
        )


cdef inline void softmax_loss(
    bint is_double, Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* t, void* y, double* losses,
) noexcept nogil:
    if is_double:
        kernels.float64.softmax_loss(n, m, t, <double*> y, losses)
    else:
        kernels.float32.softmax_loss(n, m, t, <float*> y, losses)


cdef inline void softmax_loss_backward(
    bint is_double, Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* t, double scale,
    void* y, void* db,
) noexcept nogil:
    if is_double:
        kernels.float64.softmax_loss_backward(n, m, t, scale, <double*> y, <double*> db)
    else:
        kernels.float32.softmax_loss_backward(n, m, t, scale, <float*> y, <float*> db)


cdef inline void sum_rows(bint is_double, const Matrix* x, void* out) noexcept nogil:
    if is_double:
        kernels.float64.sum_rows(
            x.rows, x.columns, <const double*> x.data, row_stride(x), column_stride(x),
            <double*> out,
        )
    else:
        kernels.float32.sum_rows(
            x.rows, x.columns, <const float*> x.data, row_stride(x), column_stride(x),
            <float*> out,
        )


cdef inline void add_scaled(
    bint is_double, double scale, const Matrix* x, void* out,
) noexcept nogil:
    if is_double:
        kernels.float64.add_scaled(
            x.rows, x.columns, scale, <const double*> x.data, row_stride(x), column_stride(x),
            <double*> out,
        )
    else:
        kernels.float32.add_scaled(
            x.rows, x.columns, scale, <const float*> x.data, row_stride(x), column_stride(x),
            <float*> out,
        )


cdef inline double squares(bint is_double, const Matrix* x) noexcept nogil:
    """Sum over the stored rows: the order of a sum of squares is free."""
    cdef Py_ssize_t n = x.columns if x.transposed else x.rows
    cdef Py_ssize_t m = x.rows if x.transposed else x.columns
    if is_double:
        return kernels.float64.squares(n, m, <const double*> x.data, x.ld)
    return kernels.float32.squares(n, m, <const float*> x.data, x.ld)
