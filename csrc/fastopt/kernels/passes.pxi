# The formulas of the layers, each written once, and the passes over contiguous rows that apply
# them: everything in a net that is not a matrix product. Compiled for each instruction set, like
# the rules of the optimizers; checks, allocation and matrix products do not belong here.
#
# n: rows, that is samples; m: columns; out, dout, x, y: n × m, contiguous unless strides are given
# t: class of each row

from cython cimport floating
from fastopt.kernels.table cimport LINEAR, RELU, SIGMOID
from libc.math cimport log

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* 2^(k-1) for the integer k that sits in the last bits of shifted = k + 1.5·2^23 (2^52) */
    static inline float fastopt_half_power_of_two_f(float shifted) {
        union { float x; int32_t bits; } from, zero = { 12582912.0f }, to;
        from.x = shifted;
        to.bits = (int32_t) (((uint32_t) from.bits - (uint32_t) zero.bits + 126) << 23);
        return to.x;
    }
    static inline double fastopt_half_power_of_two(double shifted) {
        union { double x; int64_t bits; } from, zero = { 6755399441055744.0 }, to;
        from.x = shifted;
        to.bits = (int64_t) (((uint64_t) from.bits - (uint64_t) zero.bits + 1022) << 52);
        return to.x;
    }
    """
    float fastopt_half_power_of_two_f(float) noexcept
    double fastopt_half_power_of_two(double) noexcept


cdef inline floating exponential(floating x) noexcept nogil:
    """Return exp(x) to within 2 units in the last place; below 2^-125 (2^-1021) it is 0.

    exp(x) = 2^k · exp(r), k = round(x / ln 2), r = x - k·ln 2 in two steps (Cody and Waite 1980),
    and exp(r) by its Taylor series: |r| ≤ ln(2)/2, so degree 7 (13) leaves 6e-9 (4e-18). Written
    without a branch or a call, so that a loop of it is vectorized.
    """
    cdef floating shifted, k, r, p, clipped
    if floating is float:
        clipped = <float> 89 if x > <float> 89 else x  # where it is infinite already
        shifted = clipped * <float> 1.44269504088896341 + <float> 12582912.0
        k = shifted - <float> 12582912.0
        r = clipped - k * <float> 0.693359375
        r = r - k * <float> -2.12194440054690583e-4
        p = <float> (1.0 / 5040)
        p = p * r + <float> (1.0 / 720)
        p = p * r + <float> (1.0 / 120)
        p = p * r + <float> (1.0 / 24)
        p = p * r + <float> (1.0 / 6)
        p = p * r + <float> 0.5
        p = p * r + <float> 1
        p = p * r + <float> 1
        p = p * 2 * fastopt_half_power_of_two_f(shifted)
        return <float> 0 if x < <float> -86.6 else p
    else:
        clipped = 710.0 if x > 710.0 else x
        shifted = clipped * 1.44269504088896341 + 6755399441055744.0
        k = shifted - 6755399441055744.0
        r = clipped - k * 0.693147180369123816490
        r = r - k * 1.90821492927058770002e-10
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600
        p = p * r + 1.0 / 39916800
        p = p * r + 1.0 / 3628800
        p = p * r + 1.0 / 362880
        p = p * r + 1.0 / 40320
        p = p * r + 1.0 / 5040
        p = p * r + 1.0 / 720
        p = p * r + 1.0 / 120
        p = p * r + 1.0 / 24
        p = p * r + 1.0 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        p = p * 2 * fastopt_half_power_of_two(shifted)
        return 0.0 if x < -707.7 else p


cdef inline floating rectified(floating x) noexcept nogil:
    """max(x, 0); NaN stays NaN."""
    return <floating> 0 if x <= 0 else x


cdef inline floating rectified_gradient(floating out, floating dout) noexcept nogil:
    return <floating> 0 if out <= 0 else dout


cdef inline floating logistic(floating x) noexcept nogil:
    return 1 / (1 + exponential(-x))


cdef inline floating logistic_gradient(floating out, floating dout) noexcept nogil:
    return dout * (1 - out) * out


cdef inline void add_bias(Py_ssize_t m, const floating* b, floating* row) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(m):
        row[j] = row[j] + b[j]


cdef void activate(
    int kind, Py_ssize_t n, Py_ssize_t m, const floating* b, floating* out,
) noexcept nogil:
    """out = f(out + b) in place, f the activation of a kind, for every row; no b if it is NULL."""
    cdef Py_ssize_t i, j
    cdef floating* row
    for i in range(n):
        row = out + i * m
        if b != NULL:
            add_bias(m, b, row)
        if kind == RELU:
            for j in range(m):
                row[j] = rectified(row[j])
        elif kind == SIGMOID:
            for j in range(m):
                row[j] = logistic(row[j])


cdef void activate_backward(
    int kind, Py_ssize_t n, Py_ssize_t m, const floating* out, floating* dout, floating* db,
) noexcept nogil:
    """dout = dout·f'(…) in place, told from out = f(…); db = Σ dout over the rows, unless NULL."""
    cdef Py_ssize_t i, j
    cdef const floating* y
    cdef floating* dy
    if db != NULL:
        for j in range(m):
            db[j] = 0
    for i in range(n):
        y, dy = out + i * m, dout + i * m
        if kind == RELU:
            for j in range(m):
                dy[j] = rectified_gradient(y[j], dy[j])
        elif kind == SIGMOID:
            for j in range(m):
                dy[j] = logistic_gradient(y[j], dy[j])
        if db != NULL:
            for j in range(m):
                db[j] = db[j] + dy[j]


cdef void softmax_loss(
    Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* t, floating* y, double* losses,
) noexcept nogil:
    """y = softmax of each row x, in place; losses = log Σ exp(x) - x[t], a row each.

    By log-sum-exp: log Σ exp(x - max) + (max - x[t]), which is never negative. NaN for a row that
    holds NaN or +infinity, or nothing but -infinity; else +infinity where x[t] is -infinity.
    """
    cdef Py_ssize_t i, j
    cdef floating* row
    cdef floating largest, total
    for i in range(n):
        row = y + i * m
        largest = row[0]
        for j in range(1, m):
            largest = row[j] if row[j] > largest else largest
        losses[i] = <double> largest - <double> row[t[i]]
        for j in range(m):
            row[j] = row[j] - largest
    for i in range(n * m):
        y[i] = exponential(y[i])
    for i in range(n):
        row = y + i * m
        total = 0
        for j in range(m):
            total = total + row[j]
        for j in range(m):
            row[j] = row[j] / total
        losses[i] += log(<double> total)


cdef void softmax_loss_backward(
    Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* t, double scale, floating* y, floating* db,
) noexcept nogil:
    """y = scale·(y - t) in place, t one-hot; db = Σ of that over the rows, unless NULL."""
    cdef Py_ssize_t i, j
    cdef floating factor = <floating> scale
    cdef floating* row
    if db != NULL:
        for j in range(m):
            db[j] = 0
    for i in range(n):
        row = y + i * m
        row[t[i]] = row[t[i]] - 1
        for j in range(m):
            row[j] = factor * row[j]
        if db != NULL:
            for j in range(m):
                db[j] = db[j] + row[j]


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


cdef void add_scaled(
    Py_ssize_t n, Py_ssize_t m, double scale,
    const floating* x, Py_ssize_t row, Py_ssize_t column, floating* out,
) noexcept nogil:
    """out += scale·x; row and column are x's strides in elements."""
    cdef Py_ssize_t i, j
    cdef floating factor = <floating> scale
    cdef floating* to
    for i in range(n):
        to = out + i * m
        if column == 1:
            for j in range(m):
                to[j] = to[j] + factor * x[i * row + j]
        else:
            for j in range(m):
                to[j] = to[j] + factor * x[i * row + j * column]


cdef double squares(
    Py_ssize_t n, Py_ssize_t m, const floating* x, Py_ssize_t row,
) noexcept nogil:
    """Return Σ x², summed in double, in an order that is the same for every instruction set."""
    cdef double[16] lanes
    cdef double total = 0
    cdef Py_ssize_t i, j, k
    for k in range(16):
        lanes[k] = 0
    for i in range(n):
        j = 0
        while j + 16 <= m:
            for k in range(16):
                lanes[k] += <double> x[i * row + j + k] * <double> x[i * row + j + k]
            j += 16
        for k in range(m - j):
            lanes[k] += <double> x[i * row + j + k] * <double> x[i * row + j + k]
    for k in range(16):
        total += lanes[k]
    return total
