# The layers' passes over contiguous arrays: everything in a net that is not a matrix product. One
# function a formula, loop included; checks, allocation and matrix products do not belong here.
#
# n: rows, that is samples; m: columns; size: elements of an array of any shape

from cython cimport floating
from libc.math cimport exp, expf, log


cdef inline floating exponential(floating x) noexcept nogil:
    if floating is float:
        return expf(x)
    else:
        return exp(x)


cdef void fill_rows(Py_ssize_t n, Py_ssize_t m, const floating* b, floating* out) noexcept nogil:
    """out[i] = b for every row i."""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(m):
            out[i * m + j] = b[j]


cdef void sum_rows(
    Py_ssize_t n, Py_ssize_t m, const floating* x, Py_ssize_t row, Py_ssize_t column, floating* out,
) noexcept nogil:
    """out = Σ x[i] over the rows i; row and column are x's strides in elements."""
    cdef Py_ssize_t i, j
    for j in range(m):
        out[j] = 0
    if column == 1:
        for i in range(n):
            for j in range(m):
                out[j] = out[j] + x[i * row + j]
    else:
        for i in range(n):
            for j in range(m):
                out[j] = out[j] + x[i * row + j * column]


cdef void relu(Py_ssize_t size, const floating* x, floating* out, char* mask) noexcept nogil:
    """mask = x ≤ 0; out = 0 where masked, else x, so that NaN stays NaN."""
    cdef Py_ssize_t i
    for i in range(size):
        mask[i] = x[i] <= 0
        out[i] = 0 if x[i] <= 0 else x[i]


cdef void relu_backward(
    Py_ssize_t size, const floating* dout, const char* mask, floating* dx,
) noexcept nogil:
    """dx = 0 where masked, else dout."""
    cdef Py_ssize_t i
    for i in range(size):
        dx[i] = 0 if mask[i] else dout[i]


cdef void sigmoid(
    Py_ssize_t size, const floating* x, floating* out, floating* kept,
) noexcept nogil:
    """out = 1 / (1 + exp(-x)), once for the caller and once to keep."""
    cdef Py_ssize_t i
    for i in range(size):
        out[i] = kept[i] = 1 / (1 + exponential(-x[i]))


cdef void sigmoid_backward(
    Py_ssize_t size, const floating* dout, const floating* out, floating* dx,
) noexcept nogil:
    """dx = dout·(1 - out)·out."""
    cdef Py_ssize_t i
    for i in range(size):
        dx[i] = dout[i] * (1 - out[i]) * out[i]


cdef double softmax_loss(
    Py_ssize_t n, Py_ssize_t m, const floating* x, const Py_ssize_t* t, floating* y,
) noexcept nogil:
    """y = softmax of each row; return -Σ log(y[t] + 1e-7) / n, summed in double."""
    cdef Py_ssize_t i, j
    cdef floating largest, total
    cdef double loss = 0
    for i in range(n):
        largest = x[i * m]
        for j in range(1, m):
            if x[i * m + j] > largest:
                largest = x[i * m + j]
        total = 0
        for j in range(m):
            y[i * m + j] = exponential(x[i * m + j] - largest)
            total += y[i * m + j]
        for j in range(m):
            y[i * m + j] /= total
        loss -= log(y[i * m + t[i]] + 1e-7)
    return loss / n


cdef void softmax_loss_backward(
    Py_ssize_t n, Py_ssize_t m, const floating* y, const Py_ssize_t* t, double scale, floating* dx,
) noexcept nogil:
    """dx = scale·(y - t), t one-hot."""
    cdef Py_ssize_t i, j
    cdef floating factor = <floating> scale
    for i in range(n):
        for j in range(m):
            dx[i * m + j] = factor * y[i * m + j]
        dx[i * m + t[i]] = factor * (y[i * m + t[i]] - 1)


cdef Py_ssize_t correct_rows(
    Py_ssize_t n, Py_ssize_t m, const floating* scores, const Py_ssize_t* t,
) noexcept nogil:
    """Count the rows whose largest entry is at t; the first one of equals, or NaN, as in NumPy."""
    cdef Py_ssize_t i, j, best, total = 0
    cdef const floating* row
    for i in range(n):
        row = scores + i * m
        best = 0
        for j in range(1, m):
            if row[best] != row[best]:
                break
            if row[j] > row[best] or row[j] != row[j]:
                best = j
        total += best == t[i]
    return total


cdef double squares(Py_ssize_t size, const floating* x) noexcept nogil:
    """Return Σ x², summed in double."""
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(size):
        total += <double> x[i] * <double> x[i]
    return total


cdef void add_scaled(
    Py_ssize_t size, double scale, const floating* x, floating* out,
) noexcept nogil:
    """out += scale·x."""
    cdef Py_ssize_t i
    cdef floating factor = <floating> scale
    for i in range(size):
        out[i] = out[i] + factor * x[i]
